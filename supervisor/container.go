package supervisor

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	oci "berth/oci/bundle"
	"berth/runtime"
	"berth/supervisor/external"
)

// container is what a shim does with its container, whoever has made it. The contracts of
// the methods are those of runtime.Container.
type container interface {
	Pid() int
	Console() *os.File
	Root() *os.File
	Start(ctx context.Context) error
	Wait() (runtime.Exit, error)
	Signal(ctx context.Context, sig unix.Signal) error
	SignalAll(ctx context.Context, sig unix.Signal) error
	Exec(ctx context.Context, cfg runtime.ExecConfig) (process, error)
	Pids(ctx context.Context) ([]int, error)
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	Update(ctx context.Context, res *oci.LinuxResources) error
	OOMKills() (uint64, error)
	WatchOOM(ctx context.Context) (<-chan struct{}, error)
	Destroy(ctx context.Context) error
}

// process is an exec'd process; see runtime.Process.
type process interface {
	Pid() int
	Console() *os.File
	Wait() (runtime.Exit, error)
	Signal(sig unix.Signal) error
	SignalGroup(sig unix.Signal) error
	Release()
}

// createContainer makes the container with the runtime that was asked for.
func createContainer(ctx context.Context, cfg *Config, stdio [3]*os.File) (container, error) {
	binds := map[string]*os.File{}
	defer func() {
		for _, f := range binds {
			f.Close()
		}
	}()
	rc := runtime.Config{
		ID: cfg.ID, Bundle: cfg.Dir, Spec: cfg.Spec, Root: cfg.Root, Stdio: stdio, Binds: binds,
		Prepare: func(root *os.File) error {
			if err := prepare(cfg.Spec.Process, root, cfg.User, cfg.Groups); err != nil {
				return err
			}
			return openSources(ctx, cfg.Sources, root, cfg.Spec.Process.User, binds)
		},
	}
	if cfg.Runtime == nil {
		c, err := runtime.Create(ctx, rc)
		if err != nil {
			return nil, err
		}
		return builtIn{c}, nil
	}
	// A program that we execute inherits the signals that we ignore, and so would the
	// container's process; those that we catch it does not.
	signal.Notify(make(chan os.Signal, 1), ignored...)
	c, err := external.Create(ctx, *cfg.Runtime, filepath.Join(cfg.RunDir, bundleName), rc)
	if err != nil {
		return nil, err
	}
	return foreign{c}, nil
}

// builtIn is a container that this process has made itself.
type builtIn struct{ *runtime.Container }

func (c builtIn) Signal(_ context.Context, sig unix.Signal) error { return c.Container.Signal(sig) }
func (c builtIn) SignalAll(_ context.Context, sig unix.Signal) error {
	return c.Container.SignalAll(sig)
}
func (c builtIn) Pids(context.Context) ([]int, error) { return c.Container.Pids() }

func (c builtIn) Update(ctx context.Context, res *oci.LinuxResources) error {
	return c.Container.Update(ctx, res)
}

func (c builtIn) WatchOOM(ctx context.Context) (<-chan struct{}, error) {
	return c.Group().WatchOOM(ctx)
}

func (c builtIn) Exec(ctx context.Context, cfg runtime.ExecConfig) (process, error) {
	p, err := c.Container.Exec(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Destroy tells of poststop hooks that failed.
func (c builtIn) Destroy(ctx context.Context) error {
	told := len(c.Warnings())
	err := c.Container.Destroy(ctx)
	for _, w := range c.Warnings()[told:] {
		fmt.Fprintln(os.Stderr, "berth-shim:", w)
	}
	return err
}

// foreign is a container that an external runtime has made.
type foreign struct{ *external.Container }

func (c foreign) Exec(ctx context.Context, cfg runtime.ExecConfig) (process, error) {
	p, err := c.Container.Exec(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return p, nil
}
