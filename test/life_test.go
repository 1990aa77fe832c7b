package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/durable"
	"berth/testkit"
)

// lives are what a container has written at each of its starts to a file on the host. No
// client is needed to read it, and so no engine.
type lives struct {
	t    *testing.T
	file string
}

// liver is an engine with a directory that containers have as /host.
func liver(t *testing.T, o testkit.EngineOptions) (*testkit.Engine, lives, []string) {
	e := testkit.StartEngine(t, o)
	e.Busybox()
	dir := filepath.Join(e.Dir, "host")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return e, lives{t, filepath.Join(dir, "lives")}, []string{"run", "-d", "--network", "none", "-v", dir + ":/host"}
}

// starts are the moments of the starts so far.
func (l lives) starts() (at []time.Time) {
	data, _ := os.ReadFile(l.file) // none yet
	for line := range strings.Lines(string(data)) {
		seconds, fraction, _ := strings.Cut(strings.TrimSpace(line), ".")
		s, err := strconv.ParseInt(seconds, 10, 64)
		if err != nil {
			l.t.Fatalf("%q: %v", line, err)
		}
		hundredths, _ := strconv.ParseInt(fraction, 10, 64)
		at = append(at, time.Unix(s, hundredths*10e6))
	}
	return at
}

// await waits for the start number n.
func (l lives) await(n int) []time.Time {
	l.t.Helper()
	testkit.Eventually(l.t, "start number "+strconv.Itoa(n), func() bool { return len(l.starts()) >= n })
	return l.starts()
}

// living is a command that notes its start and goes on with what follows.
func living(rest string) []string {
	return []string{"busybox", "sh", "-c", `cut -d" " -f1 /proc/uptime >> /host/lives; ` + rest}
}

// end kills a container's process without the engine.
func end(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err == nil {
		err = syscall.Kill(n, syscall.SIGKILL)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestPoliciesActWithoutTheEngine(t *testing.T) {
	for _, name := range []string{"berth", "runc"} {
		if name != "berth" {
			testkit.NeedTool(t, name)
		}
		for _, policy := range []string{"always", "unless-stopped", "on-failure:5", "on-unhealthy"} {
			t.Run(name+" "+policy, func(t *testing.T) {
				e, lives, run := liver(t, testkit.EngineOptions{Runtime: name})
				id := e.Must(append(append(run, "--restart", policy), living("exec sleep 1000")...)...)
				lives.await(1)
				pid := e.Must("inspect", "-f", "{{.State.Pid}}", id)
				e.Kill()
				since := time.Now()
				end(t, pid)
				lives.await(2)
				t.Logf("it runs again after %s", time.Since(since))
				testkit.Eventually(t, "it is told", func() bool {
					return e.Must("inspect", "-f", "{{.State.Running}} {{.RestartCount}}", id) == "true 1"
				})
			})
		}
	}
}

func TestAPauseBeforeARestartSurvivesTheEngine(t *testing.T) {
	e, lives, run := liver(t, testkit.EngineOptions{})
	id := e.Must(append(append(run, "--restart", "always"), living("exit 3")...)...)
	// 100, 200, 400, 800: the next pause is of 1.6 seconds.
	lives.await(5)
	n := 0 // starts, of which the next comes after a pause of at least 1.6 seconds
	testkit.Eventually(t, "it pauses", func() bool {
		state := e.Must("inspect", "-f", "{{.State.Status}} {{.RestartCount}}", id)
		_, err := fmt.Sscanf(state, "restarting %d", &n)
		return err == nil && n >= 5
	})
	e.Kill()
	starts := lives.await(n + 1)
	// The pauses grow on.
	for k, least := n, 1500*time.Millisecond; k < len(starts); k, least = k+1, 2*least {
		if pause := starts[k].Sub(starts[k-1]); pause < least {
			t.Errorf("the container was started for the %d. time after %s", k+1, pause)
		}
	}
	e.Must("rm", "-f", id)
}

func TestAStopEndsAPause(t *testing.T) {
	e, lives, run := liver(t, testkit.EngineOptions{})
	id := e.Must(append(append(run, "--restart", "always"), living("exit 3")...)...)
	lives.await(3)
	testkit.Eventually(t, "it pauses", func() bool { return e.Must("inspect", "-f", "{{.State.Status}}", id) == "restarting" })
	e.Must("stop", id)
	n := len(lives.starts())
	if s := e.Must("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", id); s != "exited 3" {
		t.Errorf("it is %s", s)
	}
	e.Must("start", id)
	lives.await(n + 1)
	c, err := strconv.Atoi(e.Must("inspect", "-f", "{{.RestartCount}}", id))
	if after := len(lives.starts()) - n; err != nil || c > after {
		t.Errorf("restarts are counted from the start by hand: %d, %v, of %d starts since", c, err, after)
	}
	e.Must("rm", "-f", id)
}

func TestUpdateOfThePolicyTakesEffectAtOnce(t *testing.T) {
	e, lives, run := liver(t, testkit.EngineOptions{})
	id := e.Must(append(run, living("exec sleep 1000")...)...)
	wakes := func() bool {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(e.ExecRoot, "containers", id, "state.json"))
		if err != nil {
			t.Fatal(err)
		}
		var state struct{ WakeEngine []string }
		if err := json.Unmarshal(data, &state); err != nil {
			t.Fatal(err)
		}
		return len(state.WakeEngine) > 0
	}
	if wakes() {
		t.Error("a container without a policy wakes the engine")
	}
	e.Must("update", "--restart", "always", id)
	e.Must("update", "--restart", "no", id)
	if wakes() {
		t.Error("a container whose policy was taken away wakes the engine")
	}
	e.Must("update", "--restart", "unless-stopped", id)
	if !wakes() {
		t.Error("a container that was given a policy does not wake the engine")
	}
	lives.await(1)
	pid := e.Must("inspect", "-f", "{{.State.Pid}}", id)
	e.Kill()
	end(t, pid)
	lives.await(2)
	if r := e.Berth("update", "--restart", "sometimes", id); r.Code == 0 || !strings.Contains(r.Stderr, "sometimes") {
		t.Errorf("an unknown policy: %+v", r)
	}
	e.Must("rm", "-f", id)
}

func TestAnUnhealthyContainerIsStartedAgain(t *testing.T) {
	e, lives, run := liver(t, testkit.EngineOptions{})
	well := filepath.Join(filepath.Dir(lives.file), "well")
	unwell := func(ill bool) {
		t.Helper()
		err := os.WriteFile(well, nil, 0o644)
		if ill {
			err = os.Remove(well)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	unwell(false)
	// It ends with 0: by its exit code nothing has failed. The restart cures it, unless it is told to stay
	// ill; nobody else would be sure to do that before the next probes.
	stayIll := filepath.Join(filepath.Dir(lives.file), "stay-ill")
	id := e.Must(append(append(run, "--name", "web", "--restart", "on-unhealthy:2", "--health-cmd", "test -e /host/well", "--health-interval", "200ms", "--health-retries", "3"),
		"busybox", "sh", "-c", `[ -e /host/stay-ill ] || : > /host/well; cut -d" " -f1 /proc/uptime >> /host/lives; trap 'exit 0' TERM; while :; do sleep 0.05; done`)...)
	becomes(t, e, id, "healthy")
	since := time.Now()
	unwell(true)
	lives.await(2)
	becomes(t, e, id, "healthy")
	if got := e.Must("inspect", "-f", "{{.RestartCount}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}", id); got != "1 on-unhealthy 2" {
		t.Errorf("after one restart: %s", got)
	}
	order := slices.DeleteFunc(actions(e, since, id), func(a string) bool { return strings.HasPrefix(a, "exec_") })
	want := []string{"health_status: unhealthy", "kill", "die", "start", "health_status: healthy"}
	if n := len(order); n < len(want) || !slices.Equal(order[n-len(want):], want) {
		t.Errorf("events: %q", order)
	}

	// Without the engine, the shim calls for one.
	e.Kill()
	write(t, stayIll, "")
	unwell(true)
	lives.await(3)
	testkit.Eventually(t, "the second restart is counted", func() bool {
		return e.Must("inspect", "-f", "{{.RestartCount}} {{.State.Running}}", id) == "2 true"
	})
	// That was the last one: it stays, unhealthy.
	h := becomes(t, e, id, "unhealthy")
	testkit.Eventually(t, "probes go on", func() bool { return health(t, e, id).FailingStreak > h.FailingStreak+2 })
	if n := len(lives.starts()); n != 3 {
		t.Errorf("%d starts", n)
	}
	e.Must("update", "--restart", "on-unhealthy", id)
	lives.await(4)
	unwell(false)
	becomes(t, e, id, "healthy")
	e.Must("stop", id)
	if s := e.Must("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", id); s != "exited 0" {
		t.Errorf("stopped by hand it is %s", s)
	}
	if r := e.Berth("create", "--restart", "on-unhealthy", "busybox", "true"); r.Code != 0 || !strings.Contains(r.Stderr, "without a health check") {
		t.Errorf("the policy without a health check: %+v", r)
	}
	if r := e.Berth("create", "--restart", "on-unhealthy:-1", "busybox", "true"); r.Code == 0 {
		t.Errorf("negative retries: %+v", r)
	}
}

func TestEachKillForMemoryIsToldOnce(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	const eat = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"
	for _, c := range []struct {
		name, script, end string
		kills             int
	}{
		{"two children", "sh -c '" + eat + "'; sh -c '" + eat + "'; exit 4", "4 true", 2},
		{"the main process", "exec sh -c '" + eat + "'", "137 true", 1},
		{"nobody", "exit 0", "0 false", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			since := time.Now()
			id := e.Must("run", "-d", "--network", "none", "--memory", "16m", "--memory-swap", "16m", "busybox", "sh", "-c", c.script)
			e.Must("wait", id)
			if got := e.Must("inspect", "-f", "{{.State.ExitCode}} {{.State.OOMKilled}}", id); got != c.end {
				t.Errorf("exit code and OOMKilled: %s, want %s", got, c.end)
			}
			told := actions(e, since, id)
			n := len(slices.DeleteFunc(slices.Clone(told), func(a string) bool { return a != "oom" }))
			if n != c.kills || told[len(told)-1] != "die" {
				t.Errorf("events %q, want %d of oom before the last", told, c.kills)
			}
		})
	}
}

// actions are the events of a container since a moment.
func actions(e *testkit.Engine, since time.Time, id string) []string {
	return strings.Split(e.Must("events", "--since", strconv.FormatInt(since.Unix()-1, 10), "--until", strconv.FormatInt(time.Now().Unix()+1, 10),
		"--filter", "container="+id, "--filter", "type=container", "--format", "{{.Action}}"), "\n")
}

// powerLoss ends all at one instant and leaves what a machine finds on its disk when it is
// switched on again.
func powerLoss(t *testing.T, e *testkit.Engine) {
	t.Helper()
	stop := func() { // nobody writes an exit record
		for _, p := range e.Shims() {
			if err := syscall.Kill(p, syscall.SIGSTOP); err != nil && err != syscall.ESRCH {
				t.Fatal(err)
			}
		}
	}
	stop()
	e.Kill()
	stop() // those that it had just started
	groups := func() (dirs []string) {
		for _, hierarchy := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup"} {
			found, _ := filepath.Glob(hierarchy + e.CgroupParent + "/*/cgroup.procs")
			for _, f := range found {
				dirs = append(dirs, filepath.Dir(f))
			}
		}
		return dirs
	}
	testkit.Eventually(t, "all is dead", func() bool {
		left := e.Shims()
		for _, dir := range groups() {
			text, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			for _, word := range strings.Fields(string(text)) {
				if p, err := strconv.Atoi(word); err == nil && p > 0 {
					left = append(left, p)
				}
			}
		}
		for _, p := range left {
			_ = syscall.Kill(p, syscall.SIGKILL)
		}
		return len(left) == 0
	})
	for _, dir := range groups() {
		_ = syscall.Rmdir(dir)
	}
	entries, err := os.ReadDir(e.ExecRoot)
	for _, f := range entries {
		if err == nil {
			err = os.RemoveAll(filepath.Join(e.ExecRoot, f.Name()))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	db, err := durable.OpenDB(filepath.Join(e.DataRoot, "berth.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(tx *durable.Tx) error {
		records := map[string]map[string]any{}
		err := tx.ForEach("containers", func(id string, data []byte) error {
			var record map[string]any
			records[id] = record
			if err := json.Unmarshal(data, &record); err != nil {
				return err
			}
			record["boot"], records[id] = "an earlier one", record
			return nil
		})
		for id, record := range records {
			if err == nil {
				err = tx.Put("containers", id, record)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPoliciesAfterAPowerLoss(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	type life struct{ name, policy, before, after string }
	lives := []life{
		{"plain", "no", "", "exited 255"},
		{"always", "always", "", "running 0"},
		{"unless-stopped", "unless-stopped", "", "running 0"},
		{"on-failure", "on-failure", "", "running 0"},
		{"on-unhealthy", "on-unhealthy", "", "running 0"},
		{"always-stopped", "always", "stop", "running 0"},
		{"unless-stopped-stopped", "unless-stopped", "stop", "exited 143"},
		{"on-failure-stopped", "on-failure", "stop", "exited 143"},
		{"never-started", "always", "create", "created 0"},
	}
	for _, l := range lives {
		verb := []string{"run", "-d", "--init"}
		if l.before == "create" {
			verb = []string{"create"}
		}
		e.Must(slices.Concat(verb, []string{"--network", "none", "--name", l.name, "--restart", l.policy, "busybox", "sh", "-c", "echo ready; exec sleep 1000"})...)
		if l.before == "stop" { // before it is ready its init hears no signal
			testkit.Eventually(t, l.name+" is ready", func() bool { return e.Must("logs", l.name) == "ready" })
			e.Must("stop", l.name)
		}
	}
	e.Must("run", "-d", "--rm", "--network", "none", "--name", "removed", "busybox", "sleep", "1000")
	e.Must("run", "-d", "--restart", "always", "--network", "none", "--name", "pausing", "busybox", "sh", "-c", "test -e /again && exec sleep 1000; touch /again; exit 1")
	powerLoss(t, e)
	e.Start()
	for _, l := range lives {
		testkit.Eventually(t, l.name+" is "+l.after, func() bool {
			return e.Must("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", l.name) == l.after
		})
	}
	testkit.Eventually(t, "one that was between two lives runs", func() bool { return e.Must("inspect", "-f", "{{.State.Running}}", "pausing") == "true" })
	if r := e.Berth("inspect", "removed"); r.Code == 0 {
		t.Error("the --rm container is there")
	}
}
