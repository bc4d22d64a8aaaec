package app

import (
	"os"
	"path/filepath"
	"time"

	"github.com/fnlb/fnlb/assets"
	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/discovery/docker"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor"
)

// certificates are those that labels may name.
func (b *balancer) certificates() *assets.Certificates {
	bundles := filepath.Join(b.s.RunDir, supervisor.Bundled)
	return assets.NewCertificates(assets.Options{
		Dirs: b.s.CertDirs, UID: os.Getuid(), Now: time.Now,
		Earlier: func(base string) []byte { return newestCopy(bundles, base) },
		Copy: func(file string) []byte {
			data, err := os.ReadFile(filepath.Join(bundles, filepath.FromSlash(file)))
			if err != nil {
				return nil
			}
			return data
		},
	})
}

// newestCopy gives the newest file of that name in the folders below dir; nil: there is none that can be read.
func newestCopy(dir, base string) []byte {
	var newest time.Time
	var content []byte
	copies, err := filepath.Glob(filepath.Join(dir, "*", base))
	if err != nil { // a bad pattern: the run directory has brackets
		return nil
	}
	for _, file := range copies {
		info, err := os.Stat(file)
		if err != nil || !info.ModTime().After(newest) {
			continue
		}
		if data, err := os.ReadFile(file); err == nil {
			newest, content = info.ModTime(), data
		}
	}
	return content
}

// containerSource makes the source of containers, with what an earlier process had when we go on with its HAProxy.
func (b *balancer) containerSource(adopting bool) (discovery.Source, error) {
	o := docker.Options{
		Host: b.s.DockerHost, Check: b.s.Check, Resync: b.s.DockerResync, Publish: b.s.MayPublish, Certificates: b.certs,
		TrustedProxies: b.s.TrustedProxies, Now: time.Now, Log: b.log,
	}
	kept := discovery.Kept{File: b.dirs.kept("docker"), Log: b.log}
	err := b.recall(adopting, kept, "docker", func(snapshot model.Snapshot, _ string) { o.Earlier = &snapshot })
	kept.Source = docker.New(o)
	b.kept = append(b.kept, kept)
	return kept, err
}
