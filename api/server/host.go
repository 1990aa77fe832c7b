package server

import (
	"bufio"
	"bytes"
	"cmp"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func kernelVersion() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "<unknown>"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// machine is the kernel's name of the architecture, as info tells it ("x86_64").
func machine() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return runtime.GOARCH
	}
	return unix.ByteSliceToString(u.Machine[:])
}

// osRelease reads PRETTY_NAME and VERSION_ID of os-release(5).
func osRelease() (pretty, version string) {
	pretty = "<unknown>"
	for _, file := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(data) {
			key, value, _ := strings.Cut(strings.TrimSpace(string(line)), "=")
			if un, err := strconv.Unquote(value); err == nil {
				value = un
			}
			switch key {
			case "PRETTY_NAME":
				pretty = value
			case "VERSION_ID":
				version = value
			}
		}
		return pretty, version
	}
	return pretty, version
}

// memTotal is the machine's memory in bytes.
func memTotal() int64 {
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) != nil {
		return 0
	}
	return int64(uint64(si.Totalram) * uint64(si.Unit)) //nolint:unconvert // 32 bit on some architectures
}

// openFiles counts our descriptors.
func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(entries) - 1 // the directory itself
}

// limits says which resource limits this machine's cgroups can enforce.
type limits struct {
	version                                         int
	memory, swap, cpuQuota, cpuShares, cpuset, pids bool
	oomKillDisable, blockIO                         bool
}

// cgroupLimits looks at the mounted hierarchies: version 2 if the root is one, else
// version 1 by controller.
func cgroupLimits() limits {
	const root = "/sys/fs/cgroup"
	var fs unix.Statfs_t
	if unix.Statfs(root, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		data, _ := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
		has := map[string]bool{}
		for _, c := range strings.Fields(string(data)) {
			has[c] = true
		}
		return limits{version: 2, memory: has["memory"], swap: has["memory"] && swapAccounting(), cpuQuota: has["cpu"], cpuShares: has["cpu"], cpuset: has["cpuset"], pids: has["pids"], blockIO: has["io"]}
	}
	dirs := controllerMounts()
	has := func(controller, file string) bool {
		dir, ok := dirs[controller]
		if !ok {
			return false
		}
		_, err := os.Stat(filepath.Join(dir, file))
		return err == nil
	}
	return limits{
		version:        1,
		memory:         has("memory", "memory.limit_in_bytes"),
		swap:           has("memory", "memory.memsw.limit_in_bytes"),
		oomKillDisable: has("memory", "memory.oom_control"),
		cpuQuota:       has("cpu", "cpu.cfs_quota_us"),
		cpuShares:      has("cpu", "cpu.shares"),
		cpuset:         has("cpuset", "cpuset.cpus"),
		pids:           has("pids", "cgroup.procs"),
		blockIO:        has("blkio", "blkio.throttle.read_bps_device"),
	}
}

// swapAccounting looks for memory.swap.max in any child group: the root has none.
func swapAccounting() bool {
	found, _ := filepath.Glob("/sys/fs/cgroup/*/memory.swap.max")
	return len(found) > 0
}

// controllerMounts maps cgroup v1 controllers to where they are mounted.
func controllerMounts() map[string]string {
	out := map[string]string{}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return out
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// proc_pid_mountinfo(5): fields, then " - ", file system type, source, options.
		fields, rest, ok := strings.Cut(lines.Text(), " - ")
		if !ok {
			continue
		}
		tail, head := strings.Fields(rest), strings.Fields(fields)
		if len(tail) < 3 || tail[0] != "cgroup" || len(head) < 5 {
			continue
		}
		for _, o := range strings.Split(tail[2], ",") {
			out[o] = head[4]
		}
	}
	return out
}

// securityOptions lists what confines containers here, as info tells it.
func securityOptions(cgroupVersion int, f Facts) []string {
	var out []string
	if data, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err == nil && strings.HasPrefix(string(data), "Y") {
		out = append(out, "name=apparmor")
	}
	if _, err := os.Stat("/proc/sys/kernel/seccomp/actions_avail"); err == nil {
		out = append(out, "name=seccomp,profile="+cmp.Or(f.SeccompProfile, "builtin"))
	}
	if f.SELinux {
		out = append(out, "name=selinux")
	}
	if os.Geteuid() != 0 {
		out = append(out, "name=rootless")
	}
	if cgroupVersion == 2 {
		out = append(out, "name=cgroupns")
	}
	if f.NoNewPrivileges {
		out = append(out, "name=no-new-privileges")
	}
	return out
}

// backingFilesystem names the file system of a directory in Docker's words, empty if it is
// none of the usual ones.
func backingFilesystem(dir string) string {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return ""
	}
	return map[uint64]string{
		unix.EXT4_SUPER_MAGIC: "extfs", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs",
		unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", unix.F2FS_SUPER_MAGIC: "f2fs", 0x2fc12fc1: "zfs", 0xca451a4e: "bcachefs",
	}[uint64(uint32(fs.Type))]
}
