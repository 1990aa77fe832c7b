package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"

	"berth/archive"
	"berth/fail"
)

// Names by which a layer's tar marks deletions (image-spec, "Whiteouts"). Other names
// with the double prefix are AUFS's own records.
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// unpacker makes the files of one layer. Entries are taken in order; a later entry
// replaces an earlier one of the same name, and a whiteout says something about lower
// layers only, so it deletes nothing here.
type unpacker struct {
	*tree
	ctx    context.Context
	makers *makers
	born   archive.Creation
	marks  marks
	size   int64 // of all regular files

	// The directory of the entry before, whose path led through no symlink.
	lastPath string
	last     *dir
}

// entry makes what one header says. body gives the file's content.
func (u *unpacker) entry(h *tar.Header, body io.Reader) error {
	path, err := clean(h.Name)
	if err != nil {
		return err
	}
	if len(path) > maxPath {
		return fail.New(fail.Invalid, "file name is too long")
	}
	parent, base := split(path)
	if base == whiteoutOpaque {
		d, err := u.walk(parent, true)
		if err != nil {
			return err
		}
		return u.hideLower(d)
	}
	if strings.HasPrefix(path, whiteoutMeta) || strings.Contains(path, "/"+whiteoutMeta) {
		return nil
	}
	a, err := headerAttributes(h, u.marks)
	if err != nil {
		return err
	}
	if path == "" {
		if h.Typeflag != tar.TypeDir {
			return fail.New(fail.Invalid, "the layer's root is no directory")
		}
		return u.describe(u.root, a)
	}
	d, err := u.walk(parent, true)
	if err != nil {
		return err
	}
	if name, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		return u.whiteout(place{d, name})
	}
	return u.put(place{d, base}, h, a, body)
}

// put makes the file that is no whiteout.
func (u *unpacker) put(p place, h *tar.Header, a archive.Attributes, body io.Reader) error {
	if h.Typeflag == tar.TypeDir {
		d, err := u.makeDir(p)
		if err != nil {
			return err
		}
		return u.describe(d, a)
	}
	if h.Typeflag == tar.TypeLink {
		return u.link(p, h.Linkname)
	}
	f := file{place: p, Attributes: a, label: strings.Clone(h.Name)}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		f.kind = unix.S_IFREG
	case tar.TypeSymlink:
		f.kind, f.target = unix.S_IFLNK, h.Linkname
		if h.Linkname == "" {
			return fail.New(fail.Invalid, "symlink without a target")
		}
	case tar.TypeChar:
		f.kind = unix.S_IFCHR
	case tar.TypeBlock:
		f.kind = unix.S_IFBLK
	case tar.TypeFifo:
		f.kind = unix.S_IFIFO
	default:
		return fail.New(fail.Invalid, "unknown entry type %q", h.Typeflag)
	}
	if f.kind == unix.S_IFCHR || f.kind == unix.S_IFBLK {
		if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor >= 1<<12 || h.Devminor >= 1<<20 {
			return fail.New(fail.Invalid, "device %d:%d is out of range", h.Devmajor, h.Devminor)
		}
		f.dev = unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	}
	if err := u.clear(p); err != nil {
		return err
	}
	if f.kind != unix.S_IFREG {
		return u.makers.submit(f)
	}
	u.size += h.Size
	if h.Size > smallFile {
		return u.largeFile(f, h, body)
	}
	f.body, f.size = bodyPool.Get().(*[smallFile]byte), int(h.Size)
	if _, err := io.ReadFull(body, f.body[:f.size]); err != nil {
		return err
	}
	return u.makers.submit(f)
}

// clear makes way for a file at p that is no directory, and opens p's directory.
func (u *unpacker) clear(p place) error {
	if len(p.name) > maxName || p.in.length+1+len(p.name) > maxPath {
		return fail.New(fail.Invalid, "file name is too long")
	}
	if d := p.in.children[p.name]; d != nil {
		if err := u.makers.drain(); err != nil { // there may be files on their way into it
			return err
		}
		fd, err := u.use(p.in)
		if err != nil {
			return err
		}
		u.forget(d)
		u.last = nil
		if err := removeAll(fd, p.name); err != nil {
			return fmt.Errorf("replace directory: %w", err)
		}
	}
	_, err := u.use(p.in)
	return err
}

// largeFile writes a file as it is read. Sparse files keep their holes.
func (u *unpacker) largeFile(f file, h *tar.Header, body io.Reader) error {
	if err := u.makers.settle(f.place); err != nil {
		return err
	}
	fd, final, err := createFile(f.place, &f.Attributes, u.born)
	if err != nil {
		return err
	}
	if err = archive.WriteContent(u.ctx, fd, h, body); err == nil {
		err = f.SetFile(fd, u.born, final)
	}
	return errors.Join(err, unix.Close(fd))
}

// link makes a hard link to a file of this layer. A symlink in the end of target is
// linked itself.
func (u *unpacker) link(p place, target string) error {
	path, err := clean(target)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	parent, base := split(path)
	d, err := u.walk(parent, false)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	from := place{d, base}
	if base == "" || d.children[base] != nil {
		return fail.New(fail.Invalid, "hard link to the directory %q", target)
	}
	if from == p {
		return nil
	}
	for _, q := range []place{from, p} {
		if err := u.makers.settle(q); err != nil {
			return err
		}
	}
	if err := u.clear(p); err != nil {
		return err
	}
	p.in.pins.Add(1) // opening the other directory must not close this one
	defer p.in.pins.Add(-1)
	fromfd, err := u.use(d)
	if err != nil {
		return err
	}
	err = replacing(p.in.fd, p.name, func() error { return unix.Linkat(fromfd, base, p.in.fd, p.name, 0) })
	if err == unix.ENOENT {
		return fail.New(fail.Invalid, "hard link to %q, which is not in the layer", target)
	}
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	return nil
}

// whiteout hides what lower layers have at p. A file of this layer there hides it
// already, and a directory does once it is opaque.
func (u *unpacker) whiteout(p place) error {
	if p.name == "" || p.name == "." || p.name == ".." {
		return fail.New(fail.Invalid, "whiteout of nothing")
	}
	if d := p.in.children[p.name]; d != nil {
		return u.hideLower(d)
	}
	if err := u.makers.settle(p); err != nil {
		return err
	}
	if err := u.clear(p); err != nil {
		return err
	}
	return u.marks.hide(p.in.fd, p.name)
}

// hideLower makes d opaque.
func (u *unpacker) hideLower(d *dir) error {
	if d.opaque {
		return nil
	}
	d.opaque = true
	if d.parent == nil {
		return nil // told in meta.json
	}
	fd, err := u.use(d)
	if err != nil {
		return err
	}
	return u.marks.setOpaque(fd)
}

// walk finds the directory of path, and makes what is missing of it if create is set.
// A symlink of this layer on the way is followed as if the layer's root were "/".
func (u *unpacker) walk(path string, create bool) (*dir, error) {
	if u.last != nil && path == u.lastPath {
		return u.last, nil
	}
	d, rest, links := u.root, path, 0
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			if d.parent != nil {
				d = d.parent
			}
			continue
		}
		if c := d.children[name]; c != nil {
			d = c
			continue
		}
		target, err := u.readlink(place{d, name})
		switch {
		case err == nil:
			if links++; links > maxLinks {
				return nil, fail.New(fail.Invalid, "too many symlinks in the path")
			}
			if strings.HasPrefix(target, "/") {
				d = u.root
			}
			rest = target + "/" + rest
		case !create && err == unix.ENOENT:
			return nil, fail.New(fail.Invalid, "no such directory in the layer")
		case create && (err == unix.ENOENT || err == errWhiteout):
			if d, err = u.makeDir(place{d, name}); err != nil {
				return nil, err
			}
		case err == errWhiteout:
			return nil, fail.New(fail.Invalid, "no such directory in the layer")
		default:
			return nil, fmt.Errorf("%q in the path: %w", name, err)
		}
	}
	if links == 0 {
		u.lastPath, u.last = path, d
	}
	return d, nil
}

var errWhiteout = errors.New("whiteout")

// readlink reads the symlink at p. What is there else is told by the error: ENOENT,
// errWhiteout, or ENOTDIR for a file.
func (u *unpacker) readlink(p place) (string, error) {
	if err := u.makers.settle(p); err != nil {
		return "", err
	}
	fd, err := u.use(p.in)
	if err != nil {
		return "", err
	}
	b := make([]byte, maxPath+1)
	n, err := unix.Readlinkat(fd, p.name, b)
	if err == nil {
		return string(b[:n]), nil
	}
	if err != unix.EINVAL {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, p.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return "", err
	}
	if isWhiteout(&st) {
		return "", errWhiteout
	}
	return "", unix.ENOTDIR
}

// makeDir makes the directory at p if it is not there. In the place of something else,
// whiteouts included, it hides what lower layers have, as that did.
func (u *unpacker) makeDir(p place) (*dir, error) {
	if d := p.in.children[p.name]; d != nil {
		return d, nil
	}
	if err := u.room(p.in, p.name); err != nil {
		return nil, err
	}
	if err := u.makers.settle(p); err != nil {
		return nil, err
	}
	fd, err := u.use(p.in)
	if err != nil {
		return nil, err
	}
	replaced := false
	err = unix.Mkdirat(fd, p.name, 0o700)
	if err == unix.EEXIST {
		replaced = true
		if err := unix.Unlinkat(fd, p.name, 0); err != nil {
			return nil, err
		}
		u.last = nil
		err = unix.Mkdirat(fd, p.name, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	hidden, err := u.marks.unhide(fd, p.name)
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	d := u.add(p.in, p.name)
	d.UID, d.GID = u.born.UID, u.born.GID
	if replaced || hidden {
		return d, u.hideLower(d)
	}
	return d, nil
}

// finish gives all directories their attributes, which only now nothing changes any
// more, and names those that no entry named and that lower layers may know.
func (u *unpacker) finish() (implicit []string, undated map[string]bool, err error) {
	if err := u.makers.drain(); err != nil {
		return nil, nil, err
	}
	undated = map[string]bool{}
	names := 0
	var visit func(d *dir, path string, hidden bool) error
	visit = func(d *dir, path string, hidden bool) error {
		if u.ctx.Err() != nil {
			return context.Cause(u.ctx)
		}
		hidden = hidden || d.opaque
		for name, c := range d.children {
			sub := name
			if path != "" {
				sub = path + "/" + name
			}
			if err := visit(c, sub, hidden); err != nil {
				return err
			}
		}
		if d.implicit {
			if names += len(path); names > maxImplied {
				return fail.New(fail.Invalid, "the names of directories that have no entry are longer than %d MiB altogether", maxImplied>>20)
			}
			undated[path] = true
			if !hidden {
				implicit = append(implicit, path)
			}
		}
		fd, err := u.use(d)
		if err == nil {
			err = u.setDir(d, fd)
		}
		if err != nil {
			return fmt.Errorf("directory %q: %w", path, err)
		}
		return nil
	}
	return implicit, undated, visit(u.root, "", false)
}

func (u *unpacker) setDir(d *dir, fd int) error {
	if d.implicit { // its times are those of its making
		return unix.Fchmod(fd, d.Mode)
	}
	return d.SetFile(fd, u.born, false)
}
