package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine describes where a run was made; dir is where the engines keep their state.
func machine(dir string) []fact {
	facts := []fact{
		{"kernel", "Linux " + firstLine("/proc/sys/kernel/osrelease")},
		{"processor", fmt.Sprintf("%d × %s", runtime.NumCPU(), field("/proc/cpuinfo", "model name"))},
		{"memory", field("/proc/meminfo", "MemTotal")},
		{"cgroups", cgroupLayout()},
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil {
		name := fmt.Sprintf("file system type %#x", fs.Type)
		for _, known := range []struct {
			magic int64
			name  string
		}{{unix.EXT4_SUPER_MAGIC, "ext4"}, {unix.XFS_SUPER_MAGIC, "xfs"}, {unix.BTRFS_SUPER_MAGIC, "btrfs"}, {unix.TMPFS_MAGIC, "tmpfs"}, {unix.OVERLAYFS_SUPER_MAGIC, "overlay"}} {
			if known.magic == int64(fs.Type) {
				name = known.name
			}
		}
		facts = append(facts, fact{"state on", name})
	}
	return facts
}

func firstLine(path string) string {
	data, _ := os.ReadFile(path)
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(line)
}

// field is the value of the first line "name: value" of a file of /proc.
func field(path, name string) string {
	f, err := os.Open(path)
	if err != nil {
		return "?"
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if key, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "?"
}

func cgroupLayout() string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return "v2"
	}
	hierarchies := 0
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	for _, d := range dirs {
		if _, err := os.Stat(filepath.Join(filepath.Dir(d), "cgroup.controllers")); err != nil {
			hierarchies++
		}
	}
	layout := fmt.Sprintf("v1 with %d hierarchies", hierarchies)
	if hierarchies < len(dirs) {
		layout = "hybrid: " + layout + ", and v2 beside them"
	}
	return layout
}

// busy is the share of processor time, 0 to 1, that was spent between two readings of
// /proc/stat (proc_stat(5)), time stolen by other virtual machines included.
func busy(before, after cpuTime) float64 {
	total := after.total - before.total
	if total <= 0 {
		return 0
	}
	return 1 - float64(after.idle-before.idle)/float64(total)
}

type cpuTime struct{ total, idle int64 }

func parseCPU(line string) (t cpuTime) {
	fields := strings.Fields(line)
	for i, f := range fields {
		// guest time, the ninth and tenth value, is contained in user time
		if i == 0 || i > 8 {
			continue
		}
		n, _ := strconv.ParseInt(f, 10, 64)
		t.total += n
		if i == 4 || i == 5 { // idle, iowait
			t.idle += n
		}
	}
	return t
}

// otherWork is how busy the machine is while this run does nothing.
func otherWork(ctx context.Context) float64 {
	before := parseCPU(firstLine("/proc/stat"))
	pause(ctx, time.Second)
	return busy(before, parseCPU(firstLine("/proc/stat")))
}

func loadAverage() string {
	return strings.Join(strings.Fields(firstLine("/proc/loadavg"))[:3], " ")
}

// tooBusy is the share from which figures are not worth keeping.
const tooBusy = 0.10
