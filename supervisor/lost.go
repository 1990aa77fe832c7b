package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
	"berth/kernel/cgroup"
	"berth/supervisor/external"
)

// lost is what a guardian does after its shim was killed: the container is killed, for
// nobody is left who could supervise it, and the exit is recorded.
func lost(runDir, shimPid string) error {
	pid, err := strconv.Atoi(shimPid)
	if err != nil {
		return fail.New(fail.Invalid, "%q is no process id", shimPid)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	st, err := clearUp(ctx, runDir, pid, func() { durable.Failpoint("shim.lost.recorded") })
	if st.Started {
		for _, e := range st.Env { // a guardian has none; wake looks for the program in PATH
			name, value, _ := strings.Cut(e, "=")
			_ = os.Setenv(name, value)
		}
		err = errors.Join(err, wake(st.WakeEngine, st.Env))
	}
	return err
}

// clearUp ends what the shim of runDir left when it was killed: the container, its cgroup,
// the run directory; one that had started gets an exit record. shimPid is the shim's, 0 for
// whichever it was. The result is what the shim had noted, or nothing if that is not there.
//
// A guardian does it at once, and so does an engine, because guardian and shim may have
// been killed together. A lock on the run directory keeps them apart, and who comes second
// finds nothing to do.
func clearUp(ctx context.Context, runDir string, shimPid int, recorded func()) (st runState, err error) {
	unlock, err := lockDir(ctx, runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return runState{}, nil
	}
	if err != nil {
		return runState{}, err
	}
	defer unlock()
	err = durable.ReadJSON(filepath.Join(runDir, stateName), &st)
	if errors.Is(err, fs.ErrNotExist) {
		return runState{}, nil // it had come to its end
	}
	if err != nil {
		return runState{}, err
	}
	if shimPid != 0 && st.ShimPid != shimPid {
		return runState{}, nil // the container has another shim by now
	}
	if err := awaitEnd(ctx, st.ShimPid, st.ShimBirth, false); err != nil {
		return runState{}, fmt.Errorf("the shim (process %d) does not answer and does not end: %w", st.ShimPid, err)
	}
	err = errors.Join(awaitEnd(ctx, st.Pid, st.PidBirth, true), killGroup(ctx, st.Cgroup))
	if st.Runtime != nil {
		external.Abandon(ctx, *st.Runtime, filepath.Join(runDir, bundleName), st.ID)
	}
	if st.Started {
		// An exit record that is there already is the shim's own, written just before.
		if _, e := ReadExit(st.Dir); fail.Is(e, fail.NotFound) {
			now := time.Now()
			err = errors.Join(err, writeExit(st.Dir, ExitRecord{Code: killed, Reason: reasonLost, StartedAt: st.StartedAt, ExitedAt: now}, st.Volatile))
		}
	}
	recorded()
	clearRunDir(runDir)
	return st, err
}

// lockDir locks a directory until unlock is called or this process ends.
func lockDir(ctx context.Context, path string) (unlock func(), err error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	locked := make(chan error, 1)
	go func() { // ends when the other one has finished, which is bound to a minute
		for {
			err := unix.Flock(int(dir.Fd()), unix.LOCK_EX)
			if err != unix.EINTR {
				locked <- os.NewSyscallError("flock", err)
				return
			}
		}
	}()
	select {
	case err = <-locked:
		if err != nil {
			dir.Close()
			return nil, err
		}
		return func() { dir.Close() }, nil
	case <-ctx.Done():
		go func() { // likewise
			<-locked
			dir.Close()
		}()
		return nil, fmt.Errorf("lock %s: %w", path, ctx.Err())
	}
}

// awaitEnd waits until the process pid, born at birthTime, has ended, and kills it before
// if asked to. If the pid is nobody's, or another process's by now, it has.
func awaitEnd(ctx context.Context, pid int, birthTime uint64, kill bool) error {
	if pid == 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), "process")
	defer f.Close()
	if birth(pid) != birthTime {
		return nil
	}
	if kill {
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err == nil {
		err = raw.Read(func(fd uintptr) bool { return ready(int(fd), unix.POLLIN) })
	}
	if ctx.Err() != nil {
		return fmt.Errorf("process %d does not end: %w", pid, ctx.Err())
	}
	return err
}

// killGroup kills every process of the cgroup, and removes it.
func killGroup(ctx context.Context, path string) error {
	if path == "" {
		return nil
	}
	g, err := cgroup.Load(path)
	if fail.Is(err, fail.NotFound) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find control group %s: %w", path, err)
	}
	if err := g.Kill(ctx); err != nil {
		return fmt.Errorf("kill control group %s: %w", path, err)
	}
	return g.Remove(ctx)
}
