package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	"berth/kernel/cgroup"
)

// LauncherConfig configures the engine's side.
type LauncherConfig struct {
	ShimPath string // the berth-shim binary
	Warm     int    // shims kept started and waiting
	Cgroup   string // group that shims are started in, kernel/cgroup's leaf; empty: the engine's
	Log      *slog.Logger
}

// Launcher makes shims.
type Launcher struct {
	cfg  LauncherConfig
	null *os.File
	want chan struct{} // gets a value when a warm shim was used
	end  chan struct{}
	done sync.WaitGroup

	ungrouped sync.Once // told that shims cannot have a group of their own

	mu     sync.Mutex // guards all below
	warm   []*spare
	closed bool
}

// spare is a shim that has no container yet.
type spare struct {
	pid  int
	conn *net.UnixConn
}

// NewLauncher starts keeping warm shims. Close ends those that were not used.
func NewLauncher(cfg LauncherConfig) (*Launcher, error) {
	if info, err := os.Stat(cfg.ShimPath); err != nil {
		return nil, fmt.Errorf("shim: %w", err)
	} else if info.IsDir() || info.Mode()&0o111 == 0 {
		return nil, fail.New(fail.Invalid, "shim: %s is not a program", cfg.ShimPath)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	l := &Launcher{cfg: cfg, null: null, want: make(chan struct{}, 1), end: make(chan struct{})}
	l.done.Go(l.keepWarm) // ends with Close
	l.wanted()
	return l, nil
}

// Close ends the shims that wait. Those with a container live on.
func (l *Launcher) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	warm := l.warm
	l.warm = nil
	l.mu.Unlock()
	close(l.end)
	for _, s := range warm {
		s.conn.Close()
	}
	l.done.Wait()
	return l.null.Close()
}

func (l *Launcher) wanted() {
	select {
	case l.want <- struct{}{}:
	default:
	}
}

// refillPause keeps the start of the next shim out of the way of the container that the
// last one is just starting.
const refillPause = 8 * time.Millisecond

// keepWarm starts shims until enough wait.
func (l *Launcher) keepWarm() {
	for {
		select {
		case <-l.want:
		case <-l.end:
			return
		}
		for {
			l.mu.Lock()
			left := len(l.warm)
			enough := l.closed || left >= l.cfg.Warm
			l.mu.Unlock()
			if enough {
				break
			}
			if left > 0 {
				select {
				case <-time.After(refillPause):
				case <-l.end:
					return
				}
			}
			s, err := l.spawn()
			if err != nil {
				l.cfg.Log.Error("a shim could not be started", "error", err)
				break // the next container tries again
			}
			l.mu.Lock()
			if l.closed {
				s.conn.Close()
			} else {
				l.warm = append(l.warm, s)
			}
			l.mu.Unlock()
		}
	}
}

// take returns a waiting shim, or a new one.
func (l *Launcher) take() (*spare, error) {
	l.mu.Lock()
	if n := len(l.warm); n > 0 {
		s := l.warm[0]
		l.warm = append([]*spare(nil), l.warm[1:]...)
		l.mu.Unlock()
		return s, nil
	}
	closed := l.closed
	l.mu.Unlock()
	if closed {
		return nil, fail.New(fail.Unavailable, "the engine is shutting down")
	}
	return l.spawn()
}

// spawn starts a shim in a session of its own, with nothing of ours but one end of a
// socket pair.
func (l *Launcher) spawn() (*spare, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "shim"), os.NewFile(uintptr(fds[1]), "shim")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, err
	}
	program, err := kernel.ProtectedProgram(l.cfg.ShimPath)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("start a shim: %w", err)
	}
	defer program.Close()
	p, err := l.startInGroup(kernel.ExecPath(program), []string{"berth-shim"}, &os.ProcAttr{
		Dir:   "/",
		Env:   append(os.Environ(), shimEnv...),
		Files: []*os.File{l.null, l.null, l.null, theirs},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("start a shim: %w", err)
	}
	s := &spare{pid: p.Pid, conn: conn.(*net.UnixConn)}
	go func() { // ends with the process, or with us
		state, err := p.Wait()
		l.forget(s)
		if err == nil && !state.Success() {
			l.cfg.Log.Warn("a shim ended abnormally", "pid", s.pid, "state", state.String())
		}
	}()
	return s, nil
}

// startInGroup starts a process in the group that shims have. Where that cannot be, it is started
// in ours: such a shim works, but does not outlive what ends our whole group.
func (l *Launcher) startInGroup(path string, argv []string, attr *os.ProcAttr) (*os.Process, error) {
	if l.cfg.Cgroup == "" {
		return os.StartProcess(path, argv, attr)
	}
	leaf, err := cgroup.OpenLeaf(l.cfg.Cgroup)
	if err == nil {
		defer leaf.Close()
		within := *attr.Sys
		within.UseCgroupFD, within.CgroupFD = true, int(leaf.Fd())
		born := *attr
		born.Sys = &within
		var p *os.Process
		if p, err = os.StartProcess(path, argv, &born); err == nil {
			return p, nil
		}
	}
	p, startErr := os.StartProcess(path, argv, attr)
	if startErr != nil {
		return nil, startErr
	}
	if cgroup.EnterLeaf(l.cfg.Cgroup, p.Pid) != nil {
		l.ungrouped.Do(func() {
			l.cfg.Log.Warn("shims stay in the engine's control group", "group", l.cfg.Cgroup, "error", err)
		})
	}
	return p, nil
}

// forget drops a waiting shim that died.
func (l *Launcher) forget(dead *spare) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, s := range l.warm {
		if s == dead {
			s.conn.Close()
			l.warm = append(l.warm[:i:i], l.warm[i+1:]...)
			l.wanted()
			return
		}
	}
}

// Create hands cfg to a shim, which builds the container up to the point of executing
// its process, and joins the attachments to its streams so that nothing it writes is
// missed. On failure the shim is gone and nothing is left behind; error classes are
// those of runtime.Create.
func (l *Launcher) Create(ctx context.Context, cfg Config, attach []Attachment) (*Shim, error) {
	req := createRequest{Config: toWireConfig(cfg)}
	var files []int
	var given []handover
	giveUp := func(err error) (*Shim, error) {
		closeFiles(files)
		for i, h := range given {
			h.undo()
			attach[i].Conn.Close()
		}
		for _, a := range attach[len(given):] {
			a.Conn.Close()
		}
		return nil, err
	}
	if len(attach) > maxFiles {
		return giveUp(fail.New(fail.Invalid, "more than %d clients wait for one container", maxFiles))
	}
	for _, a := range attach {
		if _, err := parseDetachKeys(a.DetachKeys); err != nil {
			return giveUp(err)
		}
		h, err := handOver(a.Conn)
		if err != nil {
			return giveUp(fmt.Errorf("hand a client's connection over: %w", err))
		}
		given, files = append(given, h), append(files, h.fd)
		req.Attach = append(req.Attach, a.AttachOptions)
	}
	shim, err := l.take()
	if err != nil {
		return giveUp(err)
	}
	s := connect(newWire(shim.conn), cfg.RunDir, shim.pid)
	sent := files
	files = nil
	var made helloReply
	err = s.call(ctx, opCreate, req, sent, &made)
	l.wanted()
	if err != nil {
		// The shim takes back what it made, and ends; the connection is what tells it to,
		// if it was us who gave up.
		s.Close()
		return giveUp(err)
	}
	for _, h := range given {
		h.done()
	}
	s.mu.Lock()
	s.ports = made.Ports
	s.mu.Unlock()
	return s, nil
}
