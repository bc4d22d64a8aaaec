package rpc

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/model"
	pb "github.com/fnlb/fnlb/proto/rollout/lb"
)

// Limits of one call, so that nobody fills HAProxy's text through it.
const (
	maxPattern  = 250 // bytes; it is a key of the store
	maxChecks   = 8
	maxValues   = 32
	maxInterval = 24 * time.Hour
)

// checkTimeout is how long one answer may take; it belongs to the contract.
const checkTimeout = time.Second

// Usual is the rule of the pools that the documented client, cli, adds.
func Usual() model.Check {
	return model.Check{Kind: model.CheckHTTP, Interval: 10 * time.Second, Timeout: checkTimeout, Rise: 1, Fall: 1, Asks: []model.Ask{{Path: "/healthz", Bodies: []string{"ok", "OK"}}}}
}

func invalid(mend, format string, args ...any) error {
	return model.Problem{Kind: model.Invalid, Reason: fmt.Sprintf(format, args...), Mend: mend}
}

func readPattern(pattern string) error {
	switch {
	case pattern == "":
		return invalid("", "pattern must not be empty")
	case len(pattern) > maxPattern:
		return invalid("", "pattern has %d bytes, the most are %d", len(pattern), maxPattern)
	}
	return nil
}

func readPool(req *pb.AddPoolReq) (model.Pool, error) {
	p := model.Pool{Pattern: req.GetPattern()}
	if err := readPattern(p.Pattern); err != nil {
		return p, err
	}
	if req.GetPoolType() != pb.PoolType_PT_P2C {
		return p, invalid("PT_P2C is the one that there is", "must set a pool_type")
	}
	var err error
	p.Check, err = readChecks(req.GetHealthChecks())
	return p, err
}

// readChecks makes one rule of all checks of a pool.
func readChecks(hc *pb.HealthChecks) (model.Check, error) {
	c := model.Check{Kind: model.CheckHTTP, Timeout: checkTimeout, Rise: 1, Fall: 1}
	checks := hc.GetHealthChecks()
	switch {
	case len(checks) == 0:
		return c, invalid("", "must have at least 1 health_check")
	case len(checks) > maxChecks:
		return c, invalid("", "there are %d health_checks, the most are %d", len(checks), maxChecks)
	}
	for _, h := range checks {
		ask, err := readCheck(h)
		if err != nil {
			return c, err
		}
		c.Asks = append(c.Asks, ask)
	}
	c.Interval = time.Duration(hc.GetIntervalSecs()) * time.Second
	if c.Interval <= 0 || c.Interval > maxInterval {
		return c, invalid("10 is usual", "interval_secs must be from 1 to %d", maxInterval/time.Second)
	}
	if err := check.Validate(c); err != nil {
		return c, invalid("", "a health_check is refused: %v", err)
	}
	return c, nil
}

func readCheck(h *pb.HealthCheck) (model.Ask, error) {
	status := h.GetStatusCheck()
	if status == nil {
		return model.Ask{}, invalid("", "a health_check is missing its concrete type")
	}
	values := status.GetHealthyValues()
	switch {
	case len(values) == 0:
		return model.Ask{}, invalid("", "must provide at least one healthy value")
	case len(values) > maxValues:
		return model.Ask{}, invalid("", "there are %d healthy values, the most are %d", len(values), maxValues)
	}
	return model.Ask{Path: status.GetUrlPath(), Bodies: slices.Clone(values)}, nil
}

func readMember(b *pb.Backend) (model.Member, error) {
	var m model.Member
	ip := b.GetIpBackend()
	if ip == nil {
		return m, invalid("", "a backend is missing its concrete type")
	}
	addr, err := netip.ParseAddr(ip.GetIp())
	if err != nil || addr.Zone() != "" {
		return m, invalid("write an IPv4 or IPv6 address; names are not resolved", "backend ip is invalid")
	}
	if port := ip.GetPort(); port < 1 || port > 65535 {
		return m, invalid("it is from 1 to 65535", "port is invalid")
	}
	m.IP, m.Port = addr.Unmap(), uint16(ip.GetPort())
	m.BasePath, err = readBasePath(ip.GetUrlPath())
	return m, err
}

// readBasePath takes "", "/" and "/NAME/" as people write them.
func readBasePath(p string) (string, error) {
	p = strings.TrimRight(p, "/")
	if p == "" {
		return "", nil
	}
	if err := model.ValidBasePath(p); err != nil {
		return "", invalid("write /NAME, or nothing", "url_path is refused: %v", err)
	}
	return p, nil
}
