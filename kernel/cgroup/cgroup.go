// Package cgroup creates, limits, observes and destroys control groups, on the v1
// controllers, the unified v2 hierarchy, and hosts that mount both.
package cgroup

import (
	"context"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Group is one container's control group in every hierarchy that matters.
type Group struct{ impl }

// Create makes the group named path (relative to each hierarchy's root, e.g.
// "/berth/<id>") wherever a controller is mounted, and applies res (nil: no limits).
// On failure nothing is left behind.
func Create(path string, res *specs.LinuxResources) (*Group, error) { panic("contract") }

// Load finds an existing group again, after a restart of the caller.
func Load(path string) (*Group, error) { panic("contract") }

// JoinFiles opens the cgroup.procs files in which a process must write "0" to move
// itself into the group, one per hierarchy. The caller closes them.
func (g *Group) JoinFiles() ([]*os.File, error) { panic("contract") }

// Dir opens the v2 directory for CLONE_INTO_CGROUP, or returns nil on v1.
func (g *Group) Dir() (*os.File, error) { panic("contract") }

// Add moves the process pid into the group.
func (g *Group) Add(pid int) error { panic("contract") }

// Apply changes the limits of a live group.
func (g *Group) Apply(res *specs.LinuxResources) error { panic("contract") }

// Pids lists the processes in the group and below it.
func (g *Group) Pids() ([]int, error) { panic("contract") }

// Freeze stops or continues all processes of the group, waiting for the state.
func (g *Group) Freeze(ctx context.Context, frozen bool) error { panic("contract") }

// Kill sends SIGKILL to every process of the group until none is left.
func (g *Group) Kill(ctx context.Context) error { panic("contract") }

// Signal sends sig to every process of the group once.
func (g *Group) Signal(sig int) error { panic("contract") }

// OOMKills counts the processes of the group that the kernel killed for memory.
func (g *Group) OOMKills() (uint64, error) { panic("contract") }

// Remove deletes the group's directories, waiting for the kernel to let go of dead
// members. The group must have no live process.
func (g *Group) Remove(ctx context.Context) error { panic("contract") }

type impl interface{}
