package app

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor"
	"github.com/fnlb/fnlb/templates"
)

// watchedFiles are the template, or the one that may appear, and the certificate.
func watchedFiles(s *config.Settings) ([]string, error) {
	var paths []string
	for _, path := range []string{cmp.Or(s.Template, s.Appears), s.TLSCert} {
		if path == "" {
			continue
		}
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, fmt.Errorf("watch %s: %w", path, err)
		}
		paths = append(paths, abs)
	}
	return paths, nil
}

// touch tells the signals' goroutine that a watched file is another one.
func (b *balancer) touch() {
	select {
	case b.touched <- struct{}{}:
	default: // it will look in any case
	}
}

// reread reads template and certificate again: because somebody asked by SIGHUP, or because a file has changed; then nothing is said
// of what was read before. What cannot be used changes nothing. Once a template was there, it is not given up for the built-in one.
func (b *balancer) reread(asked bool) {
	if b.s.Template == "" && exists(b.s.Appears) {
		b.s.Template = b.s.Appears
		b.log.Info("the template is there now", "file", b.s.Template)
	}
	before := b.read
	r, err := b.renderer()
	if b.read == before && !asked {
		return
	}
	if err != nil {
		b.unreadable(err)
		return
	}
	b.log.Info("read again")
	why := "SIGHUP"
	if !asked {
		why = "file changed: " + strings.Join(b.watched, ", ")
	}
	b.supervisor.SetRenderer(r, why)
}

// renderer reads what the flags name, and notes what that was. With an error it is one that gives this error.
func (b *balancer) renderer() (supervisor.Renderer, error) {
	r, err := newRenderer(&b.s, b.worker, b.files)
	if err != nil {
		b.read = sha256.Sum256([]byte(err.Error()))
		return noRenderer{err}, err
	}
	b.read = r.sum
	r.certs = b.certs
	return r, nil
}

// unreadable tells that template or certificate cannot be used.
func (b *balancer) unreadable(err error) {
	b.log.Error("not read again, what ran goes on", "error", err)
	p := model.Problem{
		Kind: model.Invalid, Owner: model.Owner{Source: "flags", Name: "--template, --tls-cert"}, Reason: err.Error(),
		Mend: "correct it; it is read again by itself",
	}
	var fault *templates.Error
	if errors.As(err, &fault) {
		p.Place = fault.Places()[0]
	}
	b.supervisor.Unreadable(p)
}
