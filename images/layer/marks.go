package layer

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"berth/archive"
	"berth/kernel"
)

// marks are how a driver's layers tell what they hide of the layers below.
type marks interface {
	// hide puts a whiteout of name into dirfd. A file of that name hides it already.
	hide(dirfd int, name string) error
	// unhide takes away a whiteout of name that does not have that name itself, and
	// reports whether there was one.
	unhide(dirfd int, name string) (bool, error)
	// isHidden looks for such a whiteout.
	isHidden(dirfd int, name string) bool
	// hides reports whether a directory entry is a mark itself, and the name that it
	// hides: empty for the mark of an opaque directory.
	hides(name string, st *unix.Stat_t) (hidden string, isMark bool)

	setOpaque(fd int) error
	isOpaque(fd int) bool

	// own reports whether an extended attribute is a mark.
	own(attribute string) bool
	// stored and shown translate the names of attributes that look like marks but are an
	// image's own.
	stored(attribute string) string
	shown(attribute string) string
}

// overlayMarks are the marks of overlayfs: devices 0:0, and extended attributes in the
// trusted namespace, or in the user one for mounts without privileges (option userxattr).
type overlayMarks struct{ prefix string }

const (
	trustedMarks = "trusted.overlay."
	userMarks    = "user.overlay."
	// Overlayfs shows X of a nested overlay as <prefix>X and stores it as
	// <prefix>overlay.X (Documentation/filesystems/overlayfs.rst, "Nesting overlayfs mounts").
	escaped = "overlay."
)

func overlayMarksFor(euid int) overlayMarks {
	if euid == 0 {
		return overlayMarks{trustedMarks}
	}
	return overlayMarks{userMarks}
}

func (overlayMarks) hide(dirfd int, name string) error {
	if err := unix.Mknodat(dirfd, name, unix.S_IFCHR, 0); err != nil && err != unix.EEXIST {
		return fmt.Errorf("make whiteout: %w", err)
	}
	return nil
}

func (overlayMarks) unhide(int, string) (bool, error) { return false, nil }

func (overlayMarks) isHidden(int, string) bool { return false }

func (overlayMarks) hides(name string, st *unix.Stat_t) (string, bool) { return name, isWhiteout(st) }

func (m overlayMarks) opaque() string { return m.prefix + "opaque" }

func (m overlayMarks) setOpaque(fd int) error {
	if err := unix.Fsetxattr(fd, m.opaque(), []byte("y"), 0); err != nil {
		return fmt.Errorf("make directory opaque: %w", err)
	}
	return nil
}

func (m overlayMarks) isOpaque(fd int) bool {
	var b [1]byte
	n, err := unix.Getxattr(archive.ProcPath(fd), m.opaque(), b[:])
	return err == nil && n == 1 && b[0] == 'y'
}

func (m overlayMarks) own(name string) bool {
	return strings.HasPrefix(name, m.prefix) && !strings.HasPrefix(name, m.prefix+escaped)
}

// stored: images must never set a mark of ours, in either namespace; a container sees
// the name it had.
func (overlayMarks) stored(name string) string {
	for _, p := range []string{trustedMarks, userMarks} {
		if rest, ok := strings.CutPrefix(name, p); ok {
			return p + escaped + rest
		}
	}
	return name
}

func (overlayMarks) shown(name string) string {
	for _, p := range []string{trustedMarks, userMarks} {
		if rest, ok := strings.CutPrefix(name, p+escaped); ok {
			return p + rest
		}
	}
	return name
}

// isWhiteout reports overlayfs's own form of a whiteout.
func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// fileMarks are marks as a layer's tar has them: empty files. Every file system can hold
// them, and no file of an image has such a name, since it would be taken for a mark.
type fileMarks struct{}

func (fileMarks) hide(dirfd int, name string) error {
	if len(whiteoutPrefix)+len(name) > maxName {
		return unix.ENAMETOOLONG
	}
	return makeMark(dirfd, whiteoutPrefix+name)
}

func makeMark(dirfd int, name string) error {
	fd, err := kernel.OpenAt(dirfd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err == unix.EEXIST {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make whiteout: %w", err)
	}
	return unix.Close(fd)
}

func (fileMarks) unhide(dirfd int, name string) (bool, error) {
	err := unix.Unlinkat(dirfd, whiteoutPrefix+name, 0)
	if err == unix.ENOENT || err == unix.ENAMETOOLONG {
		return false, nil
	}
	return err == nil, err
}

func (fileMarks) isHidden(dirfd int, name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(dirfd, whiteoutPrefix+name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

func (fileMarks) hides(name string, st *unix.Stat_t) (string, bool) {
	if st.Mode&unix.S_IFMT != unix.S_IFREG || !strings.HasPrefix(name, whiteoutPrefix) {
		return "", false
	}
	if name == whiteoutOpaque {
		return "", true
	}
	return strings.TrimPrefix(name, whiteoutPrefix), true
}

func (fileMarks) setOpaque(fd int) error { return makeMark(fd, whiteoutOpaque) }

func (fileMarks) isOpaque(fd int) bool {
	var st unix.Stat_t
	return unix.Fstatat(fd, whiteoutOpaque, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// noMarks is of directories that hide nothing.
type noMarks struct{ fileMarks }

func (noMarks) hides(string, *unix.Stat_t) (string, bool) { return "", false }
func (noMarks) isOpaque(int) bool                         { return false }

func (fileMarks) own(string) bool           { return false }
func (fileMarks) stored(name string) string { return name }
func (fileMarks) shown(name string) string  { return name }
