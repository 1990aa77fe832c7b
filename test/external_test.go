package test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"berth/testkit"
)

// The tests of containers' lives, once more with runtimes that are not Berth's own. All of
// this package's tests can be run so: BERTH_TEST_RUNTIME=runc.
func TestContainersLiveTheSameWithOtherRuntimes(t *testing.T) {
	testkit.Integration(t)
	for _, runtime := range []struct {
		name  string
		lives map[string]func(*testing.T)
	}{
		{testkit.NeedTool(t, "runc"), map[string]func(*testing.T){
			"life": TestLifeOfAContainer, "exit codes": TestRunGivesOutputAndExitCode, "stdin": TestStdinReachesTheContainer,
			"confinement": TestWhatTheProcessMayDo, "from the host": TestWhatItIsFromTheHost, "memory": TestOOMIsRecorded,
			"engine dead": TestExitCodeIsKeptWithTheEngineDead, "shim killed": TestShimKilledTakesItsContainerWithIt,
			"terminal": TestExecOnATerminal, "shim and guardian killed": TestShimAndGuardianKilledTogetherLeaveNothing,
		}},
		{filepath.Join(testkit.Binaries(t), "berth-runtime"), map[string]func(*testing.T){
			"life": TestLifeOfAContainer, "exit codes": TestRunGivesOutputAndExitCode,
		}},
	} {
		t.Run(filepath.Base(runtime.name), func(t *testing.T) {
			t.Setenv("BERTH_TEST_RUNTIME", "other="+runtime.name)
			for name, life := range runtime.lives {
				t.Run(name, life)
			}
		})
	}
}

// spy is a runtime that writes down how it is called, and is runc otherwise.
func spy(t *testing.T, e *testkit.Engine) (program, log string) {
	t.Helper()
	program, log = filepath.Join(e.Dir, "spy"), filepath.Join(e.Dir, "spied")
	script(t, program, fmt.Sprintf("echo \"$@\" >> %s\nwhile [ \"${1#--platform}\" != \"$1\" ]; do shift; done\nexec %s \"$@\"\n", log, testkit.NeedTool(t, "runc")))
	return program, log
}

// inPlace takes out --systemd-cgroup, a runtime's seventh word where systemd makes the control
// groups, so that the words after it have their places.
const inPlace = `[ "$7" != --systemd-cgroup ] || { a=$1 b=$2 c=$3 d=$4 e=$5 f=$6; shift 7; set -- "$a" "$b" "$c" "$d" "$e" "$f" "$@"; }; `

func script(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestRuntimeIsCalledAsConfigured(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Lazy: true})
	program, log := spy(t, e)
	configure := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(e.Dir, "daemon.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	configure(fmt.Sprintf(`{"runtimes": {"vm": {"path": %q, "runtimeArgs": ["--platform=kvm"]}}, "default-runtime": "vm"}`, program))
	e.Start()
	e.Busybox()
	id := e.Must("run", "-d", "--network", "none", "busybox", "sleep", "1000")
	e.Must("exec", id, "true")
	if out := e.Must("top", id); !strings.Contains(out, "sleep 1000") {
		t.Errorf("top: %q", out)
	}
	e.Must("pause", id)
	if r := e.Berth("exec", id, "true"); r.Code == 0 || !strings.Contains(r.Stderr+r.Stdout, "paused") {
		t.Errorf("exec in a paused container: %+v", r)
	}
	e.Must("unpause", id)
	if got := e.Must("inspect", "-f", "{{.HostConfig.Runtime}}", id); got != "vm" {
		t.Errorf("inspect shows runtime %q", got)
	}
	if got := e.Must("info", "--format", `{{.DefaultRuntime}} {{index .Runtimes "vm"}}`); !strings.HasPrefix(got, "vm ") || !strings.Contains(got, program) || !strings.Contains(got, "--platform=kvm") {
		t.Errorf("info: %q", got)
	}

	// A reload changes what later containers get.
	configure(`{}`)
	if err := syscall.Kill(e.Pid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the configuration is reloaded", func() bool { return e.Must("info", "--format", "{{.DefaultRuntime}}") == "berth" })
	if r := e.Berth("run", "--rm", "--runtime", "vm", "busybox", "true"); r.Code != 125 || !strings.Contains(r.Stderr, "unknown or invalid runtime name: vm") {
		t.Errorf("a runtime that is not configured any more: %+v", r)
	}
	e.Must("pause", id) // it keeps what made it
	e.Must("rm", "-f", id)

	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	flags := "--log-format json "
	if e.Systemd {
		flags += "--systemd-cgroup "
	}
	for _, want := range []string{"create --bundle", "start", "exec --process", "ps --format json", "pause", "resume", "kill", "delete --force"} {
		re := regexp.MustCompile(`(?m)^--platform=kvm --root \S+ --log \S+ ` + flags + want)
		if !re.Match(data) {
			t.Errorf("the runtime was not called with %q:\n%s", want, data)
		}
	}
}

func TestRuntimesThatDoNotWork(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Lazy: true})
	at := func(name string) string { return filepath.Join(e.Dir, name) }
	script(t, at("garbage"), `printf 'what\001 is\tthis\n' >&2; head -c 9000 /dev/urandom; echo nonsense > "$4"; exit 3`)
	script(t, at("silent"), `exit 1`)
	script(t, at("dies"), `kill -SEGV $$`)
	script(t, at("idle"), `exit 0`)
	// The fourth word is the log, the tenth the file for the process id.
	script(t, at("liar"), inPlace+`[ "$7" = create ] && echo $PPID > "${11}"; exit 0`)
	script(t, at("babbler"), inPlace+`[ "$7" = create ] && echo many > "${11}"; exit 0`)
	script(t, at("honest"), inPlace+`[ "$7" = create ] && { echo '{"level":"warning","msg":"mind"}'; echo '{"level":"error","msg":"no room on board","time":"now"}'; } > "$4"; exit 1`)
	if err := os.WriteFile(at("text"), []byte("not a program\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("alien"), []byte("\x7fELFnot for us"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("orphan"), []byte("#!/no/such/interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cases := []struct{ name, path, want string }{
		{"missing", at("nothing"), `runtime missing \(.*nothing\) does not exist: install it`},
		{"unfindable", "no-such-runtime-anywhere", `no program no-such-runtime-anywhere in the engine's PATH: install it`},
		{"text", at("text"), `runtime text \(.*\) is not an executable program`},
		{"directory", e.Dir, `runtime directory \(.*\) is not an executable program`},
		{"alien", at("alien"), `runtime alien \(.*\) is not a program for this machine`},
		{"orphan", at("orphan"), `runtime orphan \(.*\) cannot be executed: it, or the interpreter`},
		{"garbage", at("garbage"), `OCI runtime create failed: runtime garbage \(.*\): what is this`},
		{"silent", at("silent"), `runtime silent \(.*\): it gave no reason \(exit status 1\): try whether it works`},
		{"dies", at("dies"), `runtime dies \(.*\): .*SIGSEGV`},
		{"idle", at("idle"), `runtime idle \(.*\) says .* has not written its id`},
		{"liar", at("liar"), `runtime liar \(.*\) gives process \d+ as the container's: it is not`},
		{"babbler", at("babbler"), `runtime babbler \(.*\) gives "many" as a process id`},
		{"honest", at("honest"), `OCI runtime create failed: runtime honest \(.*\): no room on board`},
	}
	file := `{"runtimes": {`
	for i, c := range cases {
		if i > 0 {
			file += ","
		}
		file += fmt.Sprintf("%q: {\"path\": %q}", c.name, c.path)
	}
	if err := os.WriteFile(at("daemon.json"), []byte(file+"}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.Start()
	e.Busybox()
	for _, c := range cases {
		for _, more := range [][]string{nil, {"-t"}} {
			r := e.Berth(append(append([]string{"run", "--rm", "--network", "none", "--runtime", c.name}, more...), "busybox", "true")...)
			text := strings.TrimSpace(r.Stderr)
			if r.Code != 125 || strings.Contains(text, "\n") || !regexp.MustCompile(c.want).MatchString(text) || len(text) > 1000 {
				t.Errorf("%s %v: exit %d, %q (want %s)", c.name, more, r.Code, text, c.want)
			}
		}
	}
	if r := e.Berth("run", "--rm", "--runtime", at("silent"), "busybox", "true"); r.Code != 125 || !strings.Contains(r.Stderr, "--add-runtime") {
		t.Errorf("a path as a name: %+v", r)
	}
	if left := e.Must("ps", "-aq"); left != "" {
		t.Errorf("left in ps -a: %q", left)
	}
	if crun := "crun"; isHybrid() {
		testkit.NeedTool(t, crun)
		r := e.Berth("run", "--rm", "--network", "none", "--runtime", crun, "busybox", "true")
		if text := strings.TrimSpace(r.Stderr); r.Code != 125 || strings.Contains(text, "\n") || !strings.Contains(text, "cgroups in hybrid mode not supported") {
			t.Errorf("crun on a hybrid layout: %+v", r)
		}
	}
}

// isHybrid tells that the machine mounts cgroup v2 beside v1.
func isHybrid() bool {
	_, err := os.Stat("/sys/fs/cgroup/unified/cgroup.controllers")
	return err == nil
}

func TestRuntimeThatHangsDiesWithItsShim(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Lazy: true})
	program, pidFile := filepath.Join(e.Dir, "hangs"), filepath.Join(e.Dir, "hanging")
	script(t, program, fmt.Sprintf(inPlace+`[ "$7" = create ] || exit 0; echo $$ > %s.new; mv %s.new %s; exec sleep 1000`, pidFile, pidFile, pidFile))
	e.Flags("--add-runtime", "hangs="+program)
	e.Start()
	e.Busybox()
	done := make(chan testkit.Result, 1)
	go func() { done <- e.Berth("run", "--rm", "--network", "none", "--runtime", "hangs", "busybox", "true") }()
	var pid string
	testkit.Eventually(t, "the runtime is called", func() bool {
		data, err := os.ReadFile(pidFile)
		pid = strings.TrimSpace(string(data))
		return err == nil
	})
	shim := parent(pid)
	if shim <= 1 {
		t.Fatalf("process %s, the runtime, has the parent %d", pid, shim)
	}
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.Code != 125 || !strings.Contains(r.Stderr, "the supervisor is gone") {
		t.Errorf("%+v", r)
	}
	n, _ := strconv.Atoi(pid)
	testkit.Eventually(t, "the runtime has died", func() bool { return syscall.Kill(n, 0) == syscall.ESRCH || parent(pid) == 0 })
}

func TestRuntimesAreConfiguredOnce(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Lazy: true})
	for _, tt := range []struct {
		file  string
		flags []string
		want  string
	}{
		{`{"runtimes": {"berth": {"path": "/bin/true"}}}`, nil, `runtime name "berth" is reserved`},
		{`{"runtimes": {"a/b": {"path": "/bin/true"}}}`, nil, `invalid runtime name "a/b"`},
		{`{"runtimes": {"ab": {"path": "bin/true"}}}`, nil, `neither an absolute path`},
		{`{"runtimes": {"ab": {}}}`, nil, `runtime ab has no path`},
		{`{"runtimes": {"kata": {"runtimeType": "io.containerd.kata.v2"}}}`, nil, `containerd's shims`},
		{`{"runtimes": {"ab": {"path": "/x", "args": []}}}`, nil, `unknown field "args"`},
		{`{"default-runtime": "nosuch"}`, nil, `default runtime "nosuch" is not known`},
		{`{}`, []string{"--add-runtime", "noequals"}, `not name=path`},
		{`{}`, []string{"--add-runtime", "ab=/x", "--add-runtime", "ab=/y"}, `given twice`},
		{`{"runtimes": {"ab": {"path": "/x"}}}`, []string{"--add-runtime", "cd=/y"}, `both as a flag and in the configuration file`},
	} {
		if err := os.WriteFile(filepath.Join(e.Dir, "daemon.json"), []byte(tt.file), 0o600); err != nil {
			t.Fatal(err)
		}
		argv := append(e.Command(), tt.flags...)
		r := e.Run("", argv[0], argv[1:]...)
		if r.Code == 0 || !strings.Contains(r.Stderr, tt.want) {
			t.Errorf("%s %v: exit %d, %q (want %s)", tt.file, tt.flags, r.Code, r.Stderr, tt.want)
		}
	}
}
