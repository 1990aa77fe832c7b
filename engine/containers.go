package engine

import (
	"context"
	"log/slog"
	"net"
	"slices"

	mobynet "github.com/moby/moby/api/types/network"

	"berth/fail"
	"berth/logs"
	"berth/oci"
)

// Containers owns the life of containers. In its methods ref is a full ID, a name (with or
// without the leading slash) or a unique ID prefix; an unknown one is class NotFound
// ("No such container: REF"), an ambiguous prefix Invalid.
type Containers struct {
	idx    *index
	create *creator
	life   *lifecycle
	rec    *recorder
	ann    announcer
	images imageStore
	log    *slog.Logger

	samples *sampler
	watches logs.Watches // of those who follow logs
}

// Create records a container. A missing image is class NotFound, a taken name Conflict,
// anything that cannot be honoured Invalid or NotImplemented, in one line.
func (c *Containers) Create(ctx context.Context, r CreateRequest) (id string, warnings []string, err error) {
	return c.create.create(ctx, r)
}

// Start starts a container; NotModified if it runs already. Error texts of the program itself hold
// the phrases by which the docker CLI chooses exit codes 126 and 127.
func (c *Containers) Start(ctx context.Context, ref string) error {
	return c.with(ref, func(i *instance) error { return c.life.start(ctx, i) })
}

// StopOptions override the container's own stop signal and timeout (seconds, -1: for
// ever).
type StopOptions struct {
	Signal  string
	Timeout *int
}

// Stop ends a container by its stop signal, then SIGKILL; NotModified if it does not run.
func (c *Containers) Stop(ctx context.Context, ref string, o StopOptions) error {
	return c.started(ctx, ref, func(i *instance) error { return c.life.stop(ctx, i, o) })
}

// Restart stops (if it runs) and starts a container.
func (c *Containers) Restart(ctx context.Context, ref string, o StopOptions) error {
	return c.with(ref, func(i *instance) error { return c.life.restart(ctx, i, o) })
}

// Kill sends a signal (name with or without SIG, or number; empty: KILL); Conflict if
// it does not run.
func (c *Containers) Kill(ctx context.Context, ref, signal string) error {
	return c.started(ctx, ref, func(i *instance) error { return c.life.kill(ctx, i, signal) })
}

// started is with, after a start that is under way: who has seen the first output of a
// container may stop it, though its start has not been answered yet.
func (c *Containers) started(ctx context.Context, ref string, fn func(*instance) error) error {
	return c.with(ref, func(i *instance) error {
		if !i.now().State.Running() && len(i.turn) > 0 {
			giveBack, err := c.life.take(ctx, i)
			if err != nil {
				return err
			}
			giveBack()
		}
		return fn(i)
	})
}

// Wait registers at once and delivers when the condition is met. For WaitRemoved a full id
// may name a container that has been removed lately.
func (c *Containers) Wait(ctx context.Context, ref string, cond WaitCondition) (<-chan WaitResult, error) {
	i, err := c.idx.find(ref)
	if err != nil {
		if code, known := c.idx.farewell(ref); known && cond == WaitRemoved {
			result := make(chan WaitResult, 1)
			result <- WaitResult{ExitCode: code}
			return result, nil
		}
		return nil, err
	}
	return i.wait(ctx, cond)
}

// RemoveOptions of Remove. With Volumes the container's anonymous volumes go too, unless
// another container uses them; those of a --rm container always do.
type RemoveOptions struct{ Force, Volumes bool }

// Remove deletes a container; Conflict if it runs and Force is not set.
func (c *Containers) Remove(ctx context.Context, ref string, o RemoveOptions) error {
	return c.with(ref, func(i *instance) error { return c.life.remove(ctx, i, o) })
}

// RemoveLink removes what HostConfig.Links of a container on the default bridge says of an alias
// (CONTAINER/ALIAS), and its lines in the container's hosts file.
func (c *Containers) RemoveLink(ctx context.Context, name string) error {
	return c.life.unlink(ctx, name)
}

// Rename gives a container another name.
func (c *Containers) Rename(ctx context.Context, ref, name string) error {
	return c.with(ref, func(i *instance) error { return c.life.rename(ctx, i, name) })
}

// Connect puts a container on a further network, at once if it runs, and at every start
// from now on. cfg may be nil. An unknown network is NotFound, one that the container is on
// already Forbidden, the host's or none's Invalid.
func (c *Containers) Connect(ctx context.Context, ref, network string, cfg *mobynet.EndpointSettings) error {
	return c.with(ref, func(i *instance) error { return c.life.connect(ctx, i, network, cfg) })
}

// Disconnect takes a container off a network; Conflict if it is not on it. With force the
// network may be one that does not exist any more.
func (c *Containers) Disconnect(ctx context.Context, ref, network string, force bool) error {
	return c.with(ref, func(i *instance) error { return c.life.disconnect(ctx, i, network, force) })
}

// Pause and Unpause freeze and thaw a container.
func (c *Containers) Pause(ctx context.Context, ref string) error {
	return c.with(ref, func(i *instance) error { return c.life.pause(ctx, i) })
}
func (c *Containers) Unpause(ctx context.Context, ref string) error {
	return c.with(ref, func(i *instance) error { return c.life.unpause(ctx, i) })
}

// Commit makes an image of a container's changes.
func (c *Containers) Commit(ctx context.Context, ref string, r CommitRequest) (image oci.Digest, err error) {
	err = c.with(ref, func(i *instance) error { image, err = c.life.commit(ctx, i, r); return err })
	return image, err
}

// Get returns one container, List all of them, newest first. Neither ever waits for a
// container that is being started or stopped.
func (c *Containers) Get(ref string) (Container, error) {
	i, err := c.idx.find(ref)
	if err != nil {
		return Container{}, err
	}
	return i.now(), nil
}
func (c *Containers) List() []Container {
	instances := c.idx.all()
	out := make([]Container, 0, len(instances))
	for n := len(instances) - 1; n >= 0; n-- {
		out = append(out, instances[n].now())
	}
	return out
}

// Sandbox returns the sandbox that a container is in.
func (c *Containers) Sandbox(ref string) (Sandbox, error) {
	i, err := c.idx.find(ref)
	if err != nil {
		return Sandbox{}, err
	}
	return c.life.boxes.get(i.now()), nil
}

// Logs reads a container's log; a driver that cannot be read is NotImplemented.
// ReadOptions.Done and Watches are filled in by the engine.
func (c *Containers) Logs(ctx context.Context, ref string, o logs.ReadOptions, fn func(logs.Entry) error) error {
	o.Watches = &c.watches
	return c.with(ref, func(i *instance) error { return i.readLog(ctx, o, fn) })
}

// Hijack takes the client's connection over from HTTP: it is called at most once, after
// all checks that can still be answered by a status, and returns the raw connection and
// the bytes that were read from it already.
type Hijack func() (conn net.Conn, prefix []byte, err error)

// Attach joins a client to a container's streams. If the container does not run yet, the client is
// joined when it starts. It returns when the connection is handed over.
func (c *Containers) Attach(ctx context.Context, ref string, o AttachOptions, hijack Hijack) error {
	return c.with(ref, func(i *instance) error { return attach(ctx, i, o, hijack, c.ann) })
}

// Resize sets the terminal's size; Conflict if the container does not run.
func (c *Containers) Resize(ctx context.Context, ref string, rows, cols uint16) error {
	return c.with(ref, func(i *instance) error {
		r, s, err := i.live()
		if err != nil {
			return err
		}
		if err := asGone(r.shim.Resize(ctx, "", rows, cols), s); err != nil {
			return err
		}
		c.ann.tell(s, "resize", "height", decimal(rows), "width", decimal(cols))
		return nil
	})
}

// Using names the containers that use an image, and those among them that run
// (for images.RemoveOptions).
func (c *Containers) Using(image oci.Digest) (all, running []string) {
	for _, i := range c.idx.all() {
		s := i.now()
		if !slices.Contains(s.images(), image) {
			continue
		}
		all = append(all, s.ID)
		if s.State.Running() {
			running = append(running, s.ID)
		}
	}
	return all, running
}

// Prune removes stopped containers for which keep is false, and tells the freed bytes.
func (c *Containers) Prune(ctx context.Context, keep func(Container) bool) (ids []string, freed int64, err error) {
	for _, i := range c.idx.all() {
		s := i.now()
		if s.State.Running() || s.State.Status == removing || keep != nil && keep(s) {
			continue
		}
		size, err := c.writableSize(ctx, i)
		if err != nil {
			return ids, freed, err
		}
		switch err := c.life.remove(ctx, i, RemoveOptions{}); {
		case err == nil:
			ids, freed = append(ids, i.id), freed+size
		case fail.Is(err, fail.Conflict): // started, or being removed by somebody else
		default:
			return ids, freed, err
		}
	}
	return ids, freed, nil
}

func (c *Containers) with(ref string, fn func(*instance) error) error {
	i, err := c.idx.find(ref)
	if err != nil {
		return err
	}
	return fn(i)
}

// asGone tells of a shim that ended meanwhile as a container that does not run.
func asGone(err error, c Container) error {
	if fail.Is(err, fail.NotFound) {
		return fail.New(fail.Conflict, "container %s is not running", c.ID)
	}
	return err
}
