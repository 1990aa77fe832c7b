package main

import (
	"math"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		name string
		in   samples
		want float64
	}{
		{"of one value is the value", samples{7}, 7},
		{"of an odd number is the middle, whatever the order", samples{9, 1, 5}, 5},
		{"of an even number lies between the two in the middle", samples{4, 1, 100, 2}, 3},
	} {
		if got := c.in.median(); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if got := (samples{}).median(); !math.IsNaN(got) {
		t.Errorf("the median of nothing is %v", got)
	}
	in := samples{3, 1, 2}
	if in.median(); in[0] != 3 {
		t.Errorf("the median has sorted its samples: %v", in)
	}
}

func TestTimes(t *testing.T) {
	for _, c := range []struct {
		name         string
		ours, theirs samples
		more         bool
		want         float64
	}{
		{"a shorter time is better", samples{10}, samples{50}, false, 5},
		{"a longer time is worse", samples{50}, samples{10}, false, 0.2},
		{"a higher rate is better", samples{30}, samples{3}, true, 10},
		{"nothing of ours gives no ratio", nil, samples{3}, false, math.NaN()},
		{"nothing of theirs gives no ratio", samples{3}, nil, false, math.NaN()},
		{"a size that shrank gives no ratio", samples{-1}, samples{3}, false, math.NaN()},
	} {
		got := times(c.ours, c.theirs, c.more)
		if got != c.want && !(math.IsNaN(got) && math.IsNaN(c.want)) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
