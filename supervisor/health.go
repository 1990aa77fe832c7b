package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	oci "berth/oci/bundle"
	"berth/runtime"
)

// Health is a container's health check: a program that is executed in the container
// every so often, and whose exit status says whether all is well there.
type Health struct {
	Test          []string      `json:"test"`                    // program and arguments
	Interval      time.Duration `json:"interval"`                // from the end of one probe to the next
	Timeout       time.Duration `json:"timeout"`                 // after which a probe is killed and has failed
	StartPeriod   time.Duration `json:"startPeriod,omitempty"`   // in which failures do not count until one probe has succeeded
	StartInterval time.Duration `json:"startInterval,omitempty"` // instead of Interval meanwhile
	Retries       int           `json:"retries"`                 // so many failures in a row make it unhealthy
}

// What a HealthState says, Docker's words.
const (
	HealthStarting = "starting"
	Healthy        = "healthy"
	Unhealthy      = "unhealthy"
)

// HealthState is what the probes of one run have told.
type HealthState struct {
	Status string  `json:"status"`
	Streak int     `json:"streak"`        // failures since the last success
	Log    []Probe `json:"log,omitempty"` // the latest, oldest first
}

// Probe is one execution of a health check.
type Probe struct {
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	ExitCode int       `json:"exitCode"` // -1: it could not be executed, or took too long
	Output   string    `json:"output,omitempty"`
}

// probeStart bounds how long the start of a probe's process may take, as in Docker.
const probeStart = 30 * time.Second

// Limits of what is kept of probes, Docker's.
const (
	probesKept  = 5
	probeOutput = 4096 // bytes
)

// took adds a probe to what is known. started is when the container was.
func (h *HealthState) took(p Probe, cfg *Health, started time.Time) {
	if len(h.Log) >= probesKept {
		h.Log = append(h.Log[:0], h.Log[len(h.Log)-probesKept+1:]...)
	}
	h.Log = append(h.Log, p)
	switch {
	case p.ExitCode == 0:
		h.Streak, h.Status = 0, Healthy
	case h.Status == HealthStarting && p.Start.Sub(started) < cfg.StartPeriod:
	default:
		if h.Streak++; h.Streak >= cfg.Retries {
			h.Status = Unhealthy
		}
	}
}

// pause is how long to wait before the next probe of a container that was started at
// the time given.
func (h *HealthState) pause(cfg *Health, started time.Time) time.Duration {
	if h.Status == HealthStarting && time.Since(started) < cfg.StartPeriod {
		return cfg.StartInterval
	}
	return cfg.Interval
}

// prober probes the container. Between two probes it costs a timer. The shim's mu guards
// its fields.
type prober struct {
	cfg     *Health
	process *oci.Process // what a probe executes
	state   HealthState
	held    bool // by stopProbes
	timer   *time.Timer
	cancel  context.CancelFunc // of the probe under way, nil if there is none
	done    chan struct{}      // closed when that has ended
}

// newProber notes how probes are executed: like the container's own process, but for program
// and terminal.
func newProber(cfg *Health, init *oci.Process) *prober {
	p := *init
	p.Args, p.Terminal, p.ConsoleSize = cfg.Test, false, nil
	return &prober{cfg: cfg, process: &p, state: HealthState{Status: HealthStarting}}
}

// healthNow is what is known now. The caller holds mu.
func (s *shim) healthNow() *HealthState {
	if s.health == nil {
		return nil
	}
	now := s.health.state
	now.Log = slices.Clone(now.Log)
	return &now
}

// planProbe sets the time of the next probe. The caller holds mu.
func (s *shim) planProbe() {
	h := s.health
	if h == nil || h.held || s.phase != isRunning {
		return
	}
	pause := h.state.pause(h.cfg, s.file.StartedAt)
	if h.timer == nil {
		h.timer = time.AfterFunc(pause, s.probe)
	} else {
		h.timer.Reset(pause)
	}
}

// stopProbes ends the probe under way, whose outcome does not count, and lets no further one
// begin before resumeProbes. The caller holds mu. wait returns when it has ended.
func (s *shim) stopProbes() (wait func(context.Context)) {
	h := s.health
	if h == nil {
		return func(context.Context) {}
	}
	h.held = true
	h.timer.Stop()
	if h.cancel == nil {
		return func(context.Context) {}
	}
	h.cancel()
	done := h.done
	return func(ctx context.Context) {
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
}

// resumeProbes lets them go on after stopProbes. The caller holds mu.
func (s *shim) resumeProbes() {
	if s.health != nil {
		s.health.held = false
		s.planProbe()
	}
}

// probe executes the health check once, and plans the next time.
func (s *shim) probe() {
	s.mu.Lock()
	h := s.health
	if s.phase != isRunning || h.held || h.cancel != nil {
		s.mu.Unlock()
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel, h.done = cancel, make(chan struct{})
	s.execWork.Add(1)
	s.tellLocked(Event{Kind: EventProbe})
	s.mu.Unlock()

	result, ended := s.execProbe(ctx, h)

	// A container that ends takes its probe along, and is seen to have ended only after that.
	torn := ended != nil && ended.ExitCode == killed && exiting(s.container.Pid())
	s.mu.Lock()
	counts := ctx.Err() == nil && s.phase == isRunning && !torn
	if ended != nil {
		s.tellLocked(Event{Kind: EventProbed, Exec: ended})
	}
	if counts {
		h.state.took(result, h.cfg, s.file.StartedAt)
		s.tellLocked(Event{Kind: EventHealth, Health: &HealthState{h.state.Status, h.state.Streak, []Probe{result}}})
		if h.state.Status == Unhealthy && s.cfg.WakeUnhealthy && len(s.peers) == 0 {
			command, env := s.file.WakeEngine, s.file.Env
			defer s.wakeNow(command, env)
		}
	}
	h.cancel = nil
	close(h.done)
	s.planProbe()
	s.mu.Unlock()
	cancel()
	s.execWork.Done()
	s.tidy()
}

// execProbe executes the health check. ended tells of its process, nil if there was none.
func (s *shim) execProbe(ctx context.Context, h *prober) (result Probe, ended *ExecState) {
	result = Probe{Start: time.Now(), ExitCode: -1}
	defer func() { result.End = time.Now() }()
	ours, theirs, err := pipe(true)
	if err != nil {
		result.Output = err.Error()
		return result, nil
	}
	defer ours.Close()
	// What it takes to start is not the program's time.
	starting, started := context.WithTimeout(ctx, probeStart)
	p, err := s.container.Exec(starting, runtime.ExecConfig{Process: h.process, Stdio: [3]*os.File{nil, theirs, theirs}})
	started()
	theirs.Close()
	if err != nil {
		result.Output = "exec failed: unable to start container process: " + err.Error()
		if errors.Is(err, context.DeadlineExceeded) {
			result.Output = fmt.Sprintf("the probe could not be started within %v", probeStart)
		}
		return result, nil
	}
	defer p.Release()
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		// It leads a session and a process group, of which all die that it has not let go of.
		_ = p.SignalGroup(unix.SIGKILL)
		_ = p.Signal(unix.SIGKILL)
	})
	var exit runtime.Exit
	var tooLong bool
	over := make(chan struct{})
	go func() { // ends with the process
		exit, err = p.Wait()
		tooLong = !stop()
		_ = ours.SetReadDeadline(time.Unix(1, 0)) // what children that it leaves behind write is not waited for
		close(over)
	}()
	text := readProbe(&output{f: ours})
	<-over
	if err != nil {
		exit.Code, exit.At = 255, time.Now()
	}
	ended = &ExecState{Pid: p.Pid(), ExitCode: exit.Code, ExitedAt: exit.At}
	if tooLong {
		result.Output = tooSlow(h.cfg.Timeout, text)
		return result, ended
	}
	result.ExitCode, result.Output = exit.Code, text
	return result, ended
}

func tooSlow(limit time.Duration, text string) string {
	said := fmt.Sprintf("Health check exceeded timeout (%v)", limit)
	if text != "" {
		said += ": " + text
	}
	return said
}

// readProbe reads to the end, and keeps the beginning.
func readProbe(r *output) string {
	var kept []byte
	cut := false
	buf := make([]byte, 512)
	for {
		n, err := r.Read(buf)
		fits := min(n, probeOutput-len(kept))
		kept, cut = append(kept, buf[:fits]...), cut || fits < n
		if err != nil {
			break
		}
	}
	if cut {
		kept = append(kept, "..."...)
	}
	return string(kept)
}

func (s *shim) wakeNow(command, env []string) {
	if err := wake(command, env); err != nil {
		fmt.Fprintln(os.Stderr, "berth-shim:", err)
	}
}

// setPolicy takes effect at once, also for whoever clears up after this shim.
func (s *shim) setPolicy(p Policy) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.Policy = p
	s.file.WakeEngine = p.WakeEngine
	if len(p.WakeEngine) > 0 && s.file.Env == nil {
		s.file.Env = os.Environ()
	}
	if p.Condemned {
		s.stopProbes()
	}
	if s.phase >= ending { // the file goes, or has gone
		return nil
	}
	return s.file.write(s.cfg.RunDir)
}
