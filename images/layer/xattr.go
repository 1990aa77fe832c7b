package layer

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// overlayMarks are the extended attributes by which overlayfs marks its layers: in the
// trusted namespace, or in the user one for mounts without privileges (option userxattr).
type overlayMarks struct{ prefix string }

const (
	trustedMarks = "trusted.overlay."
	userMarks    = "user.overlay."
	// Overlayfs shows X of a nested overlay as <prefix>X and stores it as
	// <prefix>overlay.X (Documentation/filesystems/overlayfs.rst, "Nesting overlayfs mounts").
	escaped = "overlay."
)

func marksFor(euid int) overlayMarks {
	if euid == 0 {
		return overlayMarks{trustedMarks}
	}
	return overlayMarks{userMarks}
}

func (m overlayMarks) opaque() string { return m.prefix + "opaque" }

// own reports whether name is a mark of our layers themselves.
func (m overlayMarks) own(name string) bool {
	return strings.HasPrefix(name, m.prefix) && !strings.HasPrefix(name, m.prefix+escaped)
}

// storedXattr is the name under which an attribute of an image is stored. Images must
// never set a mark of ours, in either namespace; a container sees the name it had.
func storedXattr(name string) string {
	for _, p := range []string{trustedMarks, userMarks} {
		if rest, ok := strings.CutPrefix(name, p); ok {
			return p + escaped + rest
		}
	}
	return name
}

// shownXattr undoes storedXattr.
func shownXattr(name string) string {
	for _, p := range []string{trustedMarks, userMarks} {
		if rest, ok := strings.CutPrefix(name, p+escaped); ok {
			return p + rest
		}
	}
	return name
}

type xattr struct{ name, value string }

// ignorable reports whether a file may live without the attribute that could not be
// set: where the file system, the file's type or a missing privilege forbids it, as
// other engines do. File capabilities are never lost silently.
func ignorable(name string, err error) bool {
	switch {
	case errors.Is(err, unix.ENOTSUP):
		return name != "security.capability"
	case errors.Is(err, unix.EPERM):
		return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.")
	}
	return false
}

// readXattrs lists the attributes of the file that proc, a path /proc/self/fd/N, names.
// Overlayfs's own marks come apart from the others.
func (m overlayMarks) readXattrs(proc string) (attrs, marks []xattr, err error) {
	list, err := growing(func(b []byte) (int, error) { return unix.Listxattr(proc, b) })
	if errors.Is(err, unix.ENOTSUP) || len(list) == 0 {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		value, err := growing(func(b []byte) (int, error) { return unix.Getxattr(proc, name, b) })
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			continue // gone meanwhile, or a name the file system lists but does not give
		}
		if err != nil {
			return nil, nil, err
		}
		if m.own(name) {
			marks = append(marks, xattr{name, string(value)})
		} else {
			attrs = append(attrs, xattr{name, string(value)})
		}
	}
	return attrs, marks, nil
}

// growing calls read with larger buffers until the answer fits.
func growing(read func([]byte) (int, error)) ([]byte, error) {
	for size := 512; ; size *= 4 {
		b := make([]byte, size)
		n, err := read(b)
		if err == nil {
			return b[:n], nil
		}
		if !errors.Is(err, unix.ERANGE) || size > 1<<20 {
			return nil, err
		}
	}
}
