package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// PAXXattr begins the PAX records of extended attributes, as GNU tar and star write them.
const PAXXattr = "SCHILY.xattr."

// MaxXattr is the size of the largest extended attribute, XATTR_SIZE_MAX of xattr(7).
const MaxXattr = 64 << 10

// Attributes are what a file carries beside its content.
type Attributes struct {
	Mode     uint32 // permission bits with setuid, setgid and sticky
	UID, GID uint32
	Times    [2]unix.Timespec // access, modification
	Xattrs   []Xattr
	// Unprivileged leaves out the owner, and attributes that may not be set.
	Unprivileged bool
}

// Creation is how files come into being: what needs no further system call to be right.
type Creation struct {
	Umask    uint32
	UID, GID uint32
}

// Unknown has everything set.
var Unknown = Creation{Umask: 0o777, UID: ^uint32(0), GID: ^uint32(0)}

// HeaderAttributes are those of a tar's entry; what no file can have is class Invalid.
func HeaderAttributes(h *tar.Header) (Attributes, error) {
	// The highest ID is chown(2)'s "leave it".
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= 1<<32-1 || int64(h.Gid) >= 1<<32-1 {
		return Attributes{}, fail.New(fail.Invalid, "owner %d:%d is out of range", h.Uid, h.Gid)
	}
	atime := h.AccessTime
	if atime.IsZero() {
		atime = h.ModTime
	}
	a := Attributes{
		Mode:  uint32(h.Mode) & 0o7777,
		UID:   uint32(h.Uid),
		GID:   uint32(h.Gid),
		Times: [2]unix.Timespec{timespec(atime), timespec(h.ModTime)},
	}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, PAXXattr); ok {
			if len(v) > MaxXattr {
				return a, fail.New(fail.Invalid, "attribute %.255q is larger than %d bytes", name, MaxXattr)
			}
			// Copies: the records are pieces of one string of up to a megabyte.
			a.Xattrs = append(a.Xattrs, Xattr{strings.Clone(name), strings.Clone(v)})
		}
	}
	return a, nil
}

// makePlain takes off what would give whoever uses the file its owner's rights, or more. On a
// directory set-group-ID only tells whose its new files are.
func (a *Attributes) makePlain(dir bool) {
	a.Mode &^= unix.S_ISUID
	if !dir {
		a.Mode &^= unix.S_ISGID
	}
	a.Xattrs = slices.DeleteFunc(a.Xattrs, func(x Xattr) bool {
		return strings.HasPrefix(x.Name, "security.") || strings.HasPrefix(x.Name, "trusted.")
	})
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// OpenMode is the mode to create a file with, and whether that already is its final one.
func (a *Attributes) OpenMode(c Creation) (mode uint32, final bool) {
	if a.Mode&0o7000 != 0 || a.Mode&c.Umask != 0 {
		return 0o600, false
	}
	return a.Mode, true
}

// SetFile completes a new regular file, or a directory. The mode comes after the owner,
// because chown(2) clears setuid and setgid, and the attributes after both, because it
// clears capabilities too; the time is last.
func (a *Attributes) SetFile(fd int, c Creation, modeIsFinal bool) error {
	if (a.UID != c.UID || a.GID != c.GID) && !a.Unprivileged {
		if err := unix.Fchown(fd, int(a.UID), int(a.GID)); err != nil {
			return fmt.Errorf("set owner %d:%d: %w", a.UID, a.GID, err)
		}
	}
	if !modeIsFinal {
		if err := unix.Fchmod(fd, a.Mode); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	for _, x := range a.Xattrs {
		if err := unix.Fsetxattr(fd, x.Name, []byte(x.Value), 0); err != nil && !a.ignores(x.Name, err) {
			return fmt.Errorf("set attribute %s: %w", x.Name, err)
		}
	}
	if err := setTimes(fd, &a.Times); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// SetNode completes a new symlink, device or FIFO called name in the directory dirfd, which
// nobody else changes.
func (a *Attributes) SetNode(dirfd int, name string, c Creation, symlink bool) error {
	if a.UID != c.UID || a.GID != c.GID {
		if err := unix.Fchownat(dirfd, name, int(a.UID), int(a.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("set owner %d:%d: %w", a.UID, a.GID, err)
		}
	}
	if !symlink { // its mode means nothing; and for others nothing can be followed
		if err := unix.Fchmodat(dirfd, name, a.Mode, 0); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	for _, x := range a.Xattrs {
		err := unix.Lsetxattr(ProcPath(dirfd)+"/"+name, x.Name, []byte(x.Value), 0)
		if err != nil && !ignorable(x.Name, err) {
			return fmt.Errorf("set attribute %s: %w", x.Name, err)
		}
	}
	if err := unix.UtimesNanoAt(dirfd, name, a.Times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// setOpened is SetNode by a descriptor of the file itself (O_PATH), whatever its name stands
// for by now. Linux cannot give a symlink attributes that way, which hardly any has.
func (a *Attributes) setOpened(fd int, symlink bool) error {
	if !a.Unprivileged {
		if err := unix.Fchownat(fd, "", int(a.UID), int(a.GID), unix.AT_EMPTY_PATH); err != nil {
			return fmt.Errorf("set owner %d:%d: %w", a.UID, a.GID, err)
		}
	}
	if !symlink {
		if err := unix.Chmod(ProcPath(fd), a.Mode); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
		for _, x := range a.Xattrs {
			if err := unix.Setxattr(ProcPath(fd), x.Name, []byte(x.Value), 0); err != nil && !a.ignores(x.Name, err) {
				return fmt.Errorf("set attribute %s: %w", x.Name, err)
			}
		}
	}
	err := unix.UtimesNanoAt(fd, "", a.Times[:], unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // Linux before 5.8
		if symlink {
			return nil
		}
		err = unix.UtimesNanoAt(unix.AT_FDCWD, ProcPath(fd), a.Times[:], 0)
	}
	if err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

func (a *Attributes) ignores(attribute string, err error) bool {
	return ignorable(attribute, err) || a.Unprivileged && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP))
}

// setTimes is futimens(3): utimensat(2) on the descriptor itself, by a null path.
func setTimes(fd int, times *[2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(times)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
