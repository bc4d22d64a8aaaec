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
	"slices"
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
		if err := c.SetMap(ctx, worker, entries, nil, []byte(many.String())); err != nil {
			t.Fatal(err)
		}
		want("one", "/k2999", "value of 2999")
		has, err := c.Map(ctx, worker, entries)
		if err != nil {
			t.Fatal(err)
		}
		wanted := MapEntries([]byte(many.String()))
		slices.Sort(has)
		slices.Sort(wanted)
		if !slices.Equal(has, wanted) || len(has) != 3000 {
			t.Errorf("%d entries, %d of them are wanted: %q", len(has), len(wanted), has[:min(len(has), 3)])
		}
		want("one", "/a", "none")
		if err := c.SetMap(ctx, worker, entries, nil, nil); err != nil {
			t.Error(err)
		}
		want("one", "/k2999", "none")
		if has, err := c.Map(ctx, worker, entries); err != nil || len(has) > 0 {
			t.Errorf("an empty map: %q, %v", has, err)
		}
		// A few are changed one by one, and the worker is asked whether it has them.
		was := []byte{}
		for _, now := range []string{"/a one\n/b two\n", "/b three\n/c four of them\n", "/b three\n/;c four\n", "/a one\n/b two\n/a three\n", "/a one\n", ""} {
			if err := c.SetMap(ctx, worker, entries, was, []byte(now)); err != nil {
				t.Fatal(err)
			}
			has, err := c.Map(ctx, worker, entries)
			slices.Sort(has)
			if want := MapEntries([]byte(now)); err != nil || !slices.Equal(has, slices.Sorted(slices.Values(want))) {
				t.Errorf("from %q to %q: %q, %v", was, now, has, err)
			}
			was = []byte(now)
		}
		if err := c.SetMap(ctx, worker, entries, []byte("/x y\n"), []byte("/x z\n")); !errors.As(err, &refused) {
			t.Errorf("entries that are not there: %v", err)
		}
		if has, err := c.Map(ctx, worker, entries+"x"); err == nil {
			t.Errorf("an unknown map: %q", has)
		}
		if err := c.SetMap(ctx, worker, entries+"x", nil, nil); !errors.As(err, &refused) {
			t.Errorf("an unknown map: %v", err)
		}
	})
}

func TestMapChanges(t *testing.T) {
	many := strings.Builder{}
	for i := range fewEntries + 1 {
		fmt.Fprintf(&many, "/%d x\n", i)
	}
	for _, c := range []struct {
		was, now string
		want     []string // nil: all are replaced
	}{
		{"", "", []string{}},
		{"/a x\n/b y\n", "/b y\n# word\n\n/a\tx\n", []string{}},
		{"/a x\n/b y\n/c z\n", "/a x\n/b z\n/d z\n", []string{"set map m /b z", "add map m /d z", "del map m /c"}},
		{"/a x\n/a y\n", "/a x\n", nil},
		{"/a x\n", "/a x\n/a y\n", nil},
		{"", "/a two words\n", nil},
		{"", "/a;b x\n", nil},
		{"", "/'a' x\n", nil},
		{"", many.String(), nil},
		{many.String(), many.String() + "/a x\n", []string{"add map m /a x"}},
	} {
		got, ok := mapChanges("m", []byte(c.was), []byte(c.now))
		var lines []string
		for _, ch := range got {
			lines = append(lines, ch.String())
		}
		if ok != (c.want != nil) || !slices.Equal(lines, c.want) {
			t.Errorf("%.60q to %.60q: %q, %v", c.was, c.now, lines, ok)
		}
	}
	if _, ok := mapChanges("m", nil, []byte("/a x\n")); ok {
		t.Error("from what is not known")
	}
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
