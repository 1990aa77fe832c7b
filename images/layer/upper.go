package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// upperFile is a file of a writable layer, for the length of a visit.
type upperFile struct {
	found
	path string // relative to the layer's root
	name string
}

func (f *upperFile) isDir() bool { return f.stat.Mode&unix.S_IFMT == unix.S_IFDIR }

// errTooDeep ends a walk at a path that no tar and no system call would take. A
// container can make such paths by going down step by step.
var errTooDeep = fail.New(fail.Invalid, "the writable layer has a path of more than %d bytes", maxPath)

// walkUpper visits every file of the writable layer in dir, each directory's in the order
// of their names and a directory before what is in it. A container may be changing them:
// what vanishes meanwhile is left out, and nothing is followed or opened but by O_PATH.
func walkUpper(ctx context.Context, dir string, visit func(*upperFile) error) error {
	fd, err := unix.Open(filepath.Join(dir, "upper"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return fail.New(fail.NotFound, "there is no writable layer in %s", dir)
	}
	if err != nil {
		return fmt.Errorf("open writable layer in %s: %w", dir, err)
	}
	return walkDir(ctx, fd, "", visit)
}

// walkDir visits what is in the directory fd, and closes it.
func walkDir(ctx context.Context, fd int, path string, visit func(*upperFile) error) error {
	d := os.NewFile(uintptr(fd), path)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil && !errors.Is(err, unix.ENOENT) { // the latter: removed meanwhile
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		f := upperFile{path: name, name: name}
		if path != "" {
			f.path = path + "/" + name
		}
		if len(f.path) > maxPath {
			return errTooDeep
		}
		f.fd, err = openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
		sub, err := f.visit(visit)
		unix.Close(f.fd)
		if err == nil && sub >= 0 {
			err = walkDir(ctx, sub, f.path, visit)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// visit calls visit, and opens f if it is a directory (-1 if it is none, or no more).
func (f *upperFile) visit(visit func(*upperFile) error) (sub int, err error) {
	if err := unix.Fstat(f.fd, &f.stat); err != nil {
		return -1, fmt.Errorf("%s: %w", f.path, err)
	}
	if err := visit(f); err != nil || !f.isDir() {
		return -1, err
	}
	sub, err = openat(f.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == unix.ENOENT {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("%s: %w", f.path, err)
	}
	return sub, nil
}

// Usage is the space that the files of a writable layer (dir as given to Rootfs) take:
// their sizes, those with several links counted once.
func (s *Store) Usage(ctx context.Context, dir string) (int64, error) {
	var sum int64
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	err := walkUpper(ctx, dir, func(f *upperFile) error {
		if f.isDir() {
			return nil
		}
		if f.stat.Nlink > 1 {
			i := inode{f.stat.Dev, f.stat.Ino}
			if seen[i] {
				return nil
			}
			seen[i] = true
		}
		sum += f.stat.Size
		return nil
	})
	if errors.Is(err, errTooDeep) {
		err = nil // a lower bound is better than no answer for the others in a list
	}
	return sum, err
}
