package stage

import (
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Options say how a child is cloned.
type Options struct {
	Namespaces uintptr  // CLONE_NEW* flags
	Cgroup     *os.File // a v2 cgroup directory to be born in, or nil
	// FirstFree is the lowest descriptor number that the control socket may have, so
	// that the program can put its own descriptors below.
	FirstFree int
}

// Child is a process that walks through a Program.
type Child struct {
	Pid int
	// PidFD refers to the process. It is closed by Close, and changes when the child
	// respawns.
	PidFD int

	program *Program
	control int
	closing sync.Once
}

// Failure is the step of the child that failed.
type Failure struct {
	About string
	Errno syscall.Errno
	// Program is set when execve itself failed, Directory and Interpreter say more
	// about why.
	Program, Directory, Interpreter bool
}

func (f *Failure) Error() string { return f.About + ": " + f.Errno.Error() }

func (f *Failure) Unwrap() error { return f.Errno }

// Kind of a Message.
type Kind int

const (
	Reached   Kind = iota + 1 // the child came to a Notify with this Value
	File                      // the child sent File, with this Value
	Respawned                 // the child is now another process, with a new Pid and PidFD
)

// Message is something the child said. The receiver owns File.
type Message struct {
	Kind  Kind
	Value int
	File  *os.File
}

// Start forks a child that begins to walk through p at once.
func Start(p *Program, opt Options) (*Child, error) {
	if err := p.link(); err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := pair[1]
	if theirs < opt.FirstFree {
		theirs, err = unix.FcntlInt(uintptr(pair[1]), unix.F_DUPFD_CLOEXEC, opt.FirstFree)
		unix.Close(pair[1])
		if err != nil {
			unix.Close(pair[0])
			return nil, os.NewSyscallError("fcntl", err)
		}
	}
	defer unix.Close(theirs)

	im := p.image
	im.start = p.closeOthers(theirs)
	im.ops = p.ops
	im.slots = make([]uintptr, p.slots)
	im.slots[Control] = uintptr(theirs)
	im.scratch = p.scratch
	im.msgAddr = uintptr(unsafe.Pointer(&im.msg))
	im.sigAddr = uintptr(unsafe.Pointer(&im.sigaction))
	im.setAddr = uintptr(unsafe.Pointer(&im.sigset))
	im.pidfd = -1
	im.flags = opt.Namespaces | unix.CLONE_PIDFD | uintptr(unix.SIGCHLD)
	if im.borrows = p.successor != 0; im.borrows {
		if opt.Namespaces != 0 || opt.Cgroup != nil {
			unix.Close(pair[0])
			return nil, errors.New("stage: a child that hands over is not born elsewhere")
		}
		im.flags |= unix.CLONE_VM | unix.CLONE_VFORK
	}
	if opt.Cgroup != nil {
		im.useClone3 = true
		im.cloneArgs = [11]uint64{0: uint64(opt.Namespaces) | unix.CLONE_PIDFD | unix.CLONE_INTO_CGROUP,
			1: uint64(uintptr(unsafe.Pointer(&im.pidfd))), 4: uint64(unix.SIGCHLD), 10: uint64(opt.Cgroup.Fd())}
	}

	// No descriptor without close-on-exec is between its birth and its flag now.
	syscall.ForkLock.Lock()
	pid, errno := fork(im)
	afterFork()
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(p)
	if errno != 0 {
		unix.Close(pair[0])
		return nil, os.NewSyscallError("clone", errno)
	}
	c := &Child{Pid: int(pid), PidFD: int(im.pidfd), program: p, control: pair[0]}
	if im.borrows {
		// The first process has ended. Without a successor it tells why, by Receive.
		if successor := int(im.slots[p.successor]); successor > 0 {
			if err := c.succeed(successor); err != nil {
				unix.Kill(successor, unix.SIGKILL)
				unix.Wait4(successor, nil, 0, nil)
				unix.Close(pair[0])
				return nil, err
			}
		}
	}
	return c, nil
}

// closeOthers adds steps that close every descriptor that the program does not name, and
// returns where they are: a child that waits must not hold the ends of other children's
// sockets open. They come first, and stand behind the others, which need not be moved so.
func (p *Program) closeOthers(control int) (start int) {
	keep := append(slices.Clone(p.files), control)
	slices.Sort(keep)
	start = len(p.ops)
	p.About("close inherited files", "")
	from := 0
	for _, fd := range keep {
		if fd > from {
			p.Call(unix.SYS_CLOSE_RANGE, Int(from), Int(fd-1), Int(0)).Ignore(unix.ENOSYS)
		}
		from = max(from, fd+1)
	}
	p.Call(unix.SYS_CLOSE_RANGE, Int(from), Int(int(^uint32(0))), Int(0)).Ignore(unix.ENOSYS)
	p.Call(opJump)
	p.ops[len(p.ops)-1].onOK = 0
	return start
}

// Receive waits for the next message. io.EOF tells that the child has executed its
// program, or has ended; a *Failure, that a step failed and the child is ending.
func (c *Child) Receive() (Message, error) {
	var buf [messageSize]byte
	var oob [64]byte
	for {
		n, oobn, _, _, err := unix.Recvmsg(c.control, buf[:], oob[:], unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err == unix.ECONNRESET { // the child ended with an unread byte of ours
			return Message{}, io.EOF
		}
		if err != nil {
			return Message{}, os.NewSyscallError("recvmsg", err)
		}
		if n == 0 {
			return Message{}, io.EOF
		}
		msg := *(*[messageSize / 4]uint32)(unsafe.Pointer(&buf))
		switch msg[0] {
		case msgReached:
			return Message{Kind: Reached, Value: int(msg[1])}, nil
		case msgPid:
			if err := c.respawned(int(msg[1])); err != nil {
				return Message{}, err
			}
			return Message{Kind: Respawned}, nil
		case msgFile:
			f, err := receivedFile(oob[:oobn])
			return Message{Kind: File, Value: int(msg[1]), File: f}, err
		case msgFailed:
			return Message{}, c.failure(msg)
		default:
			return Message{}, errors.New("stage: a message of an unknown kind")
		}
	}
}

func (c *Child) failure(msg [messageSize / 4]uint32) error {
	f := &Failure{Errno: syscall.Errno(msg[2]),
		Program:     msg[3]&execProgram != 0,
		Directory:   msg[3]&execDirectory != 0,
		Interpreter: msg[3]&execInterpreter != 0}
	if int(msg[1]) < len(c.program.ops) {
		f.About = c.program.labels[c.program.ops[msg[1]].about].String()
	}
	return f
}

// respawned reaps the process that handed over to pid, and lets pid go on.
func (c *Child) respawned(pid int) error {
	if err := c.succeed(pid); err != nil {
		return err
	}
	return c.Send()
}

// succeed reaps the process that handed over to pid, which is our child as well: its number
// cannot be another's before we reap it too.
func (c *Child) succeed(pid int) error {
	old := c.Pid
	unix.Close(c.PidFD)
	c.PidFD = -1
	c.Pid = pid
	for {
		if _, err := unix.Wait4(old, nil, 0, nil); err != unix.EINTR {
			break
		}
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	c.PidFD = fd
	return nil
}

func receivedFile(oob []byte) (*os.File, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) != 1 {
		return nil, errors.New("stage: a descriptor did not arrive")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("stage: a descriptor did not arrive")
	}
	var st unix.Stat_t
	if unix.Fstat(fds[0], &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR {
		unix.SetNonblock(fds[0], true) // a terminal is read through Go's poller
	}
	return os.NewFile(uintptr(fds[0]), "of a child"), nil
}

// Send lets the child go on from Await.
func (c *Child) Send() error {
	for {
		err := unix.Send(c.control, []byte{1}, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return os.NewSyscallError("send", err)
		}
	}
}

// Close closes the parent's end of the socket pair. A child that waits for the parent
// exits then. The process itself is not touched: it is reaped by its pid.
func (c *Child) Close() {
	c.closing.Do(func() {
		unix.Close(c.control)
		if c.PidFD >= 0 {
			unix.Close(c.PidFD)
		}
		c.program.Discard()
	})
}
