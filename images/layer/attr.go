package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"berth/fail"
)

const paxXattr = "SCHILY.xattr."

const maxXattr = 64 << 10 // XATTR_SIZE_MAX, see xattr(7)

// attributes are what a file carries beside its content.
type attributes struct {
	mode     uint32 // permission bits with setuid, setgid and sticky
	uid, gid uint32
	times    [2]unix.Timespec // access, modification
	xattrs   []xattr
}

// creation is how files come into being: what needs no further system call to be right.
type creation struct {
	umask    uint32
	uid, gid uint32
}

func headerAttributes(h *tar.Header, m marks) (attributes, error) {
	// The highest ID is chown(2)'s "leave it".
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= 1<<32-1 || int64(h.Gid) >= 1<<32-1 {
		return attributes{}, fail.New(fail.Invalid, "owner %d:%d is out of range", h.Uid, h.Gid)
	}
	atime := h.AccessTime
	if atime.IsZero() {
		atime = h.ModTime
	}
	a := attributes{
		mode:  uint32(h.Mode) & 0o7777,
		uid:   uint32(h.Uid),
		gid:   uint32(h.Gid),
		times: [2]unix.Timespec{timespec(atime), timespec(h.ModTime)},
	}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, paxXattr); ok {
			if len(v) > maxXattr {
				return a, fail.New(fail.Invalid, "attribute %.255q is larger than %d bytes", name, maxXattr)
			}
			// Copies: the records are pieces of one string of up to a megabyte.
			a.xattrs = append(a.xattrs, xattr{strings.Clone(m.stored(name)), strings.Clone(v)})
		}
	}
	return a, nil
}

// xattrBytes is the memory that the extended attributes hold.
func (a *attributes) xattrBytes() (n int) {
	for _, x := range a.xattrs {
		n += len(x.name) + len(x.value)
	}
	return n
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// openMode is the mode to create a file with, and whether that already is its final one.
func (a *attributes) openMode(c creation) (mode uint32, final bool) {
	if a.mode&0o7000 != 0 || a.mode&c.umask != 0 {
		return 0o600, false
	}
	return a.mode, true
}

// setFile completes a new regular file, or a directory. The mode comes after the owner,
// because chown(2) clears setuid and setgid, and the attributes after both, because it
// clears capabilities too; the time is last.
func (a *attributes) setFile(fd int, c creation, modeIsFinal bool) error {
	if a.uid != c.uid || a.gid != c.gid {
		if err := unix.Fchown(fd, int(a.uid), int(a.gid)); err != nil {
			return fmt.Errorf("set owner %d:%d: %w", a.uid, a.gid, err)
		}
	}
	if !modeIsFinal {
		if err := unix.Fchmod(fd, a.mode); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	for _, x := range a.xattrs {
		if err := unix.Fsetxattr(fd, x.name, []byte(x.value), 0); err != nil && !ignorable(x.name, err) {
			return fmt.Errorf("set attribute %s: %w", x.name, err)
		}
	}
	if err := setTimes(fd, &a.times); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// setNode completes a new symlink, device or FIFO called name in the directory dirfd.
func (a *attributes) setNode(dirfd int, name string, c creation, symlink bool) error {
	if a.uid != c.uid || a.gid != c.gid {
		if err := unix.Fchownat(dirfd, name, int(a.uid), int(a.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("set owner %d:%d: %w", a.uid, a.gid, err)
		}
	}
	if !symlink { // its mode means nothing; and for others nothing can be followed
		if err := unix.Fchmodat(dirfd, name, a.mode, 0); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	for _, x := range a.xattrs {
		err := unix.Lsetxattr(procPath(dirfd)+"/"+name, x.name, []byte(x.value), 0)
		if err != nil && !ignorable(x.name, err) {
			return fmt.Errorf("set attribute %s: %w", x.name, err)
		}
	}
	if err := unix.UtimesNanoAt(dirfd, name, a.times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// setTimes is futimens(3): utimensat(2) on the descriptor itself, by a null path.
func setTimes(fd int, times *[2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(times)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// procPath names an open file for the calls that know no descriptors.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// invalidEntry gives class Invalid to what only the entry itself can have caused.
func invalidEntry(err error) error {
	for _, e := range []unix.Errno{unix.ENAMETOOLONG, unix.ENOTDIR, unix.EINVAL, unix.ELOOP, unix.EISDIR, unix.ERANGE, unix.E2BIG} {
		if errors.Is(err, e) {
			return fail.Mark(fail.Invalid, err)
		}
	}
	return err
}
