package runtimecli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	oci "berth/oci/bundle"
)

// host is a place where containers are made: a bundle of busybox and a root directory.
type host struct {
	*testing.T
	dir, bundle string
	id          string
	orphans     []int // announced in pid files, and not collected yet
}

func newHost(t *testing.T, args ...string) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("busybox is not installed")
	}
	// Orphans come to us, as they would to containerd's shim.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "br")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{T: t, dir: dir, bundle: filepath.Join(dir, "bundle"), id: filepath.Base(dir)}
	bin := filepath.Join(h.bundle, "rootfs", "bin")
	for _, d := range []string{"bin", "proc", "dev", "sys", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(h.bundle, "rootfs", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "sleep", "cat", "id", "tty", "true", "ls"} {
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	h.configure(func(s *oci.Spec) { s.Process.Args = args })
	t.Cleanup(func() {
		// The container's first process ends when all others have been collected.
		collected := make(chan struct{})
		go func() {
			defer close(collected)
			for _, pid := range slices.Backward(h.orphans) {
				unix.Wait4(pid, nil, 0, nil)
			}
		}()
		if status, _, errs := h.run("delete", "--force", h.id); status != 0 {
			t.Error(errs)
		}
		<-collected
		if left, err := filepath.Glob("/sys/fs/cgroup/*/berth/" + h.id); err != nil || len(left) > 0 {
			t.Errorf("groups are left: %v, %v", left, err)
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || bytes.Contains(mounts, []byte(dir)) {
			t.Error("a mount is left", err)
		}
		if left, err := os.ReadDir(filepath.Join(dir, "r")); err == nil && len(left) > 0 {
			t.Errorf("state is left: %v", left)
		}
		os.RemoveAll(dir)
	})
	return h
}

// configure writes the bundle's config.json: the example without a terminal, changed.
func (h *host) configure(change func(*oci.Spec)) {
	h.Helper()
	s := example()
	s.Process.Terminal = false
	change(s)
	text, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(filepath.Join(h.bundle, "config.json"), text, 0o644)
	}
	if err != nil {
		h.Fatal(err)
	}
}

func (h *host) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], append([]string{"--root", filepath.Join(h.dir, "r")}, args...)...)
	cmd.Env = append(os.Environ(), "BERTH_TEST_RUNTIME=1")
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// run executes a command whose output goes to files: a container may keep them open.
func (h *host) run(args ...string) (status int, stdout, stderr string) {
	h.Helper()
	cmd := h.command(args...)
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(h.dir, "out")
		if err != nil {
			h.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	cmd.Stdout, cmd.Stderr = files[0], files[1]
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.Fatalf("%v: %v", args, err)
	}
	out, _ := os.ReadFile(files[0].Name())
	errs, _ := os.ReadFile(files[1].Name())
	return cmd.ProcessState.ExitCode(), string(out), string(errs)
}

func (h *host) must(args ...string) string {
	h.Helper()
	status, out, errs := h.run(args...)
	if status != 0 {
		h.Fatalf("%v: status %d: %s", args, status, errs)
	}
	return out
}

func (h *host) refuse(want string, args ...string) {
	h.Helper()
	status, _, errs := h.run(args...)
	if status == 0 || !strings.Contains(errs, want) {
		h.Errorf("%v: status %d: %q, want %q", args, status, errs, want)
	}
}

func (h *host) status() string {
	h.Helper()
	var r report
	if err := json.Unmarshal([]byte(h.must("state", h.id)), &r); err != nil {
		h.Fatal(err)
	}
	return r.Status
}

// pid reads the pid file of a process that comes to us when its creator has gone.
func (h *host) pid(file string) int {
	h.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		h.Fatal(err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		h.Fatal(err)
	}
	h.orphans = append(h.orphans, pid)
	return pid
}

// wait collects an orphan.
func (h *host) wait(pid int) unix.WaitStatus {
	h.orphans = slices.DeleteFunc(h.orphans, func(p int) bool { return p == pid })
	var ws unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &ws, 0, nil); err == nil {
			return ws
		} else if err != unix.EINTR {
			h.Errorf("wait for %d: %v", pid, err)
			return ws
		}
	}
}

func (h *host) eventually(what string, ok func() bool) {
	h.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.Fatalf("it does not happen: %s", what)
		}
	}
}

func TestTheLifeThatContainerdGivesAContainer(t *testing.T) {
	h := newHost(t, "sh", "-c", "trap 'exit 9' TERM; echo started; sleep 1000 & wait")
	pidFile, log := filepath.Join(h.dir, "pid"), filepath.Join(h.dir, "log.json")
	if out := h.must("--log", log, "--log-format", "json", "create", "--bundle", h.bundle, "--pid-file", pidFile, h.id); out != "" {
		t.Errorf("create says %q", out)
	}
	pid := h.pid(pidFile)
	if s := h.status(); s != created {
		t.Errorf("status %s", s)
	}
	h.refuse("container with given ID already exists", "create", "--bundle", h.bundle, h.id)
	h.refuse("container not paused", "resume", h.id)
	h.must("start", h.id)
	if s := h.status(); s != running {
		t.Errorf("status %s", s)
	}
	h.refuse("cannot start an already running container", "start", h.id)

	if status, out, errs := h.run("exec", "--env", "X=7", "--cwd", "/tmp", "--user", "3:4", h.id, "sh", "-c", "echo $X $PWD `id -u` `id -g`; exit $X"); status != 7 || out != "7 /tmp 3 4\n" {
		t.Errorf("status %d, %q, %q", status, out, errs)
	}
	h.refuse(`exec: "nope": executable file not found in $PATH`, "exec", h.id, "nope")
	var pids []int
	if err := json.Unmarshal([]byte(h.must("ps", "--format", "json", h.id)), &pids); err != nil || len(pids) == 0 || pids[0] != pid {
		t.Errorf("got %v, %v", pids, err)
	}
	if out := h.must("ps", h.id); !strings.Contains(out, strconv.Itoa(pid)) || !strings.Contains(out, "trap") {
		t.Errorf("got %s", out)
	}
	if out := h.must("list", "-q"); out != h.id+"\n" {
		t.Errorf("got %s", out)
	}
	if out := h.must("list"); !strings.Contains(out, h.bundle) || !strings.Contains(out, running) {
		t.Errorf("got %s", out)
	}

	h.must("pause", h.id)
	if s := h.status(); s != paused {
		t.Errorf("status %s", s)
	}
	h.refuse("cannot exec in a paused container", "exec", h.id, "true")
	h.must("resume", h.id)
	h.refuse("that is not stopped", "delete", h.id)
	// The shell may not have come to its trap yet, and pid 1 ignores what it does not trap.
	status := make(chan unix.WaitStatus, 1)
	go func() { status <- h.wait(pid) }()
	var ws unix.WaitStatus
	h.eventually("the process ends", func() bool {
		h.run("kill", h.id, "TERM")
		select {
		case ws = <-status:
			return true
		default:
			return false
		}
	})
	if ws.ExitStatus() != 9 {
		t.Errorf("got %v", ws)
	}
	if s := h.status(); s != stopped {
		t.Errorf("status %s", s)
	}
	h.refuse("container not running", "kill", h.id, "KILL")
	h.refuse("container not running", "kill", "--all", h.id, "KILL")
	h.refuse("cannot start a container that has stopped", "start", h.id)
	h.refuse("cannot exec in a stopped container", "exec", h.id, "true")
	h.must("delete", h.id)
	h.refuse("container does not exist", "state", h.id)
	if text, err := os.ReadFile(log); err == nil {
		t.Errorf("errors are logged: %s", text)
	}
}

func TestRunInTheForegroundIsLikeTheProcessItself(t *testing.T) {
	h := newHost(t, "sh", "-c", "cat; echo out; echo err >&2; exit 42")
	cmd := h.command("run", "--bundle", h.bundle, h.id)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("in\n"), &out, &errs
	err := cmd.Run()
	if cmd.ProcessState.ExitCode() != 42 || out.String() != "in\nout\n" || errs.String() != "err\n" {
		t.Errorf("%v: %q, %q", err, &out, &errs)
	}
	h.refuse("container does not exist", "state", h.id)
}

// containerd leaves HOME to the runtime.
func TestAProcessHasTheHomeOfItsUser(t *testing.T) {
	h := newHost(t)
	passwd := "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n"
	if err := os.WriteFile(filepath.Join(h.bundle, "rootfs", "etc", "passwd"), []byte(passwd), 0o644); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[uint32]string{0: "/root", 1000: "/home/ann", 7: "/"} {
		h.configure(func(s *oci.Spec) {
			s.Process.Args, s.Process.User.UID = []string{"sh", "-c", "echo home $HOME"}, uid
			s.Process.Env = append(s.Process.Env, "HOME=")
		})
		if got := h.must("run", "--bundle", h.bundle, h.id); got != "home "+want+"\n" {
			t.Errorf("user %d: %q", uid, got)
		}
	}
	h.configure(func(s *oci.Spec) { s.Process.Args = []string{"sleep", "1000"} })
	h.must("run", "--detach", "--bundle", h.bundle, "--pid-file", filepath.Join(h.dir, "pid"), h.id)
	h.pid(filepath.Join(h.dir, "pid"))
	for args, want := range map[string]string{"": "/root", "--user 1000": "/home/ann", "--env HOME=/own": "/own"} {
		all := append(append([]string{"exec"}, strings.Fields(args)...), h.id, "sh", "-c", "echo home $HOME")
		if got := h.must(all...); got != "home "+want+"\n" {
			t.Errorf("exec %s: %q", args, got)
		}
	}
}

func TestRunPassesSignalsOn(t *testing.T) {
	h := newHost(t, "sh", "-c", "trap 'exit 9' HUP; echo ready; while :; do sleep 0.01; done")
	cmd := h.command("run", "-b", h.bundle, h.id)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("got %v", cmd.ProcessState)
	}
}

func TestWhatIsDetachedGoesOnAndIsRemovedByForce(t *testing.T) {
	h := newHost(t, "sleep", "1000")
	h.must("run", "--detach", "--bundle", h.bundle, "--pid-file", filepath.Join(h.dir, "pid"), h.id)
	pid := h.pid(filepath.Join(h.dir, "pid"))
	h.must("exec", "--detach", "--pid-file", filepath.Join(h.dir, "second"), h.id, "sh", "-c", "exit 5")
	if ws := h.wait(h.pid(filepath.Join(h.dir, "second"))); ws.ExitStatus() != 5 {
		t.Errorf("got %v", ws)
	}
	process := filepath.Join(h.dir, "process.json")
	if err := os.WriteFile(process, []byte(`{"args":["sh","-c","exit 6"],"cwd":"/","env":["PATH=/bin"],"user":{"uid":1}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := h.run("exec", "--process", process, h.id); status != 6 {
		t.Errorf("status %d: %s", status, errs)
	}
	ended := make(chan unix.WaitStatus, 1)
	go func() { ended <- h.wait(pid) }()
	h.must("delete", "-f", h.id)
	if ws := <-ended; ws.Signal() != unix.SIGKILL {
		t.Errorf("got %v", ws)
	}
}

func TestAFailedCreateOrRunLeavesNothing(t *testing.T) {
	h := newHost(t, "nope")
	h.refuse(`unable to start container process: exec: "nope": executable file not found in $PATH`, "create", "--bundle", h.bundle, h.id)
	h.refuse("executable file not found", "run", "--bundle", h.bundle, h.id)
	h.refuse("executable file not found", "run", "-d", "--bundle", h.bundle, h.id)
	h.configure(func(s *oci.Spec) { s.Process.Args = []string{"true"}; s.Process.Terminal = true })
	h.refuse("cannot allocate tty", "create", "--bundle", h.bundle, h.id)
	h.refuse("send the terminal", "create", "--bundle", h.bundle, "--console-socket", h.dir+"/none", h.id)
	h.configure(func(s *oci.Spec) { s.Process.Args = []string{"true"} })
	h.refuse("cannot use console socket", "create", "--bundle", h.bundle, "--console-socket", h.dir+"/none", h.id)
	h.refuse("descriptor 3", "create", "--bundle", h.bundle, "--preserve-fds", "1", h.id)
	if left, _ := os.ReadDir(filepath.Join(h.dir, "r")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// receive takes one descriptor from a console socket.
func receive(t *testing.T, l *net.UnixListener) *os.File {
	t.Helper()
	l.SetDeadline(time.Now().Add(time.Minute))
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	name, control := make([]byte, 256), make([]byte, 256)
	n, cn, _, _, err := conn.ReadMsgUnix(name, control)
	if err != nil || n == 0 {
		t.Fatalf("got a name of %d bytes, %v", n, err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:cn])
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	unix.SetNonblock(fds[0], true)
	return os.NewFile(uintptr(fds[0]), string(name[:n]))
}

func TestTerminalsGoToTheConsoleSocket(t *testing.T) {
	h := newHost(t)
	h.configure(func(s *oci.Spec) {
		s.Process.Args = []string{"sh", "-c", "tty; read x; echo got $x; sleep 1000"}
		s.Process.Terminal = true
	})
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(h.dir, "s")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	expect := func(console *os.File, want string) {
		t.Helper()
		console.SetReadDeadline(time.Now().Add(time.Minute))
		var seen []byte
		for !strings.Contains(string(seen), want) {
			b := make([]byte, 512)
			n, err := console.Read(b)
			if seen = append(seen, b[:n]...); err != nil {
				t.Fatalf("%q, then %v", seen, err)
			}
		}
	}
	h.must("create", "--bundle", h.bundle, "--console-socket", l.Addr().String(), "--pid-file", filepath.Join(h.dir, "pid"), h.id)
	h.pid(filepath.Join(h.dir, "pid"))
	console := receive(t, l)
	defer console.Close()
	h.must("start", h.id)
	expect(console, "/dev/pts/0")
	if _, err := console.WriteString("word\n"); err != nil {
		t.Fatal(err)
	}
	expect(console, "got word")

	h.must("exec", "--tty", "--detach", "--console-socket", l.Addr().String(), "--pid-file", filepath.Join(h.dir, "second"), h.id, "sh", "-c", "tty; sleep 1000")
	h.pid(filepath.Join(h.dir, "second"))
	second := receive(t, l)
	defer second.Close()
	expect(second, "/dev/pts/1")

	if status, out, errs := h.run("exec", "-t", h.id, "sh", "-c", "tty; exit 3"); status != 3 || out != "/dev/pts/2\r\n" {
		t.Errorf("status %d, %q, %q", status, out, errs)
	}
}

func TestLimitsAreUpdated(t *testing.T) {
	h := newHost(t, "sleep", "1000")
	h.must("run", "-d", "--bundle", h.bundle, "--pid-file", filepath.Join(h.dir, "pid"), h.id)
	h.pid(filepath.Join(h.dir, "pid"))
	h.must("update", "--pids-limit", "50", h.id)
	cmd := h.command("update", "--resources", "-", h.id)
	cmd.Stdin = strings.NewReader(`{"pids":{"limit":60},"cpu":{"shares":300}}`)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for file, want := range map[string]string{"pids/berth/" + h.id + "/pids.max": "60", "cpu/berth/" + h.id + "/cpu.shares": "300"} {
		if text, err := os.ReadFile("/sys/fs/cgroup/" + file); err == nil && strings.TrimSpace(string(text)) != want {
			t.Errorf("%s is %s", file, text)
		}
	}
	h.refuse("cannot set cpuset cpus", "update", "--cpuset-cpus", "4000", h.id)
}

func TestDescriptorsArePreserved(t *testing.T) {
	h := newHost(t, "sh", "-c", "read x <&3; read y <&4; echo $x $y $LISTEN_FDS $LISTEN_PID")
	cmd := h.command("run", "--preserve-fds", "1", "--bundle", h.bundle, h.id)
	cmd.Env = append(cmd.Env, "LISTEN_FDS=1")
	for _, text := range []string{"socket\n", "preserved\n"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		w.WriteString(text)
		w.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, r)
	}
	if out, err := cmd.CombinedOutput(); string(out) != "socket preserved 1 1\n" {
		t.Errorf("%v: %s", err, out)
	}
}

func TestContainersCannotReachTheRuntimesProgram(t *testing.T) {
	h := newHost(t, "sleep", "1000")
	h.must("create", "--bundle", h.bundle, "--pid-file", filepath.Join(h.dir, "pid"), h.id)
	// Until start the process is a copy of the one that made it.
	exe := "/proc/" + strconv.Itoa(h.pid(filepath.Join(h.dir, "pid"))) + "/exe"
	ours, err := os.Stat("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if theirs, err := f.Stat(); err != nil || !os.SameFile(ours, theirs) {
		t.Fatalf("the process does not execute this program: %v", err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || st.Flags&unix.ST_RDONLY == 0 {
		t.Errorf("the program's mount is writable (%v)", err)
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, exe, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err == nil {
		t.Error("the program's mount can be made writable")
	}
}
