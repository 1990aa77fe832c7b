package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// guardian is a process that outlives its shim. It is forked from it and never runs Go:
// it waits for the end of a pipe that the shim alone can write to. When the shim was
// killed, and only then, it executes the shim's program with --lost, see lost.go. It
// gives back the memory it was forked with, but for one stack and the page it shares
// with the shim, so it costs some 16 KiB.
type guardian struct {
	v      *vigil
	page   []byte
	pid    int
	pipe   *os.File // write end; held open, never written
	binary *os.File
}

// startGuardian forks a guardian that does nothing at the shim's end until assign.
// binary is the shim's program; the guardian keeps it open, so it can be executed after
// its file was replaced.
func startGuardian(binary *os.File) (*guardian, error) {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	g := &guardian{v: (*vigil)(unsafe.Pointer(&page[0])), page: page, binary: binary}
	if err := g.fork(); err != nil {
		_ = unix.Munmap(page)
		return nil, err
	}
	return g, nil
}

func (g *guardian) fork() error {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(fds[0])
	v := g.v
	v.pipe = uintptr(fds[0])
	binary := int(g.binary.Fd())
	low, high := int32(min(fds[0], binary)), int32(max(fds[0], binary))
	const last = 1<<31 - 1
	v.closing = [3][2]int32{{0, low - 1}, {low + 1, high - 1}, {high + 1, last}}
	v.set = ^uint64(0)
	copy(v.name[:], "berth-guardian\x00")
	copy(v.path[:], "/proc/self/fd/"+strconv.Itoa(binary)+"\x00")
	copy(v.flag[:], "--lost\x00")
	copy(v.shim[:], strconv.Itoa(os.Getpid())+"\x00")
	v.argv = [5]uintptr{uintptr(unsafe.Pointer(&v.path)), uintptr(unsafe.Pointer(&v.flag)),
		uintptr(unsafe.Pointer(&v.runDir)), uintptr(unsafe.Pointer(&v.shim)), 0}
	if err := g.layout(); err != nil {
		unix.Close(fds[1])
		return err
	}
	syscall.ForkLock.Lock()
	pid, errno := forkGuardian(v)
	syscall.ForkLock.Unlock()
	if errno != 0 {
		unix.Close(fds[1])
		return os.NewSyscallError("clone", errno)
	}
	g.pid, g.pipe = int(pid), os.NewFile(uintptr(fds[1]), "guardian")
	return nil
}

// layout notes which memory the guardian needs: the code it runs and the shared page.
// fork.go adds the stack.
func (g *guardian) layout() error {
	run := watch
	code := uint64(**(**uintptr)(unsafe.Pointer(&run))) // a function value points at its code's address
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	v := g.v
	v.kept[0], v.top, v.page = [2]uintptr{}, 0, uintptr(os.Getpagesize())
	for line := range bytes.Lines(maps) {
		area, _, _ := bytes.Cut(line, []byte(" "))
		from, to, _ := bytes.Cut(area, []byte("-"))
		lo, err1 := strconv.ParseUint(string(from), 16, 64)
		hi, err2 := strconv.ParseUint(string(to), 16, 64)
		if err1 != nil || err2 != nil {
			return fmt.Errorf("/proc/self/maps: a line %q", line)
		}
		if lo <= code && code < hi {
			v.kept[0] = [2]uintptr{uintptr(lo), uintptr(hi)}
		}
		if bytes.HasSuffix(line, []byte(".so\n")) || bytes.Contains(line, []byte(".so.")) {
			// Built with cgo, as tests are: the C library has told the kernel of memory in
			// every thread (rseq(2)), and who unmaps that is killed. All is kept.
			v.kept[0] = [2]uintptr{0, ^uintptr(0)}
			return nil
		}
		if hi < 1<<63 { // not the kernel's own page
			v.top = max(v.top, uintptr(hi))
		}
	}
	if v.kept[0][1] == 0 {
		return errors.New("/proc/self/maps does not show this program")
	}
	page := uintptr(unsafe.Pointer(&g.page[0]))
	v.kept[2] = [2]uintptr{page, page + uintptr(len(g.page))}
	return nil
}

// assign tells the guardian whose end it has to see to.
func (g *guardian) assign(runDir string) error {
	if len(runDir) >= len(g.v.runDir) {
		return fail.New(fail.Invalid, "the run directory's path is longer than %d bytes", len(g.v.runDir)-1)
	}
	copy(g.v.runDir[:], runDir+"\x00")
	atomic.StoreUint32(&g.v.assigned, 1)
	return nil
}

// dismiss tells the guardian that there is nothing left to see to.
func (g *guardian) dismiss() { atomic.StoreUint32(&g.v.over, 1) }

// release lets the guardian go in peace.
func (g *guardian) release() {
	g.dismiss()
	g.pipe.Close()
	_, _ = unix.Wait4(g.pid, nil, 0, nil)
}

// guard replaces a guardian that is killed, for as long as the shim lives.
func (g *guardian) guard() {
	for died := 0; died < 5; died++ {
		born := time.Now()
		fd, err := unix.PidfdOpen(g.pid, unix.PIDFD_NONBLOCK)
		if err != nil {
			return
		}
		f := os.NewFile(uintptr(fd), "guardian")
		raw, err := f.SyscallConn()
		if err == nil {
			err = raw.Read(func(fd uintptr) bool { return ready(int(fd), unix.POLLIN) })
		}
		f.Close()
		if err != nil || atomic.LoadUint32(&g.v.over) != 0 {
			return
		}
		_, _ = unix.Wait4(g.pid, nil, 0, nil)
		if time.Since(born) > time.Minute {
			died = 0 // not by itself
		}
		g.pipe.Close()
		if g.fork() != nil {
			return
		}
	}
}
