package app

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"

	"github.com/fnlb/fnlb/api/rest"
	"github.com/fnlb/fnlb/assets"
	"github.com/fnlb/fnlb/config"
	poolsource "github.com/fnlb/fnlb/discovery/pools"
	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor"
	"github.com/fnlb/fnlb/templates"
)

// certName is the listen port's certificate, as routes name it.
const certName = "listen.pem"

// offersOf are those that the flags make.
func offersOf(s *config.Settings) []model.Offer {
	cert := ""
	if s.TLSCert != "" {
		cert = certName
	}
	offers := s.Offers(cert)
	if s.Pools.Port != 0 {
		offers = append(offers, poolsource.FirstSpares(model.Owner{Source: "flags", Name: "--pools-listen"}, expectedRules(), s.Timeouts))
	}
	return offers
}

// renderer binds a template to what the process is and to the certificate. It is read anew as a whole: a value never changes.
type renderer struct {
	template *templates.Template
	globals  templates.Globals
	files    map[string]conf.File
	certs    *assets.Certificates // of labels; nil: nothing can name any
	runDir   string
	sum      [sha256.Size]byte // of the files that were read
}

// Render makes the supervisor's bundle.
func (r *renderer) Render(s model.State, a conf.Abilities) (conf.Bundle, error) {
	g, files := r.globals, r.files
	if r.certs != nil {
		g.Certs, files = maps.Clone(g.Certs), maps.Clone(files)
		for _, route := range s.Routes {
			file, pem, ok := r.certs.Content(route.Cert)
			if !ok {
				continue // it is the flags', or there is none
			}
			if g.Certs == nil {
				g.Certs = map[string]string{}
			}
			if files == nil {
				files = map[string]conf.File{}
			}
			name := path.Join(supervisor.Bundled, file)
			g.Certs[route.Cert] = filepath.Join(r.runDir, filepath.FromSlash(name))
			files[name] = conf.File{Data: pem, Secret: true}
		}
	}
	b, err := r.template.Render(s, g, a)
	if err != nil {
		return conf.Bundle{}, err
	}
	if len(b.Files) == 0 {
		b.Files = files
	} else {
		maps.Copy(b.Files, files)
	}
	return b, nil
}

// noRenderer stands in the place of one that cannot be read, for a start of what is frozen.
type noRenderer struct{ err error }

// Render says why there is none.
func (r noRenderer) Render(model.State, conf.Abilities) (conf.Bundle, error) {
	return conf.Bundle{}, r.err
}

// newRenderer reads the template and the certificate that the settings name.
func newRenderer(s *config.Settings, user identity, files supervisor.Files) (*renderer, error) {
	dirs := dirsOf(s)
	r := &renderer{
		template: templates.Builtin(), runDir: s.RunDir,
		globals: templates.Globals{
			User: user.name, Group: user.group,
			PidFile: cmp.Or(s.PidFile, files.PidFile()), SockFile: cmp.Or(s.SockFile, files.StatsSocket()),
			StateFile: files.State(), ManagementSocket: dirs.managementSocket(), ManagementPaths: rest.Paths(),
			RunDir: s.RunDir, Bundled: supervisor.Bundled,
			AccessLog: s.AccessLog != "off", HardStop: s.HardStopAfter, IPv4Only: !hasIPv6(),
		},
	}
	if s.Docker || s.LoadFeedback && !files.Single { // their services have stick tables
		r.globals.PeersSocket = dirs.peersSocket()
	}
	sum := sha256.New()
	if s.Template != "" {
		text, err := readTemplate(s.Template)
		if err != nil {
			return nil, fmt.Errorf("read the template: %w; %s", err, mendRead(s.Template, err, "correct --template"))
		}
		if r.template, err = templates.Parse(s.Template, text); err != nil {
			return nil, err
		}
		fmt.Fprintf(sum, "%s %d\n%s", s.Template, len(text), text)
	}
	if s.TLSCert != "" {
		if err := r.certificate(s); err != nil {
			return nil, err
		}
		fmt.Fprint(sum, r.globals.Certs) // named by the content
	}
	sum.Sum(r.sum[:0])
	return r, nil
}

// readTemplate reads a regular file, and of one that is too large no more than what shows that.
func readTemplate(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, templates.MaxSource+1))
}

// certificate reads and tries the certificate. HAProxy gets a copy in the run directory, so that a file that breaks later
// cannot take a reload down; the copy's folder is named by its content, so that a new one overwrites nothing in use.
func (r *renderer) certificate(s *config.Settings) error {
	pem, err := os.ReadFile(s.TLSCert)
	if err != nil {
		return fmt.Errorf("read the certificate: %w; %s", err, mendRead(s.TLSCert, err, "correct --tls-cert"))
	}
	if _, err := tls.X509KeyPair(pem, pem); err != nil {
		return fmt.Errorf("certificate %s: %w; --tls-cert needs a PEM file with a certificate and its key", s.TLSCert, err)
	}
	sum := sha256.Sum256(pem)
	folder := path.Join(supervisor.Bundled, hex.EncodeToString(sum[:8]))
	r.globals.Certs = map[string]string{certName: filepath.Join(s.RunDir, filepath.FromSlash(folder), certName)}
	r.files = map[string]conf.File{path.Join(folder, certName): {Data: pem, Secret: true}}
	return nil
}

// hasIPv6 reports whether the host has IPv6 at all.
func hasIPv6() bool {
	_, err := os.Stat("/proc/net/if_inet6")
	return err == nil
}
