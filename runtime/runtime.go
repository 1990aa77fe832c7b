// Package runtime turns one OCI bundle into one running container: namespaces,
// root, mounts, cgroup, capabilities, seccomp, and the process itself.
//
// The process that becomes the container never runs Go: the specification is
// compiled into a list of system calls (package kernel/stage), and a forked child
// walks through it.
package runtime

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci"
)

// Config is what a container is made from.
type Config struct {
	ID     string
	Bundle string // directory against which relative paths of Spec are resolved; may be empty
	Spec   *oci.Spec
	Root   oci.Rootfs // zero: Spec.Root.Path in Bundle
	// Stdio are descriptors 0, 1, 2 of the process; nil ones read and write /dev/null.
	// Ignored when Spec.Process.Terminal is set.
	Stdio [3]*os.File
	// Extra become descriptors 3, 4, … of the process (--preserve-fds).
	Extra []*os.File
	// Prepare, if not nil, is called when the root file system is mounted and before the
	// process is made from Spec, which it may still change: the supervisor resolves the
	// user there (ResolveUser on root). Its error ends Create as it is.
	Prepare func(root *os.File) error
	// NoNewKeyring leaves the session keyring of the caller in place.
	NoNewKeyring bool
	// NoPivot enters the root with chroot instead of pivot_root (for a ramfs host).
	NoPivot bool
}

// Container is a container made by this process. The caller must be the parent for
// as long as it lives, and must reap it through Wait.
type Container struct{ Process }

// Process is one process of a container that the caller started: init, or one made
// by Exec.
type Process struct{ _ int }

// Exit tells how a process ended.
type Exit struct {
	Code   int // exit status, or 128 + signal
	Signal unix.Signal
	At     time.Time
}

// Create builds the container up to the point of executing its process, and runs
// the prestart, createRuntime and createContainer hooks. A program that is missing
// or not executable fails in Start, not here; an unknown user fails here.
// On failure nothing is left behind.
func Create(ctx context.Context, cfg Config) (*Container, error) { panic("contract") }

// Start lets the process execute and runs the startContainer and poststart hooks.
// It returns when execve has succeeded or failed. A failure has class NotFound
// when the program does not exist (exit code 127) and Forbidden when it may not be
// executed (126); its text is what Docker users know, e.g.
//
//	exec: "nope": executable file not found in $PATH
//	exec: "/etc/passwd": permission denied
func (c *Container) Start(ctx context.Context) error { panic("contract") }

// Pid is the process's pid in the caller's pid namespace.
func (p *Process) Pid() int { panic("contract") }

// Console is the master side of the process's terminal, nil without one. The
// Process owns it; it is closed by Release.
func (p *Process) Console() *os.File { panic("contract") }

// Wait blocks until the process has ended, reaps it and tells how. It may be called
// from one goroutine only.
func (p *Process) Wait() (Exit, error) { panic("contract") }

// Signal sends sig to the process alone. A process that has ended gives class
// NotFound.
func (p *Process) Signal(sig unix.Signal) error { panic("contract") }

// Release closes what the caller holds of the process.
func (p *Process) Release() { panic("contract") }

// ExecConfig is a further process for a running container.
type ExecConfig struct {
	Process *oci.Process
	Stdio   [3]*os.File // as in Config
	Extra   []*os.File
	// UnknownUserText is unused by the runtime: Process.User is numeric. Names are
	// resolved by ResolveUser.
}

// Exec starts a further process in the container's namespaces, cgroup and
// confinement. Errors of the program itself are classed as in Start.
func (c *Container) Exec(ctx context.Context, cfg ExecConfig) (*Process, error) { panic("contract") }

// ResolveUser turns Docker's user syntax (name, uid, name:group, uid:gid) and extra
// group names into numbers by the container's own /etc/passwd and /etc/group, read
// beneath root. An empty user is 0:0. home is the user's home directory ("/" if it is
// not listed). An unknown name is class Invalid with Docker's text:
//
//	unable to find user nobodyhere: no matching entries in passwd file
func ResolveUser(root *os.File, user string, groups []string) (u oci.User, home string, err error) {
	panic("contract")
}

// Root is the container's root directory, as a descriptor that works for
// openat2(RESOLVE_IN_ROOT) also from outside its mount namespace. The Container
// owns it.
func (c *Container) Root() *os.File { panic("contract") }

// Pids lists the container's processes as pids of the caller's namespace.
func (c *Container) Pids() ([]int, error) { panic("contract") }

// SignalAll sends sig to every process of the container.
func (c *Container) SignalAll(sig unix.Signal) error { panic("contract") }

// Pause freezes the container, Resume lets it go on.
func (c *Container) Pause(ctx context.Context) error  { panic("contract") }
func (c *Container) Resume(ctx context.Context) error { panic("contract") }

// Update changes the limits of the container's cgroup.
func (c *Container) Update(res *oci.LinuxResources) error { panic("contract") }

// OOMKills counts the container's processes that the kernel killed for memory.
func (c *Container) OOMKills() (uint64, error) { panic("contract") }

// Destroy kills what is left of the container, removes its cgroup, runs the poststop
// hooks and closes everything. It is safe after any partial life.
func (c *Container) Destroy(ctx context.Context) error { panic("contract") }
