package engine

import (
	"context"
	"errors"
	"time"

	"github.com/moby/moby/api/types/container"

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
	if i.noRestart || !wantsRestart(c.HostConfig.RestartPolicy, rec.Code, c.RestartCount, i.manual) {
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

func wantsRestart(p container.RestartPolicy, code, count int, manual bool) bool {
	switch {
	case p.IsAlways():
		return true
	case p.IsUnlessStopped():
		return !manual
	case p.IsOnFailure():
		return code != 0 && (p.MaximumRetryCount == 0 || count < p.MaximumRetryCount)
	}
	return false
}

// planned starts a container that is restarting after the pause.
func (l *lifecycle) planned(i *instance, pause time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.now().State.Status != restarting || l.ctx.Err() != nil {
		return
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
	c = i.now()
	plan := time.Duration(-1)
	if c.State.Status == restarting {
		plan = i.planRestart(supervisor.ExitRecord{Code: c.State.ExitCode, StartedAt: now, ExitedAt: now})
		if plan < 0 {
			c, _ = i.become(exited, func(*Container) {})
		} else {
			c = i.change(func(c *Container) { c.RestartCount++ })
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
	_, err := i.become(exited, func(*Container) {})
	if i.timer != nil {
		i.timer()
		i.timer = nil
	}
	i.mu.Unlock()
	l.rec.later(i)
	return err == nil
}

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
	case p.IsOnFailure():
		return rec.State.Running() && !rec.Manual
	}
	return false
}
