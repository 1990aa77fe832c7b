// Package runtime turns one OCI bundle into one running container: namespaces,
// root, mounts, cgroup, capabilities, seccomp, and the process itself.
//
// The process that becomes the container never runs Go: the specification is
// compiled into a list of system calls (package kernel/stage), and a forked child
// walks through it.
package runtime

import (
	"os"

	oci "berth/oci/bundle"
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
	// Binds are detached mounts that stand for the sources of bind mounts, by the mounts'
	// destinations in Spec. Prepare may still fill it. They stay the caller's.
	Binds map[string]*os.File
	// NoNewKeyring leaves the session keyring of the caller in place.
	NoNewKeyring bool
	// ExecFifo makes the container's process wait, when it is created, until someone writes
	// a byte to this named pipe, instead of for Start of this very process. The creator
	// may then exit. The program is looked for in Create.
	ExecFifo string
	// NoPivot enters the root with chroot instead of pivot_root (for a ramfs host).
	NoPivot bool
}
