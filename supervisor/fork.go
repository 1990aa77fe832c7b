package supervisor

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vigil is all that a guardian knows: one page that it shares with its shim. It holds
// no Go pointers, only addresses within itself.
type vigil struct {
	assigned uint32 // runDir is filled in
	over     uint32 // the shim ends in order: nothing is to be done

	pipe    uintptr       // read end of the pipe whose write end the shim alone holds
	closing [3][2]int32   // ranges of descriptors to close
	kept    [3][2]uintptr // memory in ascending order: code, stack, this page
	top     uintptr
	page    uintptr // size of one

	byte   byte
	set    uint64     // all signals
	argv   [5]uintptr // program, --lost, runDir, pid of the shim, nil
	env    [1]uintptr
	name   [16]byte
	path   [32]byte
	flag   [8]byte
	shim   [16]byte
	runDir [3072]byte
}

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// stackKept is how much of the forking goroutine's stack the child keeps below the place
// where it stands; functions that may not grow the stack need 800 bytes together.
const stackKept = 4 << 10

// forkGuardian clones the process. The child keeps its code, some stack and the page v,
// and never returns.
//
//go:norace
//go:noinline
//go:nosplit
func forkGuardian(v *vigil) (pid uintptr, errno syscall.Errno) {
	here := uintptr(unsafe.Pointer(&pid))
	v.kept[1] = [2]uintptr{(here - stackKept) &^ (v.page - 1), (here + 2*v.page) &^ (v.page - 1)}
	beforeFork()
	pid, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		afterFork()
		return pid, errno
	}
	afterForkInChild()
	watch(v)
	return 0, 0
}

// watch is the guardian's whole life. It makes only system calls.
//
//go:norace
//go:noinline
//go:nosplit
func watch(v *vigil) {
	// Nobody but SIGKILL ends a guardian. The mask survives execve.
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, 0 /* SIG_BLOCK */, uintptr(unsafe.Pointer(&v.set)), 0, 8, 0, 0)
	syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0)
	syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&v.name)), 0, 0, 0, 0)
	for i := 0; i < len(v.closing); i++ {
		if v.closing[i][0] <= v.closing[i][1] {
			syscall.RawSyscall(unix.SYS_CLOSE_RANGE, uintptr(v.closing[i][0]), uintptr(v.closing[i][1]), 0)
		}
	}
	// The copy of the shim's memory would become private page by page as the shim
	// writes to its own.
	from := uintptr(0x1000)
	if v.kept[1][0] > v.kept[2][0] { // the heap's place is random
		v.kept[1], v.kept[2] = v.kept[2], v.kept[1]
	}
	if v.kept[0][1] < v.kept[1][0] && v.kept[1][1] < v.kept[2][0] {
		for i := 0; i < len(v.kept); i++ {
			syscall.RawSyscall(syscall.SYS_MUNMAP, from, v.kept[i][0]-from, 0)
			from = v.kept[i][1]
		}
		syscall.RawSyscall(syscall.SYS_MUNMAP, from, v.top-from, 0)
	}
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, v.pipe, uintptr(unsafe.Pointer(&v.byte)), 1)
		if errno == syscall.EINTR || n == 1 {
			continue
		}
		break
	}
	if v.over == 0 && v.assigned != 0 {
		syscall.RawSyscall(syscall.SYS_EXECVE, v.argv[0], uintptr(unsafe.Pointer(&v.argv)), uintptr(unsafe.Pointer(&v.env)))
	}
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
	}
}
