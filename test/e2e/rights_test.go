package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// TestRights: nobody else on the host reads a key or the text, or reaches a socket that gives power.
func TestRights(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		cert := filepath.Join(TempDir(t), "cert.pem")
		writeCert(t, cert, "one")
		b := Start(t, h, "--nodes", n.Addr, "--tls-cert", cert)
		b.WaitOnline(n)
		b.WaitApplied()
		for name, most := range map[string]fs.FileMode{
			"private": 0o700, "private/master.sock": 0o600, "private/worker.sock": 0o600, "admin.sock": 0o600, "mgmt": 0o710, "haproxy.cfg": 0o640, "own.cfg": 0o640,
			"haproxy.log": 0o640, "bundle/*/listen.pem": 0o600,
		} {
			paths, err := filepath.Glob(filepath.Join(b.Dir, name))
			if err != nil || len(paths) == 0 {
				t.Errorf("%s is not there: %v", name, err)
			}
			for _, path := range paths {
				info, err := os.Lstat(path)
				if err != nil {
					t.Error(err)
				} else if perm := info.Mode().Perm(); perm&^most != 0 {
					t.Errorf("%s has %o, more than %o", path, perm, most)
				}
			}
		}
	})
}
