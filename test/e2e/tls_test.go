package e2e

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// writeCert writes a self-signed certificate for 127.0.0.1 with its key as one PEM file.
func writeCert(t *testing.T, path, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// anyCert accepts what the tests made themselves; which one it was is looked at afterwards.
func anyCert() *tls.Config { return &tls.Config{InsecureSkipVerify: true} } //nolint:gosec // its own certificates

// fetchTLS sends one GET over a connection of its own and gives protocol and certificate. A transport that has sent nothing yet
// on a connection does not retry.
func fetchTLS(ctx context.Context, addr string, h2 bool) (proto, cert string, err error) {
	tr := &http.Transport{TLSClientConfig: anyCert(), ForceAttemptHTTP2: h2, DisableKeepAlives: !h2}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+"/x", nil)
	if err != nil {
		return "", "", err
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return "", "", err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return "", "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", "", fmt.Errorf("status %d", resp.StatusCode)
	}
	return resp.Proto, resp.TLS.PeerCertificates[0].Subject.CommonName, nil
}

// TestTLS: the traffic port speaks TLS; a new certificate is taken without a failed request, and not a broken one.
func TestTLS(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		pemFile := filepath.Join(TempDir(t), "listen.pem")
		writeCert(t, pemFile, "first")
		b := Start(t, h, "--nodes", n.Addr, "--tls-cert", pemFile)
		b.WaitOnline(n)
		b.WaitApplied()
		for h2, want := range map[bool]string{true: "HTTP/2.0", false: "HTTP/1.1"} {
			if proto, cert, err := fetchTLS(t.Context(), b.Traffic, h2); err != nil || proto != want || cert != "first" {
				t.Errorf("%q with certificate %q, %v", proto, cert, err)
			}
		}
		if resp, err := http.Get("http://" + b.Traffic + "/x"); err == nil {
			t.Errorf("plain HTTP is answered with %d", resp.StatusCode)
			_ = resp.Body.Close()
		}
		old := anyCert()
		old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		if conn, err := tls.Dial("tcp", b.Traffic, old); err == nil {
			t.Error("TLS 1.1 is spoken")
			_ = conn.Close()
		}

		var wg sync.WaitGroup
		var done atomic.Int64
		stop := make(chan struct{})
		for i := range 4 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if _, _, err := fetchTLS(context.Background(), b.Traffic, i%2 == 0); err != nil {
						t.Errorf("request %d: %v", done.Load(), err)
						return
					}
					done.Add(1)
				}
			})
		}
		for i := range 3 {
			name := fmt.Sprintf("certificate %d", i)
			mark := len(b.Log())
			writeCert(t, pemFile, name)
			if i%2 == 0 {
				b.Signal(syscall.SIGHUP) // otherwise it is noticed a moment later
			}
			b.WaitLog(mark, "changed at run time", "certificate")
			if _, cert, err := fetchTLS(t.Context(), b.Traffic, false); err != nil || cert != name {
				t.Errorf("after a change the certificate is %q, %v", cert, err)
			}
		}
		for _, broken := range []string{"", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
			mark := len(b.Log())
			if err := os.WriteFile(pemFile, []byte(broken), 0o600); err != nil {
				t.Fatal(err)
			}
			b.Signal(syscall.SIGHUP)
			b.WaitLog(mark, "what ran goes on", pemFile)
			b.WaitStatus(func(st model.Status) bool {
				return len(st.Degraded) > 0 && strings.Contains(fmt.Sprint(st.Problems), pemFile)
			})
		}
		if _, cert, err := fetchTLS(t.Context(), b.Traffic, true); err != nil || cert != "certificate 2" {
			t.Errorf("after a broken certificate it is %q, %v", cert, err)
		}
		close(stop)
		wg.Wait()
		t.Logf("%d requests over TLS", done.Load())

		// A good one ends the trouble.
		mark := len(b.Log())
		writeCert(t, pemFile, "last")
		b.WaitLog(mark, "changed at run time", "certificate")
		b.WaitStatus(func(st model.Status) bool {
			return len(st.Degraded) == 0 && len(st.Problems) == 0 && !st.HAProxy.Behind
		})

		// The next fnlb knows how the worker calls it.
		b.Signal(syscall.SIGKILL)
		b.WaitExit()
		mark = len(b.Log())
		b.Run(h, "--nodes", n.Addr, "--tls-cert", pemFile)
		b.WaitLog(mark, "adopted the HAProxy", "reload=false")
		mark = len(b.Log())
		writeCert(t, pemFile, "after adoption")
		b.WaitLog(mark, "changed at run time", "certificate")
		if _, cert, err := fetchTLS(t.Context(), b.Traffic, false); err != nil || cert != "after adoption" {
			t.Errorf("after an adoption it is %q, %v", cert, err)
		}
	})
}

// TestAccessLogFile: httplog's lines are in the file, before a reload and after it.
func TestAccessLogFile(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n, m := NewNode(t, "a"), NewNode(t, "m")
		file := filepath.Join(TempDir(t), "access.log")
		b := Start(t, h, "--nodes", n.Addr, "--access-log", file)
		b.WaitOnline(n)
		logged := func(path string) {
			t.Helper()
			if status, _, _ := fetch(t, b.Traffic, path); status != 200 {
				t.Errorf("%s: %d", path, status)
			}
			b.Eventually(func() string {
				data, err := os.ReadFile(file)
				if err != nil {
					return err.Error()
				}
				for line := range strings.Lines(string(data)) {
					if containsAll(line, []string{`"GET ` + path + ` HTTP/1.1"`, " nodes/", " 200 ", "127.0.0.1:"}) {
						return ""
					}
				}
				return path + " is not in " + string(data)
			})
		}
		logged("/before")
		b.Put(m.Addr)
		b.WaitOnline(n, m)
		b.WaitApplied()
		logged("/after")
	})
}

// TestAccessLogStalled is the log's part of fault row 29: nobody reads standard output any more, and traffic goes on.
func TestAccessLogStalled(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n, m := NewNode(t, "a"), NewNode(t, "m")
		ports := haproxytest.FreePorts(t, 2)
		b := &Balancer{T: t, Dir: TempDir(t), Traffic: fmt.Sprintf("127.0.0.1:%d", ports[0]), Mgmt: fmt.Sprintf("127.0.0.1:%d", ports[1])}
		b.Cmd = exec.Command(Binary(t), "--listen", b.Traffic, "--mgmt-listen", b.Mgmt, "--run-dir", b.Dir, "--haproxy", h.Path, "--hc-interval", "200ms",
			"--haproxy-config", filepath.Join(b.Dir, "haproxy.cfg"), "--nodes", n.Addr, "--access-log", "stdout")
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		b.Cmd.Stdout = w
		b.start()
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		b.WaitOnline(n)
		fetch(t, b.Traffic, "/first")
		for lines := bufio.NewScanner(r); ; { // a worker that a reload replaced says so there as well
			if !lines.Scan() {
				t.Fatalf("the log ends: %v", lines.Err())
			}
			if strings.Contains(lines.Text(), `"GET /first HTTP/1.1"`) {
				break
			}
		}
		// 300 lines of 1 KB are more than a pipe holds.
		long := "/" + strings.Repeat("x", 900)
		underLoad(t, b.Traffic, func() {
			for range 300 {
				if status, _, _ := fetch(t, b.Traffic, long); status != 200 {
					t.Fatalf("%d", status)
				}
			}
			b.Put(m.Addr)
			b.WaitOnline(n, m)
			b.WaitApplied()
		})
		// And when the reader has gone for good.
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		for range 20 {
			if status, _, _ := fetch(t, b.Traffic, long); status != 200 {
				t.Errorf("%d", status)
			}
		}
		b.Delete(m.Addr)
		b.WaitOnline(n)
		b.Signal(syscall.SIGTERM)
		if code := b.WaitExit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}
