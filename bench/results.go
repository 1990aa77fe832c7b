package main

import (
	"fmt"
	"math"
	"strings"
)

// result is what one row has given.
type result struct {
	section string
	row     string
	unit    string // ms, s, MB or /s
	// moreIsBetter is for rates; times and sizes are better when smaller.
	moreIsBetter bool
	goals        []goal
	cells        []cell // ours first
}

// cell is one peer's part of a row: values, or the reason why there are none.
type cell struct {
	peer   string
	values samples
	why    string
}

// goal is what a row is to show. Either against names a peer (or is fastest: the best of
// them) and factor says how many times better than it ours has to be, or atMost bounds ours.
type goal struct {
	against string
	factor  float64
	atMost  float64
}

// fastest stands for the best of the peers in a row.
const fastest = "fastest peer"

func (r result) ours() samples { return r.cells[0].values }

func (r result) cell(peer string) cell {
	for _, c := range r.cells {
		if c.peer == peer {
			return c
		}
	}
	return cell{peer: peer}
}

// against gives the values that a goal is measured against.
func (r result) against(peer string) (best samples) {
	if peer != fastest {
		return r.cell(peer).values
	}
	for _, c := range r.cells[1:] {
		if len(c.values) == 0 {
			continue
		}
		if better := len(best) == 0 || (c.values.median() < best.median()) != r.moreIsBetter; better {
			best = c.values
		}
	}
	return best
}

// The verdicts on a goal.
const (
	met      = "yes"
	missed   = "**no**"
	unproven = "not measured"
)

// verdict says whether the row meets the goal.
func (r result) verdict(g goal) string {
	if len(r.ours()) == 0 {
		return unproven
	}
	if g.against == "" {
		if r.ours().median() <= g.atMost {
			return met
		}
		return missed
	}
	got := times(r.ours(), r.against(g.against), r.moreIsBetter)
	switch {
	case math.IsNaN(got):
		return unproven
	case got >= g.factor:
		return met
	}
	return missed
}

func (g goal) text(unit string) string {
	if g.against == "" {
		return fmt.Sprintf("≤ %g %s", g.atMost, unit)
	}
	return fmt.Sprintf("≥ %g× %s", g.factor, g.against)
}

// goalColumns gives the goals of a row and whether each is met, as the two columns show it.
func (r result) goalColumns() (goals, verdicts string) {
	var a, b []string
	for _, g := range r.goals {
		a = append(a, g.text(r.unit))
		b = append(b, r.verdict(g))
	}
	return strings.Join(a, ", "), strings.Join(b, ", ")
}
