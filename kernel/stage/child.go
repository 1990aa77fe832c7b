package stage

import (
	"syscall"
	"unsafe"
)

// image is all that the child looks at. It is complete before the fork, and holds
// numbers where the child writes.
type image struct {
	ops        []op
	start      int // the first of ops
	slots      []uintptr
	scratch    *[scratchSize]byte
	candidates []uintptr
	argv, env  uintptr
	flags      uintptr
	cloneArgs  [11]uint64 // struct clone_args; [0] is flags, [10] cgroup
	useClone3  bool
	borrows    bool // the child runs in the parent's memory
	pidfd      int32
	_          int32
	msg        [messageSize / 4]uint32
	msgAddr    uintptr
	sigaction  [4]uintptr // SIG_DFL and no flags
	sigAddr    uintptr
	sigset     [2]uintptr
	setAddr    uintptr
}

// A message of the child: kind, value, errno, detail.
const messageSize = 16

const (
	msgFailed  = 1 // value: index of the op
	msgPid     = 2
	msgReached = 3
	msgFile    = 4
)

// Details of a failed Execute.
const (
	execPlain       = 0
	execInterpreter = 1 // the file is there, what it needs to run is not
	execDirectory   = 2
	execProgram     = 4 // flag: the failure is the program's, not ours
)

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

//go:noescape
func vfork(flags uintptr, pidfd *int32) (pid uintptr, errno syscall.Errno)

// fork clones the process; the child runs the image and never returns. Signals are
// blocked around the clone, and the stack guard makes any attempt of the child to grow
// its stack fatal, so a mistake here shows at once. The parent has to call afterFork.
//
// A child that borrows the parent's memory runs on this very stack, below this frame,
// while the parent's thread waits: so the parent must leave this frame at once.
//
//go:norace
//go:noinline
//go:nosplit
func fork(im *image) (pid uintptr, errno syscall.Errno) {
	beforeFork()
	if im.borrows {
		pid, errno = vfork(im.flags, &im.pidfd)
	} else if im.useClone3 {
		pid, _, errno = syscall.RawSyscall(sysClone3, uintptr(unsafe.Pointer(&im.cloneArgs)), unsafe.Sizeof(im.cloneArgs), 0)
	} else {
		pid, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, im.flags, 0, uintptr(unsafe.Pointer(&im.pidfd)), 0, 0, 0)
	}
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	afterForkInChild()
	walk(im)
	return 0, 0
}

// walk is the interpreter.
//
//go:norace
//go:noinline
//go:nosplit
func walk(im *image) {
	pc := im.start
	for {
		o := &im.ops[pc]
		var a [6]uintptr
		for i := 0; i < 6; i++ {
			a[i] = o.args[i]
			if o.inSlots&(1<<i) != 0 {
				a[i] = im.slots[a[i]]
			}
		}
		if o.nr > firstBuiltin {
			switch o.nr {
			case opJump:
				pc = int(o.onOK)
				continue
			case opJumpUnless:
				if a[0] != a[1] {
					pc = int(o.onOK)
					continue
				}
			case opJumpUnlessByte:
				if a[0]&0xff != a[1] {
					pc = int(o.onOK)
					continue
				}
			case opSet:
				im.slots[o.out] = a[0]
			case opLoad32:
				im.slots[o.out] = uintptr(load32(im, a[0]))
			case opStore32:
				store32(im, a[0], uint32(a[1]))
			case opMix:
				im.slots[o.out] = a[0]&a[1] | a[2]
			case opDecimal:
				decimal(im, a[0]+a[2], a[1])
			case opDefaults:
				defaults(im)
			case opNotify:
				tell(im, uint32(a[0]), uint32(a[1]), 0, 0)
			case opAwait:
				await(im)
			case opFail:
				die(im, pc, syscall.Errno(a[0]), execPlain)
			case opCheck:
				if errno, detail := look(im); errno != 0 {
					die(im, pc, errno, detail|execProgram)
				}
			case opExec:
				errno, detail := execute(im)
				die(im, pc, errno, detail|execProgram)
			case opExit:
				exit(a[0])
			}
			pc++
			continue
		}
		r, _, errno := syscall.RawSyscall6(o.nr, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno == 0 {
			if o.out >= 0 {
				im.slots[o.out] = r
			}
			if o.onOK >= 0 {
				pc = int(o.onOK)
			} else {
				pc++
			}
			continue
		}
		if errno == syscall.EINTR {
			continue
		}
		if o.out >= 0 {
			im.slots[o.out] = -uintptr(errno)
		}
		next := pc
		if errno == syscall.Errno(o.onErrno[0]) {
			next = int(o.onErrnoT[0])
		} else if errno == syscall.Errno(o.onErrno[1]) {
			next = int(o.onErrnoT[1])
		} else {
			for i := 0; i < maxIgnored; i++ {
				if errno == syscall.Errno(o.ignored[i]) {
					next = pc + 1
				}
			}
		}
		if next == pc {
			die(im, pc, errno, execPlain)
		}
		pc = next
	}
}

//go:norace
//go:nosplit
func load32(im *image, off uintptr) uint32 {
	b := im.scratch
	return uint32(b[off]) | uint32(b[off+1])<<8 | uint32(b[off+2])<<16 | uint32(b[off+3])<<24
}

//go:norace
//go:nosplit
func store32(im *image, off uintptr, v uint32) {
	b := im.scratch
	b[off], b[off+1], b[off+2], b[off+3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
}

//go:norace
//go:nosplit
func decimal(im *image, off, v uintptr) {
	digits := uintptr(1)
	for w := v; w >= 10; w /= 10 {
		digits++
	}
	im.scratch[off+digits] = 0
	for i := digits; i > 0; i-- {
		im.scratch[off+i-1] = '0' + byte(v%10)
		v /= 10
	}
}

// defaults undoes what the parent ignores (nohup) or was started with blocked. The
// runtime has reset the handlers already.
//
//go:norace
//go:nosplit
func defaults(im *image) {
	for sig := uintptr(1); sig <= 64; sig++ {
		syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, im.sigAddr, 0, 8, 0, 0)
	}
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, 2 /* SIG_SETMASK */, im.setAddr, 0, 8, 0, 0)
}

// tell sends a message. Nothing can be done about a parent that is gone.
//
//go:norace
//go:nosplit
func tell(im *image, kind, value, errno, detail uint32) {
	im.msg[0], im.msg[1], im.msg[2], im.msg[3] = kind, value, errno, detail
	for {
		_, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, im.slots[Control], im.msgAddr, messageSize, syscall.MSG_NOSIGNAL, 0, 0)
		if e != syscall.EINTR {
			return
		}
	}
}

//go:norace
//go:nosplit
func await(im *image) {
	for {
		n, _, e := syscall.RawSyscall(syscall.SYS_READ, im.slots[Control], im.msgAddr, messageSize)
		if e == syscall.EINTR {
			continue
		}
		if e != 0 || n == 0 {
			exit(255)
		}
		return
	}
}

//go:norace
//go:nosplit
func die(im *image, pc int, errno syscall.Errno, detail uint32) {
	tell(im, msgFailed, uint32(pc), uint32(errno), detail)
	exit(255)
}

//go:norace
//go:nosplit
func exit(code uintptr) {
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, code, 0, 0)
	}
}

// execute tries the candidates in order, like execvp(3): one that is missing or may
// not be executed does not end the search.
//
//go:norace
//go:nosplit
func execute(im *image) (syscall.Errno, uint32) {
	seen, detail := syscall.ENOENT, uint32(execPlain)
	for i := 0; i < len(im.candidates); i++ {
		path := im.candidates[i]
		_, _, e := syscall.RawSyscall(syscall.SYS_EXECVE, path, im.argv, im.env)
		switch e {
		case syscall.ENOENT:
			if _, _, e := syscall.RawSyscall6(syscall.SYS_FACCESSAT, atFDCWD, path, 0, 0, 0, 0); e == 0 {
				return syscall.ENOENT, execInterpreter
			}
		case syscall.ENOTDIR:
			if len(im.candidates) == 1 {
				seen = e
			}
		case syscall.EACCES:
			seen, detail = e, unusable(path)
		default:
			return e, execPlain
		}
	}
	return seen, detail
}

// look finds out what execute would find, as far as that can be seen without it.
//
//go:norace
//go:nosplit
func look(im *image) (syscall.Errno, uint32) {
	seen, detail := syscall.ENOENT, uint32(execPlain)
	for i := 0; i < len(im.candidates); i++ {
		path := im.candidates[i]
		// AT_EACCESS needs faccessat2: here the real and the effective user are one.
		_, _, e := syscall.RawSyscall6(syscall.SYS_FACCESSAT, atFDCWD, path, 1 /* X_OK */, 0, 0, 0)
		switch e {
		case 0:
			if unusable(path) == execPlain {
				return 0, 0
			}
			seen, detail = syscall.EACCES, execDirectory
		case syscall.ENOENT:
		case syscall.ENOTDIR:
			if len(im.candidates) == 1 {
				seen = e
			}
		case syscall.EACCES:
			seen, detail = e, unusable(path)
		default:
			return e, execPlain
		}
	}
	return seen, detail
}

//go:norace
//go:nosplit
func unusable(path uintptr) uint32 {
	fd, _, e := syscall.RawSyscall6(syscall.SYS_OPENAT, atFDCWD, path, oPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0, 0, 0)
	if e != 0 {
		return execPlain
	}
	syscall.RawSyscall(syscall.SYS_CLOSE, fd, 0, 0)
	return execDirectory
}

const (
	sysClone3 = 435
	oPath     = 0x200000
	atFDCWD   = ^uintptr(99) // -100
)
