package kernel

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

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

// StartTime is when pid started, in clock ticks since boot (field 22 of proc_pid_stat(5)).
func StartTime(pid int) (uint64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The second field, the name in parentheses, may hold anything.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields after the name", pid, len(fields))
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}
