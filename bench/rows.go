package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// row is one piece of work on the peers of a section, ours first.
type row struct {
	section, name string
	unit          string
	moreIsBetter  bool
	goals         []goal
	peers         []*peer
	bothPaces     bool // measured with rests between the starts, too
	few           bool // each sample is long: a third of the number does
	// open and close run once per peer, before and after runs around every sample. None of
	// them is measured, and each may be nil.
	open, before, after, close step
	work                       func(context.Context, *peer) (float64, error)
}

type step func(context.Context, *peer) error

// pace is how often and how densely a row is measured.
type pace struct {
	n     int           // samples per peer that count
	burst int           // how many of them follow one another before another peer's turn
	rest  time.Duration // before every start, with bursts of one
}

// settle lets an engine finish what it does after its answer, before another's turn.
const settle = 300 * time.Millisecond

func (p pace) backToBack() bool { return p.rest == 0 }

// measure gives a row's samples. A sample that does not count comes before each burst, or
// before the first where every start follows a rest. A peer that fails is left out from
// there on, with its reason.
func (r row) measure(ctx context.Context, p pace) result {
	out := result{section: r.section, row: r.name, unit: r.unit, moreIsBetter: r.moreIsBetter, goals: r.goals}
	if r.few {
		p.n = (p.n + 2) / 3
	}
	for _, peer := range r.peers {
		out.cells = append(out.cells, cell{peer: peer.name})
	}
	attempt := func(i int, s step) {
		if s == nil || out.cells[i].why != "" {
			return
		}
		if err := s(ctx, r.peers[i]); err != nil {
			out.cells[i].fail(err)
		}
	}
	for i := range r.peers {
		attempt(i, r.open)
	}
	sample := func(i int, counts bool) {
		attempt(i, r.before)
		attempt(i, func(ctx context.Context, peer *peer) error {
			value, err := r.work(ctx, peer)
			if err == nil && counts {
				out.cells[i].values = append(out.cells[i].values, value)
			}
			return err
		})
		attempt(i, r.after)
	}
	for done := 0; done < p.n; done += p.burst {
		for i := range r.peers {
			pause(ctx, max(settle, p.rest))
			if p.backToBack() || done == 0 {
				sample(i, false)
				pause(ctx, p.rest)
			}
			for range min(p.burst, p.n-done) {
				sample(i, true)
			}
		}
	}
	for i, peer := range r.peers {
		if r.close != nil {
			if err := r.close(ctx, peer); err != nil {
				out.cells[i].fail(err)
			}
		}
	}
	return out
}

// fail drops what was measured: half a row is not comparable with whole ones.
func (c *cell) fail(err error) {
	if c.why == "" {
		c.values, c.why = nil, "failed: "+err.Error()
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// timed is work that consists of one subcommand.
func timed(verb string, args ...string) func(context.Context, *peer) (float64, error) {
	return func(ctx context.Context, p *peer) (float64, error) {
		took, err := p.do(ctx, verb, args...)
		return milliseconds(took), err
	}
}

// unmeasured is a step that consists of one subcommand.
func unmeasured(verb string, args ...string) step {
	return func(ctx context.Context, p *peer) error {
		_, err := p.do(ctx, verb, args...)
		return err
	}
}

// subject is the name of the container that a row works on.
const subject = "subject"

var (
	runSubject    = []string{"-d", "--name", subject, "--network", "none", "busybox", "sleep", "100000"}
	startSubject  = unmeasured("run", runSubject...)
	removeSubject = unmeasured("rm", "-f", subject)
)

// runGoals are for a run to its end without a network, execGoals for an exec.
var (
	runGoals  = []goal{{against: "docker", factor: 10}, {against: "podman", factor: 4}}
	execGoals = []goal{{against: "docker", factor: 8}}
)

const sectionContainers = "Containers, with nothing else running"

// lonelyRows are the rows that need no crowd.
func lonelyRows(engines []*peer) []row {
	rows := []row{
		{name: "run --rm true", bothPaces: true, goals: runGoals, work: timed("run", "--rm", "--network", "none", "busybox", "true")},
		{name: "exec true", bothPaces: true, goals: execGoals, open: startSubject, work: timed("exec", subject, "true"), close: removeSubject},
		{name: "run -d", work: timed("run", runSubject...), after: removeSubject},
		{name: "stop -t 0", before: startSubject, work: timed("stop", "-t", "0", subject), after: removeSubject},
		{name: "rm", before: unmeasured("create", "--name", subject, "--network", "none", "busybox", "true"), work: timed("rm", subject)},
		{name: "8 × run --rm true at once", few: true, work: atOnce(8, "run", "--rm", "--network", "none", "busybox", "true")},
		{name: "ps with none", work: timed("ps")},
	}
	return on(engines, sectionContainers, rows)
}

// crowdedRows are measured while every engine runs crowd containers.
func crowdedRows(engines []*peer, crowd int) []row {
	rows := []row{
		{name: "run --rm true", bothPaces: true, goals: runGoals, work: timed("run", "--rm", "--network", "none", "busybox", "true")},
		{name: "exec true", bothPaces: true, goals: execGoals, work: timed("exec", crowdName(0), "true")},
		{name: "ps", work: timed("ps")},
	}
	return on(engines, sectionCrowd(crowd), rows)
}

// clientRows compare command lines.
func clientRows(engines []*peer) []row {
	rows := []row{
		{name: "--version", goals: []goal{{against: "docker", factor: 2}}, work: func(ctx context.Context, p *peer) (float64, error) {
			_, took, err := p.space.run(ctx, p.env, p.client[0], "--version")
			return milliseconds(took), err
		}},
		{name: "version, engines running", work: timed("version")},
	}
	return on(engines, "Command lines", rows)
}

func on(peers []*peer, section string, rows []row) []row {
	for i := range rows {
		rows[i].section, rows[i].peers, rows[i].unit = section, peers, "ms"
	}
	return rows
}

// atOnce starts n clients together and takes the time until the last has ended.
func atOnce(n int, verb string, args ...string) func(context.Context, *peer) (float64, error) {
	return func(ctx context.Context, p *peer) (float64, error) {
		var all sync.WaitGroup
		failed := make([]error, n)
		begin := time.Now()
		for i := range n {
			all.Go(func() { _, failed[i] = p.do(ctx, verb, args...) })
		}
		all.Wait()
		took := time.Since(begin)
		i := slices.IndexFunc(failed, func(err error) bool { return err != nil })
		if i >= 0 {
			return 0, fmt.Errorf("one of %d at once: %w", n, failed[i])
		}
		return milliseconds(took), nil
	}
}
