package runtime

import (
	"errors"
	"os"
	"strconv"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	"berth/kernel/stage"
)

// openStreams gives the child the process's streams. Missing ones are /dev/null, and so is
// what the caller has as that: the container's own, see openNull.
func (b *builder) openStreams(stdio [3]*os.File, terminal bool) (args [3]stage.Arg, err error) {
	if terminal {
		return args, nil
	}
	for i, f := range stdio {
		if f != nil && !isNull(int(f.Fd())) {
			args[i] = b.p.File(f)
			b.ownable[args[i]] = ownable(f)
			continue
		}
		if b.null == 0 {
			b.null = b.p.Slot()
		}
		args[i] = b.null.Arg()
	}
	return args, nil
}

// The number of the null device (linux/major.h, "MEM_MAJOR").
const nullMajor, nullMinor = 1, 3

func isNull(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(nullMajor, nullMinor)
}

// openNull opens the container's own /dev/null for streams. The host's must not come into a
// container by a descriptor either: its file belongs to root, and whoever is root inside could
// take it away from the whole host by a chmod. Where the container has another thing at that name
// or nothing, made says that it cannot be, and else it gets the host's through a mount that
// nothing can be changed on.
func (b *builder) openNull(made bool) error {
	if b.null == 0 {
		return nil
	}
	p := b.p
	there, other, done := p.Slot(), p.NewLabel(), p.NewLabel()
	p.About("open", "/dev/null")
	// Looked at before it is opened: to open another device, or a pipe, could have effects.
	b.openIn("/dev/null", unix.O_PATH|unix.O_NOFOLLOW, resolvePlain).Into(there).Ignore(unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EACCES)
	b.unlessDevice(there.Arg(), "", &specs.LinuxDevice{Major: nullMajor, Minor: nullMinor}, unix.S_IFCHR, other)
	b.close(there)
	b.openIn("/dev/null", unix.O_RDWR|unix.O_NOCTTY, resolvePlain).Into(b.null)
	p.Jump(done)
	p.Here(other)
	if made {
		p.Fail(unix.ENXIO)
	} else {
		f, err := hostNull()
		if err != nil {
			return fail.New(fail.Internal, "open /dev/null: %w", err)
		}
		fd, err := unix.Open(procFd(f.Fd()), unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fail.New(fail.Internal, "open /dev/null: %w", err)
		}
		b.closeLater(fd)
		p.Set(b.null, p.FD(fd))
	}
	p.Here(done)
	return nil
}

// procFd is a name of the very file that a descriptor, also one of O_PATH, is open for.
func procFd(fd uintptr) string { return "/proc/self/fd/" + strconv.Itoa(int(fd)) }

// hostNull is a read-only mount of the host's /dev/null alone. It is kept: to give a mount back
// makes the kernel wait for all processors. In a user namespace, where the device is not ours to
// change anyway, it is the device itself.
func hostNull() (*os.File, error) {
	nullMount.Lock()
	defer nullMount.Unlock()
	if nullMount.f != nil {
		return nullMount.f, nil
	}
	f, err := kernel.CloneTree("/dev/null", false)
	if err == nil {
		err = kernel.SetMount(f, false, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	if err != nil {
		f.Close() // nil, perhaps
		if !kernel.InUserNamespace() {
			return nil, err
		}
		if f, err = os.OpenFile("/dev/null", unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
			return nil, err
		}
	}
	nullMount.f = f
	return f, nil
}

// nullMount is what hostNull keeps.
var nullMount struct {
	sync.Mutex
	f *os.File
}

// openFifo opens the exec fifo for the child. Open for both directions it never reads
// as ended, and needs no partner.
func (b *builder) openFifo(path string, firstFree int) (stage.Arg, error) {
	if path == "" {
		return stage.Arg{}, nil
	}
	low, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return stage.Arg{}, fail.New(classOfPath(err), "exec fifo %s: %w", path, err)
	}
	defer unix.Close(low)
	fd, err := unix.FcntlInt(uintptr(low), unix.F_DUPFD_CLOEXEC, firstFree)
	if err != nil {
		return stage.Arg{}, os.NewSyscallError("fcntl", err)
	}
	b.closeLater(fd)
	return b.p.FD(fd), nil
}

// waitFifo waits until someone writes to the fifo. It stays open until execve, and that
// is how the writer sees that it has happened.
func (b *builder) waitFifo(fifo stage.Arg) {
	b.p.About("wait on the exec fifo", "")
	b.p.Call(unix.SYS_READ, fifo, b.path.addr, stage.Int(1))
}

// setSize sets the size of a terminal.
func setSize(console *os.File, size *specs.Box) error {
	if size == nil || size.Width == 0 && size.Height == 0 {
		return nil
	}
	conn, err := console.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = conn.Control(func(fd uintptr) {
		inner = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(size.Height), Col: uint16(size.Width)})
	})
	return errors.Join(err, inner)
}
