package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/docker/cli/cli/config"
)

var containerID = strings.Repeat("c", 64)

// fakeContainer serves what `run` asks: create, attach, wait and start. Its process writes
// out and err when it starts, echoes its input to out if it has any, and exits with code.
type fakeContainer struct {
	out, err string
	code     int
	echo     bool
	startErr http.HandlerFunc // answers start instead
	missing  int              // creates that answer "no such image" before one works

	once    sync.Once
	started chan struct{}
	exited  chan struct{}
}

func (c *fakeContainer) routes() map[string]http.HandlerFunc {
	c.started, c.exited = make(chan struct{}), make(chan struct{})
	base := "POST /containers/" + containerID
	return map[string]http.HandlerFunc{
		"POST /containers/create": func(w http.ResponseWriter, r *http.Request) {
			if c.missing > 0 {
				c.missing--
				refuse(404, "No such image: alpine:latest")(w, r)
				return
			}
			w.WriteHeader(201)
			_ = json.NewEncoder(w).Encode(map[string]any{"Id": containerID, "Warnings": []string{"no network"}})
		},
		"POST /images/create": answer(`{"status":"Pulling from library/alpine","id":"latest"}` + "\n" + `{"status":"Downloading","progressDetail":{"current":5,"total":10},"id":"abc"}` + "\n" + `{"status":"Pull complete","progressDetail":{},"id":"abc"}` + "\n"),
		base + "/attach": hijack("application/vnd.docker.multiplexed-stream", func(conn net.Conn, in io.Reader) {
			select {
			case <-c.started:
			case <-c.exited:
				return
			}
			_, _ = conn.Write(frame(1, c.out))
			_, _ = conn.Write(frame(2, c.err))
			if c.echo {
				text, _ := io.ReadAll(in)
				_, _ = conn.Write(frame(1, string(text)))
			}
			close(c.exited)
		}),
		base + "/wait": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			select {
			case <-c.exited:
			case <-r.Context().Done():
				return
			}
			fmt.Fprintf(w, `{"StatusCode":%d}`, c.code)
		},
		base + "/start": func(w http.ResponseWriter, r *http.Request) {
			if c.startErr != nil {
				c.startErr(w, r)
				c.once.Do(func() { close(c.exited) })
				return
			}
			w.WriteHeader(204)
			close(c.started)
		},
		base + "/kill":   status(204),
		base + "/resize": status(200),
	}
}

func withoutConfig(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	config.SetDir(dir)
	return dir
}

func TestRunAttachesAndWaitsBeforeItStarts(t *testing.T) {
	c := &fakeContainer{out: "hello\n", err: "oops\n", code: 7}
	e := newFakeEngine(t, c.routes())
	r := e.berth(t, "", "run", "alpine", "sh")
	if r.code != 7 || r.out != "hello\n" || r.err != "WARNING: no network\noops\n" {
		t.Errorf("got %+v", r)
	}
	var order []string
	for _, asked := range e.asked("POST") {
		order = append(order, filepath.Base(asked.Path))
	}
	if len(order) == 4 {
		slices.Sort(order[1:3]) // these two go side by side
	}
	if want := []string{"create", "attach", "wait", "start"}; !slices.Equal(order, want) {
		t.Errorf("asked %v, want %v", order, want)
	}
	if q := e.asked("POST /containers/" + containerID + "/wait")[0].Query; q != "condition=next-exit" {
		t.Errorf("waited with %q", q)
	}
	if q := e.asked("POST /containers/" + containerID + "/attach")[0].Query; q != "stderr=1&stdout=1&stream=1" {
		t.Errorf("attached with %q", q)
	}
}

func TestRunRmWaitsForTheRemoval(t *testing.T) {
	c := &fakeContainer{}
	e := newFakeEngine(t, c.routes())
	if r := e.berth(t, "", "run", "--rm", "alpine"); r.code != 0 {
		t.Errorf("got %+v", r)
	}
	if q := e.asked("POST /containers/" + containerID + "/wait")[0].Query; q != "condition=removed" {
		t.Errorf("waited with %q", q)
	}
}

func TestRunInteractiveSendsItsInputAndItsEnd(t *testing.T) {
	c := &fakeContainer{echo: true}
	e := newFakeEngine(t, c.routes())
	if r := e.berth(t, "from stdin", "run", "-i", "alpine", "cat"); r.code != 0 || r.out != "from stdin" {
		t.Errorf("got %+v", r)
	}
}

func TestRunDetachedPrintsTheID(t *testing.T) {
	c := &fakeContainer{}
	e := newFakeEngine(t, c.routes())
	if r := e.berth(t, "", "run", "-d", "alpine"); r.code != 0 || r.out != containerID+"\n" {
		t.Errorf("got %+v", r)
	}
	if n := len(e.asked("POST /containers/" + containerID + "/attach")); n != 0 {
		t.Errorf("attached %d times", n)
	}
}

func TestRunPullsAMissingImageOnce(t *testing.T) {
	withoutConfig(t)
	c := &fakeContainer{missing: 1, out: "ran"}
	e := newFakeEngine(t, c.routes())
	r := e.berth(t, "", "run", "alpine")
	want := "Unable to find image 'alpine:latest' locally\nlatest: Pulling from library/alpine\nabc: Pull complete\nWARNING: no network\n"
	if r.code != 0 || r.out != "ran" || r.err != want {
		t.Errorf("got %+v", r)
	}
	pulls := e.asked("POST /images/create")
	if len(pulls) != 1 || pulls[0].Query != "fromImage=docker.io%2Flibrary%2Falpine&tag=latest" {
		t.Errorf("pulls: %+v", pulls)
	}
}

func TestRunPullPolicies(t *testing.T) {
	withoutConfig(t)
	for _, test := range []struct {
		flags         []string
		missing       int
		code, creates int
		pulls         int
	}{
		{[]string{"--pull", "never"}, 1, 125, 1, 0},
		{[]string{"--pull", "always"}, 0, 0, 1, 1},
		{[]string{"--pull", "missing"}, 0, 0, 1, 0},
		{nil, 2, 125, 2, 1},
	} {
		c := &fakeContainer{missing: test.missing}
		e := newFakeEngine(t, c.routes())
		r := e.berth(t, "", slices.Concat([]string{"run"}, test.flags, []string{"alpine"})...)
		creates, pulls := len(e.asked("POST /containers/create")), len(e.asked("POST /images/create"))
		if r.code != test.code || creates != test.creates || pulls != test.pulls {
			t.Errorf("%v: code %d, %d creates, %d pulls: %s", test.flags, r.code, creates, pulls, r.err)
		}
	}
}

func TestRunExitCodesFollowTheEnginesWords(t *testing.T) {
	for text, code := range map[string]int{
		`exec: "nope": executable file not found in $PATH`: 127,
		"stat /nope: no such file or directory":            127,
		"exec /x: permission denied":                       126,
		"exec: /etc: is a directory":                       126,
		"network bridge is not built yet":                  125,
	} {
		for _, flag := range []string{"-d=false", "-d", "--rm"} {
			c := &fakeContainer{startErr: refuse(400, text)}
			e := newFakeEngine(t, c.routes())
			r := e.berth(t, "", "run", flag, "alpine", "x")
			if r.code != code || !strings.Contains(r.err, "berth: Error response from daemon: "+text+"\n") {
				t.Errorf("%s %q: got %+v, want %d", flag, text, r, code)
			}
		}
	}
}

func TestBadFlagsAreOneLineAnd125(t *testing.T) {
	e := newFakeEngine(t, nil)
	for _, line := range []string{
		"run --nope alpine", "run -m 3x alpine", "run --pid x alpine", "run --pull x alpine", "run --restart always --rm alpine",
		"run -a nope alpine", "run -e = alpine", "run --env-file /nonexistent alpine", "run -v a:b:c:d alpine",
		"run -v : alpine", "run --mount type=bind alpine", "run --mount nonsense alpine", "run -p x alpine", "run -p 1:2:3:4 alpine", "run --expose 1:2 alpine",
		"run --device x alpine", "run --device /dev/a:/b:q alpine", "run --ulimit nope=1 alpine", "run --security-opt seccomp=/nonexistent alpine",
		"run --security-opt nonsense alpine", "run --memory-swappiness 101 alpine", "run --health-interval -1s --health-cmd x alpine",
		"run --no-healthcheck --health-cmd x alpine", "run --restart sometimes alpine", "run --dns x alpine", "run --add-host x alpine", "run --cpus x alpine",
		"run --network a --network host alpine", "run --mac-address zz alpine", "run --disable-content-trust=false alpine",
		"run --log-driver none --log-opt a=b alpine", "run --storage-opt x alpine", "run --device-cgroup-rule x alpine", "run --gpus nope=1 alpine", "run --ip zz alpine",
		"ps --nope", "container prune --nope", "exec --env-file /nonexistent c x",
	} {
		r := e.berth(t, "", strings.Fields(line)...)
		lines := strings.Split(strings.TrimSuffix(r.err, "\n"), "\n")
		if r.code != 125 || r.out != "" || len(lines) != 2 || !strings.HasPrefix(lines[0], "berth: ") || !strings.HasPrefix(lines[1], "See 'berth ") {
			t.Errorf("%s: got %+v", line, r)
		}
	}
	if n := len(e.asked("")); n != 0 {
		t.Errorf("%d requests were made", n)
	}
}

func TestTerminalWithPipedInputIsRefused(t *testing.T) {
	e := newFakeEngine(t, nil)
	for _, line := range []string{"run -it alpine", "exec -it c sh"} {
		if r := e.berth(t, "x", strings.Fields(line)...); r.code != 1 || r.err != "the input device is not a TTY\n" {
			t.Errorf("%s: got %+v", line, r)
		}
	}
}

func TestCIDFileIsWrittenOnceAndNeverLeftEmpty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cid")
	e := newFakeEngine(t, map[string]http.HandlerFunc{"POST /containers/create": refuse(409, "name taken")})
	if r := e.berth(t, "", "create", "--cidfile", path, "alpine"); r.code != 1 {
		t.Errorf("got %+v", r)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a failed create left its cidfile")
	}
	c := &fakeContainer{}
	e = newFakeEngine(t, c.routes())
	if r := e.berth(t, "", "create", "--cidfile", path, "alpine"); r.code != 0 || r.out != containerID+"\n" {
		t.Errorf("got %+v", r)
	}
	if text, _ := os.ReadFile(path); string(text) != containerID {
		t.Errorf("cidfile holds %q", text)
	}
	if r := e.berth(t, "", "run", "--cidfile", path, "alpine"); r.code != 125 || !strings.Contains(r.err, "container ID file found") {
		t.Errorf("got %+v", r)
	}
}

func TestProxiesOfTheConfigurationBecomeEnvironment(t *testing.T) {
	dir := withoutConfig(t)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"proxies":{"default":{"httpProxy":"http://p:1","noProxy":"x"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &fakeContainer{}
	e := newFakeEngine(t, c.routes())
	if r := e.berth(t, "", "create", "-e", "HTTP_PROXY=mine", "alpine"); r.code != 0 {
		t.Fatalf("got %+v", r)
	}
	body, _ := createdBody(t, e)
	want := []any{"HTTP_PROXY=mine", "NO_PROXY=x", "http_proxy=http://p:1", "no_proxy=x"}
	if got, _ := body["Env"].([]any); !slices.Equal(got, want) {
		t.Errorf("environment %v, want %v", got, want)
	}
}

// fullDisk takes nothing.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestOutputThatCannotBeWrittenEndsTheCommandAsAFailure(t *testing.T) {
	for _, args := range [][]string{
		{"run", "alpine", "talk"},
		{"start", "-a", containerID},
		{"attach", containerID},
	} {
		t.Run(args[0], func(t *testing.T) {
			c := &fakeContainer{out: "hello\n"}
			routes := c.routes()
			running := args[0] == "attach"
			routes["GET /containers/"+containerID+"/json"] = answer(map[string]any{
				"Id": containerID, "State": map[string]any{"Running": running}, "Config": map[string]any{}, "HostConfig": map[string]any{},
			})
			if running {
				close(c.started)
			}
			e := newFakeEngine(t, routes)
			var stderr strings.Builder
			code := Main(append([]string{"berth", "-H", e.host()}, args...), Streams{In: strings.NewReader(""), Out: fullDisk{}, Err: &stderr})
			if code != 1 || !strings.Contains(stderr.String(), "no space left on device") {
				t.Errorf("exit code %d, %q", code, stderr.String())
			}
		})
	}
}
