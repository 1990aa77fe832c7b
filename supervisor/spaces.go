package supervisor

import (
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// spaces are the network namespaces that a shim has to do with. Sockets belong to the one
// that their maker is in. They are held until the shim ends.
type spaces struct{ host, container int }

func openSpaces(pid int) (*spaces, error) {
	open := func(path string) (int, unix.Stat_t, error) {
		var st unix.Stat_t
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			if err = unix.Fstat(fd, &st); err != nil {
				unix.Close(fd)
			}
		}
		return fd, st, err
	}
	host, ours, err := open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	container, theirs, err := open("/proc/" + strconv.Itoa(pid) + "/ns/net")
	if err == nil && ours.Dev == theirs.Dev && ours.Ino == theirs.Ino {
		unix.Close(container)
		err = fail.New(fail.Invalid, "it is the host's, whose names are not ours to resolve")
	}
	if err != nil {
		unix.Close(host)
		return nil, err
	}
	return &spaces{host, container}, nil
}

// inside calls f on a thread that is in the container's namespace meanwhile. One that does
// not find back ends.
func (s *spaces) inside(f func() error) error {
	result := make(chan error, 1)
	go func() { // ends with f
		runtime.LockOSThread()
		if err := unix.Setns(s.container, unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			result <- os.NewSyscallError("setns", err)
			return
		}
		err := f()
		if unix.Setns(s.host, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

func (s *spaces) socket(family, kind int) (fd int, err error) {
	err = s.inside(func() error {
		fd, err = hostSocket(family, kind)
		return err
	})
	return fd, err
}

func hostSocket(family, kind int) (int, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	return fd, os.NewSyscallError("socket", err)
}
