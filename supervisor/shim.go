package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
	"berth/kernel"
	"berth/logs"
	oci "berth/oci/bundle"
	"berth/runtime"
)

// phase of a shim's container; it only grows.
type phase int

const (
	creating phase = iota
	isCreated
	starting
	isRunning
	ending
	isOver
)

// shim is the supervisor of one container.
type shim struct {
	cfg      *Config
	guard    *guardian
	binding  *net.UnixListener
	log      *logs.Writer
	streams  *streams
	over     chan struct{} // closed when the shim may end
	begun    chan struct{} // closed when it is known whether the start succeeded
	tookExit chan struct{} // closed when an engine has dealt with the exit
	held     chan struct{} // closed when an engine wants to keep the shim after the exit
	alone    chan struct{} // gets a value when the last engine has left
	execWork sync.WaitGroup
	calm     *time.Timer // runs settle
	net      network
	ended    atomic.Uint32 // execs and probes so far
	ownPids  bool          // the container has a pid namespace of its own

	mu        sync.Mutex // guards all below
	phase     phase
	peers     map[*peer]struct{}
	container container
	file      runState
	paused    bool
	oomKills  uint64 // as many were told
	execs     map[string]*execution
	health    *prober // nil without a health check, and before start
	exit      *ExitRecord
}

func newShim(cfg *Config, guard *guardian) *shim {
	return &shim{cfg: cfg, guard: guard, over: make(chan struct{}), begun: make(chan struct{}), tookExit: make(chan struct{}),
		held: make(chan struct{}), alone: make(chan struct{}, 1), calm: time.AfterFunc(settleAfter, settle), peers: map[*peer]struct{}{}, execs: map[string]*execution{}}
}

// create makes the container. After an error nothing of it is left.
func (s *shim) create(ctx context.Context, attach []AttachOptions, files []int) (err error) {
	cfg := s.cfg
	defer func() {
		closeFiles(files)
		if err != nil {
			s.teardown()
		}
	}()
	if cfg.Spec == nil || cfg.Spec.Process == nil {
		return fail.New(fail.Invalid, "the container has no process")
	}
	if err := os.MkdirAll(cfg.RunDir, 0o700); err != nil {
		return fmt.Errorf("run directory: %w", err)
	}
	s.watchCrash()
	s.file = runState{Version: ProtocolVersion, ID: cfg.ID, Dir: cfg.Dir, ShimPid: os.Getpid(),
		ShimBirth: birth(os.Getpid()), Volatile: cfg.Volatile, WakeEngine: cfg.WakeEngine, Runtime: cfg.Runtime}
	if linux := cfg.Spec.Linux; linux != nil {
		if s.file.Cgroup = linux.CgroupsPath; s.file.Cgroup == "" {
			s.file.Cgroup = "/berth/" + cfg.ID // as the runtime has it
		}
		for _, ns := range linux.Namespaces {
			s.ownPids = s.ownPids || ns.Type == specs.PIDNamespace && ns.Path == ""
		}
	}
	if len(cfg.WakeEngine) > 0 {
		s.file.Env = os.Environ()
	}
	if err := s.file.write(cfg.RunDir); err != nil {
		return err
	}
	if err := s.guard.assign(cfg.RunDir); err != nil {
		return err
	}
	durable.Failpoint("shim.create.guarded")
	if cfg.LogPath != "" || cfg.Log.Remote != nil {
		if s.log, err = logs.Open(ctx, cfg.LogPath, cfg.Log); err != nil {
			return fmt.Errorf("failed to initialize logging driver: %w", err)
		}
	}
	tty := cfg.Spec.Process.Terminal
	s.streams = newStreams(tty, cfg.StdinOnce, s.log, func() { s.tell(Event{Kind: EventDetach}) })
	var stdio [3]*os.File
	if !tty {
		if stdio, err = s.streams.pipes(cfg.OpenStdin); err != nil {
			return err
		}
	}
	resolver, err := s.publish()
	if err != nil {
		closeAll(stdio)
		return err
	}
	c, err := createContainer(ctx, cfg, stdio)
	closeAll(stdio)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.container = c
	s.mu.Unlock()
	if tty {
		if err := s.streams.terminal(c.Console()); err != nil {
			return err
		}
	}
	if err := resolver(c.Pid()); err != nil {
		return err
	}
	durable.Failpoint("shim.create.made")
	s.file.Pid, s.file.PidBirth = c.Pid(), birth(c.Pid())
	if err := s.file.write(cfg.RunDir); err != nil {
		return err
	}
	if err := s.listen(); err != nil {
		return err
	}
	s.streams.run()
	for i, opts := range attach {
		fd := files[0]
		files = files[1:]
		if err := s.streams.attach(fd, opts); err != nil {
			return fmt.Errorf("attach client %d: %w", i, err)
		}
	}
	return ctx.Err()
}

// prepare settles what only the container's own files can tell.
func prepare(p *oci.Process, root *os.File, user string, groups []string) error {
	if root == nil {
		return nil // it lives in another container's mounts, whose engine knows the user
	}
	u, home, err := runtime.ResolveUser(root, user, groups)
	if err != nil {
		return err
	}
	u.Umask = p.User.Umask
	p.User = u
	for _, e := range p.Env {
		if strings.HasPrefix(e, "HOME=") {
			return nil
		}
	}
	p.Env = append(p.Env, "HOME="+home)
	return nil
}

// listen opens shim.sock. Its path may be longer than the 108 bytes of a socket's
// address, so it is reached by its directory's descriptor.
func (s *shim) listen() error {
	path := filepath.Join(s.cfg.RunDir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir, err := os.Open(s.cfg.RunDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	mask := syscall.Umask(0o177)
	l, err := net.ListenUnix("unix", socketAddr(dir))
	syscall.Umask(mask)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	s.binding = l
	return nil
}

func socketAddr(dir *os.File) *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + socketName}
}

func (s *shim) accept() {
	for {
		conn, err := s.binding.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			go s.join(newWire(conn)).serve() // ends with the connection
		}
	}
}

// watchCrash keeps what a panic says.
func (s *shim) watchCrash() {
	f, err := os.OpenFile(filepath.Join(s.cfg.RunDir, crashName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	defer f.Close() // SetCrashOutput keeps a descriptor of its own
	_ = debug.SetCrashOutput(f, debug.CrashOptions{})
}

// created answers the create request, and lets engines come.
func (s *shim) created(p *peer, id uint64) {
	s.mu.Lock()
	if s.phase == creating {
		s.phase = isCreated
	}
	s.mu.Unlock()
	_ = p.send(frame{ID: id}, s.hello(), nil)
	go s.accept() // ends when the socket is closed
	s.abandoned()
}

func (s *shim) hello() helloReply {
	return helloReply{Version: ProtocolVersion, ID: s.cfg.ID, ShimPid: os.Getpid(), Ports: s.net.ports.Bound()}
}

// left is called when an engine's connection has ended.
func (s *shim) left(p *peer) {
	s.mu.Lock()
	delete(s.peers, p)
	last := len(s.peers) == 0
	s.mu.Unlock()
	if last {
		select {
		case s.alone <- struct{}{}:
		default:
		}
		s.abandoned()
	}
}

// abandoned ends a container that was never started when no engine is there to start it.
func (s *shim) abandoned() {
	s.mu.Lock()
	if s.phase != isCreated || len(s.peers) > 0 {
		s.mu.Unlock()
		return
	}
	s.phase = ending
	s.mu.Unlock()
	s.teardown()
	close(s.over)
}

// teardown takes back all that create and a failed start made.
func (s *shim) teardown() {
	s.mu.Lock()
	c := s.container
	s.phase = ending
	s.mu.Unlock()
	s.net.close()
	if c != nil {
		s.destroyContainer(c)
	}
	if s.streams != nil {
		s.streams.drain()
		s.streams.end()
	}
	if s.log != nil {
		_ = s.log.Close()
	}
	s.hide()
}

// destroyContainer removes what the kernel has of the container. The bound is for a
// process that cannot die, in the uninterruptible sleep of a broken device.
func (s *shim) destroyContainer(c container) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.Destroy(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "berth-shim: destroy container:", err)
	}
}

// hide makes the shim invisible: what it had to say is in the exit record.
func (s *shim) hide() {
	if s.binding != nil {
		s.binding.Close()
	}
	s.guard.dismiss()
	_ = debug.SetCrashOutput(nil, debug.CrashOptions{})
	clearRunDir(s.cfg.RunDir)
}

// settleAfter is how long after its making a container counts as a long-lived one.
const settleAfter = time.Second

// settle bounds the garbage of a long life to a heap of 2 MiB. It collects nothing by
// itself: the collector's own tables take some 400 KiB from its first run on, and most
// shims never need one.
func settle() { debug.SetGCPercent(50) }

// tidyAfter is how many processes, of execs and probes, leave behind what is worth a
// collection: half a megabyte.
const tidyAfter = 32

// tidy is called after each of them.
func (s *shim) tidy() {
	if s.ended.Add(1)%tidyAfter == 0 {
		debug.FreeOSMemory()
	}
}

// run waits for the end.
func (s *shim) run() error {
	defer s.calm.Stop()
	<-s.over
	s.mu.Lock()
	var peers []*peer
	for p := range s.peers {
		peers = append(peers, p)
	}
	s.mu.Unlock()
	for _, p := range peers {
		p.drained()
	}
	return nil
}

// start lets the process execute.
func (s *shim) start(ctx context.Context, _ *request) (answer, error) {
	s.mu.Lock()
	if s.phase != isCreated {
		s.mu.Unlock()
		return answer{}, fail.New(fail.Conflict, "the container has been started before")
	}
	s.phase = starting
	s.mu.Unlock()
	defer close(s.begun)
	durable.Failpoint("shim.start.begun")
	if err := s.container.Start(ctx); err != nil {
		s.teardown()
		return answer{after: func() { close(s.over) }}, err
	}
	at := time.Now()
	pid := s.container.Pid()
	s.mu.Lock()
	s.phase = isRunning
	s.file.Started, s.file.StartedAt = true, at
	state := s.file
	if s.cfg.Health != nil {
		s.health = newProber(s.cfg.Health, s.cfg.Spec.Process)
		s.planProbe()
	}
	s.cfg.Spec = nil // large, and needed no more
	s.mu.Unlock()
	if err := state.write(s.cfg.RunDir); err != nil {
		fmt.Fprintln(os.Stderr, "berth-shim:", err) // a lost shim's record will lack the start time
	}
	durable.Failpoint("shim.start.done")
	return answer{body: startReply{Pid: pid, At: at}, after: func() {
		watching, stop := context.WithCancel(context.Background())
		go s.wait(stop)         // ends with the container
		go s.watchOOM(watching) // ends with wait
	}}, nil
}

// alive returns the container if it is made and not at its end.
func (s *shim) alive() (container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase < isCreated || s.phase >= ending {
		return nil, fail.New(fail.NotFound, "container %s is not running", s.cfg.ID)
	}
	return s.container, nil
}

func (s *shim) signal(ctx context.Context, req signalRequest) error {
	c, err := s.alive()
	if err != nil {
		return err
	}
	switch {
	case req.ExecID != "":
		e, err := s.execution(req.ExecID)
		if err != nil {
			return err
		}
		return e.process.Signal(req.Signal)
	case req.All:
		return c.SignalAll(ctx, req.Signal)
	}
	return c.Signal(ctx, req.Signal)
}

func (s *shim) resize(req resizeRequest) error {
	if req.ExecID == "" {
		if _, err := s.alive(); err != nil {
			return err
		}
		return s.streams.resize(req.Rows, req.Cols)
	}
	e, err := s.execution(req.ExecID)
	if err != nil {
		return err
	}
	return e.streams.resize(req.Rows, req.Cols)
}

func (s *shim) attach(_ context.Context, r *request) (answer, error) {
	var opts AttachOptions
	if err := r.decode(&opts); err != nil {
		return answer{}, err
	}
	if _, err := s.alive(); err != nil {
		return answer{}, err
	}
	fd, err := r.file()
	if err != nil {
		return answer{}, err
	}
	return answer{}, s.streams.attach(fd, opts)
}

func (s *shim) freeze(ctx context.Context, on bool) error {
	c, err := s.alive()
	if err != nil {
		return err
	}
	do := c.Resume
	if on {
		do = c.Pause
		s.mu.Lock()
		stopped := s.stopProbes() // one that is frozen could not be ended
		s.mu.Unlock()
		stopped(ctx)
	}
	err = do(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.paused = on
	}
	if !on || err != nil {
		s.resumeProbes()
	}
	return err
}

// startSettled waits for the outcome of a start that is under way.
func (s *shim) startSettled(ctx context.Context) {
	s.mu.Lock()
	settled := s.phase != starting
	s.mu.Unlock()
	if settled {
		return
	}
	select {
	case <-s.begun:
	case <-ctx.Done():
	}
}

func (s *shim) destroy(ctx context.Context, _ *request) (answer, error) {
	s.mu.Lock()
	switch {
	case s.phase == isCreated:
	case s.phase >= ending && !s.file.Started: // somebody was faster
		s.mu.Unlock()
		select {
		case <-s.over:
		case <-ctx.Done():
			return answer{}, ctx.Err()
		}
		return answer{}, fail.New(fail.NotFound, "container %s is gone", s.cfg.ID)
	default:
		s.mu.Unlock()
		return answer{}, fail.New(fail.Conflict, "container %s has been started: signal it instead", s.cfg.ID)
	}
	s.phase = ending
	s.mu.Unlock()
	s.teardown()
	return answer{after: func() { close(s.over) }}, nil
}

// state is a snapshot. The caller holds mu.
func (s *shim) state() State {
	// A container that has ended runs until its exit is recorded: an engine that came
	// in between would take it for one that was never started.
	running := s.exit == nil && (s.phase == isRunning || s.phase >= ending && s.file.Started)
	st := State{Version: ProtocolVersion, ID: s.cfg.ID, ShimPid: os.Getpid(), Running: running,
		Paused: s.paused, StartedAt: s.file.StartedAt, OOMKilled: s.oomKills > 0, Health: s.healthNow(), Exit: s.exit}
	if st.Running {
		st.Pid = s.file.Pid
		if n, err := s.container.OOMKills(); err == nil && n > 0 {
			st.OOMKilled = true
		}
	}
	for id, e := range s.execs {
		if e == nil {
			continue // about to be started
		}
		if st.Execs == nil {
			st.Execs = map[string]ExecState{}
		}
		st.Execs[id] = e.state
	}
	return st
}

// tell sends an event to every engine that is connected.
func (s *shim) tell(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tellLocked(e)
}

func (s *shim) tellLocked(e Event) {
	for p := range s.peers {
		_ = p.send(frame{Op: opEvent}, e, nil)
	}
}

// birth is the start time of a process, in clock ticks since boot; 0 if there is none.
func birth(pid int) uint64 {
	at, _ := kernel.StartTime(pid)
	return at
}

// exiting reports whether a process is about to end, or has.
func exiting(pid int) bool {
	const exiting = 0x4 // PF_EXITING of linux/sched.h
	flags, err := kernel.Stat(pid, 9)
	return err != nil || flags&exiting != 0
}

// killed is the exit status of a process that SIGKILL ended.
const killed = 128 + int(unix.SIGKILL)
