package testkit

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Engine is a berthd of a test's own, with its own state, socket and cgroups. The
// binaries are linked into its directory, so that whatever it starts can be told from
// other engines' by /proc/PID/exe.
type Engine struct {
	Dir, Bin, DataRoot, ExecRoot string
	Host                         string // unix://…
	CgroupParent                 string // a path; with Systemd that of a slice
	// Systemd makes the control groups. All tests run so when BERTH_TEST_CGROUP_DRIVER is "systemd".
	Systemd bool
	// Runtime is the engine's default OCI runtime, NAME or NAME=PATH; empty: Berth's own. All
	// tests run with another one when BERTH_TEST_RUNTIME names it.
	Runtime string

	t     testing.TB
	on    func(command ...string) []string // nil: here
	flags []string
	env   []string
	cmd   *exec.Cmd
	log   *os.File
}

// EngineOptions change how StartEngine starts.
type EngineOptions struct {
	Flags []string // added to berthd's command line
	Env   []string // added to berthd's environment
	Lazy  bool     // do not start: the first client shall

	Runtime string // see Engine
	Systemd bool   // see Engine
	Host    *Host  // the machine that it runs on; nil: this one
	// Within gives the command line that runs another one where the engine is to be, e.g. in
	// other namespaces. The program must become that command.
	Within func(command ...string) []string
}

// StartEngine starts an engine that ends with the test. Its containers are removed then,
// and anything that it leaves behind fails the test.
func StartEngine(t testing.TB, o EngineOptions) *Engine {
	t.Helper()
	Integration(t)
	built := Binaries(t)
	dir, err := os.MkdirTemp("", "bt")
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{
		Dir: dir, Bin: filepath.Join(dir, "bin"),
		DataRoot: filepath.Join(dir, "d"), ExecRoot: filepath.Join(dir, "r"),
		CgroupParent: "/" + filepath.Base(dir),
		Runtime:      o.Runtime,
		t:            t, on: o.Within, flags: o.Flags, env: o.Env,
	}
	if o.Host != nil {
		e.on = o.Host.Args
	}
	if e.Runtime == "" {
		e.Runtime = os.Getenv("BERTH_TEST_RUNTIME")
	}
	if e.Systemd = o.Systemd || os.Getenv("BERTH_TEST_CGROUP_DRIVER") == "systemd"; e.Systemd {
		e.CgroupParent += ".slice"
	}
	// So all tests run with their data roots on another file system.
	if other := os.Getenv("BERTH_TEST_DATA"); other != "" {
		if e.DataRoot, err = os.MkdirTemp(other, "bt"); err != nil {
			t.Fatal(err)
		}
	}
	e.Host = "unix://" + filepath.Join(e.ExecRoot, "berth.sock")
	for _, d := range []string{e.Bin, e.DataRoot, e.ExecRoot} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range programs {
		if err := place(filepath.Join(built, p), filepath.Join(e.Bin, p)); err != nil {
			t.Fatal(err)
		}
	}
	if e.log, err = os.Create(filepath.Join(dir, "berthd.log")); err != nil {
		t.Fatal(err)
	}
	before := takeStock()
	t.Cleanup(func() {
		e.dismantle()
		for _, left := range e.leaks(before) {
			t.Errorf("left behind: %s", left)
		}
		for _, p := range e.Processes() { // one test's failure is not to be the next one's
			_ = syscall.Kill(p, syscall.SIGKILL)
		}
		e.clearNetworks()
		if t.Failed() {
			if data, err := os.ReadFile(e.log.Name()); err == nil && len(data) > 0 {
				t.Logf("berthd's log:\n%s", lastLines(data, 60))
			}
		}
		e.log.Close()
		if os.Getenv("BERTH_TEST_KEEP") == "" {
			os.RemoveAll(e.DataRoot)
			os.RemoveAll(dir)
		}
	})
	if !o.Lazy {
		e.Start()
	}
	return e
}

// place makes the program from known as to too: /proc/PID/exe shows the name by which a
// program was executed, so a hard link does. Not so for the shim, see processes.
func place(from, to string) error {
	if filepath.Base(to) != shimProgram && os.Link(from, to) == nil {
		return nil
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

// Cgroup is the path of a container's control group, below the hierarchies' roots.
func (e *Engine) Cgroup(id string) string {
	if e.Systemd {
		return e.CgroupParent + "/berth-" + id + ".scope"
	}
	return e.CgroupParent + "/" + id
}

// Flags adds to berthd's command line for the next start.
func (e *Engine) Flags(more ...string) { e.flags = append(e.flags, more...) }

// Command is berthd's command line.
func (e *Engine) Command() []string {
	argv := []string{filepath.Join(e.Bin, "berthd"), "--data-root", e.DataRoot, "--exec-root", e.ExecRoot,
		"-H", e.Host, "--config-file", filepath.Join(e.Dir, "daemon.json")}
	if e.Systemd {
		argv = append(argv, "--exec-opt", "native.cgroupdriver=systemd", "--cgroup-parent", filepath.Base(e.CgroupParent))
	} else {
		argv = append(argv, "--cgroup-parent", e.CgroupParent)
	}
	if name, _, named := strings.Cut(e.Runtime, "="); named {
		argv = append(argv, "--add-runtime", e.Runtime, "--default-runtime", name)
	} else if e.Runtime != "" {
		argv = append(argv, "--default-runtime", e.Runtime)
	}
	return append(argv, e.flags...)
}

// Start starts berthd and waits until it answers. Further environment may be given,
// e.g. BERTH_FAILPOINT=…. An engine that a shim has started in the place of one that was
// killed makes room.
func (e *Engine) Start(env ...string) {
	e.t.Helper()
	for range 20 {
		said := e.launch(env)
		switch {
		case said == "":
			return
		case !strings.Contains(said, "another engine is running"):
			e.t.Fatalf("berthd: %s", said)
		}
		e.Await()
		e.endWoken()
	}
	e.t.Fatal("other engines come again and again")
}

// launch starts berthd and returns what it says before it is ready: nothing if all is well.
func (e *Engine) launch(env []string) string {
	e.t.Helper()
	ready, tell, err := os.Pipe()
	if err != nil {
		e.t.Fatal(err)
	}
	defer ready.Close()
	config := filepath.Join(e.Dir, "daemon.json")
	if _, err := os.Stat(config); err != nil {
		if err := os.WriteFile(config, []byte("{}\n"), 0o600); err != nil {
			e.t.Fatal(err)
		}
	}
	argv := append(e.Command(), "--ready-fd", "3")
	if e.on != nil {
		argv = e.on(argv...)
	}
	e.cmd = exec.Command(argv[0], argv[1:]...)
	e.cmd.Env = append(append(os.Environ(), e.env...), env...)
	e.cmd.Stdout, e.cmd.Stderr = e.log, e.log
	e.cmd.ExtraFiles = []*os.File{tell}
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	tell.Close()
	_ = ready.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 256)
	n, err := ready.Read(buf)
	if err != nil {
		e.t.Fatalf("berthd did not become ready: %v\n%s", err, e.Log())
	}
	return strings.TrimSpace(string(buf[:n]))
}

// endWoken ends the engines that others than the test have started, in order: of one that is
// killed before it has done its work a shim would start another.
func (e *Engine) endWoken() {
	for _, p := range e.processes("berthd") {
		if p != e.Pid() && syscall.Kill(p, syscall.SIGTERM) == nil {
			Eventually(e.t, "the woken engine has ended", func() bool { return !slices.Contains(e.processes("berthd"), p) })
		}
	}
}

// Pid is berthd's.
func (e *Engine) Pid() int { return e.cmd.Process.Pid }

// Kill ends berthd by SIGKILL, at whatever instruction it is.
func (e *Engine) Kill() {
	e.t.Helper()
	_ = e.cmd.Process.Kill()
	e.Await()
}

// Stop ends berthd in order and returns its exit code.
func (e *Engine) Stop() int {
	e.t.Helper()
	_ = e.cmd.Process.Signal(syscall.SIGTERM)
	return e.Await()
}

// Await waits until the berthd that Start started has ended by itself.
func (e *Engine) Await() int {
	e.t.Helper()
	done := make(chan struct{})
	go func() { _ = e.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		_ = e.cmd.Process.Signal(syscall.SIGQUIT)
		<-done
		e.t.Fatalf("berthd does not end:\n%s", e.Log())
	}
	return e.cmd.ProcessState.ExitCode()
}

// Log is what berthd has written to its standard error.
func (e *Engine) Log() string {
	data, _ := os.ReadFile(e.log.Name())
	return string(data)
}

// Env is the environment of a client of this engine.
func (e *Engine) Env() []string {
	home := filepath.Join(e.Dir, "home")
	_ = os.MkdirAll(home, 0o700)
	return []string{"PATH=" + e.Bin + ":" + os.Getenv("PATH"), "HOME=" + home,
		"DOCKER_CONFIG=" + filepath.Join(home, ".docker"), "DOCKER_HOST=" + e.Host, "TERM=xterm"}
}

// RunWith is Run for a client that has further variables in its environment.
func (e *Engine) RunWith(variables []string, stdin, program string, args ...string) Result {
	e.t.Helper()
	return e.run(variables, stdin, program, args)
}

// Result is how a client ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Berth runs our command line.
func (e *Engine) Berth(args ...string) Result {
	e.t.Helper()
	return e.Run("", filepath.Join(e.Bin, "berth"), args...)
}

// Docker runs the official one against this engine.
func (e *Engine) Docker(args ...string) Result {
	e.t.Helper()
	return e.Run("", DockerCLI(e.t), args...)
}

// Must is Berth that has to succeed; it returns standard output without its last
// newline.
func (e *Engine) Must(args ...string) string {
	e.t.Helper()
	return e.must(e.Berth(args...), "berth", args)
}

// MustDocker is Must with the official client.
func (e *Engine) MustDocker(args ...string) string {
	e.t.Helper()
	return e.must(e.Docker(args...), "docker", args)
}

func (e *Engine) must(r Result, name string, args []string) string {
	e.t.Helper()
	if r.Code != 0 {
		e.t.Fatalf("%s %s: exit %d\nstdout: %s\nstderr: %s", name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// Run runs a program as a client of the engine, with stdin as its input.
func (e *Engine) Run(stdin, program string, args ...string) Result {
	e.t.Helper()
	return e.run(nil, stdin, program, args)
}

func (e *Engine) run(variables []string, stdin, program string, args []string) Result {
	e.t.Helper()
	// Not the test's context: the last clean-up runs clients too.
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	line := NoteLine(e.t, program, args)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(e.Env(), variables...)
	cmd.Dir = e.Dir
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		e.t.Fatalf("%s: %v", program, err)
	}
	if ctx.Err() != nil {
		e.t.Fatalf("%s %s: does not end\nstdout: %s\nstderr: %s", filepath.Base(program), strings.Join(args, " "), out.String(), errs.String())
	}
	line.Code = cmd.ProcessState.ExitCode()
	return Result{out.String(), errs.String(), line.Code}
}

// For is the same engine for a sub-test, which fails instead of the test that it is part of.
func (e *Engine) For(t testing.TB) *Engine {
	of := *e
	of.t = t
	return &of
}

// Terminal runs our command line on a terminal.
func (e *Engine) Terminal(args ...string) *Terminal {
	e.t.Helper()
	return OnTerminal(e.t, e.Env(), filepath.Join(e.Bin, "berth"), args...)
}

// Busybox imports the busybox image under its own name and returns it.
func (e *Engine) Busybox() string {
	e.t.Helper()
	e.Must("import", "--change", `CMD ["sh"]`, BusyboxTar(e.t), "busybox:latest")
	return "busybox"
}

// patience is how long something that must come is waited for. It only keeps a test from hanging,
// so it is long: the machine may be busy with other things.
const patience = 90 * time.Second

// Eventually waits for a condition that nothing can announce, and fails the test if it
// does not come.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// dismantle removes all containers and ends the engine.
func (e *Engine) dismantle() {
	if e.cmd == nil && !e.answers() {
		return
	}
	if !e.answers() {
		e.Start()
	}
	for _, id := range strings.Fields(e.Berth("ps", "-aq", "--no-trunc").Stdout) {
		if r := e.Berth("rm", "-f", id); r.Code != 0 {
			e.t.Errorf("rm -f %s: %s", id, r.Stderr)
		}
	}
	// Removed layers are deleted in the background; what is not done at the engine's end
	// waits for its next start.
	Eventually(e.t, "removed layers are deleted", func() bool {
		dead, _ := os.ReadDir(filepath.Join(e.DataRoot, "layers", "trash"))
		return len(dead) == 0
	})
	// So are containers' files, when their shims have ended. What is not gone in time is a leak, and told as one.
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if left, _ := os.ReadDir(filepath.Join(e.DataRoot, "containers")); len(left) == 0 {
			break
		}
	}
	for _, p := range e.processes("berthd") {
		_ = syscall.Kill(p, syscall.SIGTERM)
	}
	if e.cmd != nil && e.cmd.ProcessState == nil {
		e.Await()
	}
	Eventually(e.t, "the engine has ended", func() bool { return len(e.processes("berthd")) == 0 })
}

func (e *Engine) answers() bool {
	cmd := exec.Command(filepath.Join(e.Bin, "berth"), "version")
	cmd.Env = e.Env()
	return cmd.Run() == nil
}

func lastLines(data []byte, n int) string {
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
