// Package kernel holds what the parts of Berth share of the Linux kernel's interface:
// paths resolved by descriptor, detached mounts, process descriptors. Its rooms are
// stage (prepared children), cgroup, seccomp and rlimit.
package kernel

import (
	"os"

	"golang.org/x/sys/unix"
)

// OpenIn opens path inside the directory root, as if root were "/": symbolic links,
// also absolute ones, and ".." stay inside, and magic links of /proc are refused
// (openat2(2) with RESOLVE_IN_ROOT). flags are those of open(2); O_CLOEXEC is added.
func OpenIn(root *os.File, path string, flags int, mode uint32) (*os.File, error) {
	if path == "" {
		path = "."
	}
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Mode:    uint64(mode),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(int(root.Fd()), path, &how)
		switch err {
		case nil:
			return os.NewFile(uintptr(fd), path), nil
		case unix.EINTR, unix.EAGAIN: // EAGAIN: a rename raced with a ".."
			continue
		}
		return nil, &os.PathError{Op: "openat2", Path: path, Err: err}
	}
}

// OpenAt is openat(2) with O_CLOEXEC, again when a signal interrupts it.
func OpenAt(dirfd int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags|unix.O_CLOEXEC, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
