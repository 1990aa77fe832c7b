package runtime

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	"berth/kernel/stage"
)

// hierarchy is a cgroup v1 hierarchy of the host.
type hierarchy struct {
	name    string   // the directory's name in the container: "cpu,cpuacct", "systemd"
	options []string // for mounting it
	at      string   // where the host has it; empty if nowhere
}

// hierarchies lists the v1 hierarchies, none on a host with v2 alone. lookup adds where
// they are mounted.
func hierarchies(lookup bool) ([]hierarchy, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var list []hierarchy
	for line := range strings.Lines(string(text)) {
		_, rest, _ := strings.Cut(line, ":")
		controllers, _, _ := strings.Cut(rest, ":")
		if controllers == "" {
			continue // the unified one
		}
		h := hierarchy{name: strings.TrimPrefix(controllers, "name="), options: strings.Split(controllers, ",")}
		list = append(list, h)
	}
	if !lookup || len(list) == 0 {
		return list, nil
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		left, right, ok := strings.Cut(line, " - ")
		fields, about := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 5 || len(about) < 3 || about[0] != "cgroup" {
			continue
		}
		for i := range list {
			if hasAll(about[2], list[i].options) {
				list[i].at = fields[4]
			}
		}
	}
	return list, nil
}

func hasAll(options string, want []string) bool {
	for _, w := range want {
		if !strings.Contains(","+options+",", ","+w+",") {
			return false
		}
	}
	return true
}

// delegateGroup gives the root of a user namespace the control group, if it sees that at
// /sys/fs/cgroup and may write there: runtime specification, "Cgroup ownership".
func (b *builder) delegateGroup(c *Container, plans []*mountPlan) error {
	if c.group == nil || !c.mapsUsers() || !b.ns.own(unix.CLONE_NEWCGROUP) {
		return nil
	}
	for _, plan := range plans {
		if plan.Destination != "/sys/fs/cgroup" || plan.Type != "cgroup" && plan.Type != "cgroup2" || plan.opts.set&unix.MOUNT_ATTR_RDONLY != 0 {
			continue
		}
		for _, m := range c.spec.Linux.UIDMappings {
			if m.ContainerID == 0 && m.Size > 0 {
				return c.group.Delegate(int(m.HostID))
			}
		}
	}
	return nil
}

// mountCgroup shows the container its own part of the cgroup tree. In a cgroup
// namespace a fresh mount does that; without one the group's directories are bound.
// On v1 there is one mount for each hierarchy, on a tmpfs, as everybody expects it at
// /sys/fs/cgroup.
func (b *builder) mountCgroup(plan *mountPlan) error {
	private := b.ns.own(unix.CLONE_NEWCGROUP)
	list, err := hierarchies(!private)
	if err != nil {
		return fail.New(fail.Internal, "mount %s: %w", plan.Destination, err)
	}
	if plan.Type == "cgroup2" && len(list) > 0 {
		b.mountFS(plan)
		return nil
	}
	if len(list) == 0 {
		if private {
			own := *plan
			own.Type, own.Source, own.opts.data = "cgroup2", "cgroup", nil
			b.mountFS(&own)
			return nil
		}
		// Whole, as runc has it: programs look for the path that /proc/self/cgroup shows.
		return b.bindTree(plan, "/sys/fs/cgroup", plan.at)
	}

	p := b.p
	dir := *plan
	dir.Type, dir.Source = "tmpfs", "tmpfs"
	dir.opts.data = []string{"mode=755"}
	dir.opts.set &^= unix.MOUNT_ATTR_RDONLY // until the directories are made
	b.mountFS(&dir)
	for _, h := range list {
		at := plan.at + "/" + h.name
		if !private {
			if h.at == "" {
				continue
			}
			if err := b.bindGroup(plan, h.at, at); err != nil {
				return err
			}
		} else {
			one := *plan
			one.Type, one.Source, one.at, one.opts.data = "cgroup", "cgroup", at, h.options
			one.Destination = plan.Destination + "/" + h.name
			b.mountFS(&one)
		}
		if names := strings.Split(h.name, ","); len(names) > 1 {
			p.About("create links in", plan.Destination)
			t := p.Slot()
			b.openIn(plan.Destination, unix.O_PATH|unix.O_DIRECTORY, resolveInRoot).Into(t)
			for _, name := range names {
				p.Call(unix.SYS_SYMLINKAT, p.Str(h.name), t.Arg(), p.Str(name)).Ignore(unix.EEXIST)
			}
			b.close(t)
		}
	}
	if plan.opts.set&unix.MOUNT_ATTR_RDONLY != 0 {
		p.About("make read-only", plan.Destination)
		t := p.Slot()
		b.openIn(plan.Destination, unix.O_PATH|unix.O_DIRECTORY, resolveInRoot).Into(t)
		b.setMount(t.Arg(), false, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		b.close(t)
	}
	return nil
}

// bindGroup binds the group's directory in the hierarchy at host.
func (b *builder) bindGroup(plan *mountPlan, host, at string) error {
	return b.bindTree(plan, filepath.Join(host, b.groupPath), at)
}

func (b *builder) bindTree(plan *mountPlan, source, at string) error {
	f, err := kernel.CloneTree(source, false)
	if err != nil {
		if os.IsNotExist(err) { // a hierarchy that the group has no part in
			return nil
		}
		return fail.New(fail.Internal, "mount %s: %w", at, err)
	}
	b.closeFile(f)
	if err := b.setDetached(f, stage.Int(int(f.Fd())), false, unix.MountAttr{Propagation: unix.MS_PRIVATE, Attr_set: plan.opts.set, Attr_clr: plan.opts.clear}); err != nil {
		return fail.New(fail.Internal, "mount %s: %w", at, err)
	}
	b.p.About("mount cgroup at", at)
	t := b.target(at, directory, resolveInRoot)
	b.moveMount(b.p.File(f), t.Arg())
	b.close(t)
	return nil
}
