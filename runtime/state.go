package runtime

import (
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	"berth/kernel/cgroup"
	oci "berth/oci/bundle"
)

// State is what another process needs to find a container again. It is made to be kept
// as JSON.
type State struct {
	ID         string    `json:"id"`
	Bundle     string    `json:"bundle,omitempty"`
	Pid        int       `json:"pid"`
	StartTime  uint64    `json:"startTime"` // clock ticks since boot: tells whether Pid still means it
	Cgroup     string    `json:"cgroup"`
	Namespaces uintptr   `json:"namespaces"` // CLONE_NEW* flags of those it does not share with its creator
	ExecFifo   string    `json:"execFifo,omitempty"`
	Root       string    `json:"root,omitempty"`      // where its root is mounted, if it shares its mount namespace with others
	RootMount  uint64    `json:"rootMount,omitempty"` // and as which mount
	Created    time.Time `json:"created"`
	Spec       *oci.Spec `json:"spec"`
}

// State describes the container for Load.
func (c *Container) State() (State, error) {
	started, err := kernel.StartTime(c.pid)
	if err != nil {
		return State{}, fail.New(fail.NotFound, "process %d has ended", c.pid)
	}
	st := State{ID: c.id, Bundle: c.bundle, Pid: c.pid, StartTime: started, Cgroup: c.groupPath(),
		Namespaces: c.flags, ExecFifo: c.fifo, Created: c.created, Spec: c.spec}
	if c.shared {
		st.Root, st.RootMount = c.at, c.mount
	}
	return st, nil
}

// Load finds a container that another process created. Its processes cannot be waited
// for, everything else works. If the container's first process has ended, Alive says so,
// and what is left to do is Destroy.
func Load(s State) (*Container, error) {
	if s.Spec == nil || s.Spec.Process == nil {
		return nil, fail.New(fail.Invalid, "the state of container %s has no specification", s.ID)
	}
	c := &Container{id: s.ID, bundle: s.Bundle, spec: s.Spec, created: s.Created, fifo: s.ExecFifo, flags: s.Namespaces,
		shared: s.RootMount != 0, at: s.Root, mount: s.RootMount}
	if c.spec.Linux == nil {
		return nil, fail.New(fail.Invalid, "the state of container %s has no Linux specification", s.ID)
	}
	c.filter = sync.OnceValues(c.compileFilter)
	c.rdt = c.rdtMade()
	var err error
	c.group, err = cgroup.Load(s.Cgroup)
	if err != nil && !fail.Is(err, fail.NotFound) {
		return nil, err
	}
	c.pid = s.Pid
	fd, err := kernel.OpenProcess(s.Pid, s.StartTime)
	switch {
	case errors.Is(err, unix.ESRCH):
		return c, nil
	case err != nil:
		return nil, fail.New(fail.Internal, "container %s: %w", s.ID, err)
	}
	c.set(s.Pid, fd)
	c.root, err = os.OpenFile("/proc/"+strconv.Itoa(s.Pid)+"/root", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
		c.Release()
		return nil, fail.New(fail.Internal, "container %s: %w", s.ID, err)
	}
	return c, nil
}

// Alive tells whether the container's first process has not ended.
func (c *Container) Alive() bool {
	pidfd := c.handle()
	if pidfd == nil {
		return false
	}
	alive := false
	if conn, err := pidfd.SyscallConn(); err == nil {
		conn.Control(func(fd uintptr) {
			// A process descriptor is readable once the process is a zombie.
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			alive = err == nil && n == 0
		})
	}
	return alive
}

// Waiting tells whether the container was created and not started yet, for one that
// has an exec fifo: the fifo is removed by Start.
func (c *Container) Waiting() bool {
	if c.fifo == "" || !c.Alive() {
		return false
	}
	_, err := os.Lstat(c.fifo)
	return err == nil
}

// AwaitEnd waits until the container's first process has ended, without reaping it, or
// ctx has.
func (c *Container) AwaitEnd(ctx context.Context) error {
	pidfd := c.handle()
	if pidfd == nil {
		return nil
	}
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		stop()
		pidfd.SetReadDeadline(time.Time{})
	}()
	err = conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n > 0
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// openGate lets a process go that waits on the exec fifo, and returns when it executes
// its program. Whoever removes the fifo is the one who starts the container.
func (c *Container) openGate(ctx context.Context) error {
	f, err := os.OpenFile(c.fifo, os.O_WRONLY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fail.New(fail.Conflict, "container %s was started before", c.id)
	case errors.Is(err, unix.ENXIO): // nobody has it open
		return fail.New(fail.Conflict, "container %s is not running", c.id)
	case err != nil:
		return fail.New(fail.Internal, "exec fifo: %w", err)
	}
	defer f.Close()
	if err := os.Remove(c.fifo); errors.Is(err, os.ErrNotExist) {
		return fail.New(fail.Conflict, "container %s was started before", c.id)
	} else if err != nil {
		return fail.New(fail.Internal, "exec fifo: %w", err)
	}
	if _, err := f.Write([]byte{0}); err != nil {
		return fail.New(fail.Conflict, "container %s is not running", c.id)
	}
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	err = conn.Read(func(fd uintptr) bool {
		// The end for writing is in error when nobody has the other one.
		fds := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(fds, 0)
		return err == nil && n > 0 && fds[0].Revents&unix.POLLERR != 0
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
