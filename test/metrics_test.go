package test

import (
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"berth/testkit"
)

// readMetrics has Prometheus's own Python parser read a scrape, strictly, and gives the
// samples as {"name{label=value,…}": number}.
const readMetrics = `
import json, sys
from prometheus_client.parser import text_string_to_metric_families
out = {}
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation and family.type in ("gauge", "counter", "histogram"), family
    for s in family.samples:
        key = s.name + "{" + ",".join(k + "=" + v for k, v in sorted(s.labels.items())) + "}"
        assert key not in out, key
        out[key] = s.value
json.dump(out, sys.stdout)
`

func TestMetricsAreWhatDashboardsExpect(t *testing.T) {
	python := testkit.NeedTool(t, "/usr/bin/python3") // Debian's, whose packages we ask for
	if exec.Command(python, "-c", "import prometheus_client").Run() != nil {
		t.Skip("python3-prometheus-client is missing")
	}
	addr := freeAddress(t)
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--metrics-addr", addr}})
	e.Busybox()
	raw := func() string {
		t.Helper()
		answer, err := http.Get("http://" + addr + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != 200 || !strings.HasPrefix(answer.Header.Get("Content-Type"), "text/plain; version=0.0.4") {
			t.Fatalf("%s %v %v", answer.Status, answer.Header, err)
		}
		return string(text)
	}
	scrape := func() map[string]float64 {
		t.Helper()
		text := raw()
		cmd := exec.Command(python, "-c", readMetrics)
		cmd.Stdin = strings.NewReader(text)
		var errs strings.Builder
		cmd.Stderr = &errs
		parsed, err := cmd.Output()
		if err != nil {
			t.Fatalf("the parser refuses: %s\n%s", errs.String(), text)
		}
		var samples map[string]float64
		if err := json.Unmarshal(parsed, &samples); err != nil {
			t.Fatal(err)
		}
		return samples
	}
	before := scrape()
	e.Must("run", "-d", "--name", "runs", "--health-cmd", "false", "--health-interval", "100ms", "busybox", "sleep", "1000")
	e.Must("create", "--name", "waits", "busybox", "true")
	e.Must("rm", "waits")
	e.Must("create", "--name", "waits", "busybox", "true")
	testkit.Eventually(t, "a failed probe is counted", func() bool { return !strings.Contains(raw(), "\nengine_daemon_health_checks_failed_total 0\n") })
	after := scrape()
	for key, want := range map[string]float64{
		"engine_daemon_container_states_containers{state=running}":             1,
		"engine_daemon_container_states_containers{state=stopped}":             1,
		"engine_daemon_container_states_containers{state=paused}":              0,
		"engine_daemon_container_actions_seconds_count{action=create}":         3,
		"engine_daemon_container_actions_seconds_count{action=start}":          1,
		"engine_daemon_container_actions_seconds_count{action=delete}":         1,
		"engine_daemon_container_actions_seconds_count{action=commit}":         0,
		"engine_daemon_container_actions_seconds_bucket{action=start,le=+Inf}": 1,
		"engine_daemon_network_actions_seconds_count{action=allocate}":         1,
		"engine_daemon_image_actions_seconds_count{action=import}":             1,
		"engine_daemon_events_by_kind_total{action=create,type=container}":     3,
		"engine_daemon_events_by_kind_total{action=destroy,type=container}":    1,
		"engine_daemon_events_subscribers_total{}":                             0,
		"engine_daemon_images_images{}":                                        1,
		"builder_builds_triggered_total{}":                                     0,
	} {
		if got, ok := after[key]; !ok || got != want {
			t.Errorf("%s is %v (there: %t), want %v", key, got, ok, want)
		}
	}
	for _, key := range []string{"engine_daemon_engine_cpus_cpus{}", "engine_daemon_engine_memory_bytes{}", "process_resident_memory_bytes{}", "process_open_fds{}", "go_goroutines{}"} {
		if after[key] <= 0 {
			t.Errorf("%s is %v", key, after[key])
		}
	}
	if after["engine_daemon_events_total{}"] < before["engine_daemon_events_total{}"]+5 {
		t.Errorf("events: %v, then %v", before["engine_daemon_events_total{}"], after["engine_daemon_events_total{}"])
	}
	info := ""
	for key := range after {
		if strings.HasPrefix(key, "engine_daemon_engine_info{") {
			info = key
		}
	}
	for _, label := range []string{"architecture=", "daemon_id=", "graphdriver=", "kernel=", "os=", "os_type=linux", "version="} {
		if !strings.Contains(info, label) {
			t.Errorf("engine_info %q lacks %s", info, label)
		}
	}
	if answer, err := http.Get("http://" + addr + "/containers/json"); err != nil || answer.StatusCode != 404 {
		t.Errorf("the API is served beside the metrics: %v %v", answer, err)
	} else {
		answer.Body.Close()
	}
}
