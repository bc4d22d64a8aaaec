// Package stats has the little statistics that the bench reports: medians, and intervals that assume nothing about how the
// figures are spread.
package stats
