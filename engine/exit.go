package engine

import (
	"context"
	"os"
	"time"

	"berth/durable"
	"berth/supervisor"
)

// watch handles what a shim tells, in order, until its connection ends. What it tells
// before the outcome of the start is recorded waits for that: a container may be over
// before its start has been answered.
func (l *lifecycle) watch(i *instance, r *run) {
	// An engine that closes lets go of its shims; one whose start failed is of no use.
	letGo := context.AfterFunc(l.ctx, func() { _ = r.shim.Close() })
	defer letGo()
	var early []supervisor.Event
	events, started := r.shim.Events(), r.started
	over := false
	for events != nil || started != nil {
		select {
		case e, ok := <-events:
			switch {
			case !ok:
				events = nil
			case started != nil:
				early = append(early, e)
			default:
				over = l.handle(i, r, e) || over
			}
		case <-started:
			started = nil
			if r.failed {
				_ = r.shim.Close()
			}
			for _, e := range early {
				over = l.handle(i, r, e) || over
			}
		}
	}
	if over {
		_ = os.Remove(i.runDir) // stays if something is in it
		close(r.gone)
		l.restarted(i, r)
		_ = r.shim.Close()
		return
	}
	defer close(r.gone)
	_ = r.shim.Close()
	defer func() { _ = os.Remove(i.runDir) }() // as above
	switch {
	case r.failed:
		// What is left there would look like a run that was lost.
		if err := os.RemoveAll(i.runDir); err != nil {
			l.log.Error("a run directory could not be deleted", "id", i.id, "error", err)
		}
	case l.ctx.Err() == nil:
		if rec := l.lost(i); l.ctx.Err() == nil {
			l.ended(i, r, rec)
		}
	}
}

// restarted keeps the shim of a run that has ended until the container runs again, if that is
// planned: were this engine killed before, nobody else would wake the next one.
func (l *lifecycle) restarted(i *instance, r *run) {
	i.mu.Lock()
	pausing := i.pausing
	i.mu.Unlock()
	if pausing == nil {
		return
	}
	r.shim.Hold()
	select {
	case <-pausing:
	case <-l.ctx.Done():
	}
}

// handle reports whether e was the exit.
func (l *lifecycle) handle(i *instance, r *run, e supervisor.Event) bool {
	if r.failed {
		return false
	}
	switch e.Kind {
	case "exit":
		if e.Exit != nil {
			l.ended(i, r, *e.Exit)
			return true
		}
	case "exec-exit":
		if e.Exec != nil {
			l.execs.ended(e.ExecID, *e.Exec)
		}
	case "oom":
		i.mu.Lock()
		c := i.change(func(c *Container) { c.State.OOMKilled = true })
		i.mu.Unlock()
		l.ann.tell(c, "oom")
	case supervisor.EventProbe:
		l.probeBegins(i, r)
	case supervisor.EventProbed:
		if e.Exec != nil {
			l.probeEnded(i, r, *e.Exec)
		}
	case supervisor.EventHealth:
		if e.Health != nil {
			l.healthChanged(i, r, *e.Health)
		}
	case "detach":
		if e.ExecID != "" {
			l.ann.tell(i.now(), "exec_detach", "execID", e.ExecID)
		} else {
			l.ann.tell(i.now(), "detach")
		}
	default:
		l.log.Warn("a shim told something unknown; is it newer than this engine?", "id", i.id, "kind", e.Kind)
	}
	return false
}

// supervisorLost is the reason of an end whose exit code nobody saw.
const supervisorLost = "supervisor lost"

// lost tells how a container ended whose shim is gone without a word.
func (l *lifecycle) lost(i *instance) supervisor.ExitRecord {
	ctx, cancel := context.WithTimeout(l.ctx, openPatience)
	defer cancel()
	rec, err := lastWord(ctx, i.dir, i.runDir)
	if err == nil {
		return rec
	}
	l.log.Error("a container's supervisor was lost and left no exit record", "id", i.id, "error", err)
	return supervisor.ExitRecord{Code: 137, Reason: supervisorLost, StartedAt: i.now().State.StartedAt, ExitedAt: time.Now()}
}

// ended records and tells the end of a run, and begins what follows from it: a
// restart by policy, or the removal of a --rm container.
func (l *lifecycle) ended(i *instance, r *run, rec supervisor.ExitRecord) {
	i.mu.Lock()
	if i.run != r {
		i.mu.Unlock()
		return
	}
	i.run = nil
	told, sb := i.now().State.OOMKilled, i.now().Network
	c, plan := l.recordExit(i, rec)
	waiting := i.pick(anyExit)
	i.mu.Unlock()
	if sb != nil {
		l.wire.leave(c, r, sb)
	}
	l.execs.orphaned(i)
	if c.State.OOMKilled && !told { // the kill was the end, and there was no time to tell of it
		l.ann.tell(c, "oom")
	}
	l.tellExit(i, c, rec, waiting)
	if sb == nil {
		l.wire.left(c, r, nil)
	}
	l.volumesEnded(c)
	close(r.exited)
	l.follow(i, c, plan)
}

// recordExit changes the state; plan is the pause before a restart, negative for none.
// The caller holds mu.
func (l *lifecycle) recordExit(i *instance, rec supervisor.ExitRecord) (Container, time.Duration) {
	if rec.Log != "" {
		l.log.Warn("the log of a container is not whole", "container", i.id, "error", rec.Log)
	}
	plan := i.planRestart(rec)
	status := exited
	if plan >= 0 {
		status = restarting
	}
	c, err := i.become(status, func(c *Container) {
		c.State.Pid, c.State.ExitCode, c.State.Error = 0, rec.Code, rec.Reason
		c.State.OOMKilled = c.State.OOMKilled || rec.OOMKilled
		c.State.FinishedAt = rec.ExitedAt.UTC()
		c.State.Health = healthOfEnd(c.State.Health, rec.Health)
		if !rec.StartedAt.IsZero() {
			c.State.StartedAt = rec.StartedAt.UTC()
		}
		c.ExecIDs, c.Network = nil, nil
		if plan >= 0 {
			c.RestartCount++
		}
	})
	if err != nil {
		l.log.Error("an exit came at the wrong time", "id", i.id, "error", err)
	}
	return c, plan
}

// tellExit tells of an exit those who waited for it when it was recorded.
func (l *lifecycle) tellExit(i *instance, c Container, rec supervisor.ExitRecord, waiting []*waiter) {
	ran := max(rec.ExitedAt.Sub(c.State.StartedAt), 0)
	l.ann.tell(c, "die", "exitCode", decimal(rec.Code), "execDuration", decimal(int64(ran/time.Second)))
	durable.Failpoint("engine.exit.told")
	for _, w := range waiting {
		w.c <- WaitResult{ExitCode: rec.Code}
	}
	l.rec.later(i)
}

func (l *lifecycle) follow(i *instance, c Container, plan time.Duration) {
	switch {
	case plan >= 0:
		l.planned(i, plan)
	case c.HostConfig.AutoRemove:
		l.work.Go(func() { l.autoRemove(i) })
	}
}
