package external

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth/kernel"
)

// children starts processes and tells of their end.
type children interface {
	start(path string, argv []string, attr *syscall.ProcAttr) (pid int, ended <-chan unix.WaitStatus, err error)
}

// reaper is the parent of all processes that runtimes start, and of those whose parent
// has ended. It takes the end of every child of this process, known or not.
type reaper struct {
	signals chan os.Signal
	done    chan struct{}

	mu       sync.Mutex // guards all below; held from a fork until the pid is known
	commands map[int]chan<- unix.WaitStatus
	claimed  map[int]*process
	expected int                     // calls under way that may make a process for us
	early    map[int]unix.WaitStatus // ends of processes that were not claimed yet
}

func newReaper() (*reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, os.NewSyscallError("prctl", err)
	}
	r := &reaper{signals: make(chan os.Signal, 1), done: make(chan struct{}), commands: map[int]chan<- unix.WaitStatus{},
		claimed: map[int]*process{}, early: map[int]unix.WaitStatus{}}
	signal.Notify(r.signals, unix.SIGCHLD)
	go func() { // ends with stop
		for {
			select {
			case <-r.signals:
				r.reap()
			case <-r.done:
				return
			}
		}
	}()
	return r, nil
}

func (r *reaper) stop() {
	signal.Stop(r.signals)
	close(r.done)
}

// reap collects all children that have ended.
func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if c, ok := r.commands[pid]; ok {
			delete(r.commands, pid)
			c <- ws // never blocks: there is room for it
		} else if p, ok := r.claimed[pid]; ok {
			delete(r.claimed, pid)
			p.finish(ws)
		} else if r.expected > 0 {
			r.early[pid] = ws
		}
	}
}

func (p *process) finish(ws unix.WaitStatus) {
	p.status, p.at = ws, time.Now()
	close(p.over)
}

func (r *reaper) start(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan unix.WaitStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, err
	}
	c := make(chan unix.WaitStatus, 1)
	r.commands[pid] = c
	return pid, c, nil
}

// expectation keeps the ends of unknown processes until a call has told which is its own.
type expectation struct{ r *reaper }

func (r *reaper) expect() expectation {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expected++
	return expectation{r}
}

func (e expectation) end() {
	e.r.mu.Lock()
	defer e.r.mu.Unlock()
	if e.r.expected--; e.r.expected == 0 {
		clear(e.r.early)
	}
}

// claim makes p the child pid, which has ended perhaps.
func (r *reaper) claim(pid int, p *process) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ws, ok := r.early[pid]; ok {
		delete(r.early, pid)
		p.pid, p.over = pid, make(chan struct{})
		p.finish(ws)
		return nil
	}
	if r.claimed[pid] != nil || r.commands[pid] != nil {
		return errors.New("it is another one's")
	}
	// As long as the lock is held nobody reaps it, so the id cannot change its meaning.
	if parent, err := kernel.Stat(pid, 4); err != nil || parent != uint64(os.Getpid()) {
		return errors.New("it is not a process that the runtime has left to us")
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	p.reaper, p.pid, p.over, p.pidfd = r, pid, make(chan struct{}), os.NewFile(uintptr(fd), "pidfd")
	r.claimed[pid] = p
	return nil
}

// strangers are children of a process that has others, which are none of our business.
type strangers struct{}

func (strangers) start(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan unix.WaitStatus, error) {
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, err
	}
	c := make(chan unix.WaitStatus, 1)
	go func() { // ends with the process, which is killed after a while
		for {
			var ws unix.WaitStatus
			if _, err := unix.Wait4(pid, &ws, 0, nil); err != unix.EINTR {
				c <- ws
				return
			}
		}
	}()
	return pid, c, nil
}
