package runtime

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel/stage"
	oci "berth/oci/bundle"
)

// ExecConfig is a further process for a running container. Process.User is numeric;
// names are resolved by ResolveUser.
type ExecConfig struct {
	Process *oci.Process
	Stdio   [3]*os.File // as in Config
	Extra   []*os.File
	// Leave says that the caller will exit and leave the process to whoever adopts it (runc's
	// exec --detach): its end is not collected in the background, only by Wait.
	Leave bool
	// Groups are existing groups below the container's own to run in, by controller; that of
	// "" is for all controllers that are not named (runc's exec --cgroup).
	Groups map[string]string
}

// Exec starts a further process in the container's namespaces, cgroup and
// confinement. Errors of the program itself are classed as in Start. A process without
// capability sets of its own gets those of the container.
func (c *Container) Exec(ctx context.Context, cfg ExecConfig) (_ *Process, err error) {
	proc := cfg.Process
	if proc == nil {
		return nil, fail.New(fail.Invalid, "there is no process to execute")
	}
	if err := validateProcess(proc); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	notRunning := fail.New(fail.Conflict, "container %s is not running", c.id)
	if !c.Alive() {
		return nil, notRunning
	}
	if proc.Capabilities == nil {
		with := *proc
		with.Capabilities = c.spec.Process.Capabilities
		proc = &with
	}
	if proc.ExecCPUAffinity == nil && c.spec.Process.ExecCPUAffinity != nil {
		with := *proc
		with.ExecCPUAffinity = c.spec.Process.ExecCPUAffinity
		proc = &with
	}
	b, child, err := c.launch(ctx, &cfg, proc)
	if err != nil {
		return nil, err
	}
	p := new(Process)
	if err := p.adopt(child); err != nil {
		return nil, err
	}
	if err := p.enter(ctx, b, proc); err != nil {
		p.kill()
		p.Release()
		if !c.Alive() && ctx.Err() == nil { // it ended meanwhile
			return nil, notRunning
		}
		return nil, err
	}
	if !cfg.Leave {
		p.watch()
	}
	return p, nil
}

// launch starts a process that enters the container.
func (c *Container) launch(ctx context.Context, cfg *ExecConfig, proc *oci.Process) (*builder, *stage.Child, error) {
	const tries = 10
	for n := 1; ; n++ {
		b := newBuilder(c.spec, c.bundle)
		b.ns = &namespaces{}
		b.userns = c.flags&unix.CLONE_NEWUSER != 0
		b.passListener = func(pid int, f *os.File) error { return c.passListener(ctx, pid, specs.StateRunning, f) }
		child, err := b.start(c, cfg, proc)
		b.release()
		if err == nil {
			return b, child, nil
		}
		// On cgroup v2 a container that arranges its own groups, an engine that starts in it for
		// example, may have made its group one that takes no processes after that was looked at.
		if !errors.Is(err, unix.EBUSY) || n == tries {
			return nil, nil, err
		}
	}
}

func (b *builder) start(c *Container, cfg *ExecConfig, proc *oci.Process) (child *stage.Child, err error) {
	if b.labels, err = labelsOf(proc); err != nil {
		return nil, err
	}
	opt, err := b.compileExec(c, cfg, proc)
	if err != nil {
		return nil, err
	}
	if child, err = stage.Start(b.p, opt); err != nil {
		return nil, fail.New(fail.Internal, "start a process: %w", err)
	}
	return child, nil
}

// compileExec compiles the life of a process that enters a container.
func (b *builder) compileExec(c *Container, cfg *ExecConfig, proc *oci.Process) (stage.Options, error) {
	p := b.p
	opt := stage.Options{FirstFree: firstFree(cfg.Extra)}
	stdio, err := b.openStreams(cfg.Stdio, proc.Terminal)
	if err != nil {
		return opt, err
	}
	if b.scheduling, err = schedulingOf(proc); err != nil {
		return opt, err
	}
	filter, err := c.filter()
	if err != nil {
		return opt, err
	}
	group := c.group
	if len(cfg.Groups) > 0 {
		if group == nil {
			return opt, fail.New(fail.Invalid, "container %s has no control group", c.id)
		}
		if group, err = group.Below(cfg.Groups); err != nil {
			return opt, err
		}
	}
	if group != nil && len(cfg.Groups) == 0 {
		group = group.Open(c.pid)
	}
	p.DefaultSignals()
	b.openProc(opt.FirstFree)
	// The usual process is copied once, by the one that joins the namespaces in our memory. That
	// one may not block, as it would in a frozen cgroup: so joining the group is left to the copy.
	handsOver := c.flags&unix.CLONE_NEWPID != 0 && c.flags&(unix.CLONE_NEWUSER|unix.CLONE_NEWTIME) == 0 &&
		b.initial == nil && (group == nil || !group.Unified())
	b.awaited = b.fromOutside() || proc.OOMScoreAdj != nil && !handsOver
	if handsOver {
		b.scoreItself(proc.OOMScoreAdj)
	} else {
		b.initialAffinity()
		if opt.Cgroup, err = b.joinGroup(group, b.initial == nil); err != nil {
			return opt, err
		}
		b.finalAffinity(b.final)
	}
	if !handsOver { // whose memory is still ours
		b.hide()
	}
	b.joinAll(c)
	switch {
	case handsOver:
		p.About("fork into the pid namespace", "")
		p.HandOver()
		if _, err = b.joinGroup(group, false); err != nil {
			return opt, err
		}
		b.finalAffinity(b.final)
	case c.flags&unix.CLONE_NEWPID != 0:
		p.About("fork into the pid namespace", "")
		p.Respawn()
	}
	if b.userns {
		b.becomeRoot()
	}
	p.About("start a session", "")
	p.Call(unix.SYS_SETSID).Ignore(unix.EPERM)
	b.hide()
	b.newKeyring(c.id, "")
	p.Call(unix.SYS_UMASK, stage.Int(0))
	if c.shared {
		p.About("enter the root file system", "")
		p.Call(unix.SYS_FCHDIR, p.File(c.root))
		p.Call(unix.SYS_CHROOT, p.Str("."))
	}
	root := p.Slot()
	p.About("open the root directory", "")
	p.Call(unix.SYS_OPENAT, stage.Int(unix.AT_FDCWD), p.Str("/"), stage.Int(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)).Into(root)
	b.root = root.Arg()
	slave := stage.Slot(-1)
	if proc.Terminal {
		slave = b.console(proc.User.UID)
	}
	sets, dropped := capabilities(proc.Capabilities, b.userns)
	b.warnDropped(dropped)
	return opt, b.confine(&confinement{process: proc, caps: sets, filter: filter, stdio: stdio, extra: cfg.Extra, slave: slave}, func() {
		p.Notify(atReady)
		if b.awaited {
			p.Await()
		}
	})
}

// joinAll joins all namespaces that the container does not share with its creator.
func (b *builder) joinAll(c *Container) {
	if c.flags == 0 {
		return
	}
	b.p.About("join the container's namespaces", "")
	b.p.Call(unix.SYS_SETNS, b.p.File(c.handle()), stage.Int(int(c.flags)))
}

// scoreItself lets the child set its own score for the OOM killer while it sees the host's
// /proc. Lowering it may be refused; then the present value is kept.
func (b *builder) scoreItself(adj *int) {
	if adj == nil {
		return
	}
	p := b.p
	p.About("set oom_score_adj to", strconv.Itoa(*adj))
	f, end := p.Slot(), p.NewLabel()
	text := strconv.Itoa(*adj)
	p.Call(unix.SYS_OPENAT, stage.Int(unix.AT_FDCWD), p.Str("/proc/self/oom_score_adj"), stage.Int(unix.O_WRONLY|unix.O_CLOEXEC)).
		Into(f).On(unix.EACCES, end).On(unix.EPERM, end)
	p.Call(unix.SYS_WRITE, f.Arg(), p.Str(text), stage.Int(len(text))).Ignore(unix.EACCES, unix.EPERM)
	b.close(f)
	p.Here(end)
}

// enter answers the child until its program runs.
func (p *Process) enter(ctx context.Context, b *builder, proc *oci.Process) error {
	stop := context.AfterFunc(ctx, func() { p.Signal(unix.SIGKILL) })
	defer stop()
	ready := false
	for {
		m, err := p.child.Receive()
		if err == io.EOF && ready { // it did not wait for us
			p.started = true
			p.child.Close()
			return nil
		}
		if err == io.EOF {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fail.New(fail.Conflict, "the process ended before it could execute its program")
		}
		if err != nil {
			return failed(err, proc)
		}
		switch {
		case m.Kind == stage.Respawned:
			if err := p.adopt(p.child); err != nil {
				return err
			}
		case m.Kind == stage.File && m.Value == sentConsole:
			p.console = m.File
			if err := setSize(p.console, proc.ConsoleSize); err != nil {
				return err
			}
		case m.Kind == stage.File && m.Value == sentListener:
			if err := b.passListener(p.pid, m.File); err != nil {
				return err
			}
		case m.Value == atReady && !b.awaited:
			ready = true
		case m.Value == atReady:
			if adj := proc.OOMScoreAdj; adj != nil {
				if err := p.setOOMScore(*adj, b); err != nil {
					return err
				}
			}
			if err := p.schedule(b.scheduling); err != nil {
				return err
			}
			return p.execute(ctx, proc)
		}
	}
}
