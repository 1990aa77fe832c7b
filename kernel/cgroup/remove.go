package cgroup

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// Remove deletes the group's directories and those that programs inside have made below
// them, waiting until ctx ends for the kernel to let go of dead members. The group must
// have no live process: that is class Conflict. Parents stay. A systemd that does not answer
// keeps no scope's directory: that it is gone systemd notices when it can.
func (g *Group) Remove(ctx context.Context) error {
	var systemdErr error
	if g.scope != "" {
		if systemdErr = g.removeScope(ctx); fail.Is(systemdErr, fail.Conflict) {
			return fmt.Errorf("remove %s: %w", g.scope, systemdErr)
		}
	}
	for _, d := range g.dirs {
		err := removeTree(d.path)
		if errors.Is(err, unix.EBUSY) {
			err = g.removeBusy(ctx, d)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("remove control group %s: %w", g.path, err), systemdErr)
		}
	}
	return nil
}

// removeBusy waits for the last member to be let go. v2 tells by an event; v1 has none,
// and between the death of a process and the end of its membership there is nothing that
// could be waited for.
func (g *Group) removeBusy(ctx context.Context, d dir) error {
	try := func() (bool, error) {
		err := removeTree(d.path)
		if !errors.Is(err, unix.EBUSY) {
			return true, err
		}
		pids, err := pidsBelow(d.path)
		if err == nil && len(pids) > 0 {
			err = fail.New(fail.Conflict, "%d processes are still in it", len(pids))
		}
		return false, err
	}
	if d.unified {
		// Whoever is listed lives: those that die are not any more, but still counted.
		if pids, err := pidsBelow(d.path); err == nil && len(pids) > 0 {
			return fail.New(fail.Conflict, "%d processes are still in it", len(pids))
		}
		events := d.path + "/cgroup.events"
		err := waitFile(ctx, events, func() (bool, error) {
			n, err := readKey(events, "populated")
			return n == 0, err
		})
		if err != nil && !gone(err) {
			return err
		}
	}
	return retry(ctx, try)
}
