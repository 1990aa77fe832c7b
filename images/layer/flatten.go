package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"berth/archive"
	"berth/kernel"
	"berth/oci"
)

// flatten copies what the layers lowers (directories, top first) show together into the
// new directory at, which appears complete or not at all. It is made in the directory
// scratch, on the same file system.
func (s *Store) flatten(ctx context.Context, lowers []string, scratch, at string) error {
	tmp, err := os.MkdirTemp(scratch, "copy-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // whatever was not renamed
	root, err := openBeneath(tmp, "")
	if err != nil {
		return err
	}
	defer unix.Close(root)
	dirs, err := openAll(lowers)
	if err != nil {
		return err
	}
	defer closeAll(dirs)
	c := &copier{ctx: ctx, marks: s.marks, root: root, links: map[[2]uint64]string{}}
	if len(dirs) > 0 {
		if err := c.tree(dirs); err != nil {
			return err
		}
	} else if err := unix.Fchmod(root, 0o755); err != nil {
		return err
	}
	if err := unix.Syncfs(root); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	err = os.Rename(tmp, at)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTEMPTY) {
		return nil // somebody was faster
	}
	return err
}

// copier copies files out of layers, so that each copy can be changed on its own.
type copier struct {
	ctx   context.Context
	marks marks
	root  int
	links map[[2]uint64]string // files with several links: device and inode → where the copy is

	// The directory of the file before.
	dir  string
	dirs int
}

// copiedDir is a directory whose attributes are set at the end: making files in it
// changes its times, and its mode could forbid them.
type copiedDir struct {
	path string
	archive.Attributes
}

func (c *copier) tree(dirs []int) error {
	var top found
	top.fd = dirs[0]
	if err := unix.Fstat(top.fd, &top.stat); err != nil {
		return err
	}
	a, err := c.attributes(top)
	if err != nil {
		return err
	}
	made := []copiedDir{{"", a}}
	c.dirs = -1
	defer func() {
		if c.dirs >= 0 {
			unix.Close(c.dirs)
		}
	}()
	err = walkUnion(c.ctx, c.marks, dirs, "", func(f *upperFile) error {
		if err := c.file(f, &made); err != nil {
			return fmt.Errorf("copy %s: %w", f.path, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := len(made) - 1; i >= 0; i-- {
		if err := c.finishDir(made[i]); err != nil {
			return fmt.Errorf("copy %s: %w", made[i].path, err)
		}
	}
	return nil
}

func (c *copier) finishDir(d copiedDir) error {
	fd, err := c.beneath(d.path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return d.SetFile(fd, archive.Unknown, false)
}

// beneath opens a directory of the copy.
func (c *copier) beneath(p string) (int, error) {
	if p == "" {
		p = "."
	}
	return unix.Openat2(c.root, p, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV})
}

func (c *copier) attributes(f found) (archive.Attributes, error) {
	xattrs, _, err := readXattrs(c.marks, f.fd)
	return archive.Attributes{Mode: f.stat.Mode & 0o7777, UID: f.stat.Uid, GID: f.stat.Gid,
		Times: [2]unix.Timespec{f.stat.Atim, f.stat.Mtim}, Xattrs: xattrs}, err
}

func (c *copier) file(f *upperFile, made *[]copiedDir) error {
	if dir := path.Dir(f.path); c.dirs < 0 || dir != c.dir {
		if c.dirs >= 0 {
			unix.Close(c.dirs)
			c.dirs = -1
		}
		if dir == "." {
			dir = ""
		}
		fd, err := c.beneath(dir)
		if err != nil {
			return err
		}
		c.dirs, c.dir = fd, path.Dir(f.path)
	}
	a, err := c.attributes(f.found)
	if err != nil {
		return err
	}
	if f.isDir() {
		*made = append(*made, copiedDir{f.path, a})
		return unix.Mkdirat(c.dirs, f.name, 0o700)
	}
	if f.stat.Nlink > 1 {
		id := [2]uint64{f.stat.Dev, f.stat.Ino}
		if first, ok := c.links[id]; ok {
			return unix.Linkat(c.root, first, c.dirs, f.name, 0)
		}
		c.links[id] = f.path
	}
	switch f.stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		fd, err := kernel.OpenAt(c.dirs, f.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return err
		}
		err = c.content(f, fd)
		if err == nil {
			err = a.SetFile(fd, archive.Unknown, false)
		}
		return errors.Join(err, unix.Close(fd))
	case unix.S_IFLNK:
		target, err := f.target()
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(target, c.dirs, f.name); err != nil {
			return err
		}
		return a.SetNode(c.dirs, f.name, archive.Unknown, true)
	}
	if err := unix.Mknodat(c.dirs, f.name, f.stat.Mode&unix.S_IFMT|0o600, int(f.stat.Rdev)); err != nil {
		return err
	}
	return a.SetNode(c.dirs, f.name, archive.Unknown, false)
}

// target reads a symlink.
func (f *upperFile) target() (string, error) {
	b := make([]byte, maxPath+1)
	n, err := unix.Readlinkat(f.fd, "", b)
	return string(b[:max(n, 0)]), err
}

// content copies a regular file: sharing its blocks where the file system can, and
// otherwise without its holes.
func (c *copier) content(f *upperFile, to int) error {
	in, err := os.Open(archive.ProcPath(f.fd))
	if err != nil {
		return err
	}
	defer in.Close()
	from := int(in.Fd())
	if unix.IoctlFileClone(to, from) == nil {
		return nil
	}
	if err := unix.Ftruncate(to, f.stat.Size); err != nil {
		return err
	}
	for at := int64(0); at < f.stat.Size; {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		data, err := unix.Seek(from, at, unix.SEEK_DATA)
		if err == unix.ENXIO { // nothing but a hole
			return nil
		}
		hole := f.stat.Size
		if err == nil {
			hole, err = unix.Seek(from, data, unix.SEEK_HOLE)
		} else if err == unix.EINVAL { // this file system knows no holes
			data, err = at, nil
		}
		if err == nil {
			err = c.span(from, to, data, hole)
		}
		if err != nil {
			return err
		}
		at = hole
	}
	return nil
}

// span copies the bytes from start to end.
func (c *copier) span(from, to int, start, end int64) error {
	b := archive.TakeBuffer()
	defer b.GiveBack()
	for start < end {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		n, err := unix.Pread(from, b[:min(end-start, int64(len(b)))], start)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		if err := archive.WriteAt(to, b[:n], start); err != nil {
			return err
		}
		start += int64(n)
	}
	return nil
}

// flat is a directory with all that chain and its ancestors show, made when first asked
// for and kept with the layer of chain. topFirst are the chain IDs of the stack.
func (s *Store) flat(ctx context.Context, topFirst []oci.Digest) (string, error) {
	lowers, err := s.lowers(topFirst)
	if err != nil {
		return "", err
	}
	if len(topFirst) == 0 {
		return filepath.Join(s.root, "empty", "0"), nil
	}
	dir, err := s.dir(topFirst[0])
	if err != nil {
		return "", err
	}
	at := filepath.Join(dir, "flat")
	if _, err := os.Lstat(at); err == nil {
		return at, nil
	}
	if err := s.flatten(ctx, lowers, filepath.Join(s.root, "staging"), at); err != nil {
		return "", fmt.Errorf("merge %d layers: %w", len(lowers), err)
	}
	return at, nil
}
