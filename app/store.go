package app

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/fnlb/fnlb/store"
)

// openStore makes the store of nodes and pools; nothing of it runs yet. Of a database the last known records lie in the run directory,
// so that a start without it has them.
func (b *balancer) openStore() error {
	o, err := b.program.storeOptions(b.s.DB, b.log)
	if err != nil {
		return err
	}
	if o.Open != nil {
		o.Copy = b.dirs.copyOf(b.s.DB)
	}
	b.store = store.New(o)
	if err := b.store.Restore(); err != nil {
		b.log.Warn("the local copy of the store is not used", "error", err)
	}
	return nil
}

func (p *Program) storeOptions(address store.Address, log *slog.Logger) (store.Options, error) {
	opened, err := p.Databases(address)
	if err != nil {
		return store.Options{}, fmt.Errorf("%s: %w; correct --db", address, err)
	}
	return store.Options{Name: address.String(), Open: opened, Log: log}, nil
}

// copyOf is where the last known records of a database lie: each has a file of its own, because those of another one would be wrong.
func (d dirs) copyOf(address store.Address) string {
	sum := sha256.Sum256([]byte(address.String()))
	return filepath.Join(d.run, fmt.Sprintf("store-%s.json", hex.EncodeToString(sum[:6])))
}
