package kernel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// A container's process can execute /proc/self/exe while that still is the program that
// set it up, and from then on whoever may look into it reaches the program's file through
// /proc/PID/exe: a writable one could be replaced by something that the host executes
// (CVE-2019-5736). So what sets up containers is executed from a place without a way to
// the file that could be written to.

// ProtectedProgram opens the program at path so that it can be executed by the name that
// ExecPath gives, protected from the containers it makes. Close it when that is done: it
// is then that nobody can make the mount writable again, for it belongs to no mount
// namespace any more.
//
// It is a detached read-only mount of the file, or, where mounting is not permitted, a
// copy in sealed memory.
func ProtectedProgram(path string) (*os.File, error) {
	f, err := CloneTree(path, false)
	if err == nil {
		if err = SetMount(f, false, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err == nil {
			return f, nil
		}
		f.Close()
	}
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return nil, err
	}
	f, copyErr := sealedCopy(path)
	if copyErr != nil {
		return nil, fmt.Errorf("protect %s from containers: %w", path, errors.Join(err, copyErr))
	}
	return f, nil
}

// ExecPath is a name by which this process, or one it starts, can execute f. It is not one
// of /proc/self, because os.StartProcess moves descriptors about in the child.
func ExecPath(f *os.File) string {
	return "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(f.Fd()))
}

const sealed = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// sealedCopy copies a program into memory that nobody can change.
func sealedCopy(path string) (*os.File, error) {
	program, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	fd, err := unix.MemfdCreate("berth", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 every one can be executed
		fd, err = unix.MemfdCreate("berth", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), path)
	if _, err := io.Copy(f, program); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, sealed); err != nil {
		f.Close()
		return nil, os.NewSyscallError("fcntl", err)
	}
	return f, nil
}

// IsProtected tells whether this process executes a program opened by ProtectedProgram.
func IsProtected() bool {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return false
	}
	defer f.Close()
	if seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); err == nil {
		return seals&sealed == sealed
	}
	// The root of a detached mount has no name but "/". A read-only mount with a name could
	// be made writable by its owner, e.g. to replace the program, while containers run.
	name, err := os.Readlink("/proc/self/exe")
	if err != nil || name != "/" {
		return false
	}
	var st unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &st) == nil && st.Flags&unix.ST_RDONLY != 0
}
