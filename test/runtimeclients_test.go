package test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/kernel/cgroup"
	"berth/testkit"
)

// foreign is an engine of others that uses berth-runtime as its runtime.
type foreign struct {
	*testing.T
	systemd bool   // makes the control groups
	dir     string // all of its state; its base name is also the parent cgroup
	command []string
	flags   []string // of run
	env     []string
}

func newForeign(t *testing.T, systemd bool) *foreign {
	t.Helper()
	testkit.Integration(t)
	if err := cgroup.CheckScopes(); systemd && err != nil {
		t.Skip(err)
	}
	t.Parallel() // they mostly wait
	dir, err := os.MkdirTemp("", "rc")
	if err != nil {
		t.Fatal(err)
	}
	c := &foreign{T: t, dir: dir, systemd: systemd}
	// What leads to other engines, or changes what is called.
	c.env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "DOCKER_") || strings.HasPrefix(v, "CONTAINER") || strings.HasPrefix(v, "XDG_")
	})
	c.env = append(c.env, "HOME="+dir)
	t.Cleanup(c.clean)
	return c
}

// cgroup is the parent of the containers' control groups: a path, or a slice.
func (c *foreign) cgroup() string {
	if c.systemd {
		return filepath.Base(c.dir) + ".slice"
	}
	return "/" + filepath.Base(c.dir)
}

func (c *foreign) driver() string {
	if c.systemd {
		return "systemd"
	}
	return "cgroupfs"
}

// runtime is berth-runtime, under a name that tells it apart in lists of processes.
func (c *foreign) runtime() string { return filepath.Join(testkit.Binaries(c), "berth-runtime") }

// clean checks that no container has left anything, and removes what the engine itself
// leaves.
func (c *foreign) clean() {
	if c.systemd {
		c.eventually("the end of all scopes", func() bool {
			scopes, _ := filepath.Glob("/sys/fs/cgroup/" + c.cgroup() + "/*.scope")
			return !slices.ContainsFunc(scopes, func(s string) bool { return !strings.Contains(s, "conmon") })
		})
		_ = exec.Command("systemctl", "stop", c.cgroup()).Run()
		os.RemoveAll(c.dir)
		return
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*" + c.cgroup())
	for _, g := range append(groups, "/sys/fs/cgroup"+c.cgroup()) {
		var below []string
		for range 200 { // conmon ends behind the client's back
			below, _ = filepath.Glob(g + "/*/cgroup.procs")
			if len(below) == 0 {
				break
			}
			for _, procs := range below {
				if dir := filepath.Dir(procs); strings.Contains(dir, "conmon") {
					unix.Rmdir(dir)
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
		for _, procs := range below {
			// conmon has a group of its own beside the container's.
			if dir := filepath.Dir(procs); !strings.Contains(dir, "conmon") {
				c.Errorf("a control group is left: %s", dir)
			}
			unix.Rmdir(filepath.Dir(procs))
		}
		unix.Rmdir(g)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	var ours []string
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], c.dir+"/") {
			ours = append(ours, f[4])
		}
	}
	for _, m := range slices.Backward(ours) {
		if strings.Contains(m, "/merged") || strings.Contains(m, "/rootfs") {
			c.Errorf("a root file system is left: %s", m)
		}
		unix.Unmount(m, unix.MNT_DETACH)
	}
	os.RemoveAll(c.dir)
}

// run executes the client and returns what it prints, together, and its exit status.
func (c *foreign) run(stdin string, args ...string) (string, int) {
	c.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute) // also for what cleans up
	defer cancel()
	cmd := exec.CommandContext(ctx, c.command[0], append(slices.Clone(c.command[1:]), args...)...)
	cmd.Env, cmd.Stdin, cmd.WaitDelay = c.env, strings.NewReader(stdin), 20*time.Second
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		c.Fatalf("%v: %v", args, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (c *foreign) must(args ...string) string {
	c.Helper()
	out, status := c.run("", args...)
	if status != 0 {
		c.Fatalf("%v: status %d: %s", args, status, out)
	}
	return out
}

// expect runs a command and compares its status and a part of what it says.
func (c *foreign) expect(status int, want string, args ...string) {
	c.Helper()
	out, got := c.run("", args...)
	if got != status || !strings.Contains(out, want) {
		c.Errorf("%v: status %d, want %d, with %q: %s", args, got, status, want, out)
	}
}

// create is `run` with the flags that this client needs here.
func (c *foreign) container(flags string, args ...string) []string {
	return slices.Concat([]string{"run"}, c.flags, strings.Fields(flags), args)
}

func (c *foreign) onTerminal(args ...string) *testkit.Terminal {
	return testkit.OnTerminal(c, c.env, c.command[0], append(slices.Clone(c.command[1:]), args...)...)
}

func (c *foreign) eventually(what string, ok func() bool) {
	c.Helper()
	for end := time.Now().Add(90 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			c.Fatalf("%s does not come", what)
		}
	}
}

// serve starts the client's daemon in a network namespace of its own and waits for its
// answer.
func (c *foreign) serve(ready []string, name string, args ...string) {
	c.Helper()
	log, err := os.Create(filepath.Join(c.dir, "daemon.log"))
	if err != nil {
		c.Fatal(err)
	}
	daemon := exec.Command(name, args...)
	daemon.Env, daemon.Stdout, daemon.Stderr = c.env, log, log
	daemon.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := daemon.Start(); err != nil {
		c.Fatal(err)
	}
	log.Close()
	c.Cleanup(func() {
		daemon.Process.Signal(unix.SIGTERM)
		late := time.AfterFunc(90*time.Second, func() { daemon.Process.Kill() })
		daemon.Wait()
		late.Stop()
		if c.Failed() {
			text, _ := os.ReadFile(log.Name())
			for line := range strings.Lines(string(text)) {
				if strings.Contains(line, "level=error") {
					c.Logf("%s: %s", filepath.Base(name), line)
				}
			}
		}
	})
	c.eventually(name, func() bool { _, status := c.run("", ready...); return status == 0 })
}

func podman(t *testing.T, systemd bool) *foreign {
	program := testkit.NeedTool(t, "podman")
	testkit.NeedTool(t, "conmon")
	c := newForeign(t, systemd)
	c.command = []string{program, "--root", filepath.Join(c.dir, "d"), "--runroot", filepath.Join(c.dir, "r"), "--tmpdir", filepath.Join(c.dir, "t"),
		"--storage-driver", "overlay", "--runtime", c.runtime(), "--cgroup-manager", c.driver(), "--events-backend", "file",
		"--hooks-dir", filepath.Join(c.dir, "hooks")}
	// Its own limits need privileges that not every machine gives.
	c.flags = []string{"--network", "none", "--cgroup-parent", c.cgroup(), "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--log-driver", "k8s-file"}
	hook := fmt.Sprintf(`{"version": "1.0.0", "hook": {"path": "/bin/sh", "args": ["sh", "-c", "cat >> %[1]s/createRuntime"]},
		"when": {"annotations": {"^hooked$": "yes"}}, "stages": ["createRuntime", "poststop"]}`, c.dir)
	if err := os.Mkdir(filepath.Join(c.dir, "hooks"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "hooks", "h.json"), []byte(hook), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.run("", "rm", "--all", "--force", "--time", "0") })
	c.must("import", testkit.BusyboxTar(t), "bb")
	return c
}

func docker(t *testing.T, asDefault, systemd bool) *foreign {
	program := testkit.NeedTool(t, "dockerd")
	c := newForeign(t, systemd)
	socket := "unix://" + filepath.Join(c.dir, "s")
	c.command = []string{testkit.DockerCLI(t), "-H", socket}
	c.flags = []string{"--network", "none"}
	args := []string{"--data-root", filepath.Join(c.dir, "d"), "--exec-root", filepath.Join(c.dir, "r"), "-H", socket, "--pidfile", filepath.Join(c.dir, "pid"),
		"--exec-opt", "native.cgroupdriver=" + c.driver(), "--cgroup-parent", c.cgroup(), "--bridge", "none", "--iptables=false", "--add-runtime", "berth=" + c.runtime()}
	if asDefault {
		args = append(args, "--default-runtime", "berth")
	} else {
		c.flags = append(c.flags, "--runtime", "berth")
	}
	c.serve([]string{"version"}, program, args...)
	t.Cleanup(func() {
		if ids := strings.Fields(c.must("ps", "-aq")); len(ids) > 0 {
			c.run("", append([]string{"rm", "-f"}, ids...)...)
		}
	})
	c.must("import", testkit.BusyboxTar(t), "bb")
	return c
}

// lives is what docker and podman have in common.
func (c *foreign) lives() {
	c.Helper()
	out, status := c.run("some words\n", c.container("--rm -i", "bb", "sh", "-c", "cat; id -u; exit 7")...)
	if status != 7 || out != "some words\n0\n" {
		c.Errorf("got %d, %q", status, out)
	}
	c.expect(127, "executable file not found", c.container("--rm", "bb", "nope")...)
	c.expect(126, "", c.container("--rm", "bb", "/etc")...)
	c.expect(143, "", c.container("--rm", "bb", "sh", "-c", "kill -TERM $$; trap : TERM; exit 143")...)

	volume := filepath.Join(c.dir, "volume")
	if err := os.Mkdir(volume, 0o777); err != nil {
		c.Fatal(err)
	}
	os.Chmod(volume, 0o777)
	c.expect(0, "1000 7", c.container("--rm --read-only --user 1000:7 --volume "+volume+":/v", "bb", "sh", "-c",
		"touch /x 2>/dev/null && echo writable; echo $(id -u) $(id -g) | tee /v/who")...)
	if who, _ := os.ReadFile(filepath.Join(volume, "who")); string(who) != "1000 7\n" {
		c.Errorf("the volume has %q", who)
	}

	term := c.onTerminal(c.container("--rm -it", "bb", "sh", "-c", "tty; until stty size 2>/dev/null | grep '24 80'; do sleep 0.1; done; read x; echo got $x; exit 9")...)
	term.Expect("/dev/pts/0")
	term.Expect("24 80") // set when the container runs
	term.Type("a line\n")
	term.Expect("got a line")
	if status := term.Exit(); status != 9 {
		c.Errorf("the terminal's container ended with %d", status)
	}

	c.must(c.container("--detach --name one --memory 64m", "bb", "sh", "-c", "trap 'echo bye; exit 3' TERM; echo here; while :; do sleep 0.1; done")...)
	c.expect(5, "b\n/tmp\n7\n", "exec", "--env", "A=b", "--workdir", "/tmp", "--user", "7", "one", "sh", "-c", "echo $A; pwd; id -u; exit 5")
	if out, status := c.run("piped", "exec", "-i", "one", "cat"); status != 0 || out != "piped" {
		c.Errorf("exec -i: %d, %q", status, out)
	}
	if _, status := c.run("", "exec", "one", "nope"); status == 0 {
		c.Error("a program that is missing is executed")
	}
	term = c.onTerminal("exec", "-it", "one", "sh", "-c", "tty; exit 6")
	term.Expect("/dev/pts/")
	if status := term.Exit(); status != 6 {
		c.Errorf("the terminal's exec ended with %d", status)
	}
	c.must("exec", "--detach", "one", "touch", "/made")
	c.eventually("the file of a detached exec", func() bool { _, status := c.run("", "exec", "one", "ls", "/made"); return status == 0 })

	c.must("pause", "one")
	c.expect(0, "Paused", "ps", "--all", "--format", "{{.Status}}")
	if _, status := c.run("", "exec", "one", "true"); status == 0 {
		c.Error("something is executed in a paused container")
	}
	c.must("unpause", "one")
	c.must("update", "--memory", "32m", "--memory-swap", "32m", "--cpus", "0.5", "one")
	limit := "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
	c.expect(0, "33554432\n", "exec", "one", "sh", "-c", limit)
	if out := c.must("top", "one"); !strings.Contains(out, "sh -c trap") && !strings.Contains(out, "sleep 0.1") {
		c.Errorf("top: %s", out)
	}
	c.must("stats", "--no-stream", "one")
	c.must("stop", "--time", "10", "one")
	c.expect(0, "3\n", "inspect", "--format", "{{.State.ExitCode}}", "one")
	c.expect(0, "here\nbye\n", "logs", "one")
	c.must("start", "one")
	c.must("kill", "--signal", "KILL", "one")
	c.expect(0, "137\n", "wait", "one")
	c.must("start", "one")
	c.must("restart", "--time", "0", "one")
	c.must("rm", "--force", "one")

	c.expect(137, "", c.container("--name oom --memory 8m --memory-swap 8m", "bb", "sh", "-c", "x=a; while :; do x=$x$x; done")...)
	c.must("create", "--name", "idle", "--network", "none", "bb", "true")
	c.must("rm", "idle")
}

func TestPodmanUsesBerthRuntimeInScopes(t *testing.T) {
	c := podman(t, true)
	c.lives()
	c.must("rm", "--force", "oom")
}

func TestDockerdUsesBerthRuntimeInScopes(t *testing.T) {
	c := docker(t, true, true)
	c.lives()
	c.must("rm", "--force", "oom")
}

func TestPodmanUsesBerthRuntime(t *testing.T) {
	c := podman(t, false)
	c.lives()
	c.must(c.container("--rm --annotation hooked=yes", "bb", "true")...)
	var states []string
	text, err := os.ReadFile(filepath.Join(c.dir, "createRuntime"))
	if err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(bytes.NewReader(text)); d.More(); {
		var state struct{ Status string }
		if err := d.Decode(&state); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		states = append(states, state.Status)
	}
	if !slices.Equal(states, []string{"creating", "stopped"}) {
		t.Errorf("the hooks saw %v", states)
	}
	c.must("rm", "--force", "oom")
}

func TestDockerdUsesBerthRuntime(t *testing.T) {
	c := docker(t, false, false)
	c.lives()
	c.eventually("dockerd hears of the kill for memory", func() bool { return c.must("inspect", "--format", "{{.State.OOMKilled}}", "oom") == "true\n" })
	c.must("rm", "oom")
	c.expect(0, "berth", "info", "--format", "{{json .Runtimes}}")
}

func TestDockerdUsesBerthRuntimeByDefault(t *testing.T) {
	c := docker(t, true, false)
	c.must(c.container("--detach --name two --init --pids-limit 50", "bb", "sleep", "1000")...)
	c.expect(0, "berth", "inspect", "--format", "{{.HostConfig.Runtime}}", "two")
	c.expect(0, "sleep 1000", "top", "two")
	c.must("stop", "--time", "1", "two")
	c.must("rm", "two")
}

// busyboxArchive makes an archive of one image out of a root file system.
func busyboxArchive(t *testing.T, rootfs, path, name string) {
	t.Helper()
	layer, err := os.ReadFile(rootfs)
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Appendf(nil, `{"architecture": %q, "os": "linux", "config": {"Env": ["PATH=/bin:/usr/bin"]},
		"rootfs": {"type": "layers", "diff_ids": ["sha256:%x"]}}`, runtime.GOARCH, sha256.Sum256(layer))
	manifest := fmt.Appendf(nil, `[{"Config": "config.json", "RepoTags": [%q], "Layers": ["layer.tar"]}]`, name)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range []struct {
		name string
		data []byte
	}{{"manifest.json", manifest}, {"config.json", config}, {"layer.tar", layer}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))}); err != nil {
			t.Fatal(err)
		}
		w.Write(f.data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, archive.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestContainerdUsesBerthRuntime(t *testing.T) {
	program := testkit.NeedTool(t, "containerd")
	ctr := testkit.NeedTool(t, "ctr")
	c := newForeign(t, false)
	socket := filepath.Join(c.dir, "s")
	config := filepath.Join(c.dir, "config.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = %q\n",
		filepath.Join(c.dir, "root"), filepath.Join(c.dir, "state"), socket)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c.command = []string{ctr, "--address", socket, "--namespace", filepath.Base(c.dir)}
	c.serve([]string{"version"}, program, "--config", config)
	archive := filepath.Join(c.dir, "bb.tar")
	busyboxArchive(t, testkit.BusyboxTar(t), archive, "localhost/bb:latest")
	c.must("images", "import", archive)
	const image = "localhost/bb:latest"
	c.flags = []string{"--runc-binary", c.runtime(), "--cgroup", c.cgroup() + "/c"}

	// Not to the end of the input: ctr forgets to pass that on if it comes early.
	out, status := c.run("some words\n", c.container("--rm", image, "a", "sh", "-c", "read x; echo $x; sleep 0.5; exit 7")...)
	if status != 7 || !strings.HasPrefix(out, "some words\n") {
		t.Errorf("got %d, %q", status, out)
	}
	c.expect(1, "executable file not found", c.container("--rm", image, "b", "nope")...)
	term := c.onTerminal(c.container("--rm --tty", image, "t", "sh", "-c", "tty; exit 9")...)
	term.Expect("/dev/pts/0")
	if status := term.Exit(); status != 9 {
		t.Errorf("the terminal's container ended with %d", status)
	}

	c.must(c.container("--detach --memory-limit 67108864 --read-only", image, "one", "sleep", "1000")...)
	// What a process says when it ends, ctr may miss: so this one leaves a file.
	c.expect(3, "", "tasks", "exec", "--exec-id", "e1", "one", "sh", "-c", "touch /x 2>/dev/null || touch /run/refused; exit 3")
	c.expect(0, "", "tasks", "exec", "--exec-id", "e3", "one", "ls", "/run/refused")
	limit, err := os.ReadFile("/sys/fs/cgroup/memory" + c.cgroup() + "/c/memory.limit_in_bytes")
	if err != nil {
		limit, _ = os.ReadFile("/sys/fs/cgroup" + c.cgroup() + "/c/memory.max")
	}
	if string(limit) != "67108864\n" {
		t.Errorf("the memory limit is %q", limit)
	}
	term = c.onTerminal("tasks", "exec", "--tty", "--exec-id", "e2", "one", "sh", "-c", "tty; exit 6")
	term.Expect("/dev/pts/")
	if status := term.Exit(); status != 6 {
		t.Errorf("the terminal's exec ended with %d", status)
	}
	c.must("tasks", "pause", "one")
	c.expect(0, "PAUSED", "tasks", "ls")
	c.must("tasks", "resume", "one")
	if out := c.must("tasks", "ps", "one"); !regexp.MustCompile(`(?m)^\d+ `).MatchString(out) {
		t.Errorf("ps: %s", out)
	}
	c.must("tasks", "metrics", "one")
	c.must("tasks", "kill", "--signal", "SIGKILL", "--all", "one")
	c.eventually("the end", func() bool { return strings.Contains(c.must("tasks", "ls"), "STOPPED") })
	c.run("", "tasks", "rm", "one") // its status is the task's
	c.must("containers", "rm", "one")
	if out := c.must("tasks", "ls", "--quiet"); out != "" {
		t.Errorf("left: %s", out)
	}
	os.Remove("/run/containerd/runc/" + filepath.Base(c.dir))
}
