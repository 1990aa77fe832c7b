package cgroup

import (
	"context"
	"fmt"

	"berth/fail"
)

// Freeze stops or continues all processes of the group, waiting for the state. When ctx
// ends before every process has stopped, the group is left running.
func (g *Group) Freeze(ctx context.Context, frozen bool) error {
	d, ok := g.dirOf("freezer")
	if !ok {
		return fail.New(fail.Invalid, "cannot pause: control group %s has no freezer", g.path)
	}
	if d.unified {
		return g.freezeV2(ctx, d.path, frozen)
	}
	file := d.path + "/freezer.state"
	state := "THAWED"
	if frozen {
		state = "FROZEN"
	}
	if err := write(file, state); err != nil {
		return fmt.Errorf("freeze control group %s: %w", g.path, err)
	}
	// A process in the middle of a fork or an exec may stay in state FREEZING until it is
	// asked once more; v1 has no event for any of it.
	tries := 0
	err := retry(ctx, func() (bool, error) {
		now, err := readString(file)
		if err != nil || now == state {
			return true, err
		}
		if tries++; frozen && tries%10 == 0 {
			return false, write(file, state)
		}
		return false, nil
	})
	if err != nil && frozen {
		write(file, "THAWED")
	}
	if err != nil {
		return fmt.Errorf("freeze control group %s: %w", g.path, err)
	}
	return nil
}

func (g *Group) freezeV2(ctx context.Context, dir string, frozen bool) error {
	value, want := "0", uint64(0)
	if frozen {
		value, want = "1", 1
	}
	err := write(dir+"/cgroup.freeze", value)
	if err == nil {
		events := dir + "/cgroup.events"
		err = waitFile(ctx, events, func() (bool, error) {
			now, err := readKey(events, "frozen")
			return now == want, err
		})
	}
	if !frozen && gone(err) {
		return nil // systemd removes a scope as soon as its last process has ended
	}
	if err != nil && frozen {
		write(dir+"/cgroup.freeze", "0")
	}
	if err != nil {
		return fmt.Errorf("freeze control group %s: %w", g.path, err)
	}
	return nil
}

// Frozen reports whether the group has been frozen.
func (g *Group) Frozen() (bool, error) {
	d, ok := g.dirOf("freezer")
	if !ok {
		return false, nil
	}
	if d.unified {
		n, err := readLimit(d.path + "/cgroup.freeze")
		return n == 1, err
	}
	state, err := readString(d.path + "/freezer.state")
	return state == "FROZEN" || state == "FREEZING", err
}
