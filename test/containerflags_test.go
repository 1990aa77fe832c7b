package test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"berth/testkit"
)

func TestExecFlagsTakeEffect(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	env := filepath.Join(e.Dir, "env")
	write(t, env, "# a comment\nPLAIN=1\nQUOTED=\"a b\"\nFROM_FILE\n")
	e.Must("run", "-d", "--name", "box", "--network", "none", "-e", "OWN=own", "-w", "/tmp", "-u", "12:34", "--group-add", "56", "busybox", "sleep", "1000")
	for _, c := range []struct{ flags, shell, want string }{
		{``, `echo $OWN $PWD $(id -u):$(id -g) $(id -G) $HOME; grep CapEff /proc/self/status; tty`, `^own /tmp 12:34 34 56 /\nCapEff:\t0+\nnot a tty$`},
		{`--env-file ` + env + ` -e PLAIN=2 -e OWN=`, `env | grep -E '^(PLAIN|QUOTED|OWN|FROM_FILE)' | sort`, `^FROM_FILE=client's\nOWN=\nPLAIN=2\nQUOTED="a b"$`},
		{`-u 0`, `id -u; grep CapEff /proc/self/status`, `^0\nCapEff:\t00000000a80425fb$`},
		{`-u app --workdir /usr`, `id -un; id -G; echo $HOME $PWD`, `^app\n1002 1003\n/home/app /usr$|^app\n1002 .*\n/home/app /usr$`},
		{`--privileged -u 0`, `grep CapEff /proc/self/status`, `CapEff:\t00000[01]f`},
		{`-t`, `tty; echo $TERM`, `^/dev/(pts/0|console)\r\nxterm\r$`},
		{`-d`, `true`, `^$`},
	} {
		args := append([]string{"exec"}, strings.Fields(c.flags)...)
		r := withVariables(e, append(args, "box", "sh", "-c", c.shell)...)
		if out := strings.TrimSuffix(r.Stdout, "\n"); r.Code != 0 && !strings.Contains(c.shell, "tty") || !regexp.MustCompile(c.want).MatchString(out) {
			t.Errorf("exec %s: exit %d, %q %q, want %s", c.flags, r.Code, out, r.Stderr, c.want)
		}
	}
	if r := e.Run("typed", filepath.Join(e.Bin, "berth"), "exec", "-i", "box", "cat"); r.Stdout != "typed" || r.Code != 0 {
		t.Errorf("exec -i: %+v", r)
	}
	if r := e.Berth("exec", "--detach-keys", "ctrl-", "box", "true"); r.Code == 0 || !strings.Contains(r.Stderr, "detach") {
		t.Errorf("keys that nobody can type: %+v", r)
	}
	p := e.Terminal("exec", "-it", "--detach-keys", "a,b", "box", "sh", "-c", "echo ready; cat")
	p.Expect("ready")
	p.Type("ab")
	if code := p.Exit(); code != 0 {
		t.Errorf("detached: exit %d", code)
	}
	if top := e.Must("top", "box"); !strings.Contains(top, "cat") {
		t.Errorf("detaching ended the command: %s", top)
	}
}

func TestUpdateOfAStoppedContainerHoldsAtItsNextStart(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("create", "--name", "idle", "--network", "none", "-m", "64m", "busybox", "sh", "-c",
		"cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpuset/cpuset.cpus /sys/fs/cgroup/cpuset.cpus 2>/dev/null | xargs")
	e.Must("create", "--name", "other", "busybox", "true")
	if out := e.Must("update", "-m", "48m", "--memory-swap", "96m", "--memory-reservation", "32m", "--pids-limit", "33", "--cpuset-cpus", "0", "--cpu-shares", "700", "--blkio-weight", "400", "--cpus", "0.4", "--restart", "on-failure:2", "idle", "other"); out != "idle\nother" && out != "other\nidle" {
		t.Errorf("update says %q", out)
	}
	const asked = "50331648 100663296 33554432 33 0 700 400000000 on-failure 2"
	for _, name := range []string{"idle", "other"} {
		if got := e.Must("inspect", "-f", "{{with .HostConfig}}{{.Memory}} {{.MemorySwap}} {{.MemoryReservation}} {{.PidsLimit}} {{.CpusetCpus}} {{.CpuShares}} {{.NanoCpus}} {{.RestartPolicy.Name}} {{.RestartPolicy.MaximumRetryCount}}{{end}}", name); got != asked {
			t.Errorf("%s: %s, want %s", name, got, asked)
		}
	}
	if got := e.Must("start", "-a", "idle"); got != "50331648 33 0" {
		t.Errorf("the kernel has %s", got)
	}
	for _, c := range []struct{ args, why string }{
		{"update --memory 256m idle", "update the memoryswap at the same time"},
		{"update --cpu-period 50000 idle", "CPU Period cannot be updated as NanoCPUs has already been set"},
		{"update --blkio-weight 5 idle", "Range of blkio weight is from 10 to 1000"},
		{"update --restart always:3 idle", "maximum retry count"},
	} {
		if r := e.Berth(strings.Fields(c.args)...); r.Code != 1 || !strings.Contains(r.Stderr, c.why) || strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("%s: %d %q, want %s", c.args, r.Code, r.Stderr, c.why)
		}
	}
}

func TestPsFiltersAreJoinedAsInDocker(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("run", "-d", "--name", "web", "-l", "tier=front", "-l", "app", "-v", "data:/d", "--expose", "81-83", "-p", "127.0.0.1::80", "busybox", "sleep", "1000")
	e.Must("create", "--name", "db", "-l", "tier=back", "-l", "app", "-v", "/srv:/bound", "--network", "none", "busybox", "true")
	e.Berth("run", "--name", "ended", "--network", "none", "busybox", "sh", "-c", "exit 4")
	e.Berth("run", "--name", "killed", "--network", "none", "busybox", "sh", "-c", "kill -9 $$; exit 0")
	id := e.Must("inspect", "-f", "{{.Id}}", "db")
	for _, c := range []struct{ filters, want string }{
		{"name=web name=db", "db web"}, {"name=^/we", "web"}, {"name=e.*d$ status=exited", "ended killed"},
		{"id=" + id[:6], "db"}, {"label=app", "db web"}, {"label=app label=tier=back", "db"}, {"label=tier=front label=tier=back", ""},
		{"status=created status=running", "db web"}, {"status=running label=tier=back", ""},
		{"exited=4", "ended"}, {"exited=4 exited=0", "ended killed"}, {"ancestor=busybox name=web", "web"}, {"ancestor=nosuch", ""},
		{"before=ended", "db web"}, {"since=db", "ended killed"}, {"volume=data", "web"}, {"volume=/bound", "db"}, {"volume=/d volume=/bound", "db web"},
		{"network=none name=db", "db"}, {"network=bridge", "web"}, {"publish=80", "web"}, {"publish=81", ""}, {"expose=82", "web"}, {"expose=80-81/tcp", "web"}, {"expose=82/udp", ""},
		{"health=none name=web", "web"}, {"is-task=true", ""}, {"is-task=false name=db", "db"}, {"isolation=default name=db", "db"},
	} {
		args := []string{"ps", "-a", "--format", "{{.Names}}"}
		for _, f := range strings.Fields(c.filters) {
			args = append(args, "--filter", f)
		}
		for _, run := range []func(...string) testkit.Result{e.Berth, e.Docker} {
			r := run(args...)
			if got := sortedWords(r.Stdout); r.Code != 0 || got != c.want && !(c.filters == "exited=4 exited=0" && got == "ended killed web") {
				t.Errorf("%s: %q (%s), want %q", c.filters, got, strings.TrimSpace(r.Stderr), c.want)
			}
		}
	}
	if got := e.Must("ps", "-n", "2", "--format", "{{.Names}}"); got != "killed\nended" {
		t.Errorf("ps -n 2: %q", got)
	}
	if got := e.Must("ps", "-l", "-q", "--no-trunc"); got != e.Must("inspect", "-f", "{{.Id}}", "killed") {
		t.Errorf("ps -l: %q", got)
	}
	for _, alias := range []string{"container ls", "container list", "container ps"} {
		if got := e.Must(append(strings.Fields(alias), "--format", "{{.Names}}")...); got != "web" {
			t.Errorf("%s: %q", alias, got)
		}
	}
}

func sortedWords(s string) string {
	return strings.Join(slices.Sorted(strings.FieldsSeq(s)), " ")
}

func TestRmTakesLinksAndAnonymousVolumes(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("run", "-d", "--name", "db", "busybox", "sleep", "1000")
	e.Must("run", "-d", "--name", "web", "--link", "db:store", "--link", "db", "-v", "/anonymous", "-v", "named:/n", "busybox", "sleep", "1000")
	hosts := func() string { return e.Must("exec", "web", "cat", "/etc/hosts") }
	if was := hosts(); !strings.Contains(was, "\tstore ") {
		t.Fatalf("no link: %s", was)
	}
	e.Must("rm", "--link", "web/store")
	if links := e.Must("inspect", "-f", "{{json .HostConfig.Links}}", "web"); links != `["/db:/web/db"]` || strings.Contains(hosts(), "store") || !strings.Contains(hosts(), "\tdb ") {
		t.Errorf("links %s, hosts\n%s", links, hosts())
	}
	e.MustDocker("rm", "-l", "/web/db")
	if links := e.Must("inspect", "-f", "{{json .HostConfig.Links}}", "web"); links != `[]` && links != `null` || strings.Contains(hosts(), "\tdb") {
		t.Errorf("links %s, hosts\n%s", links, hosts())
	}
	for _, c := range []struct{ name, why string }{{"web", "cannot remove the default link name"}, {"web/store", "No such container: web/store"}, {"nobody/x", "Cannot get parent /nobody"}} {
		if r := e.Berth("rm", "-l", c.name); r.Code != 1 || !strings.Contains(r.Stderr, c.why) {
			t.Errorf("rm -l %s: %d %s", c.name, r.Code, r.Stderr)
		}
	}
	if r := e.Berth("rm", "-v", "web"); r.Code != 1 || !strings.Contains(r.Stderr, "container is running: stop the container before removing or force remove") {
		t.Errorf("a running one: %d %s", r.Code, r.Stderr)
	}
	e.Must("restart", "-t", "0", "web")
	e.Must("rm", "-f", "-v", "web")
	if left := e.Must("volume", "ls", "-q"); left != "named" {
		t.Errorf("volumes left: %s", left)
	}
}

func TestStartAttachedWithInputAndItsOwnDetachKeys(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("create", "--name", "cat", "-i", "--network", "none", "busybox", "sh", "-c", "cat; exit 5")
	if r := e.Run("typed", filepath.Join(e.Bin, "berth"), "start", "-a", "-i", "cat"); r.Stdout != "typed" || r.Code != 5 {
		t.Errorf("start -ai: %+v", r)
	}
	e.Must("create", "--name", "term", "-it", "--network", "none", "busybox", "sh", "-c", "echo ready; cat")
	p := e.Terminal("start", "-ai", "--detach-keys", "x,y", "term")
	p.Expect("ready")
	p.Type("xy")
	if code := p.Exit(); code != 0 {
		t.Errorf("detached: exit %d", code)
	}
	if state := e.Must("inspect", "-f", "{{.State.Status}}", "term"); state != "running" {
		t.Errorf("detaching ended it: %s", state)
	}
}

func TestFlagsOfAttachStopRestartKillAndInspect(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	const traps = `trap 'echo got INT' INT; trap 'echo got USR1' USR1; trap 'echo got TERM; exit 3' TERM; trap 'echo got HUP; exit 4' HUP; dd if=/dev/zero of=/big bs=1k count=100 2>/dev/null; echo ready; while :; do echo tick; sleep 0.05; done`
	said := func(name, want string) {
		t.Helper()
		testkit.Eventually(t, name+" says "+want, func() bool { return strings.Contains(e.Berth("logs", name).Stdout, want) })
	}
	for _, name := range []string{"one", "two", "three"} {
		e.Must("run", "-d", "--name", name, "--network", "none", "busybox", "sh", "-c", traps)
		said(name, "ready")
	}
	e.Must("kill", "--signal", "USR1", "one")
	said("one", "got USR1")
	e.Must("kill", "-s", "2", "one")
	said("one", "got INT")
	e.Must("stop", "--signal", "HUP", "--timeout", "20", "one")
	if got := e.Must("inspect", "-f", "{{.State.ExitCode}}", "one"); got != "4" {
		t.Errorf("stopped by HUP: %s", got)
	}
	e.Must("restart", "--signal", "TERM", "--time", "20", "two")
	said("two", "got TERM")
	e.Must("stop", "--time", "0", "two")
	e.Must("restart", "--timeout", "0", "two")
	if got := e.Must("inspect", "--type", "container", "--size", "-f", "{{.SizeRw}} {{.SizeRootFs}}", "three"); !regexp.MustCompile(`^102400 \d{7}$`).MatchString(got) {
		t.Errorf("inspect -s: %s", got)
	}
	if got := e.Must("container", "inspect", "-s", "-f", "{{.SizeRw}}", "three"); got != "102400" {
		t.Errorf("container inspect -s: %s", got)
	}
	if got := e.Must("ps", "--size", "--format", "{{.Size}}", "--filter", "name=three"); !strings.HasPrefix(got, "102kB (virtual ") {
		t.Errorf("ps -s: %s", got)
	}
	if got := e.Must("inspect", "--type", "image", "-f", "{{.Os}}", "busybox"); got != "linux" {
		t.Errorf("inspect --type image: %s", got)
	}
	if r := e.Berth("inspect", "--type", "volume", "three"); r.Code != 1 || !strings.Contains(r.Stderr, "no such volume") || strings.TrimSpace(r.Stdout) != "[]" {
		t.Errorf("inspect --type volume: %+v", r)
	}

	p := e.Terminal("attach", "--no-stdin", "--sig-proxy=false", "three")
	p.Expect("tick")
	e.Must("kill", "-s", "USR1", "three")
	p.Expect("got USR1")
	p.Type("\x03") // an interrupt that nobody passes on ends the client
	if code := p.Exit(); code == 0 {
		t.Errorf("an interrupted client exits with %d", code)
	}
	if logs := e.Must("logs", "three"); strings.Contains(logs, "got INT") {
		t.Errorf("--sig-proxy=false passed a signal on: %s", logs)
	}
	e.Must("run", "-dit", "--name", "term", "--network", "none", "busybox", "cat")
	p = e.Terminal("attach", "--detach-keys", "q,q", "term")
	p.Type("hello\r")
	p.Expect("hello")
	p.Type("qq")
	p.Expect("read escape sequence") // and 1, as Docker's
	if code := p.Exit(); code != 1 || e.Must("inspect", "-f", "{{.State.Status}}", "term") != "running" {
		t.Errorf("detached: exit %d", code)
	}
	e.Must("run", "-d", "--name", "short", "--network", "none", "busybox", "sh", "-c", "while [ ! -e /end ]; do sleep 0.05; done; echo over")
	attached := make(chan testkit.Result)
	go func() {
		attached <- e.Berth("attach", "--no-stdin", "--sig-proxy=true", "--detach-keys", "ctrl-x", "short")
	}()
	e.Must("exec", "short", "touch", "/end")
	if r := <-attached; r.Code != 0 && !strings.Contains(r.Stderr, "stopped container") {
		t.Errorf("attach: %+v", r)
	}
	p = e.Terminal("run", "-it", "--name", "left", "--network", "none", "--detach-keys", "d,e", "busybox", "cat")
	p.Type("hello\r")
	p.Expect("hello")
	p.Type("de")
	if code := p.Exit(); code != 0 || e.Must("inspect", "-f", "{{.State.Status}}", "left") != "running" {
		t.Errorf("run detached: exit %d", code)
	}
	e.Must("rm", "-f", "left", "short")
	e.Must("update", "--cpuset-mems", "0", "--kernel-memory", "1g", "term")
	e.Must("rm", "-f", "one", "two", "three", "term")
}
