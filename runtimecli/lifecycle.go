package runtimecli

import (
	"context"
	"errors"
	"flag"
	"os"
	"time"

	"github.com/moby/sys/signal"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/runtime"
)

const killSignal = unix.SIGKILL

// patience bounds the wait for killed processes, as runc does. The first process of a pid
// namespace ends after all others have been reaped, and those of exec are for their
// parents to reap: a caller that forgets them must not hang here for ever.
const patience = 10 * time.Second

func killFlags(f *flag.FlagSet) action {
	all := both(f.BoolVar, f, "all", "a", false, "signal all processes of the container")
	return func(ctx context.Context, a *app, args []string) (int, error) {
		sig := unix.SIGTERM
		if len(args) > 1 {
			s, err := signal.ParseSignal(args[1])
			if err != nil {
				return 1, fail.New(fail.Invalid, "unknown signal %q", args[1])
			}
			sig = s
		}
		c, _, status, err := a.find(args[0])
		if err != nil {
			return 1, err
		}
		defer c.Release()
		switch {
		case *all && c.Group() != nil:
			// Without a pid namespace of its own a container's processes outlive the first.
			err = c.SignalAll(sig)
		case status == stopped:
			return 1, errNotRunning
		default:
			err = c.Signal(sig)
		}
		if fail.Is(err, fail.NotFound) {
			return 1, errNotRunning
		}
		return 0, err
	}
}

func deleteFlags(f *flag.FlagSet) action {
	force := both(f.BoolVar, f, "force", "f", false, "kill a running container first; do not mind one that does not exist")
	return func(ctx context.Context, a *app, args []string) (int, error) {
		id := args[0]
		c, _, status, err := a.find(id)
		if errors.Is(err, errNotExist) {
			return a.deleteRemains(id, *force)
		}
		if err != nil {
			return 1, err
		}
		if (status == running || status == paused) && !*force {
			c.Release()
			return 1, fail.New(fail.Conflict, "cannot delete container %s that is not stopped: %s", id, status)
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := c.Destroy(ctx); err != nil {
			return 1, err
		}
		a.warn(c.Warnings())
		return 0, os.RemoveAll(a.dir(id))
	}
}

// deleteRemains removes what a create that was killed has left.
func (a *app) deleteRemains(id string, force bool) (int, error) {
	err := os.RemoveAll(a.dir(id))
	if err == nil && !force {
		err = errNotExist
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}

// destroy ends a container of this program and forgets it, whether or not the caller still
// wants the command to go on.
func (a *app) destroy(id string, c *runtime.Container) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return errors.Join(c.Destroy(ctx), os.RemoveAll(a.dir(id)))
}

func pause(ctx context.Context, a *app, args []string) (int, error) {
	c, _, status, err := a.find(args[0])
	if err != nil {
		return 1, err
	}
	defer c.Release()
	if status != running {
		return 1, errNotRunning
	}
	return 0, c.Pause(ctx)
}

func resume(ctx context.Context, a *app, args []string) (int, error) {
	c, _, status, err := a.find(args[0])
	if err != nil {
		return 1, err
	}
	defer c.Release()
	if status != paused {
		return 1, errNotPaused
	}
	return 0, c.Resume(ctx)
}
