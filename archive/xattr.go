package archive

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// Xattr is an extended attribute, xattr(7).
type Xattr struct{ Name, Value string }

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

// ReadXattrs lists the attributes of a file that is open, also by O_PATH.
func ReadXattrs(fd int) (attrs []Xattr, err error) {
	proc := ProcPath(fd)
	list, err := growing(func(b []byte) (int, error) { return unix.Listxattr(proc, b) })
	if errors.Is(err, unix.ENOTSUP) || len(list) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		value, err := growing(func(b []byte) (int, error) { return unix.Getxattr(proc, name, b) })
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			continue // gone meanwhile, or a name the file system lists but does not give
		}
		if err != nil {
			return nil, err
		}
		attrs = append(attrs, Xattr{name, string(value)})
	}
	return attrs, nil
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
