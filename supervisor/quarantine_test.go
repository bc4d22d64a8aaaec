package supervisor

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/model"
)

func ownersOf(n int) []model.Owner {
	out := make([]model.Owner, n)
	for i := range out {
		out[i] = model.Owner{Source: "nodes", Name: fmt.Sprintf("n%03d", i)}
	}
	return out
}

// TestSettle: whoever is left out is at fault, nobody else is, and few questions are asked.
func TestSettle(t *testing.T) {
	refusal := errors.New("refused")
	isRefusal := func(err error) bool { return errors.Is(err, refusal) }
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		n := 1 + rng.IntN(300)
		owners := ownersOf(n)
		bad := map[model.Owner]bool{}
		for range 1 + rng.IntN(min(n, mostLeftOut)) {
			bad[owners[rng.IntN(n)]] = true
		}
		tries := 0
		left, err := settle(owners, refusal, func(with []model.Owner) error {
			tries++
			if slices.ContainsFunc(with, func(o model.Owner) bool { return bad[o] }) {
				return refusal
			}
			return nil
		}, isRefusal)
		if err != nil {
			t.Fatalf("%d of %d bad: %v after %d questions", len(bad), n, err, tries)
		}
		if len(left) != len(bad) {
			t.Fatalf("%d of %d bad, left out %v", len(bad), n, left)
		}
		for _, l := range left {
			if !bad[l.owner] || !errors.Is(l.reason, refusal) {
				t.Errorf("left out %v", l)
			}
		}
		if len(bad) == 1 && tries > 11 {
			t.Errorf("%d questions for one of %d", tries, n)
		}
	}
}

func TestSettleGivesUp(t *testing.T) {
	refusal := errors.New("refused")
	isRefusal := func(err error) bool { return errors.Is(err, refusal) }
	for name, test := range map[string]struct {
		good  func(with []model.Owner) error
		want  error
		tries int
	}{
		"the template is at fault": {func([]model.Owner) error { return refusal }, errNoUse, 10},
		"too many are at fault": {func(with []model.Owner) error {
			if len(with) > 0 {
				return refusal
			}
			return nil
		}, errNoUse, mostTries},
		"another error": {func([]model.Owner) error { return os.ErrPermission }, os.ErrPermission, 1},
	} {
		tries := 0
		left, err := settle(ownersOf(200), refusal, func(with []model.Owner) error {
			tries++
			return test.good(with)
		}, isRefusal)
		if !errors.Is(err, test.want) || left != nil || tries > test.tries {
			t.Errorf("%s: %v, %v, %d questions", name, left, err, tries)
		}
	}
	// Two that only together do harm: the younger is left out.
	owners := ownersOf(50)
	left, err := settle(owners, refusal, func(with []model.Owner) error {
		if slices.Contains(with, owners[3]) && slices.Contains(with, owners[30]) {
			return refusal
		}
		return nil
	}, isRefusal)
	if err != nil || len(left) != 1 || left[0].owner != owners[30] {
		t.Errorf("left out %v, %v", left, err)
	}
}

// refusing lets the fake HAProxy refuse texts with this word.
func (w *world) refusing(word string) {
	w.set(func() {
		w.judge = func(text string) error {
			if word != "" && strings.Contains(text, word) {
				return &process.CheckError{Output: "unknown keyword '" + word + "'"}
			}
			return nil
		}
	})
}

// TestQuarantine is fault row 2: one bad owner of many new ones is left out and named, until its offer or the template changes.
func TestQuarantine(t *testing.T) {
	inBubble(t, func(w *world) {
		var nodes []string
		for i := range 200 {
			nodes = append(nodes, fmt.Sprintf("n%03d=192.0.2.1:%d", i, 1000+i))
		}
		w.refusing("192.0.2.1:1177")
		w.run()
		w.put("old=192.0.2.7:80")
		w.after(time.Second)
		w.put(append(nodes, "old=192.0.2.7:80")...)
		w.after(time.Second)
		if got := strings.Count(w.servers(), "@"); got != 200 || strings.Contains(w.servers(), "n177") {
			t.Errorf("%d servers", got)
		}
		leftOut := func(n int) {
			t.Helper()
			st := w.s.Status()
			found := 0
			for _, p := range st.Problems {
				if p.Owner.Name == "n177" && strings.Contains(p.Reason, "unknown keyword") && p.Mend != "" {
					found++
				}
			}
			if found != n || len(st.Problems) != n || len(st.Degraded) != n || st.Applied != w.revisions {
				t.Errorf("problems %+v, degraded %v, applied %d of %d", st.Problems, st.Degraded, st.Applied, w.revisions)
			}
		}
		leftOut(1)
		if w.lines("level=WARN", "left out", "nodes n177", "unknown keyword") != 1 || w.lines("level=ERROR") != 0 {
			t.Error(w.logged())
		}
		// It stays out, silently, while others come and go.
		w.put(append(nodes, "old=192.0.2.7:80", "more=192.0.2.8:80")...)
		w.after(time.Minute)
		leftOut(1)
		if !strings.Contains(w.servers(), "more@") || w.lines("level=WARN", "left out") != 1 {
			t.Error(w.servers())
		}
		// SIGHUP tries it again, and so does another offer.
		w.s.SetRenderer(&textRenderer{w: w, title: "two"}, "SIGHUP")
		w.after(time.Second)
		leftOut(1)
		if !strings.HasPrefix(w.text(), "# two") || w.lines("level=WARN", "left out") != 2 {
			t.Error(w.logged())
		}
		nodes[177] = "n177=192.0.2.1:2000"
		w.put(append(nodes, "old=192.0.2.7:80")...)
		w.after(time.Second)
		leftOut(0)
		if !strings.Contains(w.servers(), "n177@192.0.2.1:2000") {
			t.Error(w.servers())
		}
		// One that goes while it is left out is forgotten.
		nodes[177] = "n177=192.0.2.1:1177"
		w.put(nodes...)
		w.after(time.Second)
		leftOut(1)
		w.put(append(slices.Clone(nodes[:177]), nodes[178:]...)...)
		w.after(time.Second)
		leftOut(0)
	})
}

// TestTemplateAtFault: when a new template is refused with what is in force, nobody is left out.
func TestTemplateAtFault(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		w.refusing("# two")
		w.s.SetRenderer(&textRenderer{w: w, title: "two"}, "SIGHUP")
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		want(t, "servers", w.servers(), "a@192.0.2.1:80 b@192.0.2.2:80")
		if st := w.s.Status(); !strings.HasPrefix(w.text(), "# one") || len(st.Problems) != 1 || w.lines("left out") != 0 {
			t.Errorf("%s %+v", w.text(), st.Problems)
		}
	})
}

// TestRenderFault: what does not render is treated like what HAProxy refuses.
func TestRenderFault(t *testing.T) {
	inBubble(t, func(w *world) {
		w.renderer.failAt = "192.0.2.66:80"
		w.run()
		w.put("a=192.0.2.1:80", "b=192.0.2.66:80", "c=192.0.2.3:80")
		w.after(time.Second)
		want(t, "servers", w.servers(), "a@192.0.2.1:80 c@192.0.2.3:80")
		if st := w.s.Status(); len(st.Problems) != 1 || st.Problems[0].Owner.Name != "b" {
			t.Errorf("%+v", st.Problems)
		}
	})
}

// TestQuarantineGivesUp: with more bad owners than may be left out, the last good text stays.
func TestQuarantineGivesUp(t *testing.T) {
	inBubble(t, func(w *world) {
		w.refusing("192.0.2.66:")
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		nodes := []string{"a=192.0.2.1:80"}
		for i := range mostLeftOut + 1 {
			nodes = append(nodes, fmt.Sprintf("b%d=192.0.2.66:%d", i, i+1))
		}
		w.put(nodes...)
		w.after(time.Minute)
		want(t, "servers", w.servers(), "a@192.0.2.1:80")
		if st := w.s.Status(); len(st.Degraded) != 1 || !strings.HasPrefix(st.Degraded[0], "refused: ") {
			t.Errorf("degraded %v", st.Degraded)
		}
		w.put(nodes[:mostLeftOut+1]...)
		w.after(time.Minute)
		if st := w.s.Status(); len(st.Degraded) != mostLeftOut || st.Applied != w.revisions {
			t.Errorf("degraded %v", st.Degraded)
		}
	})
}
