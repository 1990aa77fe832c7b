package test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

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
		"--health-interval", "100ms", "--health-retries", "1", "busybox", "sh", "-c",
		`while [ ! -e /tmp/well ]; do sleep 0.1; if [ $(wc -l < /tmp/probes) -gt 3 ]; then touch /tmp/well; fi; done; sleep 1000`)
	becomes(t, e, id, container.Unhealthy)
	e.Kill()
	e.Start()
	h := becomes(t, e, id, container.Healthy)
	if len(h.Log) == 0 {
		t.Error("what probes said while no engine was there is lost")
	}
}
