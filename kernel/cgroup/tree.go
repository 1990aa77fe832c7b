package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// A container that has its groups to itself may nest them as deep as it likes. So trees are
// walked by descriptors, of which one is held: a path may be longer than the kernel takes
// (PATH_MAX), and there may be more levels than a process may have open files.

// walk visits dir and the groups below it, parents first, by paths that are good during the
// visit. Groups that vanish meanwhile are passed over.
func walk(dir string, visit func(dir string) error) error {
	if err := visit(dir); err != nil {
		return err
	}
	t, err := openTree(dir)
	if t == nil {
		return err
	}
	defer t.close()
	return t.each(visit, func(int, string) error { return nil })
}

// removeTree removes a group and the groups below it, innermost first. One that is gone
// already is fine.
func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err == unix.EBUSY || err == unix.ENOTEMPTY {
		t, terr := openTree(dir)
		if t == nil {
			return terr
		}
		defer t.close()
		if terr := t.each(func(string) error { return nil }, t.remove); terr != nil {
			return terr
		}
		if err = unix.Rmdir(dir); err == nil || err == unix.ENOENT {
			return nil
		}
	}
	return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
}

// tree is a walk through the groups below top. at is where it is, levels are the way there.
type tree struct {
	top    string
	at     int
	levels []level
}

// level is a group on the way, whose groups in rest were not visited yet.
type level struct {
	name string
	rest []string
}

// openTree begins at dir; nil without an error if dir is gone.
func openTree(dir string) (*tree, error) {
	fd, err := open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		if gone(err) {
			return nil, nil
		}
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	t := &tree{top: dir, at: fd}
	names, err := groupsIn(fd)
	if err != nil && !gone(err) {
		t.close()
		return nil, &fs.PathError{Op: "read", Path: dir, Err: err}
	}
	t.levels = []level{{rest: names}}
	return t, nil
}

func (t *tree) close() { unix.Close(t.at) }

// each calls enter with a path of every group before those below it, and leave, with its
// name in the open directory above it, after them.
func (t *tree) each(enter func(path string) error, leave func(above int, name string) error) error {
	for {
		here := &t.levels[len(t.levels)-1]
		switch {
		case len(here.rest) > 0:
			name := here.rest[0]
			here.rest = here.rest[1:]
			if err := t.down(name); gone(err) {
				continue
			} else if err != nil {
				return err
			}
			if err := enter("/proc/self/fd/" + strconv.Itoa(t.at)); err != nil {
				return err
			}
		case len(t.levels) == 1:
			return nil
		default:
			name := here.name
			t.levels = t.levels[:len(t.levels)-1]
			if still, err := t.up(); err != nil || !still {
				if err != nil {
					return err
				}
				continue
			}
			if err := leave(t.at, name); err != nil {
				return err
			}
		}
	}
}

// down goes into a group.
func (t *tree) down(name string) error {
	fd, err := openGroup(t.at, name)
	if err != nil {
		return err
	}
	names, err := groupsIn(fd)
	if err != nil {
		unix.Close(fd)
		return err
	}
	t.move(fd)
	t.levels = append(t.levels, level{name, names})
	return nil
}

// up goes to the last of levels. If that is gone, with all that was below it, it goes to the
// last one above that is still there, and says so.
func (t *tree) up() (still bool, err error) {
	fd, err := openGroup(t.at, "..")
	if err == nil {
		t.move(fd)
		return true, nil
	}
	if !gone(err) {
		return false, err
	}
	if fd, err = open(t.top, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
		t.levels = t.levels[:1]
		t.levels[0].rest = nil
		if gone(err) {
			err = nil
		}
		return false, err
	}
	t.move(fd)
	for i := 1; i < len(t.levels); i++ {
		fd, err := openGroup(t.at, t.levels[i].name)
		if gone(err) {
			t.levels = t.levels[:i]
			return false, nil
		}
		if err != nil {
			return false, err
		}
		t.move(fd)
	}
	return false, nil
}

func (t *tree) move(fd int) {
	unix.Close(t.at)
	t.at = fd
}

// remove is the removal of a group for each.
func (t *tree) remove(above int, name string) error {
	err := unix.Unlinkat(above, name, unix.AT_REMOVEDIR)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	return &fs.PathError{Op: "rmdir", Path: t.top + "/…/" + name, Err: err}
}

func openGroup(dir int, name string) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// groupsIn lists the groups in an open directory. Most have none, which the link count
// tells without reading it.
func groupsIn(fd int) ([]string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Nlink == 2 {
		return nil, err
	}
	own, err := openGroup(fd, ".") // for a position of its own
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(own), "control group")
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return names, err
}

// childGroups are the paths of the groups in dir; none if it is gone.
func childGroups(dir string) ([]string, error) {
	t, err := openTree(dir)
	if t == nil {
		return nil, err
	}
	defer t.close()
	names := t.levels[0].rest
	for i := range names {
		names[i] = dir + "/" + names[i]
	}
	return names, nil
}
