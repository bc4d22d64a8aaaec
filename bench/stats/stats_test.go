package stats

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{
		{[]float64{3}, 3}, {[]float64{3, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5},
	} {
		kept := slices.Clone(c.in)
		if got := Median(c.in); got != c.want || !slices.Equal(kept, c.in) {
			t.Errorf("Median(%v) = %v, want %v; values now %v", kept, got, c.want, c.in)
		}
	}
	if !math.IsNaN(Median(nil)) {
		t.Error("Median of nothing is no NaN")
	}
}

// The ranks are those of the tables, for example Conover's table A3.
func TestInterval(t *testing.T) {
	for _, c := range []struct {
		n, low, high int
		coverage     float64
	}{
		{1, 1, 1, 0}, {5, 1, 5, .9375}, {6, 1, 6, .96875}, {8, 1, 8, .9921875}, {9, 2, 8, .9609375}, {12, 3, 10, .96142578125},
		{20, 6, 15, .9586105346679688}, {24, 7, 18, 1 - 380102./(1<<24)},
	} {
		values := make([]float64, c.n)
		for i, v := range rand.New(rand.NewPCG(1, 2)).Perm(c.n) {
			values[i] = float64(v + 1)
		}
		low, high, coverage := Interval(values, .95)
		if low != float64(c.low) || high != float64(c.high) || math.Abs(coverage-c.coverage) > 1e-12 {
			t.Errorf("n = %d: %v to %v covers %v, want %+v", c.n, low, high, coverage, c)
		}
	}
	if low, high, coverage := Interval(nil, .95); !math.IsNaN(low) || !math.IsNaN(high) || coverage != 0 {
		t.Error(low, high, coverage)
	}
}

// By experiment: the interval holds the true median about as often as it says, for a skewed distribution as well.
func TestIntervalCoversTheTrueMedian(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	const rounds = 20000
	held, said := 0, 0.0
	for range rounds {
		values := make([]float64, 12)
		for i := range values {
			values[i] = random.ExpFloat64()
		}
		low, high, coverage := Interval(values, .95)
		if said = coverage; low <= math.Ln2 && math.Ln2 <= high {
			held++
		}
	}
	if share := float64(held) / rounds; math.Abs(share-said) > .006 {
		t.Errorf("held in %.4f of the rounds, said %.4f", share, said)
	}
}
