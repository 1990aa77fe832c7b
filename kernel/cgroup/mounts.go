package cgroup

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
)

// hierarchy is one mounted cgroup tree.
type hierarchy struct {
	mount       string   // where it is mounted
	unified     bool     // cgroup v2
	controllers []string // v1: the controllers bound to it, or "name=systemd"; v2: cgroup.controllers of the mount
}

// serves reports whether the hierarchy can do what the v1 controller of that name does.
// On v2, the freezer is part of every group and device rules are BPF programs.
func (h hierarchy) serves(controller string) bool {
	if h.unified {
		switch controller {
		case "freezer", "devices":
			return true
		case "blkio":
			controller = "io"
		}
	}
	return slices.Contains(h.controllers, controller)
}

// hierarchies finds what is mounted, once per process: hierarchies do not come and
// go on a running host.
var hierarchies = sync.OnceValues(func() ([]hierarchy, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroup mounts: %w", err)
	}
	defer f.Close()
	hs, err := parseMountinfo(f)
	if err != nil {
		return nil, fmt.Errorf("find cgroup mounts: %w", err)
	}
	for i := range hs {
		if hs[i].unified {
			hs[i].controllers = controllersOf(hs[i].mount)
		}
	}
	return hs, nil
})

// parseMountinfo reads the cgroup file systems out of proc_pid_mountinfo(5). Only the
// file system type counts: podman leaves plain directories with the names of
// controllers on hybrid hosts, and those are no hierarchies. Of a hierarchy mounted
// several times the first one counts, and a mount hidden under a later one of the same
// place is forgotten. Paths of groups are taken relative to the mount point, so a
// mount that shows only our own subtree of the hierarchy needs no translation.
func parseMountinfo(r io.Reader) ([]hierarchy, error) {
	type seen struct {
		hierarchy
		dev string
	}
	var found []seen
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), 1<<20)
	for sc.Scan() {
		before, after, ok := strings.Cut(sc.Text(), " - ")
		fields, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 6 || len(tail) < 1 {
			continue
		}
		mount := unescape(fields[4])
		found = slices.DeleteFunc(found, func(s seen) bool { return s.mount == mount })
		s := seen{hierarchy{mount: mount}, fields[2]}
		switch tail[0] {
		case "cgroup2":
			s.unified = true
		case "cgroup":
			if len(tail) < 3 {
				continue
			}
			s.controllers = v1Controllers(tail[2])
		default:
			continue
		}
		found = append(found, s)
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	var hs []hierarchy
	devs := map[string]bool{}
	for _, s := range found {
		if !devs[s.dev] {
			devs[s.dev] = true
			hs = append(hs, s.hierarchy)
		}
	}
	// v1 first: it is asked first when both could serve.
	slices.SortStableFunc(hs, func(a, b hierarchy) int {
		switch {
		case a.unified == b.unified:
			return 0
		case b.unified:
			return -1
		}
		return 1
	})
	return hs, nil
}

// v1Controllers picks the controllers out of a v1 mount's super block options; what
// else may stand there are flags of cgroups(7).
func v1Controllers(options string) []string {
	var cs []string
	for o := range strings.SplitSeq(options, ",") {
		switch {
		case strings.HasPrefix(o, "name="):
			cs = append(cs, o)
		case o == "rw", o == "ro", o == "xattr", o == "noprefix", o == "clone_children", o == "cpuset_v2_mode", strings.Contains(o, "="):
		default:
			cs = append(cs, o)
		}
	}
	return cs
}

// controllersOf reads cgroup.controllers of the v2 group dir.
func controllersOf(dir string) []string {
	text, err := readString(dir + "/cgroup.controllers")
	if err != nil {
		return nil
	}
	return strings.Fields(text)
}

// unescape undoes the octal escapes of /proc/PID/mountinfo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
