package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/durable"
	"berth/fail"
	"berth/network"
	"berth/oci"
	"berth/supervisor"
	"berth/volumes"
)

// lifecycle owns the verbs that move a container through its states.
type lifecycle struct {
	ctx      context.Context // ends with the engine
	ending   bool            // no policy starts anything
	work     *sync.WaitGroup // every goroutine of the lifecycle
	dirs     layout
	log      *slog.Logger
	host     *machine
	idx      *index
	rec      *recorder
	ann      announcer
	spec     *specMaker
	boxes    *sandboxes
	wire     *wiring
	execs    *Execs
	images   imageStore
	shims    shims
	runtimes *runtimes
	volumes  *volumes.Store
	labels   *labels
	wake     []string
	logRelay []string
	clock    clock
	probes   probeCounts
	sweeping atomic.Int32 // removals whose files are still being deleted
}

// undo is what a half-made start takes back, in reverse order.
type undo []func()

func (u *undo) add(fn func()) { *u = append(*u, fn) }
func (u undo) run() {
	for _, fn := range slices.Backward(u) {
		fn()
	}
}

// start starts a container at somebody's request. Once begun it is carried through,
// whether or not the client stays.
func (l *lifecycle) start(ctx context.Context, i *instance) error {
	giveBack, err := l.take(ctx, i)
	if err != nil {
		return err
	}
	defer giveBack()
	return l.startByHand(context.WithoutCancel(ctx), i)
}

// take waits for the container's turn, and refuses it in an engine that closes.
func (l *lifecycle) take(ctx context.Context, i *instance) (giveBack func(), err error) {
	giveBack, err = i.take(ctx)
	if err == nil && l.ctx.Err() != nil {
		giveBack()
		return nil, errClosed
	}
	return giveBack, err
}

// startByHand is start for a caller who holds the turn.
func (l *lifecycle) startByHand(ctx context.Context, i *instance) error {
	i.mu.Lock()
	c := i.now()
	err := mayStart(c, i.removed)
	if err == nil {
		i.manual, i.backoff = false, 0
		c = i.change(func(c *Container) { c.RestartCount = 0 })
	}
	i.mu.Unlock()
	if err != nil {
		return err
	}
	return l.launch(ctx, i, c)
}

func mayStart(c Container, removed bool) error {
	switch s := c.State.Status; {
	case removed:
		return fail.New(fail.NotFound, "No such container: %s", c.ID)
	case s == running || s == restarting:
		return fail.New(fail.NotModified, "container %s is already started", c.ID)
	case s == paused:
		return fail.New(fail.Conflict, "cannot start a paused container, try unpause instead")
	case s == removing || s == dead:
		return fail.New(fail.Conflict, "container is marked for removal and cannot be started")
	}
	return nil
}

// launch brings a container to life, or records why it could not be. The caller holds
// the turn.
func (l *lifecycle) launch(ctx context.Context, i *instance, c Container) error {
	err := l.steps(ctx, i, c)
	if err == nil || errors.Is(err, errOvertaken) {
		return err
	}
	var failed *startFailure
	code := 128
	if errors.As(err, &failed) {
		code = failed.code
	}
	i.mu.Lock()
	left := i.pending
	i.pending = nil
	c = i.change(func(c *Container) { c.State.ExitCode, c.State.Error = code, err.Error() })
	i.mu.Unlock()
	closeAll(left)
	l.rec.later(i)
	if c.HostConfig.AutoRemove && c.State.Status != restarting {
		if rmErr := l.erase(i, true); rmErr != nil {
			l.log.Error("a container that could not start could not be removed either", "id", i.id, "error", rmErr)
		}
	}
	return err
}

// steps are those of a start, each with its undoing.
func (l *lifecycle) steps(ctx context.Context, i *instance, c Container) (err error) {
	var back undo
	defer func() {
		if err != nil {
			back.run()
		}
	}()
	if err := l.previousRunGone(i); err != nil {
		return err
	}
	back.add(func() { l.unmountVolumes(c) })
	if err := l.mountVolumes(ctx, c); err != nil {
		return err
	}
	join := l.wire.begin(ctx, c)
	back.add(func() { l.wire.undo(join) })
	cfg, release, err := l.configure(ctx, i, c, join)
	if err != nil {
		return err
	}
	defer release()
	sb, _ := join.wait()
	if err := supervisor.RemoveExit(i.dir); err != nil && !fail.Is(err, fail.NotFound) {
		return fmt.Errorf("forget the previous exit: %w", err)
	}
	durable.Failpoint("engine.start.prepared")

	i.mu.Lock()
	clients := i.pending
	i.pending = nil
	i.mu.Unlock()
	s, err := l.shims.Create(ctx, cfg, clients)
	if fail.Is(err, fail.Conflict) && cfg.Network != nil {
		return l.wire.bindFailure(c, sb, cfg.Network.Ports, err)
	}
	if err != nil && cfg.Runtime != nil {
		return startFailed(err) // most runtimes look for the program already now
	}
	if err != nil {
		return createFailure(err)
	}
	durable.Failpoint("engine.start.created")
	r := newRun(s)
	begun := false // from here on the shim clears up by itself if the start fails
	back.add(func() { l.abandon(ctx, i, r, begun) })
	l.work.Go(func() { l.watch(i, r) })

	i.mu.Lock()
	overtaken := i.now().State.Status != c.State.Status
	i.run, i.last = r, r
	late := i.pending // came while the shim was being made
	i.pending = nil
	i.mu.Unlock()
	if overtaken {
		closeAll(late)
		return errOvertaken
	}
	for _, a := range late {
		if err := s.Attach(ctx, a); err != nil {
			_ = a.Conn.Close()
			l.log.Warn("a client that attached during the start was lost", "id", i.id, "error", err)
		}
	}
	if sb != nil {
		if sb, err = l.wire.publish(ctx, sb, s.Ports()); err != nil {
			return err
		}
		durable.Failpoint("engine.start.published")
	}
	begun = true
	i.mu.Lock()
	i.change(func(c *Container) { c.AppArmorProfile = cfg.Spec.Process.ApparmorProfile })
	i.mu.Unlock()
	pid, at, err := s.Start(ctx)
	if errors.Is(err, supervisor.ErrGone) {
		// It may have been killed after the container had started, and before it could say so.
		if rec, recErr := supervisor.ReadExit(i.dir); recErr == nil {
			return l.nowRunning(i, r, sb, 0, rec.StartedAt)
		}
	}
	if err != nil {
		return startFailed(err)
	}
	durable.Failpoint("engine.start.started")
	return l.nowRunning(i, r, sb, pid, at)
}

// nowRunning records that the container runs and lets its exit be handled.
func (l *lifecycle) nowRunning(i *instance, r *run, sb *network.Sandbox, pid int, at time.Time) error {
	i.mu.Lock()
	i.noRestart, i.boot = false, l.host.boot
	c, err := i.become(running, func(c *Container) {
		c.State = State{Status: running, Pid: pid, StartedAt: at.UTC(), FinishedAt: c.State.FinishedAt,
			Health: healthOfRun(c.Config, c.State.Health)}
		c.Network = sb
	})
	if err == nil {
		i.endPause() // before its end can be handled, which may begin the next one
	}
	i.mu.Unlock()
	if err != nil {
		return err
	}
	l.wire.tellAll("connect", c, sb)
	l.tellMounted(c)
	l.ann.tell(c, "start")
	l.wire.relink(c)
	close(r.started)
	// That it was started decides whether the next boot starts it.
	if c.HostConfig.RestartPolicy.IsNone() {
		l.rec.later(i)
	} else if err := l.rec.save(i); err != nil {
		l.log.Error("a container runs, and that could not be recorded: a reboot may not start it", "id", i.id, "error", err)
	}
	return nil
}

// errOvertaken ends an automatic start of a container that was stopped meanwhile.
var errOvertaken = errors.New("the container was stopped while it was being restarted")

// abandon takes back a run whose start failed, or was never begun.
func (l *lifecycle) abandon(ctx context.Context, i *instance, r *run, begun bool) {
	if !begun {
		if err := r.shim.Destroy(ctx); err != nil && !fail.Is(err, fail.NotFound) {
			l.log.Error("a container that was made and not started could not be taken down", "id", i.id, "error", err)
		}
	}
	i.mu.Lock()
	if i.run == r {
		i.run = nil
	}
	i.mu.Unlock()
	r.failed = true
	close(r.left) // the start takes the join back
	close(r.started)
}

// configure collects what the shim needs. release closes what is lent to it.
func (l *lifecycle) configure(ctx context.Context, i *instance, c Container, join *joining) (cfg supervisor.Config, release func(), err error) {
	netFiles, own, err := l.boxes.leader(c, i.dir)
	if err != nil {
		return cfg, nil, err
	}
	root, err := l.images.Rootfs(ctx, c.Image, i.dir)
	if err != nil {
		return cfg, nil, fmt.Errorf("root file system of container %s: %w", c.ID, asInternal(err))
	}
	root.Volatile = c.HostConfig.AutoRemove
	if err := os.MkdirAll(i.runDir, 0o700); err != nil {
		return cfg, nil, fmt.Errorf("make the run directory: %w", err)
	}
	lent, err := l.boxes.join(c, i.runDir)
	if err != nil {
		return cfg, nil, err
	}
	defer func() {
		if err != nil {
			lent.close()
		}
	}()
	sb, err := join.wait()
	if err != nil {
		return cfg, nil, err
	}
	if sb != nil {
		lent.files = append(lent.files, sb.Netns)
		lent.paths[specs.NetworkNamespace] = throughUs(sb.Netns)
		cfg.Network = l.wire.shimNetwork(c, sb, nil)
	}
	if own {
		if err := l.wire.writeNetFiles(i.dir, c, sb); err != nil {
			return cfg, nil, err
		}
	}
	spec, err := l.spec.spec(ctx, c, surroundings{netFiles: netFiles, namespaces: lent.paths, shm: lent.shm})
	if err != nil {
		return cfg, nil, err
	}
	if err := l.spec.profile.ready(ctx, spec.Process.ApparmorProfile); err != nil {
		return cfg, nil, err
	}
	if err := l.labels.prepare(ctx, c, root, netFiles); err != nil {
		return cfg, nil, err
	}
	if err := c.plan.checkPropagation(); err != nil {
		return cfg, nil, err
	}
	sources, err := c.plan.sources(c, l.labels, func(image oci.Digest) ([]string, error) {
		root, err := l.images.Rootfs(ctx, image, "")
		return root.Lower, asInternal(err)
	})
	if err != nil {
		return cfg, nil, fmt.Errorf("layers of an image to mount: %w", err)
	}
	logging, err := logOptions(c)
	if err != nil {
		return cfg, nil, err
	}
	if logging.Remote != nil {
		logging.Remote.Relay = l.logRelay
	}
	runtime, err := l.runtimes.get(c.HostConfig.Runtime)
	if err != nil {
		return cfg, nil, err
	}
	cfg = supervisor.Config{
		Network: cfg.Network,
		ID:      c.ID, Dir: i.dir, RunDir: i.runDir, Spec: spec, Root: root, Sources: sources, Runtime: runtime,
		User: c.Config.User, Groups: slices.Concat(c.HostConfig.GroupAdd, groupsOf(spec)),
		Health:    healthOf(c.Config),
		OpenStdin: c.Config.OpenStdin, StdinOnce: c.Config.StdinOnce,
		LogPath: i.logFile(logging), Log: logging,
		Volatile: c.HostConfig.AutoRemove,
	}
	cfg.Policy = l.shimPolicy(c)
	return cfg, lent.close, nil
}

// groupsOf are the further groups that devices bring.
func groupsOf(spec *oci.Spec) (out []string) {
	for _, gid := range spec.Process.User.AdditionalGids {
		out = append(out, decimal(gid))
	}
	return out
}

// shimFarewell bounds how long a shim may take to clear up after its container.
const shimFarewell = 15 * time.Second

// previousRunGone waits until the last run's shim has let go of the writable layer: it
// must never be mounted twice.
func (l *lifecycle) previousRunGone(i *instance) error {
	i.mu.Lock()
	r := i.last
	i.mu.Unlock()
	if r == nil {
		return nil
	}
	t := time.NewTimer(shimFarewell)
	defer t.Stop()
	select {
	case <-r.gone:
	case <-t.C:
		return fail.New(fail.Unavailable, "the previous run of container %s is not cleared up yet", i.id)
	case <-l.ctx.Done():
		return errClosed
	}
	if err := i.lent.takeBack(l.ctx); err != nil {
		return fmt.Errorf("container %s: %w", i.id, err)
	}
	return l.previousRunLeft(i)
}

// previousRunLeft waits until the last run is off its networks.
func (l *lifecycle) previousRunLeft(i *instance) error {
	i.mu.Lock()
	r := i.last
	i.mu.Unlock()
	if r == nil {
		return nil
	}
	select {
	case <-r.left:
		return nil
	case <-l.ctx.Done():
		return errClosed
	}
}

// startFailure is a start that failed in the container's own matters, with the exit
// code that stands for that.
type startFailure struct {
	code int
	err  error
}

func (f *startFailure) Error() string { return f.err.Error() }
func (f *startFailure) Unwrap() error { return f.err }

// startFailed words the failure of the program itself: 127 for one that does not
// exist, 126 for one that may not be executed; both are the request's fault.
func startFailed(err error) error {
	wrapped := fmt.Errorf("failed to create task for container: failed to start container process: %w", err)
	switch class := fail.Of(err); {
	case errors.Is(err, supervisor.ErrGone):
		return &startFailure{128, fail.Mark(fail.Internal, wrapped)}
	case class == fail.NotFound:
		return &startFailure{127, fail.Mark(fail.Invalid, wrapped)}
	case class == fail.Forbidden:
		return &startFailure{126, fail.Mark(fail.Invalid, wrapped)}
	default:
		return &startFailure{128, asInternal(wrapped)}
	}
}

func createFailure(err error) error {
	return &startFailure{128, asInternal(fmt.Errorf("failed to create task for container: %w", err))}
}

// asInternal keeps a class of a lower layer from being read as one of the container:
// its NotFound would say that there is no such container.
func asInternal(err error) error {
	switch fail.Of(err) {
	case fail.Invalid, fail.NotImplemented, fail.Unavailable, fail.Canceled:
		return err
	}
	return fail.Mark(fail.Internal, err)
}

func decimal[N ~int | ~uint16 | ~uint32 | ~int64](n N) string { return strconv.FormatInt(int64(n), 10) }
