package kernel

import (
	"errors"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// labelXattr is where SELinux keeps a file's label (xattr(7), "security").
const labelXattr = "security.selinux"

// Label gives a file, or a directory with all that is below it, an SELinux label. Names are
// looked up in open directories only and no symbolic link is followed, so a process that
// exchanges files meanwhile cannot lead it elsewhere. The top comes last: whose top has the
// label is taken to be mostly done. File systems without labels are left as they are.
func Label(top *os.File, label string) error {
	l := labeler{label: []byte(label)}
	at := procFd(int(top.Fd()))
	l.done = l.has(at)
	var st unix.Stat_t
	if err := unix.Fstat(int(top.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: top.Name(), Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := l.below(int(top.Fd()), top.Name()); err != nil {
			return err
		}
	}
	return l.set(at, top.Name())
}

type labeler struct {
	label []byte
	done  bool // most files have the label: looking is cheaper than setting
}

func procFd(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// below labels what is in a directory, which may be open by O_PATH. name is for messages.
func (l *labeler) below(dir int, name string) error {
	fd, err := OpenAt(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	for {
		names, err := f.Readdirnames(1024)
		for _, n := range names {
			if err := l.entry(fd, n, name+"/"+n); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// entry labels one name. One that has gone meanwhile needs no label.
func (l *labeler) entry(dir int, name, path string) error {
	fd, err := OpenAt(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := l.below(fd, path); err != nil {
			return err
		}
	}
	return l.set(procFd(fd), path)
}

func (l *labeler) set(at, path string) error {
	if l.done && l.has(at) {
		return nil
	}
	err := unix.Setxattr(at, labelXattr, l.label, 0)
	if err == nil || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EROFS) && l.has(at) {
		return nil
	}
	return &os.PathError{Op: "label", Path: path, Err: err}
}

// has compares labels; the kernel's end with a NUL.
func (l *labeler) has(at string) bool {
	have := make([]byte, len(l.label)+2)
	n, err := unix.Getxattr(at, labelXattr, have)
	if err != nil {
		return false
	}
	have = have[:n]
	if n > 0 && have[n-1] == 0 {
		have = have[:n-1]
	}
	return string(have) == string(l.label)
}
