package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// directives are groups of fnlb's directives that are left out one at a time; a line that matches goes.
var directives = []struct{ name, pattern, instead string }{ // instead stands in place of the first of them
	{"idle-close-on-response", `^option idle-close-on-response`, ""},
	{"retry-on", `^(retry-on|http-request disable-l7-retry)\b`, ""},
	{"retries, redispatch", `^(retries|option redispatch)\b`, ""},
	{"forwardfor", `^option forwardfor`, ""},
	{"forwarded headers", `^http-request del-header (X-Forwarded-|Forwarded|X-Real-IP)\b`, ""},
	{"Proxy, XXX-FXLB-WAIT", `^http-re(quest|sponse) del-header (Proxy|XXX-FXLB-WAIT)\b`, ""},
	{"Connection rules", `^(acl upgrade|http-request (set-header Connection|del-header (Connection|Upgrade)))\b`, ""},
	{"all header rules", `^(acl upgrade|http-re(quest|sponse) (del|set)-header|option forwardfor)\b`, ""},
	{"CONNECT rule", `^http-request deny .*METH_CONNECT`, ""},
	{"TCP keep-alive", `^(option (clitcpka|srvtcpka)|clitcpka-|srvtcpka-)`, ""},
	{"timeouts", `^timeout (http-request|http-keep-alive|queue)\b`, ""},
	{"ignore-probes, dontlognull", `^option (http-ignore-probes|dontlognull)`, ""},
	{"JSON error bodies", `^http-error\b`, ""},
	{"load feedback", `^(balance hash|stick-table|acl wait_|http-re(quest|sponse) (allow|track-sc0|sc-set-gpt0|set-var\(txn\.(key|wait|path|draw|share|said|ms|part|mean)\)))`, "  balance uri path-only"},
	{"all of them", "", ""}, // any of the above
}

type costFigures []versus

func (f costFigures) String() string {
	var t strings.Builder
	fmt.Fprintf(&t, "without …                      CPU per request against all     saved\n")
	for _, v := range f {
		fmt.Fprintf(&t, "%-30s %s    %+.2f µs\n", v.Name, v.CPU, v.TheirsCPU-v.OursCPU)
	}
	return t.String()
}

// cost takes the text that fnlb wrote, and runs HAProxy on it as it is and with single directives left out. The ratio says how
// much cheaper a request is without them: 1.020 means that they cost 2 %.
func (b *bench) cost(ctx context.Context) (any, error) {
	l, err := b.startFnlb("fnlb", balancerCore, b.nodes())
	if err != nil {
		return nil, err
	}
	if err := l.settled(ctx, len(b.nodePorts)); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(b.dir, "fnlb.cfg"))
	if err != nil {
		return nil, err
	}
	if err := l.stop(syscall.SIGTERM, 60*time.Second); err != nil {
		return nil, err
	}
	all, err := b.variant(ctx, string(text), l, "all", 0, nil, "")
	if err != nil {
		return nil, err
	}
	var figures costFigures
	var patterns []string
	for i, d := range directives {
		if d.pattern == "" {
			d.pattern = strings.Join(patterns, "|")
		}
		patterns = append(patterns, d.pattern)
		if !b.only.MatchString(d.name) {
			continue
		}
		side, err := b.variant(ctx, string(text), l, d.name, i+1, regexp.MustCompile(d.pattern), d.instead)
		if err != nil {
			return nil, fmt.Errorf("without %s: %w", d.name, err)
		}
		rounds, err := b.turns(ctx, side, all)
		if err != nil {
			return nil, err
		}
		figures = append(figures, compare(d.name, rounds[0], rounds[1]))
		if err := side.stop(syscall.SIGTERM, 10*time.Second); err != nil {
			return nil, err
		}
	}
	return figures, nil
}

// variant starts HAProxy on a copy of fnlb's text that lacks some lines, or has another one for them. State file and users are fnlb's affair and go as well.
func (b *bench) variant(ctx context.Context, text string, l *balancer, name string, n int, drop *regexp.Regexp, instead string) (*balancer, error) {
	p, err := ports(1)
	if err != nil {
		return nil, err
	}
	never := regexp.MustCompile(`^(server-state-file|load-server-state-from-file|user|group)\b`)
	var kept []string
	dropped := 0
	for line := range strings.SplitSeq(text, "\n") {
		words := strings.TrimSpace(line)
		if drop != nil && drop.MatchString(words) {
			if dropped++; dropped == 1 && instead != "" {
				kept = append(kept, instead)
			}
			continue
		}
		if !never.MatchString(words) {
			kept = append(kept, line)
		}
	}
	if drop != nil && dropped == 0 {
		return nil, fmt.Errorf("fnlb's text has no such line (%s)", drop)
	}
	copied := strings.ReplaceAll(strings.Join(kept, "\n"), fmt.Sprintf("127.0.0.1:%d", l.port), fmt.Sprintf("127.0.0.1:%d", p[0]))
	file := filepath.Join(b.dir, fmt.Sprintf("variant%d.cfg", n))
	if err := os.WriteFile(file, []byte(copied), 0o644); err != nil {
		return nil, err
	}
	side, err := b.startHAProxy(ctx, fmt.Sprintf("variant%d", n), file, p[0])
	if err != nil {
		return nil, err
	}
	side.name = name
	return side, nil
}
