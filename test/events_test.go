package test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"berth/testkit"
)

// eventLine is one line of events --format json.
type eventLine struct {
	Type, Action string
	Actor        struct {
		ID         string
		Attributes map[string]string
	}
	TimeNano int64
}

func parseEventLines(t *testing.T, text string) []eventLine {
	t.Helper()
	var out []eventLine
	for line := range strings.Lines(text) {
		var e eventLine
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		out = append(out, e)
	}
	return out
}

// now is the moment as events takes it; durations before now end at whole seconds.
func now() string {
	t := time.Now()
	return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond())
}

// shape is what can be compared of an event of two engines: type, action and attributes,
// with everything that is random called by what it is.
func (e eventLine) shape() string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(e.Actor.Attributes)) {
		v := e.Actor.Attributes[k]
		switch {
		case regexp.MustCompile(`^(sha256:)?[0-9a-f]{64}$`).MatchString(v):
			v = "ID"
		case k == "execDuration" || k == "reclaimed":
			v = "N"
		}
		parts = append(parts, k+"="+v)
	}
	action := regexp.MustCompile(`[0-9a-f]{64}`).ReplaceAllString(e.Action, "ID")
	return fmt.Sprintf("%s %s (%s)", e.Type, action, strings.Join(parts, ", "))
}

// eventTour does what leaves events of every kind that needs no network.
var eventTour = [][]string{
	{"import", "--change", "CMD [\"sh\"]", "--change", "LABEL of=image", "TAR", "busybox:latest"},
	{"tag", "busybox", "other:1"},
	{"volume", "create", "vol"},
	{"create", "--name", "one", "--network", "none", "--label", "k=v", "-v", "vol:/vol", "busybox", "sh", "-c", "exit 3"},
	{"start", "-a", "one"},
	{"rename", "one", "two"},
	{"rm", "two"},
	{"run", "-d", "--name", "three", "--network", "none", "busybox", "sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done"},
	{"READY", "three", "1"},
	{"exec", "three", "true"},
	{"exec", "three", "sh", "-c", "exit 4"},
	{"top", "three"},
	{"cp", "three:/bin/busybox", "copied"},
	{"cp", "copied", "three:/tmp/"},
	{"export", "-o", "exported.tar", "three"},
	{"diff", "three"},
	{"update", "--memory", "64m", "--memory-swap", "128m", "three"},
	{"pause", "three"},
	{"unpause", "three"},
	{"kill", "--signal", "USR2", "three"},
	{"commit", "-m", "said", "three", "made:1"},
	{"start", "three"},
	{"restart", "three"},
	{"READY", "three", "2"},
	{"stop", "three"},
	{"start", "three"},
	{"kill", "three"},
	{"rm", "three"},
	{"run", "--rm", "--name", "short", "--network", "none", "busybox", "true"},
	{"run", "-d", "--name", "four", "--network", "none", "-v", "/anonymous", "busybox", "sleep", "1000"},
	{"rm", "-f", "-v", "four"},
	{"network", "create", "lan"},
	{"run", "-d", "--name", "six", "--network", "lan", "busybox", "sleep", "1000"},
	{"network", "disconnect", "lan", "six"},
	{"network", "connect", "lan", "six"},
	{"rm", "-f", "six"},
	{"network", "rm", "lan"},
	{"save", "-o", "saved.tar", "busybox"},
	{"rmi", "other:1"},
	{"rmi", "made:1"},
	{"tag", "busybox", "REGISTRY/pushed:1"},
	{"push", "REGISTRY/pushed:1"},
	{"rmi", "REGISTRY/pushed:1"},
	{"pull", "REGISTRY/pushed:1"},
	{"rmi", "REGISTRY/pushed:1"},
	{"rmi", "busybox"},
	{"load", "-i", "saved.tar"},
	{"volume", "rm", "vol"},
	{"create", "--name", "five", "--network", "none", "busybox"},
	{"container", "prune", "-f"},
	{"volume", "prune", "-f"},
	{"image", "prune", "-a", "-f"},
	{"network", "prune", "-f"},
	{"builder", "prune", "-f"},
}

// TestEventsAreDockers makes the same tour with a real dockerd and compares what both tell.
func TestEventsAreDockers(t *testing.T) {
	d := testkit.Dockerd(t)
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	registry := testkit.Registry(t, testkit.RegistryOptions{})
	registry.ServeIn(d.Pid)
	tar := testkit.BusyboxTar(t)
	take := func(do func(...string) testkit.Result, dir string) (tour []eventLine, codes []string) {
		for _, words := range eventTour {
			if words[0] == "READY" { // before that PID 1 hears no signal; logs are no event
				testkit.Eventually(t, words[1]+" is ready", func() bool { return fmt.Sprint(strings.Count(do("logs", words[1]).Stdout, "ready")) == words[2] })
				codes = append(codes, words[1]+" is ready")
				continue
			}
			words = slices.Clone(words)
			for k, w := range words {
				switch w {
				case "TAR":
					words[k] = tar
				case "saved.tar", "copied", "exported.tar":
					words[k] = filepath.Join(dir, w)
				}
				words[k] = strings.Replace(words[k], "REGISTRY", registry.Addr, 1)
			}
			codes = append(codes, fmt.Sprint(eventTour[len(codes)], " exits with ", do(words...).Code))
		}
		return parseEventLines(t, do("events", "--since", "0", "--until", now(), "--format", "{{json .}}").Stdout), codes
	}
	theirs, codes := take(d.Do, d.Dir)
	ours, got := take(e.Docker, e.Dir)
	if diff := cmp.Diff(codes, got); diff != "" {
		t.Errorf("the tours differ (-docker +berth):\n%s", diff)
	}
	for _, x := range ours {
		if _, ok := x.Actor.Attributes["execDuration"]; x.Action == "die" && !ok {
			t.Errorf("a die without its execDuration: %v", x)
		}
	}
	if diff := cmp.Diff(comparable(theirs), comparable(ours)); diff != "" {
		t.Errorf("the events differ (-docker +berth):\n%s", diff)
	}
}

// comparable are the shapes of events without what differs on purpose or by Docker's version:
// 20.10 tells of a volume's creation once more when it is used and twice that a container
// was disconnected by hand, and knows neither
// execDuration nor an image's create; Berth lets a container go on earlier in a commit.
func comparable(all []eventLine) []string {
	var out []string
	for k, e := range all {
		delete(e.Actor.Attributes, "execDuration")
		near := slices.ContainsFunc(all[max(0, k-3):min(len(all), k+4)], func(o eventLine) bool { return o.Action == "commit" })
		shape := e.shape()
		switch {
		case e.Type == "image" && e.Action == "create", e.Action == "unpause" && near,
			(e.Type == "volume" && e.Action == "create" || e.Action == "disconnect") && len(out) > 0 && out[len(out)-1] == shape:
			continue
		}
		out = append(out, shape)
	}
	return out
}

func TestEventsOutliveTheEngine(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Must("volume", "create", "before")
	testkit.Eventually(t, "the event is in the file", func() bool {
		text, _ := os.ReadFile(filepath.Join(e.DataRoot, "events.jsonl"))
		return strings.Contains(string(text), "before")
	})
	e.Kill()
	torn, err := os.OpenFile(filepath.Join(e.DataRoot, "events.jsonl"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := torn.WriteString(`{"n":2,"type":"volume","act`); err != nil {
		t.Fatal(err)
	}
	torn.Close()
	e.Start()
	e.Must("volume", "create", "after")
	for _, since := range []string{"10m", "2020-01-02T03:04:05Z", "1"} {
		got := e.Must("events", "--since", since, "--until", now(), "--format", "{{.Action}} {{.Actor.ID}}")
		if got != "create before\ncreate after" {
			t.Errorf("events since %s: %q", since, got)
		}
	}
	e.Must("volume", "rm", "before", "after")
}

func TestEventsAreFiltered(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	id := e.Must("create", "--name", "first", "--label", "tier=web", "--network", "none", "busybox", "true")
	e.Must("start", "-a", "first")
	e.Must("create", "--name", "second", "busybox", "true")
	e.Must("volume", "create", "disk")
	e.Must("network", "create", "lan")
	e.Must("network", "rm", "lan")
	for _, c := range []struct {
		filters string
		want    string // actions
	}{
		{"type=volume", "create"},
		{"type=network type=volume event=create", "create create"},
		{"container=first", "create attach start die"},
		{"container=" + id[:12], "create attach start die"},
		{"container=first event=die", "die"},
		{"container=first container=second event=create", "create create"},
		{"label=tier event=start", "start"},
		{"label=tier=db", ""},
		{"image=busybox event=start", "start"},
		{"image=busybox:latest type=image", "tag"},
		{"network=lan", "create destroy"},
		{"network=none", "connect disconnect"},
		{"volume=disk", "create"},
		{"volume=disk container=first", ""},
		{"scope=local event=destroy", "destroy"},
		{"scope=swarm", ""},
		{"node=x", ""}, {"secret=x", ""}, {"service=x", ""}, {"config=x", ""}, {"plugin=x", ""}, {"daemon=nobody", ""}, {"builder=x", ""},
	} {
		args := []string{"events", "--since", "1h", "--until", now(), "--format", "{{.Action}}"}
		for _, f := range strings.Fields(c.filters) {
			args = append(args, "--filter", f)
		}
		var got string
		seen := func() bool {
			args[4] = now()
			got = strings.Join(strings.Fields(e.Must(args...)), " ")
			return got == c.want
		}
		if !seen() { // a container leaves its networks behind the answer
			t.Logf("%s: %q at first", c.filters, got)
			testkit.Eventually(t, fmt.Sprintf("%s: %q", c.filters, c.want), seen)
		}
	}
	if r := e.Berth("events", "--since", "1h", "--until", "0s", "--filter", "colour=blue"); r.Code != 1 || !strings.Contains(r.Stderr, "colour") {
		t.Errorf("an unknown filter: %+v", r)
	}
	if r := e.Berth("events", "--since", "0s", "--until", "1h"); r.Code != 1 || !strings.Contains(r.Stderr, "cannot be after `until`") {
		t.Errorf("until before since: %+v", r)
	}
	e.Must("volume", "rm", "disk")
}

func TestReloadIsAnEvent(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	if err := os.WriteFile(filepath.Join(e.Dir, "daemon.json"), []byte(`{"labels":["a=b"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(e.Pid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the reload is told", func() bool {
		got := e.Must("events", "--since", "1h", "--until", "0s", "--filter", "type=daemon", "--format", "{{.Action}} {{.Actor.Attributes.labels}}")
		return got == `reload ["a=b"]`
	})
}

// TestManyFollowersAndOneThatDoesNotRead has a hundred clients follow, of which all see
// everything, and one that never reads, which is cut off and holds nobody up.
func TestManyFollowersAndOneThatDoesNotRead(t *testing.T) {
	const followers, rounds = 100, 2000
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	stuck, err := net.Dial("unix", strings.TrimPrefix(e.Host, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	if _, err := io.WriteString(stuck, "GET /v1.44/events HTTP/1.1\r\nHost: berth\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	seen := make(chan int, followers)
	for range followers {
		answer := apiOpen(t, t.Context(), e, "/events?filters="+url.QueryEscape(`{"type":["builder"]}`), nil)
		go func() {
			defer answer.Body.Close()
			lines := bufio.NewScanner(answer.Body)
			n := 0
			for n < rounds && lines.Scan() {
				n++
			}
			seen <- n
		}()
	}
	listeners := func() string { return e.Must("info", "-f", "{{.NEventsListener}}") }
	testkit.Eventually(t, "all listen", func() bool { return listeners() == "101" })
	client := apiClient(t, e)
	for range rounds {
		answer, err := client.Post("http://berth/build/prune", "application/json", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
	}
	for range followers {
		if n := <-seen; n != rounds {
			t.Errorf("a follower saw %d of %d events", n, rounds)
		}
	}
	testkit.Eventually(t, "nobody listens any more", func() bool { return listeners() == "0" })
}
