package cgroup

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// open is open(2) of a control file, without the runtime poller: these files never block.
func open(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// write puts value into the control file path in one write(2), as cgroupfs wants it.
func write(path, value string) error {
	fd, err := open(path, unix.O_WRONLY)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	for {
		if _, err = unix.Write(fd, []byte(value)); err == nil {
			return nil
		}
		if err != unix.EINTR {
			return &os.PathError{Op: "write " + strconv.Quote(value) + " to", Path: path, Err: err}
		}
	}
}

// read returns the whole content of a control file.
func read(path string) ([]byte, error) {
	fd, err := open(path, unix.O_RDONLY)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, 512)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return buf, nil
		default:
			buf = buf[:len(buf)+n]
		}
	}
}

// readString returns the content of a control file without its last newline.
func readString(path string) (string, error) {
	b, err := read(path)
	return strings.TrimSuffix(string(b), "\n"), err
}

// unlimited is how this package speaks of "max" and of v1's huge page-rounded numbers.
const unlimited = ^uint64(0)

// readLimit reads a file with one number, or "max" or -1 for none.
func readLimit(path string) (uint64, error) {
	s, err := readString(path)
	if err != nil {
		return 0, err
	}
	if s == "max" || s == "-1" {
		return unlimited, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, &os.PathError{Op: "parse", Path: path, Err: err}
	}
	return n, nil
}

// readKey finds the number of one key in a flat keyed file such as memory.events. A
// missing key is 0: kernels add keys over time.
func readKey(path, key string) (uint64, error) {
	b, err := read(path)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte(key)); ok && len(rest) > 0 && rest[0] == ' ' {
			n, err := strconv.ParseUint(string(bytes.TrimSpace(rest)), 10, 64)
			if err != nil {
				return 0, &os.PathError{Op: "parse", Path: path, Err: err}
			}
			return n, nil
		}
	}
	return 0, nil
}

func exists(path string) bool { return unix.Access(path, unix.F_OK) == nil }

// gone reports whether err says that the group or process is no longer there.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH)
}

// refused turns the error of a write that carried a user's limit into one line.
func refused(what, value string, err error) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	switch errno {
	case unix.ENOENT:
		return fail.New(fail.Invalid, "cannot set %s: this kernel does not support it", what)
	case unix.EACCES, unix.EPERM, unix.EROFS:
		return fail.New(fail.Invalid, "cannot set %s: no permission to write the control group: %w", what, errno)
	case unix.EINVAL, unix.ERANGE, unix.ENODEV, unix.ENOSPC, unix.ENXIO, unix.EOVERFLOW, unix.EOPNOTSUPP:
		return fail.New(fail.Invalid, "cannot set %s to %s: %w", what, value, errno)
	case unix.EBUSY:
		return fail.New(fail.Conflict, "cannot set %s to %s: %w", what, value, errno)
	}
	return err
}
