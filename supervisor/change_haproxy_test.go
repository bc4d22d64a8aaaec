package supervisor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/csv"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/supervisor/plan"
)

// everywhere is one server on all loopback addresses, that answers with the address at which it was reached.
func everywhere(t *testing.T) (port int) {
	t.Helper()
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Context().Value(http.LocalAddrContextKey).(net.Addr).String())
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Close
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr).Port
}

// tally counts what became of pairs of texts.
type tally struct {
	live, reloads, refused, compared int
	kinds                            map[plan.Kind]int
	causes                           map[plan.Cause]int
}

// TestStepsAgainstHAProxy: whatever the plan takes at run time leaves a worker that cannot be told from one that was started on the new
// text: the same servers, addresses, weights, limits, checks, certificate, and the same server for each of 500 paths. Most pairs of texts
// are changed at run time, and every sort of step is among them, so that it does not pass by reloads alone.
//
// FNLB_SEEDS is the number of seeds, FNLB_SEED the first one.
func TestStepsAgainstHAProxy(t *testing.T) {
	seeds, first := fromEnv(t, "FNLB_SEEDS", 6), fromEnv(t, "FNLB_SEED", 1)
	var certs [][]byte
	for i := range 4 {
		certs = append(certs, certificate(t, fmt.Sprint("cert", i)))
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		port := everywhere(t)
		sum := tally{kinds: map[plan.Kind]int{}, causes: map[plan.Cause]int{}}
		for seed := first; seed < first+seeds; seed++ {
			t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
				w := course{h: h, certs: certs, tally: &sum, r: rand.New(rand.NewPCG(seed, 2)), dir: t.TempDir()}
				w.run(t, port)
			})
		}
		t.Logf("%d pairs at run time, %d by a reload for %v, %d refused by the worker; steps %v; compared %d times", sum.live, sum.reloads, sum.causes, sum.refused, sum.kinds, sum.compared)
		if t.Failed() || seeds < 6 || first != 1 && seeds < 40 { // chance is not that even
			return
		}
		if all := sum.live + sum.reloads + sum.refused; sum.live*2 < all || sum.reloads*10 < all || sum.refused*20 > all {
			t.Error("too few of one sort of pairs")
		}
		for kind := plan.Remove; kind <= plan.Map; kind++ {
			if sum.kinds[kind] == 0 {
				t.Errorf("no step of kind %d was taken", kind)
			}
		}
	})
}

func fromEnv(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// course takes one HAProxy from text to text.
type course struct {
	*tally
	h     haproxytest.HAProxy
	r     *rand.Rand
	certs [][]byte
	dir   string // of the files beside the texts

	live    *haproxytest.Instance
	super   *Supervisor
	worker  int
	text    *randomBundle
	written conf.Bundle // the text that the worker has come to
	names   plan.Names
	leaving map[serverName]leaving
	changed bool // at run time, since it was last compared
}

func (w *course) run(t *testing.T, port int) {
	w.text = newRandomBundle(w.r, w.h.AtLeast(3, 0))
	w.text.dir, w.text.port = w.dir, port
	copy(w.text.ports[:], haproxytest.FreePorts(t, len(w.text.ports)))
	w.written = w.text.bundle(w.r, w.certs)
	w.write(t, w.written)
	w.live = w.h.Start(t, string(w.written.Main), "r0")
	client := runtime.New(w.live.Socket)
	w.super = New(Options{Runtime: client})
	var err error
	if _, w.worker, err = client.Loaded(t.Context(), "r0"); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		text := w.text.change(w.r)
		next := text.bundle(w.r, w.certs)
		p := plan.Make(w.read(t, w.written), w.read(t, next), w.names)
		if len(p.Reload) > 0 && w.changed {
			w.compare(t)
		}
		before := w.written
		w.text, w.written = text, next
		w.write(t, next)
		if len(p.Reload) == 0 && w.take(t, p, before) {
			continue
		}
		for _, reason := range p.Reload {
			w.causes[reason.Cause]++
		}
		if len(p.Reload) > 0 {
			w.reloads++
		}
		named := slices.ContainsFunc(p.Reload, func(r plan.Reason) bool { return r.Cause == plan.ServerNamed })
		if !w.reload(t, fmt.Sprint("r", i+1), named) {
			return
		}
	}
	if w.changed {
		w.compare(t)
	}
}

func (w *course) read(t *testing.T, b conf.Bundle) plan.Bundle {
	t.Helper()
	read, err := plan.Read(b)
	if err != nil {
		t.Fatalf("%v\n%s", err, b.Main)
	}
	return read
}

// write puts the files beside the text where it looks for them.
func (w *course) write(t *testing.T, b conf.Bundle) {
	t.Helper()
	for name, f := range b.Files {
		file := filepath.Join(w.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, f.Data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// take makes the steps of a plan. It reports false where the worker may refuse them: that is made good by a reload.
func (w *course) take(t *testing.T, p plan.Plan, before conf.Bundle) bool {
	t.Helper()
	out := outcome{job: job{worker: w.worker, leaving: w.leaving}, plan: p}
	err := w.super.change(t.Context(), &out)
	switch {
	case err == nil:
	case strings.Contains(err.Error(), "'id' : custom id"), strings.Contains(err.Error(), "cannot be added while"):
		// An id that HAProxy has given by itself in the meantime, or a server that has not left.
		w.refused++
		return false
	default:
		t.Fatalf("%v\n%+v\n%s\n%s", err, p.Steps, before.Main, w.written.Main)
	}
	w.names = p.Names
	w.changed = w.changed || len(p.Steps) > 0
	w.tally.live++
	l := &loop{s: w.super, leaving: w.leaving}
	l.changedAtRuntime(out, time.Now())
	w.leaving = l.leaving
	for _, s := range p.Steps {
		w.kinds[s.Kind]++
	}
	if w.r.IntN(2) == 0 {
		return true
	}
	for _, s := range p.Steps {
		if s.Kind != plan.Remove {
			continue
		}
		gone, err := w.super.o.Runtime.DelServer(t.Context(), w.worker, s.Backend, s.Server)
		if err != nil {
			t.Fatal(err)
		}
		if gone {
			delete(w.leaving, serverName{s.Backend, s.Server})
		}
	}
	return true
}

// reload reports false where HAProxy refuses the text and may.
func (w *course) reload(t *testing.T, revision string, may bool) bool {
	t.Helper()
	w.live.Write(t, string(w.written.Main), revision)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var err error
	w.worker, err = w.super.o.Runtime.Reload(ctx, revision)
	switch {
	case may && errors.As(err, new(*runtime.ReloadError)):
		return false
	case err != nil:
		t.Fatalf("%v\n%s", err, w.written.Main)
	}
	w.names, w.leaving, w.changed = nil, nil, false
	return true
}

// compare starts another HAProxy on the text that the worker has come to.
func (w *course) compare(t *testing.T) {
	t.Helper()
	w.compared++
	w.changed = false
	t.Run("compare", func(t *testing.T) {
		ports := haproxytest.FreePorts(t, len(w.text.ports))
		text := string(w.written.Main)
		for i, p := range w.text.ports {
			text = strings.ReplaceAll(text, fmt.Sprint(p), fmt.Sprint(ports[i]))
		}
		fresh := w.h.Start(t, text, "fresh")
		_, worker, err := runtime.New(fresh.Socket).Loaded(t.Context(), "fresh")
		if err != nil {
			t.Fatal(err)
		}
		// What checks find comes with time, and on a busy host a check may fail: in the end both must find the same.
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			got, settled := w.rows(t, w.live, w.worker)
			want, settledToo := w.rows(t, fresh, worker)
			if settled && settledToo && slices.Equal(got, want) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("servers differ:\n%s\n%s", diff.Diff("at run time", []byte(strings.Join(got, "\n")+"\n"), "from the text", []byte(strings.Join(want, "\n")+"\n")), w.written.Main)
			}
		}
		got, want := w.chosen(t, w.text.ports[0]), w.chosen(t, ports[0])
		if got != want {
			t.Errorf("paths go to other servers:\n%s\n%s", diff.Diff("at run time", []byte(got), "from the text", []byte(want)), w.written.Main)
		}
		if got, want := shown(t, w.text.ports[1]), shown(t, ports[1]); got != want {
			t.Errorf("certificate %s, want %s", got, want)
		}
	})
}

// rows is what HAProxy says about its servers, without those that are leaving; settled is false while checks have not found all that they
// will find.
func (w *course) rows(t *testing.T, of *haproxytest.Instance, worker int) (rows []string, settled bool) {
	t.Helper()
	_, all, err := runtime.New(of.Socket).ServersState(t.Context(), worker)
	if err != nil {
		t.Fatal(err)
	}
	left := func(backend, server string) bool {
		_, leaves := w.leaving[serverName{backend, server}]
		return leaves && of == w.live
	}
	settled = true
	for _, s := range all {
		if !left(s.Backend, s.Server) {
			settled = settled && (s.Maint || !s.CheckPending)
			rows = append(rows, fmt.Sprintf("%s/%s %s up %v maint %v drain %v checked %v pending %v weight %d", s.Backend, s.Server, s.Addr, s.Up, s.Maint, s.Drain, s.Checked, s.CheckPending, s.Weight))
		}
	}
	text, err := of.Ask(fmt.Sprintf("@!%d show stat -1 4 -1", worker))
	if err != nil {
		t.Fatal(err)
	}
	table, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(strings.TrimSpace(text), "# "))).ReadAll()
	if err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	for _, row := range table[1:] {
		cell := func(name string) string { return row[slices.Index(table[0], name)] }
		if !left(cell("pxname"), cell("svname")) {
			settled = settled && !strings.Contains(cell("status"), "/") // such as UP 1/3
			rows = append(rows, fmt.Sprintf("%s/%s at most %s, active %s, backup %s, rise %s, fall %s, cookie %s", cell("pxname"), cell("svname"), cell("slim"), cell("act"), cell("bck"), cell("check_rise"), cell("check_fall"), cell("cookie")))
		}
	}
	slices.Sort(rows)
	return rows, settled
}

// shown is the name in the certificate of a port.
func shown(t *testing.T, port int) string {
	t.Helper()
	conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

// certificate is one of this name, with its key, in PEM.
func certificate(t *testing.T, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(24 * time.Hour)}
	cert, err := x509.CreateCertificate(cryptorand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})...)
}

// chosen is which server takes each of 500 paths, where the path decides, else which ones answer at all; of `balance random` nothing,
// because chance decides.
func (w *course) chosen(t *testing.T, front int) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	balance := map[string]string{}
	for _, p := range w.text.pools {
		balance[p.name] = p.balance
	}
	var all []string
	for i := range 500 {
		path := fmt.Sprintf("/p%d/%d", i%6, i)
		resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", front, path))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		pool := resp.Header.Get("x-pool")
		by, from := balance[pool], fmt.Sprint(resp.StatusCode)
		if !hashes(by) {
			path = ""
		}
		switch {
		case strings.Contains(by, "random"):
			from = ""
		case resp.StatusCode == http.StatusOK:
			from = string(body)
		}
		all = append(all, fmt.Sprintf("%s %s %s\n", pool, path, from))
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), "")
}
