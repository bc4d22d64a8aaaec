package check

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/mod/semver"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// reaches is the oracle: what a library of semantic versions says. It takes v1 and v1.2 for versions, which semver.org does
// not.
func reaches(version, least string) bool {
	v := "v" + strings.TrimPrefix(version, "v")
	core, _, _ := strings.Cut(v, "-")
	core, _, _ = strings.Cut(core, "+")
	return strings.Count(core, ".") == 2 && semver.IsValid(v) && semver.Compare(v, "v"+least) >= 0
}

// near gives numbers around n, and some that only look like it.
func near(r *rand.Rand, n int) string {
	switch r.IntN(12) {
	case 0:
		return fmt.Sprint(n + 1)
	case 1:
		return fmt.Sprint(max(0, n-1))
	case 2:
		return fmt.Sprint(n*10 + r.IntN(10))
	case 3:
		return fmt.Sprint(n / 10)
	case 4:
		return fmt.Sprint(r.IntN(10))
	case 5:
		return fmt.Sprint(r.IntN(1_000_000_000))
	case 6:
		return fmt.Sprintf("0%d", n)
	case 7:
		return fmt.Sprintf("%d%d", 1+r.IntN(9), r.Uint64())
	default:
		return fmt.Sprint(n)
	}
}

var tails = []string{"-rc.1", "-0", "-01", "-1a", "-a..b", "-", "+", "+001", "+a.b", "-rc+b", "+b-rc", "-rc.-", ".1", " ", "-é", "+a+b", "-alpha.0.7"}

func TestVersionPatternAgainstLibrary(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	passed, all := 0, 0
	for range 400 {
		n := [3]int{r.IntN(3), r.IntN(12), r.IntN(1000)}
		if r.IntN(4) == 0 {
			n = [3]int{r.IntN(1_000_000_000), r.IntN(1_000_000_000), r.IntN(1_000_000_000)}
		}
		least := fmt.Sprintf("%d.%d.%d", n[0], n[1], n[2])
		re := compiled(t, least)
		for range 500 {
			v := near(r, n[0]) + "." + near(r, n[1]) + "." + near(r, n[2])
			if r.IntN(3) == 0 {
				v += tails[r.IntN(len(tails))]
			}
			if r.IntN(20) == 0 {
				v = "v" + v
			}
			got, want := re.MatchString(`{"version":"`+v+`"}`), reaches(v, least)
			if got != want {
				t.Fatalf("%q at least %s: the pattern says %v, the library %v", v, least, got, want)
			}
			all++
			if want {
				passed++
			}
		}
	}
	if passed < all/10 || passed > all*9/10 {
		t.Errorf("%d of %d generated versions passed: the generator is worthless", passed, all)
	}
}

func compiled(t testing.TB, least string) *regexp.Regexp {
	t.Helper()
	p, err := VersionPattern(least)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conf.Quote(p); err != nil {
		t.Errorf("pattern of %s: %v", least, err)
	}
	return regexp.MustCompile(p)
}

func FuzzVersionPattern(f *testing.F) {
	for _, s := range [][2]string{{"0.0.235", "0.0.235"}, {"999999999.888888888.777777777", "999999999.888888888.777777778"}, {"1.2.3", "1.2.3-rc"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, least, version string) {
		if _, err := VersionPattern(least); err != nil || strings.ContainsAny(version, `"`) {
			return
		}
		if got := compiled(t, least).MatchString(`{"version":"` + version + `"}`); got != reaches(version, least) {
			t.Errorf("%q at least %s: the pattern says %v", version, least, got)
		}
	})
}

func TestVersionPatternRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ least, want string }{
		{"", "no semantic version"},
		{"1", "no semantic version"},
		{"1.2", "no semantic version"},
		{"1.2.3.4", "no semantic version"},
		{"1.2.3-rc1", "pre-release"},
		{"1.2.3+b", "nine digits"},
		{"v1.2.3", "nine digits"},
		{"1.02.3", "leading zero"},
		{"1.2.1000000000", "nine digits"},
		{"1.2.+3", "nine digits"},
		{"1..3", "nine digits"},
		{"1.2.3\n", "nine digits"},
		{`1.2."`, "nine digits"},
	} {
		_, err := VersionPattern(c.least)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%q: %v", c.least, err)
		}
	}
}

// TestVersionPatternInHAProxy gives the expression to each HAProxy's own library.
func TestVersionPatternInHAProxy(t *testing.T) {
	t.Parallel()
	versions := []string{
		"0.0.0", "0.0.1", "0.0.2", "0.0.23", "0.0.24", "0.0.99", "0.0.199", "0.0.200", "0.0.229", "0.0.234", "0.0.235", "0.0.236", "0.0.239",
		"0.0.240", "0.0.299", "0.0.300", "0.0.999", "0.0.1000", "0.0.2350", "0.0.0235", "0.1.0", "0.10.1", "1.0.0", "10.2.3", "01.0.0", "v0.0.235",
		"0.0.235-rc1", "0.0.236-rc1", "0.1.0-0", "1.0.0-a.b-c.0", "1.0.0-01", "0.0.235+b", "0.0.234+b", "0.0.235-rc+b", "1.0.0+a.b", "1.0.0+", "1.0",
		"1", "", "latest", "99999999999999999999.0.0", "0.0.235 ", "0x1.0.0",
	}
	addrs := make([]netip.AddrPort, len(versions))
	for i, v := range versions {
		addrs[i] = node(t, sized("200 OK", `{"version":"`+v+`"}`))
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		found := checked(t, h, addrs)
		for i, v := range versions {
			if got := found[fmt.Sprintf("version/s%d", i)]; strings.HasPrefix(got, "L7OK") != reaches(v, least) {
				t.Errorf("%q at least %s: HAProxy found %s", v, least, got)
			}
		}
	})
}
