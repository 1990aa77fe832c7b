package supervisor

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	oci "berth/oci/bundle"
)

var both = AttachOptions{Stdout: true, Stderr: true}

func TestFastExitsLoseNeitherStatusNorOutput(t *testing.T) {
	s := newStage(t, 2)
	for i := range 200 {
		cfg := s.config("sh", "-c", fmt.Sprintf("echo out %d; echo err %d >&2; exit %d", i, i, i%200))
		a, client := s.attachment(both)
		client.collect()
		shim := s.start(cfg, a)
		if r := s.exit(shim); r.Reason != "" || r.Code != i%200 || r.OOMKilled || r.ExitedAt.Before(r.StartedAt) {
			t.Errorf("run %d: %+v", i, r)
		}
		if r, err := ReadExit(cfg.Dir); err != nil || r.Code != i%200 {
			t.Errorf("run %d: record %+v, %v", i, r, err)
		}
		got := string(<-client.all)
		if len(got) != len(fmt.Sprintf("out %d\nerr %d\n", i, i)) || !strings.Contains(got, fmt.Sprintf("out %d\n", i)) || !strings.Contains(got, fmt.Sprintf("err %d\n", i)) {
			t.Errorf("run %d: the client got %q", i, got)
		}
		if log := s.logged(cfg); len(log) != len(got) {
			t.Errorf("run %d: log %q", i, log)
		}
		if _, err := os.Stat(cfg.RunDir); !os.IsNotExist(err) {
			t.Errorf("run %d: the run directory is left (%v)", i, err)
		}
	}
}

func TestALotOfOutputIsTheSameInLogAndStream(t *testing.T) {
	s := newStage(t, 0)
	cfg := s.config("sh", "-c", "seq 1 200000; seq 1 20000 >&2; printf last")
	a, client := s.attachment(AttachOptions{Stdout: true})
	client.collect()
	framed, frames := s.attachment(AttachOptions{Stdout: true, Stderr: true, Framed: true})
	frames.collect()
	shim := s.start(cfg, a, framed)
	if r := s.exit(shim); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	var want strings.Builder
	for i := 1; i <= 200000; i++ {
		fmt.Fprintln(&want, i)
	}
	want.WriteString("last")
	if got := string(<-client.all); got != want.String() {
		t.Errorf("the client got %d bytes, want %d", len(got), want.Len())
	}
	stdout, stderr := deframe(t, <-frames.all)
	if stdout != want.String() {
		t.Errorf("the framed client got %d bytes of stdout", len(stdout))
	}
	if !strings.HasSuffix(stderr, "\n20000\n") || strings.Count(stderr, "\n") != 20000 {
		t.Errorf("the framed client got %d bytes of stderr", len(stderr))
	}
	log := s.logged(cfg)
	if len(log) != len(stdout)+len(stderr) {
		t.Errorf("the log holds %d bytes, want %d", len(log), len(stdout)+len(stderr))
	}
}

func TestOutputThatSomebodyElseWritesDoesNotKeepAContainer(t *testing.T) {
	s := newStage(t, 0)
	cfg := s.config("sh", "-c", `trap "echo last; exit 5" TERM; echo ready; while :; do sleep 0.05; done`)
	shim := s.start(cfg)
	eventually(t, "it has its trap", func() bool { return s.logged(cfg) == "ready\n" })
	st, err := shim.State(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	var others sync.WaitGroup
	for range 4 {
		w, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/1", st.Pid), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		// More than one read takes, so that the pipe never is empty.
		if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 1<<20); err != nil {
			t.Fatal(err)
		}
		others.Go(func() { // ends when nobody reads any more
			defer w.Close()
			for err := error(nil); err == nil; {
				_, err = w.Write(bytes.Repeat([]byte("y\n"), 2048))
			}
		})
	}
	if err := shim.Signal(s.ctx(), "", unix.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	if r := s.exit(shim); r.Code != 5 {
		t.Errorf("%+v", r)
	}
	others.Wait()
	if !strings.Contains(s.logged(cfg), "\nlast\n") {
		t.Error("the container's own last line is lost")
	}
}

func deframe(t *testing.T, data []byte) (stdout, stderr string) {
	t.Helper()
	var out [3]strings.Builder
	for len(data) >= 8 {
		n := int(data[4])<<24 | int(data[5])<<16 | int(data[6])<<8 | int(data[7])
		if data[0] > 2 || len(data) < 8+n {
			t.Fatalf("a frame of stream %d with %d bytes, %d there", data[0], n, len(data)-8)
		}
		out[data[0]].Write(data[8 : 8+n])
		data = data[8+n:]
	}
	if len(data) > 0 {
		t.Fatalf("%d bytes after the last frame", len(data))
	}
	return out[1].String(), out[2].String()
}

func TestStdinEndsWhenItsClientHalfCloses(t *testing.T) {
	s := newStage(t, 1)
	cfg := s.config("md5sum")
	cfg.OpenStdin, cfg.StdinOnce = true, true
	a, client := s.attachment(AttachOptions{Stdin: true, Stdout: true, Prefix: []byte("pre")})
	shim := s.start(cfg, a)
	client.collect()
	fmt.Fprint(client.conn, "fix")
	client.conn.CloseWrite()
	s.exit(shim)
	if got, want := string(<-client.all), "851f5ac9941d720844d143ed9cfcf60a  -\n"; got != want {
		t.Errorf("md5sum says %q, want %q", got, want)
	}
}

func TestStdinStaysOpenForFurtherClientsUnlessOnce(t *testing.T) {
	s := newStage(t, 1)
	cfg := s.config("sh", "-c", "read a; echo got $a; read b; echo got $b")
	cfg.OpenStdin = true
	shim := s.start(cfg)
	for _, word := range []string{"one", "two"} {
		a, client := s.attachment(AttachOptions{Stdin: true, Stdout: true})
		if err := shim.Attach(s.ctx(), a); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(client.conn, word)
		client.expect(t, "got "+word+"\n")
		client.conn.Close()
	}
	if r := s.exit(shim); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	if log := s.logged(cfg); log != "got one\ngot two\n" {
		t.Errorf("log %q", log)
	}
}

func TestWithoutOpenStdinThereIsNoInput(t *testing.T) {
	s := newStage(t, 0)
	cfg := s.config("cat")
	if r := s.exit(s.start(cfg)); r.Code != 0 {
		t.Errorf("%+v", r)
	}
}

func TestATerminalEchoesResizesAndDetaches(t *testing.T) {
	s := newStage(t, 1)
	cfg := s.config("sh")
	cfg.OpenStdin, cfg.StdinOnce = true, true
	cfg.Spec.Process.Terminal = true
	a, client := s.attachment(AttachOptions{Stdin: true, Stdout: true, DetachKeys: "ctrl-p,ctrl-q"})
	shim := s.start(cfg, a)
	if err := shim.Resize(s.ctx(), "", 33, 77); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(client.conn, "stty size; echo $((40+2))\n")
	client.expect(t, "33 77\r\n42\r\n")
	fmt.Fprint(client.conn, "\x10")
	fmt.Fprint(client.conn, "\x11")
	if _, err := io.ReadAll(client.conn); err != nil {
		t.Errorf("the detached client: %v", err)
	}
	if e := <-shim.Events(); e.Kind != EventDetach {
		t.Errorf("event %+v", e)
	}
	second, again := s.attachment(AttachOptions{Stdin: true, Stdout: true})
	if err := shim.Attach(s.ctx(), second); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(again.conn, "echo $((50+1)); exit 7\n")
	again.expect(t, "51\r\n")
	if r := s.exit(shim); r.Code != 7 {
		t.Errorf("%+v", r)
	}
	if rest, err := io.ReadAll(again.conn); err != nil {
		t.Errorf("the second client: %q, %v", rest, err)
	}
}

// As an init does that closes what it was given and opens the console.
func TestATerminalThatIsClosedCanBeOpenedAgain(t *testing.T) {
	s := newStage(t, 0)
	cfg := s.config("sh", "-c", "exec 0<&- 1>&- 2>&-; sleep 0.3; exec >/dev/console; echo back; echo again")
	cfg.Spec.Process.Terminal = true
	if r := s.exit(s.start(cfg)); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	if log := s.logged(cfg); log != "back\r\nagain\r\n" {
		t.Errorf("log %q", log)
	}
}

func TestExecGivesStatusStreamsAndEvents(t *testing.T) {
	s := newStage(t, 1)
	cfg := s.config("sleep", "1000")
	shim := s.start(cfg)
	run := func(id string, o AttachOptions, stdin string, args ...string) (string, ExecState) {
		t.Helper()
		e := Exec{ID: id, User: "ann", Process: s.config(args...).Spec.Process}
		a, client := s.attachment(o)
		if _, err := shim.Exec(s.ctx(), e, &a); err != nil {
			t.Fatal(err)
		}
		client.collect()
		if o.Stdin {
			fmt.Fprint(client.conn, stdin)
			client.conn.CloseWrite()
		}
		ev := <-shim.Events()
		if ev.Kind != EventExecExit || ev.ExecID != id {
			t.Fatalf("event %+v", ev)
		}
		return string(<-client.all), *ev.Exec
	}
	for i := range 20 {
		out, st := run(fmt.Sprint("e", i), both, "", "sh", "-c", fmt.Sprintf("id -u; echo $HOME; exit %d", i))
		if out != "1000\n/home/ann\n" || st.ExitCode != i || st.Running {
			t.Errorf("exec %d: %q, %+v", i, out, st)
		}
	}
	if out, st := run("in", AttachOptions{Stdin: true, Stdout: true}, "hello", "cat"); out != "hello" || st.ExitCode != 0 {
		t.Errorf("cat: %q, %+v", out, st)
	}
	if out, _ := run("child", both, "", "sh", "-c", "echo early; sleep 1000 & exit 3"); out != "early\n" {
		t.Errorf("an exec that leaves a child behind: %q", out)
	}
	st, err := shim.State(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if st.Execs["e7"].ExitCode != 7 || st.Execs["child"].ExitCode != 3 || !st.Running || st.Pid == 0 {
		t.Errorf("state %+v", st)
	}
	a, client := s.attachment(both)
	_, err = shim.Exec(s.ctx(), Exec{ID: "missing", Process: s.config("nope").Spec.Process}, &a)
	if !fail.Is(err, fail.NotFound) {
		t.Errorf("a missing program: %v", err)
	}
	if _, err := a.Conn.Write([]byte("sorry")); err != nil {
		t.Errorf("the connection is not back: %v", err)
	}
	a.Conn.Close()
	if data, _ := io.ReadAll(client.conn); string(data) != "sorry" {
		t.Errorf("the client got %q", data)
	}
	if err := shim.Signal(s.ctx(), "", unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if r := s.exit(shim); r.Code != 137 {
		t.Errorf("%+v", r)
	}
}

func TestAnExecOnATerminalIsResizedAndSignalled(t *testing.T) {
	s := newStage(t, 0)
	shim := s.start(s.config("sleep", "1000"))
	e := Exec{ID: "tty", Process: s.config("sh", "-c", "read x; stty size; sleep 1000").Spec.Process}
	e.Process.Terminal = true
	a, client := s.attachment(AttachOptions{Stdin: true, Stdout: true})
	if _, err := shim.Exec(s.ctx(), e, &a); err != nil {
		t.Fatal(err)
	}
	if err := shim.Resize(s.ctx(), "tty", 11, 22); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(client.conn)
	client.expect(t, "11 22\r\n")
	if err := shim.Signal(s.ctx(), "tty", unix.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	if ev := <-shim.Events(); ev.Kind != EventExecExit || ev.Exec.ExitCode != 143 {
		t.Errorf("event %+v", ev)
	}
	if err := shim.Signal(s.ctx(), "tty", unix.SIGTERM, false); !fail.Is(err, fail.NotFound) {
		t.Errorf("a signal to an ended exec: %v", err)
	}
	if err := shim.Signal(s.ctx(), "", unix.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	s.exit(shim)
}

func TestAnEngineComesBackToItsContainer(t *testing.T) {
	s := newStage(t, 1)
	cfg := s.config("sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done")
	a, client := s.attachment(both)
	shim := s.start(cfg, a)
	client.expect(t, "up\n")
	before, err := shim.State(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	shim.Close()
	if _, err := shim.State(s.ctx()); !fail.Is(err, fail.NotFound) {
		t.Errorf("after Close: %v", err)
	}
	again, err := Reattach(s.ctx(), cfg.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	after, err := again.State(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if after.Pid != before.Pid || !after.StartedAt.Equal(before.StartedAt) || !after.Running {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if err := again.Signal(s.ctx(), "", unix.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	if r := s.exit(again); r.Code != 9 {
		t.Errorf("%+v", r)
	}
	if _, err := io.ReadAll(client.conn); err != nil {
		t.Errorf("the client that was attached all the time: %v", err)
	}
	if _, err := Reattach(s.ctx(), cfg.RunDir); !fail.Is(err, fail.NotFound) {
		t.Errorf("to a shim that ended: %v", err)
	}
}

func TestAShimWithoutAnEngineRecordsTheExitAndWakesOne(t *testing.T) {
	s := newStage(t, 0)
	cfg := s.config("sh", "-c", "trap 'exit 4' TERM; echo ready; while :; do sleep 0.05; done")
	woken := filepath.Join(s.dir, "woken")
	cfg.WakeEngine = []string{"busybox", "touch", woken}
	shim := s.start(cfg)
	eventually(t, "it has its trap", func() bool { return s.logged(cfg) == "ready\n" })
	st, err := shim.State(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	shim.Close()
	if err := unix.Kill(st.Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the engine is woken", func() bool { _, err := os.Stat(woken); return err == nil })
	if r, err := ReadExit(cfg.Dir); err != nil || r.Code != 4 {
		t.Errorf("%+v, %v", r, err)
	}
	// With an engine that deals with the exit nobody is woken.
	cfg = s.config("true")
	cfg.WakeEngine = []string{"busybox", "touch", woken + "2"}
	shim = s.start(cfg)
	s.exit(shim)
	eventually(t, "the shim is gone", func() bool { return len(children()) == 0 })
	if _, err := os.Stat(woken + "2"); err == nil {
		t.Error("an engine was woken beside the one that is there")
	}
}

// kill ends a shim as the OOM killer does, and with guardian its guardian, in the order
// that gives that no time.
func (s *stage) kill(shim int, guardian bool) {
	s.t.Helper()
	if err := unix.Kill(shim, unix.SIGSTOP); err != nil {
		s.t.Fatal(err)
	}
	for _, pid := range children() {
		if guardian && strings.Contains(status(pid), fmt.Sprintf("PPid:\t%d\n", shim)) {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	if err := unix.Kill(shim, unix.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
}

func TestAKilledShimTakesItsContainerAlong(t *testing.T) {
	for _, test := range []struct {
		name             string
		engine, guardian bool // which of them is there
	}{
		{"with an engine", true, true},
		{"without an engine", false, true},
		{"with its guardian, the engine being there", true, false},
		{"with its guardian, an engine coming later", false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStage(t, 0)
			cfg := s.config("sh", "-c", "sleep 1000 & sleep 1001")
			woken := filepath.Join(s.dir, "woken")
			cfg.WakeEngine = []string{"busybox", "touch", woken}
			shim := s.start(cfg)
			st, err := shim.State(s.ctx())
			if err != nil {
				t.Fatal(err)
			}
			if !test.engine {
				shim.Close()
			}
			s.kill(st.ShimPid, !test.guardian)
			switch {
			case test.engine:
				for e := range shim.Events() {
					t.Errorf("event %+v", e)
				}
				if err := shim.Signal(s.ctx(), "", unix.SIGTERM, false); !fail.Is(err, fail.NotFound) {
					t.Errorf("a signal to a shim that is gone: %v", err)
				}
				shim.Close()
			case test.guardian:
				eventually(t, "an engine is woken", func() bool { _, err := os.Stat(woken); return err == nil })
			default:
				if !alive(st.Pid) {
					t.Error("somebody else has killed the container")
				}
				if _, err := Reattach(s.ctx(), cfg.RunDir); !fail.Is(err, fail.NotFound) {
					t.Errorf("reattach: %v", err)
				}
			}
			r, err := ReadExit(cfg.Dir)
			if err != nil || r.Code != 137 || r.Reason != "supervisor lost" || !r.StartedAt.Equal(st.StartedAt) {
				t.Errorf("%+v, %v", r, err)
			}
			if alive(st.Pid) {
				t.Error("the container is alive")
			}
			groups, _ := filepath.Glob("/sys/fs/cgroup/*/berth-test/" + cfg.ID)
			if one := "/sys/fs/cgroup/berth-test/" + cfg.ID; unix.Access(one, unix.F_OK) == nil {
				groups = append(groups, one)
			}
			if len(groups) > 0 {
				t.Errorf("cgroups are left: %v", groups)
			}
			if _, err := os.Stat(cfg.RunDir); !os.IsNotExist(err) {
				t.Errorf("the run directory is left (%v)", err)
			}
		})
	}
}

func TestAContainerThatIsNotStartedEndsWithItsEngine(t *testing.T) {
	s := newStage(t, 1)
	cfg := s.config("true")
	shim := s.create(cfg)
	shim.Close()
	eventually(t, "the shim is gone", func() bool { _, err := os.Stat(cfg.RunDir); return os.IsNotExist(err) })

	cfg = s.config("true")
	shim = s.create(cfg)
	if err := shim.Destroy(s.ctx()); err != nil {
		t.Fatal(err)
	}
	for e := range shim.Events() {
		t.Errorf("event %+v", e)
	}
	shim.Close()
	if _, err := ReadExit(cfg.Dir); !fail.Is(err, fail.NotFound) {
		t.Errorf("an exit record of a container that never ran: %v", err)
	}
}

func TestFailuresAreClassedAndLeaveNothing(t *testing.T) {
	s := newStage(t, 1)
	cfg := s.config("true")
	cfg.User = "nobodyhere"
	if _, err := s.launcher.Create(s.ctx(), cfg, nil); !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "unable to find user nobodyhere") {
		t.Errorf("unknown user: %v", err)
	}
	if _, err := os.Stat(cfg.RunDir); !os.IsNotExist(err) {
		t.Errorf("the run directory is left (%v)", err)
	}
	for args, class := range map[string]fail.Class{"nope": fail.NotFound, "/etc/passwd": fail.Forbidden} {
		cfg := s.config(args)
		a, client := s.attachment(both)
		client.collect()
		shim := s.create(cfg, a)
		if _, _, err := shim.Start(s.ctx()); !fail.Is(err, class) {
			t.Errorf("%s: %v", args, err)
		}
		for e := range shim.Events() {
			t.Errorf("event %+v", e)
		}
		shim.Close()
		<-client.all
	}
	ctx, cancel := context.WithCancel(s.ctx())
	cancel()
	if _, err := s.launcher.Create(ctx, s.config("true"), nil); !fail.Is(err, fail.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestASlowClientGetsEverythingAndADeadOneHoldsNobodyUp(t *testing.T) {
	s := newStage(t, 0)
	cfg := s.config("sh", "-c", "seq 1 400000")
	slow, client := s.attachment(AttachOptions{Stdout: true})
	dead, gone := s.attachment(AttachOptions{Stdout: true})
	shim := s.start(cfg, slow, dead)
	gone.conn.Close()
	exited := make(chan ExitRecord, 1)
	go func() { exited <- s.exit(shim) }()
	select {
	case r := <-exited:
		t.Errorf("2.7 MB went into nowhere: %+v", r)
	case <-time.After(300 * time.Millisecond):
	}
	client.collect()
	if got := <-client.all; !strings.HasSuffix(string(got), "\n400000\n") {
		t.Errorf("%d bytes", len(got))
	}
	if r := <-exited; r.Code != 0 {
		t.Errorf("%+v", r)
	}
}

func TestPauseHoldsAndResumeLetsGo(t *testing.T) {
	s := newStage(t, 0)
	cfg := s.config("sh", "-c", "while :; do echo x; sleep 0.01; done")
	a, client := s.attachment(both)
	shim := s.start(cfg, a)
	client.expect(t, "x")
	if err := shim.Pause(s.ctx()); err != nil {
		t.Fatal(err)
	}
	if st, err := shim.State(s.ctx()); err != nil || !st.Paused {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := shim.Exec(s.ctx(), Exec{ID: "p", Process: s.config("true").Spec.Process}, nil); !fail.Is(err, fail.Conflict) {
		t.Errorf("exec while paused: %v", err)
	}
	if err := shim.Resume(s.ctx()); err != nil {
		t.Fatal(err)
	}
	if pids, err := shim.Pids(s.ctx()); err != nil || len(pids) == 0 {
		t.Errorf("pids %v, %v", pids, err)
	}
	root, err := shim.Root(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Faccessat(int(root.Fd()), "bin/busybox", unix.F_OK, 0); err != nil {
		t.Errorf("the lent root: %v", err)
	}
	root.Close()
	if err := shim.Signal(s.ctx(), "", unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	s.exit(shim)
}

func TestAnOutOfMemoryKillIsRecorded(t *testing.T) {
	s := newStage(t, 0)
	cfg := s.config("sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M; echo $?; sleep 0.2; exit 5")
	limit := int64(16 << 20)
	cfg.Spec.Linux.Resources = memoryLimit(limit)
	shim := s.start(cfg)
	if e := <-shim.Events(); e.Kind != EventOOM {
		t.Errorf("event %+v", e)
	}
	r := s.exit(shim)
	if !r.OOMKilled || r.Code != 5 {
		t.Errorf("%+v, log %q", r, s.logged(cfg))
	}
}

func memoryLimit(bytes int64) *oci.LinuxResources {
	return &oci.LinuxResources{Memory: &specs.LinuxMemory{Limit: &bytes, Swap: &bytes}}
}
