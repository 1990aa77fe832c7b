package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	"berth/kernel/stage"
)

// A tmpfs with the option tmpcopyup starts with a copy of the directory that it covers.
// The child has no means to walk through a tree: it hands both directories to the parent
// and waits.

// copyUp compiles the hand-over. t is the directory that will be covered, m the new
// file system, whose root takes over the attributes of t unless its mode was given.
func (b *builder) copyUp(t, m stage.Arg, withMode bool) {
	p := b.p
	from, to := p.Slot(), p.Slot()
	open := stage.Int(unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC)
	p.Call(unix.SYS_OPENAT, t, p.Str("."), open).Into(from)
	p.Call(unix.SYS_OPENAT, m, p.Str("."), open).Into(to)
	p.SendFile(from, sentCopySource)
	if withMode {
		p.SendFile(to, sentCopyTargetWithMode)
	} else {
		p.SendFile(to, sentCopyTarget)
	}
	b.close(from)
	b.close(to)
	p.Await()
}

// copyUpOf does the parent's part, for the child pid, whose user namespace tells which
// ids can be written.
func copyUpOf(pid int, from, to *os.File, withMode bool) error {
	root, err := rootOf(pid)
	if err != nil {
		return err
	}
	done := make(chan error)
	go func() {
		if root.differs() {
			// In a file system of another user namespace only ids that it maps can own files.
			// The thread, which cannot be given back, ends with this goroutine.
			runtime.LockOSThread()
			if err := actAs(root); err != nil {
				done <- err
				return
			}
		}
		done <- copyTree(context.Background(), from, to, withMode)
	}()
	if err := <-done; err != nil {
		return fail.New(fail.Invalid, "tmpcopyup: %w", err)
	}
	return nil
}

// ids are the user and the group that a namespace's root is on the host.
type ids struct{ uid, gid int }

func (i ids) differs() bool { return i.uid != os.Geteuid() || i.gid != os.Getegid() }

func rootOf(pid int) (ids, error) {
	var of ids
	for file, id := range map[string]*int{"uid_map": &of.uid, "gid_map": &of.gid} {
		list, err := readMap("/proc/" + strconv.Itoa(pid) + "/" + file)
		if err != nil {
			return of, err
		}
		for _, m := range list {
			if m.ContainerID == 0 {
				*id = int(m.HostID)
			}
		}
	}
	return of, nil
}

// parseMap reads the lines of a uid_map or gid_map.
func parseMap(text string) []specs.LinuxIDMapping {
	var list []specs.LinuxIDMapping
	for line := range strings.Lines(text) {
		var n [3]uint64
		f := strings.Fields(line)
		for i := range min(len(f), 3) {
			n[i], _ = strconv.ParseUint(f[i], 10, 32)
		}
		list = append(list, specs.LinuxIDMapping{ContainerID: uint32(n[0]), HostID: uint32(n[1]), Size: uint32(n[2])})
	}
	return list
}

// actAs makes files of this thread belong to others, without a loss of privilege.
func actAs(i ids) error {
	if err := unix.Setfsgid(i.gid); err != nil {
		return err
	}
	if err := unix.Setfsuid(i.uid); err != nil {
		return err
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err
	}
	for i := range data {
		data[i].Effective = data[i].Permitted
	}
	return unix.Capset(&hdr, &data[0])
}

// copyTree copies the directory from into the directory to, both by their descriptors: its
// attributes, unless its mode was given, and all below it, with owners, permissions, times,
// extended attributes and hard links. What is not a regular file, a directory, a link, a pipe
// or a device (a socket) is left out, as are devices where they cannot be made.
func copyTree(ctx context.Context, from, to *os.File, withMode bool) error {
	if !withMode {
		if err := copyAttributes(int(from.Fd()), int(to.Fd()), ""); err != nil {
			return err
		}
	}
	c := &treeCopy{ctx: ctx, to: to, links: map[inode]string{}}
	return c.entries(from, to, ".")
}

// treeCopy is one run of copyTree.
type treeCopy struct {
	ctx   context.Context
	to    *os.File
	links map[inode]string // files with several names → the first one, below to
}

type inode struct{ dev, ino uint64 }

func (c *treeCopy) entries(from, to *os.File, at string) error {
	names, err := from.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if err := c.entry(from, to, name, path.Join(at, name)); err != nil {
			return err
		}
	}
	return nil
}

// entry copies what is called name in from; at is its path below the target's root.
func (c *treeCopy) entry(from, to *os.File, name, at string) error {
	src, dst := int(from.Fd()), int(to.Fd())
	broken := func(err error) error { return &os.PathError{Op: "copy", Path: at, Err: err} }
	var st unix.Stat_t
	if err := unix.Fstatat(src, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return broken(err)
	}
	perm, id := st.Mode&0o7777, inode{uint64(st.Dev), st.Ino}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if first, known := c.links[id]; known && !isDir {
		if err := c.link(first, to, name); err != nil {
			return broken(err)
		}
		return nil
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(dst, name, 0o700); err != nil {
			return broken(err)
		}
		sub, err := openBelow(from, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return broken(err)
		}
		defer sub.Close()
		into, err := openBelow(to, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return broken(err)
		}
		defer into.Close()
		if err := c.entries(sub, into, at); err != nil {
			return err
		}
	case unix.S_IFREG:
		if err := copyFile(from, to, name); err != nil {
			return broken(err)
		}
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(src, name, buf)
		if err == nil {
			err = unix.Symlinkat(string(buf[:n]), dst, name)
		}
		if err != nil {
			return broken(err)
		}
	case unix.S_IFIFO, unix.S_IFCHR, unix.S_IFBLK:
		err := unix.Mknodat(dst, name, st.Mode&unix.S_IFMT|perm, int(st.Rdev))
		if errors.Is(err, unix.EPERM) {
			return nil
		}
		if err != nil {
			return broken(err)
		}
	default:
		return nil
	}
	if st.Nlink > 1 && !isDir {
		c.links[id] = at
	}
	if err := copyAttributes(src, dst, name); err != nil {
		return broken(err)
	}
	return nil
}

// link gives a file that is copied already one more name.
func (c *treeCopy) link(first string, to *os.File, name string) error {
	f, err := openBelow(c.to, first, unix.O_PATH)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Linkat(unix.AT_FDCWD, procFd(f.Fd()), int(to.Fd()), name, unix.AT_SYMLINK_FOLLOW)
}

func openBelow(dir *os.File, name string, flags int) (*os.File, error) {
	return kernel.OpenIn(dir, name, flags|unix.O_NOFOLLOW, 0)
}

func copyFile(from, to *os.File, name string) error {
	src, err := openBelow(from, name, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := kernel.OpenIn(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// copyAttributes gives the entry name, or without a name the directory itself, owner,
// permissions, extended attributes and times of the original. An owner that the file system cannot
// have stays its maker's. The target may be a volume that other containers have, too: whatever
// they put in the entry's place, nothing outside is touched, and no device opened.
func copyAttributes(from, to int, name string) error {
	dir := to
	if name != "" {
		for _, fd := range []*int{&from, &to} {
			entry, err := kernel.OpenAt(*fd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
			if err != nil {
				return err
			}
			defer unix.Close(entry)
			*fd = entry
		}
	}
	var st, made unix.Stat_t
	if err := errors.Join(unix.Fstat(from, &st), unix.Fstat(to, &made)); err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	if made.Mode&unix.S_IFMT != kind {
		return errors.New("somebody has put another file in its place")
	}
	err := unix.Fchownat(to, "", int(st.Uid), int(st.Gid), unix.AT_EMPTY_PATH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOVERFLOW) && !errors.Is(err, unix.EPERM) {
		return err
	}
	if kind != unix.S_IFLNK {
		if err := unix.Fchmodat(unix.AT_FDCWD, procFd(uintptr(to)), st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	if kind == unix.S_IFDIR || kind == unix.S_IFREG { // after the owner: changing that takes capabilities away
		if err := copyXattrs(procFd(uintptr(from)), procFd(uintptr(to))); err != nil {
			return err
		}
	}
	if name == "" {
		return nil
	}
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{unix.NsecToTimespec(st.Atim.Nano()), unix.NsecToTimespec(st.Mtim.Nano())}, unix.AT_SYMLINK_NOFOLLOW)
}

// copyXattrs copies the extended attributes that the target's file system takes, but for
// labels, which are the host's to give.
func copyXattrs(from, to string) error {
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Listxattr(from, list)
	if n == 0 || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return err
	}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for _, key := range strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if key == "security.selinux" || strings.HasPrefix(key, "trusted.overlay.") {
			continue
		}
		n, err := unix.Getxattr(from, key, value)
		if err == nil {
			err = unix.Setxattr(to, key, value[:n], 0)
		}
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("attribute %s: %w", key, err)
		}
	}
	return nil
}
