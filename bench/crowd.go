package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

func sectionCrowd(n int) string { return fmt.Sprintf("Containers, with %d running on every engine", n) }

func crowdName(i int) string { return fmt.Sprintf("crowd%d", i) }

// gather starts a crowd on every engine, in turns of a tenth each, and gives each engine's
// rate. Args are those of run between the name and the program.
func gather(ctx context.Context, engines []*peer, crowd int, section, flags string, args []string) result {
	r := result{section: section, row: fmt.Sprintf("%d × run %s in a row", crowd, flags), unit: "starts/s", moreIsBetter: true,
		goals: []goal{{against: "docker", factor: 10}}}
	for _, p := range engines {
		r.cells = append(r.cells, cell{peer: p.name})
	}
	for from, turn := 0, max(1, crowd/10); from < crowd; from += turn {
		for i, p := range engines {
			c := &r.cells[i]
			if c.why != "" {
				continue
			}
			pause(ctx, settle)
			begin, n := time.Now(), min(turn, crowd-from)
			for j := range n {
				if _, err := p.do(ctx, "run", slices.Concat([]string{"-d", "--name", crowdName(from + j)}, args, []string{"sleep", "100000"})...); err != nil {
					c.fail(err)
					break
				}
			}
			if c.why == "" {
				c.values = append(c.values, float64(n)/time.Since(begin).Seconds())
			}
		}
	}
	return r
}

// disperse removes the crowd of an engine in one command.
func (p *peer) disperse(ctx context.Context, crowd int) (time.Duration, error) {
	args := []string{"-f"}
	for i := range crowd {
		args = append(args, crowdName(i))
	}
	return p.do(ctx, "rm", args...)
}
