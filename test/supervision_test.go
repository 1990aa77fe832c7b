package test

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"berth/testkit"
)

// parent is the parent of process pid, 0 if that has ended.
func parent(pid string) int {
	stat, _ := os.ReadFile("/proc/" + pid + "/stat")
	_, rest, _ := strings.Cut(string(stat), ") ")
	if f := strings.Fields(rest); len(f) > 1 {
		ppid, _ := strconv.Atoi(f[1])
		return ppid
	}
	return 0
}

// A container that executes /proc/self/exe executes what made it (CVE-2019-5736).
func TestContainerCannotReachTheProgramThatMadeIt(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	if e.Runtime != "" {
		t.Skip("another runtime makes the containers: " + e.Runtime)
	}
	e.Busybox()
	program := filepath.Join(e.Bin, "berth-shim")
	before, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}

	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if libraries, _ := f.ImportedLibraries(); len(libraries) > 0 {
		t.Skip("berth-shim is linked dynamically, and a container of busybox cannot execute it")
	}
	if r := e.Berth("run", "--rm", "--network", "none", "--entrypoint", "/proc/self/exe", "busybox", "whatever"); r.Code == 0 || !strings.Contains(r.Stderr, "berth-shim") {
		t.Errorf("/proc/self/exe as the entry point: %+v", r)
	}

	// A process that stays: it waits for a writer of what it takes for a shim's notes.
	dir := filepath.Join(e.Dir, "notes")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "state.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	id := e.Must("run", "-d", "--network", "none", "-v", dir+":/notes", "--entrypoint", "/proc/self/exe", "busybox", "--lost", "/notes", "1")
	exe := "/proc/" + e.Must("inspect", "-f", "{{.State.Pid}}", id) + "/exe"
	ours, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	if reached, err := os.Stat(exe); err != nil || !os.SameFile(ours, reached) {
		t.Fatalf("the container does not execute berth-shim, so nothing is shown here: %v", err)
	}
	if r := e.Berth("exec", id, "sh", "-c", "echo evil > /proc/1/exe"); r.Code == 0 {
		t.Errorf("the container could open its supervisor's program for writing: %+v", r)
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, exe, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err == nil {
		t.Error("the mount of the program can be made writable")
	}
	held, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()

	// While it is executed nobody can write to it anyway. Later only its mount protects it.
	e.Must("rm", "-f", id)
	e.Stop()
	testkit.Eventually(t, "nobody executes the program", func() bool { return len(e.Shims()) == 0 })
	var open error
	testkit.Eventually(t, "the last of its processes is gone", func() bool {
		var f *os.File
		if f, open = os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(held.Fd())), os.O_WRONLY, 0); open == nil {
			f.Close()
		}
		return !errors.Is(open, unix.ETXTBSY)
	})
	if !errors.Is(open, unix.EROFS) {
		t.Errorf("opened for writing through a descriptor that was kept: %v, want %v", open, unix.EROFS)
	}
	if after, err := os.ReadFile(program); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the program is not what it was: %v", err)
	}
	e.Start()
}

func TestShimAndGuardianKilledTogetherLeaveNothing(t *testing.T) {
	for _, engine := range []string{"alive", "dead"} {
		t.Run("engine "+engine, func(t *testing.T) {
			e := testkit.StartEngine(t, testkit.EngineOptions{})
			e.Busybox()
			id := e.Must("run", "-d", "--network", "none", "busybox", "sh", "-c", "trap '' TERM; sleep 1000 & sleep 1001 & wait")
			pid := e.Must("inspect", "-f", "{{.State.Pid}}", id)
			shim := parent(pid)
			if shim <= 1 {
				t.Fatalf("the container's parent is %d", shim)
			}
			if engine == "dead" {
				e.Kill()
			}
			// Stopped, so that it does not replace its guardian.
			if err := syscall.Kill(shim, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			guardians := 0
			for _, p := range e.Shims() {
				if parent(strconv.Itoa(p)) == shim {
					guardians++
					_ = syscall.Kill(p, syscall.SIGKILL)
				}
			}
			if guardians != 1 {
				t.Errorf("%d guardians", guardians)
			}
			if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if engine == "dead" {
				if _, err := os.Stat("/proc/" + pid); err != nil {
					t.Errorf("somebody else has killed the container: %v", err)
				}
				e.Start()
			}
			testkit.Eventually(t, "it is recorded", func() bool {
				return e.Must("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}", id) == "exited 137 supervisor lost"
			})
			testkit.Eventually(t, "its process, which is dead, has been reaped by init", func() bool {
				_, err := os.Stat("/proc/" + pid)
				return os.IsNotExist(err)
			})
			for _, pattern := range []string{"/sys/fs/cgroup/*" + e.Cgroup(id), "/sys/fs/cgroup" + e.Cgroup(id)} {
				testkit.Eventually(t, "no control groups are left", func() bool {
					left, _ := filepath.Glob(pattern)
					return len(left) == 0
				})
			}
			// And it is as good as any that ended.
			e.Must("start", id)
			if got := e.Must("exec", id, "echo", "back"); got != "back" {
				t.Errorf("exec says %q", got)
			}
		})
	}
}

func TestUserErrorsAreNotWarnedOf(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	for _, args := range [][]string{{"-u", "nobodyx", "busybox", "true"}, {"busybox", "/nope"}, {"busybox", "/etc/passwd"}} {
		if r := e.Berth(append([]string{"run", "--rm", "--network", "none"}, args...)...); r.Code < 125 {
			t.Errorf("%v: %+v", args, r)
		}
	}
	e.Stop()
	if log := e.Log(); strings.Contains(log, "shim") {
		t.Errorf("berthd's log speaks of shims:\n%s", log)
	}
	e.Start()
}
