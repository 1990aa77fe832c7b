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
)

// lost clears up after a shim that was killed: its container is killed, for nobody is
// left who could supervise it, and the exit is recorded.
func lost(runDir, shimPid string) error {
	var st runState
	err := durable.ReadJSON(filepath.Join(runDir, stateName), &st)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it had come to its end
	}
	if err != nil {
		return err
	}
	if strconv.Itoa(st.ShimPid) != shimPid {
		return nil // the container has another shim by now
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err = errors.Join(killPid(st), killGroup(ctx, st.Cgroup))
	if st.Started {
		// An exit record that is there already is the shim's own, written just before.
		if _, e := ReadExit(st.Dir); fail.Is(e, fail.NotFound) {
			now := time.Now()
			err = errors.Join(err, writeExit(st.Dir, ExitRecord{Code: killed, Reason: reasonLost, StartedAt: st.StartedAt, ExitedAt: now}, st.Volatile))
		}
	}
	durable.Failpoint("shim.lost.recorded")
	clearRunDir(runDir)
	if st.Started {
		for _, e := range st.Env { // a guardian has none; wake looks for the program in PATH
			name, value, _ := strings.Cut(e, "=")
			_ = os.Setenv(name, value)
		}
		err = errors.Join(err, wake(st.WakeEngine, st.Env))
	}
	return err
}

// killPid kills the container's init, unless its pid is another process's by now.
func killPid(st runState) error {
	if st.Pid == 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(st.Pid, 0)
	if err != nil {
		return nil // it has ended
	}
	f := os.NewFile(uintptr(fd), "init")
	defer f.Close()
	if birth(st.Pid) != st.PidBirth {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill process %d: %w", st.Pid, err)
	}
	return nil
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
