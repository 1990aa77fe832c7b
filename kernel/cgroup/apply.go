package cgroup

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/fail"
	"berth/kernel/systemd"
)

// section is one part of the specification's resources, served by one controller.
type section struct {
	controller string // v1 name
	asked      func(*specs.LinuxResources) bool
	v1, v2     func(dir string, r *specs.LinuxResources) error
}

// sections is config-linux.md's list of resources.
var sections = []section{
	{"devices", devicesAsked, devicesV1, devicesV2},
	{"memory", memoryAsked, memoryV1, memoryV2},
	{"cpu", cpuAsked, cpuV1, cpuV2},
	{"cpuset", cpusetAsked, cpuset, cpuset},
	{"pids", pidsAsked, pids, pids},
	{"blkio", blockIOAsked, blockIOV1, blockIOV2},
	{"hugetlb", hugetlbAsked, hugetlbV1, hugetlbV2},
	{"net_cls", netClsAsked, netCls, nil},
	{"net_prio", netPrioAsked, netPrio, nil},
	{"rdma", rdmaAsked, rdma, rdma},
}

// asked lists the controllers that r sets something of.
func asked(r *specs.LinuxResources) []string {
	var cs []string
	if r == nil {
		return nil
	}
	for _, s := range sections {
		if s.asked(r) {
			cs = append(cs, s.controller)
		}
	}
	return cs
}

// Apply changes the limits of a live group. Fields that are absent, or 0 where the
// specification calls that "not set", keep what they have. A limit that cannot be set
// here is class Invalid, one that the group's present usage forbids is class Conflict;
// the limits before it have been changed by then.
func (g *Group) Apply(ctx context.Context, r *specs.LinuxResources) error {
	if g.scope != "" && r != nil {
		at := g.dirs[0].path
		now := period{}
		if text, err := readString(at + "/cpu.max"); err == nil {
			quota, length, _ := strings.Cut(text, " ")
			now = period{limitOf(quota), limitOf(length)}
		}
		properties, err := scopeProperties(r, now, bfqIn(at))
		if err != nil {
			return err
		}
		if err := fits(at, r.Memory); err != nil {
			return err
		}
		if len(properties) > 0 {
			if err := systemd.SetProperties(ctx, g.scope, properties); err != nil {
				return err
			}
		}
	}
	return g.applyFiles(r)
}

func (g *Group) applyFiles(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	for _, s := range sections {
		if !s.asked(r) {
			continue
		}
		d, ok := g.dirOf(s.controller)
		if !ok {
			return fail.New(fail.Invalid, "cannot limit %s: the control group controller is not mounted or not writable", s.controller)
		}
		set := s.v1
		if d.unified {
			set = s.v2
		}
		if err := set(d.path, r); err != nil {
			return d.explain(s.controller, err)
		}
	}
	return g.applyUnified(r.Unified)
}

// applyUnified writes the specification's free map of v2 files and values.
func (g *Group) applyUnified(files map[string]string) error {
	for _, file := range slices.Sorted(maps.Keys(files)) {
		value := files[file]
		if !g.v2() {
			return fail.New(fail.Invalid, "cannot set %s: this host does not use cgroup v2", file)
		}
		d := g.dirs[0]
		if file == "" || strings.ContainsAny(file, "/\x00") || !strings.Contains(file, ".") {
			return fail.New(fail.Invalid, "invalid cgroup v2 file name %q", file)
		}
		controller, _, _ := strings.Cut(file, ".")
		// A file with a line for each device takes one of them at a time.
		for line := range strings.Lines(value) {
			if line = strings.TrimSpace(line); line == "" {
				continue
			}
			if err := set(file, d.path+"/"+file, line); err != nil {
				return d.explain(controller, err)
			}
		}
		if file == "cpuset.cpus.partition" {
			if err := checkPartition(d.path, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkPartition tells why the kernel made no partition of the group, which it says only to
// those who read the file again.
func checkPartition(dir, want string) error {
	now, err := readString(dir + "/cpuset.cpus.partition")
	if err != nil || !strings.Contains(now, "invalid") {
		return err
	}
	return fail.New(fail.Invalid, "cannot set cpuset.cpus.partition to %s: it is %s", want, now)
}

// explain finds out why a group of v2 lacks a controller, where that is why a limit could not
// be set.
func (d dir) explain(controller string, err error) error {
	if controller == "blkio" {
		controller = "io"
	}
	if !d.unified || !slices.Contains(d.controllers, controller) || slices.Contains(controllersOf(d.path), controller) {
		return err
	}
	// The first group on the way that does not hand the controller on. Its processes, if it has
	// any, are the reason: cgroups(7), "no internal processes".
	for at := d.mount; len(at) < len(d.path); {
		on, readErr := readString(at + "/cgroup.subtree_control")
		if readErr != nil {
			return err
		}
		if !slices.Contains(strings.Fields(on), controller) {
			if pids, _ := read(at + "/cgroup.procs"); len(pids) > 0 {
				return fail.New(fail.Invalid, "cannot limit %s: the control group %s has processes of its own, so it cannot hand the controller on to groups below it: choose another cgroup parent", controller, at)
			}
			return fail.New(fail.Invalid, "cannot limit %s: the control group %s does not hand the controller on to groups below it", controller, at)
		}
		next, _, _ := strings.Cut(d.path[len(at)+1:], "/")
		at += "/" + next
	}
	return err
}

// set writes a user's limit: what names it in errors.
func set(what, path, value string) error {
	if err := write(path, value); err != nil {
		return refused(what, value, err)
	}
	return nil
}
