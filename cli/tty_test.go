package cli

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	ossignal "os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/testkit"
)

// ttyContainer is a container on a pty: it greets, echoes what is typed, ends at "exit" with
// code 3, and tells what it was asked.
type ttyContainer struct {
	events  chan string
	started chan struct{}
	exited  chan struct{}
}

func (c *ttyContainer) routes() map[string]http.HandlerFunc {
	c.events = make(chan string, 100)
	c.started, c.exited = make(chan struct{}), make(chan struct{})
	base := "/containers/" + containerID
	return map[string]http.HandlerFunc{
		"POST /containers/create": answer(map[string]any{"Id": containerID}),
		"GET /containers/web/json": answer(map[string]any{"Id": containerID, "State": map[string]any{"Running": true, "Status": "running"},
			"Config": map[string]any{"Tty": true, "OpenStdin": true}, "HostConfig": map[string]any{}}),
		"POST " + base + "/attach": hijack("application/vnd.docker.raw-stream", func(conn net.Conn, in io.Reader) {
			<-c.started
			fmt.Fprint(conn, "welcome$ ")
			reader := bufio.NewReader(in)
			var typed strings.Builder
			for {
				b, err := reader.ReadByte()
				if err != nil {
					c.events <- "input ended"
					return
				}
				if b != '\r' {
					typed.WriteByte(b)
					continue
				}
				if typed.String() == "exit" {
					close(c.exited)
					return
				}
				fmt.Fprintf(conn, "got %q\r\n", typed.String())
				typed.Reset()
			}
		}),
		"POST " + base + "/wait": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			select {
			case <-c.exited:
				fmt.Fprint(w, `{"StatusCode":3}`)
			case <-r.Context().Done():
			}
		},
		"POST " + base + "/start": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(204)
			close(c.started)
		},
		"POST " + base + "/resize": func(_ http.ResponseWriter, r *http.Request) { c.events <- "resize " + r.URL.RawQuery },
		"POST " + base + "/kill": func(w http.ResponseWriter, r *http.Request) {
			c.events <- "kill " + r.URL.RawQuery
			w.WriteHeader(204)
		},
	}
}

func (c *ttyContainer) expect(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(time.Minute)
	var seen []string
	for {
		select {
		case e := <-c.events:
			if e == want {
				return
			}
			seen = append(seen, e)
		case <-deadline:
			t.Fatalf("waited for %q, saw %q", want, seen)
		}
	}
}

func onTerminal(t *testing.T, e *fakeEngine, args ...string) *testkit.Terminal {
	t.Helper()
	env := append(os.Environ(), "BERTH_TEST_AS_CLI=1", "DOCKER_CONFIG="+t.TempDir())
	return testkit.OnTerminal(t, env, os.Args[0], append([]string{"-H", e.host()}, args...)...)
}

func TestRunOnATerminalIsRawResizesAndRestores(t *testing.T) {
	c := &ttyContainer{}
	e := newFakeEngine(t, c.routes())
	terminal := onTerminal(t, e, "run", "-it", "alpine", "sh")
	terminal.Expect("welcome$ ")
	if !terminal.Raw() {
		t.Error("the terminal is not raw while the container has it")
	}
	c.expect(t, "resize h=24&w=80")
	terminal.Resize(30, 100)
	c.expect(t, "resize h=30&w=100")
	// Ctrl-C is a key like any other; it goes to the container.
	terminal.Type("a\x03b\r")
	terminal.Expect(`got "a\x03b"`)
	terminal.Type("exit\r")
	if code := terminal.Exit(); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	if terminal.Raw() {
		t.Error("the terminal was left raw")
	}
	body, _ := createdBody(t, e)
	host := body["HostConfig"].(map[string]any)
	if got := fmt.Sprint(host["ConsoleSize"]); got != "[24 80]" {
		t.Errorf("console size %s", got)
	}
}

func TestDetachKeysLeaveTheContainerRunning(t *testing.T) {
	for _, test := range []struct {
		flags []string
		keys  string
	}{
		{nil, "\x10\x11"},
		{[]string{"--detach-keys", "ctrl-a,d"}, "\x01d"},
	} {
		c := &ttyContainer{}
		e := newFakeEngine(t, c.routes())
		terminal := onTerminal(t, e, append(append([]string{"run", "-it"}, test.flags...), "alpine")...)
		terminal.Expect("welcome$ ")
		terminal.Type("x" + test.keys)
		if code := terminal.Exit(); code != 0 {
			t.Errorf("%v: exit code %d, want 0", test.flags, code)
		}
		if terminal.Raw() {
			t.Error("the terminal was left raw")
		}
	}
}

func TestAttachOnATerminal(t *testing.T) {
	c := &ttyContainer{}
	e := newFakeEngine(t, c.routes())
	close(c.started)
	terminal := onTerminal(t, e, "attach", "web")
	terminal.Expect("welcome$ ")
	c.expect(t, "resize h=25&w=81") // the push that makes a full-screen program redraw
	c.expect(t, "resize h=24&w=80")
	terminal.Type("exit\r")
	if code := terminal.Exit(); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
}

func TestSignalsGoToTheContainerAndTheTerminalIsRestored(t *testing.T) {
	c := &ttyContainer{}
	e := newFakeEngine(t, c.routes())
	terminal := onTerminal(t, e, "run", "-it", "alpine")
	terminal.Expect("welcome$ ")
	if err := syscall.Kill(terminal.Pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.expect(t, "kill signal=TERM")
	terminal.Type("exit\r")
	if code := terminal.Exit(); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
}

func TestAFatalSignalRestoresTheTerminal(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGINT} {
		if ossignal.Ignored(signal) {
			continue // by nohup, and so by what this test starts
		}
		c := &ttyContainer{}
		e := newFakeEngine(t, c.routes())
		terminal := onTerminal(t, e, "run", "--sig-proxy=false", "-it", "alpine")
		terminal.Expect("welcome$ ")
		if !terminal.Raw() {
			t.Fatal("not raw")
		}
		if err := syscall.Kill(terminal.Pid(), signal); err != nil {
			t.Fatal(err)
		}
		terminal.Exit()
		if terminal.Raw() {
			t.Errorf("%v left the terminal raw", signal)
		}
	}
}

func TestPullOnATerminalRedrawsItsBars(t *testing.T) {
	e := newFakeEngine(t, answersForGoldens())
	terminal := onTerminal(t, e, "pull", "nginx:1.25")
	terminal.Expect("abc123: Downloading")
	terminal.Expect("5kB/10kB")
	terminal.Expect("\x1b[1A") // up to the layer's line again
	terminal.Expect("abc123: Pull complete")
	terminal.Expect("docker.io/library/nginx:1.25")
	if code := terminal.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
