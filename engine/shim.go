package engine

import (
	"context"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"berth/images"
	"berth/oci"
	"berth/supervisor"
)

// shim is what the engine asks of a container's supervisor; see supervisor.Shim.
type shim interface {
	Events() <-chan supervisor.Event
	Start(ctx context.Context) (pid int, at time.Time, err error)
	Signal(ctx context.Context, execID string, sig unix.Signal, all bool) error
	Resize(ctx context.Context, execID string, rows, cols uint16) error
	Exec(ctx context.Context, e supervisor.Exec, a *supervisor.Attachment) (pid int, err error)
	Attach(ctx context.Context, a supervisor.Attachment) error
	State(ctx context.Context) (supervisor.State, error)
	Pids(ctx context.Context) ([]int, error)
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	Update(ctx context.Context, r *oci.LinuxResources) error
	Ports() []supervisor.Port
	SetNetwork(ctx context.Context, n supervisor.Network) ([]supervisor.Port, error)
	Root(ctx context.Context) (*os.File, error)
	SetPolicy(ctx context.Context, p supervisor.Policy) error
	Hold()
	Destroy(ctx context.Context) error
	Close() error
}

// shims makes and finds supervisors.
type shims interface {
	Create(ctx context.Context, cfg supervisor.Config, attach []supervisor.Attachment) (shim, error)
	Reattach(ctx context.Context, runDir string) (shim, error)
}

// realShims are the ones that are processes.
type realShims struct{ launcher *supervisor.Launcher }

func (r realShims) Create(ctx context.Context, cfg supervisor.Config, attach []supervisor.Attachment) (shim, error) {
	s, err := r.launcher.Create(ctx, cfg, attach)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (r realShims) Reattach(ctx context.Context, runDir string) (shim, error) {
	s, err := supervisor.Reattach(ctx, runDir)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// imageStore is what the engine asks of the images; see images.Store.
type imageStore interface {
	GetFor(name string, platform *oci.Platform) (images.Image, error)
	Rootfs(ctx context.Context, id oci.Digest, dir string) (oci.Rootfs, error)
	WritableSize(ctx context.Context, id oci.Digest, dir string) (int64, error)
	Changes(ctx context.Context, id oci.Digest, dir string, targets []string) ([]images.Change, error)
	Export(ctx context.Context, id oci.Digest, dir string, w io.Writer) error
	Commit(ctx context.Context, id oci.Digest, dir string, o images.CommitOptions) (oci.Digest, error)
	Use(ctx context.Context, id oci.Digest, fn func() error) error
	Release(id oci.Digest) error
	GraphDriver() string
}
