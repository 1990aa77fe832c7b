// Package engine owns sandboxes and containers: their states, their lives and what is
// recorded of them.
//
// A container's request (Config, HostConfig, NetworkingConfig) is kept in the
// vocabulary it came in, moby/api's data types, because inspect must echo it field by
// field; all else about a container is ours, and answers are shaped in api/server.
package engine

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"berth/durable"
	"berth/events"
	"berth/images"
	"berth/logs"
	"berth/oci"
	"berth/supervisor"
)

// Options configure an Engine.
type Options struct {
	DataRoot, ExecRoot string
	DB                 *durable.DB
	Images             *images.Store
	Shims              *supervisor.Launcher
	Events             *events.Bus
	Log                *slog.Logger
	// WakeEngine is the command line that starts this engine again.
	WakeEngine []string
	// CgroupParent is where containers' cgroups are made; default "/berth".
	CgroupParent string
	// LogDriver and LogOpts are the defaults of containers that name none.
	LogDriver string
	LogOpts   map[string]string
	// ShutdownTimeout bounds stopping a container whose own timeout is unset.
	DefaultUlimits map[string]*container.Ulimit
}

// Engine is the door to everything below. The verbs are grouped by the types that own
// them; Engine itself only holds those together.
type Engine struct {
	Containers *Containers
	Execs      *Execs
}

// Open loads the recorded containers and brings each in line with the truth: attached
// to its living shim again, or recorded as ended by its exit record, or as lost; work
// that was cut off is finished or undone.
func Open(ctx context.Context, o Options) (*Engine, error) { panic("contract") }

// Close lets go of all shims. Containers go on.
func (e *Engine) Close() error { panic("contract") }

// Busy reports whether a container runs or a restart or removal is pending; an idle
// engine may exit.
func (e *Engine) Busy() bool { panic("contract") }

// Containers owns the life of containers. In its methods ref is a full ID, a name (with or
// without the leading slash) or a unique ID prefix; an unknown one is class NotFound
// ("No such container: REF"), an ambiguous prefix Invalid.
type Containers struct{ _ int }

// CreateRequest is what POST /containers/create brings.
type CreateRequest struct {
	Name       string // empty: one is made up
	Config     *container.Config
	HostConfig *container.HostConfig
	Networking *network.NetworkingConfig
	Platform   *oci.Platform
}

// Create records a container. A missing image is class NotFound, a taken name Conflict,
// anything that cannot be honoured Invalid or NotImplemented, in one line.
func (c *Containers) Create(ctx context.Context, r CreateRequest) (id string, warnings []string, err error) {
	panic("contract")
}

// Start starts a container; NotModified if it runs already. Error texts of the program itself hold
// the phrases by which the docker CLI chooses exit codes 126 and 127.
func (c *Containers) Start(ctx context.Context, ref string) error { panic("contract") }

// StopOptions override the container's own stop signal and timeout (seconds, -1: for
// ever).
type StopOptions struct {
	Signal  string
	Timeout *int
}

// Stop ends a container by its stop signal, then SIGKILL; NotModified if it does not run.
func (c *Containers) Stop(ctx context.Context, ref string, o StopOptions) error { panic("contract") }

// Restart stops (if it runs) and starts a container.
func (c *Containers) Restart(ctx context.Context, ref string, o StopOptions) error {
	panic("contract")
}

// Kill sends a signal (name with or without SIG, or number; empty: KILL); Conflict if
// it does not run.
func (c *Containers) Kill(ctx context.Context, ref, signal string) error { panic("contract") }

// WaitCondition of Wait.
type WaitCondition string

const (
	WaitNotRunning WaitCondition = "not-running"
	WaitNextExit   WaitCondition = "next-exit"
	WaitRemoved    WaitCondition = "removed"
)

// WaitResult is what Wait's channel delivers once.
type WaitResult struct {
	ExitCode int
	Err      error // the container could not be removed, or the engine closes
}

// Wait registers at once and delivers when the condition is met.
func (c *Containers) Wait(ctx context.Context, ref string, cond WaitCondition) (<-chan WaitResult, error) {
	panic("contract")
}

// RemoveOptions of Remove.
type RemoveOptions struct{ Force, Volumes bool }

// Remove deletes a container; Conflict if it runs and Force is not set.
func (c *Containers) Remove(ctx context.Context, ref string, o RemoveOptions) error {
	panic("contract")
}

// Rename gives a container another name.
func (c *Containers) Rename(ctx context.Context, ref, name string) error { panic("contract") }

// Pause and Unpause freeze and thaw a container.
func (c *Containers) Pause(ctx context.Context, ref string) error   { panic("contract") }
func (c *Containers) Unpause(ctx context.Context, ref string) error { panic("contract") }

// Container is a snapshot of one container. Callers must not change what it points to.
type Container struct {
	ID, Name                                         string // Name without the leading slash
	Created                                          time.Time
	Image                                            oci.Digest // image ID
	Path                                             string
	Args                                             []string
	Config                                           *container.Config // as asked, merged with the image's
	HostConfig                                       *container.HostConfig
	Networking                                       *network.NetworkingConfig
	State                                            State
	RestartCount                                     int
	Driver                                           string // layer driver
	Mounts                                           []MountPoint
	LogPath, HostsPath, HostnamePath, ResolvConfPath string
	ExecIDs                                          []string // running ones
}

// State of a container. Status is one of created, running, paused, restarting,
// removing, exited, dead.
type State struct {
	Status     string
	OOMKilled  bool
	Pid        int
	ExitCode   int
	Error      string
	StartedAt  time.Time // zero: never
	FinishedAt time.Time
}

// Running is true for paused and restarting containers too, as in Docker.
func (s State) Running() bool {
	return s.Status == "running" || s.Status == "paused" || s.Status == "restarting"
}

// MountPoint is one row of inspect's Mounts.
type MountPoint struct {
	Type, Name, Source, Destination, Driver, Mode, Propagation string
	RW                                                         bool
}

// Get returns one container, List all of them, newest first.
func (c *Containers) Get(ref string) (Container, error) { panic("contract") }
func (c *Containers) List() []Container                 { panic("contract") }

// Size measures the writable layer (rw) and the whole root file system.
func (c *Containers) Size(ctx context.Context, ref string) (rw, rootfs int64, err error) {
	panic("contract")
}

// Logs reads a container's log; a driver that cannot be read is NotImplemented.
// ReadOptions.Done is filled in by the engine.
func (c *Containers) Logs(ctx context.Context, ref string, o logs.ReadOptions, fn func(logs.Entry) error) error {
	panic("contract")
}

// Hijack takes the client's connection over from HTTP: it is called at most once, after
// all checks that can still be answered by a status, and returns the raw connection and
// the bytes that were read from it already.
type Hijack func() (conn net.Conn, prefix []byte, err error)

// AttachOptions of Attach. Replay sends what was logged before first (logs=1).
type AttachOptions struct {
	Stdin, Stdout, Stderr bool
	Stream, Replay        bool
	DetachKeys            string
}

// Attach joins a client to a container's streams. If the container does not run yet, the client is
// joined when it starts. It returns when the connection is handed over.
func (c *Containers) Attach(ctx context.Context, ref string, o AttachOptions, hijack Hijack) error {
	panic("contract")
}

// Resize sets the terminal's size; Conflict if the container does not run.
func (c *Containers) Resize(ctx context.Context, ref string, rows, cols uint16) error {
	panic("contract")
}

// Top lists processes in the columns that psArgs (default "-ef") asks for, without
// running anything from the container.
func (c *Containers) Top(ctx context.Context, ref, psArgs string) (titles []string, processes [][]string, err error) {
	panic("contract")
}

// Using names the containers that use an image, and those among them that run
// (for images.RemoveOptions).
func (c *Containers) Using(image oci.Digest) (all, running []string) { panic("contract") }

// Prune removes stopped containers for which keep is false, and tells the freed bytes.
func (c *Containers) Prune(ctx context.Context, keep func(Container) bool) (ids []string, freed int64, err error) {
	panic("contract")
}

// Execs owns further processes in containers.
type Execs struct{ _ int }

// ExecRequest is the body of POST /containers/{id}/exec.
type ExecRequest struct {
	Cmd, Env                                                 []string
	User, WorkingDir, DetachKeys                             string
	Privileged, Tty, AttachStdin, AttachStdout, AttachStderr bool
	Rows, Cols                                               uint16
}

// Create prepares an exec; Conflict if the container does not run or is paused.
func (x *Execs) Create(ctx context.Context, container string, r ExecRequest) (id string, err error) {
	panic("contract")
}

// ExecStart says how Start begins.
type ExecStart struct {
	Detach     bool
	Tty        bool
	Rows, Cols uint16
}

// Start runs an exec once. Unless detached, the client's connection is taken over and
// an error of the program itself is written into it.
func (x *Execs) Start(ctx context.Context, id string, o ExecStart, hijack Hijack) error {
	panic("contract")
}

// Exec is a snapshot of an exec. ExitCode is nil while it runs.
type Exec struct {
	ID, Container string
	Request       ExecRequest
	Running       bool
	ExitCode      *int
	Pid           int
}

// Get returns one exec. An exec that is believed to run is checked with its shim, so
// that a client whose stream just ended learns the exit code.
func (x *Execs) Get(ctx context.Context, id string) (Exec, error) { panic("contract") }

// Resize sets the size of an exec's terminal.
func (x *Execs) Resize(ctx context.Context, id string, rows, cols uint16) error {
	panic("contract")
}
