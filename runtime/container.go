package runtime

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel/cgroup"
	"berth/kernel/seccomp"
	oci "berth/oci/bundle"
)

// Container is a container made by this process, or found again by Load. In the first
// case the caller must be its parent for as long as it lives, and must reap it through
// Wait.
type Container struct {
	Process
	id        string
	bundle    string
	spec      *oci.Spec
	created   time.Time
	fifo      string
	flags     uintptr // the kinds of namespaces it has of its own
	respawns  bool
	shared    bool   // its mounts are among those of others,
	at        string // at this path,
	mount     uint64 // the root being this one
	root      *os.File
	group     *cgroup.Group
	warnings  []string
	filter    func() (*seccomp.Program, error) // compiled once
	rdt       rdtGroup
	destroyed bool
}

// Warnings tells in what the container differs from its specification because this
// host could not give more, one sentence each.
func (c *Container) Warnings() []string { return c.warnings }

// Root is the container's root directory, as a descriptor that works for
// openat2(RESOLVE_IN_ROOT) also from outside its mount namespace. The Container
// owns it.
func (c *Container) Root() *os.File { return c.root }

// Group is the container's cgroup. The Container owns it.
func (c *Container) Group() *cgroup.Group { return c.group }

// groupPath is where the container's cgroup is.
func (c *Container) groupPath() string {
	if p := c.spec.Linux.CgroupsPath; p != "" {
		return p
	}
	return "/berth/" + c.id
}

func (c *Container) openGroup(ctx context.Context) (err error) {
	c.group, err = cgroup.Create(ctx, c.groupPath(), c.spec.Linux.Resources)
	return err
}

// compileFilter compiles the container's seccomp profile; nil if it has none. Names of
// system calls that this kernel's architecture lacks are in every default profile and
// are no reason for a warning.
func (c *Container) compileFilter() (*seccomp.Program, error) {
	profile := c.spec.Linux.Seccomp
	if profile == nil {
		return nil, nil
	}
	p, _, err := seccomp.Compile(profile)
	if err != nil {
		return nil, fail.New(fail.Of(err), "linux.seccomp: %w", err)
	}
	if p.Notify {
		err = checkListener(profile)
	}
	return p, err
}

// running gives the container's group, which is gone when the container is.
func (c *Container) running() (*cgroup.Group, error) {
	if c.group == nil {
		return nil, fail.New(fail.Conflict, "container %s is not running", c.id)
	}
	return c.group, nil
}

// Pids lists the container's processes as pids of the caller's namespace.
func (c *Container) Pids() ([]int, error) {
	if c.group == nil {
		return nil, nil
	}
	return c.group.Pids()
}

// SignalAll sends sig to every process of the container.
func (c *Container) SignalAll(sig unix.Signal) error {
	if c.group == nil {
		return fail.New(fail.NotFound, "container %s has no process", c.id)
	}
	return c.group.Signal(int(sig))
}

// Pause freezes the container, Resume lets it go on.
func (c *Container) Pause(ctx context.Context) error  { return c.freeze(ctx, true) }
func (c *Container) Resume(ctx context.Context) error { return c.freeze(ctx, false) }

func (c *Container) freeze(ctx context.Context, frozen bool) error {
	g, err := c.running()
	if err != nil {
		return err
	}
	return g.Freeze(ctx, frozen)
}

// Update changes the limits of the container's cgroup.
func (c *Container) Update(ctx context.Context, res *oci.LinuxResources) error {
	g, err := c.running()
	if err != nil {
		return err
	}
	return g.Apply(ctx, res)
}

// OOMKills counts the container's processes that the kernel killed for memory.
func (c *Container) OOMKills() (uint64, error) {
	if c.group == nil {
		return 0, nil
	}
	return c.group.OOMKills()
}

// discard ends a container whose creation failed, without its hooks.
func (c *Container) discard() error {
	// The caller's context is why it failed, perhaps; what was made must go all the same.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.end(ctx)
}

// end kills the container's processes, removes its group and closes what is held.
func (c *Container) end(ctx context.Context) error {
	var errs []error
	if c.handle() != nil {
		c.Signal(unix.SIGKILL)
	}
	// Whoever is init of a pid namespace takes all of it along. Otherwise, and where the
	// end of init cannot be waited for, the group is what the processes have in common.
	alone := c.child != nil && c.flags&unix.CLONE_NEWPID != 0 && !c.joinedPids()
	if c.group != nil && !alone {
		errs = append(errs, c.group.Kill(ctx))
	}
	if c.child != nil {
		errs = append(errs, c.reapWithin(ctx))
	}
	errs = append(errs, c.unmountRoot()) // its mounts may hold the group
	if c.group != nil {
		err := c.group.Remove(ctx)
		if fail.Is(err, fail.Conflict) { // a process on its way into the container
			if err = c.group.Kill(ctx); err == nil {
				err = c.group.Remove(ctx)
			}
		}
		if !fail.Is(err, fail.NotFound) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, c.rdt.remove())
	if c.root != nil {
		c.root.Close()
	}
	c.Release()
	return errors.Join(errs...)
}

// reapWithin waits for the end of a process that was killed: one that hangs in the kernel
// must not hang us.
func (p *Process) reapWithin(ctx context.Context) error {
	done := make(chan error, 1)
	go func() {
		_, err := p.reap()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fail.New(fail.Unavailable, "process %d was killed and does not end: %w", p.pid, ctx.Err())
	}
}

// joinedPids tells that the container's processes live in a pid namespace of others.
func (c *Container) joinedPids() bool {
	for _, ns := range c.spec.Linux.Namespaces {
		if ns.Type == specs.PIDNamespace && ns.Path != "" {
			return true
		}
	}
	return false
}

// Destroy kills what is left of the container, removes its cgroup, runs the poststop
// hooks and closes everything. It is safe after any partial life. It reaps the
// container's first process if Wait has not. A hook that fails is a warning.
func (c *Container) Destroy(ctx context.Context) error {
	if c.destroyed {
		return nil
	}
	if err := c.end(ctx); err != nil {
		return fail.New(fail.Of(err), "destroy %s: %w", c.id, err)
	}
	c.destroyed = true
	c.poststopHooks(ctx)
	return nil
}
