package test

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"berth/testkit"
)

// apiGet asks the engine's API on its socket.
func apiGet(t *testing.T, e *testkit.Engine, path string) (status int, body string) {
	t.Helper()
	answer := apiOpen(t, t.Context(), e, path, nil)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return answer.StatusCode, string(text)
}

// apiClient speaks to the engine's socket, over one connection at a time.
func apiClient(t *testing.T, e *testkit.Engine) *http.Client {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(e.Host, "unix://"))
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// apiOpen is apiGet for answers that go on until ctx ends.
func apiOpen(t *testing.T, ctx context.Context, e *testkit.Engine, path string, header http.Header) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, "GET", "http://berth"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		r.Header[k] = v
	}
	answer, err := apiClient(t, e).Do(r)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return answer
}

// statsOf asks for one object of a container's statistics.
func statsOf(t *testing.T, e *testkit.Engine, path string) container.StatsResponse {
	t.Helper()
	status, body := apiGet(t, e, path)
	if status != 200 {
		t.Fatalf("%s: %d %s", path, status, body)
	}
	var s container.StatsResponse
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatalf("%s: %v in %s", path, err, body)
	}
	return s
}

func TestStatsTellWhatAContainerUses(t *testing.T) {
	eachClient(t, func(t *testing.T, e *testkit.Engine, c client) {
		c.must(e, "run", "-d", "--name", "busy", "--network", "none", "--memory", "64m", "--pids-limit", "50", "busybox", "sh", "-c",
			"sleep 1000 & echo both; while :; do :; done")
		testkit.Eventually(t, "both processes run", func() bool { return c.run(e, "logs", "busy").Stdout == "both\n" })
		c.must(e, "create", "--name", "idle", "busybox", "true")
		defer c.must(e, "rm", "-f", "busy", "idle")
		lines := strings.Split(c.must(e, "stats", "--no-stream", "--format", "{{.Name}}|{{.CPUPerc}}|{{.MemUsage}}|{{.PIDs}}|{{.NetIO}}"), "\n")
		if len(lines) != 1 {
			t.Fatalf("stats shows containers that do not run: %q", lines)
		}
		f := strings.Split(lines[0], "|")
		cpu, err := strconv.ParseFloat(strings.TrimSuffix(f[1], "%"), 64)
		if f[0] != "busy" || err != nil || cpu <= 0 || cpu > 1000 { // a busy machine reads time and counters apart
			t.Errorf("CPU of a loop: %q", f)
		}
		if !strings.HasSuffix(f[2], " / 64MiB") || f[3] != "2" || f[4] != "0B / 0B" {
			t.Errorf("memory, pids, network: %q", f)
		}
		all := c.must(e, "stats", "--no-stream", "-a", "--format", "{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.PIDs}}")
		if !strings.Contains(all, "idle 0.00% 0B / 0B 0") {
			t.Errorf("stats -a: %q", all)
		}
		if r := c.run(e, "stats", "--no-stream", "nobody"); r.Code != 1 || !strings.Contains(r.Stderr, "No such container: nobody") {
			t.Errorf("stats of nobody: %+v", r)
		}
		table := c.must(e, "stats", "--no-stream", "busy")
		if !strings.HasPrefix(table, "CONTAINER ID   NAME") || !strings.Contains(table, "MEM USAGE / LIMIT") {
			t.Errorf("table: %q", table)
		}
	})
}

func TestStatsOfTheAPI(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	id := e.Must("run", "-d", "--name", "xx", "busybox", "sh", "-c", "while :; do :; done")
	two := statsOf(t, e, "/containers/xx/stats?stream=0")
	if two.ID != id || two.Name != "/xx" || two.PreRead.IsZero() || !two.Read.After(two.PreRead) {
		t.Errorf("two samples: id %s name %s read %v before %v", two.ID, two.Name, two.Read, two.PreRead)
	}
	used := two.CPUStats.CPUUsage.TotalUsage - two.PreCPUStats.CPUUsage.TotalUsage
	wall := two.Read.Sub(two.PreRead)
	if wall <= 0 || float64(used) > 10*float64(wall) || used == 0 {
		t.Errorf("%d ns of processor time in %v", used, wall)
	}
	machine := float64(two.CPUStats.SystemUsage-two.PreCPUStats.SystemUsage) / float64(two.CPUStats.OnlineCPUs)
	if machine < float64(wall)/4 || machine > 4*float64(wall) {
		t.Errorf("the machine's time is %v per processor in %v", machine, wall)
	}
	if len(two.Networks) != 1 || two.Networks["eth0"].RxBytes+two.Networks["eth0"].TxBytes == 0 && two.Networks["eth0"].RxPackets != 0 {
		t.Errorf("networks: %+v", two.Networks)
	}
	if two.MemoryStats.Usage == 0 || two.MemoryStats.Limit < 1<<28 || len(two.MemoryStats.Stats) == 0 || two.PidsStats.Current != 1 {
		t.Errorf("memory %+v pids %+v", two.MemoryStats, two.PidsStats)
	}
	one := statsOf(t, e, "/containers/xx/stats?stream=false&one-shot=1")
	if !one.PreRead.IsZero() || one.PreCPUStats.CPUUsage.TotalUsage != 0 || one.Read.IsZero() {
		t.Errorf("one shot has an earlier sample: %v", one.PreRead)
	}
	e.Must("rm", "-f", "xx")
	e.Must("create", "--name", "xx", "busybox")
	for _, path := range []string{"/containers/xx/stats?stream=0", "/containers/xx/stats?stream=0&one-shot=1"} {
		stopped := statsOf(t, e, path)
		if stopped.Name != "/xx" || !stopped.Read.IsZero() || stopped.CPUStats.SystemUsage != 0 || stopped.MemoryStats.Limit != 0 {
			t.Errorf("%s of a container that does not run: %+v", path, stopped)
		}
	}
	if status, body := apiGet(t, e, "/containers/nobody/stats"); status != 404 {
		t.Errorf("nobody: %d %s", status, body)
	}
	if status, body := apiGet(t, e, "/v1.44/containers/xx/stats?one-shot=1"); status != 400 {
		t.Errorf("one-shot of a stream: %d %s", status, body)
	}
}

func TestStatsFollowWhoComesAndGoes(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("run", "-d", "--name", "first", "--network", "none", "busybox", "sleep", "1000")
	screen := e.Terminal("stats", "--format", "{{.Name}} uses {{.PIDs}}")
	screen.Expect("first uses 1")
	e.Must("run", "-d", "--name", "second", "--network", "none", "busybox", "sleep", "1000")
	screen.Expect("second uses 1")
	e.Must("rm", "-f", "first")
	screen.Expect("\x1b[Hsecond uses 1\x1b[K\r\n\x1b[J")
	// Another engine takes over: the figures go on.
	e.Kill()
	e.Start()
	e.Must("run", "-d", "--name", "third", "--network", "none", "busybox", "sleep", "1000")
	screen.Expect("third uses 1")
	screen.Type("\x03")
	if code := screen.Exit(); code != 130 {
		t.Errorf("stats ends with %d", code)
	}
}

func TestClientsOfOneContainerShareItsSamples(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("run", "-d", "--name", "watched", "--network", "none", "busybox", "sleep", "1000")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan map[time.Time]bool, 5)
	for range cap(seen) {
		answer := apiOpen(t, ctx, e, "/v1.41/containers/watched/stats", nil)
		go func() {
			defer answer.Body.Close()
			reads := map[time.Time]bool{}
			decoder := json.NewDecoder(answer.Body)
			for len(reads) < 3 {
				var s container.StatsResponse
				if decoder.Decode(&s) != nil || s.PreRead.IsZero() || !s.PreRead.Before(s.Read) {
					break
				}
				reads[s.Read] = true
			}
			seen <- reads
		}()
	}
	all := map[time.Time]int{}
	for range cap(seen) {
		reads := <-seen
		if len(reads) != 3 {
			t.Errorf("a client got %d samples that have an earlier one", len(reads))
		}
		for r := range reads {
			all[r]++
		}
	}
	// One sample a second for all, however long it took them to come.
	times := slices.SortedFunc(maps.Keys(all), time.Time.Compare)
	if took := times[len(times)-1].Sub(times[0]); len(all) > int(took/time.Second)+4 {
		t.Errorf("%d samples were made for 15 answers in %v: %v", len(all), took, all)
	}
	// The stream of a container that is removed ends.
	answer := apiOpen(t, ctx, e, "/containers/watched/stats", nil)
	defer answer.Body.Close()
	e.Must("rm", "-f", "watched")
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		t.Errorf("the stream of a removed container: %v", err)
	}
}

// TestDashboardsPoll asks in the ways of Portainer (one answer at a time) and lazydocker (a
// stream, processes and events of each container).
func TestDashboardsPoll(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	id := e.Must("run", "-d", "--name", "shown", "--network", "none", "busybox", "sleep", "1000")
	var list []struct{ Id, State string }
	status, body := apiGet(t, e, "/v1.41/containers/json?all=1")
	if err := json.Unmarshal([]byte(body), &list); err != nil || status != 200 || len(list) != 1 || list[0].Id != id {
		t.Fatalf("the list: %d %s", status, body)
	}
	path := "/v1.41/containers/" + id + "/stats?stream=false"
	first := statsOf(t, e, path)
	second := statsOf(t, e, path)
	// It begins where the first one ended, unless a further sample was made before that was noticed.
	if second.PreRead.Before(first.Read) || second.PreRead.Equal(first.Read) && second.PreCPUStats.CPUUsage.TotalUsage != first.CPUStats.CPUUsage.TotalUsage {
		t.Errorf("the second answer begins at %v, the first one ended at %v", second.PreRead, first.Read)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := apiOpen(t, ctx, e, "/v1.25/events", nil)
	events.Body.Close()
	if events.StatusCode != 400 { // lazydocker negotiates; a version that is too old is told so
		t.Errorf("events of 1.25: %s", events.Status)
	}
	stream := apiOpen(t, ctx, e, "/v1.43/containers/"+id+"/stats?stream=1", nil)
	defer stream.Body.Close()
	var s container.StatsResponse
	if err := json.NewDecoder(stream.Body).Decode(&s); err != nil || s.ID != id || s.PidsStats.Current != 1 {
		t.Errorf("the stream: %+v %v", s, err)
	}
	if status, body := apiGet(t, e, "/v1.43/containers/"+id+"/top?ps_args=aux"); status != 200 || !strings.Contains(body, `"Titles":["USER","PID"`) {
		t.Errorf("top: %d %s", status, body)
	}
}
