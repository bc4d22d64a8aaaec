package supervisor

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/model"
)

// countLeast is how long what was counted is good for. It is 20 times as long as the count took, when that is longer: HAProxy serves
// nobody meanwhile.
const countLeast = time.Second

// counted is what HAProxy's worker had counted when it was asked last.
type counted struct {
	mu       sync.Mutex // held while HAProxy is asked, so that many callers are one question
	worker   int
	until    time.Time
	requests map[model.ServedAt]uint64 // never changed
}

// Requests gives how many requests the worker has sent to each server since it began, or since the server was added to it; nil, when it is
// not known. It asks HAProxy when it has not done so lately, for at most 2 s. It may be called from anywhere.
func (s *Supervisor) Requests(ctx context.Context) map[model.ServedAt]uint64 {
	c := &s.counted
	c.mu.Lock()
	defer c.mu.Unlock()
	st, now := s.Status(), time.Now()
	if c.worker == st.HAProxy.Worker && now.Before(c.until) {
		return c.requests
	}
	c.worker, c.requests = st.HAProxy.Worker, nil
	if c.worker != 0 && !st.HAProxy.Silent { // questions that nobody answers would block its master
		stats, err := s.o.Runtime.Stats(context.WithoutCancel(ctx), c.worker)
		if err != nil {
			s.o.Log.Debug("requests are not known", "error", err)
		} else {
			c.requests = count(st.Servers, stats)
		}
	}
	c.until = time.Now().Add(max(countLeast, 20*time.Since(now)))
	return c.requests
}

// count finds each server's counter: by service and name, as our template writes them, else by its address, because the names in a user's
// template are the user's; several servers of an address are taken together then.
func count(servers []model.ServerStatus, stats []runtime.Stat) map[model.ServedAt]uint64 {
	byName, byAddr := make(map[model.ServerKey]uint64, len(stats)), make(map[netip.AddrPort]uint64, len(stats))
	for i := range stats {
		byName[model.ServerKey{Service: stats[i].Backend, Name: stats[i].Server}] = stats[i].Sessions
		if stats[i].Addr.IsValid() {
			byAddr[stats[i].Addr] += stats[i].Sessions
		}
	}
	out := make(map[model.ServedAt]uint64, len(servers))
	for i := range servers {
		srv := &servers[i]
		addr, err := netip.ParseAddrPort(srv.Address)
		if err != nil {
			continue // it is nowhere yet
		}
		n, known := byName[model.ServerKey{Service: srv.Service, Name: srv.Name}]
		if !known { // it may come from a name
			row := model.Server{Service: srv.Service, Name: srv.Name, Host: srv.Name}.At(addr)
			n, known = byName[row.Key()]
		}
		if !known {
			n, known = byAddr[addr]
		}
		if known {
			out[model.ServedAt{Service: srv.Service, Name: srv.Name, Address: srv.Address}] = n
		}
	}
	return out
}
