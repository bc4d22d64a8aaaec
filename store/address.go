package store

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Kinds of databases.
const (
	Memory   = "memory"
	SQLite   = "sqlite3"
	Postgres = "postgres"
	MySQL    = "mysql"
)

// schemes are the kinds by the names that they have in addresses; the first of a kind is the one that is shown.
var schemes = map[string]string{
	"sqlite3": SQLite, "sqlite": SQLite,
	"postgres": Postgres, "postgresql": Postgres, "pgx": Postgres,
	"mysql": MySQL, "mariadb": MySQL,
}

const usage = "write sqlite3://FILE, sqlite3://:memory:, postgres://USER:PASSWORD@HOST:5432/DATABASE or mysql://USER:PASSWORD@HOST:3306/DATABASE"

const encode = "write special characters of user, password and parameters percent-encoded (@ as %40, / as %2F, : as %3A, ? as %3F, # as %23, % as %25)"

// Address is where a database is. Whatever prints it prints no secret.
type Address struct {
	kind     string
	file     string // of SQLite
	user     string
	password string
	network  string // tcp or unix, of MySQL
	host     string // HOST, HOST:PORT, several with commas, or a socket
	database string
	query    url.Values
	secrets  []string // as they may stand in the messages of drivers, the longest first
}

// Kind is Memory, SQLite, Postgres or MySQL.
func (a Address) Kind() string { return a.kind }

// File is SQLite's.
func (a Address) File() string { return a.file }

// User is the name to log in with.
func (a Address) User() string { return a.user }

// Password is the one to log in with, from the query where it stands there.
func (a Address) Password() string { return a.password }

// Network is "tcp" or "unix", of MySQL.
func (a Address) Network() string { return a.network }

// Host is HOST, HOST:PORT, several of them with commas in between, or the path of a socket.
func (a Address) Host() string { return a.host }

// Database is the name of the database on its server.
func (a Address) Database() string { return a.database }

// Query gives a copy of the parameters, without the password.
func (a Address) Query() url.Values {
	q := url.Values{}
	for name, values := range a.query {
		q[name] = slices.Clone(values)
	}
	return q
}

// String gives the address with *** for its secrets.
func (a Address) String() string {
	var b strings.Builder
	b.WriteString(a.kind + "://")
	switch a.kind {
	case Memory:
		return "sqlite3://:memory:"
	case SQLite:
		b.WriteString(a.file)
	default:
		if a.user != "" || a.password != "" {
			b.WriteString(url.User(a.user).String())
			if a.password != "" {
				b.WriteString(":***")
			}
			b.WriteByte('@')
		}
		if a.network == "unix" {
			b.WriteString("unix(" + a.host + ")")
		} else {
			b.WriteString(a.host)
		}
		b.WriteString("/" + url.PathEscape(a.database))
	}
	mark := byte('?')
	for _, name := range sortedKeys(a.query) {
		for _, value := range a.query[name] {
			b.WriteByte(mark)
			mark = '&'
			b.WriteString(url.QueryEscape(name) + "=")
			if isSecret(name) {
				b.WriteString("***")
			} else {
				b.WriteString(url.QueryEscape(value))
			}
		}
	}
	return b.String()
}

// GoString is String, so that %#v tells no more.
func (a Address) GoString() string { return a.String() }

// MarshalText is String, so that neither logs nor JSON tell more.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

func sortedKeys(q url.Values) []string {
	names := make([]string, 0, len(q))
	for name := range q {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// isSecret tells whether a parameter of that name is one: passwords of drivers have many names.
func isSecret(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc([]string{"pass", "pwd", "secret", "token", "credential"}, func(part string) bool { return strings.Contains(name, part) })
}

// Mask gives an error with the text of err, but *** for the secrets of the address. It is what err is (errors.Is), without leading to it:
// drivers put whole addresses into their errors.
func (a Address) Mask(err error) error {
	if err == nil {
		return nil
	}
	return &masked{text: a.mask(err.Error()), is: func(target error) bool { return errors.Is(err, target) }}
}

type masked struct {
	text string
	is   func(error) bool
}

func (m *masked) Error() string        { return m.text }
func (m *masked) Is(target error) bool { return m.is(target) }

func (a Address) mask(text string) string {
	for _, secret := range a.secrets {
		text = strings.ReplaceAll(text, secret, "***")
	}
	return text
}

// withSecrets fills a.secrets: each of them as it is, percent-encoded in the ways there are, and quoted.
func (a Address) withSecrets(raw ...string) Address {
	if a.password != "" {
		raw = append(raw, a.password)
	}
	for name, values := range a.query {
		if isSecret(name) {
			raw = append(raw, values...)
		}
	}
	for _, s := range raw {
		quoted := fmt.Sprintf("%q", s)
		quoted = quoted[1 : len(quoted)-1]
		a.secrets = append(a.secrets, s, quoted, url.QueryEscape(s), url.PathEscape(s), strings.TrimPrefix(url.UserPassword("", s).String(), ":"))
	}
	slices.SortFunc(a.secrets, func(x, y string) int {
		if len(x) != len(y) {
			return len(y) - len(x)
		}
		return strings.Compare(x, y)
	})
	a.secrets = slices.DeleteFunc(slices.Compact(a.secrets), func(s string) bool { return s == "" })
	return a
}

// Parse reads the address of a database. Its errors end with what to write instead, and never have the password in them.
func Parse(address string) (Address, error) {
	scheme, rest, found := strings.Cut(address, "://")
	if !found {
		return Address{}, fmt.Errorf("the address of a database begins with its kind: %s", usage)
	}
	kind, known := schemes[strings.ToLower(scheme)]
	if !known {
		return Address{}, fmt.Errorf("%q is no kind of database: %s", clip(scheme, 20), usage)
	}
	if strings.ContainsFunc(rest, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return Address{}, errors.New("the address of a database has no control characters: write them percent-encoded")
	}
	if kind == SQLite {
		return parseSQLite(rest)
	}
	if m := dsn.FindStringSubmatch(rest); kind == MySQL && m != nil {
		return parseDSN(m[1], m[2], m[3], m[4])
	}
	return parseURL(kind, rest)
}

func parseSQLite(rest string) (Address, error) {
	file, query, _ := strings.Cut(rest, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return Address{}, errors.New("the parameters of the database are not readable: write sqlite3://FILE?NAME=VALUE, special characters percent-encoded")
	}
	a := Address{kind: SQLite, file: file, query: values}
	switch file {
	case "":
		return Address{}, errors.New("no file for the database: write sqlite3://FILE, such as sqlite3:///var/lib/fnlb/nodes.db, or sqlite3://:memory: for none")
	case ":memory:":
		return Address{kind: Memory}, nil
	}
	return a.withSecrets(), nil
}

// dsn is the form that Go's MySQL driver has: USER:PASSWORD@NETWORK(ADDRESS)/DATABASE?PARAMETERS. The password is as it is, the last
// "@NETWORK(" ends it.
var dsn = regexp.MustCompile(`^(?:(.*)@)?(tcp|unix)\(([^()\s]*)\)/([^/]*(?:\?.*)?)$`)

func parseDSN(login, network, host, rest string) (Address, error) {
	a := Address{kind: MySQL, network: network, host: host}
	a.user, a.password, _ = strings.Cut(login, ":")
	name, query, _ := strings.Cut(rest, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return Address{}, errors.New("the parameters of the database are not readable: write mysql://USER:PASSWORD@tcp(HOST:3306)/DATABASE?NAME=VALUE, special characters of parameters percent-encoded")
	}
	a.database, a.query = name, values
	return a.complete(login)
}

func parseURL(kind, rest string) (Address, error) {
	// Errors of net/url quote what they stumble over, which may be a piece of the password.
	u, err := url.Parse(kind + "://" + rest)
	if err != nil {
		return Address{}, fmt.Errorf("the address of the database is not readable: %s, as in %s://USER:PASSWORD@HOST/DATABASE", encode, kind)
	}
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil || u.Fragment != "" || strings.Contains(u.EscapedPath(), "@") || strings.Contains(u.RawQuery, "@") || strings.Contains(rest, "#") {
		return Address{}, fmt.Errorf("the address of the database is not readable: %s, as in %s://USER:PASSWORD@HOST/DATABASE", encode, kind)
	}
	a := Address{kind: kind, host: u.Host, database: strings.TrimPrefix(u.Path, "/"), query: values}
	if kind == MySQL {
		a.network = "tcp"
	}
	raw := ""
	if u.User != nil {
		a.user = u.User.Username()
		a.password, _ = u.User.Password()
		if login, _, found := strings.Cut(rest, "@"); found {
			_, raw, _ = strings.Cut(login, ":")
		}
	}
	return a.complete(raw)
}

// twoPorts is what USER:PASSWORD:… looks like when the @ and the host were forgotten.
func twoPorts(host string) bool {
	return !strings.Contains(host, "[") && strings.Count(host, ":") > 1
}

// complete judges what has been read; raw is how the password was written.
func (a Address) complete(raw string) (Address, error) {
	if kept := a.query["password"]; a.kind == Postgres && len(kept) > 0 {
		a.password = kept[len(kept)-1]
	}
	all := a.withSecrets(raw)
	delete(a.query, "password")
	a.secrets = all.secrets
	hosts := a.host != "" || a.query.Has("host") || a.query.Has("service")
	switch {
	case a.database == "" && !a.query.Has("dbname") && !a.query.Has("service"):
		return Address{}, fmt.Errorf("no name of a database: write %s://USER:PASSWORD@HOST/DATABASE", a.kind)
	case slices.ContainsFunc(strings.Split(a.host, ","), twoPorts):
		return Address{}, fmt.Errorf("the host of the database has two ports: %s, as in %s://USER:PASSWORD@HOST:PORT/DATABASE", encode, a.kind)
	case strings.ContainsRune(a.database, '/'):
		return Address{}, fmt.Errorf("the name of the database has a slash: %s, as in %s://USER:PASSWORD@HOST/DATABASE", encode, a.kind)
	case !hosts && a.kind == Postgres:
		return Address{}, errors.New("no host of the database: write postgres://USER:PASSWORD@HOST/DATABASE, or postgres:///DATABASE?host=/var/run/postgresql for a socket")
	}
	if a.kind == MySQL && a.host == "" {
		a.host = "127.0.0.1:3306"
	}
	return a, nil
}
