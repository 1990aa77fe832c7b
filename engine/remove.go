package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
	"berth/oci"
)

// remove deletes a container at somebody's request.
func (l *lifecycle) remove(ctx context.Context, i *instance, o RemoveOptions) error {
	if err := i.mayRemove(o.Force); err != nil {
		return err
	}
	giveBack, err := l.take(ctx, i)
	if err != nil {
		return err
	}
	defer giveBack()
	if i.isRemoved() {
		return nil
	}
	if err := i.mayRemove(o.Force); err != nil {
		return err
	}
	if i.now().State.Running() {
		if err := l.endForGood(context.WithoutCancel(ctx), i); err != nil {
			return fmt.Errorf("cannot remove container \"/%s\": could not kill container: %w", i.now().Name, err)
		}
	}
	return l.erase(i, o.Volumes)
}

func (i *instance) mayRemove(force bool) error {
	c := i.now()
	switch s := c.State.Status; {
	case s == removing:
		return fail.New(fail.Conflict, "removal of container %s is already in progress", c.ID)
	case force || !c.State.Running():
		return nil
	case s == paused:
		return fail.New(fail.Conflict, "cannot remove container \"/%s\": container is paused and must be unpaused first", c.Name)
	default:
		return fail.New(fail.Conflict, "cannot remove container \"/%s\": container is %s: stop the container before removing or force remove", c.Name, s)
	}
}

func (i *instance) isRemoved() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.removed
}

// endForGood kills a container that is to be removed.
func (l *lifecycle) endForGood(ctx context.Context, i *instance) error {
	i.mu.Lock()
	i.manual, i.noRestart = true, true
	i.mu.Unlock()
	if l.cancelRestart(i) {
		return nil
	}
	r, _, err := i.live()
	if fail.Is(err, fail.Conflict) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := l.signal(ctx, i, r, unix.SIGKILL); err != nil {
		return err
	}
	switch done, err := l.exitWithin(r, killPatience); {
	case err != nil:
		return err
	case !done:
		return fail.New(fail.Internal, "it did not end after SIGKILL: a process of it may be stuck in the kernel")
	}
	return nil
}

// autoRemove removes a --rm container that has ended, unless it was started anew.
func (l *lifecycle) autoRemove(i *instance) {
	giveBack, err := l.take(l.ctx, i)
	if err != nil {
		return // the next Open finds the exit record and removes it
	}
	defer giveBack()
	i.mu.Lock()
	skip := i.removed || i.noRemove || i.now().State.Running()
	i.mu.Unlock()
	if skip {
		return
	}
	durable.Failpoint("engine.autoremove.begin")
	if err := l.erase(i, true); err != nil {
		l.log.Error("a --rm container could not be removed", "id", i.id, "error", err)
	}
}

// erase forgets a container that does not run: first its record, then its files. The
// name is free when it returns, and its anonymous volumes are gone, if withVolumes. The
// caller holds the turn.
func (l *lifecycle) erase(i *instance, withVolumes bool) error {
	i.mu.Lock()
	_, err := i.become(removing, func(*Container) {})
	clients := i.pending
	i.pending = nil
	i.mu.Unlock()
	if err != nil {
		return err
	}
	closeAll(clients)
	durable.Failpoint("engine.remove.begin")
	uses, taken := i.now().plan.volumes()
	if !withVolumes && !i.now().HostConfig.AutoRemove {
		taken = nil
	}
	leaving := l.volumes.Depart(i.id, uses, taken)
	if err := l.rec.delete(i, leaving); err != nil {
		leaving.Cancel()
		i.mu.Lock()
		_, _ = i.become(dead, func(c *Container) { c.State.Error = err.Error() })
		i.tell(removals, WaitResult{ExitCode: i.now().State.ExitCode, Err: err})
		i.mu.Unlock()
		return err
	}
	durable.Failpoint("engine.remove.recorded")
	l.labels.release(i.now())
	_ = l.previousRunLeft(i) // its name may be another container's next
	bury := leaving.Done()
	l.idx.remove(i)
	l.execs.forget(i)
	l.ann.tell(i.now(), "destroy")
	i.mu.Lock()
	i.removed = true
	i.tell(all, WaitResult{ExitCode: i.now().State.ExitCode})
	i.mu.Unlock()
	l.sweep(i, bury)
	return nil
}

// sweep deletes the files of a removed container behind the answer. A crash leaves a
// directory without a record, which the next Open deletes.
func (l *lifecycle) sweep(i *instance, bury func()) {
	l.sweeping.Add(1)
	l.work.Go(func() {
		defer l.sweeping.Add(-1)
		bury()
		if err := l.previousRunGone(i); err != nil {
			l.log.Warn("files of a removed container are left for the next start of the engine", "id", i.id, "error", err)
			return
		}
		if err := l.discard(i.id); err != nil {
			l.log.Error("files of a removed container could not be deleted", "id", i.id, "error", err)
			return
		}
		for _, image := range i.now().images() {
			l.release(image)
		}
	})
}

// release tells the images that a container of one is gone, if it was the last.
func (l *lifecycle) release(image oci.Digest) {
	for _, other := range l.idx.all() {
		if slices.Contains(other.now().images(), image) {
			return
		}
	}
	if err := l.images.Release(image); err != nil {
		l.log.Error("an image that was removed under its containers could not be deleted", "image", image, "error", err)
	}
}

// discard deletes both directories of a container that has no record.
func (l *lifecycle) discard(id string) error {
	runDir := filepath.Join(l.dirs.runs(), id)
	dropSharedMemory(runDir)
	if err := os.RemoveAll(runDir); err != nil {
		return err
	}
	trash := filepath.Join(l.dirs.trash(), id)
	switch err := os.Rename(filepath.Join(l.dirs.containers(), id), trash); {
	case os.IsNotExist(err):
		return nil
	case err != nil:
		return err
	}
	durable.Failpoint("engine.remove.renamed")
	return errors.Join(forgetStorage(trash), os.RemoveAll(trash))
}

// rename gives a container another name.
func (l *lifecycle) rename(ctx context.Context, i *instance, name string) error {
	if name == "" {
		return fail.New(fail.Invalid, "Neither old nor new names may be empty")
	}
	name, err := checkName(name)
	if err != nil {
		return err
	}
	giveBack, err := l.take(ctx, i)
	if err != nil {
		return err
	}
	defer giveBack()
	old := i.now().Name
	switch {
	case i.isRemoved():
		return fail.New(fail.NotFound, "No such container: %s", i.id)
	case name == old:
		return fail.New(fail.Invalid, "Renaming a container with the same name as its current name")
	}
	if err := l.idx.reserve(name, i.id); err != nil {
		return err
	}
	if err := l.rec.rename(i, old, name); err != nil {
		l.idx.release(name, i.id)
		return err
	}
	durable.Failpoint("engine.rename.recorded")
	i.mu.Lock()
	c := i.change(func(c *Container) { c.Name = name })
	i.mu.Unlock()
	l.renamed(context.WithoutCancel(ctx), i, c)
	l.idx.release(old, i.id)
	l.ann.tell(c, "rename", "oldName", "/"+old)
	return nil
}
