package main

import (
	"context"
	"fmt"
	"time"
)

func sectionCrowd(n int) string { return fmt.Sprintf("Containers, with %d running on every engine", n) }

func crowdName(i int) string { return fmt.Sprintf("crowd%d", i) }

// gather starts a crowd on every engine, in turns of a tenth each, and gives each engine's rate.
func gather(ctx context.Context, engines []*peer, crowd int) result {
	r := result{section: sectionCrowd(crowd), row: fmt.Sprintf("%d × run -d in a row", crowd), unit: "starts/s", moreIsBetter: true,
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
				if _, err := p.do(ctx, "run", "-d", "--name", crowdName(from+j), "--network", "none", "busybox", "sleep", "100000"); err != nil {
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
