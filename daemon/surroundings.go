package daemon

import (
	"context"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	"berth/kernel/cgroup"
)

// An engine may run in a container itself, and often does in CI. What it lacks if that was not made for
// it is said at its start, once, by log and info, or ends it where no container could run.

// lookAround prepares what is around the engine for its containers. It gives the group below which theirs
// are made, and what will not work.
func (d *daemon) lookAround(ctx context.Context) (group string, warnings []string, err error) {
	if !kernel.EffectiveCapabilities().Has(unix.CAP_SYS_ADMIN) {
		return "", nil, fail.New(fail.Unavailable, "berthd lacks the capability CAP_SYS_ADMIN, without which it can make no container: if it runs in a container, start that with --privileged")
	}
	group = d.set.CgroupParent
	if d.set.CgroupDriver != driverSystemd {
		home, err := cgroup.Settle(ctx)
		if home.Moved > 0 {
			d.log.Info("moved the processes of this container to a control group of their own, so that limits work", "processes", home.Moved)
		}
		if err != nil {
			warnings = append(warnings, err.Error())
		}
		if group == "" {
			group = path.Join(home.Path, "berth")
		}
	}
	if lack := lackForNetworks(); lack != "" {
		warnings = append(warnings, lack+", so there are no bridge networks (an engine in a container needs --privileged there); --network host and none work")
	}
	for i, w := range warnings {
		d.log.Warn(w)
		warnings[i] = "WARNING: " + w
	}
	return group, warnings, nil
}

// lackForNetworks tells what bridge networks need and is not here.
func lackForNetworks() string {
	if !kernel.EffectiveCapabilities().Has(unix.CAP_NET_ADMIN) {
		return "berthd lacks the capability CAP_NET_ADMIN"
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs("/proc/sys/net", &fs); err == nil && fs.Flags&unix.ST_RDONLY != 0 {
		return "/proc/sys is read-only"
	} else if os.IsNotExist(err) {
		return "/proc/sys/net is not there"
	}
	return ""
}
