package layer

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/oci"
)

// Diff writes the tar of what a writable layer (chains and dir as given to Rootfs)
// changes, reproducibly ordered. The form is PAX, with whiteouts as in image-spec ("Layer
// Filesystem Changeset"); the root directory itself has no entry, and sockets, which tar
// does not know, are left out.
func (s *Store) Diff(ctx context.Context, chains []oci.Digest, dir string, w io.Writer) error {
	return s.writeTar(ctx, "diff", w, func(d *differ) error { return s.walkWritable(ctx, chains, dir, d.file) })
}

// Tar writes a layer back as a tar, entry for entry what was unpacked, though not byte for
// byte: ordered by name, the later of two entries of one name, and directories that the
// tar only implied with an entry of their own.
func (s *Store) Tar(ctx context.Context, chain oci.Digest, w io.Writer) error {
	m, err := s.meta(chain)
	if err != nil {
		return err
	}
	dir, err := s.dir(chain)
	if err != nil {
		return err
	}
	fd, err := openBeneath(filepath.Join(dir, "diff"), "")
	if err != nil {
		return fmt.Errorf("layer %s: %w", chain, err)
	}
	defer unix.Close(fd)
	return s.writeTar(ctx, "layer "+chain.String(), w, func(d *differ) error {
		if m.Root {
			root := upperFile{path: ".", name: ".", opaque: m.OpaqueRoot}
			root.fd = fd
			if err := unix.Fstat(fd, &root.stat); err != nil {
				return err
			}
			if err := d.file(&root); err != nil {
				return err
			}
		} else if m.OpaqueRoot {
			if err := d.mark(whiteoutOpaque); err != nil {
				return err
			}
		}
		return walkMarked(ctx, s.marks, fd, "", d.file)
	})
}

// Export writes the tar of the whole root file system that chains and the writable layer
// in dir show together (chains and dir as given to Rootfs; an empty dir: without one).
func (s *Store) Export(ctx context.Context, chains []oci.Digest, dir string, w io.Writer) error {
	topFirst := slices.Clone(chains)
	slices.Reverse(topFirst)
	stack, err := s.lowers(topFirst)
	if err != nil {
		return err
	}
	if dir != "" && s.driver == copyDriver {
		stack = []string{filepath.Join(dir, preparedRoot)}
	} else if dir != "" {
		stack = append([]string{filepath.Join(dir, "upper")}, stack...)
	}
	dirs, err := openAll(stack)
	if errors.Is(err, fs.ErrNotExist) {
		return fail.New(fail.NotFound, "there is no writable layer in %s", dir)
	}
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	defer closeAll(dirs)
	m := s.marks
	if dir != "" && s.driver == copyDriver {
		m = noMarks{} // a container may call its files as it likes
	}
	return s.writeTar(ctx, "export", w, func(d *differ) error {
		d.marks, d.whole = m, true
		return walkUnion(ctx, m, dirs, "", d.file)
	})
}

func (s *Store) writeTar(ctx context.Context, what string, w io.Writer, walk func(*differ) error) error {
	out := bufio.NewWriterSize(w, chunkSize)
	d := &differ{ctx: ctx, tar: tar.NewWriter(out), marks: s.marks, links: map[[2]uint64]string{}}
	err := walk(d)
	if err == nil {
		err = d.tar.Close()
	}
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

type differ struct {
	ctx   context.Context
	tar   *tar.Writer
	marks marks
	whole bool                 // a root file system, not a layer: any name will do
	links map[[2]uint64]string // file with several links, by device and inode → where it was first met
}

func (d *differ) file(f *upperFile) error {
	if err := d.write(f); err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	return nil
}

func (d *differ) write(f *upperFile) error {
	if f.whiteout {
		return d.mark(strings.TrimSuffix(f.path, f.name) + whiteoutPrefix + f.name)
	}
	if !d.whole && strings.HasPrefix(f.name, whiteoutPrefix) {
		return fail.New(fail.Invalid, "a layer cannot hold a file whose name begins with %q: it would be taken for a whiteout", whiteoutPrefix)
	}
	h := &tar.Header{
		Format:  tar.FormatPAX,
		Name:    f.path,
		Mode:    int64(f.stat.Mode & 0o7777),
		Uid:     int(f.stat.Uid),
		Gid:     int(f.stat.Gid),
		ModTime: time.Unix(f.stat.Mtim.Unix()),
	}
	if err := d.xattrs(f, h); err != nil {
		return err
	}
	switch f.stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, f.path+"/"
		if err := d.tar.WriteHeader(h); err != nil || !f.opaque {
			return err
		}
		return d.mark(path.Join(f.path, whiteoutOpaque))
	case unix.S_IFREG:
		h.Typeflag = tar.TypeReg
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		target, err := f.target()
		if err != nil {
			return err
		}
		h.Linkname = target
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if f.stat.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(f.stat.Rdev)), int64(unix.Minor(f.stat.Rdev))
	default: // a socket
		return nil
	}
	if f.stat.Nlink > 1 {
		id := [2]uint64{f.stat.Dev, f.stat.Ino}
		first, ok := d.links[id]
		if ok {
			h.Typeflag, h.Linkname, h.PAXRecords = tar.TypeLink, first, nil
			return d.tar.WriteHeader(h)
		}
		d.links[id] = f.path
	}
	if h.Typeflag != tar.TypeReg {
		return d.tar.WriteHeader(h)
	}
	return d.content(f, h)
}

// mark writes a whiteout. It has no attributes, so that equal changes give equal tars.
func (d *differ) mark(name string) error {
	return d.tar.WriteHeader(&tar.Header{Format: tar.FormatPAX, Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0)})
}

// xattrs puts the file's attributes into its header.
func (d *differ) xattrs(f *upperFile, h *tar.Header) error {
	attrs, own, err := readXattrs(d.marks, procPath(f.fd))
	if err != nil {
		return fmt.Errorf("read attributes: %w", err)
	}
	for _, x := range own {
		switch x.name[strings.LastIndexByte(x.name, '.')+1:] {
		case "redirect", "metacopy":
			return fmt.Errorf("the layer was written by a mount with %s: its content is elsewhere", x.name)
		}
	}
	for _, x := range attrs {
		if portable(x.name) {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[paxXattr+d.marks.shown(x.name)] = x.value
		}
	}
	return nil
}

// portable reports whether an attribute means the same on another machine. Labels of
// SELinux, IMA and EVM do not.
func portable(name string) bool {
	for _, p := range []string{"user.", "trusted.", "system.posix_acl_"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return name == "security.capability"
}

// content writes a regular file. It has the size it had when it was visited: a
// container that writes meanwhile cannot break the tar.
func (d *differ) content(f *upperFile, h *tar.Header) error {
	// Through the descriptor that was examined: by name, it could be a device by now.
	in, err := os.Open(procPath(f.fd))
	if err != nil {
		return err
	}
	defer in.Close()
	h.Size = f.stat.Size
	if err := d.tar.WriteHeader(h); err != nil {
		return err
	}
	b := copyPool.Get().(*[copySize]byte)
	defer copyPool.Put(b)
	for left := h.Size; left > 0; {
		if d.ctx.Err() != nil {
			return context.Cause(d.ctx)
		}
		part := b[:min(left, copySize)]
		n, err := fill(in, part)
		if err != nil && err != io.EOF {
			return err
		}
		clear(part[n:])
		if _, err := d.tar.Write(part); err != nil {
			return err
		}
		left -= int64(len(part))
	}
	return nil
}
