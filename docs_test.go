package main

import (
	"bytes"
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/api/rest"
	"github.com/fnlb/fnlb/app"
	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/discovery/docker"
	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/templates"
)

func readText(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// sources calls do for every file of the repository with that ending, less what is built or installed.
func sources(t *testing.T, ending string, do func(path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "testdata" || d.Name() == "bin"):
			return fs.SkipDir
		case strings.HasSuffix(path, ending):
			do(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var (
	flagRow     = regexp.MustCompile("(?m)^\\| `--([a-z-]+) ([A-Z.:]+)` \\|(?: `([^`]*)`)? \\| ")
	helpFlag    = regexp.MustCompile(`(?m)^  --([a-z-]+) (\S+)`)
	helpDefault = regexp.MustCompile(`\(default (\S+)\)$`)
	helpCommand = regexp.MustCompile(`(?m)^  ([a-z]+)  `)
	linkTarget  = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading     = regexp.MustCompile(`(?m)^#+ (.+)$`)
	testName    = regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")
	packageTest = regexp.MustCompile("([a-z0-9/]+)\\s((?:`(?:Test|Fuzz)\\w+`(?:,\\s)?)+)")
	fence       = regexp.MustCompile("(?s)\n```\n(.*?)```\n")
)

// TestFlagsInREADME: the table has every flag in the order of the help, with its placeholder, and each default is what holds
// when the flag is left out.
func TestFlagsInREADME(t *testing.T) {
	var help bytes.Buffer
	if err := config.Help(&help); err != nil {
		t.Fatal(err)
	}
	host := config.Host{Env: func(string) (string, bool) { return "", false }, TempDir: "/tmp",
		Writable: func(string) bool { return false }, Exists: func(string) bool { return false }, Socket: func(string) bool { return false }}
	parse := func(args ...string) config.Settings {
		s, _, err := config.Parse(args, host, func(*flag.FlagSet) {})
		if err != nil {
			t.Errorf("%v: %v", args, err)
		}
		return s
	}
	rows := flagRow.FindAllStringSubmatch(readText(t, "README.md"), -1)
	entries := helpFlag.FindAllStringSubmatchIndex(help.String(), -1)
	if len(rows) != len(entries) || len(rows) != len(config.Names()) {
		t.Fatalf("README has %d flags, the help %d, config %d", len(rows), len(entries), len(config.Names()))
	}
	for i, at := range entries {
		end := help.Len()
		if i+1 < len(entries) {
			end = entries[i+1][0]
		}
		entry := strings.Join(strings.Fields(help.String()[at[0]:end]), " ")
		name, value, def := rows[i][1], rows[i][2], rows[i][3]
		if !strings.HasPrefix(entry, "--"+name+" "+value+" ") {
			t.Errorf("README has --%s %s where the help has %s", name, value, entry)
			continue
		}
		said := ""
		if m := helpDefault.FindStringSubmatch(entry); m != nil {
			said = m[1]
		}
		if said != def && !(said == "" && def == "0") { // the help tells no default that is 0 or nothing
			t.Errorf("--%s: README's default is %q, the help's %q", name, def, said)
		}
		asked := parse("--" + name + "=" + def)
		asked.Unasked = parse().Unasked // that is the one difference that asking for the default makes
		if !reflect.DeepEqual(asked, parse()) {
			t.Errorf("--%s=%s is another setting than none", name, def)
		}
	}
}

// TestREADMENames: every command of the help and every management path stands in README.
func TestREADMENames(t *testing.T) {
	text := readText(t, "README.md")
	for _, p := range rest.Paths() {
		if !strings.Contains(text, "| `"+p+"` |") {
			t.Errorf("README's table of management paths lacks %s", p)
		}
	}
	var help, errs bytes.Buffer
	if code := app.Main(app.Program{Args: []string{"--help"}, Env: os.LookupEnv, Stdout: &help, Stderr: &errs}); code != 0 {
		t.Fatalf("--help: exit code %d, %s", code, &errs)
	}
	commands := helpCommand.FindAllStringSubmatch(help.String(), -1)
	if len(commands) == 0 {
		t.Errorf("no command in %s", &help)
	}
	for _, c := range commands {
		if !strings.Contains(text, "`fnlb "+c[1]) {
			t.Errorf("README lacks the command %s", c[1])
		}
	}
	if !strings.Contains(text, "\n<!-- figures -->\n") {
		t.Error("README lacks the place of the figures")
	}
	for i, line := range strings.Split(fence.FindString(text[strings.Index(text, "## How it works"):]), "\n") {
		if len(line) > 80 {
			t.Errorf("line %d of the diagram is wider than 80 columns", i)
		}
	}
}

// TestLinks: each relative link leads to a file or folder that is there, and to a heading of it.
func TestLinks(t *testing.T) {
	sources(t, ".md", func(path string) {
		for _, m := range linkTarget.FindAllStringSubmatch(readText(t, path), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			name, fragment, _ := strings.Cut(m[1], "#")
			target := filepath.Join(filepath.Dir(path), filepath.FromSlash(name))
			if name == "" {
				target = path
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", path, m[1], err)
				continue
			}
			if fragment != "" && !slices.Contains(anchors(readText(t, target)), fragment) {
				t.Errorf("%s links to %s: there is no such heading", path, m[1])
			}
		}
	})
}

// anchors gives the headings as fragments.
func anchors(text string) []string {
	var out []string
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		out = append(out, strings.ReplaceAll(strings.ToLower(strings.Trim(m[1], " ")), " ", "-"))
	}
	return out
}

// TestArchitecture: every package, every dependency of ours and only tests that exist stand in ARCHITECTURE.md.
func TestArchitecture(t *testing.T) {
	text := readText(t, "ARCHITECTURE.md")
	tests := map[string]string{} // by folder, the text of its tests
	packages, imported := map[string]bool{}, map[string]bool{}
	sources(t, ".go", func(path string) {
		dir := filepath.ToSlash(filepath.Dir(path))
		if strings.HasSuffix(path, "_test.go") {
			tests[dir] += readText(t, path)
		} else {
			packages[dir] = true
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if first, _, _ := strings.Cut(name, "/"); strings.Contains(first, ".") && !strings.HasPrefix(name, module) {
				imported[name] = true
			}
		}
	})
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		if dir != "." && !strings.HasPrefix(dir, "bench/") && !strings.Contains(text, "["+dir+"]") && !strings.Contains(text, "`"+dir+"`") {
			t.Errorf("ARCHITECTURE.md lacks the folder %s", dir)
		}
	}
	for line := range strings.Lines(readText(t, "go.mod")) {
		name := strings.Fields(strings.TrimPrefix(line, "require") + " -")[0]
		direct := slices.ContainsFunc(slices.Collect(maps.Keys(imported)), func(p string) bool { return p == name || strings.HasPrefix(p, name+"/") })
		if direct != strings.Contains(text, "| `"+name+"` |") {
			t.Errorf("module %s: used by us %v, and ARCHITECTURE.md says otherwise", name, direct)
		}
	}
	namedTests(t, "ARCHITECTURE.md", tests)
	namedTests(t, "THREAT_MODEL.md", tests)
}

// namedTests: every test that a document names stands behind its package, and exists.
func namedTests(t *testing.T, document string, tests map[string]string) {
	t.Helper()
	text, named := readText(t, document), 0
	for _, m := range packageTest.FindAllStringSubmatch(text, -1) {
		for _, name := range testName.FindAllStringSubmatch(m[2], -1) {
			named++
			if !strings.Contains(tests[m[1]], "\nfunc "+name[1]+"(") {
				t.Errorf("%s names %s of %s, which is not there", document, name[1], m[1])
			}
		}
	}
	if all := len(testName.FindAllString(text, -1)); named != all || named == 0 {
		t.Errorf("%s names %d tests, %d of them behind their package", document, all, named)
	}
}

// TestTemplateFields: docs/templates.md lists every field and function that a template has.
func TestTemplateFields(t *testing.T) {
	text := readText(t, "docs/templates.md")
	seen := map[reflect.Type]bool{}
	var walk func(of reflect.Type, path string)
	walk = func(of reflect.Type, path string) {
		for of.Kind() == reflect.Slice {
			of, path = of.Elem(), path+"[]"
		}
		if of.Kind() != reflect.Struct || seen[of] {
			return
		}
		seen[of] = true
		for _, f := range reflect.VisibleFields(of) {
			name := path + "." + f.Name
			if f.Type.Kind() != reflect.Struct && !strings.Contains(text, "`"+name+"`") {
				t.Errorf("docs/templates.md lacks %s", name)
			}
			walk(f.Type, name)
		}
	}
	walk(reflect.TypeFor[templates.Data](), "")
}

var update = flag.Bool("update", false, "write the tables of documents that the code knows")

// TestLabelsInDocs: docs/docker.md has the table of labels as it is, and the rules that are numbers elsewhere.
func TestLabelsInDocs(t *testing.T) {
	var table strings.Builder
	table.WriteString("| label | value | default | what it does |\n|---|---|---|---|\n")
	for _, l := range docker.Labels() {
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", l.Name, l.Values, l.Default, l.Does)
	}
	const page, begin, end = "docs/docker.md", "<!-- labels: written by go test . -run TestLabelsInDocs -update -->\n", "<!-- end of labels -->"
	old := readText(t, page)
	head, rest, ok := strings.Cut(old, begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no part for the labels", page)
	}
	if text := head + begin + table.String() + end + tail; text != old {
		if !*update {
			t.Fatalf("%s is out of date (go test . -run TestLabelsInDocs -update writes it)", page)
		}
		if err := os.WriteFile(page, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTemplateExample: the template in docs/templates.md renders, and every HAProxy accepts its text.
func TestTemplateExample(t *testing.T) {
	blocks := fence.FindAllStringSubmatch(readText(t, "docs/templates.md"), -1)
	if len(blocks) == 0 {
		t.Fatal("docs/templates.md has no example")
	}
	tmpl, err := templates.Parse("example", []byte(blocks[len(blocks)-1][1]))
	if err != nil {
		t.Fatal(err)
	}
	settings, _, err := config.Parse(nil, config.Host{Env: func(string) (string, bool) { return "", false }, TempDir: "/tmp",
		Writable: func(string) bool { return false }, Exists: func(string) bool { return false }, Socket: func(string) bool { return false }}, func(*flag.FlagSet) {})
	if err != nil {
		t.Fatal(err)
	}
	offer := settings.Pool("")
	for i, ip := range []string{"192.0.2.1", "2001:db8::1"} {
		offer.Servers = append(offer.Servers, model.Server{Service: config.PoolService, Name: "node" + strconv.Itoa(i), IP: netip.MustParseAddr(ip), Port: 80})
	}
	state, problems := model.Merge([]model.Offer{offer})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		stateFile := filepath.Join(t.TempDir(), "servers.state")
		if err := os.WriteFile(stateFile, []byte("1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := tmpl.Render(state, templates.Globals{StateFile: stateFile, HardStop: time.Minute, ManagementSocket: "/m.sock",
			ManagementPaths: rest.Paths(), PidFile: "/p", SockFile: "/s"}, conf.Abilities{Major: 2, Minor: 6})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Check(t, string(b.Main)); err != nil {
			t.Errorf("%v\n%s", err, b.Main)
		}
	})
}
