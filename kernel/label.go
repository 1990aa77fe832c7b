package kernel

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// labelXattr is where SELinux keeps a file's label (xattr(7), "security").
const labelXattr = "security.selinux"

// maxLabelDepth is how many directories deep Label goes: no path leads deeper (PATH_MAX), and each
// level holds a descriptor.
const maxLabelDepth = 2048

// Label gives a file, or a directory with all that is below it, an SELinux label. Names are
// looked up in open directories only and no symbolic link is followed, so a process that
// exchanges files meanwhile cannot lead it elsewhere. The top comes last: whose top has the
// label is taken to be mostly done. File systems without labels are left as they are. Directories
// nested too deep for any path are class Invalid.
func Label(ctx context.Context, top *os.File, label string) error {
	return (&labeler{ctx: ctx, label: []byte(label), deepest: maxLabelDepth}).tree(top)
}

func (l *labeler) tree(top *os.File) error {
	at := procFd(int(top.Fd()))
	l.done = l.has(at)
	var st unix.Stat_t
	if err := unix.Fstat(int(top.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: top.Name(), Err: err}
	}
	p := &place{name: top.Name()}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		list, err := openList(int(top.Fd()))
		if err != nil {
			return &os.PathError{Op: "open", Path: top.Name(), Err: err}
		}
		defer list.Close()
		if err := l.below(list, p); err != nil {
			return err
		}
	}
	return l.set(at, p)
}

type labeler struct {
	ctx     context.Context
	label   []byte
	deepest int
	done    bool // most files have the label: looking is cheaper than setting
}

// place is where something is, kept so that a level costs no more than its name.
type place struct {
	above *place // nil: the top
	name  string
	depth int
}

func (p *place) in(name string) *place { return &place{p, name, p.depth + 1} }

// String is for messages: of what lies deep, not all that is between.
func (p *place) String() string {
	const shown = 32
	text, skipped := p.name, false
	for at := p.above; at != nil; at = at.above {
		switch {
		case at.above == nil || p.depth-at.depth < shown:
			text = at.name + "/" + text
		case !skipped:
			text, skipped = ".../"+text, true
		}
	}
	return text
}

func procFd(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// openList opens a directory, which may be open by O_PATH, for reading.
func openList(dir int) (*os.File, error) {
	fd, err := OpenAt(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "."), nil
}

// below labels what is in a directory. One that was removed meanwhile has nothing.
func (l *labeler) below(list *os.File, p *place) error {
	if p.depth >= l.deepest {
		return fail.New(fail.Invalid, "directories are nested deeper than %d levels: remove some", l.deepest)
	}
	for {
		if l.ctx.Err() != nil {
			return context.Cause(l.ctx)
		}
		names, err := list.Readdirnames(64) // all levels keep as many in memory
		for _, n := range names {
			if err := l.entry(int(list.Fd()), n, p); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return &os.PathError{Op: "read", Path: p.String(), Err: err}
		}
	}
}

// entry labels one name. One that has gone meanwhile needs no label.
func (l *labeler) entry(dir int, name string, above *place) error {
	fd, err := OpenAt(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	p := above.in(name)
	if err != nil {
		return &os.PathError{Op: "open", Path: p.String(), Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return &os.PathError{Op: "stat", Path: p.String(), Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		defer unix.Close(fd)
		return l.set(procFd(fd), p)
	}
	list, err := openList(fd)
	unix.Close(fd)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: p.String(), Err: err}
	}
	defer list.Close()
	if err := l.below(list, p); err != nil {
		return err
	}
	return l.set(procFd(int(list.Fd())), p)
}

func (l *labeler) set(at string, p *place) error {
	if l.done && l.has(at) {
		return nil
	}
	err := unix.Setxattr(at, labelXattr, l.label, 0)
	if err == nil || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EROFS) && l.has(at) {
		return nil
	}
	return &os.PathError{Op: "label", Path: p.String(), Err: err}
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
