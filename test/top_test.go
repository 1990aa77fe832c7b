package test

import (
	"strings"
	"testing"

	"berth/testkit"
)

func TestTopTakesOptionsOfPs(t *testing.T) {
	testkit.NeedTool(t, "ps")
	eachClient(t, func(t *testing.T, e *testkit.Engine, c client) {
		c.must(e, "run", "-d", "--name", "watched", "--network", "none", "busybox", "sh", "-c", "sleep 1000 & wait")
		defer c.must(e, "rm", "-f", "watched")
		pid := e.Must("inspect", "-f", "{{.State.Pid}}", "watched")
		testkit.Eventually(t, "both processes are there", func() bool { return strings.Count(c.must(e, "top", "watched"), "\n") == 2 })
		for _, o := range []struct{ args, titles, first string }{
			{"", "UID PID PPID C STIME TTY TIME CMD", "root " + pid},
			{"aux", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND", "root " + pid},
			{"-eo pid,comm", "PID COMMAND", pid + " sh"},
			{"-o pid,args -o user=WHO", "PID COMMAND WHO", pid + " sh -c sleep 1000 & wait root"},
			{"auxf", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND", "root " + pid},
			{"-eLf", "UID PID PPID LWP C NLWP STIME TTY TIME CMD", "root " + pid},
			{"-eo pid,blocked", "PID BLOCKED", pid},
		} {
			lines := strings.Split(c.must(e, append([]string{"top", "watched"}, strings.Fields(o.args)...)...), "\n")
			fields := func(n int) string { return strings.Join(strings.Fields(lines[n]), " ") }
			// The numbers of processes begin anew now and then, and ps sorts by them.
			if len(lines) != 3 || fields(0) != o.titles || !strings.HasPrefix(fields(1), o.first) && !strings.HasPrefix(fields(2), o.first) {
				t.Errorf("top %s: %q", o.args, lines)
			}
		}
		for _, o := range []struct{ args, says string }{
			{"-o pid,nonsense", `ps: error: unknown user-defined format specifier "nonsense"`},
			{"-o comm=PID", `specifying "comm=PID" is not allowed`},
			{"--no-headers", "Couldn't find PID field in ps output"},
		} {
			if r := c.run(e, append([]string{"top", "watched"}, strings.Fields(o.args)...)...); r.Code != 1 || !strings.Contains(r.Stderr, "Error response from daemon: "+o.says) {
				t.Errorf("top %s: %+v", o.args, r)
			}
		}
	})
}

func TestTopAndStatsOfAnExternalRuntime(t *testing.T) {
	testkit.NeedTool(t, "runc")
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("run", "-d", "--runtime", "runc", "--name", "foreign", "--network", "none", "--memory", "32m", "busybox", "sleep", "1000")
	pid := e.Must("inspect", "-f", "{{.State.Pid}}", "foreign")
	if got := e.Must("top", "foreign", "-eo", "pid,args"); !strings.Contains(got, pid) || !strings.Contains(got, "sleep 1000") {
		t.Errorf("top: %q", got)
	}
	if got := e.Must("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "foreign"); !strings.HasSuffix(got, " / 32MiB 1") {
		t.Errorf("stats: %q", got)
	}
}
