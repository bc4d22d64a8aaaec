package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	pb "github.com/fnlb/fnlb/proto/rollout/lb"
)

func with(ip string, port int32, path string, s pb.BackendStatus) *pb.BackendHealth {
	return &pb.BackendHealth{Status: s, Backend: &pb.Backend{Backend: &pb.Backend_IpBackend{IpBackend: &pb.IPBackend{Ip: ip, Port: port, UrlPath: path}}}}
}

func degraded() *pb.PoolHealth {
	return &pb.PoolHealth{Status: pb.PoolStatus_PS_DEGRADED, Backends: []*pb.BackendHealth{
		with("fd00::1", 8082, "/v2", pb.BackendStatus_BS_HEALTHY), with("10.0.0.1", 80, "", pb.BackendStatus_BS_SICK),
	}}
}

// TestTables: two spaces stand behind every column, the last one too.
func TestTables(t *testing.T) {
	full := &pb.PoolHealth{Status: pb.PoolStatus_PS_FULL, Backends: []*pb.BackendHealth{
		with("127.0.0.1", 8082, "", pb.BackendStatus_BS_HEALTHY), with("127.0.0.1", 8083, "", pb.BackendStatus_BS_HEALTHY),
	}}
	const g, y, n = "\x1b[4;32m", "\x1b[33m", "\x1b[0m"
	for _, test := range []struct {
		name     string
		pattern  string
		health   *pb.PoolHealth
		coloured bool
		json     bool
		want     string
	}{
		{"documented", "/", full, false, false, "" +
			"Pool  Status   \n" +
			"/     PS_FULL  \n" +
			"Backend         Status      \n" +
			"127.0.0.1:8082  BS_HEALTHY  \n" +
			"127.0.0.1:8083  BS_HEALTHY  \n"},
		{"empty", "/", &pb.PoolHealth{Status: pb.PoolStatus_PS_EMPTY}, false, false, "" +
			"Pool  Status    \n" +
			"/     PS_EMPTY  \n" +
			"Backend  Status  \n"},
		{"degraded", "example.com/a/", degraded(), false, false, "" +
			"Pool            Status       \n" +
			"example.com/a/  PS_DEGRADED  \n" +
			"Backend            Status      \n" +
			"[fd00::1]:8082/v2  BS_HEALTHY  \n" +
			"10.0.0.1:80        BS_SICK     \n"},
		{"wide letters", "/ü", &pb.PoolHealth{Status: pb.PoolStatus_PS_EMPTY}, false, false, "" +
			"Pool  Status    \n" +
			"/ü    PS_EMPTY  \n" +
			"Backend  Status  \n"},
		{"coloured", "/", full, true, false, "" +
			g + "Pool" + n + "  " + g + "Status" + n + "   \n" +
			y + "/" + n + "     PS_FULL  \n" +
			g + "Backend" + n + "         " + g + "Status" + n + "      \n" +
			y + "127.0.0.1:8082" + n + "  BS_HEALTHY  \n" +
			y + "127.0.0.1:8083" + n + "  BS_HEALTHY  \n"},
		{"nothing", "/", nil, false, false, "" +
			"Pool  Status      \n" +
			"/     PS_UNKNOWN  \n" +
			"Backend  Status  \n"},
		{"json", "/a\"b", degraded(), true, true, `{"pattern":"/a\"b","status":"PS_DEGRADED","backends":[` +
			`{"backend":"[fd00::1]:8082","url_path":"/v2","status":"BS_HEALTHY"},{"backend":"10.0.0.1:80","url_path":"","status":"BS_SICK"}]}` + "\n"},
		{"empty json", "/", &pb.PoolHealth{Status: pb.PoolStatus_PS_EMPTY}, false, true, `{"pattern":"/","status":"PS_EMPTY","backends":[]}` + "\n"},
	} {
		var b bytes.Buffer
		if err := show(&b, settings{pattern: test.pattern, json: test.json}, test.health, test.coloured); err != nil || b.String() != test.want {
			t.Errorf("%s: %v, got\n%q, want\n%q", test.name, err, b.String(), test.want)
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space") }

// TestFullDisk: what cannot be printed is an error.
func TestFullDisk(t *testing.T) {
	for _, json := range []bool{false, true} {
		if err := show(full{}, settings{json: json}, degraded(), false); err == nil {
			t.Errorf("json %t: no error", json)
		}
	}
}

// TestNoTerminal: a pipe and a file have no colours.
func TestNoTerminal(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if colours(f) {
		t.Error("a file is taken for a terminal")
	}
}

// TestParse: one dash and two, = and a space, and the command at any place.
func TestParse(t *testing.T) {
	want := settings{lb: "h:1", pattern: "/a", ip: "::1", port: 80, urlPath: "/v2", command: "addBackend"}
	for _, args := range []string{
		"--lb=h:1 --pattern=/a --ip=::1 --port=80 --url_path=/v2 addBackend",
		"-lb h:1 -pattern /a -ip ::1 -port 80 -url_path /v2 addBackend",
		"addBackend --lb=h:1 --pattern=/a --ip=::1 --port=80 --url_path=/v2",
		"--lb=h:1 addBackend --pattern=/a --ip=::1 --port=80 --url_path=/v2",
	} {
		if got, err := parse(strings.Fields(args), nil); err != nil || got != want {
			t.Errorf("%s: %+v, %v", args, got, err)
		}
	}
}
