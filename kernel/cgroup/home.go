package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
)

// Home is where an engine may make groups.
type Home struct {
	Path  string // like a name of Create: "/", but for a container that sees the host's groups that of the container
	Moved int    // how many processes Settle has moved
}

// residence is the group below Home that takes a container's own processes: cgroup v2 lets no group
// hand on controllers that has processes itself (cgroups(7), "no internal processes").
const residence = "/berth-init"

// settlePatience bounds the chase after processes that fork while they are moved.
const settlePatience = 10 * time.Second

// strangerPatience is for processes of another PID namespace to leave: what is executed in the
// container from outside is in its group a moment before it is in its namespaces.
const strangerPatience = 3 * time.Second

// Settle prepares the place for groups of an engine that runs in a container. There, on cgroup v2, the
// engine, its shell and whatever else the container has are in the group that is to hand the controllers
// on: they are moved to a group of their own below it. Nothing is done on a host, whose root group may
// have processes, where systemd runs, and where controllers are handed on already, as by the script
// in front of Docker's own image. Whatever keeps limits from working here is the error, one
// sentence; groups may be made nonetheless.
func Settle(ctx context.Context) (Home, error) {
	hs, err := hierarchies()
	if err != nil {
		return Home{Path: "/"}, err
	}
	return settle(ctx, hs, "")
}

// settle is Settle with /proc and /run below root.
func settle(ctx context.Context, hs []hierarchy, root string) (Home, error) {
	home := Home{Path: "/"}
	if len(hs) == 0 {
		return home, fail.New(fail.Unavailable, "no control groups are mounted, so no container starts but --privileged ones without limits: mount them at /sys/fs/cgroup")
	}
	used := chosen(hs, nil)
	for _, h := range used {
		if err := unix.Access(h.mount, unix.W_OK); err == unix.EROFS {
			return home, fail.New(fail.Unavailable, "control groups are read-only at %s, so no container starts but --privileged ones without limits (an engine in a container needs --privileged there)", h.mount)
		}
	}
	h := used[len(used)-1]
	if !h.unified {
		return home, nil // v1 has no such rule
	}
	at, ok := containerGroup(h.mount, root)
	if !ok {
		return home, nil
	}
	home.Path = at
	var err error
	home.Moved, err = vacate(ctx, strings.TrimSuffix(h.mount+at, "/"), h.controllers)
	if err != nil {
		err = fmt.Errorf("limits of containers will not work: %w", err)
	}
	return home, err
}

// containerGroup finds the group of the container that we are in, if it is one whose groups are ours
// to arrange. In a cgroup namespace that is what is mounted: the root of the whole
// hierarchy alone has no type. Otherwise it is the group of the container's first process.
func containerGroup(mount, root string) (string, bool) {
	proc := root + "/proc"
	first, err := groupOf(proc + "/1/cgroup")
	if err != nil {
		return "", false
	}
	inside := !strings.HasPrefix(first, "/..") // with the host's processes the first is not the container's
	if inside && systemdRuns(root) {
		return "", false
	}
	if exists(mount + "/cgroup.type") {
		own, err := groupOf(proc + "/self/cgroup")
		return "/", err == nil && exists(mount+own)
	}
	first = path.Clean("/" + strings.TrimSuffix(first, residence))
	return first, inside && first != "/" && kernel.InPIDNamespace(proc) && exists(mount+first)
}

// groupOf reads the line of cgroup v2 in a file like /proc/PID/cgroup.
func groupOf(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if group, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return group, nil
		}
	}
	return "", errors.New("no line of cgroup v2 in " + file)
}

// systemdRuns tells whether the first process is systemd, which arranges all groups that it sees: sd_booted(3).
func systemdRuns(root string) bool {
	info, err := os.Lstat(root + "/run/systemd/system")
	if err == nil && info.IsDir() {
		return true
	}
	name, err := os.ReadFile(root + "/proc/1/comm")
	return err == nil && strings.TrimSpace(string(name)) == "systemd"
}

// vacate lets the group root hand on controllers, and moves the processes that stand in the way of that.
func vacate(ctx context.Context, root string, controllers []string) (moved int, err error) {
	err = handOn(root, controllers)
	if err == nil {
		return 0, nil
	}
	if !errors.Is(err, unix.EBUSY) {
		return 0, fmt.Errorf("hand the controllers of %s on to groups below it: %w", root, err)
	}
	if err := mayVacate(ctx, root); err != nil {
		return 0, err
	}
	leaf := root + residence
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return 0, fmt.Errorf("make a group for this container's processes: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	// Processes fork while they are moved, and of one that is dying nothing tells when it is out.
	err = retry(ctx, func() (bool, error) {
		n, err := moveAll(root, leaf)
		moved += n
		if err != nil {
			return false, err
		}
		err = handOn(root, controllers)
		if errors.Is(err, unix.EBUSY) {
			return false, nil
		}
		return true, err
	})
	if err != nil {
		_ = unix.Rmdir(leaf) // stays if somebody is in it
		if ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("processes in %s keep it from handing on its controllers, and come again when they are moved: %w", root, err)
		}
	}
	return moved, err
}

// mayVacate finds reasons why the processes in root are not ours to move.
func mayVacate(ctx context.Context, root string) error {
	kind, err := readString(root + "/cgroup.type")
	if err != nil {
		return err
	}
	if kind == "domain threaded" {
		if kind, err = unthread(root); err != nil {
			return err
		}
	}
	if kind != "domain" {
		return fail.New(fail.Unavailable, "the control group %s is %s, so its processes cannot be moved to a group of their own", root, kind)
	}
	patience, cancel := context.WithTimeout(ctx, strangerPatience)
	defer cancel()
	err = retry(patience, func() (bool, error) {
		pids, err := members(root)
		return !slices.Contains(pids, stranger), err
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fail.New(fail.Unavailable, "the control group %s has processes that are not this container's: they are left where they are", root)
	}
	if err != nil {
		return err
	}
	// A unit's group is systemd's unless that has given it away: systemd, "Control Group APIs and Delegation".
	unit, given := false, false
	for _, space := range []string{"trusted.", "user."} {
		unit = unit || attribute(root, space+"invocation_id") != ""
		given = given || attribute(root, space+"delegate") == "1"
	}
	if unit && !given {
		return fail.New(fail.Unavailable, "the control group %s is a unit's of systemd without Delegate=yes: its processes are left where they are", root)
	}
	return nil
}

// unthread takes back what somebody tried before us: of a group with processes the kernel lets threaded
// controllers be handed on, and nothing can live in groups below it from then on.
func unthread(root string) (kind string, err error) {
	children, err := childGroups(root)
	if err != nil {
		return "", err
	}
	for _, c := range children {
		if kind, _ := readString(c + "/cgroup.type"); strings.HasPrefix(kind, "threaded") {
			return "domain threaded", nil
		}
	}
	on, err := readString(root + "/cgroup.subtree_control")
	if err != nil {
		return "", err
	}
	if on != "" {
		if err := write(root+"/cgroup.subtree_control", "-"+strings.ReplaceAll(on, " ", " -")); err != nil {
			return "", err
		}
	}
	return readString(root + "/cgroup.type")
}

// stranger stands in cgroup.procs for a process that our PID namespace does not have.
const stranger = 0

// members lists the processes in a group, not those below it.
func members(dir string) (pids []int, err error) {
	text, err := read(dir + "/cgroup.procs")
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(text) {
		pid, err := strconv.Atoi(string(bytes.TrimSpace(line)))
		if err != nil {
			return nil, fmt.Errorf("parse %s/cgroup.procs: %w", dir, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// moveAll moves the processes of root to leaf and tells how many.
func moveAll(root, leaf string) (moved int, err error) {
	pids, err := members(root)
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		if pid == stranger { // it is on its way in, and written there 0 means us
			continue
		}
		switch err := write(leaf+"/cgroup.procs", strconv.Itoa(pid)); {
		case err == nil:
			moved++
		case errors.Is(err, unix.ESRCH): // it has ended
		default:
			name, _ := readString(fmt.Sprintf("/proc/%d/comm", pid))
			var errno unix.Errno
			errors.As(err, &errno)
			return moved, fail.New(fail.Unavailable, "process %d (%s) cannot be moved out of the control group %s: %w", pid, name, root, errno)
		}
	}
	return moved, nil
}

// attribute is an extended attribute's text, empty if there is none.
func attribute(path, name string) string {
	var buf [64]byte
	n, err := unix.Lgetxattr(path, name, buf[:])
	if err != nil {
		return ""
	}
	return string(buf[:n])
}
