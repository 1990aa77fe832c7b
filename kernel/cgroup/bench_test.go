package cgroup

import (
	"context"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func BenchmarkCreateAndRemove(b *testing.B) {
	hs, err := hierarchies()
	if err != nil || len(hs) == 0 || unwritableHost(hs) {
		b.Skip("control groups cannot be made here")
	}
	limit := int64(100)
	for b.Loop() {
		g, err := create(b.Context(), hs, "/berth-cgroupbench/box", &specs.LinuxResources{
			Pids: &specs.LinuxPids{Limit: &limit}, Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}})
		if err != nil {
			b.Fatal(err)
		}
		if err := g.Remove(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	for _, h := range hs {
		removeTree(h.mount + "/berth-cgroupbench")
	}
}

func unwritableHost(hs []hierarchy) bool {
	_, err := makeDir(hs[0], "/berth-cgroupbench")
	return err != nil
}

// What a scope of systemd's costs instead.
func BenchmarkScopeCreateAndRemove(b *testing.B) {
	hs, err := hierarchies()
	if err == nil {
		err = scopesWork(hs)
	}
	if err != nil {
		b.Skip(err)
	}
	limit := int64(100)
	for b.Loop() {
		g, err := create(b.Context(), hs, Scope("", "berthbench", "box"), &specs.LinuxResources{
			Pids: &specs.LinuxPids{Limit: &limit}, Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}})
		if err != nil {
			b.Fatal(err)
		}
		if err := g.Remove(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
