package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth/durable"
)

// An engine that is started with --end-containers takes the place of the one that serves, without
// a socket, so that nobody starts anything more; it ends all containers and then itself. The
// shutdown of the machine does that by berth-containers.service, whether an engine runs or not. When
// it ends it takes bridges and rules with it, as every engine does that leaves no container.

// nothingToEnd tells that no supervisor has a directory and that no engine serves, nor was killed: such a
// one leaves its pid file, and beside it what it had on the host for networks.
func (d *daemon) nothingToEnd() (bool, error) {
	if _, err := os.Lstat(d.set.Pidfile); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	entries, err := os.ReadDir(filepath.Join(d.set.ExecRoot, "containers"))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return len(entries) == 0, err
}

// replacePatience bounds the wait for an engine that was asked to end; it lets requests finish.
const replacePatience = time.Minute

// replace ends the engine that holds the lock, and takes it.
func (d *daemon) replace(ctx context.Context, path, holder string) (*durable.Lock, error) {
	ctx, cancel := context.WithTimeout(ctx, replacePatience)
	defer cancel()
	for {
		if err := endHolder(path); err != nil {
			return nil, err
		}
		// Of one that has just begun the lock tells nothing yet.
		soon, cancel := context.WithTimeout(ctx, time.Second)
		l, err := durable.AcquireWait(soon, path, holder)
		cancel()
		if err == nil {
			return l, nil
		}
		if ctx.Err() != nil || soon.Err() == nil {
			return nil, fmt.Errorf("the engine that runs does not end: %w", err)
		}
	}
}

// endHolder asks the engine that has signed the lock to end. One that is none any more, for its
// number is another's now, is left alone.
func endHolder(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var pid int
	if _, err := fmt.Sscanf(string(text), "berthd (pid %d,", &pid); err != nil || pid <= 1 {
		return nil // it is just signing, or has ended
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err != nil || strings.TrimSpace(string(name)) != "berthd" {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, syscall.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	return nil
}

// warmShims is how many wait for the next containers.
func (d *daemon) warmShims() int {
	if d.set.EndContainers {
		return 0
	}
	return warmShims
}
