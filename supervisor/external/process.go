package external

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	"berth/runtime"
)

// Process is one process that a runtime made and left to us.
type Process struct{ process }

type process struct {
	reaper  *reaper // who takes its end
	pid     int
	pidfd   *os.File
	console *os.File
	over    chan struct{} // closed when it was reaped
	status  unix.WaitStatus
	at      time.Time
	release sync.Once
}

// adopt takes over the process whose id the runtime has written to file.
func (p *process) adopt(rt Runtime, r *reaper, file string) error {
	text, err := os.ReadFile(file)
	if err != nil { // the kernel's words would be taken for some about the container's program
		return fail.New(fail.Internal, "%s says that it has made a process, and has not written its id", rt.title())
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return fail.New(fail.Internal, "%s gives %q as a process id", rt.title(), excerpt(string(text)))
	}
	if err := r.claim(pid, p); err != nil {
		return fail.New(fail.Internal, "%s gives process %d as the container's: %w", rt.title(), pid, err)
	}
	return nil
}

// Pid is the process's pid.
func (p *process) Pid() int { return p.pid }

// Console is the master side of the process's terminal, nil without one. The process owns
// it; it is closed by Release.
func (p *process) Console() *os.File { return p.console }

// Wait blocks until the process has ended and tells how.
func (p *process) Wait() (runtime.Exit, error) {
	<-p.over
	exit := runtime.Exit{Code: p.status.ExitStatus(), At: p.at}
	if p.status.Signaled() {
		exit.Signal = p.status.Signal()
		exit.Code = 128 + int(exit.Signal)
	}
	return exit, nil
}

func (p *process) ended() bool {
	if p.over == nil {
		return true
	}
	select {
	case <-p.over:
		return true
	default:
		return false
	}
}

// Signal sends sig to the process alone. A process that has ended gives class NotFound.
func (p *process) Signal(sig unix.Signal) error {
	if p.pidfd == nil || p.ended() {
		return fail.New(fail.NotFound, "process %d has ended", p.pid)
	}
	return kernel.Signal(p.pidfd, p.pid, sig)
}

// SignalGroup sends sig to the process group that the process leads; see
// runtime.Process.SignalGroup.
func (p *process) SignalGroup(sig unix.Signal) error {
	if p.reaper == nil {
		return fail.New(fail.NotFound, "process %d has ended", p.pid)
	}
	p.reaper.mu.Lock() // nobody is reaped meanwhile
	defer p.reaper.mu.Unlock()
	if p.ended() {
		return fail.New(fail.NotFound, "process %d has ended", p.pid)
	}
	return kernel.SignalGroup(p.pid, sig)
}

// Release closes what is held of the process.
func (p *process) Release() {
	p.release.Do(func() {
		if p.pidfd != nil {
			p.pidfd.Close()
		}
		if p.console != nil {
			p.console.Close()
		}
	})
}
