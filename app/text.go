package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor"
)

// render prints the configuration that the flags give. It needs neither HAProxy nor root: without a HAProxy it writes for the
// oldest that is supported.
func render(c *call) error {
	if c.bootstrap {
		return c.renderBootstrap()
	}
	b, err := c.bundleOf(c.abilities(), c.serversOfFlags())
	if err != nil {
		return err
	}
	c.sayNotes(b)
	_, err = c.Stdout.Write(b.Main)
	return err
}

// renderBootstrap prints what a HAProxy that somebody else starts needs before fnlb exists: the ports, and no server.
func (c *call) renderBootstrap() error {
	s := &c.settings
	if s.TLSCert != "" {
		return &config.UsageError{Reason: "--bootstrap cannot print a certificate", Hint: "start fnlb first: it writes configuration and certificate where there are none"}
	}
	worker, err := workerIdentity(s)
	if err != nil {
		return err
	}
	files := supervisor.Files{Dir: s.RunDir, Single: true}
	r, err := newRenderer(s, worker, files)
	if err != nil {
		return err
	}
	r.globals.PeersSocket = "" // its folder is not there yet
	b, err := bootstrapBundle(s, r, c.abilities())
	if err != nil {
		return err
	}
	_, err = c.Stdout.Write(files.Text(b))
	return err
}

// checkText renders and asks the real HAProxy. Its words go to standard error, and the exit code is 1, when it refuses.
func checkText(c *call) error {
	binary, err := findHAProxy(c.settings.HAProxy)
	if err != nil {
		return err
	}
	ctx := context.Background()
	abilities, err := process.ReadAbilities(ctx, binary)
	if err != nil {
		return err
	}
	// HAProxy reads the certificate from where the text names it: in a run directory of the check's own.
	dir, err := os.MkdirTemp("", "fnlb-check-")
	if err != nil {
		return err
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			c.say(c.Stderr, "fnlb: %v\n", err)
		}
	}()
	c.settings.RunDir = dir
	b, err := c.bundleOf(abilities, c.serversOfFlags())
	if err != nil {
		return err
	}
	files := supervisor.Files{Dir: dir, Config: filepath.Join(dir, "haproxy.cfg")}
	warnings, err := files.Try(ctx, process.Checker{Binary: binary}, b)
	if warnings != "" {
		c.say(c.Stderr, "%s\n", warnings)
	}
	if err != nil {
		return err
	}
	c.sayNotes(b)
	c.say(c.Stdout, "the configuration is valid for HAProxy %s\n", abilities.Version)
	return nil
}

func (c *call) abilities() conf.Abilities {
	binary, err := findHAProxy(c.settings.HAProxy)
	if err == nil {
		var a conf.Abilities
		if a, err = process.ReadAbilities(context.Background(), binary); err == nil {
			return a
		}
	}
	c.say(c.Stderr, "fnlb: written for HAProxy 2.6, because none was found: %v\n", err)
	return oldestHAProxy
}

// sayNotes tells what the template should have otherwise, although its text is good.
func (c *call) sayNotes(b conf.Bundle) {
	for _, p := range supervisor.Notes(b) {
		c.say(c.Stderr, "fnlb: %s: %v\n", p.Owner.Name, p)
	}
}

// bundleOf renders what the flags say with these servers, as if every one had passed its first check.
func (c *call) bundleOf(abilities conf.Abilities, servers []model.Server) (conf.Bundle, error) {
	s := &c.settings
	worker, err := workerIdentity(s)
	if err != nil {
		return conf.Bundle{}, err
	}
	r, err := newRenderer(s, worker, supervisor.Files{Dir: s.RunDir, Single: s.HAProxyMaster != ""})
	if err != nil {
		return conf.Bundle{}, err
	}
	offers := offersOf(s)
	offers[0].Servers = servers // of the pool
	st, problems := model.Merge(offers)
	if len(problems) > 0 {
		return conf.Bundle{}, problems[0]
	}
	return r.Render(st, abilities)
}

// serversOfFlags are the nodes of --nodes that have an address.
func (c *call) serversOfFlags() []model.Server {
	var servers []model.Server
	for _, n := range c.settings.Nodes {
		addrs, err := c.resolve(n)
		if err != nil {
			c.say(c.Stderr, "fnlb: node %s is left out: %v\n", n, err)
			continue
		}
		for _, at := range addrs {
			servers = append(servers, model.Server{Service: config.PoolService, Name: n.ServerName(), Host: n.Host}.At(at))
		}
	}
	return servers
}

// resolve gives the address of a node, or all of a name with a star.
func (c *call) resolve(n model.Node) ([]netip.AddrPort, error) {
	if n.IP.IsValid() {
		return []netip.AddrPort{netip.AddrPortFrom(n.IP, n.Port)}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", n.Host)
	if err != nil {
		return nil, err
	}
	var addrs []netip.AddrPort
	for _, ip := range ips {
		at := netip.AddrPortFrom(ip.Unmap(), n.Port)
		if refused := c.settings.NodePolicy.Check(at); refused != nil {
			err = fmt.Errorf("refused: %w", refused)
			continue
		}
		addrs = append(addrs, at)
	}
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	addrs = slices.Compact(addrs)
	switch {
	case len(addrs) == 0 && err == nil:
		return nil, errors.New("the name has no address")
	case len(addrs) == 0:
		return nil, err
	case !n.Many:
		addrs = addrs[:1]
	}
	return addrs[:min(len(addrs), supervisor.MostAddresses)], nil
}
