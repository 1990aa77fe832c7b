// Package test drives the built programs end to end, as users do, and reads what the
// kernel says of the result.
package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"berth/testkit"
)

// client is one of the two command lines that must behave alike.
type client struct {
	name string
	run  func(e *testkit.Engine, args ...string) testkit.Result
	must func(e *testkit.Engine, args ...string) string
}

var clients = []client{
	{"berth", (*testkit.Engine).Berth, (*testkit.Engine).Must},
	{"docker", (*testkit.Engine).Docker, (*testkit.Engine).MustDocker},
}

// eachClient runs a test with our command line and with the official one, on one engine.
func eachClient(t *testing.T, test func(t *testing.T, e *testkit.Engine, c client)) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "docker" {
				testkit.DockerCLI(t) // skips this part alone where there is none
			}
			test(t, e, c)
		})
	}
}

func TestLifeOfAContainer(t *testing.T) {
	eachClient(t, func(t *testing.T, e *testkit.Engine, c client) {
		id := c.must(e, "run", "-d", "--network", "none", "--name", "life", "busybox",
			"sh", "-c", `trap "echo bye; exit 9" TERM; echo hello; echo oops >&2; while :; do sleep 0.1; done`)
		if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(id) {
			t.Fatalf("run -d printed %q", id)
		}
		testkit.Eventually(t, "what it says is logged", func() bool {
			r := c.run(e, "logs", "life")
			return strings.Contains(r.Stdout, "hello") && strings.Contains(r.Stderr, "oops")
		})
		r := c.run(e, "logs", "life")
		if r.Stdout != "hello\n" || r.Stderr != "oops\n" {
			t.Errorf("logs: stdout %q, stderr %q", r.Stdout, r.Stderr)
		}
		if ps := c.must(e, "ps", "--format", "{{.Names}} {{.Image}} {{.Status}}"); !regexp.MustCompile(`(?m)^life busybox Up .*second`).MatchString(ps) {
			t.Errorf("ps: %q", ps)
		}
		if out := c.must(e, "exec", "-e", "A=b", "-w", "/tmp", "life", "sh", "-c", "echo $A $(pwd) $$"); !strings.HasPrefix(out, "b /tmp ") {
			t.Errorf("exec: %q", out)
		}
		if r := c.run(e, "exec", "life", "sh", "-c", "exit 42"); r.Code != 42 {
			t.Errorf("exec exits with %d, want 42", r.Code)
		}
		if r := c.run(e, "rm", "life"); r.Code == 0 {
			t.Error("rm of a running container was not refused")
		}
		c.must(e, "stop", "life")
		if got := c.must(e, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}", "life"); got != "exited 9 false" {
			t.Errorf("after stop: %q", got)
		}
		if got := c.must(e, "wait", "life"); got != "9" {
			t.Errorf("wait: %q", got)
		}
		c.must(e, "start", "life")
		testkit.Eventually(t, "it has said hello again", func() bool { return strings.HasSuffix(c.run(e, "logs", "life").Stdout, "bye\nhello\n") })
		c.must(e, "kill", "life")
		if got := c.must(e, "wait", "life"); got != "137" {
			t.Errorf("wait after kill: %q", got)
		}
		if logs := c.run(e, "logs", "life").Stdout; !strings.Contains(logs, "hello\nbye\nhello\n") {
			t.Errorf("logs of two runs: %q", logs)
		}
		c.must(e, "rename", "life", "second")
		c.must(e, "rm", "second")
		if ps := c.must(e, "ps", "-a", "-q"); ps != "" {
			t.Errorf("ps -a after rm: %q", ps)
		}
	})
}

func TestRunGivesOutputAndExitCode(t *testing.T) {
	eachClient(t, func(t *testing.T, e *testkit.Engine, c client) {
		for _, tt := range []struct {
			name           string
			args           []string
			code           int
			stdout, stderr string // regular expressions
		}{
			{"output of both streams", []string{"busybox", "sh", "-c", "echo out; echo err >&2"}, 0, `^out\n$`, `^err\n$`},
			{"the command's exit code", []string{"busybox", "sh", "-c", "exit 3"}, 3, `^$`, `^$`},
			{"death by a signal", []string{"busybox", "sh", "-c", "kill -9 $$; sleep 0.1; exit 5"}, 5, ``, ``},
			{"a missing command", []string{"busybox", "nope"}, 127, `^$`, `executable file not found in \$PATH`},
			{"a missing path", []string{"busybox", "/no/such"}, 127, `^$`, `no such file or directory`},
			{"a file that is not executable", []string{"busybox", "/etc/passwd"}, 126, `^$`, `permission denied`},
			{"a directory", []string{"busybox", "/etc"}, 126, `^$`, `is a directory|permission denied`},
			{"an unknown user", []string{"-u", "nobodyhere", "busybox", "true"}, 125, `^$`, `unable to find user nobodyhere: no matching entries in passwd file`},
			{"an unknown flag", []string{"--no-such-flag", "busybox"}, 125, `^$`, `unknown flag: --no-such-flag`},
			{"a bad size", []string{"-m", "12x", "busybox", "true"}, 125, `^$`, `invalid`},
			{"an unknown image", []string{"--pull", "never", "nosuchimage", "true"}, 125, `^$`, `No such image: nosuchimage`},
			{"a malformed reference", []string{"busybox:a:b", "true"}, 125, `^$`, `invalid reference format`},
			{"a malformed name", []string{"--name", "-x", "busybox", "true"}, 125, `^$`, `Invalid container name`},
			{"a missing env file", []string{"--env-file", "/no/such", "busybox", "true"}, 125, `^$`, `no such file`},
			{"a missing bind source", []string{"--mount", "type=bind,src=/no/such,dst=/x", "busybox", "true"}, 125, `^$`, `bind source path does not exist: /no/such`},
			{"a sysctl of the host", []string{"--sysctl", "kernel.panic=1", "busybox", "true"}, 125, `^$`, `kernel.panic`},
		} {
			t.Run(tt.name, func(t *testing.T) {
				r := c.run(e, append([]string{"run", "--rm", "--network", "none"}, tt.args...)...)
				if r.Code != tt.code || !regexp.MustCompile(tt.stdout).MatchString(r.Stdout) || !regexp.MustCompile(tt.stderr).MatchString(r.Stderr) {
					t.Errorf("exit %d (want %d)\nstdout %q (want %s)\nstderr %q (want %s)", r.Code, tt.code, r.Stdout, tt.stdout, r.Stderr, tt.stderr)
				}
			})
		}
		if left := c.must(e, "ps", "-aq"); left != "" {
			t.Errorf("left in ps -a: %q", left)
		}
	})
}

func TestStdinReachesTheContainer(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	text := strings.Repeat("0123456789abcde\n", 64*1024) // 1 MiB
	for _, program := range []string{filepath.Join(e.Bin, "berth"), testkit.DockerCLI(t)} {
		r := e.Run(text, program, "run", "--rm", "-i", "--network", "none", "busybox", "cat")
		if r.Code != 0 || r.Stdout != text {
			t.Errorf("%s: exit %d, %d bytes came back of %d; stderr %q", program, r.Code, len(r.Stdout), len(text), r.Stderr)
		}
	}
}

func TestWhatTheProcessMayDo(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	bind := filepath.Join(e.Dir, "bound")
	if err := os.Mkdir(bind, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		flags []string
		shell string
		want  string // regular expression
	}{
		{"14 capabilities by default", nil, "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | cut -f2 | tr '\n' ' '",
			`^0000000000000000 00000000a80425fb 00000000a80425fb 00000000a80425fb 0000000000000000`},
		{"none for an ordinary user", []string{"-u", "1001"}, "grep CapEff /proc/self/status", `0000000000000000`},
		{"dropped and added ones", []string{"--cap-drop", "all", "--cap-add", "chown"}, "grep CapEff /proc/self/status", `0000000000000001`},
		{"seccomp is on", nil, "grep Seccomp: /proc/self/status", `2`},
		{"seccomp can be off", []string{"--security-opt", "seccomp=unconfined"}, "grep Seccomp: /proc/self/status", `0`},
		{"no_new_privs on request", []string{"--security-opt", "no-new-privileges"}, "grep NoNewPrivs /proc/self/status", `1`},
		{"it is pid 1", nil, "echo $$", `^1$`},
		{"it sees only its own processes", nil, "ls -d /proc/[0-9]* | wc -l", `^[1-4]$`},
		{"masked paths are empty", nil, "cat /proc/kcore | wc -c; ls /sys/firmware | wc -l", `^0\n0$`},
		{"read-only paths are", nil, "echo 1 > /proc/sys/kernel/panic 2>/dev/null && echo written || echo refused", `refused`},
		{"the host name is the short id", nil, "hostname", `^[0-9a-f]{12}$`},
		{"a host name can be given", []string{"-h", "box"}, "hostname; cat /proc/sys/kernel/hostname", `^box\nbox$`},
		{"the user's groups come from the image", []string{"-u", "app"}, "id", `uid=1001\(app\) gid=1002\(appgroup\) groups=.*1003\(extra\)`},
		{"HOME comes from passwd", []string{"-u", "app"}, "echo $HOME", `^/home/app$`},
		{"groups can be added", []string{"--group-add", "staff", "--group-add", "777"}, "id -G", `50.*777`},
		{"environment", []string{"-e", "A=1", "-e", "B="}, "echo [$A][$B]", `^\[1\]\[\]$`},
		{"a missing working directory is made", []string{"-w", "/a/b"}, "pwd; stat -c %u:%g /a/b", `^/a/b\n0:0$`},
		{"the root can be read-only", []string{"--read-only"}, "touch /x 2>&1 || true; touch /dev/shm/ok && echo fine", `Read-only file system\n.*fine`},
		{"tmpfs", []string{"--tmpfs", "/scratch:size=1m"}, "mount | grep /scratch", `tmpfs on /scratch type tmpfs \(rw,nosuid,nodev,noexec.*size=1024k`},
		{"shm size", []string{"--shm-size", "8m"}, "df -k /dev/shm | tail -1", ` 8192 `},
		{"a bind mount", []string{"-v", bind + ":/data"}, "echo written > /data/f; cat /data/f", `written`},
		{"a read-only bind mount", []string{"-v", bind + ":/data:ro"}, "touch /data/g 2>&1 || true", `Read-only file system`},
		{"memory limit", []string{"-m", "64m"}, "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max", `^67108864$`},
		{"pids limit", []string{"--pids-limit", "17"}, "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max", `^17$`},
		{"cpu limit", []string{"--cpus", "0.5"}, "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cat /sys/fs/cgroup/cpu.max", `^50000`},
		{"file limits", []string{"--ulimit", "nofile=100:200"}, "ulimit -Sn; ulimit -Hn", `^100\n200$`},
		{"sysctl", []string{"--sysctl", "net.ipv4.ip_forward=1"}, "cat /proc/sys/net/ipv4/ip_forward", `^1$`},
		{"low ports are free to all", nil, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", `^0$`},
		{"loopback is up", nil, "ip -o addr show lo | grep -c 127.0.0.1", `^1$`},
		{"devices are the usual", nil, "ls /dev | sort | tr '\n' ' '", `^(core )?fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero`},
		{"a device can be added", []string{"--device", "/dev/kmsg:/dev/mine:r"}, "test -c /dev/mine && echo there", `there`},
		{"other devices are denied", []string{"--cap-add", "MKNOD"}, "mknod /tmp/k c 1 11 && cat /tmp/k 2>&1 | head -1", `Operation not permitted`},
		// Who can mount cgroups of v1, or write there, has a program executed on the host (CVE-2022-0492).
		{"no release agent can be set", nil, `for f in $(find /sys/fs/cgroup -name release_agent); do echo /x > $f && echo written; done 2>/dev/null
			unshare -r true 2>/dev/null && echo "a user namespace"
			mkdir /mnt; for c in memory rdma cpu; do mount -t cgroup -o $c c /mnt 2>/dev/null && echo mounted; done; echo end`, `^end$`},
		{"privileged", []string{"--privileged"}, "grep CapEff /proc/self/status; grep Seccomp: /proc/self/status; test -e /dev/kmsg && echo devices", `(?s)00000[01]ff.*0.*devices`},
		{"the host's pids on request", []string{"--pid", "host"}, fmt.Sprintf("test -d /proc/%d && echo seen", os.Getpid()), `seen`},
		{"the host's network on request", []string{"--network", "host"}, "ls /sys/class/net | wc -l", `^[1-9]`},
		{"oom score", []string{"--oom-score-adj", "500"}, "cat /proc/self/oom_score_adj", `^500$`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{"run", "--rm"}, tt.flags...)
			r := e.Berth(append(args, "busybox", "sh", "-c", tt.shell)...)
			if out := strings.TrimSuffix(r.Stdout, "\n"); r.Code != 0 || !regexp.MustCompile(tt.want).MatchString(out) {
				t.Errorf("exit %d, %q (want %s); stderr %q", r.Code, out, tt.want, r.Stderr)
			}
		})
	}
	if data, _ := os.ReadFile(filepath.Join(bind, "f")); string(data) != "written\n" {
		t.Errorf("the bind mount's source holds %q", data)
	}
}

func TestWhatItIsFromTheHost(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("run", "-d", "--name", "box", "busybox", "sleep", "1000")
	pid, err := strconv.Atoi(e.Must("inspect", "-f", "{{.State.Pid}}", "box"))
	if err != nil || pid <= 0 {
		t.Fatalf("pid: %v", err)
	}
	for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		mine, _ := os.Readlink("/proc/self/ns/" + ns)
		its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		if err != nil || mine == its {
			t.Errorf("namespace %s is ours (%s) or unreadable: %v", ns, its, err)
		}
	}
	cgroup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if !strings.Contains(string(cgroup), e.Cgroup(e.Must("inspect", "-f", "{{.Id}}", "box"))) {
		t.Errorf("cgroup: %s", cgroup)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), e.DataRoot) {
		t.Errorf("something of the container is mounted on the host:\n%s", mounts)
	}
	if top := e.Must("top", "box"); !strings.Contains(top, "sleep 1000") || !strings.HasPrefix(top, "UID") {
		t.Errorf("top: %q", top)
	}
	// --network container:, --pid container: join.
	mine := e.Must("run", "--rm", "--network", "container:box", "--pid", "container:box", "busybox", "sh", "-c", "readlink /proc/self/ns/net; ps | grep -c 'sleep 100[0]'")
	its, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if mine != its+"\n1" {
		t.Errorf("joined: %q, want %q and 1", mine, its)
	}
}

func TestOOMIsRecorded(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	r := e.Berth("run", "--name", "hungry", "-m", "16m", "--network", "none", "busybox", "sh", "-c", "x=x; while :; do x=$x$x; done")
	if got := e.Must("inspect", "-f", "{{.State.ExitCode}} {{.State.OOMKilled}}", "hungry"); r.Code != 137 || got != "137 true" {
		t.Errorf("exit %d, state %q", r.Code, got)
	}
}

func TestNamesAndPrefixes(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	id := e.Must("create", "--name", "one", "busybox")
	for _, ref := range []string{id, id[:12], id[:3], "one", "/one"} {
		if got := e.Must("inspect", "-f", "{{.Id}}", ref); got != id {
			t.Errorf("inspect %s: %s", ref, got)
		}
	}
	r := e.Berth("create", "--name", "one", "busybox")
	want := fmt.Sprintf(`Conflict. The container name "/one" is already in use by container "%s"`, id)
	if r.Code == 0 || !strings.Contains(r.Stderr, want) {
		t.Errorf("a taken name: exit %d, %q", r.Code, r.Stderr)
	}
	// Sixteen more make a one-letter prefix ambiguous for certain.
	for range 16 {
		e.Must("create", "busybox")
	}
	ids := strings.Fields(e.Must("ps", "-aq", "--no-trunc"))
	seen := map[byte]bool{}
	for _, id := range ids {
		if seen[id[0]] {
			if r := e.Berth("inspect", "--type", "container", id[:1]); r.Code != 1 || !strings.Contains(r.Stderr, "multiple IDs found with provided prefix: "+id[:1]) {
				t.Errorf("ambiguous prefix: exit %d, %q", r.Code, r.Stderr)
			}
			break
		}
		seen[id[0]] = true
	}
	if r := e.Berth("inspect", "nosuch"); r.Code != 1 || strings.TrimSpace(r.Stdout) != "[]" {
		t.Errorf("inspect of a missing one: exit %d, %q", r.Code, r.Stdout)
	}
	if r := e.Berth("rm", "-f", "nosuch"); r.Code != 0 {
		t.Errorf("rm -f of a missing one: exit %d", r.Code)
	}
}

func TestWhatComesLaterIsRefusedInOneLine(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	for _, flags := range [][]string{
		{"--network", "mynet"}, {"--gpus", "all"}, {"--link", "x"}, {"--runtime", "nosuch"},
	} {
		r := e.Berth(append(append([]string{"run", "--rm"}, flags...), "busybox", "true")...)
		if r.Code != 125 || strings.Count(strings.TrimSpace(r.Stderr), "\n") > 2 || strings.TrimSpace(r.Stderr) == "" {
			t.Errorf("%v: exit %d, %q", flags, r.Code, r.Stderr)
		}
	}
}

func TestSecondEngineOnTheSameRootSaysWhoHoldsIt(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	argv := e.Command()
	r := e.Run("", argv[0], argv[1:]...)
	if r.Code == 0 || !strings.Contains(r.Stderr, strconv.Itoa(e.Pid())) {
		t.Errorf("exit %d, %q (holder is %d)", r.Code, r.Stderr, e.Pid())
	}
}

func TestInspectIsWhatWasAsked(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("create", "--name", "asked", "-e", "K=v", "-l", "a=b", "-m", "32m", "--cpus", "0.5", "--stop-signal", "INT", "--stop-timeout", "3",
		"--hostname", "h", "--user", "app", "-w", "/tmp", "--cap-add", "SYS_TIME", "--read-only", "--tmpfs", "/t", "-v", "/tmp:/hosttmp:ro", "busybox", "echo", "x")
	var got []struct {
		Path   string
		Args   []string
		Config struct {
			Env, Cmd                                      []string
			Labels                                        map[string]string
			StopSignal, Hostname, User, WorkingDir, Image string
			StopTimeout                                   int
		}
		HostConfig struct {
			Memory, MemorySwap, NanoCpus, ShmSize int64
			Binds, CapAdd                         []string
			ReadonlyRootfs                        bool
			Tmpfs                                 map[string]string
			NetworkMode                           string
		}
		Mounts []struct {
			Type, Source, Destination string
			RW                        bool
		}
	}
	if err := json.Unmarshal([]byte(e.Must("inspect", "asked")), &got); err != nil || len(got) != 1 {
		t.Fatalf("inspect: %v", err)
	}
	g := got[0]
	checks := map[string]bool{
		"path":    g.Path == "echo" && len(g.Args) == 1 && g.Args[0] == "x",
		"env":     strings.Contains(strings.Join(g.Config.Env, " "), "K=v"),
		"labels":  g.Config.Labels["a"] == "b",
		"stop":    strings.HasSuffix(g.Config.StopSignal, "INT") && g.Config.StopTimeout == 3,
		"user":    g.Config.User == "app" && g.Config.WorkingDir == "/tmp" && g.Config.Hostname == "h" && g.Config.Image == "busybox",
		"memory":  g.HostConfig.Memory == 32<<20 && g.HostConfig.MemorySwap == 64<<20 && g.HostConfig.NanoCpus == 500000000,
		"shm":     g.HostConfig.ShmSize == 64<<20,
		"binds":   len(g.HostConfig.Binds) == 1 && g.HostConfig.Binds[0] == "/tmp:/hosttmp:ro",
		"caps":    len(g.HostConfig.CapAdd) == 1 && strings.HasSuffix(g.HostConfig.CapAdd[0], "SYS_TIME"),
		"ro":      g.HostConfig.ReadonlyRootfs,
		"mounts":  len(g.Mounts) == 1 && g.Mounts[0].Type == "bind" && g.Mounts[0].Source == "/tmp" && !g.Mounts[0].RW,
		"network": g.HostConfig.NetworkMode == "default" || g.HostConfig.NetworkMode == "bridge",
	}
	for what, ok := range checks {
		if !ok {
			t.Errorf("%s is not as asked: %+v", what, g)
		}
	}
}
