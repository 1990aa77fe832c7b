// Package archive turns files into tars and tars into files. It names files by descriptors
// alone: what lies below a root is reached by openat2(2) within it, so that a tree which
// somebody else changes meanwhile can lead it to other files of that tree, never out of it.
//
// Writer writes files as entries of a tar, Pack a whole tree. Unpack makes the files of a
// tar in a tree that is there already, which may be in use. (What an image's layer is made
// of is unpacked in images/layer, which knows of whiteouts and makes every directory itself.)
package archive

import (
	"context"
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/fail"
)

const (
	maxPath = 4095 // PATH_MAX without its NUL
	maxName = 255  // NAME_MAX
)

// ProcPath names an open file for the calls that know no descriptors.
func ProcPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// readlink reads the symlink that fd is open on (O_PATH).
func readlink(fd int) (string, error) {
	b := make([]byte, maxPath+1)
	n, err := unix.Readlinkat(fd, "", b)
	return string(b[:max(n, 0)]), err
}

// InvalidEntry gives class Invalid to what only the entry itself can have caused.
func InvalidEntry(err error) error {
	for _, e := range []unix.Errno{unix.ENAMETOOLONG, unix.ENOTDIR, unix.EINVAL, unix.ELOOP, unix.EISDIR, unix.ERANGE, unix.E2BIG} {
		if errors.Is(err, e) {
			return fail.Mark(fail.Invalid, err)
		}
	}
	return err
}

func canceled(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
