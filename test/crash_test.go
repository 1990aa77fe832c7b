package test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/testkit"
)

// failpoints reads the names of all failpoints with the given prefix from the source.
func failpoints(t *testing.T, prefix string) (names []string) {
	t.Helper()
	call := regexp.MustCompile(`durable\.Failpoint\("(` + regexp.QuoteMeta(prefix) + `[^"]+)"\)`)
	files, _ := filepath.Glob(filepath.Join(testkit.Root(), "*", "*.go"))
	deeper, _ := filepath.Glob(filepath.Join(testkit.Root(), "*", "*", "*.go"))
	for _, f := range append(files, deeper...) {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range call.FindAllStringSubmatch(string(data), -1) {
			names = append(names, m[1])
		}
	}
	sort.Strings(names)
	return names
}

// witness is a container that runs through all the crashes and counts aloud.
type witness struct {
	id  string
	pid string
}

func startWitness(e *testkit.Engine) witness {
	e.Must("network", "create", "crash") // for oneLife
	id := e.Must("run", "-d", "--name", "witness", "--network", "none", "busybox", "sh", "-c",
		"i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done")
	return witness{id, e.Must("inspect", "-f", "{{.State.Pid}}", id)}
}

// check proves that the witness ran on and that its log has every line.
func (w witness) check(t *testing.T, e *testkit.Engine) {
	t.Helper()
	if got := e.Must("inspect", "-f", "{{.State.Status}} {{.State.Pid}}", w.id); got != "running "+w.pid {
		t.Fatalf("the witness is %q, was running as %s", got, w.pid)
	}
	lines := strings.Split(strings.TrimSuffix(e.Must("logs", w.id), "\n"), "\n")
	for i, l := range lines {
		if l != fmt.Sprintf("line %d", i) {
			t.Fatalf("log line %d is %q", i, l)
		}
	}
}

// oneLife takes a container through create, start, connect, disconnect, exec, stop and rm with
// an engine that may die at any step, and reports what its clients were told.
type told struct {
	id       string
	execCode string // what `exec` exited with, if it answered
	removed  bool
}

func oneLife(e *testkit.Engine, name string) (t told) {
	r := e.Berth("create", "--name", name, "--network", "crash", "-p", "127.0.0.1::80", "-v", "/anonymous", "-v", "kept:/kept", "busybox", "sh", "-c", `trap "exit 7" TERM; : > /ready; while :; do sleep 0.05; done`)
	if r.Code != 0 {
		return t
	}
	t.id = strings.TrimSpace(r.Stdout)
	if e.Berth("start", t.id).Code != 0 {
		return t
	}
	if e.Berth("network", "connect", "bridge", t.id).Code != 0 || e.Berth("network", "disconnect", "crash", t.id).Code != 0 {
		return t
	}
	if e.Berth("exec", t.id, "sh", "-c", whenReady+"exit 33").Code == 33 {
		t.execCode = "33"
	}
	if e.Berth("stop", t.id).Code != 0 {
		return t
	}
	if e.Berth("rm", "-v", t.id).Code != 0 {
		return t
	}
	t.removed = true
	return t
}

// whenReady waits for the container's trap: before that, PID 1 hears no signal.
const whenReady = "until [ -e /ready ]; do sleep 0.02; done; "

// settle checks, after a restart, that what clients were told is true, and clears up.
func settle(t *testing.T, e *testkit.Engine, name string, x told) {
	t.Helper()
	listed := strings.Fields(e.Must("ps", "-aq", "--no-trunc", "--filter", "name=^"+name+"$"))
	switch {
	case x.id != "" && x.removed && len(listed) != 0:
		t.Errorf("%s was removed and is back as %v", name, listed)
	case x.id != "" && !x.removed && len(listed) == 1 && listed[0] != x.id:
		t.Errorf("%s was %s and is now %v", name, x.id, listed)
	}
	if x.id != "" && !x.removed && len(listed) == 0 {
		// The rm that got no answer may have been carried out; nothing else may lose it.
		if x.execCode == "" {
			t.Errorf("%s (%s) was created, and nobody knows it any more", name, x.id)
		}
	}
	for _, id := range listed {
		state := e.Must("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", id)
		status, code, _ := strings.Cut(state, " ")
		switch status {
		case "created":
		case "running":
			// It runs, unless the stop that got no answer is just ending it.
			r := e.Berth("exec", id, "sh", "-c", whenReady+"echo alive")
			if r.Stdout != "alive\n" {
				testkit.Eventually(t, fmt.Sprintf("%s says it runs, exec says %+v", name, r), func() bool {
					return e.Must("inspect", "-f", "{{.State.Status}}", id) == "exited"
				})
			}
			e.Must("stop", id)
			if got := e.Must("inspect", "-f", "{{.State.ExitCode}}", id); got != "7" {
				t.Errorf("%s ended with %s, its process returned 7", name, got)
			}
		case "exited":
			if code != "7" {
				t.Errorf("%s is recorded with exit code %s, its process returned 7", name, code)
			}
		default:
			t.Errorf("%s is %q", name, state)
		}
		e.Must("rm", "-f", "-v", id)
	}
	testkit.Eventually(t, name+"'s anonymous volume is gone", func() bool {
		for _, volume := range volumeNames(e) {
			if volume != "kept" {
				return false
			}
		}
		return true
	})
}

func TestEngineKilledAtEveryFailpoint(t *testing.T) {
	points := append(failpoints(t, "engine."), failpoints(t, "network.")...)
	if len(points) < 30 {
		t.Fatalf("only %d failpoints in the engine: %v", len(points), points)
	}
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	w := startWitness(e)
	var never []string
	for i, p := range points {
		e.Kill()
		e.Start("BERTH_FAILPOINT=" + p)
		name := fmt.Sprintf("life%d", i)
		x := oneLife(e, name)
		if x.removed && e.Berth("run", "--rm", "--name", name+"rm", "--network", "none", "busybox", "true").Code == 0 {
			never = append(never, p)
			continue
		}
		e.Await() // it died at the failpoint
		e.Start()
		t.Run(p, func(t *testing.T) {
			settle(t, e, name, x)
			testkit.Eventually(t, "the --rm container is gone", func() bool { return e.Must("ps", "-aq", "--filter", "name="+name+"rm") == "" })
			testkit.Eventually(t, "its networks are left", func() bool {
				boxes, _ := filepath.Glob(filepath.Join(e.ExecRoot, "networks", "sandboxes", x.id+"*"))
				return x.id == "" || len(boxes) == 0
			})
			w.check(t, e)
		})
	}
	if len(never) > len(points)/3 {
		t.Errorf("most failpoints were never reached: %v", never)
	}
	t.Logf("%d failpoints, not on this path: %v", len(points), never)
}

func TestShimKilledAtEveryFailpoint(t *testing.T) {
	points := failpoints(t, "shim.")
	if len(points) == 0 {
		t.Fatal("no failpoints in the shim")
	}
	for _, p := range points {
		t.Run(p, func(t *testing.T) {
			e := testkit.StartEngine(t, testkit.EngineOptions{Env: []string{"BERTH_FAILPOINT=" + p}})
			e.Busybox()
			r := e.Berth("run", "--name", "mortal", "--network", "none", "busybox", "sh", "-c", "exit 3")
			if e.Must("ps", "-aq") == "" {
				t.Fatalf("the container is not known; run said %d %q", r.Code, r.Stderr)
			}
			testkit.Eventually(t, "the container is recorded as ended or never started", func() bool {
				return regexp.MustCompile(`^(exited (3|137)|created|dead)`).MatchString(e.Must("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "mortal"))
			})
			t.Logf("run said %d %q, state %s", r.Code, r.Stderr, e.Must("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}", "mortal"))
		})
	}
}

// crashes is how many random moments TestEngineKilledAtRandomMoments tries.
func crashes(t *testing.T) int {
	if s := os.Getenv("BERTH_TEST_CRASHES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return 200
}

func TestEngineKilledAtRandomMoments(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	w := startWitness(e)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for i := range crashes(t) {
		after := time.Duration(random.Int64N(int64(150 * time.Millisecond)))
		pid := e.Pid()
		timer := time.AfterFunc(after, func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
		name := fmt.Sprintf("life%d", i)
		x := oneLife(e, name)
		timer.Stop()
		e.Kill()
		e.Start()
		settle(t, e, name, x)
		if i%20 == 0 {
			w.check(t, e)
		}
		if t.Failed() {
			t.Fatalf("crash %d, %v after its start", i, after)
		}
	}
	w.check(t, e)
}

func TestExitCodeIsKeptWithTheEngineDead(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	id := e.Must("run", "-d", "--network", "none", "busybox", "sh", "-c", "until [ -e /tmp/end ]; do sleep 0.02; done; echo last words; exit 23")
	pid := e.Must("inspect", "-f", "{{.State.Pid}}", id)
	e.Kill()
	if err := os.WriteFile("/proc/"+pid+"/root/tmp/end", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the shim has ended", func() bool { return len(e.Shims()) == 0 })
	e.Start()
	if got := e.Must("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", id); got != "exited 23" {
		t.Errorf("state %q", got)
	}
	if got := e.Must("logs", id); got != "last words" {
		t.Errorf("logs %q", got)
	}
}

func TestShimKilledTakesItsContainerWithIt(t *testing.T) {
	for _, engine := range []string{"alive", "dead"} {
		t.Run("engine "+engine, func(t *testing.T) {
			e := testkit.StartEngine(t, testkit.EngineOptions{})
			e.Busybox()
			id := e.Must("run", "-d", "--network", "none", "busybox", "sh", "-c", "sleep 1000 & sleep 1001 & wait")
			pid := e.Must("inspect", "-f", "{{.State.Pid}}", id)
			stat, err := os.ReadFile("/proc/" + pid + "/stat")
			if err != nil {
				t.Fatal(err)
			}
			_, rest, _ := strings.Cut(string(stat), ") ")
			shim, _ := strconv.Atoi(strings.Fields(rest)[1]) // ppid
			if engine == "dead" {
				e.Kill()
			}
			if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			testkit.Eventually(t, "the container is dead", func() bool {
				_, err := os.Stat("/proc/" + pid)
				return os.IsNotExist(err)
			})
			if engine == "dead" {
				e.Start()
			}
			testkit.Eventually(t, "it is recorded", func() bool {
				return e.Must("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", id) == "exited 137"
			})
			if got := e.Must("inspect", "-f", "{{.State.Error}}", id); !strings.Contains(got, "supervisor lost") {
				t.Errorf("reason %q", got)
			}
		})
	}
}

func TestEndingContainersTakesAwayWhatAKilledEngineLeft(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Must("network", "create", "left")
	if len(e.Interfaces()) == 0 {
		t.Fatal("a network has no bridge")
	}
	end := append(e.Command()[1:], "--end-containers")
	e.Kill()
	if r := e.Run("", e.Command()[0], end...); r.Code != 0 {
		t.Fatalf("berthd --end-containers: %s", r.Stderr)
	}
	if left := e.NetworkLeaks(); len(left) > 0 {
		t.Errorf("after a killed engine without containers: %q", left)
	}
	e.Start()
	e.Must("network", "inspect", "left")
	if r := e.Run("", e.Command()[0], end...); r.Code != 0 {
		t.Errorf("berthd --end-containers beside an engine without containers: %s", r.Stderr)
	}
	if code := e.Await(); code != 0 {
		t.Errorf("the engine that served ended with %d", code)
	}
}

func TestWhatABootStartsComesInOrder(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	for _, flags := range []string{"--name db", "--name app --network container:db", "--name web --link db", "--name sidecar --network none --volumes-from web"} {
		e.Must(strings.Fields("run -d --restart always " + flags + " busybox sleep 1000")...)
	}
	if r := e.Run("", e.Command()[0], append(e.Command()[1:], "--end-containers")...); r.Code != 0 { // as at a shutdown
		t.Fatalf("berthd --end-containers: %s", r.Stderr)
	}
	e.Await()
	e.Start()
	for _, name := range []string{"db", "app", "web", "sidecar"} {
		testkit.Eventually(t, name+" runs", func() bool { return e.Must("inspect", "-f", "{{.State.Running}}", name) == "true" })
		if count := e.Must("inspect", "-f", "{{.RestartCount}}", name); count != "0" {
			t.Errorf("%s took %s attempts more", name, count)
		}
	}
}
