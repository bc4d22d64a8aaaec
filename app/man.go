package app

import (
	"fmt"
	"io"
	"strings"

	"github.com/fnlb/fnlb/config"
)

// man prints the manual page, in the macros of man(7): fnlb man | man -l -
func man(c *call) error {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH FNLB 1 \"\" %s \"\"\n", roffWord("fnlb "+config.FullVersion()))
	b.WriteString(".SH NAME\nfnlb \\- finds backends and keeps HAProxy serving them\n")
	b.WriteString(".SH SYNOPSIS\n.B fnlb\n[\\fICOMMAND\\fR] [\\fIflags\\fR]\n")
	b.WriteString(".SH DESCRIPTION\n" + roff("fnlb puts HAProxy in front of nodes and containers and keeps it right while they come, go, fail and recover. "+
		"HAProxy carries every byte of traffic; fnlb writes its configuration, checks it, starts and reloads it, watches it, and answers the node API below /1/lb/. "+
		"When fnlb dies, traffic goes on."))
	b.WriteString(".SH COMMANDS\n")
	for _, cmd := range commands() {
		head := "\\fBfnlb " + roffText(cmd.name) + "\\fR"
		if cmd.args != "" {
			head += " " + roffText(strings.Join(strings.Fields(cmd.args), " "))
		}
		about := cmd.about
		if cmd.json {
			about += "; with --json as JSON"
		}
		fmt.Fprintf(&b, ".TP\n%s\n%s", head, roff(about))
	}
	b.WriteString(".SH FLAGS\n" + roff("With one or two dashes, = or a space before the value. All commands take them, so that they tell what a balancer with these flags would do. "+
		"TIME is whole seconds or a duration such as 500ms. A flag beats its twin in the environment."))
	for _, f := range config.Flags() {
		fmt.Fprintf(&b, ".TP\n\\fB%s\\fR \\fI%s\\fR, environment \\fB%s\\fR\n%s", roffText("--"+f.Name), roffText(f.Value), roffText(f.Env), roff(f.Usage))
	}
	b.WriteString(".SH ENVIRONMENT\n")
	for _, v := range [][2]string{
		{"LOG_LEVEL", "debug, info, warn or error; anything else means info."},
		{"NO_COLOR", "no colours on a terminal."},
		{"DOCKER_HOST, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH, DOCKER_API_VERSION", "the Docker engine, as for docker itself."},
		{"LB_STATS_PORT, CHECK_TIME, HAPROXY_PID_FILE, HAPROXY_SOCK_FILE", "those of docker-loadbalancer."},
		{dropVariable, "the user, by number, that a process of root with that group becomes; the image sets it."},
	} {
		fmt.Fprintf(&b, ".TP\n\\fB%s\\fR\n%s", roffText(v[0]), roff(v[1]))
	}
	b.WriteString(".SH SIGNALS\n")
	for _, v := range [][2]string{
		{"SIGTERM, SIGINT, SIGQUIT", "drain and stop; a second one cuts what still runs."},
		{"SIGHUP", "read template and certificate again."},
	} {
		fmt.Fprintf(&b, ".TP\n\\fB%s\\fR\n%s", v[0], roff(v[1]))
	}
	b.WriteString(".SH EXIT STATUS\n" + roff("0 done; 1 it ran and failed; 2 wrong use. Those of fnlb diff are those of diff(1)."))
	b.WriteString(".SH SEE ALSO\n.BR haproxy (1)\n")
	_, err := io.WriteString(c.Stdout, b.String())
	return err
}

// roff is one paragraph of running text: a line, which must not begin as a request does.
func roff(s string) string {
	s = roffText(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s + "\n"
}

// roffText escapes what troff reads as its own; a dash that is to be typed is a minus.
func roffText(s string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", `\[u2026]`, "'", `\(aq`, "\n", " ").Replace(s)
}

// roffWord is one argument of a request.
func roffWord(s string) string { return `"` + strings.ReplaceAll(roffText(s), `"`, `\(dq`) + `"` }
