package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const sectionBridge = "Containers with a network"

// bridgeRows measures containers on a bridge. As long as Berth refuses one, the row says so.
func (b *bench) bridgeRows(ctx context.Context, pace pace) ([]result, error) {
	ours := b.engines[0]
	args := []string{"--rm", "--network", "bridge", "busybox", "true"}
	if _, err := ours.do(ctx, "run", args...); err != nil {
		r := result{section: sectionBridge, row: "run --rm --network bridge true", unit: "ms"}
		for _, p := range b.engines {
			r.cells = append(r.cells, cell{peer: p.name})
		}
		r.cells[0].why = "not built: " + lastLine(err.Error())
		return []result{r}, nil
	}
	peers := []*peer{ours}
	for _, p := range b.engines[1:] {
		bridged, err := b.bridged(ctx, p)
		if err != nil {
			b.notes = append(b.notes, p.name+" does not start with a bridge: "+lastLine(err.Error()))
			continue
		}
		peers = append(peers, bridged)
	}
	rows := on(peers, sectionBridge, []row{{name: "run --rm --network bridge true", work: timed("run", args...)}})
	return measureRows(ctx, rows, pace), nil
}

// bridged is a further engine like p that has a bridge, in a namespace of its own: it shares
// the state of none that is measured without.
func (b *bench) bridged(ctx context.Context, p *peer) (*peer, error) {
	q, err := b.newPeer(ctx, p.name+"-bridge")
	if err != nil {
		return nil, err
	}
	move := func(words []string) (moved []string) {
		for _, w := range words {
			moved = append(moved, strings.ReplaceAll(w, p.dir+"/", q.dir+"/"))
		}
		return moved
	}
	q.name, q.client, q.engine = p.name, move(p.client), move(p.engine)
	q.runFlags, q.form = p.runFlags, p.form
	if p.engine == nil {
		// Podman keeps descriptions of networks beside its state if told to.
		q.client = append(q.client, "--network-config-dir", filepath.Join(q.dir, "networks"))
		if err := os.MkdirAll(filepath.Join(q.dir, "networks"), 0o755); err != nil {
			return nil, err
		}
	}
	q.engine = slices.DeleteFunc(q.engine, func(w string) bool { return w == "--bridge" || w == "none" || w == "--iptables=false" })
	if len(q.engine) > 0 {
		if err := q.startEngine(ctx); err != nil {
			return nil, err
		}
	} else {
		q.engine = nil
	}
	_, err = q.do(ctx, "import", filepath.Join(b.dir, "busybox.tar"), "busybox")
	return q, err
}
