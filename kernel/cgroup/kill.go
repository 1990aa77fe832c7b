package cgroup

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Kill sends SIGKILL to every process of the group and below it until none is left. A
// zombie, which only its parent can remove, counts as gone. A frozen group is thawed.
func (g *Group) Kill(ctx context.Context) error {
	if len(g.dirs) == 0 {
		return nil
	}
	var err error
	if g.v2() && exists(g.dirs[0].path+"/cgroup.kill") {
		err = killV2(ctx, g.dirs[0].path)
	} else {
		err = g.killEach(ctx)
	}
	if err != nil {
		return fmt.Errorf("kill control group %s: %w", g.path, err)
	}
	return nil
}

// killV2 uses cgroup.kill (Linux 5.14), which no fork can outrun.
func killV2(ctx context.Context, dir string) error {
	if err := write(dir+"/cgroup.kill", "1"); err != nil {
		if gone(err) {
			return nil
		}
		return err
	}
	events := dir + "/cgroup.events"
	err := waitFile(ctx, events, func() (bool, error) {
		n, err := readKey(events, "populated")
		return n == 0, err
	})
	if gone(err) {
		return nil
	}
	return err
}

// killEach signals process by process. Most groups are empty after one round; those
// that fork faster than they are killed are held by the freezer during the next ones.
func (g *Group) killEach(ctx context.Context) error {
	for round := 0; ; round++ {
		pids, err := g.Pids()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%d processes are still alive: %w", len(pids), context.Cause(ctx))
		}
		if err := g.killRound(round > 0, pids); err != nil {
			return err
		}
		for _, pid := range pids {
			if err := waitExit(ctx, pid); err != nil {
				return fmt.Errorf("process %d does not end: %w", pid, err)
			}
		}
	}
}

// killRound sends one SIGKILL to each process, while the group is freezing if hold says
// so. It need not wait for the state FROZEN: a process that is about to fork is caught
// before its child returns to user space, and the next round sees that child.
func (g *Group) killRound(hold bool, pids []int) error {
	if d, ok := g.dirOf("freezer"); ok {
		file, freeze, thaw := d.path+"/freezer.state", "FROZEN", "THAWED"
		if d.unified {
			file, freeze, thaw = d.path+"/cgroup.freeze", "1", "0"
		}
		if hold {
			write(file, freeze)
		}
		// Nothing may stay frozen, or the signals would never be taken.
		defer write(file, thaw)
	}
	if hold {
		again, err := g.Pids()
		if err != nil {
			return err
		}
		pids = again
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("process %d: %w", pid, err)
		}
	}
	return nil
}
