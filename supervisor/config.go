// Package supervisor is both sides of the shim: the process that stands behind one
// container and outlives the engine, and the engine's client of it.
//
// A shim is the parent of its container's init. It owns the standard streams, the
// terminal, the log and the exit record, and serves a versioned protocol on
// <RunDir>/shim.sock. Clients' connections are handed to it as descriptors, so
// attach and exec sessions go on when the engine is replaced.
//
// # Life of a shim
//
// The engine keeps a few shims started and idle, each with one end of a socket pair as
// descriptor 3. The first request on it is create; a shim whose engine goes away before
// that ends at once, and so does one whose engine goes away between create and start,
// with its container. From start on it needs no engine: it listens on shim.sock, and
// engines may come and go.
//
// When init has ended, the shim reads the streams to their end, closes the log, takes
// the cgroup down, writes exit.json, removes shim.sock and state.json, tells the engines
// that are connected, closes the clients' connections after what they are owed was
// written, and ends. If no engine took the news, it runs Config.WakeEngine.
//
// # Signals and survival
//
// A shim has a session of its own and ignores SIGHUP, SIGINT, SIGQUIT, SIGTERM and
// SIGPIPE: nothing that is sent to the engine's process group or terminal ends it, and
// neither does kill without -9. It stays in the cgroup of the engine that started it: a
// service manager must be told to kill the engine alone (KillMode=process in systemd).
// If it is killed all the same, a guardian process (see guardian.go) kills the container
// through its cgroup and writes exit.json with code 137 and the reason "supervisor lost".
package supervisor

import (
	"net"
	"path/filepath"
	"time"

	"berth/logs"
	oci "berth/oci/bundle"
	"berth/supervisor/external"
)

// Runtime is an OCI runtime other than ours: a program with runc's command line.
type Runtime = external.Runtime

// Config is all that a shim needs to make and keep one container.
type Config struct {
	ID     string     `json:"id"`
	Dir    string     `json:"dir"`    // durable: exit.json is written here
	RunDir string     `json:"runDir"` // gone at reboot: shim.sock, state.json
	Spec   *oci.Spec  `json:"-"`      // see wireConfig
	Root   oci.Rootfs `json:"root"`

	// Sources are of mounts in Spec that need more than their path.
	Sources []Source `json:"sources,omitempty"`

	// Runtime makes the container; nil: the shim itself does.
	Runtime *Runtime `json:"runtime,omitempty"`

	// User is Docker's --user, resolved by the container's own files; it and Groups
	// (--group-add) replace Spec.Process.User, and HOME is added to the environment
	// if it is not there.
	User   string   `json:"user,omitempty"`
	Groups []string `json:"groups,omitempty"`

	// Network is what the shim does for the container's network; nil: nothing.
	Network *Network `json:"network,omitempty"`

	// Health is the container's health check; nil: it has none.
	Health *Health `json:"health,omitempty"`

	OpenStdin bool         `json:"openStdin,omitempty"` // keep stdin open for attached clients
	StdinOnce bool         `json:"stdinOnce,omitempty"` // close it when the first attached client leaves
	LogPath   string       `json:"logPath,omitempty"`   // empty: no files are written
	Log       logs.Options `json:"log"`

	Policy
	// Volatile: the exit record need not survive a power loss (--rm).
	Volatile bool `json:"volatile,omitempty"`
}

// Policy says what a shim does on its own when no engine is connected.
type Policy struct {
	// WakeEngine is the command that starts the engine, run after the container has
	// ended if no engine is connected then; empty if nothing has to be done at its end.
	// It must be harmless where an engine runs already.
	WakeEngine []string `json:"wakeEngine,omitempty"`
	// WakeUnhealthy runs it too while the container is unhealthy.
	WakeUnhealthy bool `json:"wakeUnhealthy,omitempty"`
	// Condemned: the container is being ended for its health. Its probes stop, so that
	// the exit record says why.
	Condemned bool `json:"condemned,omitempty"`
}

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
	Execs     map[string]ExecState `json:"execs,omitempty"`  // also ended ones, for five minutes
	Health    *HealthState         `json:"health,omitempty"` // nil without a health check, and before start
	Exit      *ExitRecord          `json:"exit,omitempty"`
}

// ExecState is what a shim knows of an exec'd process.
type ExecState struct {
	Pid      int       `json:"pid"`
	Running  bool      `json:"running"`
	ExitCode int       `json:"exitCode"`
	ExitedAt time.Time `json:"exitedAt"`
}

// Kinds of an Event.
const (
	EventExit     = "exit"
	EventExecExit = "exec-exit"
	EventOOM      = "oom"    // a process of the container was killed for memory
	EventDetach   = "detach" // a client typed its detach keys
	EventProbe    = "probe"  // the health check is about to be executed
	EventProbed   = "probed" // its process has ended
	EventHealth   = "health" // what came of it
)

// Event is something a shim tells the engine without being asked.
type Event struct {
	Kind   string       `json:"kind"` // one of the above
	ExecID string       `json:"execID,omitempty"`
	Exit   *ExitRecord  `json:"exit,omitempty"`   // for exit
	Exec   *ExecState   `json:"exec,omitempty"`   // for exec-exit and probed
	Health *HealthState `json:"health,omitempty"` // for health; of the log the latest probe alone
}

const (
	socketName = "shim.sock"
	stateName  = "state.json"
	exitName   = "exit.json"
	crashName  = "shim.log" // a panic of the shim; empty and removed otherwise
	bundleName = "oci"      // directory of an external runtime
)

func exitPath(dir string) string { return filepath.Join(dir, exitName) }
