package durable

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"

	"berth/fail"
)

// Lock is an flock(2) on a file, held until Release or the end of the process.
type Lock struct{ f *os.File }

// Acquire takes the lock at path, or fails at once with class Conflict and the name
// of the holder, as the holder itself wrote it.
func Acquire(path, holder string) (*Lock, error) {
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		who, _ := os.ReadFile(path)
		f.Close()
		if err == syscall.EWOULDBLOCK {
			return nil, fail.New(fail.Conflict, "%s is held by %s", path, strings.TrimSpace(string(who)))
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return sign(f, holder)
}

// AcquireWait takes the lock at path, waiting for other holders until ctx ends.
// A waiter that gives up leaves a goroutine behind that ends with the wait.
func AcquireWait(ctx context.Context, path, holder string) (*Lock, error) {
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	got := make(chan error, 1)
	go func() {
		for {
			err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
			if err != syscall.EINTR {
				got <- err
				return
			}
		}
	}()
	select {
	case err := <-got:
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return sign(f, holder)
	case <-ctx.Done():
		go func() { <-got; f.Close() }()
		return nil, ctx.Err()
	}
}

func openLock(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}

func sign(f *os.File, holder string) (*Lock, error) {
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, err
	}
	// On a full disk the lock is held all the same, by somebody who has no name.
	if _, err := f.WriteAt([]byte(holder+"\n"), 0); err != nil && !IsFull(err) {
		f.Close()
		return nil, err
	}
	return &Lock{f}, nil
}

// Release gives the lock up. The file stays, so that no two holders ever lock
// different inodes of one name.
func (l *Lock) Release() error { return l.f.Close() }
