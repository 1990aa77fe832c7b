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

// waitFile blocks until the v2 events file (cgroup.events, memory.events) satisfies done,
// which is asked at first and after every change.
func waitFile(ctx context.Context, path string, done func() (bool, error)) error {
	f, err := watchFile(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.wait(ctx, done)
}

// watchedFile is a v2 events file whose changes wake the runtime poller, as the kernel reports
// them through poll(2) as well as through inotify(7). An inotify instance for each container
// would soon be too many: a user has 128.
type watchedFile struct{ *os.File }

func watchFile(path string) (watchedFile, error) {
	fd, err := open(path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return watchedFile{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return watchedFile{os.NewFile(uintptr(fd), path)}, nil
}

func (f watchedFile) wait(ctx context.Context, done func() (bool, error)) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		// A change is reported once: again only after somebody has read through this descriptor.
		var b [16]byte
		if _, failed = unix.Pread(int(fd), b[:], 0); failed != nil {
			failed = &os.PathError{Op: "read", Path: f.Name(), Err: failed}
			return true
		}
		var ok bool
		ok, failed = done()
		return ok || failed != nil
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return errors.Join(failed, err)
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
