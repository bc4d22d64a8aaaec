package templates

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// row is one field that templates see.
type row struct {
	path string
	typ  reflect.Type // as it is in the struct
	like string       // the path of a list of the same type that was listed before
	doc  string
}

// contract lists all fields, in the order of the source, with the comments that stand behind them.
func contract(t *testing.T) []row {
	t.Helper()
	docs := fieldDocs(t)
	var rows []row
	seen := map[reflect.Type]string{}
	var walk func(prefix string, typ reflect.Type)
	walk = func(prefix string, typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			r := row{path: prefix + "." + f.Name, typ: f.Type, doc: docs[typ.Name()+"."+f.Name]}
			path, elem := r.path, f.Type
			for elem.Kind() == reflect.Slice {
				path, elem = path+"[]", elem.Elem()
			}
			if elem.Kind() != reflect.Struct {
				if elem.PkgPath() != "" {
					t.Errorf("%s has type %s: only strings, numbers and bools are promised", r.path, elem)
				}
				rows = append(rows, r)
				continue
			}
			if f.Type.Kind() == reflect.Slice {
				r.like = seen[elem]
				rows = append(rows, r)
			}
			if seen[elem] == "" {
				seen[elem] = r.path
			}
			walk(path, elem)
		}
	}
	walk("", reflect.TypeFor[Data]())
	return rows
}

// fieldDocs gives the comments behind the fields of data.go, by TYPE.FIELD.
func fieldDocs(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "data.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if st, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range st.Fields.List {
				for _, name := range f.Names {
					docs[spec.Name.Name+"."+name.Name] = strings.TrimSpace(f.Comment.Text())
				}
			}
		}
		return false
	})
	return docs
}

// TestContract holds the fields and functions that users' templates rely on: testdata/contract.txt may grow, and -update adds what is
// new; a line that is not true any more fails the test, whatever the flags.
func TestContract(t *testing.T) {
	t.Parallel()
	var lines []string
	for _, r := range contract(t) {
		path, elem := r.path, r.typ
		for elem.Kind() == reflect.Slice {
			path, elem = path+"[]", elem.Elem()
		}
		if elem.Kind() != reflect.Struct {
			lines = append(lines, path+" "+elem.String())
		}
	}
	available := (&budget{}).functions()
	for _, f := range Functions() {
		lines = append(lines, fmt.Sprintf("%s %T", f.Name, available[f.Name]))
	}
	file := filepath.Join("testdata", "contract.txt")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	promised := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	for _, line := range promised {
		if !slices.Contains(lines, line) {
			t.Errorf("templates rely on %q, which is gone or has another type", line)
			lines = append(lines, line) // the promise stays written down
		}
	}
	if len(lines) == len(promised) {
		return
	}
	if !*update {
		t.Fatalf("%s lacks fields or functions (go test -update adds them)", file)
	}
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestContractInDocs: docs/templates.md has the tables of fields and functions as they are.
func TestContractInDocs(t *testing.T) {
	t.Parallel()
	var fields, functions strings.Builder
	fields.WriteString("| field | type | what it is |\n|---|---|---|\n")
	for _, r := range contract(t) {
		if r.like != "" && strings.Count(r.path, "[]") > 0 {
			r.doc += "; as `" + r.like + "`"
		}
		if r.doc == "" {
			t.Errorf("data.go says nothing behind %s", r.path)
		}
		if i := strings.LastIndex(r.path, "."); !listedBefore(contract(t), r.path[:i]) {
			fmt.Fprintf(&fields, "| `%s` | %s | %s |\n", r.path, plain(r.typ), r.doc)
		}
	}
	functions.WriteString("| function | gives |\n|---|---|\n")
	for _, f := range Functions() {
		fmt.Fprintf(&functions, "| `%s %s` | %s |\n", f.Name, f.Args, f.Does)
	}
	page := filepath.Join("..", "docs", "templates.md")
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := block(t, string(data), "contract", fields.String())
	text = block(t, text, "functions", functions.String())
	if text == string(data) {
		return
	}
	if !*update {
		t.Fatalf("%s is out of date (go test -update writes it)", page)
	}
	if err := os.WriteFile(page, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// listedBefore reports whether the fields below a path stand in the table under another path.
func listedBefore(rows []row, parent string) bool {
	return slices.ContainsFunc(rows, func(r row) bool { return r.like != "" && strings.HasPrefix(parent, r.path+"[]") })
}

func plain(typ reflect.Type) string {
	switch {
	case typ.Kind() != reflect.Slice:
		return typ.String()
	case typ.Elem().Kind() == reflect.Struct:
		return "list"
	case typ.Elem().Kind() == reflect.Slice:
		return "list of " + strings.Replace(plain(typ.Elem()), "list", "lists", 1)
	}
	return "list of " + typ.Elem().String() + "s"
}

// block replaces what stands between the marks of a part of the page.
func block(t *testing.T, page, name, content string) string {
	t.Helper()
	begin, end := "<!-- "+name+": written by go test ./templates -update -->\n", "<!-- end of "+name+" -->"
	head, rest, ok := strings.Cut(page, begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("the page has no part %s", name)
	}
	return head + begin + content + end + tail
}
