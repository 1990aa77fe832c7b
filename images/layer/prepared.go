package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"berth/archive"
	"berth/durable"
	"berth/kernel"
	"berth/oci"
)

// A prepared root, of the driver "copy", is a copy of all that the layers show:
//
//	<dir>/rootfs    the copy, which the container changes
//	<dir>/prepared  an empty file: what changed in rootfs before it was made is our copying
const (
	preparedRoot = "rootfs"
	preparedMark = "prepared"
)

// prepare makes a writable root of the layers lowers (top first) in dir, if it is not
// there yet.
func (s *Store) prepare(ctx context.Context, lowers []string, dir string) (string, error) {
	root, mark := filepath.Join(dir, preparedRoot), filepath.Join(dir, preparedMark)
	if _, err := os.Lstat(mark); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return root, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	left, err := filepath.Glob(filepath.Join(dir, "copy-*")) // by a crash
	if err != nil {
		return "", err
	}
	for _, old := range append(left, root) {
		if err := os.RemoveAll(old); err != nil {
			return "", err
		}
	}
	if err := s.flatten(ctx, lowers, dir, root); err != nil {
		return "", err
	}
	f, err := os.OpenFile(mark, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	return root, errors.Join(f.Sync(), f.Close(), durable.SyncDir(dir)) // also the root's name
}

// walkPrepared is walkWritable for a prepared root: it compares with the layers.
func (s *Store) walkPrepared(ctx context.Context, chains []oci.Digest, dir string, visit func(*upperFile) error) error {
	topFirst := slices.Clone(chains)
	slices.Reverse(topFirst)
	lowers, err := s.lowers(topFirst)
	if err != nil {
		return err
	}
	root, err := openWritable(filepath.Join(dir, preparedRoot))
	if err != nil {
		return err
	}
	defer unix.Close(root)
	w := preparedWalk{ctx: ctx, marks: s.marks, visit: visit}
	var mark unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, preparedMark), &mark); err == nil {
		w.prepared = mark.Ctim
	}
	dirs, err := openAll(lowers)
	if err != nil {
		return err
	}
	defer closeAll(dirs)
	return w.dir(root, dirs, "", func() error { return nil })
}

type preparedWalk struct {
	ctx      context.Context
	marks    marks
	visit    func(*upperFile) error
	prepared unix.Timespec // what was changed before is as it was copied
}

// dir visits the changes in the directory fd, which lower layers show as dirs. announce
// visits the directory itself, and those that lead to it, if that has not been done.
func (w *preparedWalk) dir(fd int, dirs []int, path string, announce func() error) error {
	here, err := readNames(fd)
	if err != nil {
		return err
	}
	below, err := union(w.marks, dirs)
	if err != nil {
		return err
	}
	known := make(map[string]unionEntry, len(below))
	names := here
	for _, e := range below {
		known[e.name] = e
		names = append(names, e.name)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		e, was := known[name]
		f := upperFile{path: join(path, name), name: name, replaces: was}
		if len(f.path) > maxPath {
			return errTooDeep
		}
		err := f.open(fd)
		switch {
		case err == unix.ENOENT && was:
			f.whiteout = true
			if err = announce(); err == nil {
				err = w.visit(&f)
			}
		case err == unix.ENOENT:
			err = nil
		case err == nil:
			err = w.file(&f, e, dirs, announce)
			unix.Close(f.fd)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *preparedWalk) file(f *upperFile, e unionEntry, dirs []int, announce func() error) error {
	announced := false
	tell := func() error {
		if announced {
			return nil
		}
		announced = true
		if err := announce(); err != nil {
			return err
		}
		return w.visit(f)
	}
	var sub []int
	if f.replaces {
		old := upperFile{name: f.name, path: f.path}
		if err := old.open(dirs[e.in[0]]); err != nil {
			return err
		}
		defer unix.Close(old.fd)
		same, err := w.same(f, &old)
		if err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
		if f.isDir() && old.isDir() {
			if sub, err = e.enter(w.marks, dirs); err != nil {
				return err
			}
			defer closeAll(sub)
		} else if f.isDir() {
			f.opaque = true
		}
		if !same {
			if err := tell(); err != nil {
				return err
			}
		}
	} else if err := tell(); err != nil {
		return err
	}
	if !f.isDir() {
		return nil
	}
	fd, err := kernel.OpenAt(f.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	defer unix.Close(fd)
	return w.dir(fd, sub, f.path, tell)
}

// same reports whether f is still what it was copied from.
func (w *preparedWalk) same(f, old *upperFile) (bool, error) {
	a, b := &f.stat, &old.stat
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Mtim != b.Mtim || a.Rdev != b.Rdev || !f.isDir() && a.Size != b.Size {
		return false, nil
	}
	// Nobody can set the time of the last change.
	if c := a.Ctim; c.Sec < w.prepared.Sec || c.Sec == w.prepared.Sec && c.Nsec < w.prepared.Nsec {
		return true, nil
	}
	return sameContent(w.ctx, w.marks, f, old)
}

// sameContent compares what stat(2) does not tell of two files of the same type and size.
func sameContent(ctx context.Context, m marks, f, old *upperFile) (bool, error) {
	fx, _, err := readXattrs(m, f.fd)
	if err != nil {
		return false, err
	}
	ox, _, err := readXattrs(m, old.fd)
	if err != nil || !sameXattrs(fx, ox) {
		return false, err
	}
	switch f.stat.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		to, err := f.target()
		if err != nil {
			return false, err
		}
		was, err := old.target()
		return to == was, err
	case unix.S_IFREG:
		return sameBytes(ctx, f, old)
	}
	return true, nil
}

func sameXattrs(a, b []archive.Xattr) bool {
	less := func(x, y archive.Xattr) int { return bytes.Compare([]byte(x.Name), []byte(y.Name)) }
	slices.SortFunc(a, less)
	slices.SortFunc(b, less)
	return slices.Equal(a, b)
}

func sameBytes(ctx context.Context, f, old *upperFile) (bool, error) {
	a, err := os.Open(archive.ProcPath(f.fd))
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := os.Open(archive.ProcPath(old.fd))
	if err != nil {
		return false, err
	}
	defer b.Close()
	x, y := archive.TakeBuffer(), archive.TakeBuffer()
	defer x.GiveBack()
	defer y.GiveBack()
	for {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		n, errA := archive.Fill(a, x[:])
		m, errB := archive.Fill(b, y[:])
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if errA == io.EOF && errB == io.EOF {
			return true, nil
		}
		if errA != nil || errB != nil {
			if errA == io.EOF || errB == io.EOF {
				return false, nil
			}
			return false, errors.Join(errA, errB)
		}
	}
}
