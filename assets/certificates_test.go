package assets

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// certificateOf makes a PEM file's content with certificate and key.
func certificateOf(t *testing.T, serial int64, expires time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: now.Add(-time.Hour * 1000), NotAfter: expires, DNSNames: []string{"example.org"}}
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

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// use expects a name, or none, and a Problem that holds the words, or none.
func use(t *testing.T, c *Certificates, file string, usable bool, words string) string {
	t.Helper()
	name, problem := c.Use(file)
	if (name != "") != usable {
		t.Errorf("%s: name %q, want one: %v (%v)", file, name, usable, problem)
	}
	switch {
	case words == "" && problem != nil:
		t.Errorf("%s: %v", file, problem)
	case words != "" && (problem == nil || !strings.Contains(problem.Error(), words)):
		t.Errorf("%s: problem %v, want one that says %q", file, problem, words)
	case problem != nil && problem.Mend == "":
		t.Errorf("%s: %v: it does not say what to do", file, problem)
	}
	return name
}

// TestUse follows one file through its life: what is worse than the content in use never takes its place.
func TestUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "web.pem")
	c := NewCertificates(Options{Dirs: []string{dir}, Now: func() time.Time { return now }})
	use(t, c, file, false, "no such file")

	good := certificateOf(t, 1, now.Add(time.Hour))
	write(t, file, good)
	first := use(t, c, file, true, "")
	if again := use(t, c, file, true, ""); again != first {
		t.Errorf("the same content is %q, then %q", first, again)
	}
	if _, data, ok := c.Content(first); !ok || string(data) != string(good) {
		t.Error("the content of the name is another one")
	}

	for words, data := range map[string][]byte{
		"it is empty":         {},
		"failed to find":      []byte("no PEM"),
		"does not match":      append(append([]byte{}, good[:strings.Index(string(good), "-----BEGIN EC")]...), certificateOf(t, 2, now.Add(time.Hour))...),
		"expired":             certificateOf(t, 3, now.Add(-time.Hour)),
		"more than 1048576 b": make([]byte, maxFile+1),
	} {
		write(t, file, data)
		if kept := use(t, c, file, true, words); kept != first && words != "does not match" {
			t.Errorf("%s: the name became %q", words, kept)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if kept := use(t, c, file, true, "no such file"); kept != first {
		t.Errorf("without the file the name is %q", kept)
	}

	write(t, file, certificateOf(t, 4, now.Add(2*time.Hour)))
	second := use(t, c, file, true, "")
	if second == first {
		t.Error("a new certificate has the name of the old one")
	}
	if path1, _, _ := c.Content(first); filepath.Base(path1) != filepath.Base(mustContent(t, c, second)) {
		t.Error("two contents of one file have different base names")
	}
}

func mustContent(t *testing.T, c *Certificates, name string) string {
	t.Helper()
	file, _, ok := c.Content(name)
	if !ok {
		t.Errorf("there is no content of %q", name)
	}
	return file
}

// TestChanged: whatever happens to a file is seen without opening it, and nothing else is.
func TestChanged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, other := filepath.Join(dir, "web.pem"), filepath.Join(dir, "other.pem")
	c := NewCertificates(Options{Dirs: []string{dir}, Now: func() time.Time { return now }})
	expect := func(when string, want bool) {
		t.Helper()
		if got := c.Changed(); got != want {
			t.Errorf("%s: changed %v, want %v", when, got, want)
		}
	}
	expect("before anything was named", false)
	use(t, c, file, false, "no such file")
	expect("one that is missing may come", true)
	for _, f := range []string{file, other} {
		write(t, f, certificateOf(t, 1, now.Add(time.Hour)))
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for when, change := range map[string]func(){
		"renamed over": func() { write(t, file, certificateOf(t, 2, now.Add(time.Hour))) },
		"written in place, with the time that it had": func() {
			info, err := os.Stat(file)
			ok(err)
			data, err := os.ReadFile(file)
			ok(err)
			ok(os.WriteFile(file, data, 0o600))
			ok(os.Chtimes(file, info.ModTime(), info.ModTime()))
		},
		"other rights": func() { ok(os.Chmod(file, 0o640)) },
		"another group": func() {
			ok(os.Chown(file, -1, 12345))
		},
		"a link to another": func() { ok(os.Remove(file)); ok(os.Symlink(other, file)) },
		"gone":              func() { ok(os.Remove(file)) },
	} {
		write(t, file, certificateOf(t, 3, now.Add(time.Hour)))
		use(t, c, file, true, "")
		expect("nothing before "+when, false)
		// The kernel's clock for such times ticks each 4 ms.
		for begin := time.Now(); time.Since(begin) < 20*time.Millisecond; {
			time.Sleep(time.Millisecond)
		}
		change()
		expect(when, true)
		_, _ = c.Use(file)
		expect("seen: "+when, when == "gone")
	}
	write(t, file, []byte("no PEM"))
	use(t, c, file, true, "failed to find")
	expect("a bad one that stays so", false)
}

// TestWhere refuses what lies outside the folders, however it is spelled, and follows links within them.
func TestWhere(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir, outside := filepath.Join(root, "certs"), filepath.Join(root, "other")
	for _, d := range []string{dir, outside, filepath.Join(dir, "..data")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c := NewCertificates(Options{Dirs: []string{dir}, Now: func() time.Time { return now }})
	secret := filepath.Join(outside, "secret.pem")
	write(t, secret, certificateOf(t, 1, now.Add(time.Hour)))
	write(t, filepath.Join(dir, "..data", "tls.pem"), certificateOf(t, 2, now.Add(time.Hour)))
	for to, link := range map[string]string{secret: "leak.pem", "..data/tls.pem": "tls.pem"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	use(t, c, filepath.Join(dir, "tls.pem"), true, "")
	use(t, c, filepath.Join(dir, "leak.pem"), false, "in none of the folders")
	use(t, c, secret, false, "in none of the folders")
	use(t, c, dir+"/../other/secret.pem", false, "no plain absolute path")
	use(t, c, dir, false, "in none of the folders")
	use(t, c, filepath.Join(dir, "..data"), false, "no regular file")
	for _, bad := range []string{"", "tls.pem", dir + "/a b.pem", dir + "/a\nb.pem", dir + "/$HOME", dir + "//tls.pem", dir + "/" + strings.Repeat("a", 300)} {
		name, problem := c.Use(bad)
		if name != "" || problem == nil || strings.ContainsAny(problem.Error(), "\n\x00") || len(problem.Error()) > 1000 {
			t.Errorf("%q: name %q, problem %v", bad, name, problem)
		}
	}
}

// TestEarlier goes on with the copy of an earlier process while the file cannot be used.
func TestEarlier(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "web.pem")
	data := certificateOf(t, 1, now.Add(time.Hour))
	c := NewCertificates(Options{Dirs: []string{dir}, Now: func() time.Time { return now }, Earlier: func(string) []byte { return data }})
	name := use(t, c, file, true, "no such file")
	write(t, file, data)
	if again := use(t, c, file, true, ""); again != name {
		t.Errorf("the name was %q, and is %q with the same content", name, again)
	}
}

// TestCopy gives the content of a name that an earlier process gave, when it is what the name says.
func TestCopy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "web.pem")
	data := certificateOf(t, 1, now.Add(time.Hour))
	write(t, file, data)
	name := use(t, NewCertificates(Options{Dirs: []string{dir}, Now: func() time.Time { return now }}), file, true, "")
	for what, copied := range map[string][]byte{"the same": data, "another": []byte("x"), "none": nil} {
		c := NewCertificates(Options{Copy: func(string) []byte { return copied }})
		if _, got, ok := c.Content(name); ok != (what == "the same") || ok && string(got) != string(data) {
			t.Errorf("with %s copy: there is one: %v", what, ok)
		}
		for _, bad := range []string{"", "listen.pem", "0123456789abcdef_../x", "0123456789abcdef_"} {
			if _, _, ok := c.Content(bad); ok {
				t.Errorf("%q has content", bad)
			}
		}
	}
}
