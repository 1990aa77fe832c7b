package test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"berth/testkit"
)

// health is what inspect tells of a container's health; nil without a health check.
func health(t *testing.T, e *testkit.Engine, ref string) *container.Health {
	t.Helper()
	var h *container.Health
	if err := json.Unmarshal([]byte(e.Must("inspect", "-f", "{{json .State.Health}}", ref)), &h); err != nil {
		t.Fatal(err)
	}
	return h
}

// becomes waits for a health.
func becomes(t *testing.T, e *testkit.Engine, ref string, want container.HealthStatus) *container.Health {
	t.Helper()
	var h *container.Health
	testkit.Eventually(t, ref+" is "+string(want), func() bool {
		h = health(t, e, ref)
		return h != nil && h.Status == want
	})
	return h
}

// column is one column of ps.
func column(e *testkit.Engine, field string, args ...string) string {
	return e.Must(append([]string{"ps", "--format", "{{." + field + "}}"}, args...)...)
}

func TestHealthFollowsWhatProbesSay(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	id := e.Must("run", "-d", "--name", "web", "--network", "none", "-e", "GREETING=hello", "-u", "app", "-w", "/home/app",
		"--health-cmd", `echo "$GREETING $(id -un) $PWD"; echo bad >&2; exec test -e /tmp/well`,
		"--health-interval", "100ms", "--health-retries", "2", "busybox", "sleep", "1000")
	h := health(t, e, id)
	if h == nil || h.Status == container.Healthy {
		t.Fatalf("health after the start: %+v", h)
	}
	h = becomes(t, e, id, container.Unhealthy)
	if last := h.Log[len(h.Log)-1]; h.FailingStreak < 2 || last.ExitCode != 1 || !strings.Contains(last.Output, "hello app /home/app\n") || !strings.Contains(last.Output, "bad\n") {
		t.Errorf("an unhealthy container: %+v, last probe %+v", h, last)
	}
	if s := column(e, "Status", "--filter", "health=unhealthy"); !strings.HasSuffix(s, " (unhealthy)") {
		t.Errorf("ps says %q", s)
	}
	streak := h.FailingStreak
	testkit.Eventually(t, "the streak grows on", func() bool { return health(t, e, id).FailingStreak > streak })

	e.Must("exec", id, "touch", "/tmp/well")
	h = becomes(t, e, id, container.Healthy)
	if h.FailingStreak != 0 {
		t.Errorf("one success heals: %+v", h)
	}
	testkit.Eventually(t, "five results are kept", func() bool {
		h = health(t, e, id)
		return len(h.Log) == 5 && !slices.ContainsFunc(h.Log, func(r *container.HealthcheckResult) bool { return r.ExitCode != 0 })
	})
	if s := column(e, "Status", "--filter", "health=healthy"); !strings.HasSuffix(s, " (healthy)") {
		t.Errorf("ps says %q", s)
	}
	if s := column(e, "HealthStatus"); s != "healthy" {
		t.Errorf("ps's HealthStatus is %q", s)
	}
	if s := column(e, "Names", "--filter", "health=none"); s != "" {
		t.Errorf("containers without a health check: %q", s)
	}

	e.Must("stop", "-t", "0", id)
	if h := health(t, e, id); h.Status != container.Unhealthy || len(h.Log) != 5 {
		t.Errorf("a stopped container: %+v", h)
	}
	e.Must("exec", e.Must("run", "-d", "--network", "none", "--name", "other", "busybox", "sleep", "100"), "true")
	if h := health(t, e, "other"); h != nil {
		t.Errorf("a container without health check has health: %+v", h)
	}
}

func TestProbesGoOnWithoutTheEngine(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	id := e.Must("run", "-d", "--network", "none", "--health-cmd", "echo x >> /tmp/probes; test -e /tmp/well",
		"--health-interval", "100ms", "--health-retries", "1", "busybox", "sleep", "1000")
	becomes(t, e, id, container.Unhealthy)
	tmp := "/proc/" + e.Must("inspect", "-f", "{{.State.Pid}}", id) + "/root/tmp/"
	probes := func() int64 {
		f, err := os.Stat(tmp + "probes")
		if err != nil {
			t.Fatal(err)
		}
		return f.Size()
	}
	e.Kill()
	write(t, tmp+"well", "")
	before := probes()
	testkit.Eventually(t, "probes go on", func() bool { return probes() > before+2*2 })
	e.Start()
	h := becomes(t, e, id, container.Healthy)
	if len(h.Log) == 0 {
		t.Error("what probes said while no engine was there is lost")
	}
}

func TestHealthChecksOfEveryKind(t *testing.T) {
	withRuntimes(t, func(t *testing.T, e *testkit.Engine) {
		quick := []string{"--network", "none", "--health-interval", "100ms"}
		run := func(name string, args ...string) {
			t.Helper()
			e.Must(slices.Concat([]string{"run", "-d", "--name", name}, quick, args)...)
		}
		sleep := []string{"sleep", "1000"}

		// A probe that takes too long is killed with all that it has started.
		run("slow", slices.Concat([]string{"--health-cmd", "echo begun; sleep 777 & sleep 778", "--health-timeout", "1s", "--health-retries", "1", "busybox"}, sleep)...)
		becomes(t, e, "slow", container.Unhealthy)
		testkit.Eventually(t, "a slow probe is told", func() bool { // one that has not said anything within its second is no example
			return slices.ContainsFunc(health(t, e, "slow").Log, func(r *container.HealthcheckResult) bool {
				return r.ExitCode == -1 && r.Output == "Health check exceeded timeout (1s): begun\n"
			})
		})
		e.Must("pause", "slow") // which ends the one under way
		e.Must("unpause", "slow")
		testkit.Eventually(t, "only the next probe's processes are left", func() bool {
			return strings.Count(e.Must("top", "slow", "-o", "pid,args"), "sleep 77") <= 2
		})

		// A program that is not there, in the words of exec.
		missing := e.Must("create", "--network", "none", "busybox", "true")
		e.Must("commit", "-c", `HEALTHCHECK --interval=100ms --retries=1 CMD ["/no/such/program"]`, missing, "missing")
		run("nosuch", slices.Concat([]string{"missing"}, sleep)...)
		h := becomes(t, e, "nosuch", container.Unhealthy)
		if last := h.Log[0]; last.ExitCode != -1 || !strings.Contains(last.Output, "/no/such/program") || !strings.Contains(last.Output, "no such file or directory") {
			t.Errorf("a probe that cannot be executed: %+v", last)
		}

		// What it leaves behind does not hold it up.
		run("parent", slices.Concat([]string{"--health-cmd", "sleep 779 & echo fine", "--health-timeout", "1m", "busybox"}, sleep)...)
		if h := becomes(t, e, "parent", container.Healthy); h.Log[0].Output != "fine\n" {
			t.Errorf("%+v", h.Log[0])
		}
	})
}

func TestHealthcheckOfAnImageIsMergedAndCommitted(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("create", "--name", "maker", "busybox", "sleep", "1000")
	e.Must("commit", "-c", `HEALTHCHECK --interval=100ms --retries=7 CMD echo from the image`, "maker", "checked")
	if got := e.Must("image", "inspect", "-f", "{{json .Config.Healthcheck}}", "checked"); !strings.Contains(got, "from the image") {
		t.Fatalf("the image: %s", got)
	}
	run := func(args ...string) string {
		t.Helper()
		return e.Must(append([]string{"run", "-d", "--network", "none"}, args...)...)
	}
	h := becomes(t, e, run("checked"), container.Healthy)
	if h.Log[0].Output != "from the image\n" {
		t.Errorf("%+v", h.Log[0])
	}
	if h := health(t, e, run("--no-healthcheck", "checked")); h != nil {
		t.Errorf("--no-healthcheck: %+v", h)
	}
	other := run("--health-cmd", "echo from the flag; false", "checked")
	becomes(t, e, other, container.Unhealthy)
	if got := e.Must("inspect", "-f", "{{json .Config.Healthcheck}}", other); got != `{"Test":["CMD-SHELL","echo from the flag; false"],"Interval":100000000,"Retries":7}` {
		t.Errorf("merged: %s", got)
	}
	e.Must("commit", other, "again")
	if got := e.Must("image", "inspect", "-f", "{{json .Config.Healthcheck.Test}}", "again"); got != `["CMD-SHELL","echo from the flag; false"]` {
		t.Errorf("committed: %s", got)
	}
}

func TestAPausedContainerIsNotProbedAndARestartBeginsAnew(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	dir := filepath.Join(e.Dir, "host")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	id := e.Must("run", "-d", "--network", "none", "-v", dir+":/host", "--health-cmd", "echo >> /host/probes", "--health-interval", "50ms", "busybox", "sleep", "1000")
	becomes(t, e, id, container.Healthy)
	e.Must("pause", id)
	probes := func() int64 {
		f, err := os.Stat(filepath.Join(dir, "probes"))
		if err != nil {
			t.Fatal(err)
		}
		return f.Size()
	}
	n := probes()
	if s := column(e, "Status"); !strings.HasSuffix(s, " (Paused)") {
		t.Errorf("ps says %q", s)
	}
	if h := health(t, e, id); h.Status != container.Healthy {
		t.Errorf("paused it is %s", h.Status)
	}
	if now := probes(); now != n {
		t.Errorf("%d probes of a paused container", now-n)
	}
	e.Must("unpause", id)
	testkit.Eventually(t, "probes go on", func() bool { return probes() > n })

	e.Must("stop", "-t", "0", id)
	e.Must("update", "--restart", "no", id)
	e.Must("start", id)
	becomes(t, e, id, container.Healthy)
	told := actions(e, since, id)
	for _, want := range []string{"exec_create: /bin/sh -c echo >> /host/probes", "exec_start: /bin/sh -c echo >> /host/probes", "exec_die"} {
		if !slices.Contains(told, want) {
			t.Errorf("no event %q", want)
		}
	}
	if n := len(slices.DeleteFunc(told, func(a string) bool { return a != "health_status: healthy" })); n != 2 {
		t.Errorf("it became healthy %d times by the events", n)
	}
}

func TestAProbeThatItsContainerTakesAlongDoesNotCount(t *testing.T) {
	withRuntimes(t, func(t *testing.T, e *testkit.Engine) {
		since := time.Now()
		id := e.Must("run", "-d", "--network", "none", "--restart", "on-unhealthy", "--health-cmd", "touch /begun; sleep 1000", "--health-interval", "50ms", "--health-retries", "1",
			"busybox", "sh", "-c", "while [ ! -e /begun ]; do sleep 0.05; done; exit 0")
		e.Must("wait", id)
		if got := e.Must("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}} {{.State.Health.FailingStreak}}", id); got != "exited 0 0 0" {
			t.Errorf("it is %s", got)
		}
		if told := actions(e, since, id); slices.ContainsFunc(told, func(a string) bool { return strings.HasPrefix(a, "health_status") }) {
			t.Errorf("events: %q", told)
		}
	})
}
