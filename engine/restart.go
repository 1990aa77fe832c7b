package engine

import (
	"context"
	"errors"
	"time"

	"github.com/moby/moby/api/types/container"

	"berth/fail"
	"berth/supervisor"
)

// Pauses before automatic restarts, Docker's.
const (
	firstBackoff  = 100 * time.Millisecond
	longestPause  = time.Minute
	settledUptime = 10 * time.Second // a run this long starts the pauses anew
)

// clock is time as restarts see it.
type clock interface {
	// After calls fn after d, unless cancel is called before.
	After(d time.Duration, fn func()) (cancel func())
}

type wallClock struct{}

func (wallClock) After(d time.Duration, fn func()) func() {
	t := time.AfterFunc(d, fn)
	return func() { t.Stop() }
}

// planRestart decides by the restart policy what follows an exit: the pause before the
// next start, or a negative one for none. The caller holds mu.
func (i *instance) planRestart(rec supervisor.ExitRecord) time.Duration {
	c := i.now()
	failed := rec.Code != 0 || i.ailing || rec.Health != nil && rec.Health.Status == supervisor.Unhealthy && restartsUnhealthy(c)
	i.ailing = false
	if i.noRestart || !wantsRestart(c.HostConfig.RestartPolicy, failed, c.RestartCount, i.manual) {
		return -1
	}
	switch ran := rec.ExitedAt.Sub(rec.StartedAt); {
	case i.backoff == 0 || ran >= settledUptime:
		i.backoff = firstBackoff
	default:
		i.backoff = min(2*i.backoff, longestPause)
	}
	return i.backoff
}

// onUnhealthy is a restart policy beyond Docker's: on-failure, and a container that becomes
// unhealthy has failed too. It is stopped then.
const onUnhealthy = "on-unhealthy"

func restartsUnhealthy(c Container) bool { return c.HostConfig.RestartPolicy.Name == onUnhealthy }

// checkPolicy validates a restart policy.
func checkPolicy(p container.RestartPolicy) error {
	if p.Name != onUnhealthy {
		return fail.Mark(fail.Invalid, container.ValidateRestartPolicy(p))
	}
	if p.MaximumRetryCount < 0 {
		return fail.New(fail.Invalid, "invalid restart policy: maximum retry count cannot be negative")
	}
	return nil
}

func wantsRestart(p container.RestartPolicy, failed bool, count int, manual bool) bool {
	switch {
	case p.IsAlways():
		return true
	case p.IsUnlessStopped():
		return !manual
	case p.IsOnFailure(), p.Name == onUnhealthy:
		return failed && (p.MaximumRetryCount == 0 || count < p.MaximumRetryCount)
	}
	return false
}

// shimPolicy is what the container's shim does when no engine is there.
func (l *lifecycle) shimPolicy(c Container) (p supervisor.Policy) {
	if c.HostConfig.AutoRemove || !c.HostConfig.RestartPolicy.IsNone() || l.hasMountedVolumes(c) {
		p.WakeEngine = l.wake
	}
	// One that will not be started again is not ended for its health.
	p.WakeUnhealthy = restartsUnhealthy(c) && wantsRestart(c.HostConfig.RestartPolicy, true, c.RestartCount, false)
	return p
}

// ailed ends a run that is unhealthy, if its policy is to start the container again then. It
// returns when that has begun.
func (l *lifecycle) ailed(i *instance, r *run) {
	i.mu.Lock()
	c := i.now()
	h := c.State.Health
	due := i.run == r && !i.ailing && !i.noRestart && restartsUnhealthy(c) && h != nil && h.Status == container.Unhealthy &&
		wantsRestart(c.HostConfig.RestartPolicy, true, c.RestartCount, i.manual)
	i.ailing = i.ailing || due
	i.mu.Unlock()
	if !due || l.ctx.Err() != nil {
		return
	}
	l.work.Go(func() { // ends with the run, or the engine
		sig, patience, err := stopTerms(c, StopOptions{})
		if err == nil {
			p := l.shimPolicy(c)
			p.Condemned = true
			if err = r.shim.SetPolicy(l.ctx, p); err == nil {
				err = l.signal(l.ctx, i, r, sig)
			}
		}
		if err == nil {
			err = l.awaitExit(l.ctx, i, r, patience)
		}
		if err != nil && l.ctx.Err() == nil && !fail.Is(err, fail.NotFound) {
			l.log.Error("an unhealthy container could not be ended to start it again", "id", i.id, "error", err)
		}
	})
}

// endPause tells that a planned restart is done, or off. The caller holds mu.
func (i *instance) endPause() {
	if i.pausing != nil {
		close(i.pausing)
		i.pausing = nil
	}
	i.tried()
}

// tried tells that a start that was owed has been tried, or is off. The caller holds mu.
func (i *instance) tried() {
	if i.owed != nil {
		close(i.owed)
		i.owed = nil
	}
}

// planned starts a container that is restarting after the pause.
func (l *lifecycle) planned(i *instance, pause time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.now().State.Status != restarting || l.ctx.Err() != nil || l.ending {
		return
	}
	if i.pausing == nil {
		i.pausing = make(chan struct{})
	}
	l.work.Add(1)
	fired := make(chan struct{}, 1) // taken by whichever of the two comes first
	fired <- struct{}{}
	cancel := l.clock.After(pause, func() {
		select {
		case <-fired:
			defer l.work.Done()
			l.startByPolicy(i)
		default:
		}
	})
	i.timer = func() {
		cancel()
		select {
		case <-fired:
			l.work.Done()
		default:
		}
	}
}

// startByPolicy starts a container whose pause is over. A start that fails counts as
// another exit.
func (l *lifecycle) startByPolicy(i *instance) {
	giveBack, err := l.take(l.ctx, i)
	if err != nil {
		return
	}
	defer giveBack()
	i.mu.Lock()
	c := i.now()
	i.timer = nil
	i.mu.Unlock()
	if c.State.Status != restarting {
		return
	}
	if err := l.launch(context.WithoutCancel(l.ctx), i, c); err == nil || errors.Is(err, errOvertaken) {
		return
	} else if l.ctx.Err() == nil {
		l.log.Warn("a container could not be restarted", "id", i.id, "error", err)
	}
	now := time.Now()
	i.mu.Lock()
	i.tried() // those that depend on it may have better luck
	c = i.now()
	plan := time.Duration(-1)
	if c.State.Status == restarting {
		plan = i.planRestart(supervisor.ExitRecord{Code: c.State.ExitCode, StartedAt: now, ExitedAt: now})
		if plan < 0 {
			i.restsNow()
		} else {
			i.change(func(c *Container) { c.RestartCount++ })
		}
	}
	i.mu.Unlock()
	l.rec.later(i)
	if plan >= 0 {
		l.planned(i, plan)
	}
}

// settleRestart cancels a planned restart, or awaits the outcome of one that has begun.
func (l *lifecycle) settleRestart(ctx context.Context, i *instance) (cancelled bool, err error) {
	if i.now().State.Status != restarting {
		return false, nil
	}
	if l.cancelRestart(i) {
		return true, nil
	}
	giveBack, err := l.take(ctx, i)
	if err != nil {
		return false, err
	}
	giveBack()
	return l.cancelRestart(i), nil
}

// cancelRestart ends the wait of a container that is restarting, and reports whether
// it was.
func (l *lifecycle) cancelRestart(i *instance) bool {
	i.mu.Lock()
	if i.now().State.Status != restarting || i.run != nil {
		i.mu.Unlock()
		return false
	}
	if i.timer != nil {
		i.timer()
		i.timer = nil
	}
	i.restsNow()
	i.mu.Unlock()
	l.rec.later(i)
	return true
}

// restsNow makes of a container that is restarting one that has ended, and tells who waits for
// that. The caller holds mu.
func (i *instance) restsNow() {
	c, _ := i.become(exited, func(*Container) {})
	i.endPause()
	i.tell(anyExit, WaitResult{ExitCode: c.State.ExitCode})
}

// endedWithMachine stands for the boot of a container that was ended because the machine went down: the
// next engine takes it for one of an earlier boot, also if it is the same (a soft reboot, a new
// installation).
const endedWithMachine = ""

// restartAtOpen tells whether an engine that opens starts a container that does not
// run. Within one boot an engine comes and goes unnoticed, so only what was about to
// restart does. After a reboot all do that have run and whose policy says so, those
// with "always" even if they had been stopped by hand.
func restartAtOpen(rec record, rebooted bool) bool {
	p := rec.HostConfig.RestartPolicy
	if !rebooted || rec.State.StartedAt.IsZero() {
		return false
	}
	switch {
	case p.IsAlways():
		return true
	case p.IsUnlessStopped():
		return !rec.Manual
	case p.IsOnFailure(), p.Name == onUnhealthy:
		ended := rec.Boot == endedWithMachine && rec.State.ExitCode != 0
		return (rec.State.Running() || ended) && !rec.Manual
	}
	return false
}
