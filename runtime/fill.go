package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
	"berth/kernel"
)

// Names beside a volume's directory, where no container can reach.
const (
	filling = "filling" // a copy that is not complete
	filled  = "filled"  // one whose entries are being moved into the volume
)

// Filling says how a volume is filled.
type Filling struct {
	// Staged: where home is on the volume's file system, a copy becomes visible entry by entry
	// when it is complete, and what a crash leaves is finished or done anew by the next Fill.
	Staged bool
	// Flushed: what is visible survives a power failure.
	Flushed bool
	// Label is SELinux's, for the copies; "": none.
	Label string
}

// Fill copies what root, a container's root, has at dest into the directory data of a
// volume, if that is empty. home is a directory that only we can reach: it is locked, so
// that starts that come together do not interleave.
func Fill(ctx context.Context, root *os.File, dest string, data, home *os.File, how Filling) error {
	from, err := kernel.OpenIn(root, dest, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		from = nil
	case errors.Is(err, unix.ENOTDIR):
		return fail.New(fail.Invalid, "cannot mount volume over existing file, file exists %s", dest)
	case err != nil:
		return fmt.Errorf("copy %s into the volume: %w", dest, err)
	default:
		defer from.Close()
	}
	if err := lockDir(ctx, home); err != nil {
		return err
	}
	defer func() { _ = unix.Flock(int(home.Fd()), unix.LOCK_UN) }()
	if err := fill(ctx, from, data, home, how); err != nil {
		return fmt.Errorf("copy %s into the volume: %w", dest, err)
	}
	return nil
}

func fill(ctx context.Context, from, data, home *os.File, how Filling) error {
	beside := how.Staged && onSameMount(data, home) && !kernel.HandsOnProject(data)
	if beside {
		if err := how.settle(data, home); err != nil {
			return err
		}
	}
	if from == nil {
		return nil
	}
	if empty, err := isEmpty(data); err != nil || !empty {
		return err
	}
	if empty, err := isEmpty(from); err != nil || empty {
		if err == nil {
			err = copyAttributes(int(from.Fd()), int(data.Fd()), "")
		}
		return err
	}
	if !beside {
		if err := copyTree(ctx, from, data, false); err != nil {
			return err
		}
		return how.finish(ctx, data)
	}
	if err := unix.Mkdirat(int(home.Fd()), filling, 0o700); err != nil {
		return err
	}
	into, err := openBelow(home, filling, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer into.Close()
	if err := copyTree(ctx, from, into, true); err != nil {
		return errors.Join(err, os.RemoveAll(filepath.Join(home.Name(), filling)))
	}
	if err := copyAttributes(int(from.Fd()), int(data.Fd()), ""); err != nil {
		return err
	}
	// Before anything is visible: the container will have run, and nobody fills it again.
	if err := how.finish(ctx, into); err != nil {
		return err
	}
	durable.Failpoint("runtime.fill.copied")
	if err := unix.Renameat(int(home.Fd()), filling, int(home.Fd()), filled); err != nil {
		return err
	}
	durable.Failpoint("runtime.fill.complete")
	return how.moveIn(into, data, home)
}

// finish does what is left to do with a copy before anybody may believe in it.
func (how Filling) finish(ctx context.Context, copied *os.File) error {
	if how.Label != "" {
		if err := kernel.Label(ctx, copied, how.Label); err != nil {
			return err
		}
	}
	return how.flush(copied)
}

func (how Filling) flush(copied *os.File) error {
	if !how.Flushed {
		return nil
	}
	return os.NewSyscallError("syncfs", unix.Syncfs(int(copied.Fd())))
}

// settle deals with what a copier that was killed has left.
func (how Filling) settle(data, home *os.File) error {
	if err := os.RemoveAll(filepath.Join(home.Name(), filling)); err != nil {
		return err
	}
	rest, err := openBelow(home, filled, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer rest.Close()
	return how.moveIn(rest, data, home)
}

// moveIn moves the entries of a complete copy into the volume. What somebody has put there
// meanwhile stays.
func (how Filling) moveIn(from, data, home *os.File) error {
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	names, err := from.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		err := unix.Renameat2(int(from.Fd()), name, int(data.Fd()), name, unix.RENAME_NOREPLACE)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	if how.Flushed {
		if err := data.Sync(); err != nil {
			return err
		}
	}
	return os.RemoveAll(filepath.Join(home.Name(), filled))
}

func isEmpty(dir *os.File) (bool, error) {
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	_, err := dir.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		err = nil
		_, seekErr := dir.Seek(0, io.SeekStart)
		return true, seekErr
	}
	if err != nil {
		return false, err
	}
	_, err = dir.Seek(0, io.SeekStart)
	return false, err
}

// onSameMount tells whether files can be renamed from one directory to the other.
func onSameMount(a, b *os.File) bool {
	var x, y unix.Statx_t
	for f, st := range map[*os.File]*unix.Statx_t{a: &x, b: &y} {
		if unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, st) != nil || st.Mask&unix.STATX_MNT_ID == 0 {
			return false
		}
	}
	return x.Mnt_id == y.Mnt_id
}

// lockDir takes the exclusive lock of a directory, until ctx ends. A waiter that gives up
// leaves a goroutine behind that ends with the wait.
func lockDir(ctx context.Context, dir *os.File) error {
	fd, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 3) // the same lock; ours to close late
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	got := make(chan error, 1)
	go func() {
		for {
			if err := unix.Flock(fd, unix.LOCK_EX); err != unix.EINTR {
				got <- err
				return
			}
		}
	}()
	select {
	case err := <-got:
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("lock %s: %w", dir.Name(), err)
		}
		return nil
	case <-ctx.Done():
		go func() {
			<-got
			_ = unix.Flock(fd, unix.LOCK_UN)
			unix.Close(fd)
		}()
		return ctx.Err()
	}
}
