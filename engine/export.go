package engine

import (
	"context"
	"fmt"
	"io"

	"berth/fail"
	"berth/images"
)

// Changes lists what a container's files differ in from its image's, sorted by path. What
// mounting hosts, /proc and their like leaves is no change.
func (c *Containers) Changes(ctx context.Context, ref string) (out []images.Change, err error) {
	err = c.with(ref, func(i *instance) error {
		giveBack, err := c.life.takeFiles(ctx, i)
		if err != nil {
			return err
		}
		defer giveBack()
		out, err = c.images.Changes(ctx, i.now().Image, i.dir, mountTargets)
		if fail.Is(err, fail.NotFound) { // it was never started
			return nil
		}
		return err
	})
	return out, err
}

// Export writes all files of a container, but none that are mounted in it, as a tar. begin is
// called when nothing is in the way any more; interrupted is closed when the copy is ended because
// its client stands still while others want the container.
func (c *Containers) Export(ctx context.Context, ref string, begin func(interrupted <-chan struct{}) io.Writer) error {
	return c.with(ref, func(i *instance) error {
		giveBack, err := c.life.takeFiles(ctx, i)
		if err != nil {
			return err
		}
		defer giveBack()
		now := i.now()
		// Before the first start nothing of it is there yet.
		if _, err := c.images.Rootfs(ctx, now.Image, i.dir); err != nil {
			return fmt.Errorf("export container %s: %w", now.ID, asInternal(err))
		}
		pace := i.copies()
		defer pace.over()
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(pace.ctx, func() { cancel(context.Cause(pace.ctx)) })()
		if err := c.images.Export(ctx, now.Image, i.dir, pace.writer(begin(pace.ctx.Done()))); err != nil {
			return fmt.Errorf("export container %s: %w", now.ID, pace.why(err))
		}
		c.ann.tell(now, "export")
		return nil
	})
}

// takeFiles takes the turn of a container whose files shall stay where they are.
func (l *lifecycle) takeFiles(ctx context.Context, i *instance) (giveBack func(), err error) {
	giveBack, err = l.take(ctx, i)
	if err != nil {
		return nil, err
	}
	c := i.now()
	switch {
	case i.isRemoved():
		err = fail.New(fail.NotFound, "No such container: %s", i.id)
	case c.State.Status == dead || c.State.Status == removing:
		err = fail.New(fail.Conflict, "container %s is being removed", i.id)
	default:
		return giveBack, nil
	}
	giveBack()
	return nil, err
}
