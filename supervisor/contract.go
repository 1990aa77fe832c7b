// Package supervisor is both sides of the shim: the process that stands behind one
// container and outlives the engine, and the engine's client of it.
//
// A shim is the parent of its container's init. It owns the standard streams, the
// terminal, the log and the exit record, and serves a versioned protocol on
// <RunDir>/shim.sock. Clients' connections are handed to it as descriptors, so
// attach and exec sessions go on when the engine is replaced.
package supervisor

import (
	"context"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"berth/logs"
	"berth/oci"
)

// ProtocolVersion counts incompatible changes of the protocol.
const ProtocolVersion = 1

// Config is all that a shim needs to make and keep one container.
type Config struct {
	ID     string     `json:"id"`
	Dir    string     `json:"dir"`    // durable: exit.json is written here
	RunDir string     `json:"runDir"` // gone at reboot: shim.sock, state.json
	Spec   *oci.Spec  `json:"spec"`
	Root   oci.Rootfs `json:"root"`

	// User is Docker's --user, resolved by the container's own files; it and Groups
	// (--group-add) replace Spec.Process.User, and HOME is added to the environment
	// if it is not there.
	User   string   `json:"user,omitempty"`
	Groups []string `json:"groups,omitempty"`

	OpenStdin bool         `json:"openStdin,omitempty"` // keep stdin open for attached clients
	StdinOnce bool         `json:"stdinOnce,omitempty"` // close it when the first attached client leaves
	LogPath   string       `json:"logPath,omitempty"`   // empty: nothing is logged
	Log       logs.Options `json:"log"`

	// WakeEngine is the command that starts the engine, run after the container has
	// ended if no engine is connected then; empty if nothing has to be done at its end.
	WakeEngine []string `json:"wakeEngine,omitempty"`
	// Volatile: the exit record need not survive a power loss (--rm).
	Volatile bool `json:"volatile,omitempty"`
}

// ExitRecord is <Dir>/exit.json: how the last run of the container ended.
type ExitRecord struct {
	Code      int       `json:"code"`
	OOMKilled bool      `json:"oomKilled,omitempty"`
	Reason    string    `json:"reason,omitempty"` // "supervisor lost", …
	StartedAt time.Time `json:"startedAt"`
	ExitedAt  time.Time `json:"exitedAt"`
}

// ReadExit reads the exit record in dir; a missing one is class NotFound.
func ReadExit(dir string) (ExitRecord, error) { panic("contract") }

// RemoveExit deletes the record before the container runs again.
func RemoveExit(dir string) error { panic("contract") }

// AttachOptions say how a client's connection is joined to a process's streams.
type AttachOptions struct {
	Stdin      bool   `json:"stdin,omitempty"`
	Stdout     bool   `json:"stdout,omitempty"`
	Stderr     bool   `json:"stderr,omitempty"`
	Framed     bool   `json:"framed,omitempty"`     // Docker's 8-byte stream headers
	DetachKeys string `json:"detachKeys,omitempty"` // "ctrl-p,ctrl-q"; honoured on a terminal only; empty: none
	Prefix     []byte `json:"prefix,omitempty"`     // input that came with the request's head
}

// Attachment is a client's connection on its way to a shim. The shim side owns Conn
// from the call that takes it, also when that fails after the hand-over.
type Attachment struct {
	AttachOptions
	Conn net.Conn
}

// Exec is a further process for a running container.
type Exec struct {
	ID      string       `json:"id"`
	Process *oci.Process `json:"process"`
	User    string       `json:"user,omitempty"` // as in Config
	Groups  []string     `json:"groups,omitempty"`
}

// State is what a shim knows of its container.
type State struct {
	Version   int                  `json:"version"`
	ID        string               `json:"id"`
	ShimPid   int                  `json:"shimPid"`
	Pid       int                  `json:"pid"` // 0 before start and after exit
	Running   bool                 `json:"running"`
	Paused    bool                 `json:"paused"`
	OOMKilled bool                 `json:"oomKilled"`
	StartedAt time.Time            `json:"startedAt"`
	Execs     map[string]ExecState `json:"execs,omitempty"` // also ended ones, for five minutes
	Exit      *ExitRecord          `json:"exit,omitempty"`
}

// ExecState is what a shim knows of an exec'd process.
type ExecState struct {
	Pid      int       `json:"pid"`
	Running  bool      `json:"running"`
	ExitCode int       `json:"exitCode"`
	ExitedAt time.Time `json:"exitedAt"`
}

// Event is something a shim tells the engine without being asked.
type Event struct {
	Kind   string      `json:"kind"` // exit, exec-exit, oom, detach
	ExecID string      `json:"execID,omitempty"`
	Exit   *ExitRecord `json:"exit,omitempty"` // for exit
	Exec   *ExecState  `json:"exec,omitempty"` // for exec-exit
}

// LauncherConfig configures the engine's side.
type LauncherConfig struct {
	ShimPath string // the berth-shim binary
	Warm     int    // shims kept started and waiting
	Log      *slog.Logger
}

// Launcher makes shims.
type Launcher struct{ _ int }

// NewLauncher starts keeping warm shims. Close ends those that were not used.
func NewLauncher(cfg LauncherConfig) (*Launcher, error) { panic("contract") }

func (l *Launcher) Close() error { panic("contract") }

// Create hands cfg to a shim, which builds the container up to the point of executing
// its process, and joins the attachments to its streams so that nothing it writes is
// missed. On failure the shim is gone and nothing is left behind; error classes are
// those of runtime.Create.
func (l *Launcher) Create(ctx context.Context, cfg Config, attach []Attachment) (*Shim, error) {
	panic("contract")
}

// Reattach connects to the shim that serves runDir, after the engine was restarted.
// If none lives there the error is class NotFound.
func Reattach(ctx context.Context, runDir string) (*Shim, error) { panic("contract") }

// Shim is the engine's connection to one shim. Its methods are safe for concurrent use;
// once the shim is gone they fail with class NotFound.
type Shim struct{ _ int }

// Events delivers what happens, in order, and is closed after the exit event, or
// without one if the shim was killed. Someone must read it until it is closed.
func (s *Shim) Events() <-chan Event { panic("contract") }

// Start executes the container's process; see runtime.Container.Start for its errors.
// After a failed Start the shim has cleaned up and ends, with no exit event.
func (s *Shim) Start(ctx context.Context) (pid int, at time.Time, err error) { panic("contract") }

// Signal signals init (execID empty) or one exec'd process; all: every process of the
// container.
func (s *Shim) Signal(ctx context.Context, execID string, sig unix.Signal, all bool) error {
	panic("contract")
}

// Resize sets the size of a terminal.
func (s *Shim) Resize(ctx context.Context, execID string, rows, cols uint16) error {
	panic("contract")
}

// Exec starts a process; its streams go to the attachment (nil: nowhere). After an
// error the attachment's connection is back with the caller, who may write the error
// to it; on success it is the shim's.
func (s *Shim) Exec(ctx context.Context, e Exec, a *Attachment) (pid int, err error) {
	panic("contract")
}

// Attach joins a further client to init's streams. There is no replay.
func (s *Shim) Attach(ctx context.Context, a Attachment) error { panic("contract") }

// State asks the shim. Events that happened before are delivered before it returns.
func (s *Shim) State(ctx context.Context) (State, error) { panic("contract") }

// Pids lists the container's processes.
func (s *Shim) Pids(ctx context.Context) ([]int, error) { panic("contract") }

// Pause freezes the container, Resume lets it go on.
func (s *Shim) Pause(ctx context.Context) error  { panic("contract") }
func (s *Shim) Resume(ctx context.Context) error { panic("contract") }

// Update changes the limits of the container.
func (s *Shim) Update(ctx context.Context, res *oci.LinuxResources) error { panic("contract") }

// Root borrows the container's root directory. The caller closes it.
func (s *Shim) Root(ctx context.Context) (*os.File, error) { panic("contract") }

// Destroy ends a container that was created and never started, with its shim.
func (s *Shim) Destroy(ctx context.Context) error { panic("contract") }

// Close drops the connection; shim and container live on.
func (s *Shim) Close() error { panic("contract") }
