package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"berth/archive"
	"berth/kernel"
	"berth/oci"
)

// complete gives directories that the tar only implied the attributes of the same
// directory in the layers below: overlayfs shows those of the top-most one.
func (st *Staged) complete(ancestors []oci.Digest) error {
	if len(st.implicit) == 0 || len(ancestors) == 0 {
		return nil
	}
	lowers, err := st.store.lowers(ancestors)
	if err != nil {
		return err
	}
	for _, path := range st.implicit {
		if err := st.store.inherit(lowers, path, filepath.Join(st.dir, "diff")); err != nil {
			return fmt.Errorf("directory %q: %w", path, err)
		}
	}
	return nil
}

func (s *Store) inherit(lowers []string, path, diff string) error {
	below, ok, err := s.lookup(lowers, path)
	if err != nil || !ok {
		return err
	}
	defer unix.Close(below.fd)
	if below.stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	fd, err := openBeneath(diff, path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := s.copyAttributes(below, fd); err != nil {
		return err
	}
	return unix.Fsync(fd)
}

// found is a file in a stack of layers: open as by O_PATH, and what stat(2) says.
type found struct {
	fd   int
	stat unix.Stat_t
}

// copyAttributes gives the directory fd the owner, mode, attributes and times of from.
func (s *Store) copyAttributes(from found, fd int) error {
	xattrs, _, err := readXattrs(s.marks, from.fd)
	if err != nil {
		return err
	}
	a := archive.Attributes{
		Mode: from.stat.Mode & 0o7777, UID: from.stat.Uid, GID: from.stat.Gid,
		Times: [2]unix.Timespec{from.stat.Atim, from.stat.Mtim}, Xattrs: xattrs,
	}
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		return err
	}
	return a.SetFile(fd, archive.Creation{UID: now.Uid, GID: now.Gid}, false)
}

// lookup finds what a stack of layers (their directories, top first) shows at path, as
// overlayfs would: a layer's file or whiteout ends the search, an opaque directory hides
// what is below it. Symlinks are not followed. The caller closes what is found.
func (s *Store) lookup(lowers []string, path string) (found, bool, error) {
	for _, lower := range lowers {
		f, here, last, err := s.lookupOne(lower, path)
		if err != nil || here {
			return f, here, err
		}
		if last {
			break
		}
	}
	return found{}, false, nil
}

// lookupOne looks in one layer. last means that the layers below do not count.
func (s *Store) lookupOne(lower, path string) (f found, here, last bool, err error) {
	f.fd, err = unix.Open(lower, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return f, false, false, &fs.PathError{Op: "open", Path: lower, Err: err}
	}
	if err := unix.Fstat(f.fd, &f.stat); err != nil {
		unix.Close(f.fd)
		return f, false, false, err
	}
	for rest := path; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		if !last {
			last = s.marks.isOpaque(f.fd)
		}
		next, err := kernel.OpenAt(f.fd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
		hidden := errors.Is(err, unix.ENOENT) && s.marks.isHidden(f.fd, name)
		unix.Close(f.fd)
		if errors.Is(err, unix.ENOENT) {
			return found{}, false, last || hidden, nil
		}
		if err != nil {
			return found{}, false, false, err
		}
		f.fd = next
		if err := unix.Fstat(f.fd, &f.stat); err != nil {
			unix.Close(f.fd)
			return found{}, false, false, err
		}
		if _, mark := s.marks.hides(name, &f.stat); mark || rest != "" && f.stat.Mode&unix.S_IFMT != unix.S_IFDIR {
			unix.Close(f.fd)
			return found{}, false, true, nil
		}
	}
	return f, true, false, nil
}

// openBeneath opens the directory path beneath root, following no symlink.
func openBeneath(root, path string) (int, error) {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	for err == nil && path != "" {
		var name string
		name, path, _ = strings.Cut(path, "/")
		parent := fd
		fd, err = kernel.OpenAt(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		unix.Close(parent)
	}
	return fd, err
}
