package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/fnlb/fnlb"

// imports says which of our packages a package may import, and why not others. A package that is not listed fails the test:
// whoever adds one decides its place here.
var imports = []struct {
	pkg  string // a trailing /… means the packages below as well
	may  []string
	why  string
	only string // a prefix of packages from outside that nobody else may import
}{
	{pkg: "", may: []string{"app", "store/open"}, why: "main only hands arguments, signals and the drivers of databases to app"},
	{pkg: "app", may: []string{"…"}, why: "app is the wiring and sees all"},
	{pkg: "app/logwriter", why: "a log that holds nobody up knows nothing of what is logged"},
	{pkg: "config", may: []string{"model", "store"}, why: "flags become types before anything else runs"},
	{pkg: "model", why: "values that all stages share must not drag any of them along"},
	{pkg: "discovery", may: []string{"model"}, why: "sources know what they offer, not what becomes of it"},
	{pkg: "discovery/stored", may: []string{"model", "discovery", "store"}, why: "it puts what records are, and does not know what they mean"},
	{pkg: "discovery/nodes", may: []string{"model", "discovery", "discovery/stored", "store"}, why: "a source implements the contract and knows no sibling"},
	{pkg: "discovery/pools", may: []string{"model", "discovery", "discovery/stored", "store", "check"}, why: "a source implements the contract and knows no sibling; a backend is judged by the rule of its pool before it is taken"},
	{pkg: "discovery/docker", may: []string{"model", "discovery", "check"}, why: "a source implements the contract and knows no sibling; what a label asks of a check is judged by the rule itself"},
	{pkg: "discovery/kubernetes", may: []string{"model", "discovery"}, why: "a source implements the contract and knows no sibling", only: "k8s.io/"},
	{pkg: "assets", may: []string{"model"}, why: "files that people name are judged before anything is rendered"},
	{pkg: "store", why: "what is kept is bytes to it, and every source may use it"},
	{pkg: "store/sqldb", may: []string{"store"}, why: "tables and transactions are the same in every SQL database"},
	{pkg: "store/sqlite", may: []string{"store", "store/sqldb"}, why: "a database implements the contract and knows no sibling", only: "modernc.org/sqlite"},
	{pkg: "store/postgres", may: []string{"store", "store/sqldb"}, why: "a database implements the contract and knows no sibling", only: "github.com/jackc/pgx/"},
	{pkg: "store/mysql", may: []string{"store", "store/sqldb"}, why: "a database implements the contract and knows no sibling", only: "github.com/go-sql-driver/"},
	{pkg: "store/storetest", may: []string{"store"}, why: "tests of every database use it"},
	{pkg: "store/open", may: []string{"store", "store/sqlite", "store/postgres", "store/mysql"}, why: "the one place that knows every database"},
	{pkg: "check", may: []string{"model"}, why: "one rule with two renderings, used by templates and by the supervisor"},
	{pkg: "templates", may: []string{"model", "check", "haproxy/conf"}, why: "rendering is pure: no process, no socket"},
	{pkg: "haproxy/conf", why: "what is known of HAProxy holds without us"},
	{pkg: "haproxy/runtime", may: []string{"haproxy/conf"}, why: "what is known of HAProxy holds without us"},
	{pkg: "haproxy/process", may: []string{"haproxy/conf", "haproxy/runtime"}, why: "what is known of HAProxy holds without us"},
	{pkg: "haproxy/haproxytest", may: []string{"haproxy/conf", "haproxy/runtime"}, why: "tests of haproxy/… use it"},
	{pkg: "supervisor/plan", may: []string{"haproxy/conf"}, why: "a plan is made from texts, so that users' templates count as well"},
	{pkg: "supervisor", may: []string{"model", "check", "haproxy/conf", "haproxy/runtime", "haproxy/process", "supervisor/plan"}, why: "it must not know templates: it renders by a function that app binds"},
	{pkg: "api", may: []string{"model"}, why: "the API shows Status and calls sources, and knows neither"},
	{pkg: "api/access", may: []string{"model"}, why: "who may do what is decided before any handler"},
	{pkg: "api/crowd", may: nil, why: "whose connection goes when there are too many depends on connections alone"},
	{pkg: "api/rest", may: []string{"model", "api", "api/access", "api/crowd"}, why: "handlers know the contract of api alone"},
	{pkg: "api/rpc", may: []string{"model", "check", "api", "api/access", "api/crowd", "proto/rollout/lb"}, why: "calls know the contract of api alone; what a check may ask is the rule's to say", only: "google.golang.org/grpc/health"},
	{pkg: "proto/rollout/lb", why: "a contract of others, generated"},
	{pkg: "lb", why: "others import it alone: it stands on the standard library"},
	{pkg: "cli", may: []string{"proto/rollout/lb"}, why: "a client knows the contract and nothing else"},
	{pkg: "api/metrics", may: []string{"model", "api"}, why: "metrics are a view on Status", only: "github.com/prometheus/"},
	{pkg: "watch", why: "that a file has changed has nothing to do with what is in it", only: "github.com/fsnotify/"},
	{pkg: "sample/web", why: "a sample stands alone"},
	{pkg: "test/dockertest", why: "tests of every package use it, and a Docker Engine knows nothing of us"},
	{pkg: "test/dockertest/server", why: "it runs alone in an image"},
	{pkg: "examples/lb", may: []string{"lb"}, why: "an example shows the package and nothing else"},
	{pkg: "examples/…", why: "an example stands alone"},
	{pkg: "bench/…", may: []string{"bench/…", "test/…", "model"}, why: "a benchmark drives the binary from outside"},
	{pkg: "test/…", may: []string{"…"}, why: "tests drive everything"},
}

func TestImports(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "testdata" || d.Name() == "bin") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), ".")
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			judge(t, path, pkg, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func judge(t *testing.T, path, pkg, name string) {
	i := slices.IndexFunc(imports, func(r struct {
		pkg  string
		may  []string
		why  string
		only string
	}) bool {
		return matches(r.pkg, pkg)
	})
	if i < 0 {
		t.Errorf("%s: package %q has no place in the table of this test", path, pkg)
		return
	}
	rule := imports[i]
	if ours, ok := strings.CutPrefix(name, module); ok {
		ours = strings.TrimPrefix(ours, "/")
		if !slices.ContainsFunc(rule.may, func(m string) bool { return matches(m, ours) }) {
			t.Errorf("%s imports %s: %s", path, ours, rule.why)
		}
		if (ours == "haproxy/haproxytest" || ours == "store/storetest" || ours == "test/dockertest") && !strings.HasPrefix(pkg, "test/") {
			t.Errorf("%s imports %s, which is for tests", path, ours)
		}
	}
	for _, other := range imports {
		if other.only != "" && strings.HasPrefix(name, other.only) && !matches(other.pkg, pkg) {
			t.Errorf("%s imports %s, which only %s may: %s", path, name, other.pkg, other.why)
		}
	}
}

func matches(pattern, pkg string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "…"); ok {
		return strings.HasPrefix(pkg+"/", prefix)
	}
	return pattern == pkg
}
