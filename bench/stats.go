package main

import (
	"math"
	"slices"
)

// samples are the measured values of one row on one peer, in the row's unit.
type samples []float64

// median is the middle value, or the mean of the two in the middle.
func (s samples) median() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}

func (s samples) min() float64 { return slices.Min(s) }
func (s samples) max() float64 { return slices.Max(s) }

// times says how many times better ours is than theirs: as many times faster, smaller, or,
// where more is better, higher. It is NaN where one of them is missing, or zero or less.
func times(ours, theirs samples, moreIsBetter bool) float64 {
	if len(ours) == 0 || len(theirs) == 0 {
		return math.NaN()
	}
	a, b := ours.median(), theirs.median()
	if a <= 0 || b <= 0 {
		return math.NaN()
	}
	if moreIsBetter {
		return a / b
	}
	return b / a
}
