package seccomp

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// install puts the filter on all threads of this process.
func install(p *Program) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(p.Filter)), Filter: &p.Filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(p.Flags)|unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}

// TestTheKernelObeysTheFilter runs itself as a child that locks itself in.
func TestTheKernelObeysTheFilter(t *testing.T) {
	const mark = "BERTH_TEST_SECCOMP"
	if dir := os.Getenv(mark); dir != "" {
		lockedIn(t, dir)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestTheKernelObeysTheFilter$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "--- SKIP") {
		t.Skipf("seccomp is not available: %s", out)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Fatalf("%v: %s", err, out)
	}
}

func lockedIn(t *testing.T, dir string) {
	p := docker(t)
	p.Syscalls = append(p.Syscalls,
		specs.LinuxSyscall{Names: []string{"mkdirat"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(unix.EXDEV))},
		specs.LinuxSyscall{Names: []string{"umask"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(unix.EDOM)),
			Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 0o123)}})
	for i := range p.Syscalls {
		names := p.Syscalls[i].Names
		if len(names) > 2 {
			p.Syscalls[i].Names = remove(names, "mkdirat", "umask", "chroot")
		}
	}
	prog, _, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := install(prog); err != nil {
		t.Skip(err)
	}
	if err := unix.Mkdirat(unix.AT_FDCWD, dir+"/x", 0o700); err != unix.EXDEV {
		t.Errorf("mkdirat: got %v", err)
	}
	if _, err := os.ReadDir(dir); err != nil {
		t.Errorf("an allowed call: %v", err)
	}
	for _, c := range []struct {
		what string
		nr   uintptr
		arg  uintptr
		want error
	}{
		{"umask with the argument", unix.SYS_UMASK, 0o123, unix.EDOM},
		{"umask with another (not allowed either)", unix.SYS_UMASK, 0o22, unix.EPERM},
		{"a call the profile denies", unix.SYS_CHROOT, 0, unix.EPERM},
		{"clone3, which must fall back", unix.SYS_CLONE3, 0, unix.ENOSYS},
		{"a call of a kernel to come", 1999, 0, unix.ENOSYS},
	} {
		_, _, errno := unix.RawSyscall(c.nr, c.arg, 0, 0)
		if !errors.Is(errno, c.want) {
			t.Errorf("%s: got %v, want %v", c.what, errno, c.want)
		}
	}
}

func remove(names []string, drop ...string) []string {
	var kept []string
next:
	for _, n := range names {
		for _, d := range drop {
			if n == d {
				continue next
			}
		}
		kept = append(kept, n)
	}
	return kept
}
