package layer

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	"berth/oci"
)

// upperFile is a file of a layer, for the length of a visit.
type upperFile struct {
	found
	path     string // relative to the layer's root
	name     string
	whiteout bool // there is no file: it hides what lower layers have at path
	opaque   bool // a directory that hides what lower layers have in it
	replaces bool // of a prepared root: lower layers have something there
}

func (f *upperFile) isDir() bool { return f.stat.Mode&unix.S_IFMT == unix.S_IFDIR && !f.whiteout }

// open opens f in the directory dirfd as by O_PATH. ENOENT comes unwrapped.
func (f *upperFile) open(dirfd int) error {
	fd, err := kernel.OpenAt(dirfd, f.name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err == unix.ENOENT {
		return err
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	if err := unix.Fstat(fd, &f.stat); err != nil {
		unix.Close(fd)
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.fd = fd
	return nil
}

// errTooDeep ends a walk at a path that no tar and no system call would take. A
// container can make such paths by going down step by step.
var errTooDeep = fail.New(fail.Invalid, "the writable layer has a path of more than %d bytes", maxPath)

// walkWritable visits every file that the writable layer in dir changes of the stack
// chains (lowest first), each directory's in the order of their names and a directory
// before what is in it. A container may be changing them: what vanishes meanwhile is left
// out, and nothing is followed or opened but by O_PATH.
func (s *Store) walkWritable(ctx context.Context, chains []oci.Digest, dir string, visit func(*upperFile) error) error {
	if s.driver == copyDriver {
		return s.walkPrepared(ctx, chains, dir, visit)
	}
	fd, err := openWritable(filepath.Join(dir, "upper"))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return walkMarked(ctx, s.marks, fd, "", visit)
}

func openWritable(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return -1, fail.New(fail.NotFound, "there is no writable layer in %s", filepath.Dir(path))
	}
	if err != nil {
		return -1, fmt.Errorf("open writable layer in %s: %w", filepath.Dir(path), err)
	}
	return fd, nil
}

// walkMarked visits what is in the directory fd of a layer that has marks.
func walkMarked(ctx context.Context, m marks, fd int, path string, visit func(*upperFile) error) error {
	names, err := readNames(fd)
	if err != nil {
		return err
	}
	sortMarked(names)
	for _, name := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		f := upperFile{path: join(path, name), name: name}
		if len(f.path) > maxPath {
			return errTooDeep
		}
		if err := f.open(fd); err == unix.ENOENT {
			continue
		} else if err != nil {
			return err
		}
		err := f.visitMarked(ctx, m, fd, path, visit)
		unix.Close(f.fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// sortMarked puts names in order, a whiteout where what it hides would be.
func sortMarked(names []string) {
	slices.SortFunc(names, func(a, b string) int {
		if c := strings.Compare(strings.TrimPrefix(a, whiteoutPrefix), strings.TrimPrefix(b, whiteoutPrefix)); c != 0 {
			return c
		}
		return strings.Compare(a, b)
	})
}

func (f *upperFile) visitMarked(ctx context.Context, m marks, dirfd int, path string, visit func(*upperFile) error) error {
	if hidden, isMark := m.hides(f.name, &f.stat); isMark {
		var st unix.Stat_t
		if hidden == "" || hidden != f.name && unix.Fstatat(dirfd, hidden, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			return nil // of the directory itself, or hidden by a file of this layer already
		}
		f.name, f.path, f.whiteout = hidden, join(path, hidden), true
		return visit(f)
	}
	if !f.isDir() {
		return visit(f)
	}
	f.opaque = m.isOpaque(f.fd)
	if err := visit(f); err != nil {
		return err
	}
	sub, err := kernel.OpenAt(f.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	defer unix.Close(sub)
	return walkMarked(ctx, m, sub, f.path, visit)
}

// Usage is the space that the files take that a writable layer changes (chains and dir
// as given to Rootfs): their sizes, those with several links counted once. Where no
// writable layer was made yet, it is nothing.
func (s *Store) Usage(ctx context.Context, chains []oci.Digest, dir string) (int64, error) {
	var sum int64
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	err := s.walkWritable(ctx, chains, dir, func(f *upperFile) error {
		if f.isDir() || f.whiteout {
			return nil
		}
		if f.stat.Nlink > 1 {
			i := inode{f.stat.Dev, f.stat.Ino}
			if seen[i] {
				return nil
			}
			seen[i] = true
		}
		sum += min(f.stat.Size, f.stat.Blocks*512) // holes take nothing
		return nil
	})
	if errors.Is(err, errTooDeep) || fail.Is(err, fail.NotFound) && sum == 0 {
		err = nil // a lower bound is better than no answer for the others in a list
	}
	return sum, err
}
