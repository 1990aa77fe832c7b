package layer

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/archive"
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
	d := &differ{tar: archive.NewWriter(ctx, out), marks: s.marks}
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
	tar   *archive.Writer
	marks marks
	whole bool // a root file system, not a layer: any name will do
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
	attrs, err := d.xattrs(f)
	if err != nil {
		return err
	}
	if err := d.tar.Add(archive.File{FD: f.fd, Stat: f.stat, Path: f.path, Xattrs: attrs}); err != nil || !f.isDir() || !f.opaque {
		return err
	}
	return d.mark(path.Join(f.path, whiteoutOpaque))
}

// mark writes a whiteout. It has no attributes, so that equal changes give equal tars.
func (d *differ) mark(name string) error {
	return d.tar.Header(&tar.Header{Format: tar.FormatPAX, Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0)})
}

// xattrs are the file's attributes by the names that its image knows.
func (d *differ) xattrs(f *upperFile) ([]archive.Xattr, error) {
	attrs, own, err := readXattrs(d.marks, f.fd)
	if err != nil {
		return nil, fmt.Errorf("read attributes: %w", err)
	}
	for _, x := range own {
		switch x.Name[strings.LastIndexByte(x.Name, '.')+1:] {
		case "redirect", "metacopy":
			return nil, fmt.Errorf("the layer was written by a mount with %s: its content is elsewhere", x.Name)
		}
	}
	for i := range attrs {
		attrs[i].Name = d.marks.shown(attrs[i].Name)
	}
	return attrs, nil
}
