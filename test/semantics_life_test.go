package test

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"berth/testkit"
)

var lifeSemantics = []semantic{
	{
		name:  "PID 1 hears only the signals that it handles",
		holds: "kill -9 of PID 1 from inside is ignored (exit 0 seen), and TERM is ignored if PID 1 has no handler: stop waits 10 s then KILL => 137; with --init 143 at once",
		test:  deafInit,
	},
	{
		name:  "stop gives the handler's exit code",
		holds: "docker stop exits container code of the handler (trap exit 9 => 9); StopSignal/StopTimeout come from image/config, -s/-t override; -t -1 waits forever",
		test:  stopping,
	},
	{
		name:  "a signal by hand cancels the restart policy",
		holds: `docker kill -s HUP marks the container "manually stopped", and cancels the restart policy for the next exit unless Config.StopSignal is set to another signal`,
		test:  signalsByHand,
	},
	{
		name:  "restart policies after the engine's restart",
		holds: "restart=always container that was stopped/killed by hand starts again after daemon restart; unless-stopped stays down; on-failure is started again when the daemon shutdown killed it",
		differs: "containers live on when the engine ends, so its restart is no event in their lives. One with restart=always that was stopped by hand " +
			"starts again after a reboot, not when an engine starts for the next command",
		test: policiesAfterRestart,
	},
	{
		name:  "restarts are counted and come ever more slowly",
		holds: "restart backoff 100 ms doubling to max 1 min, reset after 10 s of uptime; RestartCount shown; manual restart does not count; --rm with --restart is refused",
		test:  backOff,
	},
	{
		name:  "an OOM kill is told, also a child's",
		holds: "OOM: State.OOMKilled=true and 137, an OOM-killed child sets the flag while PID 1 lives on",
		test:  outOfMemory,
	},
	{
		name:  "wait in all conditions",
		holds: "wait with default condition returns at once (0) for a created container; next-exit blocks even if already exited",
		test:  waiting,
	},
	{
		name:  "--rm is the engine's work",
		holds: "--rm removal is done by the daemon (works with -d), happens after exit event; wait removed tells the end",
		test:  removedByItself,
	},
	{
		name:  "health",
		holds: "health: starting until first success or retries exhausted, FailingStreak keeps growing, one success heals; start-period failures not counted; exec env/user of the container; status resets on start; paused stops probes",
		test:  healthChecks,
	},
	{
		name:  "exec",
		holds: "exec into paused/stopped => 409 exit 1; exec adds env, keeps user/workdir of config; -d returns 0 always; exit code only by inspect",
		test:  execs,
	},
}

func (s *subject) awaitStatus(name, status string) {
	s.Helper()
	s.eventually(name+" is "+status, func() bool { return s.do("inspect", "-f", "{{.State.Status}}", name).Stdout == status+"\n" })
}

// awaitLog waits until a container has written a line.
func (s *subject) awaitLog(name, line string) {
	s.Helper()
	s.eventually(name+" says "+line, func() bool {
		r := s.do("logs", name)
		return strings.Contains(r.Stdout+r.Stderr, line)
	})
}

func deafInit(s *subject) {
	s.must("run", "-d", "--name", "deaf", "busybox", "sleep", "1000")
	s.says("", "exec", "deaf", "kill", "-9", "1")
	s.says("", "exec", "deaf", "kill", "-TERM", "1")
	s.says("true", "inspect", "-f", "{{.State.Running}}", "deaf")
	since := time.Now()
	s.says("deaf", "stop", "deaf")
	if took := time.Since(since); took < 9900*time.Millisecond {
		s.Errorf("stop waited %s only", took)
	}
	s.says("exited 137", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "deaf")
	s.must("rm", "deaf")

	if _, err := exec.LookPath("docker-init"); err != nil && s.dockerd() {
		return
	}
	s.must("run", "-d", "--init", "--name", "hearing", "busybox", "sh", "-c", "echo ready; exec sleep 1000")
	s.awaitLog("hearing", "ready") // before that it is like any PID 1
	s.must("stop", "hearing")
	s.says("exited 143", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "hearing")
	s.must("rm", "hearing")
}

func stopping(s *subject) {
	// A container that tells which signal it got, waits for /go and ends with a code.
	const handler = `for s in TERM USR1 INT; do trap "echo got $s; n=0; while [ -e /hold ] && [ \$n -lt 600 ]; do sleep 0.05; n=\$((n+1)); done; exit 9" $s; done; echo ready; while :; do sleep 0.05; done`
	start := func(name string, args ...string) {
		s.Helper()
		s.must(append(append([]string{"run", "-d", "--name", name}, args...), "sh", "-c", handler)...)
		s.awaitLog(name, "ready")
	}
	ended := func(name, got string, code string) {
		s.Helper()
		if said := s.must("logs", name); said != "ready\n"+got && (code != "137" || said != "ready") { // who is killed may not have come to say it
			s.Errorf("%s says %q, want %q", name, said, "ready\n"+got)
		}
		s.says(code, "inspect", "-f", "{{.State.ExitCode}}", name)
		s.must("rm", name)
	}
	s.must("create", "--name", "stopsignalmaker", "--stop-signal", "USR1", "busybox")
	s.must("commit", "stopsignalmaker", "stopsignal")
	s.must("rm", "stopsignalmaker")

	start("stop1", "busybox")
	s.must("stop", "stop1")
	ended("stop1", "got TERM", "9")

	start("stop2", "stopsignal")
	s.must("stop", "stop2")
	ended("stop2", "got USR1", "9")

	start("stop3", "--stop-signal", "INT", "stopsignal")
	s.must("stop", "stop3")
	ended("stop3", "got INT", "9")

	if !s.dockerd() { // 20.10 does not know -s
		start("stop4", "--stop-signal", "INT", "stopsignal")
		s.must("stop", "-s", "TERM", "stop4")
		ended("stop4", "got TERM", "9")
	}

	start("stop5", "--stop-timeout", "1", "busybox") // the config's timeout ends it
	s.must("exec", "stop5", "touch", "/hold")
	s.must("stop", "stop5")
	ended("stop5", "got TERM", "137")

	start("stop6", "--stop-timeout", "600", "busybox") // -t wins
	s.must("exec", "stop6", "touch", "/hold")
	s.must("stop", "-t", "1", "stop6")
	ended("stop6", "got TERM", "137")

	start("stop7", "--stop-timeout", "0", "busybox") // -1: as long as it takes
	s.must("exec", "stop7", "touch", "/hold")
	stop := s.begin("stop", "-t", "-1", "stop7")
	s.awaitLog("stop7", "got TERM")
	s.must("exec", "stop7", "rm", "/hold")
	if code := stop.end(); code != 0 {
		s.Errorf("stop -t -1 ends with %d: %s", code, stop.errs.String())
	}
	ended("stop7", "got TERM", "9")
}

func signalsByHand(s *subject) {
	const handler = `trap "exit 3" USR1; trap "echo heard" HUP; echo ready; while :; do sleep 0.05; done`
	start := func(name string, args ...string) {
		s.Helper()
		s.must(append(append([]string{"run", "-d", "--restart", "always", "--name", name}, args...), "busybox", "sh", "-c", handler)...)
		s.awaitLog(name, "ready")
	}
	start("byhand1")
	s.must("kill", "-s", "USR1", "byhand1")
	s.awaitStatus("byhand1", "exited")
	s.says("3 0", "inspect", "-f", "{{.State.ExitCode}} {{.RestartCount}}", "byhand1")

	start("byhand2") // a signal that it survives cancels too
	s.must("kill", "-s", "HUP", "byhand2")
	s.awaitLog("byhand2", "heard")
	s.do("exec", "byhand2", "kill", "-USR1", "1")
	s.awaitStatus("byhand2", "exited")
	s.says("3 0", "inspect", "-f", "{{.State.ExitCode}} {{.RestartCount}}", "byhand2")

	start("byhand3", "--stop-signal", "INT")
	s.must("kill", "-s", "USR1", "byhand3")
	s.eventually("byhand3 is started again", func() bool { return s.inspect("byhand3", "{{.RestartCount}} {{.State.Running}}") == "1 true" })

	s.must("rm", "-f", "byhand1", "byhand2", "byhand3")
}

func policiesAfterRestart(s *subject) {
	e := testkit.StartEngine(s.T, testkit.EngineOptions{})
	e.Busybox()
	e.Must("run", "-d", "--name", "running", "--restart", "on-failure", "busybox", "sleep", "1000")
	for _, policy := range []string{"always", "unless-stopped"} {
		e.Must("run", "-d", "--name", policy, "--restart", policy, "busybox", "sleep", "1000")
		e.Must("stop", "-t", "0", policy)
		e.Must("run", "-d", "--name", policy+"-killed", "--restart", policy, "busybox", "sleep", "1000")
		e.Must("kill", policy+"-killed")
	}
	started := e.Must("inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", "running")
	e.Stop()
	e.Start()
	if now := e.Must("inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", "running"); now != started {
		s.Errorf("the container that ran was started at %s, now %s", started, now)
	}
	for _, name := range []string{"always", "always-killed", "unless-stopped", "unless-stopped-killed"} {
		if got := e.Must("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name); got != "exited 137" {
			s.Errorf("%s: %s", name, got)
		}
	}
	// What a reboot does: TestAnEngineAfterARebootStartsWhatThePoliciesSay in engine.
}

func backOff(s *subject) {
	s.ends(125, `(?i)conflicting options: cannot specify both --restart and --rm`, "run", "--rm", "--restart", "always", "busybox", "true")
	if a := s.api("POST", "/containers/create", `{"Image":"busybox","HostConfig":{"AutoRemove":true,"RestartPolicy":{"Name":"always"}}}`); a.status != 400 || !strings.Contains(a.message, "AutoRemove") {
		s.Errorf("create with both: %d %s", a.status, a.body)
	}
	told := s.events("backoff")
	s.must("run", "-d", "--name", "backoff", "--restart", "on-failure:3", "busybox", "sh", "-c", "exit 5")
	s.eventually("it has given up", func() bool { return s.inspect("backoff", "{{.State.Status}} {{.RestartCount}}") == "exited 3" })
	var died, began []int64
	s.eventually("its last end is told", func() bool {
		died, began = nil, nil
		for _, e := range told.all() {
			switch e.Action {
			case "die":
				died = append(died, e.TimeNano)
			case "start":
				began = append(began, e.TimeNano)
			}
		}
		return len(died) == 4
	})
	for n, least := range []time.Duration{100, 200, 400} {
		if len(began) == 4 && time.Duration(began[n+1]-died[n]) < least*time.Millisecond {
			s.Errorf("restart %d came after %s", n+1, time.Duration(began[n+1]-died[n]))
		}
	}
	if len(began) != 4 {
		s.Errorf("%d starts", len(began))
	}
	s.must("rm", "backoff")

	s.must("run", "-d", "--name", "manual", "--restart", "always", "busybox", "sleep", "1000")
	s.must("restart", "-t", "0", "manual")
	s.says("0 true", "inspect", "-f", "{{.RestartCount}} {{.State.Running}}", "manual")
	s.must("rm", "-f", "manual")
}

func outOfMemory(s *subject) {
	const eat = `x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done`
	s.must("run", "-d", "--name", "oom1", "--memory", "16m", "--memory-swap", "16m", "busybox", "sh", "-c", eat)
	s.says("137", "wait", "oom1")
	s.says("true 137 exited", "inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}} {{.State.Status}}", "oom1")

	s.must("run", "-d", "--name", "oom2", "--memory", "16m", "--memory-swap", "16m", "busybox", "sh", "-c", "sh -c '"+eat+"'; echo child ended; sleep 1000")
	s.awaitLog("oom2", "child ended")
	if s.dockerd() { // 20.10 tells it at the end
		s.must("stop", "-t", "0", "oom2")
		s.says("true", "inspect", "-f", "{{.State.OOMKilled}}", "oom2")
		return
	}
	s.eventually("the flag is set", func() bool { return s.inspect("oom2", "{{.State.OOMKilled}} {{.State.Running}}") == "true true" })
	s.must("rm", "-f", "oom1", "oom2")
}

func waiting(s *subject) {
	s.must("create", "--name", "waited", "busybox", "sh", "-c", "n=$(cat /n 2>/dev/null || echo 3); echo 4 >/n; exit $n")
	code := func(body string) int {
		var said struct{ StatusCode *int }
		if err := json.Unmarshal([]byte(body), &said); err != nil || said.StatusCode == nil {
			s.Fatalf("wait answers %q", body)
		}
		return *said.StatusCode
	}
	for _, condition := range []string{"", "?condition=not-running"} {
		if a := s.api("POST", "/containers/waited/wait"+condition, ""); a.status != 200 || code(a.body) != 0 {
			s.Errorf("wait%s for a created container: %d %s", condition, a.status, a.body)
		}
	}
	next := func() int {
		resp := s.open(s.Context(), "POST", "/containers/waited/wait?condition=next-exit", "")
		defer resp.Body.Close()
		s.must("start", "waited") // the wait is there: its status has been answered
		var said struct{ StatusCode int }
		if err := json.NewDecoder(resp.Body).Decode(&said); err != nil {
			s.Fatal(err)
		}
		return said.StatusCode
	}
	if got := next(); got != 3 {
		s.Errorf("next-exit of a created container: %d", got)
	}
	if got := next(); got != 4 {
		s.Errorf("next-exit of an exited container: %d, the code of its first run was 3", got)
	}
	s.says("4", "wait", "waited")
	s.must("rm", "waited")
}

func removedByItself(s *subject) {
	told := s.events("selfremoved")
	s.must("create", "--rm", "--name", "selfremoved", "busybox", "sh", "-c", "exit 6")
	resp := s.open(s.Context(), "POST", "/containers/selfremoved/wait?condition=removed", "")
	defer resp.Body.Close()
	s.must("start", "selfremoved")
	var said struct{ StatusCode int }
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil || said.StatusCode != 6 {
		s.Errorf("wait removed: %d, %v", said.StatusCode, err)
	}
	if a := s.api("GET", "/containers/selfremoved/json", ""); a.status != 404 {
		s.Errorf("after that it answers %d", a.status)
	}
	told.await("destroy")
	if actions := told.actions(); !slices.Equal(actions, []string{"create", "start", "die", "destroy"}) {
		s.Errorf("events: %q", actions)
	}

	id := s.must("run", "-d", "--rm", "busybox", "true")
	s.eventually("it removes itself", func() bool { return s.do("inspect", id).Code == 1 })
}

func execs(s *subject) {
	s.must("run", "-d", "--name", "execs", "-u", "app", "-w", "/var", "-e", "OWN=1", "busybox", "sleep", "1000")
	s.says("1001:1002 /var 1 2", "exec", "-e", "MORE=2", "execs", "sh", "-c", "echo $(id -u):$(id -g) $PWD $OWN $MORE")
	s.says("0:0 /tmp 1", "exec", "-u", "0", "-w", "/tmp", "execs", "sh", "-c", "echo $(id -u):$(id -g) $PWD $OWN$MORE")
	s.ends(5, "^$", "exec", "execs", "sh", "-c", "exit 5")
	s.ends(0, "^$", "exec", "-d", "execs", "sh", "-c", "exit 5")

	var made struct{ ID string }
	a := s.api("POST", "/containers/execs/exec", `{"Cmd":["sh","-c","exit 7"]}`)
	if err := json.Unmarshal([]byte(a.body), &made); err != nil || a.status != 201 {
		s.Fatalf("exec create: %d %s", a.status, a.body)
	}
	if a := s.api("POST", "/exec/"+made.ID+"/start", `{"Detach":true}`); a.status != 200 {
		s.Errorf("exec start -d: %d %s", a.status, a.body)
	}
	s.eventually("its exit code is 7", func() bool {
		return regexp.MustCompile(`"Running":false,"ExitCode":7|"ExitCode":7,.*"Running":false`).MatchString(s.api("GET", "/exec/"+made.ID+"/json", "").body)
	})

	// Whether the stream has frames, the start says, not the creation.
	for _, tty := range []bool{false, true} {
		for _, raw := range []bool{false, true} {
			want := "hi\n"
			if tty {
				want = "hi\r\n"
			}
			if !raw {
				want = string([]byte{1, 0, 0, 0, 0, 0, 0, byte(len(want))}) + want
			}
			a := s.api("POST", "/containers/execs/exec", fmt.Sprintf(`{"Cmd":["echo","hi"],"Tty":%v,"AttachStdout":true,"AttachStderr":true}`, tty))
			if err := json.Unmarshal([]byte(a.body), &made); err != nil || a.status != 201 {
				s.Fatalf("exec create: %d %s", a.status, a.body)
			}
			if a := s.api("POST", "/exec/"+made.ID+"/start", fmt.Sprintf(`{"Tty":%v}`, raw)); a.status != 200 || a.body != want {
				s.Errorf("exec with Tty %v, started with %v: %d %q, want %q", tty, raw, a.status, a.body, want)
			}
		}
	}

	s.must("pause", "execs")
	s.ends(1, `is paused, unpause the container before exec`, "exec", "execs", "true")
	if a := s.api("POST", "/containers/execs/exec", `{"Cmd":["true"]}`); a.status != 409 {
		s.Errorf("exec in a paused container: %d %s", a.status, a.body)
	}
	s.must("unpause", "execs")
	s.must("stop", "-t", "0", "execs")
	s.ends(1, `is not running`, "exec", "execs", "true")
	if a := s.api("POST", "/containers/execs/exec", `{"Cmd":["true"]}`); a.status != 409 {
		s.Errorf("exec in a stopped container: %d %s", a.status, a.body)
	}
	s.must("rm", "execs")
}

// probes is what is told of a container's health.
type probes struct {
	Status        string
	FailingStreak int
	Log           []struct {
		Start    time.Time
		ExitCode int
		Output   string
	}
}

func (s *subject) health(name string) (h probes) {
	s.Helper()
	if err := json.Unmarshal([]byte(s.inspect(name, "{{json .State.Health}}")), &h); err != nil {
		s.Fatal(err)
	}
	return h
}

func healthChecks(s *subject) {
	start := func(name string, flags ...string) {
		s.must(append(append([]string{"run", "-d", "--name", name, "--health-interval", "100ms"}, flags...), "busybox", "sleep", "1000")...)
	}
	start("sick", "--health-cmd", "test -e /ok", "--health-retries", "2")
	s.eventually("it is unhealthy", func() bool { return s.health("sick").Status == "unhealthy" })
	s.eventually("the streak goes on", func() bool {
		h := s.health("sick")
		return h.Status == "unhealthy" && h.FailingStreak > 4 && len(h.Log) == 5
	})
	s.looks(`\(unhealthy\)$`, "ps", "--filter", "name=^sick$", "--format", "{{.Status}}")
	s.must("exec", "sick", "touch", "/ok")
	s.eventually("one success heals", func() bool { h := s.health("sick"); return h.Status == "healthy" && h.FailingStreak == 0 })
	s.says("sick", "ps", "--filter", "health=healthy", "--filter", "name=^sick$", "--format", "{{.Names}}")

	s.must("pause", "sick")
	paused := time.Now()
	last := func() time.Time { l := s.health("sick").Log; return l[len(l)-1].Start }
	time.Sleep(600 * time.Millisecond) // six intervals: what does not happen cannot be waited for
	if now := last(); now.After(paused) {
		s.Errorf("a container that was paused at %s was probed at %s", paused, now)
	}
	s.must("unpause", "sick")
	s.eventually("probes go on", func() bool { return last().After(paused) })

	start("patient", "--health-cmd", "test -e /ok", "--health-retries", "100000")
	s.eventually("it is starting all the time", func() bool { h := s.health("patient"); return h.Status == "starting" && h.FailingStreak > 2 })
	s.must("exec", "patient", "touch", "/ok")
	s.eventually("the first success counts", func() bool { return s.health("patient").Status == "healthy" })
	s.must("exec", "patient", "rm", "/ok")
	s.must("restart", "-t", "0", "patient")
	if h := s.health("patient"); h.Status != "starting" {
		s.Errorf("after a restart: %+v", h)
	}

	start("young", "--health-cmd", "exit 1", "--health-retries", "1", "--health-start-period", "1h")
	s.eventually("failures do not count", func() bool {
		h := s.health("young")
		return len(h.Log) > 2 && h.Status == "starting" && h.FailingStreak == 0
	})

	start("itself", "-u", "app", "-e", "OWN=7", "-w", "/var", "--health-cmd", "echo $(id -u) $OWN $PWD")
	s.eventually("it has been probed", func() bool { return s.health("itself").Status == "healthy" })
	if l := s.health("itself").Log; l[0].Output != "1001 7 /var\n" {
		s.Errorf("the probe says %q", l[0].Output)
	}
	s.must("rm", "-f", "sick", "patient", "young", "itself")
}
