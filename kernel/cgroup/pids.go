package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// Pids lists the processes in the group and below it, ascending. A group that is gone
// has none.
func (g *Group) Pids() ([]int, error) {
	d, ok := g.processes()
	if !ok {
		return nil, nil
	}
	pids, err := pidsBelow(d)
	if err != nil {
		return nil, fmt.Errorf("list processes of control group %s: %w", g.path, err)
	}
	return pids, nil
}

// processes is the directory that is asked for the group's processes. All of them show
// the same; the freezer's and the pids controller's are preferred, because a program
// inside that manages groups of its own cannot leave those.
func (g *Group) processes() (string, bool) {
	for _, c := range []string{"freezer", "pids"} {
		if d, ok := g.dirOf(c); ok {
			return d.path, true
		}
	}
	if len(g.dirs) == 0 {
		return "", false
	}
	return g.dirs[0].path, true
}

func pidsBelow(dir string) ([]int, error) {
	var pids []int
	err := walk(dir, func(dir string) error {
		b, err := read(dir + "/cgroup.procs")
		if err != nil {
			// A threaded group (cgroup-v2.rst, "Threads") does not tell. Its processes are those of
			// the domain above, which is dir or below it: a group that has processes cannot become threaded.
			if gone(err) || errors.Is(err, unix.EOPNOTSUPP) {
				return nil
			}
			return err
		}
		for line := range bytes.Lines(b) {
			pid, err := strconv.Atoi(string(bytes.TrimSpace(line)))
			if err != nil {
				return fmt.Errorf("parse %s/cgroup.procs: %w", dir, err)
			}
			// 0 stands for a process outside our pid namespace.
			if pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	slices.Sort(pids)
	return slices.Compact(pids), err
}

// Signal sends sig to every process of the group once. Class NotFound when there is none.
func (g *Group) Signal(sig int) error {
	pids, err := g.Pids()
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return fail.New(fail.NotFound, "control group %s has no process", g.path)
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.Signal(sig)); err != nil && err != unix.ESRCH {
			return fmt.Errorf("signal process %d: %w", pid, err)
		}
	}
	return nil
}
