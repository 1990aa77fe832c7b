package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A run owns everything that descends from it: it is the subreaper of its processes, so a
// shim whose parent leaves becomes its child, and not init's. What is left at the end is
// ended by process ID, and each engine's network is a namespace that goes with them.

// space is a network namespace with loopback up, and the thread that starts processes in it.
type space struct {
	work chan func()
}

// newSpace makes a namespace that lasts until ctx is done and its processes have ended. Its
// processes see an empty file system of their own at the hidden directories.
func newSpace(ctx context.Context, hidden ...string) (*space, error) {
	s := &space{work: make(chan func())}
	ready := make(chan error, 1)
	go func() {
		// Never unlocked: the thread is in another namespace and must end with the goroutine.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = loopbackUp()
		}
		if err == nil && len(hidden) > 0 {
			err = hide(hidden)
		}
		ready <- err
		for err == nil {
			select {
			case do := <-s.work:
				do()
			case <-ctx.Done():
				return
			}
		}
	}()
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	return s, nil
}

// within runs do in the namespace, on the one thread that is there.
func (s *space) within(ctx context.Context, do func()) {
	done := make(chan struct{})
	select {
	case s.work <- func() { do(); close(done) }:
		<-done
	case <-ctx.Done():
	}
}

// hide covers directories for this thread and what it starts.
func hide(dirs []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, d := range dirs {
		if err := unix.Mount("tmpfs", d, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("cover %s: %w", d, err)
		}
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

// started holds the direct children that somebody waits for; all other children were
// inherited from a parent that has left.
var started struct {
	sync.Mutex
	pids map[int]bool
}

// start starts cmd in the namespace; a nil space is the machine's own.
func (s *space) start(ctx context.Context, cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		// A group of its own: what ^C does to it is decided here, not by the terminal.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	started.Lock()
	defer started.Unlock()
	err := ctx.Err()
	switch {
	case err != nil:
	case s == nil:
		err = cmd.Start()
	default:
		err = context.Canceled
		s.within(ctx, func() { err = cmd.Start() })
	}
	if err == nil {
		if started.pids == nil {
			started.pids = map[int]bool{}
		}
		started.pids[cmd.Process.Pid] = true
	}
	return err
}

func wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	started.Lock()
	defer started.Unlock()
	delete(started.pids, cmd.Process.Pid)
	return err
}

// clientTime is the longest that one command may take.
const clientTime = 5 * time.Minute

// run runs a program to its end and returns what it wrote and how long it took.
func (s *space) run(ctx context.Context, env []string, argv ...string) (out string, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, clientTime)
	defer cancel()
	// A file and not a pipe: whoever inherits it (a shim, in detached runs) does not hold us up.
	fd, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC)
	if err != nil {
		return "", 0, fmt.Errorf("make a file for output: %w", err)
	}
	file := os.NewFile(uintptr(fd), "output")
	defer file.Close()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, file, file
	begin := time.Now()
	if err = s.start(ctx, cmd); err == nil {
		err = wait(cmd)
	}
	took = time.Since(begin)
	written, readErr := io.ReadAll(io.NewSectionReader(file, 0, 1<<20))
	if err == nil {
		err = readErr
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", filepath.Base(argv[0]), err, lastLine(string(written)))
	}
	return string(written), took, err
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// becomeSubreaper makes this process the parent of its orphans.
func becomeSubreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the subreaper: %w", err)
	}
	return nil
}

// reap buries inherited children that have ended, until ctx is done.
func reap(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			reapInherited()
		case <-ctx.Done():
			return
		}
	}
}

// reapInherited stops at the first dead child that somebody waits for: the rest has time.
func reapInherited() {
	started.Lock() // nobody becomes a child of ours by start meanwhile
	defer started.Unlock()
	for {
		// siginfo_t of SIGCHLD (sigaction(2)), of which x/sys names the first three fields only.
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		pid := int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), 16)))
		if err != nil || pid == 0 || started.pids[pid] {
			return
		}
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
	}
}

// process is a line of the process table.
type process struct {
	pid, parent int
	name        string
	state       byte
}

func processes() (all []process) {
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", d.Name(), "stat"))
		if err != nil {
			continue
		}
		if p, ok := parseStat(pid, string(stat)); ok {
			all = append(all, p)
		}
	}
	return all
}

// parseStat reads /proc/PID/stat (proc_pid_stat(5)): the name may contain anything, so
// the fields behind it are counted from its last bracket.
func parseStat(pid int, stat string) (process, bool) {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return process{}, false
	}
	fields := strings.Fields(stat[end+1:])
	if len(fields) < 2 {
		return process{}, false
	}
	parent, err := strconv.Atoi(fields[1])
	return process{pid: pid, parent: parent, name: stat[open+1 : end], state: fields[0][0]}, err == nil
}

// descendants lists the live processes below one.
func descendants(of int) []process {
	below := map[int]bool{of: true}
	all := processes()
	for grew := true; grew; {
		grew = false
		for _, p := range all {
			if below[p.parent] && !below[p.pid] {
				below[p.pid], grew = true, true
			}
		}
	}
	var found []process
	for _, p := range all {
		if below[p.pid] && p.pid != of && p.state != 'Z' {
			found = append(found, p)
		}
	}
	return found
}

// endAll kills whatever this process has started and inherited, until nothing is left.
func endAll() error {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left := descendants(os.Getpid())
		if len(left) == 0 {
			return nil
		}
		for _, p := range left {
			_ = unix.Kill(p.pid, unix.SIGKILL)
		}
		reapInherited()
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes do not end, %s (%d) among them", len(left), left[0].name, left[0].pid)
		}
	}
}

// removeCgroups removes the groups called name at the top of every hierarchy, with all below.
func removeCgroups(name string) error {
	tops, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	tops = append(tops, "/sys/fs/cgroup/"+name)
	var failed error
	for _, top := range tops {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			err := removeCgroup(top)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				failed = err
				break
			}
		}
	}
	return failed
}

func removeCgroup(dir string) error {
	below, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, d := range below {
		if d.IsDir() {
			if err := removeCgroup(filepath.Join(dir, d.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

// unmountBelow unmounts everything in dir, the last mount first.
func unmountBelow(dir string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	lines := strings.Split(string(data), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		fields := strings.Fields(lines[i])
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			if err := unix.Unmount(fields[4], unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", fields[4], err)
			}
		}
	}
	return nil
}
