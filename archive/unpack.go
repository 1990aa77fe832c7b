package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
)

// UnpackOptions change how Unpack makes files.
type UnpackOptions struct {
	// KeepKinds refuses to replace a directory by something else, and something else by a
	// directory.
	KeepKinds bool
	// Owner is who all files are given to; nil: to whom the tar says.
	Owner *Owner
	// Confined refuses a way through symbolic links: nothing is made outside of dir.
	Confined bool
	// As is what the top of the tar is called instead of Top ("", "." or "/": all is its content).
	Top, As string
	// Unprivileged leaves out what only root may set: owners, and attributes.
	Unprivileged bool
}

// Owner is a user and a group.
type Owner struct{ UID, GID uint32 }

// Unpack makes the files of a tar in the directory dir of root, over what is there: files are
// replaced, directories merged. Where the way to an entry leads through a symbolic link of the tree, it is
// followed, within root. Missing directories on the way are made. A name or a hard link that
// leads out of dir, and what is no tar, is class Invalid; a file system that is mounted
// read-only Forbidden.
func Unpack(ctx context.Context, root *os.File, dir string, r io.Reader, o UnpackOptions) error {
	u := &unpacker{ctx: ctx, root: root, dir: path.Join("/", dir), options: o}
	defer u.close()
	err := u.entries(r)
	if err == nil {
		err = u.dates()
	}
	if errors.Is(err, unix.EROFS) {
		err = fail.Mark(fail.Forbidden, err)
	}
	return err
}

type unpacker struct {
	ctx     context.Context
	root    *os.File
	dir     string // absolute, in root
	options UnpackOptions

	at  *os.File // the directory of the entry before
	of  string   // which is this one
	set bool

	late []dated // directories whose times change while files are made in them
}

// dated is a directory that gets its times at the end.
type dated struct {
	path  string
	dev   uint64
	ino   uint64
	times [2]unix.Timespec
}

// maxDated bounds the memory that a tar of directories can cost.
const maxDated = 1 << 20

func (u *unpacker) entries(r io.Reader) error {
	t := tar.NewReader(r)
	for {
		if err := canceled(u.ctx); err != nil {
			return err
		}
		h, err := t.Next()
		if err == io.EOF {
			// What follows the end is padding; a sender that is not read to his end sees an error.
			_, err = io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return u.notTar(err)
		}
		if err := u.entry(h, t); err != nil {
			return fmt.Errorf("%q: %w", h.Name, InvalidEntry(err))
		}
	}
}

// notTar words the tar reader's errors. Those of the input itself keep their class.
func (u *unpacker) notTar(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fail.New(fail.Invalid, "this is not a tar archive, or it is damaged: %w", err)
	}
	return err
}

// clean makes an entry's name relative to the directory that is unpacked into, "" for that itself.
func clean(name string) (string, error) {
	var parts []string
	for p := range strings.SplitSeq(name, "/") {
		switch p {
		case "", ".":
		case "..":
			if len(parts) == 0 {
				return "", fail.New(fail.Invalid, "it is outside of the directory that is unpacked into")
			}
			parts = parts[:len(parts)-1]
		default:
			if len(p) > maxName || strings.IndexByte(p, 0) >= 0 {
				return "", fail.New(fail.Invalid, "no file can have this name")
			}
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, "/"), nil
}

func (u *unpacker) entry(h *tar.Header, body io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	if len(u.dir)+1+len(name) > maxPath {
		return fail.New(fail.Invalid, "the path is too long")
	}
	a, err := HeaderAttributes(h)
	if err != nil {
		return err
	}
	if o := u.options.Owner; o != nil {
		a.UID, a.GID = o.UID, o.GID
	}
	a.Unprivileged = u.options.Unprivileged
	name = u.rename(name)
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return fail.New(fail.Invalid, "it would replace the directory that is unpacked into")
		}
		fd, err := u.parent("")
		if err != nil {
			return err
		}
		return u.setDir("", fd, &a)
	}
	dir, base := path.Split(name)
	in, err := u.parent(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	return u.put(h, name, int(in.Fd()), base, &a, body)
}

// rename gives what is below the top its other name.
func (u *unpacker) rename(name string) string {
	as, _ := clean(u.options.As)
	top, _ := clean(u.options.Top)
	if as == "" {
		return name
	}
	if top == "" {
		return strings.TrimSuffix(as+"/"+name, "/")
	}
	if rest, below := strings.CutPrefix(name, top); below && (rest == "" || rest[0] == '/') {
		return as + rest
	}
	return name
}

// parent opens a directory of the tree, and makes what is missing of the way.
func (u *unpacker) parent(dir string) (*os.File, error) {
	if u.set && dir == u.of {
		return u.at, nil
	}
	f, err := u.open(dir)
	if errors.Is(err, unix.ENOENT) && dir != "" {
		f, err = u.make(dir)
	}
	if err != nil {
		return nil, bare(err)
	}
	u.close()
	u.at, u.of, u.set = f, dir, true
	return f, nil
}

func (u *unpacker) close() {
	if u.at != nil {
		u.at.Close()
	}
	u.at, u.set = nil, false
}

// bare takes off a path that is of this program, not of the tree.
func bare(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

func (u *unpacker) open(dir string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY
	if !u.options.Confined || dir == "" {
		return kernel.OpenIn(u.root, path.Join(u.dir, dir), flags, 0)
	}
	top, err := kernel.OpenIn(u.root, u.dir, flags, 0)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	fd, err := unix.Openat2(int(top.Fd()), dir, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// make makes a directory that no entry told of, as mkdir -p does.
func (u *unpacker) make(dir string) (*os.File, error) {
	up, base := path.Split(dir)
	in, err := u.parent(strings.TrimSuffix(up, "/"))
	if err != nil {
		return nil, err
	}
	err = unix.Mkdirat(int(in.Fd()), base, 0o755)
	if err != nil && err != unix.EEXIST {
		return nil, err
	}
	f, openErr := u.open(dir)
	if openErr != nil {
		return nil, openErr
	}
	if o := u.options.Owner; o != nil && err == nil {
		if err := unix.Fchown(int(f.Fd()), int(o.UID), int(o.GID)); err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}

// put makes one file called base in the directory in.
func (u *unpacker) put(h *tar.Header, name string, in int, base string, a *Attributes, body io.Reader) error {
	var st unix.Stat_t
	err := unix.Fstatat(in, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil && err != unix.ENOENT {
		return err
	}
	there := err == nil
	isDir := there && st.Mode&unix.S_IFMT == unix.S_IFDIR
	wantsDir := h.Typeflag == tar.TypeDir
	switch {
	case u.options.KeepKinds && isDir && !wantsDir:
		return fail.New(fail.Invalid, "cannot overwrite directory %q with non-directory %q", path.Join(u.dir, name), u.dir)
	case u.options.KeepKinds && there && !isDir && wantsDir:
		return fail.New(fail.Invalid, "cannot overwrite non-directory %q with directory %q", path.Join(u.dir, name), u.dir)
	case isDir && wantsDir:
		return u.directory(name, in, base, a)
	case there && h.Typeflag != tar.TypeLink:
		if err := u.remove(in, base); err != nil {
			return fmt.Errorf("replace what is there: %w", err)
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := unix.Mkdirat(in, base, 0o700); err != nil && err != unix.EEXIST {
			return err
		}
		return u.directory(name, in, base, a)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return u.regular(h, in, base, a, body)
	case tar.TypeLink:
		return u.link(h.Linkname, name, in, base)
	case tar.TypeSymlink:
		if h.Linkname == "" {
			return fail.New(fail.Invalid, "a symbolic link without a target")
		}
		if err := unix.Symlinkat(h.Linkname, in, base); err != nil {
			return err
		}
		return u.node(in, base, unix.S_IFLNK, a)
	case tar.TypeFifo:
		return u.special(in, base, unix.S_IFIFO, 0, a)
	case tar.TypeChar, tar.TypeBlock:
		if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor >= 1<<12 || h.Devminor >= 1<<20 {
			return fail.New(fail.Invalid, "device %d:%d is out of range", h.Devmajor, h.Devminor)
		}
		kind := uint32(unix.S_IFCHR)
		if h.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
		return u.special(in, base, kind, unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)), a)
	}
	return fail.New(fail.Invalid, "unknown entry type %q", h.Typeflag)
}

// remove deletes the file or directory called base.
func (u *unpacker) remove(in int, base string) error {
	if err := canceled(u.ctx); err != nil {
		return err
	}
	err := unix.Unlinkat(in, base, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM {
		return err
	}
	// What is mounted there is not emptied: a volume is no part of the directory.
	fd, err := unix.Openat2(in, base, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV})
	if err == unix.EXDEV {
		return unix.EBUSY
	}
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), base)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return bare(err)
	}
	for _, n := range names {
		if err := u.remove(fd, n); err != nil {
			return err
		}
	}
	return unix.Unlinkat(in, base, unix.AT_REMOVEDIR)
}

func (u *unpacker) regular(h *tar.Header, in int, base string, a *Attributes, body io.Reader) error {
	fd, err := kernel.OpenAt(in, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = WriteContent(u.ctx, fd, h, body)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = u.notTar(err)
	}
	if err == nil {
		err = a.SetFile(fd, Unknown, false)
	}
	return errors.Join(err, unix.Close(fd))
}

// link makes a hard link to a file of the directory that is unpacked into.
func (u *unpacker) link(target, name string, in int, base string) error {
	to, err := clean(target)
	to = u.rename(to)
	if err != nil || to == "" {
		return fail.New(fail.Invalid, "invalid hardlink %q -> %q", path.Join(u.dir, name), target)
	}
	if to == name {
		return nil
	}
	dir, last := path.Split(to)
	from, err := u.open(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, bare(err))
	}
	defer from.Close()
	var a, b unix.Stat_t
	if unix.Fstatat(int(from.Fd()), last, &a, unix.AT_SYMLINK_NOFOLLOW) == nil && unix.Fstatat(in, base, &b, unix.AT_SYMLINK_NOFOLLOW) == nil {
		if a.Dev == b.Dev && a.Ino == b.Ino {
			return nil // it is that link already: to remove it first could lose the file
		}
		if err := u.remove(in, base); err != nil {
			return fmt.Errorf("replace what is there: %w", err)
		}
	}
	if err := unix.Linkat(int(from.Fd()), last, in, base, 0); err != nil {
		return fail.New(fail.Invalid, "hard link to %q: %w", target, err)
	}
	return nil
}

func (u *unpacker) special(in int, base string, kind uint32, dev uint64, a *Attributes) error {
	if err := unix.Mknodat(in, base, kind|0o600, int(dev)); err != nil {
		return err
	}
	return u.node(in, base, kind, a)
}

// node completes a file that cannot be opened for writing. Somebody may have put another one
// in its place: then that is his.
func (u *unpacker) node(in int, base string, kind uint32, a *Attributes) error {
	fd, err := kernel.OpenAt(in, base, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != kind {
		return err
	}
	return a.setOpened(fd, kind == unix.S_IFLNK)
}

func (u *unpacker) directory(name string, in int, base string, a *Attributes) error {
	fd, err := kernel.OpenAt(in, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return u.setDir(name, f, a)
}

// setDir gives a directory its attributes, and its times once more at the end.
func (u *unpacker) setDir(name string, f *os.File, a *Attributes) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if err := a.SetFile(int(f.Fd()), Unknown, false); err != nil {
		return err
	}
	if len(u.late) >= maxDated {
		return fail.New(fail.Invalid, "more than %d directories", maxDated)
	}
	u.late = append(u.late, dated{name, st.Dev, st.Ino, a.Times})
	return nil
}

// dates sets the times of directories, for making files in them has changed those.
func (u *unpacker) dates() error {
	for _, d := range slices.Backward(u.late) {
		f, err := u.open(d.path)
		if err != nil {
			continue // it is gone, or replaced: whoever did that
		}
		var st unix.Stat_t
		if err = unix.Fstat(int(f.Fd()), &st); err == nil && st.Dev == d.dev && st.Ino == d.ino {
			err = setTimes(int(f.Fd()), &d.times)
		}
		f.Close()
		if err != nil {
			return fmt.Errorf("%q: set times: %w", d.path, err)
		}
	}
	return nil
}
