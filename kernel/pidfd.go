package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// Signal sends sig to the process that the descriptor f is of; pid is for messages. A process
// that has ended, or a closed descriptor, gives class NotFound.
func Signal(f *os.File, pid int, sig unix.Signal) error {
	raw, err := f.SyscallConn()
	if err == nil {
		var inner error
		if err = raw.Control(func(fd uintptr) { inner = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err == nil {
			err = inner
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ESRCH), errors.Is(err, os.ErrClosed):
		return fail.New(fail.NotFound, "process %d has ended", pid)
	case errors.Is(err, unix.EINVAL):
		return fail.New(fail.Invalid, "signal %d: %w", int(sig), err)
	}
	return fail.New(fail.Internal, "signal process %d: %w", pid, err)
}

// SignalGroup sends sig to the process group that leader leads. There is no descriptor of a
// group, and its number is nobody else's only until its leader is reaped: that is for the
// caller to know.
func SignalGroup(leader int, sig unix.Signal) error {
	switch err := unix.Kill(-leader, sig); err {
	case nil:
		return nil
	case unix.ESRCH:
		return fail.New(fail.NotFound, "process %d leads no group", leader)
	case unix.EINVAL:
		return fail.New(fail.Invalid, "signal %d: %w", int(sig), err)
	default:
		return fail.New(fail.Internal, "signal the group of process %d: %w", leader, err)
	}
}

// OpenProcess gives a process descriptor of pid, provided that the process is the one
// that started at startTime (see StartTime): pids are used again.
func OpenProcess(pid int, startTime uint64) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, os.NewSyscallError("pidfd_open", err)
	}
	// Read after the open: if the time matches now, the descriptor is of that process.
	if now, err := StartTime(pid); err != nil || now != startTime {
		unix.Close(fd)
		return -1, os.NewSyscallError("pidfd_open", unix.ESRCH)
	}
	return fd, nil
}

// StartTime is when pid started, in clock ticks since boot.
func StartTime(pid int) (uint64, error) { return Stat(pid, 22) }

// Stat is field n of /proc/PID/stat (proc_pid_stat(5)), one of those behind the third, which are
// numbers.
func Stat(pid, n int) (uint64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The second field, the name in parentheses, may hold anything.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) <= n-3 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields after the name", pid, len(fields))
	}
	return strconv.ParseUint(string(fields[n-3]), 10, 64)
}
