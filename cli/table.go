package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	pb "github.com/fnlb/fnlb/proto/rollout/lb"
)

// The colours of a terminal.
const (
	header = "\x1b[4;32m" // green and underlined
	first  = "\x1b[33m"   // yellow
	normal = "\x1b[0m"
)

// colours reports whether out is a terminal whose user wants colours (no-color.org).
func colours(out *os.File) bool {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return err == nil && os.Getenv("NO_COLOR") == ""
}

type row [2]string

// show prints how a pool is.
func show(out io.Writer, s settings, health *pb.PoolHealth, coloured bool) error {
	if s.json {
		return showJSON(out, s.pattern, health)
	}
	text := table([]row{{"Pool", "Status"}, {s.pattern, health.GetStatus().String()}}, coloured)
	backends := []row{{"Backend", "Status"}}
	for _, b := range health.GetBackends() {
		backends = append(backends, row{address(b.GetBackend().GetIpBackend()), b.GetStatus().String()})
	}
	_, err := io.WriteString(out, text+table(backends, coloured))
	return err
}

// table pads every cell by two spaces, the last ones too.
func table(rows []row, coloured bool) string {
	var widths [2]int
	for _, r := range rows {
		for i, cell := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for n, r := range rows {
		for i, cell := range r {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2)
			switch {
			case coloured && n == 0:
				cell = header + cell + normal
			case coloured && i == 0:
				cell = first + cell + normal
			}
			b.WriteString(cell + pad)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func address(b *pb.IPBackend) string {
	return net.JoinHostPort(b.GetIp(), strconv.Itoa(int(b.GetPort()))) + b.GetUrlPath()
}

type shownBackend struct {
	Backend string `json:"backend"` // HOST:PORT
	URLPath string `json:"url_path"`
	Status  string `json:"status"`
}

func showJSON(out io.Writer, pattern string, health *pb.PoolHealth) error {
	backends := []shownBackend{}
	for _, b := range health.GetBackends() {
		ip := b.GetBackend().GetIpBackend()
		backends = append(backends, shownBackend{net.JoinHostPort(ip.GetIp(), strconv.Itoa(int(ip.GetPort()))), ip.GetUrlPath(), b.GetStatus().String()})
	}
	data, err := json.Marshal(struct {
		Pattern  string         `json:"pattern"`
		Status   string         `json:"status"`
		Backends []shownBackend `json:"backends"`
	}{pattern, health.GetStatus().String(), backends})
	if err == nil {
		_, err = fmt.Fprintf(out, "%s\n", data)
	}
	return err
}
