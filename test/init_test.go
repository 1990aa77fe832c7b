package test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/testkit"
)

// withRuntimes runs fn with Berth's own runtime and with runc.
func withRuntimes(t *testing.T, fn func(t *testing.T, e *testkit.Engine)) {
	for _, name := range []string{"berth", "runc"} {
		t.Run(name, func(t *testing.T) {
			if name != "berth" {
				testkit.NeedTool(t, name)
			}
			e := testkit.StartEngine(t, testkit.EngineOptions{Runtime: name})
			e.Busybox()
			fn(t, e)
		})
	}
}

func TestInitForwardsSignalsReapsAndEndsLikeTheProgram(t *testing.T) {
	withRuntimes(t, func(t *testing.T, e *testkit.Engine) {
		for _, c := range []struct {
			name, args string
			code       int
			out        string
		}{
			{"exit code", "sh -c @exit_7", 7, ""},
			{"death by signal", "sh -c @kill_-9_$$", 137, ""},
			{"what ps shows", "ps -o pid,ppid,pgid,args", 0, "    1     0     1 /sbin/docker-init -- ps -o pid,ppid,pgid,args\n"},
			{"no such program", "nosuch", 127, "docker-init: cannot execute nosuch: not found"},
			{"a directory", "/etc", 126, "docker-init: cannot execute /etc: permission denied"},
		} {
			argv := strings.Fields(c.args)
			for n := range argv {
				if script, ok := strings.CutPrefix(argv[n], "@"); ok {
					argv[n] = strings.ReplaceAll(script, "_", " ")
				}
			}
			r := e.Berth(append([]string{"run", "--rm", "--init", "--network", "none", "busybox"}, argv...)...)
			if r.Code != c.code || !strings.Contains(r.Stdout+r.Stderr, c.out) {
				t.Errorf("%s: %+v", c.name, r)
			}
		}

		id := e.Must("run", "-d", "--init", "--read-only", "-u", "app", "--network", "none", "busybox", "sleep", "1000")
		e.Must("exec", id, "sh", "-c", "(sleep 0.05 &) ; exit 0")
		testkit.Eventually(t, "the orphan is reaped", func() bool { return !strings.Contains(e.Must("exec", id, "ps", "-o", "args"), "sleep 0.05") })
		testkit.Eventually(t, "no zombies are left", func() bool {
			states := strings.Fields(e.Must("exec", id, "ps", "-o", "stat"))
			return len(states) > 1 && !slices.ContainsFunc(states[1:], func(s string) bool { return strings.HasPrefix(s, "Z") })
		})
		if r := e.Berth("exec", "-u", "0", id, "sh", "-c", "echo x > /sbin/docker-init"); r.Code == 0 {
			t.Error("the init can be overwritten")
		}
		e.Must("stop", id)
		if code := e.Must("inspect", "-f", "{{.State.ExitCode}} {{.HostConfig.Init}} {{.Path}}", id); code != "143 true sleep" {
			t.Errorf("stopped with init: %s, want 143 at once", code)
		}
	})
}

func TestInitGivesTheProgramItsTerminal(t *testing.T) {
	withRuntimes(t, func(t *testing.T, e *testkit.Engine) {
		// The child leads the foreground process group: it can read, and ctrl-c is for it alone.
		r := e.Berth("run", "-t", "--rm", "--init", "--network", "none", "busybox", "sh", "-c", `read -t 0 x < /dev/tty; cut -d" " -f 5,8 /proc/$$/stat; ps -o pid,pgid,args | grep "docker-init -- sh" | head -1`)
		f := strings.Fields(r.Stdout)
		if r.Code != 0 || len(f) < 4 || f[0] != f[1] || f[0] == f[3] {
			t.Errorf("process group, foreground group and init's: %q (%+v)", f, r)
		}
		term := e.Terminal("run", "-it", "--rm", "--init", "--network", "none", "busybox", "sh", "-c", "trap 'echo caught; exit 4' INT; echo ready; while :; do sleep 0.1; done")
		term.Expect("ready")
		term.Type("\x03")
		term.Expect("caught")
		if code := term.Exit(); code != 4 {
			t.Errorf("exit %d", code)
		}
	})
}

func TestInitIsTheEnginesToDecide(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--init"}})
	e.Busybox()
	first := func(flags ...string) string {
		t.Helper()
		return e.Must(append(append([]string{"run", "--rm", "--network", "none"}, flags...), "busybox", "cat", "/proc/1/cmdline")...)
	}
	if out := first(); !strings.HasPrefix(out, "/sbin/docker-init\x00--\x00cat\x00") {
		t.Errorf("a container that says nothing, with --init of the engine: %q", out)
	}
	if out := first("--init=false"); strings.Contains(out, "docker-init") {
		t.Errorf("--init=false: %q", out)
	}
	if r := e.Berth("run", "--rm", "--network", "none", "--init", "--pid", "host", "busybox", "sh", "-c", "cat /proc/$$/cmdline"); strings.Contains(r.Stdout, "docker-init") || !strings.Contains(r.Stderr, "--init is ignored") {
		t.Errorf("--pid host: %+v", r)
	}
	if out := e.Must("info", "-f", "{{.InitBinary}}"); out != "docker-init" {
		t.Errorf("info tells of %q", out)
	}
	if f, err := os.Stat(filepath.Join(e.DataRoot, "docker-init")); err != nil || f.Size() > 4096 {
		t.Errorf("the init: %v, %v", f, err)
	}
	e.Must("run", "--rm", "--network", "none", "--tmpfs", "/sbin", "busybox", "true")
}

func TestInitMayBeAnotherProgram(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "mine")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nshift\necho mine\nexec \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--init-path", program}})
	e.Busybox()
	if out := e.Must("run", "--rm", "--init", "--network", "none", "busybox", "echo", "hello"); out != "mine\nhello" {
		t.Errorf("%q", out)
	}
	if out := e.Must("info", "-f", "{{.InitBinary}}"); out != program {
		t.Errorf("info tells of %q", out)
	}
}
