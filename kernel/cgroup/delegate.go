package cgroup

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Open is the group, or, where the group has given its controllers to groups below it and so
// can take no process itself any more (v2, as with systemd in a container), the one that the
// process pid is in. The result is good for joining only.
func (g *Group) Open(pid int) *Group {
	if !g.v2() {
		return g
	}
	at := g.dirs[0].path
	if handed, err := readString(at + "/cgroup.subtree_control"); err != nil || handed == "" {
		return g
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return g
	}
	for line := range strings.Lines(string(text)) {
		path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"+g.path+"/")
		if ok && exists(at+"/"+path) {
			return &Group{path: g.path, dirs: []dir{{g.dirs[0].hierarchy, at + "/" + path}}}
		}
	}
	return g
}

// Delegate gives the group's directory to uid, with the files by which groups below it are made
// and filled, and nothing that would lift its limits: cgroups(7), "Delegation containment". On
// v1, where that is not safe, it does nothing.
func (g *Group) Delegate(uid int) error {
	if !g.v2() {
		return nil
	}
	at := g.dirs[0].path
	names := []string{"", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"}
	if text, err := os.ReadFile("/sys/kernel/cgroup/delegate"); err == nil { // since Linux 4.15
		names = append(strings.Fields(string(text)), "")
	}
	for _, name := range names {
		if strings.Contains(name, "/") {
			continue
		}
		// Not all kernels and groups have all of them.
		if err := unix.Lchown(at+"/"+name, uid, -1); err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "chown", Path: at + "/" + name, Err: err}
		}
	}
	return nil
}
