package runtime

import (
	"errors"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel/stage"
)

// openStreams gives the child the process's streams; missing ones are /dev/null.
func (b *builder) openStreams(stdio [3]*os.File, terminal bool) (args [3]stage.Arg, err error) {
	if terminal {
		return args, nil
	}
	null := -1
	for i, f := range stdio {
		if f != nil {
			args[i] = b.p.File(f)
			b.ownable[args[i]] = ownable(f)
			continue
		}
		if null < 0 {
			if null, err = unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
				return args, fail.New(fail.Internal, "open /dev/null: %w", err)
			}
			b.closeLater(null)
		}
		args[i] = b.p.FD(null)
	}
	return args, nil
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
