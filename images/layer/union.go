package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/kernel"
)

// unionEntry is a name that a stack of layers shows in one directory.
type unionEntry struct {
	name string
	in   []int // layers that have it, top first; more than one only of a directory
}

// union lists what the directories dirs (one and the same of several layers, top first)
// show together, sorted. The descriptors are open for reading.
func union(m marks, dirs []int) ([]unionEntry, error) {
	shown, closed := map[string]*unionEntry{}, map[string]bool{}
	for i, fd := range dirs {
		names, err := readNames(fd)
		if err != nil {
			return nil, err
		}
		var hidden []string
		for _, name := range names {
			if closed[name] {
				continue
			}
			var st unix.Stat_t
			if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == unix.ENOENT {
				continue // a container's own, and gone meanwhile
			} else if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if h, isMark := m.hides(name, &st); isMark {
				hidden = append(hidden, h)
				continue
			}
			isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
			e := shown[name]
			switch {
			case e == nil:
				shown[name] = &unionEntry{name, []int{i}}
			case isDir:
				e.in = append(e.in, i)
			}
			closed[name] = !isDir
		}
		for _, h := range hidden {
			closed[h] = true
		}
	}
	all := make([]unionEntry, 0, len(shown))
	for _, e := range shown {
		all = append(all, *e)
	}
	slices.SortFunc(all, func(a, b unionEntry) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

// readNames lists the directory fd from its beginning.
func readNames(fd int) ([]string, error) {
	own, err := kernel.OpenAt(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == unix.ENOENT {
		return nil, nil // removed meanwhile
	}
	if err != nil {
		return nil, err
	}
	d := os.NewFile(uintptr(own), ".")
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return names, err
}

// enter opens the directory e in all layers that show something of it.
func (e unionEntry) enter(m marks, dirs []int) (sub []int, err error) {
	for _, i := range e.in {
		fd, err := kernel.OpenAt(dirs[i], e.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err == unix.ENOENT || err == unix.ENOTDIR {
			break
		}
		if err != nil {
			closeAll(sub)
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
		sub = append(sub, fd)
		if m.isOpaque(fd) {
			break
		}
	}
	return sub, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// openAll opens directories.
func openAll(dirs []string) (fds []int, err error) {
	for _, d := range dirs {
		fd, err := unix.Open(d, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			closeAll(fds)
			return nil, &os.PathError{Op: "open", Path: d, Err: err}
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// walkUnion visits every file that the directories dirs show together, as walkMarked
// does, with path as their own path.
func walkUnion(ctx context.Context, m marks, dirs []int, path string, visit func(*upperFile) error) error {
	entries, err := union(m, dirs)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		f := upperFile{path: join(path, e.name), name: e.name}
		if len(f.path) > maxPath {
			return errTooDeep
		}
		if err := f.open(dirs[e.in[0]]); err == unix.ENOENT {
			continue
		} else if err != nil {
			return err
		}
		err := visit(&f)
		unix.Close(f.fd)
		if err != nil || !f.isDir() {
			if err != nil {
				return err
			}
			continue
		}
		sub, err := e.enter(m, dirs)
		if err == nil {
			err = walkUnion(ctx, m, sub, f.path, visit)
		}
		closeAll(sub)
		if err != nil {
			return err
		}
	}
	return nil
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
