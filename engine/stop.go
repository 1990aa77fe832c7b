package engine

import (
	"context"
	"syscall"
	"time"

	"github.com/moby/sys/signal"
	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
)

const (
	defaultStopTimeout = 10 // seconds
	// killPatience bounds the wait for a process that was sent SIGKILL: one that is
	// stuck in the kernel cannot be waited for.
	killPatience = 10 * time.Second
)

func parseSignal(s string) (unix.Signal, error) {
	sig, err := signal.ParseSignal(s)
	if err != nil || sig < 1 || sig > 64 {
		return 0, fail.New(fail.Invalid, "invalid signal: %s", s)
	}
	return sig, nil
}

// stop ends a container by its stop signal and, when its time is over, by SIGKILL.
// Like a start it is carried through without the client.
func (l *lifecycle) stop(ctx context.Context, i *instance, o StopOptions) error {
	ctx = context.WithoutCancel(ctx)
	c := i.now()
	sig, patience, err := stopTerms(c, o)
	if err != nil {
		return err
	}
	if !c.State.Running() {
		return fail.New(fail.NotModified, "container %s is already stopped", c.ID)
	}
	if err := l.byHand(i, true); err != nil {
		return err
	}
	durable.Failpoint("engine.stop.marked")
	if cancelled, err := l.settleRestart(ctx, i); err != nil {
		return err
	} else if cancelled {
		l.ann.tell(i.now(), "stop")
		return nil
	}
	r, c, err := i.live()
	if err != nil {
		if fail.Is(err, fail.Conflict) { // ended meanwhile
			return nil
		}
		return err
	}
	if err := l.signal(ctx, i, r, sig); err != nil {
		return err
	}
	durable.Failpoint("engine.stop.signalled")
	if err := l.awaitExit(ctx, i, r, patience); err != nil {
		return err
	}
	l.ann.tell(c, "stop")
	return nil
}

// stopTerms are the signal and the patience (negative: endless) of a stop.
func stopTerms(c Container, o StopOptions) (unix.Signal, time.Duration, error) {
	name := "SIGTERM"
	if c.Config.StopSignal != "" {
		name = c.Config.StopSignal
	}
	if o.Signal != "" {
		name = o.Signal
	}
	sig, err := parseSignal(name)
	seconds := defaultStopTimeout
	if c.Config.StopTimeout != nil {
		seconds = *c.Config.StopTimeout
	}
	if o.Timeout != nil {
		seconds = *o.Timeout
	}
	return sig, time.Duration(seconds) * time.Second, err
}

// byHand marks a container as stopped by somebody. With a restart policy that mark
// decides what happens after a reboot, so it is durable before anything is done.
func (l *lifecycle) byHand(i *instance, cancelPolicy bool) error {
	i.mu.Lock()
	i.manual = true
	i.noRestart = i.noRestart || cancelPolicy
	i.mu.Unlock()
	if i.now().HostConfig.RestartPolicy.IsNone() {
		return nil
	}
	return l.rec.save(i)
}

// signal sends sig to the container's init. One that is paused is resumed afterwards,
// for it can neither handle a signal nor die of one.
func (l *lifecycle) signal(ctx context.Context, i *instance, r *run, sig unix.Signal) error {
	c := i.now()
	// Told first: the death that it may bring is told by another goroutine.
	l.ann.tell(c, "kill", "signal", decimal(int(sig)))
	if err := r.shim.Signal(ctx, "", sig, false); err != nil && !fail.Is(err, fail.NotFound) {
		return err
	}
	if c.State.Status != paused {
		return nil
	}
	if err := r.shim.Resume(ctx); err != nil && !fail.Is(err, fail.NotFound) {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.run == r && i.now().State.Status == paused {
		_, err := i.become(running, func(*Container) {})
		return err
	}
	return nil
}

// awaitExit waits for the end of a run, and enforces it when patience is over.
func (l *lifecycle) awaitExit(ctx context.Context, i *instance, r *run, patience time.Duration) error {
	if patience >= 0 {
		if done, err := l.exitWithin(r, patience); done || err != nil {
			return err
		}
		if err := l.signal(ctx, i, r, unix.SIGKILL); err != nil {
			return err
		}
		durable.Failpoint("engine.stop.killed")
		if done, err := l.exitWithin(r, killPatience); done || err != nil {
			return err
		}
		return fail.New(fail.Internal, "container %s did not end after SIGKILL: a process of it may be stuck in the kernel", i.id)
	}
	for _, over := range []chan struct{}{r.exited, r.left} {
		select {
		case <-over:
		case <-l.ctx.Done():
			return errClosed
		}
	}
	return nil
}

func (l *lifecycle) exitWithin(r *run, d time.Duration) (bool, error) {
	t := time.NewTimer(d)
	defer t.Stop()
	for _, over := range []chan struct{}{r.exited, r.left} { // ports and addresses are free then
		select {
		case <-over:
		case <-t.C:
			return over == r.left, nil
		case <-l.ctx.Done():
			return false, errClosed
		}
	}
	return true, nil
}

// kill sends a signal at somebody's request. SIGKILL, the container's own stop signal
// and, if it has none, any signal cancel the restart policy for the exit to come.
func (l *lifecycle) kill(ctx context.Context, i *instance, name string) error {
	sig := unix.SIGKILL
	if name != "" {
		var err error
		if sig, err = parseSignal(name); err != nil {
			return err
		}
	}
	c := i.now()
	if !c.State.Running() {
		return fail.New(fail.Conflict, "cannot kill container: %s: container %s is not running", c.Name, c.ID)
	}
	if err := l.byHand(i, sig == unix.SIGKILL || isStopSignal(c, sig)); err != nil {
		return err
	}
	if cancelled, err := l.settleRestart(ctx, i); cancelled || err != nil {
		return err
	}
	r, c, err := i.live()
	if err != nil {
		return fail.New(fail.Of(err), "cannot kill container: %s: %w", c.Name, err)
	}
	if sig == unix.SIGKILL || isStopSignal(c, sig) {
		err = l.signal(ctx, i, r, sig)
	} else if err = asGone(r.shim.Signal(ctx, "", sig, false), c); err == nil {
		l.ann.tell(c, "kill", "signal", decimal(int(sig)))
	}
	if err != nil || sig != unix.SIGKILL {
		return err
	}
	if done, err := l.exitWithin(r, killPatience); done || err != nil {
		return err
	}
	return fail.New(fail.Internal, "container %s did not end after SIGKILL: a process of it may be stuck in the kernel", i.id)
}

func isStopSignal(c Container, sig syscall.Signal) bool {
	if c.Config.StopSignal == "" {
		return true
	}
	own, err := parseSignal(c.Config.StopSignal)
	return err == nil && own == sig
}

// restart stops a container, if it runs, and starts it. A --rm container stays.
func (l *lifecycle) restart(ctx context.Context, i *instance, o StopOptions) error {
	giveBack, err := l.take(ctx, i)
	if err != nil {
		return err
	}
	defer giveBack()
	ctx = context.WithoutCancel(ctx)
	i.setNoRemove(true)
	defer i.setNoRemove(false)
	if err := l.stop(ctx, i, o); err != nil && !fail.Is(err, fail.NotModified) {
		return err
	}
	if err := l.startByHand(ctx, i); err != nil {
		return err
	}
	l.ann.tell(i.now(), "restart")
	return nil
}

func (i *instance) setNoRemove(v bool) {
	i.mu.Lock()
	i.noRemove = v
	i.mu.Unlock()
}

// pause freezes a container.
func (l *lifecycle) pause(ctx context.Context, i *instance) error {
	r, c, err := i.live()
	if err != nil {
		return err
	}
	if c.State.Status == paused {
		return fail.New(fail.Conflict, "container %s is already paused", c.ID)
	}
	if err := asGone(r.shim.Pause(ctx), c); err != nil {
		return err
	}
	return l.turned(i, r, paused, "pause")
}

// unpause lets it go on.
func (l *lifecycle) unpause(ctx context.Context, i *instance) error {
	r, c, err := i.live()
	if err != nil {
		return err
	}
	if c.State.Status != paused {
		return fail.New(fail.Conflict, "container %s is not paused", c.ID)
	}
	if err := asGone(r.shim.Resume(ctx), c); err != nil {
		return err
	}
	return l.turned(i, r, running, "unpause")
}

func (l *lifecycle) turned(i *instance, r *run, status, action string) error {
	i.mu.Lock()
	if i.run != r { // ended meanwhile, and told already
		i.mu.Unlock()
		return nil
	}
	c, err := i.become(status, func(*Container) {})
	i.mu.Unlock()
	if err != nil {
		return err
	}
	l.ann.tell(c, action)
	l.rec.later(i)
	return nil
}
