package testkit

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// stock is what the kernel holds that a container engine could leave behind.
type stock struct{ mounts map[string]bool }

func takeStock() stock {
	s := stock{mounts: map[string]bool{}}
	data, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(data), "\n") {
		if f := strings.Fields(line); len(f) > 4 {
			s.mounts[f[4]] = true
		}
	}
	return s
}

// leaks lists what the engine left behind although its containers are gone and it has
// ended. Shims and the kernel may need a moment, so it waits for the list to empty.
func (e *Engine) leaks(before stock) []string {
	var left []string
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if left = e.leaksNow(before); len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

func (e *Engine) leaksNow(before stock) (left []string) {
	for _, pid := range e.processes("") {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		left = append(left, fmt.Sprintf("process %d: %s", pid, strings.ReplaceAll(string(cmdline), "\x00", " ")))
	}
	for m := range takeStock().mounts {
		if strings.HasPrefix(m, e.Dir) && !before.mounts[m] {
			left = append(left, "mount "+m)
		}
	}
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + e.CgroupParent)
	roots = append(roots, "/sys/fs/cgroup"+e.CgroupParent)
	for _, root := range roots {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && path != root {
				left = append(left, "cgroup "+path)
			}
			return nil
		})
		_ = os.Remove(root) // the parent itself is the test's to remove
	}
	if e.Systemd {
		left = append(left, e.unitLeaks()...)
	}
	// Not layers/trash: what an engine has not deleted when it ends, its next start deletes.
	for _, dir := range []string{filepath.Join(e.DataRoot, "containers"), filepath.Join(e.ExecRoot, "containers"),
		filepath.Join(e.DataRoot, "layers", "staging"), filepath.Join(e.DataRoot, "content", "ingest")} {
		names, _ := os.ReadDir(dir)
		for _, n := range names {
			left = append(left, filepath.Join(dir, n.Name()))
		}
	}
	return append(left, e.NetworkLeaks()...)
}

// unitLeaks lists what systemd still knows of the engine's scopes, and ends their slice, which is
// the test's.
func (e *Engine) unitLeaks() (left []string) {
	slice := filepath.Base(e.CgroupParent)
	out, err := exec.Command("systemctl", "list-units", "--all", "--plain", "--no-legend", "--full", "berth-*.scope").CombinedOutput()
	if err != nil {
		return []string{fmt.Sprintf("systemctl list-units: %v: %s", err, out)}
	}
	for _, line := range strings.Split(string(out), "\n") {
		unit, _, _ := strings.Cut(line, " ")
		if unit == "" {
			continue
		}
		if of, _ := exec.Command("systemctl", "show", "-P", "Slice", unit).Output(); strings.TrimSpace(string(of)) == slice {
			left = append(left, "unit "+line)
		}
	}
	if len(left) == 0 {
		if out, err := exec.Command("systemctl", "stop", slice).CombinedOutput(); err != nil {
			left = append(left, fmt.Sprintf("systemctl stop %s: %v: %s", slice, err, out))
		}
	}
	return left
}

// processes lists the processes whose program is one of this engine's binaries (or the
// one named), and those that live in its cgroups. The link /proc/PID/exe of a shim or a
// guardian names no path, as they are executed from a detached mount, so they are known by
// the file itself, which is this engine's own copy.
func (e *Engine) processes(name string) (pids []int) {
	shim, shimErr := os.Stat(filepath.Join(e.Bin, shimProgram))
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		exe, err := os.Readlink(p + "/exe")
		if err != nil {
			continue
		}
		cgroup, _ := os.ReadFile(p + "/cgroup")
		ours := strings.HasPrefix(exe, e.Bin+"/"+name)
		if info, err := os.Stat(p + "/exe"); err == nil && shimErr == nil && strings.HasPrefix(shimProgram, name) {
			ours = ours || os.SameFile(info, shim)
		}
		if name == "" && strings.Contains(string(cgroup), e.CgroupParent+"/") {
			ours = true
		}
		if pid, err := strconv.Atoi(filepath.Base(p)); err == nil && ours && !isZombie(p) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func isZombie(proc string) bool {
	data, err := os.ReadFile(proc + "/stat")
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return strings.HasPrefix(rest, "Z")
}

// Processes lists everything that is the engine's: itself, its shims with their guardians, clients
// of its own binary, and what runs in containers.
func (e *Engine) Processes() []int { return e.processes("") }

// Shims lists the engine's shims (with their guardians).
func (e *Engine) Shims() []int { return e.processes(shimProgram) }
