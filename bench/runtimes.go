package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
)

// openRuntimes readies the OCI runtimes, ours first.
func (b *bench) openRuntimes(ctx context.Context) (runtimes []*peer, err error) {
	for _, name := range []string{"berth-runtime", "runc", "crun"} {
		program := filepath.Join(b.bin, name)
		if name != "berth-runtime" {
			if program, err = exec.LookPath(name); err != nil {
				b.notes = append(b.notes, name+" is not installed: no peer")
				continue
			}
		}
		p, err := b.newPeer(ctx, name)
		if err != nil {
			return nil, err
		}
		p.client = []string{program, "--root", filepath.Join(p.dir, "r")}
		runtimes = append(runtimes, p)
	}
	return runtimes, nil
}

// bundle makes a bundle of busybox whose process ends at once, as `spec` describes it.
func (b *bench) bundle(ctx context.Context, ours *peer, rootfs string) (string, error) {
	dir := filepath.Join(b.dir, "bundle")
	if err := os.MkdirAll(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		return "", err
	}
	if _, _, err := (*space)(nil).run(ctx, os.Environ(), "tar", "-C", filepath.Join(dir, "rootfs"), "-xf", rootfs); err != nil {
		return "", err
	}
	if _, _, err := ours.space.run(ctx, ours.env, ours.client[0], "spec", "--bundle", dir); err != nil {
		return "", err
	}
	config := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(config)
	if err != nil {
		return "", err
	}
	var spec map[string]any
	if err := json.Unmarshal(data, &spec); err != nil {
		return "", fmt.Errorf("%s: %w", config, err)
	}
	process, _ := spec["process"].(map[string]any)
	linux, _ := spec["linux"].(map[string]any)
	if process == nil || linux == nil {
		return "", fmt.Errorf("%s has no process or no linux section", config)
	}
	spec["ociVersion"] = "1.0.2" // the oldest that all can read
	process["terminal"], process["args"] = false, []string{"/bin/true"}
	linux["cgroupsPath"] = "/" + b.cgroup() + "/bundle"
	return dir, writeJSON(config, spec)
}

// runtimeRows run a bundle to its end, each time under another name.
func runtimeRows(runtimes []*peer, bundle string) []row {
	var serial atomic.Int64
	return on(runtimes, "OCI runtimes, one bundle", []row{{
		name: "run", bothPaces: true, goals: []goal{{against: "runc", factor: 2}},
		work: func(ctx context.Context, p *peer) (float64, error) {
			took, err := p.do(ctx, "run", "--bundle", bundle, fmt.Sprintf("bench%d", serial.Add(1)))
			return milliseconds(took), err
		},
	}})
}
