package pools

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/e2e"
)

// authority signs certificates of a test; its files lie in dir.
type authority struct {
	*testing.T
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// newAuthority makes one whose own certificate is the file NAME.pem.
func newAuthority(t *testing.T, dir, name string) *authority {
	a := &authority{T: t, dir: dir}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.key = a.write(name, a.cert, nil)
	return a
}

// sign makes one for 127.0.0.1: NAME.pem, its key NAME.key, and NAME.both with both.
func (a *authority) sign(name string) {
	a.write(name, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}, a.key)
}

func (a *authority) write(name string, cert *x509.Certificate, by *ecdsa.PrivateKey) *ecdsa.PrivateKey {
	a.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.Fatal(err)
	}
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, key.Public(), by)
	if err != nil {
		a.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.Fatal(err)
	}
	public, private := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	put(a.T, a.dir, name+".pem", public)
	put(a.T, a.dir, name+".key", private)
	put(a.T, a.dir, name+".both", append(public, private...))
	return key
}

// put replaces a file whole, as whoever renews certificates does.
func put(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := errors.Join(os.WriteFile(path+".new", data, 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// TestTLS: clients need a certificate of the right authority; a renewed one of ours is taken without a restart, and a broken one never; nothing
// is answered in plain text.
func TestTLS(t *testing.T) {
	bin := build(t, "cli")
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		dir := e2e.TempDir(t)
		ours, theirs := newAuthority(t, dir, "ours"), newAuthority(t, dir, "theirs")
		ours.sign("server")
		ours.sign("client")
		theirs.sign("stranger")
		file := func(name string) string { return filepath.Join(dir, name) }
		b := start(t, h, "--listen", "", "--pools-cert", file("server.both"), "--pools-client-ca", file("ours.pem"))
		call := func(args ...string) (string, bool) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), e2e.Patience)
			defer cancel()
			out, err := exec.CommandContext(ctx, filepath.Join(bin, "cli"), append(append([]string{"--lb=" + b.RPC, "--pattern=/"}, args...), "removePool")...).CombinedOutput()
			return string(out), err == nil
		}
		client := func(ca, name string) []string {
			return []string{"--ca=" + file(ca), "--cert=" + file(name+".pem"), "--key=" + file(name+".key")}
		}
		served := func(want bool, args ...string) {
			t.Helper()
			if out, ok := call(args...); ok != want {
				t.Errorf("cli %q: served %v, want %v: %s", args, ok, want, out)
			}
		}
		served(true, client("ours.pem", "client")...)
		served(false)
		served(false, "--ca="+file("ours.pem"))
		served(false, client("ours.pem", "stranger")...)
		served(false, client("theirs.pem", "client")...)

		theirs.sign("server") // renewed, by another authority
		served(true, client("theirs.pem", "client")...)
		served(false, client("ours.pem", "client")...)
		mark := len(b.Log())
		put(t, dir, "server.both", []byte("no certificate"))
		served(true, client("theirs.pem", "client")...)
		served(true, client("theirs.pem", "client")...)
		b.WaitLog(mark, "the certificate of pools cannot be used, the last good one serves")
		ours.sign("server")
		served(true, client("ours.pem", "client")...)
		b.WaitLog(mark, "the certificate of pools can be used again")
		if n := strings.Count(b.Log()[mark:], "cannot be used"); n != 1 {
			t.Errorf("told %d times", n)
		}
	})
}

// TestBadTLS: files that cannot be used are refused at the start, with what to correct.
func TestBadTLS(t *testing.T) {
	t.Parallel()
	dir := e2e.TempDir(t)
	a := newAuthority(t, dir, "ca")
	a.sign("server")
	a.sign("other")
	put(t, dir, "empty", nil)
	for name, test := range map[string]struct{ cert, key, ca, says, mend string }{
		"no certificate":       {cert: "none", says: "no such file", mend: "--pools-cert"},
		"not one":              {cert: "empty", says: "failed to find any PEM data", mend: "--pools-cert"},
		"without its key":      {cert: "server.pem", says: "", mend: "--pools-key"},
		"no key":               {cert: "server.pem", key: "none", says: "no such file", mend: "--pools-key"},
		"another's key":        {cert: "server.pem", key: "other.key", says: "private key does not match", mend: "--pools-key"},
		"no authorities":       {cert: "server.both", ca: "none", says: "no such file", mend: "--pools-client-ca"},
		"authorities in words": {cert: "server.both", ca: "empty", says: "has no certificate", mend: "--pools-client-ca"},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, h haproxytest.HAProxy) {
				b := e2e.New(t, e2e.TempDir(t))
				args := []string{"--listen", "", "--pools-listen", "127.0.0.1:1", "--pools-http-listen", b.Traffic, "--pools-cert", filepath.Join(dir, test.cert)}
				if test.key != "" {
					args = append(args, "--pools-key", filepath.Join(dir, test.key))
				}
				if test.ca != "" {
					args = append(args, "--pools-client-ca", filepath.Join(dir, test.ca))
				}
				b.Run(h, args...)
				if code := b.WaitExit(); code != 1 || !strings.Contains(b.Log(), test.says) || !strings.Contains(b.Log(), "; correct ") || !strings.Contains(b.Log(), test.mend) {
					t.Errorf("exit %d: %s", code, b.Log())
				}
			})
		})
	}
}
