package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel/cgroup"
	"berth/kernel/seccomp"
	"berth/kernel/stage"
	oci "berth/oci/bundle"
)

// The points that a child tells it has reached.
const (
	atHooks   = iota + 1 // everything is mounted, the root is not entered yet
	atReady              // only execve is left
	atNetwork            // in the network namespace, without its devices
	atOffsets            // the new time namespace waits for its clocks
)

// The descriptors that a child sends.
const (
	sentConsole = iota + 1
	sentCopySource
	sentCopyTarget
	sentCopyTargetWithMode
	sentListener
)

// Create builds the container up to the point of executing its process, and runs
// the prestart, createRuntime and createContainer hooks. A program that is missing
// or not executable fails in Start, not here (with Config.ExecFifo: here); an unknown
// user fails here. On failure nothing is left behind.
func Create(ctx context.Context, cfg Config) (_ *Container, err error) {
	if err := validate(&cfg); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	spec := cfg.Spec
	c := &Container{id: cfg.ID, bundle: cfg.Bundle, spec: spec, created: time.Now().UTC(), fifo: cfg.ExecFifo}
	b := newBuilder(spec, cfg.Bundle)
	b.groupPath = c.groupPath()
	defer b.release()
	if b.labels, err = labelsOf(spec.Process); err != nil {
		return nil, err
	}
	b.ns = planNamespaces(spec.Linux.Namespaces)
	c.flags = b.ns.create | b.ns.joins()
	b.userns = b.ns.own(unix.CLONE_NEWUSER)
	c.shared = b.sharesMounts()
	// The group, the filter and the root do not need each other.
	group := make(chan error, 1)
	go func() { group <- c.openGroup(ctx) }()
	c.filter = sync.OnceValues(c.compileFilter)
	compiled := make(chan error, 1)
	go func() {
		_, err := c.filter()
		compiled <- err
	}()
	c.root, c.at, err = openRoot(cfg.Root, spec, cfg.Bundle)
	if c.shared && err == nil {
		c.mount = mountID(c.root)
	}
	if c.at == "" && !c.shared && len(c.hooks().CreateContainer) > 0 {
		// Not on top of "/", where such a hook's program would be out of reach.
		c.at = cfg.Root.Upper
		if c.at == "" && len(cfg.Root.Lower) > 0 {
			c.at = cfg.Root.Lower[0]
		}
	}
	groupErr, filterErr := <-group, <-compiled
	defer func() {
		if err != nil {
			c.discard()
		}
		if failed := (*HookError)(nil); errors.As(err, &failed) {
			c.poststopHooks(context.WithoutCancel(ctx))
		}
	}()
	if err = errors.Join(err, groupErr, filterErr); err != nil {
		return nil, err
	}
	if err = c.openRDT(); err != nil {
		return nil, err
	}
	if cfg.Prepare != nil {
		if err = cfg.Prepare(c.root); err != nil {
			return nil, err
		}
		if err = validateProcess(spec.Process); err != nil {
			return nil, err
		}
	}
	filter, _ := c.filter()
	opt, err := b.compileInit(c, &cfg, filter)
	if err != nil {
		return nil, err
	}
	child, err := stage.Start(b.p, opt)
	if err != nil {
		return nil, fail.New(fail.Internal, "start the container's process: %w", err)
	}
	b.release()
	if err = c.adopt(child); err != nil {
		return nil, err
	}
	if err = c.setUp(ctx, b); err != nil {
		return nil, err
	}
	c.group.Inhabited()
	c.warnings = b.warnings
	return c, nil
}

func newBuilder(spec *oci.Spec, bundle string) *builder {
	b := &builder{p: stage.New(), spec: spec, bundle: bundle, ownable: map[stage.Arg]bool{}, changes: map[stage.Arg][]mountChange{}}
	b.statfs.addr, b.statfs.offset = b.p.Scratch(256)
	b.statx.addr, b.statx.offset = b.p.Scratch(256)
	b.path.addr, b.path.offset = b.p.Scratch(pathSize)
	return b
}

// sharesMounts tells that the container lives in a mount namespace with others: the
// creator's, or one that is joined. What is mounted for it has to be taken away again.
func (b *builder) sharesMounts() bool { return b.ns.create&unix.CLONE_NEWNS == 0 }

// compileInit compiles the life of the container's first process.
func (b *builder) compileInit(c *Container, cfg *Config, filter *seccomp.Program) (stage.Options, error) {
	p, spec := b.p, b.spec
	opt := stage.Options{FirstFree: firstFree(cfg.Extra)}
	if err := b.openNamespaces(); err != nil {
		return opt, err
	}
	stdio, err := b.openStreams(cfg.Stdio, spec.Process.Terminal)
	if err != nil {
		return opt, err
	}
	if b.scheduling, err = schedulingOf(spec.Process); err != nil {
		return opt, err
	}
	if err := b.checkJoinedMaps(); err != nil {
		return opt, err
	}
	b.rootFile, b.binds = c.root, cfg.Binds
	plans, err := b.planMounts(spec.Mounts)
	if err != nil {
		return opt, err
	}
	if err := b.delegateGroup(c, plans); err != nil {
		return opt, fail.New(fail.Internal, "give the control group to the container's root: %w", err)
	}
	fifo, err := b.openFifo(cfg.ExecFifo, opt.FirstFree)
	if err != nil {
		return opt, err
	}

	p.DefaultSignals()
	b.openProc(opt.FirstFree)
	if opt.Cgroup, err = b.joinGroup(c.group, len(b.ns.join) == 0); err != nil {
		return opt, err
	}
	b.finalAffinity(nil)
	if !c.mapsUsers() { // else the maps are written by its owner, who may be nobody special
		b.hide()
	}
	cloneFlags, respawns := b.enter()
	opt.Namespaces = cloneFlags
	c.respawns = respawns
	if c.mapsUsers() {
		p.Await() // for the maps
		b.becomeRoot()
	}
	p.About("start a session", "")
	p.Call(unix.SYS_SETSID).Ignore(unix.EPERM)
	b.hide()
	if !cfg.NoNewKeyring {
		b.newKeyring(c.id, spec.Process.SelinuxLabel)
	}
	p.Call(unix.SYS_UMASK, stage.Int(0))
	b.hostNames()
	if b.ns.create&unix.CLONE_NEWNET != 0 {
		b.loopback()
	}
	if len(spec.Linux.NetDevices) > 0 {
		p.Notify(atNetwork)
		p.Await()
	}
	if b.ns.create&unix.CLONE_NEWTIME != 0 {
		b.timeOffsets(spec.Linux.TimeOffsets)
	}
	if b.ns.create&unix.CLONE_NEWCGROUP != 0 {
		p.About("create the cgroup namespace", "")
		p.Call(unix.SYS_UNSHARE, stage.Int(unix.CLONE_NEWCGROUP))
	}

	b.root = p.File(c.root)
	slave, err := b.fileSystems(c, cfg, plans)
	if err != nil {
		return opt, err
	}
	if c.hasCreateHooks() {
		p.Notify(atHooks)
		p.Await()
	}
	b.finishRoot()
	b.enterRoot(cfg.NoPivot)
	b.propagateRoot()

	sets, dropped := capabilities(spec.Process.Capabilities, b.userns)
	b.warnDropped(dropped)
	return opt, b.confine(&confinement{process: spec.Process, caps: sets, filter: filter, stdio: stdio, extra: cfg.Extra, slave: slave, first: true, ownDev: ownDev(plans)}, func() {
		if cfg.ExecFifo == "" {
			p.Notify(atReady)
			p.Await()
			return
		}
		p.Check()
		p.Notify(atReady)
		b.waitFifo(fifo)
	})
}

// fileSystems compiles all that is mounted. It leaves the terminal, if there is one,
// in the returned slot.
func (b *builder) fileSystems(c *Container, cfg *Config, plans []*mountPlan) (slave stage.Slot, err error) {
	spec := b.spec
	if err := b.attachRoot(c.at, cfg); err != nil {
		return -1, err
	}
	for _, plan := range plans {
		if err := b.mount(plan); err != nil {
			return -1, err
		}
	}
	own := ownDev(plans)
	if own {
		if err := b.devices(); err != nil {
			return -1, err
		}
		b.links(hasMount(plans, "/dev/pts", "devpts"))
	}
	slave = -1
	if spec.Process.Terminal {
		slave = b.console(spec.Process.User.UID)
		if own {
			b.bindConsole(slave)
		}
	}
	b.sysctls(spec.Linux.Sysctl)
	b.readonly(spec.Linux.ReadonlyPaths)
	b.masks(spec.Linux.MaskedPaths)
	for _, dev := range b.afterDev {
		b.p.About("make read-only", dev)
		t := b.p.Slot()
		b.openIn(dev, unix.O_PATH, resolveInRoot).Into(t)
		b.setMount(t.Arg(), false, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		b.close(t)
	}
	return slave, nil
}

func hasMount(plans []*mountPlan, at, fsType string) bool {
	for _, m := range plans {
		if m.Destination == at && m.Type == fsType {
			return true
		}
	}
	return false
}

// hide keeps the processes of namespaces that the child joins from looking into it,
// its memory being a copy of ours (CVE-2016-9962). So it comes before a user namespace is
// joined, whose root may look into all that is in it, and again when the ids have changed:
// that sets it to what the host's fs.suid_dumpable says. execve ends it.
func (b *builder) hide() {
	b.p.About("become undumpable", "")
	b.p.Call(unix.SYS_PRCTL, stage.Int(unix.PR_SET_DUMPABLE), stage.Int(0), stage.Int(0), stage.Int(0), stage.Int(0))
}

func (b *builder) newKeyring(id, label string) {
	if label != "" {
		b.p.About("label the session keyring", label)
		b.writeFile("/proc/self/attr/keycreate", label)
	}
	b.p.About("join a new session keyring", "")
	// Kernels without keys, filters that refuse them and full quotas are no reason to fail.
	b.p.Call(unix.SYS_KEYCTL, stage.Int(unix.KEYCTL_JOIN_SESSION_KEYRING), b.p.Str("_ses."+id)).
		Ignore(unix.ENOSYS, unix.EPERM, unix.EDQUOT, unix.EACCES)
}

func (b *builder) hostNames() {
	p := b.p
	if name := b.spec.Hostname; name != "" {
		p.About("set the host name", name)
		p.Call(unix.SYS_SETHOSTNAME, p.Str(name), stage.Int(len(name)))
	}
	if name := b.spec.Domainname; name != "" {
		p.About("set the domain name", name)
		p.Call(unix.SYS_SETDOMAINNAME, p.Str(name), stage.Int(len(name)))
	}
}

// openProc keeps the host's /proc at hand for what is done when the root is entered.
func (b *builder) openProc(firstFree int) {
	if b.labels == nil {
		return
	}
	p := b.p
	p.About("open", "/proc")
	low := p.Slot()
	b.proc = p.Slot()
	p.Call(unix.SYS_OPENAT, stage.Int(unix.AT_FDCWD), p.Str("/proc"), stage.Int(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)).Into(low)
	p.Call(unix.SYS_FCNTL, low.Arg(), stage.Int(unix.F_DUPFD_CLOEXEC), stage.Int(firstFree)).Into(b.proc)
	b.close(low)
}

// joinGroup moves the child into its group before it does anything else. Born there,
// on cgroup v2, it needs not move at all.
func (b *builder) joinGroup(g *cgroup.Group, first bool) (*os.File, error) {
	if g == nil {
		return nil, nil
	}
	if first {
		dir, err := g.Dir()
		if err != nil {
			return nil, err
		}
		if dir != nil {
			b.closeFile(dir)
			return dir, nil
		}
	}
	files, err := g.JoinFiles()
	if err != nil {
		return nil, err
	}
	b.p.About("join the cgroup", g.Path())
	for _, f := range files {
		b.closeFile(f)
		b.p.Call(unix.SYS_WRITE, b.p.File(f), b.p.Str("0"), stage.Int(1))
	}
	return nil, nil
}

func (b *builder) warnDropped(names []string) {
	if len(names) > 0 {
		b.warnings = append(b.warnings, "capabilities that this host does not give: "+strings.Join(names, ", "))
	}
}

// mapsUsers tells that the container gets a user namespace of its own.
func (c *Container) mapsUsers() bool {
	for _, ns := range c.spec.Linux.Namespaces {
		if ns.Type == specs.UserNamespace && ns.Path == "" {
			return true
		}
	}
	return false
}

// setUp answers the child until it is ready for its start.
func (c *Container) setUp(ctx context.Context, b *builder) error {
	stop := context.AfterFunc(ctx, func() { c.Signal(unix.SIGKILL) })
	defer stop()
	if !c.respawns {
		if err := c.settle(b); err != nil {
			return err
		}
	}
	for {
		m, err := c.child.Receive()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return c.brokenSetUp(err)
		}
		switch {
		case m.Kind == stage.Respawned:
			if err := c.adopt(c.child); err != nil {
				return err
			}
			if err := c.settle(b); err != nil {
				return err
			}
		case m.Kind == stage.File && m.Value == sentConsole:
			c.console = m.File
			if err := setSize(c.console, c.spec.Process.ConsoleSize); err != nil {
				return err
			}
		case m.Kind == stage.File && m.Value == sentCopySource:
			b.closeFile(m.File)
			b.copySource = m.File
		case m.Kind == stage.File && (m.Value == sentCopyTarget || m.Value == sentCopyTargetWithMode):
			b.closeFile(m.File)
			if err := copyUpOf(c.pid, b.copySource, m.File, m.Value == sentCopyTargetWithMode); err != nil {
				return err
			}
			if err := c.child.Send(); err != nil {
				return err
			}
		case m.Kind == stage.File && m.Value == sentListener:
			if err := c.passListener(ctx, c.pid, specs.StateCreating, m.File); err != nil {
				return err
			}
		case m.Value == atOffsets:
			if err := writeOffsets(c.pid, c.spec.Linux.TimeOffsets); err != nil {
				return err
			}
			if err := c.child.Send(); err != nil {
				return err
			}
		case m.Value == atNetwork:
			if err := moveNetDevices(c.pid, c.spec.Linux.NetDevices); err != nil {
				return err
			}
			if err := c.child.Send(); err != nil {
				return err
			}
		case m.Value == atHooks:
			if err := c.createHooks(ctx); err != nil {
				return err
			}
			if err := c.child.Send(); err != nil {
				return err
			}
		case m.Value == atReady:
			if err := c.rdt.join(c.pid); err != nil {
				return err
			}
			return c.schedule(b.scheduling)
		}
	}
}

// brokenSetUp explains why the child did not become ready.
func (c *Container) brokenSetUp(err error) error {
	if err != io.EOF {
		return failed(err, c.spec.Process)
	}
	exit, waitErr := c.reap()
	if waitErr != nil {
		return waitErr
	}
	if n, _ := c.OOMKills(); n > 0 {
		return fail.New(fail.Invalid, "the memory limit is too low to start a process")
	}
	return fail.New(fail.Internal, "the container's process ended during its set-up (status %d)", exit.Code)
}

// settle does from outside, as soon as the pid is known, what the child cannot do:
// the maps of its user namespace and its score for the OOM killer.
func (c *Container) settle(b *builder) error {
	if adj := c.spec.Process.OOMScoreAdj; adj != nil {
		if err := c.setOOMScore(*adj, b); err != nil {
			return err
		}
	}
	if !c.mapsUsers() {
		return nil
	}
	if err := writeMappings(c.pid, c.spec.Linux.UIDMappings, c.spec.Linux.GIDMappings); err != nil {
		return fail.New(fail.Invalid, "map users: %w", err)
	}
	return c.child.Send()
}

func (p *Process) setOOMScore(adj int, b *builder) error {
	err := writeProc("/proc/"+strconv.Itoa(p.pid)+"/oom_score_adj", strconv.Itoa(adj))
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		b.warnings = append(b.warnings, fmt.Sprintf("oom_score_adj: %d needs CAP_SYS_RESOURCE, the present value is kept", adj))
		return nil
	}
	if err != nil {
		return fail.New(fail.Invalid, "oom_score_adj %d: %w", adj, err)
	}
	return nil
}

// Start lets the process execute and runs the startContainer and poststart hooks.
// It returns when execve has succeeded or failed. A failure has class NotFound
// when the program does not exist (exit code 127) and Forbidden when it may not be
// executed (126); its text is what Docker users know, e.g.
//
//	exec: "nope": executable file not found in $PATH
//	exec: "/etc/passwd": permission denied
//
// With Config.ExecFifo a failure of execve cannot be told from a program that ends at
// once; Create has looked for what can be known before.
func (c *Container) Start(ctx context.Context) error {
	if err := c.startHooks(ctx); err != nil {
		c.Signal(unix.SIGKILL)
		return err
	}
	var err error
	if c.fifo != "" {
		err = c.openGate(ctx)
	} else {
		err = c.Process.execute(ctx, c.spec.Process)
	}
	if err != nil {
		return err
	}
	if err := c.poststartHooks(ctx); err != nil {
		c.Signal(unix.SIGKILL)
		return err
	}
	return nil
}

// execute sends the go and waits for the end of execve.
func (p *Process) execute(ctx context.Context, proc *oci.Process) error {
	if p.child == nil {
		return fail.New(fail.Conflict, "process %d waits for another process to start it", p.pid)
	}
	if p.started {
		return fail.New(fail.Conflict, "process %d was started before", p.pid)
	}
	p.started = true
	stop := context.AfterFunc(ctx, func() { p.Signal(unix.SIGKILL) })
	defer stop()
	if err := p.child.Send(); err != nil {
		return fail.New(fail.Conflict, "process %d has ended before its start", p.pid)
	}
	if _, err := p.child.Receive(); err != io.EOF {
		if err == nil {
			err = fail.New(fail.Internal, "process %d does not follow its program", p.pid)
		}
		return failed(err, proc)
	}
	p.child.Close()
	if !stop() && ctx.Err() != nil {
		return ctx.Err()
	}
	return nil
}
