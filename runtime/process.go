package runtime

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	"berth/kernel/stage"
)

// Process is one process of a container that the caller started: init, or one made
// by Exec.
type Process struct {
	mu      sync.Mutex // guards pid and pidfd, which change when a child respawns, and gone
	pid     int
	pidfd   *os.File
	gone    bool // reaped: pid is, or may become, somebody else's
	console *os.File
	child   *stage.Child // nil for a process that was started by someone else
	started bool
	// watched: a goroutine reaps the process, and closes pidfd if it is released.
	watched, released bool

	reaping sync.Mutex // held by whoever waits for the process
	reaped  bool
	exit    Exit

	release sync.Once
}

// Exit tells how a process ended.
type Exit struct {
	Code   int // exit status, or 128 + signal
	Signal unix.Signal
	At     time.Time
}

// adopt makes the child's present process this one.
func (p *Process) adopt(child *stage.Child) error {
	fd, err := unix.FcntlInt(uintptr(child.PidFD), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		unix.Kill(child.Pid, unix.SIGKILL)
		unix.Wait4(child.Pid, nil, 0, nil)
		child.Close()
		return fail.New(fail.Internal, "process descriptor: %w", err)
	}
	p.set(child.Pid, fd)
	p.child = child
	return nil
}

// set takes over a process descriptor. With O_NONBLOCK the runtime's poller watches
// it, and nobody who waits costs a thread.
func (p *Process) set(pid, fd int) {
	unix.SetNonblock(fd, true)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd != nil {
		p.pidfd.Close()
	}
	p.pid, p.pidfd = pid, os.NewFile(uintptr(fd), "pidfd")
}

// handle is the process descriptor, nil if the process is known to have ended.
func (p *Process) handle() *os.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pidfd
}

// Pid is the process's pid in the caller's pid namespace.
func (p *Process) Pid() int { return p.pid }

// Console is the master side of the process's terminal, nil without one. The
// Process owns it; it is closed by Release.
func (p *Process) Console() *os.File { return p.console }

// Wait blocks until the process has ended, reaps it and tells how. It may be called
// from one goroutine only. A process that was not started by the caller is class
// Conflict.
func (p *Process) Wait() (Exit, error) {
	if p.child == nil {
		return Exit{}, fail.New(fail.Conflict, "process %d is not a child of this process", p.pid)
	}
	return p.reap()
}

// reap waits for the end of a child, once; later callers get the same answer.
func (p *Process) reap() (Exit, error) {
	p.reaping.Lock()
	defer p.reaping.Unlock()
	if p.reaped {
		return p.exit, nil
	}
	var ws unix.WaitStatus
	err := p.whenEnded(func() (bool, error) {
		p.mu.Lock() // nobody signals the group by its number meanwhile
		defer p.mu.Unlock()
		pid, err := unix.Wait4(p.pid, &ws, unix.WNOHANG, nil)
		p.gone = pid == p.pid
		return p.gone, err
	})
	if err != nil {
		return Exit{}, fail.New(fail.Internal, "wait for process %d: %w", p.pid, err)
	}
	p.exit = Exit{Code: ws.ExitStatus(), At: time.Now()}
	if ws.Signaled() {
		p.exit.Signal = ws.Signal()
		p.exit.Code = 128 + int(ws.Signal())
	}
	p.reaped = true
	return p.exit, nil
}

// whenEnded calls ended whenever the process may have, until it says yes.
func (p *Process) whenEnded(ended func() (bool, error)) error {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = conn.Read(func(uintptr) bool {
		for {
			done, err := ended()
			if err == unix.EINTR {
				continue
			}
			inner = err
			return done || err != nil
		}
	})
	if err != nil && inner == nil && !errors.Is(err, os.ErrClosed) {
		// The poller does not take process descriptors here: wait for readiness ourselves.
		for {
			if done, err := ended(); done || err != nil && err != unix.EINTR {
				return err
			}
			unix.Poll([]unix.PollFd{{Fd: int32(p.pidfd.Fd()), Events: unix.POLLIN}}, -1)
		}
	}
	if inner != nil {
		return inner
	}
	return err
}

// Signal sends sig to the process alone. A process that has ended gives class
// NotFound.
func (p *Process) Signal(sig unix.Signal) error {
	pidfd := p.handle()
	if pidfd == nil {
		return fail.New(fail.NotFound, "process %d has ended", p.pid)
	}
	return kernel.Signal(pidfd, p.pid, sig)
}

// SignalGroup sends sig to the process group that the process leads. Once the leader is
// reaped the answer is class NotFound, although others of the group may live: the group's
// number may then be another's.
func (p *Process) SignalGroup(sig unix.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone || p.child == nil {
		return fail.New(fail.NotFound, "process %d has ended", p.pid)
	}
	return kernel.SignalGroup(p.pid, sig)
}

// Release closes what the caller holds of the process. A process made by Exec that has
// not ended is still reaped when it does.
func (p *Process) Release() {
	p.release.Do(func() {
		if p.child != nil {
			p.child.Close()
		}
		if p.console != nil {
			p.console.Close()
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.released = true
		if p.pidfd != nil && !p.watched {
			p.pidfd.Close()
		}
	})
}

// watch reaps the process as soon as it ends, whether or not someone waits for it: a
// pid namespace does not end before every process in it has been reaped, also those
// whose parent is outside.
func (p *Process) watch() {
	p.watched = true
	go func() {
		p.reap()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.watched = false
		if p.released {
			p.pidfd.Close()
		}
	}()
}

// kill ends the process and reaps it if it is ours to reap.
func (p *Process) kill() {
	p.Signal(unix.SIGKILL)
	if p.child != nil {
		p.reap()
	}
}
