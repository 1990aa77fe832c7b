package runtime

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	oci "berth/oci/bundle"
)

// terminal reads the console until it ends, which Linux tells with EIO.
func terminal(p *Process) string {
	text, _ := io.ReadAll(p.Console())
	return strings.ReplaceAll(string(text), "\r\n", "\n")
}

func TestATerminalIsTheContainersOwn(t *testing.T) {
	needRoot(t)
	cfg := shell(t, "tty; stty size; stat -c '%u %t:%T' /dev/console; test -t 0 && test -t 1 && test -t 2 && echo three; echo hi > /dev/tty; exit 3")
	cfg.Spec.Process.Terminal = true
	cfg.Spec.Process.ConsoleSize = &specs.Box{Height: 33, Width: 111}
	cfg.Spec.Process.User.UID = 1000
	c := create(t, cfg)
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if text := terminal(&c.Process); text != "/dev/pts/0\n33 111\n1000 88:0\nthree\nhi\n" {
		t.Errorf("got %q", text)
	}
	if exit, err := c.Wait(); err != nil || exit.Code != 3 {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

func TestATerminalOfAnExecutedProcess(t *testing.T) {
	c := running(t, config(t))
	p, err := c.Exec(context.Background(), ExecConfig{Process: &oci.Process{Terminal: true, ConsoleSize: &specs.Box{Height: 5, Width: 6},
		Args: []string{"sh", "-c", "tty; stty size; cat"}, Cwd: "/", Env: []string{"PATH=/bin"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	r := bufio.NewReader(p.Console())
	for _, want := range []string{"/dev/pts/0\r\n", "5 6\r\n"} {
		if line, err := r.ReadString('\n'); line != want {
			t.Errorf("got %q, %v", line, err)
		}
	}
	p.Console().Write([]byte("typed\n\x04"))
	rest, _ := io.ReadAll(r)
	if string(rest) != "typed\r\ntyped\r\n" {
		t.Errorf("got %q", rest)
	}
	if exit, err := p.Wait(); err != nil || exit.Code != 0 {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

func TestAStreamIsTheUsersToOpenAgain(t *testing.T) {
	needRoot(t)
	cfg := shell(t, "echo again > /dev/stdout")
	cfg.Spec.Process.User = oci.User{UID: 1000, GID: 1001}
	if text, exit := output(t, cfg); text != "again\n" || exit.Code != 0 {
		t.Errorf("got %q, %+v", text, exit)
	}
}

func TestHooksRunInOrderWithTheState(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	script := dir + "/hook"
	write(t, script, "#!/bin/sh\ncat > "+dir+"/$1.json\necho $1 >> "+dir+"/order\ntest \"$1\" != fail || { echo no good >&2; exit 1; }\n", 0o755)
	hook := func(name string) []specs.Hook {
		return []specs.Hook{{Path: script, Args: []string{"hook", name}, Env: []string{"PATH=/bin:/usr/bin"}}}
	}
	cfg := config(t, "true")
	cfg.Bundle = dir
	cfg.Spec.Annotations = map[string]string{"a": "b"}
	//lint:ignore SA1019 deprecated hooks are still in bundles
	cfg.Spec.Hooks = &specs.Hooks{Prestart: hook("prestart"), CreateRuntime: hook("createRuntime"), Poststart: hook("poststart"), Poststop: hook("poststop")}
	c := create(t, cfg)
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	destroy(t, c)
	order, _ := os.ReadFile(dir + "/order")
	if string(order) != "prestart\ncreateRuntime\npoststart\npoststop\n" {
		t.Errorf("order %q", order)
	}
	for name, status := range map[string]specs.ContainerState{"prestart": specs.StateCreating, "poststart": specs.StateRunning, "poststop": specs.StateStopped} {
		var s specs.State
		text, _ := os.ReadFile(dir + "/" + name + ".json")
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		if s.ID != cfg.ID || s.Status != status || s.Bundle != dir || s.Annotations["a"] != "b" || (s.Pid == 0) != (status == specs.StateStopped) {
			t.Errorf("%s: %s", name, text)
		}
	}

	// Whichever hook fails, the container is stopped and the last hooks run.
	for kind, hooks := range map[string]*specs.Hooks{
		"prestart": {Prestart: hook("fail")}, "createRuntime": {CreateRuntime: hook("fail")}, "createContainer": {CreateContainer: hook("fail")}, "poststart": {Poststart: hook("fail")}} {
		cfg := config(t, "sleep", "1000")
		hooks.Poststop = hook("poststop")
		cfg.Spec.Hooks = hooks
		os.Remove(dir + "/order")
		c, err := Create(context.Background(), cfg)
		if err == nil && kind == "poststart" {
			err = c.Start(context.Background())
			if exit, _ := c.Wait(); exit.Signal != unix.SIGKILL {
				t.Errorf("%s: the container goes on: %+v", kind, exit)
			}
			destroy(t, c)
		}
		var failed *HookError
		if !errors.As(err, &failed) || failed.Kind != kind || err.Error() != kind+" hook "+script+": exit status 1: no good" {
			t.Errorf("a failing %s hook: %v", kind, err)
		}
		if order, _ := os.ReadFile(dir + "/order"); string(order) != "fail\npoststop\n" {
			t.Errorf("after a failing %s hook: %q", kind, order)
		}
	}
	second := 1
	cfg = config(t, "true")
	cfg.Spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "100"}, Timeout: &second}}}
	if _, err := Create(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "no end after 1 s") {
		t.Errorf("a slow hook: %v", err)
	}
}

func TestHooksInTheContainersNamespaces(t *testing.T) {
	needRoot(t)
	bundle := t.TempDir()
	os.Rename(layer(t), bundle+"/rootfs")
	script := bundle + "/hook"
	write(t, script, "#!/bin/sh\n{ cat; echo; hostname; test -d "+bundle+" && echo host; test -d "+bundle+"/rootfs/proc/1 && echo mounted; } > "+bundle+"/created\n", 0o755)
	write(t, bundle+"/rootfs/started", "#!/bin/sh\n{ cat; echo; hostname; id -u; echo $A $1; } > /tmp/started\n", 0o755)
	write(t, bundle+"/rootfs/bad", "#!/bin/sh\necho no good; exit 4\n", 0o755)
	cfg := config(t, "sh", "-c", "cat /tmp/started")
	cfg.Bundle, cfg.Root = bundle, oci.Rootfs{}
	cfg.Spec.Root = &specs.Root{Path: "rootfs"}
	cfg.Spec.Process.User.UID = 1000
	cfg.Spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: script, Env: []string{"PATH=/bin:/usr/bin"}}},
		StartContainer: []specs.Hook{{Path: "/started", Args: []string{"x", "one"}, Env: []string{"A=b", "PATH=/bin"}}}}
	text, _ := output(t, cfg)
	if state, rest, _ := strings.Cut(text, "\n"); !strings.Contains(state, `"status":"created"`) || rest != "box\n1000\nb one\n" {
		t.Errorf("startContainer: %q", text)
	}
	created, _ := os.ReadFile(bundle + "/created")
	if state, rest, _ := strings.Cut(string(created), "\n"); !strings.Contains(state, `"status":"creating"`) || rest != "box\nhost\nmounted\n" {
		t.Errorf("createContainer: %q", created)
	}
	// A root that has no directory of its own on the host.
	onOverlay := config(t, "true")
	onOverlay.Bundle, onOverlay.Spec.Hooks = bundle, &specs.Hooks{CreateContainer: cfg.Spec.Hooks.CreateContainer}
	write(t, script, "#!/bin/sh\n{ hostname; test -d "+onOverlay.Root.Upper+"/proc/1 && echo mounted; } > "+bundle+"/created\n", 0o755)
	destroy(t, create(t, onOverlay))
	if created, _ := os.ReadFile(bundle + "/created"); string(created) != "box\nmounted\n" {
		t.Errorf("createContainer with an overlay: %q", created)
	}
	cfg.Spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bad", Env: []string{"PATH=/bin"}}}}
	c := create(t, cfg)
	if err := c.Start(context.Background()); err == nil || err.Error() != "startContainer hook /bad: exit status 4: no good" {
		t.Errorf("a failing hook: %v", err)
	}
}

func TestAContainerThatHasEndedTakesNoProcess(t *testing.T) {
	c := running(t, config(t))
	c.Signal(unix.SIGKILL)
	if _, err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(context.Background(), ExecConfig{Process: &oci.Process{Args: []string{"true"}}}); !fail.Is(err, fail.Conflict) {
		t.Errorf("got %v", err)
	}
}

func TestAnotherProcessStartsAndEndsTheContainer(t *testing.T) {
	needRoot(t)
	cfg := config(t, "sleep", "1000")
	cfg.ExecFifo = t.TempDir() + "/exec.fifo"
	if err := unix.Mkfifo(cfg.ExecFifo, 0o622); err != nil {
		t.Fatal(err)
	}
	os.Chmod(cfg.ExecFifo, 0o622)
	cfg.Spec.Process.User = oci.User{UID: 1000, GID: 1000}
	c := create(t, cfg)
	s, err := c.State()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	c.child.Close() // as if the creator had ended
	var again State
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	l, err := Load(again)
	if err != nil {
		t.Fatal(err)
	}
	if !l.Alive() || !l.Waiting() {
		t.Error("the loaded container does not wait for its start")
	}
	if err := l.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if l.Waiting() {
		t.Error("it still waits")
	}
	if err := l.Start(context.Background()); !fail.Is(err, fail.Conflict) {
		t.Errorf("a second start: %v", err)
	}
	until(t, "the program runs", func() bool {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", l.Pid()))
		return string(text) == "sleep\x001000\x00"
	})
	if got := inside(t, l, "hostname"); got != "box\n" {
		t.Errorf("exec in a loaded container: %q", got)
	}
	if _, err := l.Wait(); !fail.Is(err, fail.Conflict) {
		t.Errorf("wait: %v", err)
	}
	if pids, err := l.Pids(); err != nil || len(pids) != 1 {
		t.Errorf("pids %v, %v", pids, err)
	}
	destroy(t, l)
	c.reap()
	// And once it is gone:
	gone, err := Load(again)
	if err != nil {
		t.Fatal(err)
	}
	if gone.Alive() {
		t.Error("a dead container is alive")
	}
	if err := gone.Signal(unix.SIGTERM); !fail.Is(err, fail.NotFound) {
		t.Errorf("signal: %v", err)
	}
	destroy(t, gone)
}

func TestWithAnExecFifoAMissingProgramFailsInCreate(t *testing.T) {
	needRoot(t)
	for _, tc := range []struct{ program, want string }{
		{"nope", `exec: "nope": executable file not found in $PATH`},
		{"/etc", `exec: "/etc": is a directory`},
		{"/etc/passwd", `exec: "/etc/passwd": permission denied`},
	} {
		cfg := config(t, tc.program)
		cfg.ExecFifo = t.TempDir() + "/exec.fifo"
		unix.Mkfifo(cfg.ExecFifo, 0o622)
		if _, err := Create(context.Background(), cfg); err == nil || err.Error() != tc.want {
			t.Errorf("got %v", err)
		}
	}
}

// until polls for what no event tells.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func TestPauseResumeSignalAllAndUpdate(t *testing.T) {
	c := running(t, config(t))
	ctx := context.Background()
	if err := c.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	limit := int64(7)
	if err := c.Update(t.Context(), &oci.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}); err != nil {
		t.Fatal(err)
	}
	p, err := c.Exec(ctx, ExecConfig{Process: &oci.Process{Args: []string{"sleep", "100"}, Cwd: "/", Env: []string{"PATH=/bin"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	if err := c.SignalAll(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*Process{&c.Process, p} {
		if exit, err := p.Wait(); err != nil || exit.Code != 137 {
			t.Errorf("exit %+v, %v", exit, err)
		}
	}
	if err := c.Signal(unix.SIGTERM); !fail.Is(err, fail.NotFound) {
		t.Errorf("signal after the end: %v", err)
	}
}

func TestAGroupIsSignalledWhileItsLeaderIsThere(t *testing.T) {
	c := running(t, config(t))
	lead := func(script string) (*Process, *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		p, err := c.Exec(context.Background(), ExecConfig{Process: &oci.Process{Args: []string{"sh", "-c", script}, Cwd: "/", Env: []string{"PATH=/bin"}}, Stdio: [3]*os.File{nil, w, nil}})
		w.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Release)
		if _, err := io.ReadFull(r, make([]byte, len("ready\n"))); err != nil {
			t.Fatal(err)
		}
		return p, r
	}
	there, all := lead("sleep 1000 & echo ready; wait")
	if err := there.SignalGroup(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit, err := there.Wait(); err != nil || exit.Signal != unix.SIGKILL {
		t.Errorf("exit %+v, %v", exit, err)
	}
	if _, err := io.ReadAll(all); err != nil { // until nobody of the group has it
		t.Fatal(err)
	}

	// The group lives on, as one of somebody else's would that has got the number since.
	gone, _ := lead("sleep 1000 & echo ready; exit 0")
	if _, err := gone.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := gone.SignalGroup(unix.SIGKILL); !fail.Is(err, fail.NotFound) {
		t.Errorf("signal to the group of a process that was reaped: %v", err)
	}
	if err := unix.Kill(-gone.Pid(), 0); err != nil {
		t.Errorf("its group: %v", err)
	}
}

func TestAMemoryLimitKillsAndIsCounted(t *testing.T) {
	needRoot(t)
	cfg := shell(t, "x=aaaaaaaaaaaaaaaa; while true; do x=$x$x; done")
	limit := int64(16 << 20)
	cfg.Spec.Linux.Resources = &oci.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
	c := create(t, cfg)
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if exit, err := c.Wait(); err != nil || exit.Code != 137 {
		t.Errorf("exit %+v, %v", exit, err)
	}
	if n, err := c.OOMKills(); err != nil || n == 0 {
		t.Errorf("OOM kills %d, %v", n, err)
	}
}

func TestCreateCanBeCanceled(t *testing.T) {
	needRoot(t)
	ctx, cancel := context.WithCancel(context.Background())
	cfg := config(t, "true")
	cfg.Spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "100"}}}}
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := Create(ctx, cfg); !fail.Is(err, fail.Canceled) && ctx.Err() == nil {
		t.Errorf("got %v", err)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	needRoot(t)
	// The first container may make things that stay for the process's life.
	before := func() []string {
		c := running(t, config(t))
		destroy(t, c)
		return leftovers(t)
	}()
	for range 3 {
		c := running(t, config(t))
		inside(t, c, "true")
		destroy(t, c)
		failing := config(t, "true")
		failing.Spec.Mounts = append(failing.Spec.Mounts, oci.Mount{Destination: "/x", Type: "nosuchfs"})
		if _, err := Create(context.Background(), failing); err == nil || err.Error() != "mount nosuchfs at /x: no such device" {
			t.Errorf("got %v", err)
		}
		c = create(t, config(t, "nope"))
		if err := c.Start(context.Background()); err == nil {
			t.Error("started")
		}
		destroy(t, c)
	}
	if after := leftovers(t); strings.Join(after, "\n") != strings.Join(before, "\n") {
		t.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

// leftovers lists what this process holds: descriptors, children, mounts, cgroups.
func leftovers(t testing.TB) []string {
	t.Helper()
	var list []string
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		to, _ := os.Readlink("/proc/self/fd/" + fd.Name())
		if !strings.HasPrefix(to, "/proc/") {
			list = append(list, "fd "+fd.Name()+" "+to)
		}
	}
	children, _ := filepath.Glob("/proc/self/task/*/children")
	for _, f := range children {
		text, _ := os.ReadFile(f)
		for _, pid := range strings.Fields(string(text)) {
			list = append(list, "child "+pid)
		}
	}
	groups, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/berth/berth-test-%d-*", os.Getpid()))
	list = append(list, groups...)
	return list
}

func TestTheProcessLimitOfOpenFilesIsTheCallersOwn(t *testing.T) {
	if os.Getenv("BERTH_TEST_LIMIT") == "" {
		needRoot(t)
		cmd := exec.Command("/bin/sh", "-c", "ulimit -S -n 77; exec \"$0\" -test.run '^TestTheProcessLimitOfOpenFiles' -test.v", os.Args[0])
		cmd.Env = append(os.Environ(), "BERTH_TEST_LIMIT=1")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		return
	}
	c := running(t, config(t))
	var l unix.Rlimit
	unix.Prlimit(c.Pid(), unix.RLIMIT_NOFILE, nil, &l)
	if l.Cur != 77 {
		t.Errorf("the soft limit is %d, want 77", l.Cur)
	}
}

// On cgroup v2 a group that hands on controllers takes no processes: cgroups(7), "no internal processes".
func TestProcessesEnterAContainerThatBeginsToArrangeItsGroups(t *testing.T) {
	c := running(t, config(t))
	if !c.group.Unified() {
		t.Skip("cgroup v1 has no such rule")
	}
	dir, err := c.group.Dir()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	put := func(file, text string) error { return os.WriteFile(filepath.Join(dir.Name(), file), []byte(text), 0) }
	if err := os.Mkdir(filepath.Join(dir.Name(), "leaf"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := put("leaf/cgroup.procs", fmt.Sprint(c.pid)); err != nil {
		t.Fatal(err)
	}
	for n := range 200 {
		if err := put("cgroup.subtree_control", "-pids"); err != nil {
			t.Fatal(err)
		}
		arranged := make(chan struct{})
		go func() {
			defer close(arranged)
			time.Sleep(time.Duration(n) * 10 * time.Microsecond) // at each moment of what Exec does
			_ = put("cgroup.subtree_control", "+pids")           // refused if the process is there before
		}()
		p, err := c.Exec(context.Background(), ExecConfig{Process: &oci.Process{Args: []string{"true"}, Cwd: "/", Env: []string{"PATH=/bin"}}})
		<-arranged
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(); err != nil {
			t.Fatal(err)
		}
		p.Release()
	}
}
