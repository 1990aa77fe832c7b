package engine

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	"berth/kernel"
	"berth/kernel/apparmor"
	"berth/kernel/cgroup"
)

// machine is what the engine must know of the machine and the kernel, looked up once.
type machine struct {
	boot     string   // differs after every boot of the machine, or of the container that the engine is in
	cpus     int      // CPUs that the engine, and so what it starts, may use; info tells the same number
	caps     []string // capabilities the kernel knows and this process may hand on
	limits   cgroup.Support
	apparmor bool
	rro      bool // mount_setattr(2): binds can be read-only recursively
	// By the engine's configuration:
	scopes   bool // systemd makes control groups
	defaults Defaults
}

func probeMachine() (*machine, error) {
	boot, err := bootName()
	if err != nil {
		return nil, err
	}
	m := &machine{boot: boot, cpus: runtime.NumCPU()}
	last, err := capability.LastCap()
	if err != nil {
		return nil, fmt.Errorf("find the kernel's last capability: %w", err)
	}
	for c := capability.Cap(0); c <= last; c++ {
		if held, err := capability.GetBound(c); err == nil && held {
			m.caps = append(m.caps, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	if m.limits, err = cgroup.Supported(); err != nil {
		return nil, err
	}
	m.apparmor = apparmor.Enabled()
	// An invalid descriptor tells a kernel that has the call (EBADF) from one that has not.
	m.rro = unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}) != unix.ENOSYS
	return m, nil
}

// bootName is the machine's boot ID. In a container, with whose first process all others end, there
// follows when that was started: a container that is started anew is like a machine that was booted.
func bootName() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	name := strings.TrimSpace(string(boot))
	if !kernel.InPIDNamespace("/proc") {
		return name, nil
	}
	first, err := kernel.StartTime(1)
	return name + "." + strconv.FormatUint(first, 10), err
}

// onlineCPUs counts a list like "0-3,8" of /sys/devices/system/cpu/online.
func onlineCPUs() int {
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return 1
	}
	set, err := parseCPUSet(strings.TrimSpace(string(b)))
	if err != nil || len(set) == 0 {
		return 1
	}
	return len(set)
}

// parseCPUSet reads the kernel's list format, cpuset(7).
func parseCPUSet(list string) (map[int]bool, error) {
	set := map[int]bool{}
	for part := range strings.SplitSeq(list, ",") {
		if part == "" {
			continue
		}
		lo, hi, ranged := strings.Cut(part, "-")
		first, err := strconv.Atoi(lo)
		if err != nil {
			return nil, err
		}
		last := first
		if ranged {
			if last, err = strconv.Atoi(hi); err != nil {
				return nil, err
			}
		}
		if first < 0 || last < first || last > 1<<13 {
			return nil, strconv.ErrRange
		}
		for n := first; n <= last; n++ {
			set[n] = true
		}
	}
	return set, nil
}
