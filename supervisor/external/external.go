// Package external makes containers with an OCI runtime that is a program of its own: runc,
// crun, runsc and whatever else has runc's command line. It does for the supervisor what
// package runtime does, and keeps its contracts.
//
// # The life of a container
//
// A bundle is written into a directory of the container's own. The root file system is
// mounted at its rootfs in a mount namespace that lives as long as the runtime's create
// needs it, so that nothing is ever mounted on the host. The runtime exits as soon as it
// has made the container's process; this process is then ours, for we are the subreaper
// (prctl(2)). The runtime keeps its own notes (--root) in the same directory, and all of
// it goes with the container.
//
// # What may go wrong
//
// Nothing that a runtime does is trusted: it may hang, lie or die. Every call is bounded
// in time; a process that it names must be a child of ours before we touch it; the reason
// of a failure is taken from its log, else from what it says on standard error.
package external

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
	"berth/kernel/cgroup"
	oci "berth/oci/bundle"
	"berth/runtime"
)

// Runtime is a program with runc's command line.
type Runtime struct {
	Name string   `json:"name"`           // as users know it
	Path string   `json:"path"`           // absolute
	Args []string `json:"args,omitempty"` // global options, given in front of every command
}

// Container is a container made by an external runtime.
type Container struct {
	process
	d      driver
	id     string
	reaper *reaper
	root   *os.File
	caps   *specs.LinuxCapabilities
	path   string // of its cgroup

	groupOnce sync.Once
	cgroup    *cgroup.Group
	destroyed bool
}

// Names in a container's directory.
const (
	configName = "config.json"
	rootfsName = "rootfs"
	stateName  = "state" // the runtime's --root
	bindsName  = "binds" // where mounts that are not just a path's are attached
)

// Create makes a container as runtime.Create does, with rt, in the directory dir, which
// must not exist. The error has class NotFound or Forbidden only if it is about the
// program that the container is to execute, as with runtime.Container.Start: most
// runtimes look for it already now.
func Create(ctx context.Context, rt Runtime, dir string, cfg runtime.Config) (_ *Container, err error) {
	spec := cfg.Spec
	if spec == nil || spec.Process == nil || spec.Linux == nil {
		return nil, fail.New(fail.Invalid, "the container has no process")
	}
	reaper, err := newReaper()
	if err != nil {
		return nil, fmt.Errorf("become the parent of orphans: %w", err)
	}
	c := &Container{d: driver{rt: rt, dir: dir, scope: cgroup.IsScope(spec.Linux.CgroupsPath), children: reaper, patience: patience}, id: cfg.ID, reaper: reaper,
		caps: spec.Process.Capabilities, path: spec.Linux.CgroupsPath}
	asked := false
	defer func() {
		if err != nil {
			c.discard(asked)
		}
	}()
	if c.root, err = runtime.OpenRoot(cfg.Root, spec, cfg.Bundle); err != nil {
		return nil, fail.Mark(fail.Internal, err)
	}
	if cfg.Prepare != nil {
		if err := cfg.Prepare(c.root); err != nil {
			return nil, err
		}
	}
	mounts, err := c.writeBundle(spec, cfg.Binds)
	if err != nil {
		return nil, fail.New(fail.Internal, "write the bundle: %w", err)
	}
	pidFile := filepath.Join(dir, "init.pid")
	args := []string{"create", "--bundle", dir, "--pid-file", pidFile}
	var console *consoleSocket
	if spec.Process.Terminal {
		if console, err = listenConsole(dir); err != nil {
			return nil, err
		}
		defer console.close()
		args = append(args, "--console-socket", console.path)
	}
	expectation := reaper.expect()
	defer expectation.end()
	asked = true
	err = c.d.run(ctx, &call{args: append(args, cfg.ID), streams: c.streams(cfg.Stdio, spec.Process.Terminal), mounts: mounts})
	if err != nil {
		return nil, err
	}
	if err := c.adopt(rt, reaper, pidFile); err != nil {
		return nil, err
	}
	if console != nil {
		if c.console, err = console.receive(ctx, rt); err != nil {
			return nil, err
		}
	}
	c.seeRoot()
	return c, ctx.Err()
}

// streams are what the runtime hands on to the container's process.
func (c *Container) streams(stdio [3]*os.File, terminal bool) *[3]*os.File {
	if terminal {
		return nil
	}
	return &stdio
}

// writeBundle writes what the runtime reads, and tells what has to be mounted while it does.
func (c *Container) writeBundle(spec *oci.Spec, binds map[string]*os.File) ([]attachment, error) {
	if err := Remove(c.d.dir); err != nil { // of a run that was lost
		return nil, err
	}
	for _, d := range []string{c.d.dir, filepath.Join(c.d.dir, rootfsName), filepath.Join(c.d.dir, stateName), filepath.Join(c.d.dir, bindsName)} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, err
		}
	}
	own := *spec
	own.Root = &specs.Root{Path: rootfsName}
	if spec.Root != nil {
		own.Root.Readonly = spec.Root.Readonly
	}
	mounts := []attachment{{c.root, filepath.Join(c.d.dir, rootfsName)}}
	own.Mounts = slices.Clone(spec.Mounts)
	for i := range own.Mounts {
		m := &own.Mounts[i]
		f, given := binds[m.Destination]
		if !given {
			continue
		}
		m.Source = filepath.Join(c.d.dir, bindsName, strconv.Itoa(i))
		if err := makeLike(f, m.Source); err != nil {
			return nil, err
		}
		mounts = append(mounts, attachment{f, m.Source})
	}
	return mounts, c.d.writeJSON(configName, own)
}

// makeLike makes something that f can be mounted on.
func makeLike(f *os.File, path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return os.Mkdir(path, 0o700)
	}
	return os.WriteFile(path, nil, 0o600)
}

// seeRoot makes Root show what the container has mounted in its root. A runtime that
// keeps its containers inside something else, a virtual machine for example, has a first
// process that does not live in the container's root.
func (c *Container) seeRoot() {
	f, err := os.OpenFile("/proc/"+strconv.Itoa(c.pid)+"/root", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	mine, err1 := c.root.Stat()
	its, err2 := f.Stat()
	if err1 != nil || err2 != nil || !os.SameFile(mine, its) {
		f.Close()
		return
	}
	c.root.Close()
	c.root = f
}

// Root is the container's root directory, as with runtime.Container.
func (c *Container) Root() *os.File { return c.root }

// group is the container's cgroup, nil if it has none where it was told to be.
func (c *Container) group() *cgroup.Group {
	c.groupOnce.Do(func() {
		if g, err := cgroup.Load(c.path); err == nil && c.path != "" {
			c.cgroup = g
		}
	})
	return c.cgroup
}

// Start lets the process execute.
func (c *Container) Start(ctx context.Context) error {
	return c.d.run(ctx, &call{args: []string{"start", c.id}})
}

// alive is an error of class NotFound for a container that has ended.
func (c *Container) alive() error {
	if c.ended() {
		return fail.New(fail.NotFound, "process %d has ended", c.pid)
	}
	return nil
}

// ask runs a command of the runtime on the container while that lives.
func (c *Container) ask(ctx context.Context, k *call) error {
	if err := c.alive(); err != nil {
		return err
	}
	err := c.d.run(ctx, k)
	if err != nil && c.ended() {
		return c.alive()
	}
	return err
}

// Signal signals the container's first process, SignalAll all of them. A container that
// has ended gives class NotFound.
func (c *Container) Signal(ctx context.Context, sig unix.Signal) error {
	return c.ask(ctx, &call{args: []string{"kill", c.id, strconv.Itoa(int(sig))}})
}

func (c *Container) SignalAll(ctx context.Context, sig unix.Signal) error {
	err := c.ask(ctx, &call{args: []string{"kill", "--all", c.id, strconv.Itoa(int(sig))}})
	if err != nil && sig == unix.SIGKILL && c.group() != nil && !c.ended() {
		return c.group().Kill(ctx)
	}
	return err
}

// Pids lists the container's processes as the runtime knows them.
func (c *Container) Pids(ctx context.Context) ([]int, error) {
	k := &call{args: []string{"ps", "--format", "json", c.id}}
	if err := c.ask(ctx, k); err != nil {
		return nil, err
	}
	var pids []int
	if err := json.Unmarshal(k.output, &pids); err != nil {
		return nil, fail.New(fail.Internal, "%s: ps: %q is not a list of process ids", c.d.rt.title(), excerpt(string(k.output)))
	}
	return pids, nil
}

// Pause freezes the container, Resume lets it go on. A runtime that kills a paused
// container may have let it go on for that, and calls a Resume afterwards an error.
func (c *Container) Pause(ctx context.Context) error {
	return c.ask(ctx, &call{args: []string{"pause", c.id}})
}

func (c *Container) Resume(ctx context.Context) error {
	err := c.ask(ctx, &call{args: []string{"resume", c.id}})
	if err != nil && c.group() != nil {
		if frozen, e := c.group().Frozen(); e != nil || !frozen {
			return nil
		}
	}
	return err
}

// Update changes the container's limits.
func (c *Container) Update(ctx context.Context, res *oci.LinuxResources) error {
	name, remove, err := c.d.temporary("resources", res)
	if err != nil {
		return err
	}
	defer remove()
	return c.ask(ctx, &call{args: []string{"update", "--resources", name, c.id}})
}

// OOMKills counts the container's processes that the kernel killed for memory, WatchOOM
// tells of it, as cgroup.Group does. Both need a cgroup at the place that was asked for.
func (c *Container) OOMKills() (uint64, error) {
	if c.group() == nil {
		return 0, nil
	}
	return c.group().OOMKills()
}

func (c *Container) WatchOOM(ctx context.Context) (<-chan struct{}, error) {
	if c.group() == nil {
		return nil, fail.New(fail.NotFound, "container %s has no control group at %q", c.id, c.path)
	}
	return c.group().WatchOOM(ctx)
}

// Exec starts a further process, as runtime.Container.Exec does.
func (c *Container) Exec(ctx context.Context, cfg runtime.ExecConfig) (_ *Process, err error) {
	if err := c.alive(); err != nil {
		return nil, fail.New(fail.Conflict, "container %s is not running", c.id)
	}
	proc := *cfg.Process
	if proc.Capabilities == nil {
		proc.Capabilities = c.caps
	}
	file, remove, err := c.d.temporary("process", proc)
	if err != nil {
		return nil, err
	}
	defer remove()
	pidFile := file + ".pid"
	defer os.Remove(pidFile)
	args := []string{"exec", "--process", file, "--detach", "--pid-file", pidFile}
	var console *consoleSocket
	if proc.Terminal {
		if console, err = listenConsole(c.d.dir); err != nil {
			return nil, err
		}
		defer console.close()
		args = append(args, "--console-socket", console.path)
	}
	expectation := c.reaper.expect()
	defer expectation.end()
	if err := c.d.run(ctx, &call{args: append(args, c.id), streams: c.streams(cfg.Stdio, proc.Terminal)}); err != nil {
		if c.ended() {
			return nil, fail.New(fail.Conflict, "container %s is not running", c.id)
		}
		return nil, bareProgramError(err)
	}
	p := new(Process)
	if err := p.adopt(c.d.rt, c.reaper, pidFile); err != nil {
		return nil, err
	}
	if console != nil {
		if p.console, err = console.receive(ctx, c.d.rt); err != nil {
			_ = p.Signal(unix.SIGKILL)
			_, _ = p.Wait()
			p.Release()
			return nil, err
		}
	}
	return p, nil
}

// Destroy kills what is left of the container and removes all that was made of it. It is
// safe after any partial life.
func (c *Container) Destroy(ctx context.Context) error {
	if c.destroyed {
		return nil
	}
	err := c.end(ctx, true)
	if err == nil {
		c.destroyed = true
	}
	return err
}

// discard ends a container whose creation failed. asked: the runtime was called.
func (c *Container) discard(asked bool) {
	// The caller's context is why it failed, perhaps; what was made must go all the same.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := c.end(ctx, asked); err != nil {
		fmt.Fprintln(os.Stderr, "berth-shim:", err)
	}
}

func (c *Container) end(ctx context.Context, asked bool) error {
	var errs []error
	if asked {
		// A runtime that fails here is left alone: the group below is what counts.
		deleted := c.d.run(ctx, &call{args: []string{"delete", "--force", c.id}, patience: farewell})
		if c.pid != 0 && !c.ended() {
			_ = c.process.Signal(unix.SIGKILL)
		}
		if err := killGroup(ctx, c.path); err != nil {
			errs = append(errs, err)
			if deleted != nil {
				errs = append(errs, deleted)
			}
		}
	}
	if c.pid != 0 {
		select {
		case <-c.over:
		case <-ctx.Done():
			errs = append(errs, fail.New(fail.Unavailable, "process %d was killed and does not end: %w", c.pid, ctx.Err()))
		}
	}
	if c.root != nil {
		c.root.Close()
	}
	c.Release()
	errs = append(errs, Remove(c.d.dir))
	c.reaper.stop()
	if err := errors.Join(errs...); err != nil {
		return fail.New(fail.Of(err), "destroy %s: %w", c.id, err)
	}
	return nil
}

func killGroup(ctx context.Context, path string) error {
	if path == "" {
		return nil
	}
	g, err := cgroup.Load(path)
	if err != nil {
		if fail.Is(err, fail.NotFound) || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	if err := g.Kill(ctx); err != nil {
		return err
	}
	if err := g.Remove(ctx); err != nil && !fail.Is(err, fail.NotFound) {
		return err
	}
	return nil
}

// Abandon lets rt forget the container id that was made in dir by a process that is lost.
// It is for what only the runtime knows of: that its processes are dead and its cgroup is
// gone has been seen to.
func Abandon(ctx context.Context, rt Runtime, dir, id string) {
	if _, err := os.Stat(dir); err != nil {
		return
	}
	d := driver{rt: rt, dir: dir, children: strangers{}, patience: farewell}
	_ = d.run(ctx, &call{args: []string{"delete", "--force", id}})
	_ = Remove(dir)
}

// Remove deletes a container's directory. In the place of the root file system it deletes
// nothing but an empty directory.
func Remove(dir string) error {
	err := os.Remove(filepath.Join(dir, rootfsName))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete the bundle: %w", err)
	}
	return os.RemoveAll(dir)
}

// title names a runtime in an error.
func (rt Runtime) title() string {
	if rt.Name == rt.Path {
		return "runtime " + rt.Path
	}
	return fmt.Sprintf("runtime %s (%s)", rt.Name, rt.Path)
}

// Check tells whether the program is there and may be executed.
func (rt Runtime) Check() error {
	info, err := os.Stat(rt.Path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fail.New(fail.Invalid, "%s does not exist: install it, or correct its path in --add-runtime or daemon.json", rt.title())
	case err != nil:
		return fail.New(fail.Invalid, "%s cannot be used: %w", rt.title(), err)
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return fail.New(fail.Invalid, "%s is not an executable program: correct its path in --add-runtime or daemon.json", rt.title())
	}
	return nil
}

func (d *driver) writeJSON(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return durable.WriteFileVolatile(filepath.Join(d.dir, name), data, 0o600)
}

// temporary writes v to a file for one call.
func (d *driver) temporary(kind string, v any) (name string, remove func(), err error) {
	f, err := os.CreateTemp(d.dir, kind+"-*.json")
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	if err := json.NewEncoder(f).Encode(v); err != nil {
		os.Remove(f.Name())
		return "", nil, err
	}
	return f.Name(), func() { os.Remove(f.Name()) }, nil
}

// excerpt is the beginning of what a program wrote, in one line that can be printed.
func excerpt(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || r == 0xfffd }), " ")
	const most = 500
	if r := []rune(text); len(r) > most {
		text = string(r[:most]) + "…"
	}
	return text
}
