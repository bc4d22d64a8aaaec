package kubernetes

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/fnlb/fnlb/model"
)

// entry is what is kept of a pod, or of an endpoint of a service. Entries are compared: one that is the same is no change.
type entry struct {
	owner string // NAMESPACE/POD
	uid   string // of the pod
	since int64  // when it was made, in seconds
	at    netip.AddrPort
	node  string // at as a node's name, and as its server's: they are made once
	name  string
	take  bool // it is offered
	last  bool // it is about to go and still serves: it is offered where a service has nothing else

	verdict model.Verdict // where it is not taken
	reason  string
	mend    string
	leaving string // why it is taken no more, where it was
}

// world is the objects that the cluster lists, by their names.
type world struct {
	objects map[string][]entry
	keys    []string        // of objects, sorted
	missed  map[string]bool // owners that a list did not have any more, and no event has told of
	version uint64          // counts what is new; from 1 on something is known
}

func newWorld() *world { return &world{objects: map[string][]entry{}, missed: map[string]bool{}} }

// set takes in an object that an event tells of. It reports whether that is something new, and whether an entry left by it.
func (w *world) set(key string, entries []entry) (fresh, leaves bool) {
	old, known := w.objects[key]
	if known && slices.Equal(old, entries) {
		return false, false
	}
	if at, found := slices.BinarySearch(w.keys, key); !found {
		w.keys = slices.Insert(w.keys, at, key)
	}
	w.objects[key] = entries
	for i := range entries {
		delete(w.missed, entries[i].owner)
	}
	w.version++
	return true, slices.ContainsFunc(old, func(o entry) bool {
		return o.take && !slices.ContainsFunc(entries, func(e entry) bool { return e.take && e.owner == o.owner && e.at == o.at })
	})
}

func (w *world) remove(key string) {
	delete(w.objects, key)
	if at, found := slices.BinarySearch(w.keys, key); found {
		w.keys = slices.Delete(w.keys, at, at+1)
	}
	w.version++
}

// replace takes in a whole list.
func (w *world) replace(objects map[string][]entry) {
	same := len(objects) == len(w.objects) && w.version > 0
	listed := map[string]bool{}
	for key, entries := range objects {
		same = same && slices.Equal(entries, w.objects[key])
		for i := range entries {
			listed[entries[i].owner] = true
			delete(w.missed, entries[i].owner)
		}
	}
	if same {
		return
	}
	for _, entries := range w.objects {
		for i := range entries {
			if owner := entries[i].owner; !listed[owner] {
				w.missed[owner] = true
			}
		}
	}
	w.objects, w.keys = objects, slices.Sorted(maps.Keys(objects))
	w.version++
}

// flat gives one entry an owner, sorted by owner, of which no two that are taken have one address.
func (w *world) flat(service bool) []*entry {
	all := make([]*entry, 0, len(w.keys))
	for _, key := range w.keys {
		for entries := w.objects[key]; len(entries) > 0; entries = entries[1:] {
			all = append(all, &entries[0])
		}
	}
	if !service { // an object is a pod, an owner, and they are sorted
		return distinct(all)
	}
	yes := func(b bool) int {
		if b {
			return 0
		}
		return 1
	}
	// Of several entries of an owner, such as slices of both families or an endpoint that is just moved to another slice, the first stays.
	slices.SortFunc(all, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.owner, b.owner), cmp.Compare(yes(a.at.Addr().Is4()), yes(b.at.Addr().Is4())), cmp.Compare(yes(a.take), yes(b.take)), a.at.Compare(b.at))
	})
	all = slices.CompactFunc(all, func(a, b *entry) bool { return a.owner == b.owner })
	if !slices.ContainsFunc(all, func(e *entry) bool { return e.take }) {
		for i, e := range all {
			if e.last {
				taken := *e
				taken.take = true
				all[i] = &taken
			}
		}
	}
	return distinct(all)
}

// distinct leaves out the older ones of entries that have one address: a node that is lost keeps its pods' addresses for a while.
func distinct(all []*entry) []*entry {
	at := make(map[netip.AddrPort]int, len(all))
	for i := range all {
		if !all[i].take {
			continue
		}
		j, taken := at[all[i].at]
		if !taken {
			at[all[i].at] = i
			continue
		}
		older, newer := i, j
		if all[i].since > all[j].since {
			older, newer = j, i
		}
		at[all[i].at] = newer
		e := *all[older]
		e.take, e.verdict = false, model.LeftOut
		e.reason = e.at.String() + " is the address of the newer " + all[newer].owner + " as well"
		e.mend, e.leaving = "delete the pod that does not run any more", "its address is another pod's"
		all[older] = &e
	}
	return all
}
