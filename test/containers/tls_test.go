package containers

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/dockertest"
	"github.com/fnlb/fnlb/test/e2e"
)

// newPEM is a new certificate of that serial number with its key.
func newPEM(t *testing.T, serial int64, until time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-1000 * time.Hour), NotAfter: until, DNSNames: []string{"example.org"}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})...)
}

// serial asks by TLS and gives the certificate's number.
func serial(port int) (n int64, err error) {
	c := http.Client{Timeout: e2e.Patience, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // it is the certificate that is looked at
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/", port), nil)
	if err != nil {
		return 0, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("status %d", resp.StatusCode)
	}
	return resp.TLS.PeerCertificates[0].SerialNumber.Int64(), nil
}

// TestCertificate is row 5: a certificate that a label names is replaced, broken, expired, unreadable and removed, and the port serves all
// the while with the newest good one. None of that is a reload.
func TestCertificate(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		dir := e2e.TempDir(t)
		file := filepath.Join(dir, "web.pem")
		write := func(data []byte) {
			t.Helper()
			if err := os.WriteFile(file+".new", data, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(file+".new", file); err != nil {
				t.Fatal(err)
			}
		}
		next := time.Now().Add(1000 * time.Hour)
		b := prepare(t, 1)
		b.Env = append(b.Env, "CHECK_TIME=1")
		b.Run(h, "--cert-dir", dir)
		v := strings.ReplaceAll(h.Version, ".", "")
		c := b.engine.Run(t, dockertest.Options{Name: "c-tls-" + v, Labels: b.labels("lb.ssl", file)})
		problem := func(words string) {
			t.Helper()
			b.Eventually(func() string {
				var said []string
				for _, p := range b.Status().Problems {
					if p.Owner.Name == c.Name {
						said = append(said, p.Reason)
					}
				}
				if got := strings.Join(said, "; "); !strings.Contains(got, words) || words == "" && got != "" {
					return fmt.Sprintf("problems %q, wanted %q", got, words)
				}
				return ""
			})
		}
		shows := func(want int64) {
			t.Helper()
			b.Eventually(func() string {
				got, err := serial(b.port)
				if err != nil || got != want {
					return fmt.Sprintf("certificate %d, wanted %d; %v", got, want, err)
				}
				return ""
			})
		}
		problem("no such file")
		write(newPEM(t, 1, next))
		b.waitPort(b.port, c.Name)
		shows(1)
		problem("")
		reloads := b.reloads()

		for i, bad := range []struct {
			data  []byte
			words string
		}{
			{[]byte("not a certificate"), "failed to find"},
			{nil, "it is empty"},
			{newPEM(t, 99, time.Now().Add(-time.Hour)), "expired"},
			{append(newPEM(t, 98, next)[:600:600], newPEM(t, 97, next)...), "certificate"},
		} {
			good := int64(2*i + 2)
			write(newPEM(t, good, next))
			shows(good)
			write(bad.data)
			problem(bad.words)
			if got, err := serial(b.port); err != nil || got != good {
				t.Errorf("%s: certificate %d, %v", bad.words, got, err)
			}
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		problem("no such file")
		shows(8)
		// Somebody who needs a reload now, and a container that comes, get the one that works.
		d := b.engine.Run(t, dockertest.Options{Name: "c-more-" + v, Labels: b.labels("lb.ssl", file)})
		b.waitPort(b.port, c.Name, d.Name)
		shows(8)
		write(newPEM(t, 20, next))
		shows(20)
		problem("")
		if now := b.reloads(); now != reloads {
			t.Errorf("%d reloads", now-reloads)
		}
	})
}
