package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const sectionMemory = "Memory"

// memoryOnNetwork is the row of a crowd on a network.
const memoryOnNetwork = "per container on a bridge network, with a published port"

// memory is what a crowd costs on one engine, in bytes of private anonymous memory.
type memory struct {
	keepers map[string]keepers // by process name
	engine  int64              // all other processes of the engine: the daemons
}

type keepers struct {
	n     int
	bytes int64
}

// weigh reads the memory of an engine's processes: those that stay with containers, waiting
// ones included, and the daemons. A shim is known by its name, a daemon by its parents.
func (p *peer) weigh() (m memory) {
	m.keepers = map[string]keepers{}
	daemons := map[int]bool{}
	if p.live != nil {
		daemons[p.live.Process.Pid] = true
		for _, d := range descendants(p.live.Process.Pid) {
			daemons[d.pid] = true
		}
	}
	for _, d := range descendants(os.Getpid()) {
		// The kernel keeps 15 bytes of a name: of containerd-shim-runc-v2 the first 15.
		keeper := slices.Contains(p.keepers, d.name)
		if !keeper && (!daemons[d.pid] || !p.isDaemon(d.name)) {
			continue
		}
		bytes, err := anonymous(d.pid)
		if err != nil {
			continue // it has ended
		}
		if keeper {
			k := m.keepers[d.name]
			m.keepers[d.name] = keepers{k.n + 1, k.bytes + bytes}
		} else {
			m.engine += bytes
		}
	}
	return m
}

// isDaemon keeps containers' own processes out, which descend from daemons in some engines.
func (p *peer) isDaemon(name string) bool {
	return name == filepath.Base(p.engine[0]) || name == "containerd"
}

// perContainer is what each of n containers costs, in megabytes of a million bytes, and a
// sentence with the parts.
func (before memory) perContainer(after memory, n int) (float64, string) {
	total := after.engine - before.engine
	parts := []string{}
	for _, name := range slices.Sorted(maps.Keys(after.keepers)) {
		k := after.keepers[name]
		total += k.bytes // waiting ones too, and those that waited before
		parts = append(parts, fmt.Sprintf("%d %s with %.2f MB each", k.n, name, mega(k.bytes)/float64(max(1, k.n))))
	}
	if before.engine > 0 {
		parts = append(parts, fmt.Sprintf("engine %.1f MB before, %.1f MB after", mega(before.engine), mega(after.engine)))
	}
	return mega(total) / float64(n), strings.Join(parts, ", ")
}

func mega(bytes int64) float64 { return float64(bytes) / 1e6 }

// anonymous is a process's own memory (proc_pid_smaps_rollup, field Anonymous).
func anonymous(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	return parseAnonymous(string(data))
}

func parseAnonymous(rollup string) (int64, error) {
	for line := range strings.Lines(rollup) {
		rest, ok := strings.CutPrefix(line, "Anonymous:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		return kib * 1024, err
	}
	return 0, fmt.Errorf("smaps_rollup has no line Anonymous")
}

// baseline replaces the engines by fresh ones, lets each run one container and weighs them.
func (b *bench) baseline(ctx context.Context, engines []*peer) (weights []memory) {
	for _, p := range engines {
		if err := p.restartEngine(ctx); err != nil {
			b.notes = append(b.notes, p.name+" does not restart: "+err.Error())
			continue
		}
		// What fails here fails in the first row too, which says so.
		_, _ = p.do(ctx, "run", "--rm", "--network", "none", "busybox", "true")
	}
	pause(ctx, 3*time.Second)
	for _, p := range engines {
		weights = append(weights, p.weigh())
	}
	return weights
}

// weighAll gives the memory row after the crowd has been idle for a time.
func weighAll(ctx context.Context, engines []*peer, before []memory, crowd int, idle time.Duration, starts result) (r result, notes []string) {
	r = result{section: sectionMemory, row: fmt.Sprintf("per container, %d running, idle for %s", crowd, idle), unit: "MB",
		goals: []goal{{atMost: 2}}}
	pause(ctx, idle)
	for i, p := range engines {
		c := cell{peer: p.name, why: starts.cells[i].why}
		if c.why == "" {
			each, parts := before[i].perContainer(p.weigh(), crowd)
			c.values = samples{each}
			notes = append(notes, fmt.Sprintf("Memory, %s: %s.", p.name, parts))
		}
		r.cells = append(r.cells, c)
	}
	return r, notes
}
