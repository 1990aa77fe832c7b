package server

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"berth/engine"
	"berth/kernel/cgroup"
)

func sampleOf(unified bool) engine.Stats {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := engine.Stats{
		ID: "abc", Name: "web", Unified: unified, MachineMemory: 1 << 30,
		CPU:    engine.CPUReading{At: at, Used: cgroup.CPUStats{Total: 30, User: 20, System: 10, Periods: 3, ThrottledPeriods: 1, Throttled: 5}, All: 400, Online: 2},
		Before: engine.CPUReading{At: at.Add(-time.Second), Used: cgroup.CPUStats{Total: 10}, All: 200, Online: 2},
		Memory: &cgroup.MemoryStats{Counter: cgroup.Counter{Usage: 100, Peak: 200, Limit: 1 << 62, Failures: 7}, Raw: map[string]uint64{"inactive_file": 9}},
		Pids:   &cgroup.PidsStats{Current: 4, Limit: unlimited},
		BlockIO: &cgroup.BlockIOStats{
			Bytes:      []cgroup.DeviceCount{{Major: 8, Kind: "Read", Value: 4096}, {Major: 8, Kind: "Discard", Value: 1}},
			Operations: []cgroup.DeviceCount{{Major: 8, Kind: "Read", Value: 1}}},
		Interfaces: []engine.InterfaceStats{{Name: "eth0", Rx: engine.Traffic{Bytes: 1, Packets: 2, Errors: 3, Dropped: 4}, Tx: engine.Traffic{Bytes: 5}}},
	}
	if !unified {
		s.CPU.Used.PerCPU = []cgroup.PerCPU{{Total: 20, User: 15}, {Total: 10, System: 5}}
	}
	return s
}

func TestStatsHaveTheShapeOfTheCgroupVersion(t *testing.T) {
	for _, c := range []struct {
		name      string
		unified   bool
		path      string
		want, not []string
	}{
		{"v1", false, "/v1.41/containers/web/stats?stream=0", []string{
			`"name":"/web"`, `"percpu_usage":[20,10]`, `"system_cpu_usage":400`, `"online_cpus":2`, `"throttling_data":{"periods":3,"throttled_periods":1,"throttled_time":5}`,
			`"max_usage":200`, `"failcnt":7`, `"limit":1073741824`, `"pids_stats":{"current":4}`, `"op":"Read"`, `"op":"Discard"`, `"io_queue_recursive":[]`,
			`"preread":"2026-01-02T03:04:04Z"`, `"eth0":{"rx_bytes":1,"rx_packets":2,"rx_errors":3,"rx_dropped":4,"tx_bytes":5`,
		}, []string{"os_type"}},
		{"v2", true, "/v1.52/containers/web/stats?stream=0", []string{
			`"os_type":"linux"`, `"pids_stats":{"current":4,"limit":18446744073709551615}`, `"op":"read"`, `"io_queue_recursive":null`, `"usage":100`,
		}, []string{"max_usage", "failcnt", "percpu_usage", "iscard"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.eng.stats = []engine.Stats{sampleOf(c.unified)}
			body := b.ask("GET", c.path, "").Body.String()
			for _, want := range c.want {
				if !strings.Contains(body, want) {
					t.Errorf("lacks %s: %s", want, body)
				}
			}
			for _, not := range c.not {
				if strings.Contains(body, not) {
					t.Errorf("has %s: %s", not, body)
				}
			}
		})
	}
}

func TestStatsOfAContainerThatDoesNotRunAreZero(t *testing.T) {
	b := newBench(t)
	b.eng.stats = []engine.Stats{{ID: "abc", Name: "web"}}
	w := b.ask("GET", "/v1.50/containers/web/stats?stream=false&one-shot=true", "")
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
		t.Fatalf("%d %v", w.Code, err)
	}
	if got["read"] != "0001-01-01T00:00:00Z" || got["name"] != "/web" || len(got["memory_stats"].(map[string]any)) != 0 {
		t.Errorf("%s", w.Body)
	}
	if !b.eng.watched.OneShot || b.eng.watched.Stream {
		t.Errorf("asked for %+v", b.eng.watched)
	}
}

func TestStatsStreamUnlessToldOtherwise(t *testing.T) {
	b := newBench(t)
	b.eng.stats = []engine.Stats{sampleOf(true), sampleOf(true)}
	if w := b.ask("GET", "/containers/web/stats", ""); strings.Count(w.Body.String(), "\n") != 2 || !b.eng.watched.Stream {
		t.Errorf("%+v %s", b.eng.watched, w.Body)
	}
	if w := b.ask("GET", "/v1.44/containers/web/stats?one-shot=1", ""); w.Code != 400 || !strings.Contains(message(t, w), "cannot have stream=true and one-shot=true") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
