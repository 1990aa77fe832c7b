package test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"berth/testkit"
)

// under is a client that runs while the test does something to the engine.
type under struct {
	cmd       *exec.Cmd
	line      *testkit.Line
	out, errs bytes.Buffer
}

func begin(t *testing.T, e *testkit.Engine, args ...string) *under {
	t.Helper()
	u := &under{cmd: exec.Command(filepath.Join(e.Bin, "berth"), args...)}
	u.cmd.Env, u.cmd.Dir = e.Env(), e.Dir
	u.cmd.Stdout, u.cmd.Stderr = &u.out, &u.errs
	u.line = testkit.NoteLine(t, u.cmd.Path, args)
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.cmd.Process.Kill() })
	return u
}

func (u *under) end(t *testing.T, code int, out string) {
	t.Helper()
	_ = u.cmd.Wait() // the exit code is read below
	u.line.Code = u.cmd.ProcessState.ExitCode()
	if got := u.line.Code; got != code || u.out.String() != out {
		t.Errorf("%v: exit %d (want %d), output %q (want %q), stderr %q", u.cmd.Args[1:], got, code, u.out.String(), out, u.errs.String())
	}
}

// A container that counts, waiting for the test at every number.
const counting = `for i in 1 2 3; do echo $1$i; until [ -e /gate/$1$i ]; do sleep 0.02; done; done; exit $2`

func TestClientsOutliveTheEngine(t *testing.T) {
	for _, way := range []string{"killed", "stopped"} {
		t.Run(way, func(t *testing.T) {
			clientsOutliveTheEngine(t, (map[string]func(*testkit.Engine){
				"killed":  (*testkit.Engine).Kill,
				"stopped": func(e *testkit.Engine) { e.Stop() },
			})[way])
		})
	}
}

func clientsOutliveTheEngine(t *testing.T, end func(*testkit.Engine)) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	gate := t.TempDir()
	open := func(names ...string) {
		for _, n := range names {
			write(t, filepath.Join(gate, n), "")
		}
	}
	volume := gate + ":/gate"
	run := begin(t, e, "run", "--rm", "--network", "none", "-v", volume, "busybox", "sh", "-c", counting, "sh", "r", "7")
	kept := begin(t, e, "run", "--network", "none", "--name", "kept", "-v", volume, "busybox", "sh", "-c", counting, "sh", "k", "8")
	testkit.Eventually(t, "both run", func() bool {
		return strings.Count(e.Must("ps", "-q"), "\n") == 1 && e.Berth("logs", "kept").Stdout == "k1\n"
	})
	inside := begin(t, e, "exec", "kept", "sh", "-c", counting, "sh", "x", "9")
	waiting := begin(t, e, "wait", "kept")
	following := begin(t, e, "logs", "-f", "kept")
	attached := begin(t, e, "attach", "--no-stdin", "kept")
	testkit.Eventually(t, "the exec runs and attach is there", func() bool {
		events := e.Must("events", "--since", "1h", "--until", "0s")
		return strings.Contains(events, "exec_start") && strings.Count(events, "container attach") >= 3
	})
	open("r1", "k1", "x1")
	testkit.Eventually(t, "the second number is logged", func() bool { return e.Berth("logs", "kept").Stdout == "k1\nk2\n" })
	end(e)
	open("r2", "k2", "x2") // the third comes while there is no engine
	e.Start()
	testkit.Eventually(t, "the third number is logged", func() bool { return e.Berth("logs", "kept").Stdout == "k1\nk2\nk3\n" })
	open("r3", "x3")
	inside.end(t, 9, "x1\nx2\nx3\n")
	run.end(t, 7, "r1\nr2\nr3\n")
	open("k3")
	kept.end(t, 8, "k1\nk2\nk3\n")
	waiting.end(t, 0, "8\n")
	following.end(t, 0, "k1\nk2\nk3\n")
	attached.end(t, 8, "k2\nk3\n")
}

func TestARefusedAttachTellsWhy(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("run", "-d", "--network", "none", "--name", "box", "busybox", "sleep", "1000")
	e.Must("pause", "box")
	if r := e.Berth("exec", "box", "true"); r.Code != 1 || !strings.Contains(r.Stderr, "is paused") || strings.Count(r.Stderr, "\n") != 1 {
		t.Errorf("exec in a paused container: exit %d, %q", r.Code, r.Stderr)
	}
	e.Must("unpause", "box")
	r := e.Berth("exec", "-u", "nobodyhere", "box", "true")
	if r.Code == 0 || !strings.Contains(r.Stdout+r.Stderr, "unable to find user nobodyhere") {
		t.Errorf("exec by an unknown user: exit %d, %q %q", r.Code, r.Stdout, r.Stderr)
	}
	if r := e.Berth("run", "--rm", "-i", "--detach-keys", "ctrl-?", "busybox", "true"); r.Code != 125 || strings.Contains(r.Stderr, "upgrade") || !strings.Contains(strings.ToLower(r.Stderr), "ctrl-?") {
		t.Errorf("bad detach keys: exit %d, %q", r.Code, r.Stderr)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
