package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/store"
)

func TestParse(t *testing.T) {
	for _, c := range []struct{ address, kind, user, password, network, host, database, file, shown string }{
		{address: "sqlite3://:memory:", kind: store.Memory, shown: "sqlite3://:memory:"},
		{address: "sqlite://:memory:?cache=shared", kind: store.Memory, shown: "sqlite3://:memory:"},
		{address: "sqlite3://nodes.db", kind: store.SQLite, file: "nodes.db", shown: "sqlite3://nodes.db"},
		{address: "SQLITE3:///a b/100%/ü#1.db?_pragma=cache_size(1)", kind: store.SQLite, file: "/a b/100%/ü#1.db", shown: "sqlite3:///a b/100%/ü#1.db?_pragma=cache_size%281%29"},
		{address: "postgres://u:p@h:1/d?sslmode=disable", kind: store.Postgres, user: "u", password: "p", host: "h:1", database: "d", shown: "postgres://u:***@h:1/d?sslmode=disable"},
		{address: "postgresql://u:p%40%2F%3A@h/d", kind: store.Postgres, user: "u", password: "p@/:", host: "h", database: "d", shown: "postgres://u:***@h/d"},
		{address: "pgx://u@a:1,b:2/d?password=q&user=x", kind: store.Postgres, user: "u", password: "q", host: "a:1,b:2", database: "d", shown: "postgres://u:***@a:1,b:2/d?user=x"},
		{address: "postgres://u@/d?host=/run/postgresql", kind: store.Postgres, user: "u", database: "d", shown: "postgres://u@/d?host=%2Frun%2Fpostgresql"},
		{address: "postgres://h/d?sslpassword=q", kind: store.Postgres, host: "h", database: "d", shown: "postgres://h/d?sslpassword=***"},
		{address: "mysql://u:p@h:1/d?tls=true", kind: store.MySQL, user: "u", password: "p", network: "tcp", host: "h:1", database: "d", shown: "mysql://u:***@h:1/d?tls=true"},
		{address: "mariadb://u:p@[::1]:3/d", kind: store.MySQL, user: "u", password: "p", network: "tcp", host: "[::1]:3", database: "d", shown: "mysql://u:***@[::1]:3/d"},
		{address: "mysql://u:p@/:?#%@@tcp(h:1)/d?a=b", kind: store.MySQL, user: "u", password: "p@/:?#%@", network: "tcp", host: "h:1", database: "d", shown: "mysql://u:***@h:1/d?a=b"},
		{address: "mysql://u:p@unix(/run/x.sock)/d", kind: store.MySQL, user: "u", password: "p", network: "unix", host: "/run/x.sock", database: "d", shown: "mysql://u:***@unix(/run/x.sock)/d"},
		{address: "mysql://u:x@tcp(y)@tcp(h)/d", kind: store.MySQL, user: "u", password: "x@tcp(y)", network: "tcp", host: "h", database: "d", shown: "mysql://u:***@h/d"},
		{address: "mysql://u:p@/d", kind: store.MySQL, user: "u", password: "p", network: "tcp", host: "127.0.0.1:3306", database: "d", shown: "mysql://u:***@127.0.0.1:3306/d"},
		{address: "mysql://tcp(h)/d", kind: store.MySQL, network: "tcp", host: "h", database: "d", shown: "mysql://h/d"},
	} {
		a, err := store.Parse(c.address)
		if err != nil {
			t.Errorf("%s: %v", c.address, err)
			continue
		}
		got := []string{a.Kind(), a.User(), a.Password(), a.Network(), a.Host(), a.Database(), a.File(), a.String()}
		want := []string{c.kind, c.user, c.password, c.network, c.host, c.database, c.file, c.shown}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%s: part %d is %q, not %q", c.address, i, got[i], want[i])
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, address := range []string{"", "nodes.db", "sqlite3:nodes.db", "oracle://h/d", "sqlite3://", "sqlite3://?x=1", "sqlite3://a?%zz",
		"postgres://", "postgres://h", "postgres://h/", "postgres:///d", "postgres://h/a/b", "postgres://h:x/d", "postgres://h/d\n",
		"mysql://", "mysql://u:p@tcp(h)/", "mysql://u:p@tcp(h)/d?%zz", "mysql://h"} {
		a, err := store.Parse(address)
		if err == nil {
			t.Errorf("%q is %v", address, a)
		} else if !strings.Contains(err.Error(), "write ") {
			t.Errorf("%q: %v does not say what to write instead", address, err)
		}
	}
}

const secret = `s3cr` // each of the passwords below begins with it, and nothing else has it

// TestNoSecrets: whatever stands in a password, and wherever it stands, neither an error nor what is printed has any of it.
func TestNoSecrets(t *testing.T) {
	for _, tail := range []string{"", "@", "/", ":", "?", "#", "%", "%zz", "%40", "@x/y", "#@h/d", "/x@h", "?a=@", "1:2/3", "(", ")", "@tcp(", "&", "=", ";", "'", `"`, `\`, " ", "é", "😀", "[", "]", "\x00", "\n", "<>"} {
		password := secret + tail
		for _, form := range []string{"postgres://u:%s@h:5/d", "mysql://u:%s@h:3/d", "mysql://u:%s@tcp(h:3)/d?tls=x", "postgres://u@h/d?password=%s", "postgres://h/d?sslpassword=%s", "mysql://u:%s@unix(/x)/d",
			"mysql://u:%s@tcp(h)", "postgres://u:%s@h", "sqlite3://f?_auth_pass=%s", "oracle://u:%s@h/d", "postgres://%s@", "mysql://u:%s", "postgres://1:%s@h/d"} {
			for _, written := range []string{password, url.QueryEscape(password), url.PathEscape(password), "12" + password} {
				address := strings.Replace(form, "%s", written, 1)
				a, err := store.Parse(address)
				if err != nil {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("%q: the error is %v", address, err)
					}
					continue
				}
				if a.Password() == "" && !strings.Contains(address, "_pass") && !strings.Contains(address, "sslpass") {
					if !strings.HasPrefix(form, "postgres://%s@") { // there it is the user
						t.Errorf("%q: no password", address)
					}
					continue
				}
				inner := errors.New("bad")
				masked := a.Mask(fmt.Errorf("dial %s, %q, %s: %w", address, a.Password(), url.QueryEscape(a.Password()), inner))
				if !errors.Is(masked, inner) {
					t.Errorf("%q: the masked error is no longer what it was", address)
				}
				text, _ := json.Marshal(a)
				for _, shown := range []string{a.String(), fmt.Sprintf("%v %+v %#v %s %q", a, a, a, a, a), fmt.Sprintf("%+v", struct{ A store.Address }{a}), string(text), masked.Error(), fmt.Sprintf("%+v %q", masked, masked)} {
					if strings.Contains(shown, secret) {
						t.Errorf("%q is shown as %s", address, shown)
					}
				}
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, address := range []string{"sqlite3://a?b=c", "postgres://u:p@h/d?x=y", "mysql://u:p@tcp(h)/d", "mysql://u:p@h/d", "mYsql://tcp( )/0"} {
		f.Add(address, "pass")
	}
	f.Fuzz(func(t *testing.T, address, rest string) {
		if a, err := store.Parse(address); err == nil {
			// What is shown can be read again, unless a secret is missing from it, and is the same then.
			again, err := store.Parse(a.String())
			if err != nil || again.String() != a.String() {
				t.Errorf("%q is shown as %q, which is %v, %v", address, a, again, err)
			}
		}
		const mark = "S3CR3T"
		if strings.Contains(rest, mark) {
			return
		}
		for _, form := range []string{"postgres://u:%s@h/d", "mysql://u:%s@tcp(h)/d", "mysql://u:%s@h/d"} {
			address := strings.Replace(form, "%s", mark+rest, 1)
			a, err := store.Parse(address)
			if err != nil && strings.Contains(err.Error(), mark) || err == nil && strings.Contains(a.String(), mark) {
				t.Errorf("%q is shown: %v, %v", address, a, err)
			}
		}
	})
}
