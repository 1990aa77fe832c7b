package cli

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/testkit"
)

func TestStartAttachedShowsTheOutputAndTheExitCode(t *testing.T) {
	c := &fakeContainer{out: "again\n", err: "e\n", code: 4}
	routes := c.routes()
	routes["GET /containers/web/json"] = answer(map[string]any{"Id": containerID, "Config": map[string]any{}, "HostConfig": map[string]any{}, "State": map[string]any{}})
	e := newFakeEngine(t, routes)
	if r := e.berth(t, "", "start", "-a", "web"); r.code != 4 || r.out != "again\n" || r.err != "e\n" {
		t.Errorf("got %+v", r)
	}
	if r := e.berth(t, "", "start", "-a", "web", "other"); r.code != 1 || !strings.Contains(r.err, "cannot start and attach multiple") {
		t.Errorf("got %+v", r)
	}
}

func TestAttachIsRefusedForAContainerThatCannotTalk(t *testing.T) {
	for state, want := range map[string]string{
		`{"Running":false}`:                  "cannot attach to a stopped container, start it first",
		`{"Running":true,"Paused":true}`:     "cannot attach to a paused container, unpause it first",
		`{"Running":true,"Restarting":true}`: "cannot attach to a restarting container, wait until it is running",
	} {
		routes := answersForGoldens()
		routes["GET /containers/web/json"] = answer(`{"Id":"x","Config":{},"State":` + state + `}`)
		e := newFakeEngine(t, routes)
		if r := e.berth(t, "", "attach", "web"); r.code != 1 || r.err != want+"\n" {
			t.Errorf("got %+v", r)
		}
	}
}

func TestSignalsWithoutATerminalGoToTheContainer(t *testing.T) {
	c := &fakeContainer{echo: true, code: 5}
	e := newFakeEngine(t, c.routes())
	cmd := exec.Command(os.Args[0], "-H", e.host(), "run", "-i", "alpine")
	cmd.Env = append(os.Environ(), "BERTH_TEST_AS_CLI=1")
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-c.started
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGHUP} {
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, "all signals are forwarded", func() bool {
		return len(e.asked("POST /containers/"+containerID+"/kill")) == 4
	})
	_ = input.Close()
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("exit code %d, want the container's 5", code)
	}
	seen := map[string]bool{}
	for _, r := range e.asked("POST /containers/" + containerID + "/kill") {
		seen[r.Query] = true
	}
	for _, name := range []string{"INT", "TERM", "USR1", "HUP"} {
		if !seen["signal="+name] {
			t.Errorf("%s was not forwarded: %v", name, seen)
		}
	}
}

func TestAnInterruptedPullExits130(t *testing.T) {
	routes := answersForGoldens()
	asked := make(chan struct{})
	routes["POST /images/create"] = hang(asked)
	e := newFakeEngine(t, routes)
	cmd := exec.Command(os.Args[0], "-H", e.host(), "pull", "nginx")
	cmd.Env = append(os.Environ(), "BERTH_TEST_AS_CLI=1", "DOCKER_CONFIG="+t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-asked:
	case <-time.After(time.Minute):
		t.Fatal("no pull was asked for")
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
}

func TestCompletionOffersNames(t *testing.T) {
	e := newFakeEngine(t, answersForGoldens())
	for line, want := range map[string]string{
		"stop":         "web other/link",
		"start":        "old",
		"rm":           "web other/link old",
		"container rm": "web other/link old",
		"rm web":       "other/link old",
		"rmi":          "nginx:1.25 localhost:5000/team/nginx localhost:5000/team/nginx:latest",
	} {
		r := e.berth(t, "", append(append([]string{"__complete"}, strings.Fields(line)...), "")...)
		offers, _, _ := strings.Cut(r.out, "\n:")
		if got := strings.Join(strings.Fields(offers), " "); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if r := e.berth(t, "", "completion", shell); r.code != 0 || len(r.out) < 1000 {
			t.Errorf("completion %s: %d, %d bytes", shell, r.code, len(r.out))
		}
	}
}
