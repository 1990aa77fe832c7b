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
	// Confined is for a tar of a stranger. It refuses a way through symbolic links, so that nothing
	// is made outside of dir, and, where Top has a name, what is neither Top nor below it.
	Confined bool
	// As is what the top of the tar is called instead of Top ("", "." or "/": all is its content).
	Top, As string
	// Unprivileged leaves out what only root may set: owners, and attributes.
	Unprivileged bool
	// Plain leaves out what would lend a file its new owner's power: set-user-ID and, but for
	// directories, set-group-ID, attributes of security and trusted, and devices, of whose names
	// Skipped is told.
	Plain   bool
	Skipped func(name string)
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

	late  []dated // directories whose times change while files are made in them
	named int     // the length of all their names
}

// dated is a directory that gets its times at the end.
type dated struct {
	path  string
	dev   uint64
	ino   uint64
	times [2]unix.Timespec
}

// What bounds the memory that a tar of directories can cost: their number, and the bytes of their names.
const (
	maxDated      = 1 << 20
	maxDatedNames = 64 << 20
)

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
	if u.options.Plain {
		a.makePlain(h.Typeflag == tar.TypeDir)
	}
	if name, err = u.rename(name); err != nil {
		return err
	}
	if u.options.Plain && (h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock) {
		if u.options.Skipped != nil {
			u.options.Skipped(name)
		}
		return nil
	}
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
func (u *unpacker) rename(name string) (string, error) {
	as, _ := clean(u.options.As)
	top, err := clean(u.options.Top)
	if err != nil {
		return "", fmt.Errorf("the name of the top: %w", err)
	}
	rest, below := strings.CutPrefix(name, top)
	below = top == "" || below && (rest == "" || rest[0] == '/')
	switch {
	case !below && u.options.Confined:
		return "", fail.New(fail.Invalid, "it is not part of %q, which was asked for", top)
	case !below || as == "":
		return name, nil
	case top == "":
		return strings.TrimSuffix(as+"/"+name, "/"), nil
	}
	return as + rest, nil
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
	top, err := openMember(in, base)
	if err != nil {
		return err
	}
	defer unix.Close(top)
	if err := u.empty(top); err != nil {
		return err
	}
	return unix.Unlinkat(in, base, unix.AT_REMOVEDIR)
}

// openMember opens a directory below in. What is mounted there is not emptied: a volume is no
// part of the directory.
func openMember(in int, path string) (int, error) {
	fd, err := unix.Openat2(in, path, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV})
	if err == unix.EXDEV {
		err = unix.EBUSY
	}
	return fd, err
}

// empty deletes all that is in the directory top. It names each directory by its way from
// there, and has only one of them open at a time: somebody else decides how deep they are.
func (u *unpacker) empty(top int) error {
	type level struct {
		path string   // below top, with a slash at its end; "" of top
		dirs []string // what is left to be emptied in it
	}
	enter := func(path string) (level, error) {
		if len("./"+path) > maxPath {
			return level{}, fail.New(fail.Invalid, "its directories are nested too deep to be deleted")
		}
		dirs, err := u.deleteFiles(top, path)
		return level{path, dirs}, err
	}
	l, err := enter("")
	if err != nil {
		return err
	}
	for stack := []level{l}; ; {
		l := &stack[len(stack)-1]
		if len(l.dirs) > 0 {
			next, err := enter(l.path + l.dirs[0] + "/")
			l.dirs = l.dirs[1:]
			if err == unix.ENOENT {
				continue
			}
			if err != nil {
				return err
			}
			stack = append(stack, next)
			continue
		}
		if l.path == "" {
			return nil
		}
		if err := deleteDir(top, strings.TrimSuffix(l.path, "/")); err != nil && err != unix.ENOENT {
			return err
		}
		stack = stack[:len(stack)-1]
	}
}

// deleteFiles deletes the files of a directory below top, and names the directories in it.
func (u *unpacker) deleteFiles(top int, path string) (dirs []string, err error) {
	fd, err := openMember(top, "./"+path)
	if err != nil {
		return nil, err
	}
	d := os.NewFile(uintptr(fd), path)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, bare(err)
	}
	for _, n := range names {
		if err := canceled(u.ctx); err != nil {
			return nil, err
		}
		switch err := unix.Unlinkat(fd, n, 0); err {
		case nil, unix.ENOENT:
		case unix.EISDIR, unix.EPERM:
			dirs = append(dirs, n)
		default:
			return nil, err
		}
	}
	return dirs, nil
}

func deleteDir(top int, p string) error {
	up, base := path.Split(p)
	fd, err := openMember(top, "./"+up)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Unlinkat(fd, base, unix.AT_REMOVEDIR)
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
	if err == nil {
		to, err = u.rename(to)
	}
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
	if u.named += len(name); u.named > maxDatedNames {
		return fail.New(fail.Invalid, "the names of the directories are longer than %d bytes altogether", maxDatedNames)
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
