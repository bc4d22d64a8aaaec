package runtime

import (
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
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// pair makes a certificate of this name and its key.
func pair(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})
}

// TestFiles: certificates and maps of a running worker are replaced; what it refuses leaves the old ones, and no open transaction.
func TestFiles(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		dir, port := t.TempDir(), haproxytest.FreePort(t)
		crt, entries := filepath.Join(dir, "x.pem"), filepath.Join(dir, "x.map")
		write := func(name string, data []byte) {
			if err := os.WriteFile(name, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		cert, key := pair(t, "one")
		write(crt, append(cert, key...))
		write(entries, []byte("/a one\n"))
		i := h.Start(t, fmt.Sprintf("defaults\n  mode http\n  timeout client 5s\nfrontend f\n  bind 127.0.0.1:%d ssl crt %s\n"+
			"  http-request return status 200 content-type text/plain lf-string %%[path,map_beg(%s,none)]\n", port, crt, entries), "r")
		c := New(i.Socket)
		_, worker, err := c.Loaded(within(t, 10*time.Second), "r")
		if err != nil {
			t.Fatal(err)
		}
		ctx := within(t, 30*time.Second)
		want := func(name, path, value string) {
			t.Helper()
			tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
			resp, err := (&http.Client{Transport: tr}).Get(fmt.Sprintf("https://127.0.0.1:%d%s", port, path))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if err := errors.Join(err, resp.Body.Close()); err != nil {
				t.Fatal(err)
			}
			if got := resp.TLS.PeerCertificates[0].Subject.CommonName; got != name || string(body) != value {
				t.Errorf("%s: certificate %q, value %q; want %q, %q", path, got, body, name, value)
			}
		}
		want("one", "/a", "one")
		second, secondKey := pair(t, "two")
		for range 2 {
			if err := c.SetCert(ctx, worker, crt, append(append(secondKey, '\n'), second...)); err != nil {
				t.Fatal(err)
			}
		}
		want("two", "/a", "one")
		var refused *ChangeError
		if err := c.SetCert(ctx, worker, crt, append(cert, secondKey...)); !errors.As(err, &refused) || strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("a key of another: %v", err)
		}
		if err := c.SetCert(ctx, worker, crt+"x", append(cert, key...)); !errors.As(err, &refused) {
			t.Errorf("an unknown name: %v", err)
		}
		want("two", "/a", "one")
		if err := c.SetCert(ctx, worker, crt, append(cert, key...)); err != nil { // no transaction of before stands in the way
			t.Error(err)
		}

		var many strings.Builder
		many.WriteString("# a comment\n\n")
		for i := range 3000 {
			fmt.Fprintf(&many, "/k%d  value of %d\n", i, i)
		}
		if err := c.SetMap(ctx, worker, entries, []byte(many.String())); err != nil {
			t.Fatal(err)
		}
		want("one", "/k2999", "value of 2999")
		want("one", "/a", "none")
		if err := c.SetMap(ctx, worker, entries, nil); err != nil {
			t.Error(err)
		}
		want("one", "/k2999", "none")
		if err := c.SetMap(ctx, worker, entries+"x", nil); !errors.As(err, &refused) {
			t.Errorf("an unknown map: %v", err)
		}
	})
}

// TestPayload: what could end a payload early, or does not fit, is not sent.
func TestPayload(t *testing.T) {
	c := New(filepath.Join(t.TempDir(), "none"))
	for _, bad := range []string{"", "\n \n", "a\x00b", "a\x1bb", strings.Repeat("x", MaxPayload+1)} {
		if err := c.SetCert(t.Context(), 1, "x.pem", []byte(bad)); err == nil || strings.Contains(err.Error(), "none") {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	if text, err := payloadText([]byte("a\r\n\r\n\nb")); err != nil || text != "a\nb\n" {
		t.Errorf("%q %v", text, err)
	}
}
