package stats

import (
	"math"
	"slices"
)

// Median is the middle value, or the mean of the middle two; NaN of nothing. The values stay as they are.
func Median(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	return (s[(n-1)/2] + s[n/2]) / 2
}

// Interval is a confidence interval of the median by ranks: for independent values of any one distribution the median lies
// between the k-th least and the k-th greatest with a probability that the binomial distribution gives (Conover, Practical
// Nonparametric Statistics, 3.2). It takes the narrowest whose coverage is at least the one wanted, and gives the coverage it
// has. Too few values give the whole range and what that covers: 5 values cover 0.9375, 6 are needed for 0.95.
func Interval(values []float64, want float64) (low, high, coverage float64) {
	n := len(values)
	if n == 0 {
		return math.NaN(), math.NaN(), 0
	}
	s := slices.Sorted(slices.Values(values))
	k := 1
	for 2*(k+1) <= n+1 && covers(n, k+1) >= want {
		k++
	}
	return s[k-1], s[n-k], covers(n, k)
}

// covers is the probability that the median lies between the k-th least and the k-th greatest of n values:
// 1 - 2 P(B < k), with B the number of values below the median.
func covers(n, k int) float64 {
	below, term := 0.0, math.Pow(.5, float64(n)) // term = C(n,i) / 2^n
	for i := range k {
		below += term
		term *= float64(n-i) / float64(i+1)
	}
	return 1 - 2*below
}
