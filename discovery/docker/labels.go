package docker

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/model"
)

// prefix of all labels that are ours.
const prefix = "lb."

// wish is what the labels of one container ask for.
type wish struct {
	enabled bool
	publish uint16
	address netip.Addr // to listen on; invalid: all
	target  uint16     // 0: the one that the container exposes
	cert    string     // file; empty: no TLS
	network string
	check   model.CheckKind
	path    string // of an HTTP check
	weight  model.Weight
	drain   time.Duration // 0: the default limit
}

// Label is one that containers may have.
type Label struct {
	Name, Values, Default, Does string

	set func(w *wish, text string) error // its error says what is wrong and, behind a semicolon, what to write
}

// Labels lists them, in the order of the documentation.
func Labels() []Label { return slices.Clone(labels) }

var labels = []Label{
	{"lb.enable", "`Y` or `N`", "`N`", "makes the container eligible; `y`, `yes`, `true` and `1` mean `Y` too", func(w *wish, text string) (err error) {
		w.enabled, err = yes(text)
		return err
	}},
	{"lb.publish", "port", "none, it is needed", "port that the balancer listens on; containers that publish the same one share its requests", func(w *wish, text string) (err error) {
		w.publish, err = port(text)
		return err
	}},
	{"lb.target", "port", "the single TCP port that the image exposes", "port of the container that takes the requests", func(w *wish, text string) (err error) {
		w.target, err = port(text)
		return err
	}},
	{"lb.dst_addr", "IP address", "all addresses", "address of the balancer to listen on", setAddress},
	{"lb.ssl", "path", "none: plain HTTP", "PEM file with certificate and key, in the balancer's container below a `--cert-dir`: the port speaks TLS, and HTTP/2", func(w *wish, text string) error {
		if text == "" {
			return nil
		}
		if !strings.HasPrefix(text, "/") {
			return errors.New("it is no absolute path; write the path of a PEM file in the balancer's container")
		}
		w.cert = text
		return nil
	}},
	{"lb.network", "name", "the one that the balancer shares, see below", "network by which the balancer reaches the container", func(w *wish, text string) error {
		if !model.ValidName(text) {
			return errors.New("it is no name of a network; docker network ls lists them")
		}
		w.network = text
		return nil
	}},
	{"lb.check", "`off`, `tcp` or a path", "`tcp`", "health check: none, a connection, or GET of a path that must answer with 2xx or 3xx", setCheck},
	{"lb.weight", "0 to 256", "`1`", "share of the requests, against the other containers of the port; 0 takes none but those of clients that it has", func(w *wish, text string) error {
		n, err := strconv.Atoi(text)
		if err != nil {
			return errors.New("it is no number; write one between 0 and 256")
		}
		if w.weight, err = model.NewWeight(n); err != nil {
			return fmt.Errorf("%w; write a number between 0 and 256", err)
		}
		return nil
	}},
	{"lb.drain", "time", "`--drain-timeout`", "how long requests may go on after the container was stopped or removed, as `30` (seconds), `90s` or `5m`", setDrain},
}

func yes(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "y", "yes", "true", "1", "on":
		return true, nil
	case "n", "no", "false", "0", "off", "":
		return false, nil
	}
	return false, errors.New("it is neither Y nor N; write lb.enable=Y")
}

func port(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || text[0] == '+' {
		return 0, errors.New("it is no port; write a number between 1 and 65535")
	}
	return uint16(n), nil
}

func setAddress(w *wish, text string) error {
	if text == "" || text == "*" {
		return nil
	}
	ip, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return errors.New("it is no IP address; write an address of the balancer, or leave the label out for all")
	case ip.Zone() != "", ip.IsMulticast():
		return errors.New("it cannot be listened on; write an address of the balancer, or leave the label out for all")
	}
	if ip = ip.Unmap(); !ip.IsUnspecified() {
		w.address = ip
	}
	return nil
}

func setCheck(w *wish, text string) error {
	switch strings.ToLower(text) {
	case "off":
		w.check = model.CheckOff
		return nil
	case "tcp", "":
		w.check = model.CheckTCP
		return nil
	}
	if !strings.HasPrefix(text, "/") {
		return errors.New("it is neither off nor tcp nor a path; write lb.check=/healthz, for example")
	}
	if err := check.ValidPath(text); err != nil {
		return err
	}
	w.check, w.path = model.CheckHTTP, text
	return nil
}

func setDrain(w *wish, text string) error {
	d, err := time.ParseDuration(text)
	if n, numErr := strconv.ParseUint(text, 10, 32); numErr == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < time.Second || d > 24*24*time.Hour {
		return errors.New("it is no time between 1s and 576h; write seconds (30) or a duration (5m)")
	}
	w.drain = d
	return nil
}

// asks reports whether any label is ours.
func asks(all map[string]string) bool {
	for name := range all {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// read parses the labels of one container. Notes are about labels that mean nothing. The problem, without an owner, says why
// the container cannot take part; of one that does not want to there is none.
func read(all map[string]string) (w wish, notes []string, problem *model.Problem) {
	w.check = model.CheckTCP
	unknown := 0
	for _, name := range sortedKeys(all) {
		if !strings.HasPrefix(name, prefix) || known(name) {
			continue
		}
		if unknown++; unknown > mostNotes {
			continue
		}
		if like := nearest(name); like != "" {
			notes = append(notes, fmt.Sprintf("there is no label %s: did you mean %s?", show(name), like))
		} else {
			notes = append(notes, fmt.Sprintf("there is no label %s", show(name)))
		}
	}
	if more := unknown - mostNotes; more > 0 {
		notes = append(notes, fmt.Sprintf("and %d labels more that there are not", more))
	}
	for _, l := range labels {
		text, ok := all[l.Name]
		if !ok {
			continue
		}
		if err := l.set(&w, text); err != nil && problem == nil {
			reason, mend, _ := strings.Cut(err.Error(), "; ")
			problem = &model.Problem{Kind: model.Invalid, Reason: fmt.Sprintf("label %s=%s: %s", l.Name, show(text), reason), Mend: mend}
		}
	}
	if _, err := yes(all["lb.enable"]); err == nil && !w.enabled {
		return w, notes, nil
	}
	switch {
	case problem != nil:
		return w, notes, problem
	case w.publish == 0:
		return w, notes, &model.Problem{Kind: model.Invalid, Reason: "it has no label lb.publish", Mend: "add lb.publish=PORT, the port that the balancer shall listen on"}
	}
	return w, notes, nil
}

func known(name string) bool {
	return slices.ContainsFunc(labels, func(l Label) bool { return l.Name == name })
}

// mostNotes is how many labels that there are not are named one by one.
const mostNotes = 10

// plain makes a name that the engine gave fit to be read: Docker's own rules for names have changed over time.
func plain(name string) string {
	if model.ValidName(name) {
		return name
	}
	return show(name)
}

// show makes a label's text fit to be read: outside text, of any length, in printable ASCII.
func show(text string) string {
	const most = 60
	if len(text) > most {
		return strconv.QuoteToASCII(text[:most]) + "…"
	}
	return strconv.QuoteToASCII(text)
}

// nearest is the label that somebody may have meant: at most two letters are otherwise.
func nearest(name string) string {
	if len(name) > 40 {
		return ""
	}
	best, least := "", 3
	for _, l := range labels {
		if d := distance(strings.ToLower(name), l.Name); d < least {
			best, least = l.Name, d
		}
	}
	return best
}

// distance is Levenshtein's: how many letters must be put in, taken out or replaced.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
