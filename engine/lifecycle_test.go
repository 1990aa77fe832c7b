package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"berth/fail"
	"berth/network"
	"berth/supervisor"
)

func autoRemove(r *CreateRequest) { r.HostConfig.AutoRemove = true }

func actions(f *fixture, since time.Time) []string {
	var out []string
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, e := range f.opt.Events.Subscribe(ctx, since, nil).History {
		out = append(out, e.Action)
	}
	return out
}

func receive(t *testing.T, c <-chan WaitResult) WaitResult {
	t.Helper()
	select {
	case r := <-c:
		return r
	case <-time.After(time.Minute):
		t.Fatal("the wait was never answered")
		return WaitResult{}
	}
}

func TestALifeFromCreateToRemoveIsToldInDockersOrder(t *testing.T) {
	f, begin := newFixture(t), time.Now()
	f.create("web", nil)
	f.start("web")
	if err := f.Containers.Stop(t.Context(), "web", StopOptions{}); err != nil {
		t.Fatal(err)
	}
	c, _ := f.Containers.Get("web")
	if c.State.Status != exited || c.State.ExitCode != 143 || c.State.Pid != 0 || c.State.FinishedAt.IsZero() {
		t.Errorf("after stop: %+v", c.State)
	}
	if err := f.Containers.Remove(t.Context(), "web", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	want := []string{"create", "connect", "start", "kill", "die", "disconnect", "stop", "destroy"}
	if got := actions(f, begin); !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	f.create("web", nil) // the name is free
}

func TestVerbsRefuseWhatTheStateForbids(t *testing.T) {
	f := newFixture(t)
	f.create("idle", nil)
	f.create("up", nil)
	f.start("up")
	f.create("frozen", nil)
	f.start("frozen")
	if err := f.Containers.Pause(t.Context(), "frozen"); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for _, c := range []struct {
		what  string
		err   error
		class fail.Class
		text  string
	}{
		{"start of a running one", f.Containers.Start(ctx, "up"), fail.NotModified, ""},
		{"start of a paused one", f.Containers.Start(ctx, "frozen"), fail.Conflict, "try unpause"},
		{"stop of a stopped one", f.Containers.Stop(ctx, "idle", StopOptions{}), fail.NotModified, ""},
		{"kill of a stopped one", f.Containers.Kill(ctx, "idle", ""), fail.Conflict, "is not running"},
		{"kill with a bad signal", f.Containers.Kill(ctx, "up", "SIGNOPE"), fail.Invalid, "invalid signal: SIGNOPE"},
		{"removal of a running one", f.Containers.Remove(ctx, "up", RemoveOptions{}), fail.Conflict, "stop the container before removing or force remove"},
		{"pause of a stopped one", f.Containers.Pause(ctx, "idle"), fail.Conflict, "is not running"},
		{"pause of a paused one", f.Containers.Pause(ctx, "frozen"), fail.Conflict, "already paused"},
		{"unpause of a running one", f.Containers.Unpause(ctx, "up"), fail.Conflict, "is not paused"},
		{"resize of a stopped one", f.Containers.Resize(ctx, "idle", 1, 1), fail.Conflict, "is not running"},
		{"an unknown one", f.Containers.Start(ctx, "nobody"), fail.NotFound, "No such container: nobody"},
		{"exec in a paused one", second(f.Execs.Create(ctx, "frozen", ExecRequest{Cmd: []string{"x"}})), fail.Conflict, "is paused, unpause"},
		{"exec in a stopped one", second(f.Execs.Create(ctx, "idle", ExecRequest{Cmd: []string{"x"}})), fail.Conflict, "is not running"},
		{"rename to a taken name", f.Containers.Rename(ctx, "idle", "up"), fail.Conflict, `The container name "/up" is already in use`},
		{"rename to its own name", f.Containers.Rename(ctx, "idle", "idle"), fail.Invalid, "same name"},
	} {
		if !fail.Is(c.err, c.class) || !strings.Contains(fmt.Sprint(c.err), c.text) {
			t.Errorf("%s: %v (%v)", c.what, c.err, fail.Of(c.err))
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestWaitIsAnsweredHoweverShortTheLife(t *testing.T) {
	f := newFixture(t)
	f.shims.onStart = func(s *fakeShim) { s.exit(9) } // over before Start answers
	for n := range 50 {
		id := f.create("", autoRemove)
		next, err := f.Containers.Wait(t.Context(), id, WaitNextExit)
		if err != nil {
			t.Fatal(err)
		}
		gone, err := f.Containers.Wait(t.Context(), id, WaitRemoved)
		if err != nil {
			t.Fatal(err)
		}
		f.start(id)
		for what, c := range map[string]<-chan WaitResult{"next-exit": next, "removed": gone} {
			if r := receive(t, c); r.ExitCode != 9 || r.Err != nil {
				t.Fatalf("round %d, %s: %+v", n, what, r)
			}
		}
		if _, err := f.Containers.Get(id); !fail.Is(err, fail.NotFound) {
			t.Fatalf("still there: %v", err)
		}
	}
}

func TestWaitConditions(t *testing.T) {
	f := newFixture(t)
	id := f.create("cc", nil)
	now, _ := f.Containers.Wait(t.Context(), id, "")
	if r := receive(t, now); r.ExitCode != 0 {
		t.Errorf("not-running of a created container: %+v", r)
	}
	f.start(id)
	running, _ := f.Containers.Wait(t.Context(), id, WaitNotRunning)
	f.shims.of(id).exit(3)
	if r := receive(t, running); r.ExitCode != 3 {
		t.Errorf("not-running: %+v", r)
	}
	next, _ := f.Containers.Wait(t.Context(), id, WaitNextExit)
	select {
	case r := <-next:
		t.Errorf("next-exit was answered for an exit that was over: %+v", r)
	default:
	}
	if _, err := f.Containers.Wait(t.Context(), id, "soon"); !fail.Is(err, fail.Invalid) {
		t.Errorf("unknown condition: %v", err)
	}
	f.Engine.Close()
	if r := receive(t, next); !fail.Is(r.Err, fail.Unavailable) {
		t.Errorf("after close: %+v", r)
	}
	f.open()
}

func TestAFailedStartIsRecordedAndGivesTheCodesOfTheShell(t *testing.T) {
	for _, c := range []struct {
		cause error
		code  int
		class fail.Class
	}{
		{fail.New(fail.NotFound, `exec: "nope": executable file not found in $PATH`), 127, fail.Invalid},
		{fail.New(fail.Forbidden, `exec: "/etc/passwd": permission denied`), 126, fail.Invalid},
		{errors.New("the kernel is in a bad mood"), 128, fail.Internal},
	} {
		t.Run(fmt.Sprint(c.code), func(t *testing.T) {
			f := newFixture(t)
			id := f.create("cc", nil)
			f.shims.startErr = c.cause
			err := f.Containers.Start(t.Context(), id)
			if !fail.Is(err, c.class) || !strings.HasSuffix(err.Error(), c.cause.Error()) {
				t.Errorf("%v (%v)", err, fail.Of(err))
			}
			got, _ := f.Containers.Get(id)
			if got.State.Status != created || got.State.ExitCode != c.code || got.State.Error != err.Error() {
				t.Errorf("%+v", got.State)
			}
			f.shims.startErr = nil
			f.start(id)

			rm := f.create("", autoRemove)
			gone, _ := f.Containers.Wait(t.Context(), rm, WaitRemoved)
			f.shims.startErr = c.cause
			if err := f.Containers.Start(t.Context(), rm); err == nil {
				t.Error("started")
			}
			if r := receive(t, gone); r.ExitCode != c.code {
				t.Errorf("--rm after a failed start: %+v", r)
			}
		})
	}
}

func TestStopEscalatesToKill(t *testing.T) {
	f := newFixture(t)
	id := f.create("stubborn", nil)
	f.shims.onStart = func(s *fakeShim) { s.mu.Lock(); s.ignoreTerm = true; s.mu.Unlock() }
	f.start(id)
	zero := 0
	if err := f.Containers.Stop(t.Context(), id, StopOptions{Timeout: &zero}); err != nil {
		t.Fatal(err)
	}
	if c, _ := f.Containers.Get(id); c.State.ExitCode != 137 {
		t.Errorf("%+v", c.State)
	}
}

func TestAShimThatVanishesLeavesADeadContainerWithAReason(t *testing.T) {
	f := newFixture(t)
	id := f.create("cc", nil)
	f.start(id)
	w, _ := f.Containers.Wait(t.Context(), id, WaitNotRunning)
	f.shims.of(id).vanish()
	if r := receive(t, w); r.ExitCode != 137 {
		t.Errorf("%+v", r)
	}
	if c, _ := f.Containers.Get(id); c.State.Error != supervisorLost {
		t.Errorf("%+v", c.State)
	}
}

func TestManualRestartOfARemovingContainerKeepsIt(t *testing.T) {
	f := newFixture(t)
	id := f.create("cc", autoRemove)
	f.start(id)
	if err := f.Containers.Restart(t.Context(), id, StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := f.status(id); s != running {
		t.Errorf("status %s", s)
	}
}

// handClock fires by hand.
type handClock struct {
	mu     sync.Mutex
	pauses []time.Duration
	fns    []func()
}

func (h *handClock) After(d time.Duration, fn func()) func() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pauses, h.fns = append(h.pauses, d), append(h.fns, fn)
	return func() {}
}

func (h *handClock) fire(t *testing.T, n int) {
	eventually(t, fmt.Sprintf("restart %d is planned", n), func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.fns) > n })
	h.mu.Lock()
	fn := h.fns[n]
	h.mu.Unlock()
	fn()
}

func TestRestartPolicyBacksOffAndCountsAndEndsWithAStop(t *testing.T) {
	f := newFixture(t)
	clock := &handClock{}
	f.life.clock = clock
	id := f.create("cc", func(r *CreateRequest) { r.HostConfig.RestartPolicy = container.RestartPolicy{Name: "always"} })
	f.start(id)
	for n := range 3 {
		f.shims.of(id).exit(1)
		clock.fire(t, n)
		if s := f.status(id); s != running {
			t.Fatalf("after restart %d: %s", n, s)
		}
	}
	if want := []time.Duration{100e6, 200e6, 400e6}; !slices.Equal(clock.pauses, want) {
		t.Errorf("pauses %v, want %v", clock.pauses, want)
	}
	if c, _ := f.Containers.Get(id); c.RestartCount != 3 {
		t.Errorf("count %d", c.RestartCount)
	}
	f.shims.of(id).exit(1)
	eventually(t, "restarting", func() bool { return f.status(id) == restarting })
	if err := f.Containers.Stop(t.Context(), id, StopOptions{}); err != nil {
		t.Fatal(err)
	}
	clock.fire(t, 3)
	if s := f.status(id); s != exited {
		t.Errorf("stopped while restarting: %s", s)
	}
	f.start(id)
	if c, _ := f.Containers.Get(id); c.RestartCount != 0 {
		t.Errorf("a start by hand keeps the count %d", c.RestartCount)
	}
	if err := f.Containers.Kill(t.Context(), id, "KILL"); err != nil {
		t.Fatal(err)
	}
	if s := f.status(id); s != exited {
		t.Errorf("killed: %s", s)
	}
}

func TestWhoWaitsWhileAContainerIsRestartingIsToldThatItDoesNot(t *testing.T) {
	for what, end := range map[string]func(f *fixture, id string) error{
		"it is stopped": func(f *fixture, id string) error { return f.Containers.Stop(f.t.Context(), id, StopOptions{}) },
		"it is killed":  func(f *fixture, id string) error { return f.Containers.Kill(f.t.Context(), id, "") },
		"its policy gives up": func(f *fixture, id string) error {
			f.shims.makeErr = errors.New("the kernel is in a bad mood")
			f.life.clock.(*handClock).fire(f.t, 0)
			return nil
		},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t)
			f.life.clock = &handClock{}
			id := f.create("cc", func(r *CreateRequest) {
				r.HostConfig.RestartPolicy = container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 1}
			})
			f.start(id)
			f.shims.of(id).exit(7)
			eventually(t, "restarting", func() bool { return f.status(id) == restarting })
			over, _ := f.Containers.Wait(t.Context(), id, WaitNotRunning)
			next, _ := f.Containers.Wait(t.Context(), id, WaitNextExit)
			if err := end(f, id); err != nil {
				t.Fatal(err)
			}
			c, _ := f.Containers.Get(id)
			for what, told := range map[string]<-chan WaitResult{"not-running": over, "next-exit": next} {
				if r := receive(t, told); r.ExitCode != c.State.ExitCode || r.Err != nil {
					t.Errorf("%s: %+v, want %d", what, r, c.State.ExitCode)
				}
			}
		})
	}
}

func TestRestartPolicies(t *testing.T) {
	for _, c := range []struct {
		policy      container.RestartPolicy
		code, count int
		manual      bool
		want        bool
	}{
		{container.RestartPolicy{}, 1, 0, false, false},
		{container.RestartPolicy{Name: "no"}, 1, 0, false, false},
		{container.RestartPolicy{Name: "always"}, 0, 9, false, true},
		{container.RestartPolicy{Name: "unless-stopped"}, 0, 0, false, true},
		{container.RestartPolicy{Name: "unless-stopped"}, 0, 0, true, false},
		{container.RestartPolicy{Name: "on-failure"}, 0, 0, false, false},
		{container.RestartPolicy{Name: "on-failure"}, 2, 99, false, true},
		{container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 3}, 2, 2, false, true},
		{container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 3}, 2, 3, false, false},
		{container.RestartPolicy{Name: "on-unhealthy"}, 0, 0, false, false},
		{container.RestartPolicy{Name: "on-unhealthy"}, 2, 99, false, true},
		{container.RestartPolicy{Name: "on-unhealthy", MaximumRetryCount: 3}, 2, 3, false, false},
	} {
		if got := wantsRestart(c.policy, c.code != 0, c.count, c.manual); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestANewEngineGoesOnWithWhatTheOldOneLeft(t *testing.T) {
	f := newFixture(t)
	up := f.create("up", nil)
	f.start(up)
	exec, err := f.Execs.Create(t.Context(), up, ExecRequest{Cmd: []string{"sleep", "9"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Execs.Start(t.Context(), exec, ExecStart{Detach: true}, nil); err != nil {
		t.Fatal(err)
	}
	ended := f.create("ended", nil)
	f.start(ended)
	lost := f.create("lost", nil)
	f.start(lost)
	rm := f.create("rm", autoRemove)
	f.start(rm)
	idle := f.create("idle", autoRemove)
	always := f.create("always", func(r *CreateRequest) { r.HostConfig.RestartPolicy.Name = "always" })
	f.start(always)
	f.crash()

	f.shims.of(ended).exit(7)
	f.shims.of(rm).exit(0)
	f.shims.of(lost).vanish()
	f.shims.of(always).exit(1)
	if err := os.MkdirAll(filepath.Join(f.opt.DataRoot, "containers", "feedbeef", "upper"), 0o700); err != nil {
		t.Fatal(err)
	}
	f.open()

	if s := f.status(up); s != running {
		t.Errorf("up is %s", s)
	}
	if e, err := f.Execs.Get(t.Context(), exec); err != nil || !e.Running || e.Request.Cmd[0] != "sleep" {
		t.Errorf("exec %+v, %v", e, err)
	}
	if c, _ := f.Containers.Get(ended); c.State.Status != exited || c.State.ExitCode != 7 {
		t.Errorf("ended: %+v", c.State)
	}
	if c, _ := f.Containers.Get(lost); c.State.Status != exited || c.State.ExitCode != 137 || c.State.Error != supervisorLost {
		t.Errorf("lost: %+v", c.State)
	}
	eventually(t, "the --rm container is removed", func() bool { return f.status(rm) == "none" })
	if s := f.status(idle); s != created {
		t.Errorf("a --rm container that never ran is %s", s)
	}
	eventually(t, "always runs again", func() bool { return f.status(always) == running })
	eventually(t, "debris is gone", func() bool {
		_, err := os.Stat(filepath.Join(f.opt.DataRoot, "containers", "feedbeef"))
		return os.IsNotExist(err)
	})
	f.shims.of(up).exit(0)
	eventually(t, "the exit of a container that was taken over is seen", func() bool { return f.status(up) == exited })

	f.crash()
	f.open()
	if c, _ := f.Containers.Get(ended); c.State.ExitCode != 7 {
		t.Errorf("ended, once more: %+v", c.State)
	}
}

func TestASignalThatComesBeforeTheStartIsAnsweredReachesTheContainer(t *testing.T) {
	f := newFixture(t)
	for name, end := range map[string]func(id string) error{
		"kill": func(id string) error { return f.Containers.Kill(t.Context(), id, "KILL") },
		"stop": func(id string) error { return f.Containers.Stop(t.Context(), id, StopOptions{}) },
	} {
		id := f.create(name, nil)
		ended := make(chan error, 1)
		f.shims.onStart = func(*fakeShim) {
			go func() { ended <- end(id) }()
			select {
			case err := <-ended:
				t.Errorf("%s is answered before the start: %v", name, err)
				ended <- err
			case <-time.After(50 * time.Millisecond):
			}
		}
		f.start(id)
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		eventually(t, name+" has ended it", func() bool { return f.status(id) == exited })
	}
}

func TestAnEngineAfterARebootStartsWhatThePoliciesSay(t *testing.T) {
	f := newFixture(t)
	with := func(p container.RestartPolicyMode) func(*CreateRequest) {
		return func(r *CreateRequest) { r.HostConfig.RestartPolicy.Name = p }
	}
	plain := f.create("plain", nil)
	always := f.create("always", with("always"))
	unless := f.create("unless", with("unless-stopped"))
	never := f.create("never-started", with("always"))
	for _, id := range []string{plain, always, unless} {
		f.start(id)
	}
	for _, id := range []string{always, unless} {
		if err := f.Containers.Stop(t.Context(), id, StopOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range f.life.idx.all() {
		i.mu.Lock()
		i.boot = "another boot"
		i.mu.Unlock()
		if err := f.rec.save(i); err != nil {
			t.Fatal(err)
		}
	}
	f.crash()
	f.shims.of(plain).vanish()
	if err := supervisor.RemoveExit(filepath.Join(f.opt.DataRoot, "containers", plain)); err != nil { // the power went first
		t.Fatal(err)
	}
	half := filepath.Join(f.opt.DataRoot, "containers", plain, ".tmp-exit.json-1")
	if err := os.WriteFile(half, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.open()
	if _, err := os.Stat(half); err == nil {
		t.Error("what a shim had begun to write is left")
	}
	if c, _ := f.Containers.Get(plain); c.State.Status != exited || c.State.ExitCode != 255 {
		t.Errorf("plain: %+v", c.State)
	}
	eventually(t, "always runs", func() bool { return f.status(always) == running })
	for _, id := range []string{unless, never} {
		if s := f.status(id); s == running || s == restarting {
			t.Errorf("%s is %s", id, s)
		}
	}
}

// What a power failure takes back is what was not flushed: the deletion of an exit record, a
// directory's name.
func TestAnEngineAfterAPowerFailureBelievesNoOldExitRecord(t *testing.T) {
	f := newFixture(t)
	id := f.create("me", nil)
	dir := filepath.Join(f.opt.DataRoot, "containers", id)
	f.start(id)
	f.shims.of(id).exit(3)
	eventually(t, "it has ended", func() bool { return f.status(id) == exited })
	old, err := os.ReadFile(filepath.Join(dir, "exit.json"))
	if err != nil {
		t.Fatal(err)
	}
	f.start(id)
	i := f.life.idx.all()[0]
	i.mu.Lock()
	i.boot = "another boot"
	i.mu.Unlock()
	if err := f.rec.save(i); err != nil {
		t.Fatal(err)
	}
	f.crash()
	f.shims.of(id).vanish()
	if err := os.WriteFile(filepath.Join(dir, "exit.json"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	f.open()
	if c, _ := f.Containers.Get(id); c.State.Status != exited || c.State.ExitCode != 255 {
		t.Errorf("after the power failure: %+v", c.State)
	}
	i = f.life.idx.all()[0]
	i.mu.Lock()
	i.boot = "another boot"
	i.mu.Unlock()
	if err := f.rec.save(i); err != nil {
		t.Fatal(err)
	}
	f.crash()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	f.open()
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != containerDirMode {
		t.Errorf("the container's directory: %v %v", info, err)
	}
}

func TestAStartIsDurableWhereTheNextBootNeedsToKnow(t *testing.T) {
	f := newFixture(t)
	for _, policy := range []container.RestartPolicyMode{"always", "unless-stopped", "on-failure"} {
		id := f.create(string(policy), func(r *CreateRequest) { r.HostConfig.RestartPolicy.Name = policy })
		f.start(id)
		records, _, err := f.rec.load()
		if err != nil {
			t.Fatal(err)
		}
		if !restartAtOpen(records[id], true) {
			t.Errorf("%s: a boot right after the start would not start it", policy)
		}
	}
}

// The record of a --rm container does not outlive the exec root, nor does anything else of it.
func TestPowerLossTakesContainersThatRemoveThemselves(t *testing.T) {
	f := newFixture(t)
	rm, kept := f.create("rm", autoRemove), f.create("kept", nil)
	if err := f.Containers.Rename(t.Context(), rm, "renamed"); err != nil {
		t.Fatal(err)
	}
	f.crash()
	f.open()
	if s := f.status("renamed"); s != created {
		t.Errorf("after a crash of the engine the --rm container is %s", s)
	}
	f.crash()
	if err := os.RemoveAll(f.opt.ExecRoot); err != nil {
		t.Fatal(err)
	}
	f.open()
	if s := f.status(rm); s != "none" {
		t.Errorf("after a power loss the --rm container is %s", s)
	}
	if s := f.status(kept); s != created {
		t.Errorf("after a power loss the other one is %s", s)
	}
	f.create("renamed", nil) // the name is free
	eventually(t, "its directory is gone", func() bool {
		_, err := os.Stat(filepath.Join(f.opt.DataRoot, "containers", rm))
		return os.IsNotExist(err)
	})
}

func TestExecRunsOnceAndIsRemembered(t *testing.T) {
	f := newFixture(t)
	id := f.create("cc", func(r *CreateRequest) {
		r.Config.Env = []string{"A=1"}
		r.Config.User = "7"
		r.Config.WorkingDir = "/w"
	})
	f.start(id)
	exec, err := f.Execs.Create(t.Context(), "cc", ExecRequest{Cmd: []string{"id"}, Env: []string{"A=2", "B=3"}, Tty: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Execs.Start(t.Context(), exec, ExecStart{Detach: true}, nil); err != nil {
		t.Fatal(err)
	}
	s := f.shims.of(id)
	got := s.execs[0]
	if want := []string{"PATH=/bin", "HOSTNAME=" + id[:12], "TERM=xterm", "A=2", "B=3"}; !slices.Equal(got.Process.Env, want) || got.User != "7" || got.Process.Cwd != "/w" {
		t.Errorf("%+v %+v", got, got.Process)
	}
	if c, _ := f.Containers.Get(id); !slices.Equal(c.ExecIDs, []string{exec}) {
		t.Errorf("ExecIDs %v", c.ExecIDs)
	}
	if err := f.Execs.Start(t.Context(), exec, ExecStart{Detach: true}, nil); !fail.Is(err, fail.Conflict) {
		t.Errorf("second start: %v", err)
	}
	s.mu.Lock()
	s.state.Execs[exec] = supervisor.ExecState{ExitCode: 4}
	s.mu.Unlock()
	// The event has not come, yet a client that asks learns the code.
	if e, err := f.Execs.Get(t.Context(), exec); err != nil || e.Running || e.ExitCode == nil || *e.ExitCode != 4 {
		t.Errorf("%+v %v", e, err)
	}
	s.execErr = fail.New(fail.NotFound, `exec: "nope": executable file not found in $PATH`)
	bad, _ := f.Execs.Create(t.Context(), "cc", ExecRequest{Cmd: []string{"nope"}})
	if err := f.Execs.Start(t.Context(), bad, ExecStart{Detach: true}, nil); !fail.Is(err, fail.Invalid) {
		t.Errorf("%v", err)
	}
	if e, _ := f.Execs.Get(t.Context(), bad); e.ExitCode == nil || *e.ExitCode != 127 {
		t.Errorf("%+v", e)
	}
}

// A client that leaves while it is being attached cancels its own request, if it is spoken with
// by WebSocket. What it has said counts.
func TestAClientThatLeavesWhileItIsAttachedIsHeard(t *testing.T) {
	f := newFixture(t)
	id := f.create("cc", nil)
	f.start("cc")
	hijack, _ := pipe(t)
	ctx, leave := context.WithCancel(t.Context())
	err := f.Containers.Attach(ctx, id, AttachOptions{Stdin: true, Stream: true}, func() (net.Conn, []byte, error) {
		leave()
		return hijack()
	})
	if n := len(f.shims.of(id).attached); err != nil || n != 1 {
		t.Errorf("%d attached, %v", n, err)
	}
}

func TestTheConnectionOfAClientThatCannotBeAttachedIsClosed(t *testing.T) {
	f := newFixture(t)
	id := f.create("cc", nil)
	f.start("cc")
	f.shims.of(id).attachErr = errors.New("too many")
	hijack, client := pipe(t)
	if err := f.Containers.Attach(t.Context(), id, AttachOptions{Stdout: true, Stream: true}, hijack); err == nil {
		t.Error("attached")
	}
	_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("%d %v", n, err)
	}
}

// A storm of verbs on few containers must end in states of the table, with nothing
// waiting for ever and nothing left on disk of what was removed.
func TestStormOfVerbs(t *testing.T) {
	f := newFixture(t)
	f.shims.onStart = func(s *fakeShim) {
		if rand.IntN(3) == 0 {
			go s.exit(rand.IntN(3))
		}
	}
	names := []string{"aa", "bb", "cc"}
	f.nets.add(network.Network{Name: "mine"})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var g sync.WaitGroup
	zero := 0
	for w := range 8 {
		g.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for range 60 {
				n := names[r.IntN(len(names))]
				switch r.IntN(12) {
				case 0, 1:
					_, _, _ = f.Containers.Create(ctx, CreateRequest{Name: n, Config: &container.Config{Image: "busybox"},
						HostConfig: &container.HostConfig{AutoRemove: r.IntN(2) == 0, PublishAllPorts: true}})
				case 2, 3, 4:
					_ = f.Containers.Start(ctx, n)
				case 5:
					_ = f.Containers.Stop(ctx, n, StopOptions{Timeout: &zero})
				case 6:
					_ = f.Containers.Remove(ctx, n, RemoveOptions{Force: r.IntN(2) == 0})
				case 7:
					_ = f.Containers.Restart(ctx, n, StopOptions{Timeout: &zero})
				case 8:
					_ = f.Containers.Kill(ctx, n, "")
				case 9:
					_ = f.Containers.Connect(ctx, n, "mine", nil)
				case 10:
					_ = f.Containers.Disconnect(ctx, n, []string{"mine", "bridge"}[r.IntN(2)], false)
				case 11:
					_ = f.Containers.Rename(ctx, n, names[r.IntN(len(names))])
				}
				_ = f.Containers.List()
			}
		})
	}
	g.Wait()
	if ctx.Err() != nil {
		t.Fatal("the storm did not end")
	}
	for _, c := range f.Containers.List() {
		err := f.Containers.Remove(ctx, c.ID, RemoveOptions{Force: true})
		if err != nil && !fail.Is(err, fail.NotFound) && !strings.Contains(err.Error(), "already in progress") { // by itself
			t.Error(err)
		}
	}
	eventually(t, "nothing is left", func() bool {
		entries, _ := os.ReadDir(filepath.Join(f.opt.DataRoot, "containers"))
		return len(entries) == 0 && !f.Busy() && len(f.Containers.List()) == 0
	})
	eventually(t, "no shim lives on", func() bool {
		f.shims.mu.Lock()
		defer f.shims.mu.Unlock()
		return len(f.shims.living) == 0
	})
	eventually(t, "no sandboxes are left", func() bool { return len(f.nets.Sandboxes()) == 0 })
}

func TestTheEndOfTheMachineEndsContainersInOrderAndTheNextBootBringsThemBack(t *testing.T) {
	f := newFixture(t)
	uses := func(mode container.NetworkMode, p container.RestartPolicyMode) func(*CreateRequest) {
		return func(r *CreateRequest) { r.HostConfig.NetworkMode, r.HostConfig.RestartPolicy.Name = mode, p }
	}
	f.create("db", uses("none", "unless-stopped"))
	f.start("db")
	f.create("app", uses("container:db", "on-failure"))
	f.start("app")
	f.create("web", uses("container:db", ""))
	f.start("web")
	f.create("sidecar", func(r *CreateRequest) {
		r.HostConfig.NetworkMode, r.HostConfig.VolumesFrom = "none", []string{"app:ro"}
	})
	f.start("sidecar")
	f.create("once", autoRemove)
	f.start("once")
	f.create("stopped", uses("none", "unless-stopped"))
	f.start("stopped")
	if err := f.Containers.Stop(t.Context(), "stopped", StopOptions{}); err != nil {
		t.Fatal(err)
	}
	f.crash()
	begin := time.Now()
	f.opt.Ending = true
	f.open()
	if err := f.EndAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := f.status("once"); got != "none" {
		t.Errorf("the --rm container is %s", got)
	}
	died := map[string]int{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for at, e := range f.opt.Events.Subscribe(ctx, begin, nil).History {
		if e.Action == "die" && e.Attrs["name"] != "stopped" { // which may be told of a moment later
			died[e.Attrs["name"]] = at + 1
		}
	}
	if len(died) != 5 || died["app"] > died["db"] || died["web"] > died["db"] || died["sidecar"] > died["app"] {
		t.Errorf("they ended in the order %v", died)
	}
	f.Close()

	f.opt.Ending = false
	f.open()
	for name, want := range map[string]string{"db": running, "app": running, "web": exited, "sidecar": exited, "stopped": exited} {
		eventually(t, name+" is "+want, func() bool { return f.status(name) == want })
	}
	if c, _ := f.Containers.Get("db"); c.RestartCount != 0 {
		t.Errorf("the end of the machine counts as %d failures", c.RestartCount)
	}
}

func TestABootStartsContainersAfterThoseThatTheyNeed(t *testing.T) {
	// town is db, who lives in its network, and who uses the volumes of one of those.
	town := func(t *testing.T) (f *fixture, names []string) {
		t.Helper()
		f = newFixture(t)
		add := func(name string, change func(h *container.HostConfig)) {
			f.create(name, func(r *CreateRequest) { r.HostConfig.RestartPolicy.Name = "always"; change(r.HostConfig) })
			f.start(name)
			names = append(names, name)
		}
		add("db", func(*container.HostConfig) {})
		for n := range 4 {
			add(fmt.Sprintf("app%d", n), func(h *container.HostConfig) { h.NetworkMode = "container:db" })
		}
		add("sidecar", func(h *container.HostConfig) { h.VolumesFrom = []string{"app3"} })
		if err := f.EndAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.Close()
		return f, names
	}
	count := func(f *fixture, name string) int { c, _ := f.Containers.Get(name); return c.RestartCount }
	all := func(f *fixture, names []string, status string) {
		t.Helper()
		for _, name := range names {
			eventually(t, name+" is "+status, func() bool { return f.status(name) == status })
		}
	}
	t.Run("in order, at the first attempt", func(t *testing.T) {
		f, names := town(t)
		i, _ := f.life.idx.find("db")
		db := i.id
		f.shims.onStart = func(s *fakeShim) {
			if s.cfg.ID == db {
				time.Sleep(50 * time.Millisecond) // who does not wait fails meanwhile
			}
		}
		f.open()
		all(f, names, running)
		started := map[string]time.Time{}
		for _, name := range names {
			c, _ := f.Containers.Get(name)
			started[name] = c.State.StartedAt
			if c.RestartCount != 0 {
				t.Errorf("%s took %d attempts more", name, c.RestartCount)
			}
		}
		if started["app3"].Before(started["db"]) || started["sidecar"].Before(started["app3"]) {
			t.Errorf("started at %v", started)
		}
	})
	t.Run("and if that cannot be started they are tried nonetheless", func(t *testing.T) {
		f, names := town(t)
		f.shims.makeErr = errors.New("no")
		f.open()
		for _, name := range names {
			eventually(t, name+" is tried", func() bool { return count(f, name) > 0 })
		}
		f.shims.mu.Lock()
		f.shims.makeErr = nil
		f.shims.mu.Unlock()
		all(f, names, running)
	})
	t.Run("who is stopped while it waits stays stopped", func(t *testing.T) {
		f, _ := town(t)
		hold := make(chan struct{})
		f.shims.onStart = func(*fakeShim) { <-hold }
		f.open()
		if err := f.Containers.Stop(t.Context(), "app0", StopOptions{}); err != nil {
			t.Fatal(err)
		}
		close(hold)
		all(f, []string{"db", "app1", "app2", "app3", "sidecar"}, running)
		all(f, []string{"app0"}, exited)
	})
}

func TestContainersThatDependOnEachOtherInACircleEndToo(t *testing.T) {
	f := newFixture(t)
	f.create("one", nil)
	f.create("two", func(r *CreateRequest) { r.HostConfig.NetworkMode, r.HostConfig.VolumesFrom = "none", []string{"one"} })
	i, _ := f.life.idx.find("one")
	h := *i.now().HostConfig
	h.VolumesFrom = []string{"two"}
	i.setHostConfig(&h)
	f.start("one")
	f.start("two")
	if err := f.EndAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, b := f.status("one"), f.status("two"); a != exited || b != exited {
		t.Errorf("they are %s and %s", a, b)
	}
}

func TestAPlannedRestartIsOffWhenTheMachineEnds(t *testing.T) {
	f := newFixture(t)
	id := f.create("flaps", func(r *CreateRequest) { r.HostConfig.RestartPolicy.Name = "always" })
	f.life.clock = &handClock{}
	f.start(id)
	f.shims.of(id).exit(1)
	eventually(t, "a restart is planned", func() bool { return f.status(id) == restarting })
	if err := f.EndAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := f.status(id); s != exited {
		t.Errorf("it is %s", s)
	}
	f.Close()
	f.open()
	eventually(t, "the next boot starts it", func() bool { return f.status(id) == running })
}
