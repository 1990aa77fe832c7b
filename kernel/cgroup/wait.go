package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// waitReadable blocks in the runtime poller until f is readable or ctx is done. f must
// be in non-blocking mode.
func waitReadable(ctx context.Context, f *os.File) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 && err == nil
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}

// waitExit blocks until the process pid has ended (a zombie has).
func waitExit(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err == unix.EINVAL { // PIDFD_NONBLOCK is of Linux 5.10
		if fd, err = unix.PidfdOpen(pid, 0); err == nil {
			unix.SetNonblock(fd, true)
		}
	}
	if err != nil {
		if err == unix.ESRCH || err == unix.EINVAL { // EINVAL: a thread, its process has ended
			return nil
		}
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	return waitReadable(ctx, f)
}

// waitFile blocks until the v2 events file (cgroup.events, memory.events) satisfies
// done; the kernel reports every change of such a file through inotify(7).
func waitFile(ctx context.Context, path string, done func() (bool, error)) error {
	f, err := inotify(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 4096)
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if err := waitReadable(ctx, f); err != nil {
			return err
		}
		if _, err := f.Read(buf); err != nil {
			return err
		}
	}
}

func inotify(path string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY|unix.IN_DELETE_SELF); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "watch", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// retry calls try until it is done, for the few states v1 gives no event of. The pause
// grows from 50 µs to 10 ms.
func retry(ctx context.Context, try func() (bool, error)) error {
	pause := 50 * time.Microsecond
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		if ok, err := try(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		}
		pause = min(2*pause, 10*time.Millisecond)
		timer.Reset(pause)
	}
}
