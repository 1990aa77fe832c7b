package layer

import (
	"archive/tar"
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// Diff writes the tar of what a writable layer (dir as given to Rootfs) changes,
// reproducibly ordered. The form is PAX, with whiteouts as in image-spec ("Layer
// Filesystem Changeset"); the root directory itself has no entry, and sockets, which tar
// does not know, are left out.
func (s *Store) Diff(ctx context.Context, dir string, w io.Writer) error {
	out := bufio.NewWriterSize(w, chunkSize)
	d := &differ{ctx: ctx, tar: tar.NewWriter(out), marks: s.marks, links: map[uint64]string{}}
	if err := walkUpper(ctx, dir, d.file); err != nil {
		return fmt.Errorf("diff: %w", err)
	}
	if err := d.tar.Close(); err != nil {
		return fmt.Errorf("diff: %w", err)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("diff: %w", err)
	}
	return nil
}

type differ struct {
	ctx   context.Context
	tar   *tar.Writer
	marks overlayMarks
	links map[uint64]string // inode of a file with several links → where it was first met
}

func (d *differ) file(f *upperFile) error {
	if err := d.write(f); err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	return nil
}

func (d *differ) write(f *upperFile) error {
	if isWhiteout(&f.stat) {
		return d.mark(strings.TrimSuffix(f.path, f.name) + whiteoutPrefix + f.name)
	}
	if strings.HasPrefix(f.name, whiteoutPrefix) {
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
	opaque, err := d.xattrs(f, h)
	if err != nil {
		return err
	}
	switch f.stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, f.path+"/"
		if err := d.tar.WriteHeader(h); err != nil || !opaque {
			return err
		}
		return d.mark(f.path + "/" + whiteoutOpaque)
	case unix.S_IFREG:
		h.Typeflag = tar.TypeReg
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		b := make([]byte, maxPath+1)
		n, err := unix.Readlinkat(f.fd, "", b)
		if err != nil {
			return err
		}
		h.Linkname = string(b[:n])
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
		first, ok := d.links[f.stat.Ino]
		if ok {
			h.Typeflag, h.Linkname, h.PAXRecords = tar.TypeLink, first, nil
			return d.tar.WriteHeader(h)
		}
		d.links[f.stat.Ino] = f.path
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

// xattrs puts the file's attributes into its header and reports whether it is opaque.
func (d *differ) xattrs(f *upperFile, h *tar.Header) (opaque bool, err error) {
	attrs, marks, err := d.marks.readXattrs(procPath(f.fd))
	if err != nil {
		return false, fmt.Errorf("read attributes: %w", err)
	}
	for _, x := range marks {
		switch strings.TrimPrefix(x.name, d.marks.prefix) {
		case "opaque":
			opaque = x.value == "y"
		case "redirect", "metacopy":
			return false, fmt.Errorf("the layer was written by a mount with %s: its content is elsewhere", x.name)
		}
	}
	for _, x := range attrs {
		if portable(x.name) {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[paxXattr+shownXattr(x.name)] = x.value
		}
	}
	return opaque, nil
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
