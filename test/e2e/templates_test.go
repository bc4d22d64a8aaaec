package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/test/load"
)

// writeFile writes a file in place.
func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// mustDo fails the test with an error.
func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestTemplateFaults is fault row 3: whatever happens to the template, what ran goes on without a failed request, nodes still come and
// go, the place is told, and the next good one is loaded by itself.
func TestTemplateFaults(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := append(three(t), NewNode(t, "d"))
		dir := TempDir(t)
		tmpl := filepath.Join(dir, "haproxy.tmpl")
		touchTemplate(t, tmpl, 0)
		b := Start(t, h, "--nodes", list(n[:3]...), "--template", tmpl)
		b.WaitOnline(n[:3]...)
		b.WaitApplied()
		good := 0
		loads := func(replace func(path string)) {
			t.Helper()
			good++
			mark := len(b.Log())
			next := filepath.Join(dir, fmt.Sprintf("next%d", good))
			touchTemplate(t, next, good)
			replace(next)
			b.WaitLog(mark, "msg=reloaded")
			b.WaitStatus(func(st model.Status) bool { return len(st.Degraded) == 0 && len(st.Problems) == 0 })
			if text, err := os.ReadFile(filepath.Join(b.Dir, "haproxy.cfg")); err != nil || !strings.Contains(string(text), fmt.Sprintf("# change %d\n", good)) {
				t.Errorf("change %d is not in force, %v", good, err)
			}
		}
		rename := func(path string) { mustDo(t, os.Rename(path, tmpl)) }
		result := underLoad(t, b.Traffic, func() {
			for i, c := range []struct{ text, want string }{
				{"global\n{{if}}\n", tmpl + ":2: missing value for if; line 2 is"},
				{"global\n\n  {{.Nothing}}\n", "haproxy.tmpl:3:4: executing"},
				{"\n{{range 1000000000000}}{{end}}", tmpl + ":2: it ran for more than 5s"},
				{"\n{{range 1048576}}" + strings.Repeat("x", 1024) + "{{end}}", tmpl + ":2: its text has more than 67108864 bytes"},
				{"{{define \"a\"}}{{template \"a\"}}{{end}}\n{{template \"a\"}}", tmpl + ":1: templates call each other"},
				{"\n{{$x := printf \"%1000000000d\" 1}}{{range 99}}{{$x = print $x $x}}{{end}}", tmpl + ":2:"},
				{"# {{range $port, $backends := .}}\n{{end}}", "write {{range .Services}}"},
				{"global\n{{range .Services}}\n  bogus {{.Publish.Port}}\n{{end}}", "from " + tmpl + ":3"},
				{"\n\n" + strings.Repeat("{{if 1}}", (1<<20)/8-1), "unexpected EOF"}, // it parses as deep as it can
				{"", "it is empty"},
			} {
				mark := len(b.Log())
				writeFile(t, tmpl, c.text)
				b.WaitLog(mark, "what ran goes on", "error=", strings.ReplaceAll(c.want, `"`, `\"`))
				b.WaitStatus(func(st model.Status) bool {
					return len(st.Degraded) == 1 && len(st.Problems) == 1 && strings.Contains(st.Problems[0].Reason, c.want) && st.Problems[0].Place.Template == tmpl
				})
				if i == 0 { // nodes still change, with the template in force
					b.Put(n[3].Addr)
					b.WaitOnline(n...)
				}
			}
			loads(rename)
			// It is deleted: the last one stays, and that is told once.
			mark := len(b.Log())
			mustDo(t, os.Remove(tmpl))
			b.WaitLog(mark, "what ran goes on", "no such file")
			b.Delete(n[3].Addr)
			b.WaitOnline(n[:3]...)
			b.WaitStatus(func(st model.Status) bool { return len(st.Degraded) == 1 })
			if told := strings.Count(b.Log()[mark:], "no such file"); told != 1 {
				t.Errorf("that it is gone was told %d times", told)
			}
			loads(rename)
			// Symlinks are swapped, as Kubernetes does.
			for i := range 2 {
				loads(func(next string) {
					version := filepath.Join(dir, fmt.Sprintf("..%d", i))
					mustDo(t, os.Mkdir(version, 0o755))
					mustDo(t, os.Rename(next, filepath.Join(version, "haproxy.tmpl")))
					mustDo(t, os.Symlink(filepath.Base(version), filepath.Join(dir, "..tmp")))
					mustDo(t, os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")))
					if i == 0 {
						mustDo(t, os.Remove(tmpl))
						mustDo(t, os.Symlink("..data/haproxy.tmpl", tmpl))
					}
				})
			}
			// It is half-written, and the other half comes.
			loads(func(next string) {
				text, err := os.ReadFile(next)
				mustDo(t, err)
				cut := strings.Index(string(text), ".Management.Paths}}") + 3 // within an action
				mark := len(b.Log())
				mustDo(t, os.WriteFile(tmpl, text[:cut], 0o644))
				b.WaitLog(mark, "what ran goes on", "haproxy.tmpl:")
				mustDo(t, os.WriteFile(tmpl, text, 0o644))
			})
		})
		t.Log(result)
	})
}

// TestPlace: what HAProxy refuses is told with the line of the text and the template's line that made it, in Status and in the changes.
func TestPlace(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		tmpl := filepath.Join(TempDir(t), "haproxy.tmpl")
		touchTemplate(t, tmpl, 0)
		b := Start(t, h, "--nodes", n.Addr, "--template", tmpl)
		b.WaitOnline(n)
		b.WaitApplied()
		mark := len(b.Log())
		writeFile(t, tmpl, "userlist u\n{{range .Services}}{{range .Backends}}\n  user {{.Name}} insecure-password hunter2 bogus\n{{end}}{{end}}")
		b.WaitLog(mark, "refused", "what ran goes on", tmpl+":3")
		want := model.Place{
			ConfigLine: 3, ConfigText: "user " + n.Addr + " insecure-password ******** bogus",
			Template: tmpl, TemplateLine: 3, TemplateText: "user {{.Name}} insecure-password ********",
		}
		b.WaitStatus(func(st model.Status) bool { return len(st.Problems) == 1 && st.Problems[0].Place == want })
		var answer struct{ Changes []model.Apply }
		if err := b.Get("/1/lb/changes", &answer); err != nil {
			t.Fatal(err)
		}
		if changes := answer.Changes; len(changes) == 0 || len(changes[0].Places) != 1 || changes[0].Places[0] != want || !strings.Contains(changes[0].Error, "only supports") {
			t.Errorf("%+v", answer)
		}
		if strings.Contains(b.Log(), "hunter2") {
			t.Error("the log has the password")
		}
	})
}

// reference is the template of docker-loadbalancer's own documentation, as it stands.
func reference(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../templates/testdata/docker-loadbalancer.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestReferenceTemplate: it loads as it stands and serves, with everything in it that is a trap: daemon, a statistics socket of few
// rights, servers without check, no state file, and a directive that HAProxy has dropped.
func TestReferenceTemplate(t *testing.T) {
	withoutSocket := func(text string) string {
		at := strings.Index(text, "   stats socket")
		return text[:at] + text[at+strings.Index(text[at:], "\n")+1:]
	}
	for name, change := range map[string]func(string) string{
		"as it stands":         func(text string) string { return text },
		"no statistics socket": withoutSocket,
		"rights of an operator": func(text string) string {
			return strings.Replace(text, "level user", "level operator", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, h haproxytest.HAProxy) {
				n, m, late := NewNode(t, "a"), NewNode(t, "b"), NewNode(t, "c")
				old := `{"version":"0.0.1"}`
				late.Version.Store(&old)
				etag := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("ETag", `"x"`)
					w.Header().Set("X-Other", "y")
				})
				n.Handler.Store(&etag)
				m.Handler.Store(&etag)
				tmpl := filepath.Join(TempDir(t), "haproxy.tmpl")
				writeFile(t, tmpl, change(reference(t)))
				b := Start(t, h, "--nodes", n.Addr, "--template", tmpl)
				b.WaitLog(0, "haproxy started")
				b.WaitOnline(n)
				line := strings.Count(change(reference(t))[:strings.Index(change(reference(t)), "rspdel")], "\n") + 1
				b.WaitLog(0, "level=WARN", fmt.Sprintf("%s:%d", tmpl, line), "rspdel ^ETag:.*", "http-response del-header ETag")

				resp, err := http.Get("http://" + b.Traffic + "/x")
				mustDo(t, err)
				mustDo(t, resp.Body.Close())
				if resp.StatusCode != http.StatusOK || resp.Header.Get("Etag") != "" || resp.Header.Get("X-Other") != "y" {
					t.Errorf("%d %v", resp.StatusCode, resp.Header)
				}

				// Without checks of HAProxy our gate is all the health there is: who never passed it gets nothing.
				freshLoad(t, b.Traffic, func() {
					b.Put(m.Addr)
					b.WaitOnline(n, m)
					b.Put(late.Addr)
					b.WaitStatus(func(st model.Status) bool { return len(st.Servers) == 3 })
					if nodes, err := b.Nodes(); err != nil || nodes[late.Addr] != "offline" || nodes[m.Addr] != "online" {
						t.Errorf("%v, %v", nodes, err)
					}
					b.Delete(n.Addr) // the client of a stick table goes to another one
					b.WaitStatus(func(st model.Status) bool { return len(st.Servers) == 2 && st.Wanted == st.Applied })
				})
				if status, node, _ := fetch(t, b.Traffic, "/x"); status != 200 || node != "b" {
					t.Errorf("%d from %q", status, node)
				}
				b.Delete(late.Addr)
				b.WaitOnline(m)
				if late.Requests.Load() > 0 {
					t.Error("a node that has not passed its first check got a request")
				}

				// The warning is a problem to mend, told once, and nothing is degraded.
				st := b.WaitApplied()
				if len(st.Degraded) > 0 || len(st.Problems) != 1 || st.Problems[0].Place.TemplateLine != line || !strings.Contains(st.Problems[0].Mend, "http-response del-header ETag") {
					t.Errorf("degraded %v, problems %+v", st.Degraded, st.Problems)
				}
				if told := strings.Count(b.Log(), "rspdel"); told != 1 {
					t.Errorf("the directive was told %d times", told)
				}
				text, err := os.ReadFile(filepath.Join(b.Dir, "haproxy.cfg"))
				mustDo(t, err)
				if strings.Contains(string(text), "listen stats") || !strings.Contains(string(text), "daemon") {
					t.Error("the text is not what the template gives with .Stats off")
				}
				if parent := parentOf(t, st.HAProxy.Master); parent != b.Cmd.Process.Pid {
					t.Errorf("the master's parent is %d: it has gone into the background", parent)
				}
				stopClean(t, b, st.HAProxy.Master, st.HAProxy.Worker)
			})
		})
	}
}

// freshLoad is underLoad with a connection for each request: a template without idle-close-on-response cannot keep connections whole.
func freshLoad(t *testing.T, addr string, f func()) {
	t.Helper()
	stop := Load(t, addr, []load.Group{{Workers: 4, Think: 5 * time.Millisecond}})
	f()
	if result := stop(); result.Failed > 0 {
		t.Errorf("%d requests failed of %s", result.Failed, result)
	}
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var parent int
	_, rest, _ := strings.Cut(string(stat), ") ")
	if _, err := fmt.Sscanf(rest, "%c %d", new(rune), &parent); err != nil {
		t.Fatal(err)
	}
	return parent
}

// TestTemplateWithoutManagement: a template that leaves the management rule out takes /1/lb/ from the traffic port only. That is told,
// and the admin socket always answers.
func TestTemplateWithoutManagement(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		tmpl := filepath.Join(TempDir(t), "haproxy.tmpl")
		writeFile(t, tmpl, reference(t))
		addr := fmt.Sprintf("127.0.0.1:%d", haproxytest.FreePort(t))
		b := &Balancer{T: t, Dir: TempDir(t), Traffic: addr, Mgmt: addr}
		b.Run(h, "--nodes", n.Addr, "--template", tmpl)
		b.WaitLog(0, "level=WARN", "it has no rule for /1/lb/", "--mgmt-listen")
		admin := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(b.Dir, "admin.sock"))
		}}}
		b.Eventually(func() string {
			resp, err := admin.Get("http://localhost/1/lb/status")
			if err != nil {
				return err.Error()
			}
			var st model.Status
			err = json.NewDecoder(resp.Body).Decode(&st)
			mustDo(t, resp.Body.Close())
			if err != nil || len(st.Servers) != 1 || st.Servers[0].Health != model.Up || len(st.Problems) != 2 || len(st.Degraded) != 0 {
				return fmt.Sprintf("%+v, %v", st, err)
			}
			return ""
		})
		if status, node, _ := fetch(t, addr, "/1/lb/nodes"); status != 200 || node != "a" {
			t.Errorf("/1/lb/nodes on the traffic port: %d from %q", status, node)
		}
		mark := len(b.Log())
		touchTemplate(t, tmpl, 1) // the built-in one has the rule
		b.Signal(syscall.SIGHUP)
		b.WaitLog(mark, "msg=reloaded")
		b.WaitOnline(n)
		if st := b.WaitApplied(); len(st.Problems) != 0 {
			t.Errorf("%+v", st.Problems)
		}
	})
}
