package engine

import (
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/container"

	"berth/fail"
	"berth/supervisor"
)

// Defaults of a health check, Docker's.
const (
	probeInterval      = 30 * time.Second
	probeTimeout       = 30 * time.Second
	probeStartInterval = 5 * time.Second
	probeRetries       = 3
)

// checkHealth validates a health check in Docker's words. Zero means the default.
func checkHealth(h *container.HealthConfig) error {
	if h == nil {
		return nil
	}
	for _, d := range []struct {
		what  string
		value time.Duration
	}{{"Interval", h.Interval}, {"Timeout", h.Timeout}, {"StartPeriod", h.StartPeriod}, {"StartInterval", h.StartInterval}} {
		if d.value != 0 && d.value < container.MinimumDuration {
			return fail.New(fail.Invalid, "%s in Healthcheck cannot be less than %s", d.what, container.MinimumDuration)
		}
	}
	if h.Retries < 0 {
		return fail.New(fail.Invalid, "Retries in Healthcheck cannot be negative")
	}
	if len(h.Test) == 0 {
		return nil
	}
	switch kind := h.Test[0]; {
	case kind == "NONE":
	case kind != "CMD" && kind != "CMD-SHELL":
		return fail.New(fail.Invalid, "unknown type %q of a health check: it is one of NONE, CMD, CMD-SHELL", kind)
	case len(h.Test) == 1 || kind == "CMD" && h.Test[1] == "":
		return fail.New(fail.Invalid, "a health check of type %s needs a command", kind)
	case slices.ContainsFunc(h.Test, func(s string) bool { return strings.ContainsRune(s, 0) }):
		return fail.New(fail.Invalid, "the command of the health check contains a NUL byte")
	}
	return nil
}

// healthOf is what the shim does about a container's health; nil: nothing.
func healthOf(cfg *container.Config) *supervisor.Health {
	h := cfg.Healthcheck
	if h == nil || len(h.Test) < 2 || h.Test[0] == "NONE" {
		return nil
	}
	test := h.Test[1:]
	if h.Test[0] == "CMD-SHELL" {
		shell := cfg.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		test = slices.Concat(shell, test)
	}
	out := &supervisor.Health{Test: test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries}
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{{&out.Interval, probeInterval}, {&out.Timeout, probeTimeout}, {&out.StartInterval, probeStartInterval}} {
		if *d.value <= 0 {
			*d.value = d.standard
		}
	}
	if out.Retries <= 0 {
		out.Retries = probeRetries
	}
	return out
}

// healthOfRun is the health of a container that has just been started. What probes of earlier
// runs have said stays to be read.
func healthOfRun(cfg *container.Config, before *container.Health) *container.Health {
	if healthOf(cfg) == nil {
		return nil
	}
	h := &container.Health{Status: container.Starting}
	if before != nil {
		h.Log = before.Log
	}
	return h
}

// healthTold is what a shim knows, in the words of the API.
func healthTold(h *supervisor.HealthState) *container.Health {
	if h == nil {
		return nil
	}
	return &container.Health{Status: container.HealthStatus(h.Status), FailingStreak: h.Streak, Log: resultsOf(h.Log)}
}

func resultsOf(log []supervisor.Probe) []*container.HealthcheckResult {
	out := make([]*container.HealthcheckResult, len(log))
	for n, p := range log {
		out[n] = &container.HealthcheckResult{Start: p.Start, End: p.End, ExitCode: p.ExitCode, Output: p.Output}
	}
	return out
}

// resultsShown is how many results of probes are shown.
const resultsShown = 5

// probeBegins tells of a probe as Docker does: it is an exec like others.
func (l *lifecycle) probeBegins(i *instance, r *run) {
	id, err := newID()
	if err != nil {
		l.log.Error("a probe could not be told of", "id", i.id, "error", err)
		return
	}
	r.probe = id
	c := i.now()
	if h := healthOf(c.Config); h != nil {
		command := strings.Join(h.Test, " ")
		l.ann.tell(c, "exec_create: "+command, "execID", id)
		l.ann.tell(c, "exec_start: "+command, "execID", id)
	}
}

func (l *lifecycle) probeEnded(i *instance, r *run, s supervisor.ExecState) {
	if r.probe == "" { // begun before this engine
		return
	}
	l.ann.tell(i.now(), "exec_die", "execID", r.probe, "exitCode", decimal(s.ExitCode))
	r.probe = ""
}

// healthChanged takes in what a probe has told.
func (l *lifecycle) healthChanged(i *instance, r *run, h supervisor.HealthState) {
	l.probes.count(h.Log)
	i.mu.Lock()
	if i.run != r {
		i.mu.Unlock()
		return
	}
	var before container.HealthStatus
	c := i.change(func(c *Container) {
		next := container.Health{Status: container.HealthStatus(h.Status), FailingStreak: h.Streak}
		if old := c.State.Health; old != nil {
			before = old.Status
			next.Log = append(next.Log, old.Log...)
		}
		next.Log = append(next.Log, resultsOf(h.Log)...)
		next.Log = next.Log[max(0, len(next.Log)-resultsShown):]
		c.State.Health = &next
	})
	i.mu.Unlock()
	if before != c.State.Health.Status {
		l.ann.tell(c, "health_status: "+h.Status)
		l.rec.later(i)
	}
	l.ailed(i, r)
	if c.State.Health.FailingStreak > 0 && l.ctx.Err() == nil {
		l.work.Go(func() { // ends with the engine, or the parser's patience
			// A probe cannot be begun under a profile that somebody has removed.
			if err := l.spec.profile.ready(l.ctx, c.AppArmorProfile); err != nil && l.ctx.Err() == nil {
				l.log.Warn("probes of a container cannot be confined", "id", i.id, "error", err)
			}
		})
	}
}

// healthOfEnd is the health of a container that has ended, whose shim has told last what
// told says. Like Docker's it is unhealthy, whatever it was before.
func healthOfEnd(before *container.Health, told *supervisor.HealthState) *container.Health {
	if before == nil && told == nil {
		return nil
	}
	end := container.Health{}
	if before != nil {
		end = *before
	}
	if told != nil {
		end.FailingStreak = told.Streak
		if len(told.Log) > 0 {
			end.Log = resultsOf(told.Log)
		}
	}
	end.Status = container.Unhealthy
	return &end
}

// healthMissed tells of a change that came while no engine was there.
func (l *lifecycle) healthMissed(before, now Container) {
	old, h := before.State.Health, now.State.Health
	if h != nil && h.Status != container.Starting && (old == nil || old.Status != h.Status || !before.State.StartedAt.Equal(now.State.StartedAt)) {
		l.ann.tell(now, "health_status: "+string(h.Status))
	}
}

// probeCounts are the health checks that this engine has heard of.
type probeCounts struct{ total, failed atomic.Uint64 }

func (n *probeCounts) count(log []supervisor.Probe) {
	for _, p := range log {
		n.total.Add(1)
		if p.ExitCode != 0 {
			n.failed.Add(1)
		}
	}
}

// HealthChecks counts the probes that were made since the engine began, and those of them
// that failed.
func (c *Containers) HealthChecks() (total, failed uint64) {
	return c.life.probes.total.Load(), c.life.probes.failed.Load()
}
