// Package cgroup creates, limits, observes and destroys control groups, on the v1
// controllers, the unified v2 hierarchy, and hosts that mount both.
//
// A group has one directory in every mounted v1 hierarchy, named ones like
// name=systemd included, so that a process has the same path everywhere. On a host that
// mounts v2 only, it has one directory there. On a hybrid host the v2 side is left out
// unless it has something that v1 lacks and the group needs: the freezer, or the
// controller of a limit that was asked for. Each hierarchy costs every start a few
// tenths of a millisecond, and an empty one gives nothing back.
//
// Only the file system and bpf(2) are used. The supervisor of every container links
// this package, so it stays small on purpose.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel/stage"
)

// Group is one container's control group in every hierarchy that matters.
type Group struct {
	path  string
	dirs  []dir
	scope string       // the unit's name, if systemd has made it
	guest *stage.Child // keeps a new scope alive, see Inhabited
	hit   atomic.Pointer[hit]
	kills atomic.Uint64 // as OOMKills last had it: systemd removes an empty scope before others may have looked
}

// dir is the group's directory in one hierarchy.
type dir struct {
	hierarchy
	path string
}

// Create makes the group called name and applies res (nil: no limits). A name is a path
// (relative to each hierarchy's mount, e.g. "/berth/<id>"), and the group is made wherever a
// controller is mounted; or it is "slice:prefix:name", for a scope that systemd makes: see Scope.
// An empty group of that name, left by a crash, is made anew; one with processes is
// class Conflict. A limit whose controller is absent or not writable is class Invalid;
// hierarchies that are not writable are skipped when nothing was asked of them.
// On failure nothing is left behind.
func Create(ctx context.Context, name string, res *specs.LinuxResources) (*Group, error) {
	hs, err := hierarchies()
	if err != nil {
		return nil, err
	}
	return create(ctx, hs, name, res)
}

func create(ctx context.Context, hs []hierarchy, name string, res *specs.LinuxResources) (_ *Group, err error) {
	at, err := clean(name)
	if err != nil {
		return nil, err
	}
	if at.scope != "" {
		return createScope(ctx, hs, at, res)
	}
	name = at.path
	g := &Group{path: name}
	var made []string
	defer func() {
		if err != nil {
			for _, d := range slices.Backward(made) {
				unix.Rmdir(d)
			}
		}
	}()
	for _, h := range chosen(hs, asked(res)) {
		dirs, err := makeDir(h, name)
		made = append(made, dirs...)
		if err == nil {
			g.dirs = append(g.dirs, dir{h, h.mount + name})
		} else if !unwritable(err) {
			return nil, fmt.Errorf("create control group %s: %w", name, err)
		}
	}
	if err := g.applyFiles(res); err != nil {
		return nil, err
	}
	return g, nil
}

// Load finds an existing group again, after a restart of the caller. Class NotFound
// when no hierarchy knows it.
func Load(name string) (*Group, error) {
	hs, err := hierarchies()
	if err != nil {
		return nil, err
	}
	return load(hs, name)
}

func load(hs []hierarchy, name string) (*Group, error) {
	at, err := clean(name)
	if err != nil {
		return nil, err
	}
	name = at.path
	g := &Group{path: name, scope: at.scope}
	for _, h := range hs {
		if exists(h.mount + name) {
			g.dirs = append(g.dirs, dir{h, h.mount + name})
		}
	}
	if len(g.dirs) == 0 {
		return nil, fail.New(fail.NotFound, "control group %s does not exist", name)
	}
	return g, nil
}

// LoadFor is Load for who only wants to look at some controllers, given by their v1 names: it
// asks for nothing else. Whether the group is there shows when it is looked at.
func LoadFor(name string, controllers ...string) (*Group, error) {
	hs, err := hierarchies()
	if err != nil {
		return nil, err
	}
	return loadFor(hs, name, controllers)
}

func loadFor(hs []hierarchy, name string, controllers []string) (*Group, error) {
	at, err := clean(name)
	if err != nil {
		return nil, err
	}
	name = at.path
	g := &Group{path: name, scope: at.scope}
	v1 := map[string]bool{}
	for _, h := range hs {
		wanted := h.unified && len(v1) == 0 // all that is counted, if there is nothing else
		for _, c := range controllers {
			if h.serves(c) && !v1[c] {
				wanted, v1[c] = true, !h.unified
			}
		}
		if wanted {
			g.dirs = append(g.dirs, dir{h, h.mount + name})
		}
	}
	return g, nil
}

// clean finds the place of a name. The root itself is nobody's container.
func clean(name string) (place, error) {
	if IsScope(name) {
		return placeOfScope(name)
	}
	if strings.ContainsAny(name, "\x00\n") || slices.Contains(strings.Split(name, "/"), "..") {
		return place{}, fail.New(fail.Invalid, "invalid control group path %q", name)
	}
	name = path.Clean("/" + name)
	if name == "/" {
		return place{}, fail.New(fail.Invalid, "the root control group cannot be a container's")
	}
	return place{path: name}, nil
}

// chosen drops the v2 side of a hybrid host unless it is needed.
func chosen(hs []hierarchy, asked []string) []hierarchy {
	byV1 := func(c string) bool {
		return slices.ContainsFunc(hs, func(h hierarchy) bool { return !h.unified && h.serves(c) })
	}
	if !slices.ContainsFunc(hs, func(h hierarchy) bool { return !h.unified }) {
		return hs
	}
	return slices.DeleteFunc(slices.Clone(hs), func(h hierarchy) bool {
		needed := func(c string) bool { return !byV1(c) && h.serves(c) }
		return h.unified && !needed("freezer") && !slices.ContainsFunc(asked, needed)
	})
}

// makeDir creates the group and its missing parents below a hierarchy's mount, and
// returns the directories it created, outermost first, also on failure.
func makeDir(h hierarchy, name string) (made []string, err error) {
	at := h.mount
	parts := strings.Split(name[1:], "/")
	for i, part := range parts {
		if h.unified {
			_ = handOn(at, h.controllers)
		}
		at += "/" + part
		leaf := i == len(parts)-1
		if leaf {
			if err := clearStale(at); err != nil {
				return made, err
			}
		}
		switch err := unix.Mkdir(at, 0o755); {
		case err == nil:
			made = append(made, at)
		case err == unix.EEXIST && !leaf:
		default:
			return made, &fs.PathError{Op: "mkdir", Path: at, Err: err}
		}
		if !h.unified && h.serves("cpuset") {
			if err := inheritCpuset(at); err != nil {
				return made, err
			}
		}
	}
	return made, nil
}

// clearStale removes an empty group that a crash has left: its counters would lie.
func clearStale(at string) error {
	if !exists(at) {
		return nil
	}
	err := removeTree(at)
	if errors.Is(err, unix.EBUSY) {
		pids, _ := pidsBelow(at)
		return fail.New(fail.Conflict, "control group %s is in use by %d processes", at, len(pids))
	}
	return err
}

// inheritCpuset fills the cpus and memory nodes of a new v1 cpuset, which are empty at
// first and would let no process in.
func inheritCpuset(at string) error {
	for _, file := range []string{"/cpuset.cpus", "/cpuset.mems"} {
		own, err := readString(at + file)
		if err != nil {
			return err
		}
		if own != "" {
			continue
		}
		above, err := readString(path.Dir(at) + file)
		if err != nil {
			return err
		}
		if err := write(at+file, above); err != nil {
			return err
		}
	}
	return nil
}

// handOn delegates every controller that the v2 group dir has to its children. A group with processes of
// its own cannot (EBUSY); what else the kernel refuses shows when a limit is set, and need not be there
// when none is.
func handOn(dir string, controllers []string) error {
	have, err := readString(dir + "/cgroup.subtree_control")
	if err != nil {
		return err
	}
	on := strings.Fields(have)
	var missing []string
	for _, c := range delegated {
		if slices.Contains(controllers, c) && !slices.Contains(on, c) {
			missing = append(missing, "+"+c)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	// With processes of its own it could hand on those that control threads, and nothing but threads
	// could live below it from then on. The root of all has no type, and no such rule.
	if pids, err := members(dir); err == nil && len(pids) > 0 && exists(dir+"/cgroup.type") {
		return unix.EBUSY
	}
	if err = write(dir+"/cgroup.subtree_control", strings.Join(missing, " ")); err == nil || unwritable(err) {
		return err
	}
	for _, c := range missing {
		_ = write(dir+"/cgroup.subtree_control", c)
	}
	return nil
}

// delegated are the v2 controllers a container's group gets.
var delegated = []string{"cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma", "misc", "dmem"}

func unwritable(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS)
}

// v2 reports whether the group lives in the unified hierarchy alone.
func (g *Group) v2() bool { return len(g.dirs) == 1 && g.dirs[0].unified }

// dirOf finds the group's directory for a controller, given by its v1 name.
func (g *Group) dirOf(controller string) (d dir, ok bool) {
	for _, d := range g.dirs {
		if d.serves(controller) {
			return d, true
		}
	}
	return dir{}, false
}

// Path is where the group is, relative to each hierarchy's mount.
func (g *Group) Path() string { return g.path }

// Below gives existing groups below this one, by controller: the one of "" is for all
// controllers that are not named.
func (g *Group) Below(names map[string]string) (*Group, error) {
	below := &Group{path: g.path, dirs: slices.Clone(g.dirs)}
	used := map[string]bool{"": true}
	for i, d := range below.dirs {
		name := names[""]
		for controller, n := range names {
			if controller != "" && d.serves(controller) {
				used[controller] = true
				name = n
			}
		}
		name = strings.Trim(name, "/")
		if name == "" {
			continue
		}
		if !filepath.IsLocal(name) {
			return nil, fail.New(fail.Invalid, "control group %q is not below that of the container", name)
		}
		below.dirs[i].path = filepath.Join(d.path, name)
		if !exists(below.dirs[i].path) {
			return nil, fail.New(fail.NotFound, "control group %s does not exist", below.dirs[i].path)
		}
	}
	for controller := range names {
		if !used[controller] {
			return nil, fail.New(fail.Invalid, "the container is in no control group of %q", controller)
		}
	}
	return below, nil
}

// JoinFiles opens the files in which a process must write "0" to move itself into the
// group, one per hierarchy. The caller closes them.
//
// The writer must be single-threaded, as a freshly forked child is: on v1 these are the
// `tasks` files, which move one thread. Moving a process through cgroup.procs takes a
// kernel-wide lock whose first use after a quiet moment waits for an RCU grace period
// (5–15 ms); a thread that moves itself needs no such lock (since Linux 5.5).
func (g *Group) JoinFiles() ([]*os.File, error) {
	files := make([]*os.File, 0, len(g.dirs))
	for _, d := range g.dirs {
		name := d.path + "/tasks"
		if d.unified {
			name = d.path + "/cgroup.procs"
		}
		fd, err := open(name, unix.O_WRONLY)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		files = append(files, os.NewFile(uintptr(fd), name))
	}
	return files, nil
}

// Dir opens the v2 directory for CLONE_INTO_CGROUP, or returns nil when the group has
// any v1 part; JoinFiles serves those.
func (g *Group) Dir() (*os.File, error) {
	if !g.v2() {
		return nil, nil
	}
	fd, err := open(g.dirs[0].path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: g.dirs[0].path, Err: err}
	}
	return os.NewFile(uintptr(fd), g.dirs[0].path), nil
}

// Unified tells that the group is one directory of cgroup v2.
func (g *Group) Unified() bool { return g.v2() }

// Add moves the process pid into the group. A process that has ended is class NotFound.
func (g *Group) Add(pid int) error {
	for _, d := range g.dirs {
		if err := write(d.path+"/cgroup.procs", strconv.Itoa(pid)); err != nil {
			if errors.Is(err, unix.ESRCH) {
				return fail.New(fail.NotFound, "process %d has ended", pid)
			}
			return fmt.Errorf("move process %d into control group %s: %w", pid, g.path, err)
		}
	}
	return nil
}
