package supervisor

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/model"
)

// FuzzReadFrozen: whatever stands in the note, it is read as what was written, or is an error; no file outside of the run directory is
// taken for one of ours.
func FuzzReadFrozen(f *testing.F) {
	dir := f.TempDir()
	files := Files{Dir: dir, Config: filepath.Join(dir, "haproxy.cfg")}
	a, err := whole(conf.Bundle{Main: []byte("global\n"), Files: map[string]conf.File{"bundle/1/x.pem": {Data: []byte("k"), Secret: true}}})
	if err != nil {
		f.Fatal(err)
	}
	if err := files.restore(a.bundle, a.revision); err != nil {
		f.Fatal(err)
	}
	if err := files.writeFrozen(model.Freeze{Reason: "why", Since: time.Unix(1, 0), By: "me"}, a); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(files.Frozen())
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{string(good), "", "{}", "null", `{"revision":"x","files":[{"name":"../../etc/passwd"}]}`, `{"revision":"` + a.revision + `","config":"x"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, note []byte) {
		if err := os.WriteFile(files.Frozen(), note, 0o600); err != nil {
			t.Fatal(err)
		}
		fr, text, err := files.readFrozen()
		if (err == nil) != (fr != nil && text != nil) {
			t.Fatalf("%+v, %+v, %v", fr, text, err)
		}
		if err == nil && (text.revision != a.revision || fr.Revision != a.revision) {
			t.Errorf("%q: took revision %s, %+v", note, text.revision, fr)
		}
	})
}
