package layer

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

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
// The driver's own marks come apart from the others.
func readXattrs(m marks, proc string) (attrs, own []xattr, err error) {
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
			own = append(own, xattr{name, string(value)})
		} else {
			attrs = append(attrs, xattr{name, string(value)})
		}
	}
	return attrs, own, nil
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
