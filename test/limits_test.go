package test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/kernel/cgroup"
	"berth/testkit"
)

// limit is a flag and what the kernel shows of it, below /sys/fs/cgroup in the container.
type limit struct {
	flag           string
	v1, v1Value    string
	v2, v2Value    string // empty: v2 does not have it
	updatable      string // another value for `update`
	v1Then, v2Then string
	works          func(cgroup.Support) bool // nil: wherever there are control groups
}

func limits() []limit {
	swap := func(s cgroup.Support) bool { return s.Swap }
	list := []limit{
		{"--memory 64m", "memory/memory.limit_in_bytes", "67108864", "memory.max", "67108864", "--memory 48m", "50331648", "50331648", nil},
		{"--memory-swap 128m", "memory/memory.memsw.limit_in_bytes", "134217728", "memory.swap.max", "67108864", "--memory-swap 96m", "100663296", "50331648", swap},
		{"--memory-reservation 32m", "memory/memory.soft_limit_in_bytes", "33554432", "memory.low", "33554432", "--memory-reservation 16m", "16777216", "16777216", nil},
		{"--memory-swappiness 30", "memory/memory.swappiness", "30", "", "", "", "", "", func(s cgroup.Support) bool { return s.MemorySwappiness }},
		{"--oom-kill-disable", "memory/memory.oom_control", "oom_kill_disable 1\n.*", "", "", "", "", "", func(s cgroup.Support) bool { return s.OOMKillDisable }},
		{"--cpu-shares 512", "cpu/cpu.shares", "512", "cpu.weight", "59", "--cpu-shares 1024", "1024", "100", nil},
		{"--cpu-period 50000", "cpu/cpu.cfs_period_us", "50000", "cpu.max", "20000 50000", "--cpu-period 60000", "60000", "30000 60000", nil},
		{"--cpu-quota 20000", "cpu/cpu.cfs_quota_us", "20000", "cpu.max", "20000 50000", "--cpu-quota 30000", "30000", "30000 60000", nil},
		{"--cpuset-cpus 0", "cpuset/cpuset.cpus", "0", "cpuset.cpus", "0", "--cpuset-cpus 0", "0", "0", nil},
		{"--cpuset-mems 0", "cpuset/cpuset.mems", "0", "cpuset.mems", "0", "", "", "", nil},
		{"--blkio-weight 300", "blkio/blkio*.weight", "300", "io*.weight", "(default )?(300|2930)", "--blkio-weight 500", "500", "(default )?(500|4950)", func(s cgroup.Support) bool { return s.BlockIOWeight }},
		{"--pids-limit 100", "pids/pids.max", "100", "pids.max", "100", "--pids-limit -1", "max", "max", nil},
	}
	if path, numbers := blockDevice(); path != "" {
		for _, t := range []struct{ flag, value, v1, key string }{
			{"device-read-bps", "1mb", "read_bps", "rbps=1048576"}, {"device-write-bps", "2mb", "write_bps", "wbps=2097152"},
			{"device-read-iops", "100", "read_iops", "riops=100"}, {"device-write-iops", "200", "write_iops", "wiops=200"},
		} {
			_, number, _ := strings.Cut(t.key, "=")
			list = append(list, limit{"--" + t.flag + " " + path + ":" + t.value, "blkio/blkio.throttle." + t.v1 + "_device", numbers + " " + number,
				"io.max", "(?s).*" + numbers + " .*" + t.key + ".*", "", "", "", func(s cgroup.Support) bool { return s.BlockIO }})
		}
	}
	return list
}

// blockDevice is a disk of this machine with its numbers.
func blockDevice() (path, numbers string) {
	names, _ := filepath.Glob("/sys/block/*")
	for _, n := range names {
		dev, err := os.ReadFile(n + "/dev")
		node := "/dev/" + filepath.Base(n)
		if _, missing := os.Stat(node); err == nil && missing == nil {
			return node, strings.TrimSpace(string(dev))
		}
	}
	return "", ""
}

// byEachDriver runs a test with the control groups that the engine makes itself, and with
// systemd's, where there are such.
func byEachDriver(t *testing.T, test func(t *testing.T, e *testkit.Engine)) {
	t.Run("cgroupfs", func(t *testing.T) {
		e := testkit.StartEngine(t, testkit.EngineOptions{})
		e.Busybox()
		test(t, e)
	})
	t.Run("systemd", func(t *testing.T) {
		e := systemdEngine(t)
		e.Busybox()
		test(t, e)
	})
}

func systemdEngine(t *testing.T) *testkit.Engine {
	t.Helper()
	if err := cgroup.CheckScopes(); err != nil {
		t.Skip(err)
	}
	return testkit.StartEngine(t, testkit.EngineOptions{Systemd: true})
}

func TestLimitsAreInTheKernelAndCanBeChangedWhileItRuns(t *testing.T) {
	byEachDriver(t, limitsInTheKernel)
}

func limitsInTheKernel(t *testing.T, e *testkit.Engine) {
	s, err := cgroup.Supported()
	if err != nil {
		t.Fatal(err)
	}
	var flags, changes []string
	var used []limit
	for _, l := range limits() {
		if l.works != nil && !l.works(s) || s.Version == 2 && l.v2 == "" {
			t.Logf("%s: this machine does not have it", l.flag)
			continue
		}
		used = append(used, l)
		flags = append(flags, strings.Fields(l.flag)...)
		changes = append(changes, strings.Fields(l.updatable)...)
	}
	e.Must(append(append([]string{"run", "-d", "--name", "limited", "--network", "none"}, flags...), "busybox", "sleep", "1000")...)
	check := func(when, v1, v2 func(limit) string) {
		t.Helper()
		for _, l := range used {
			file, want := l.v1, v1(l)
			if s.Version == 2 {
				file, want = l.v2, v2(l)
			}
			if want == "" {
				continue
			}
			if got := e.Must("exec", "limited", "sh", "-c", "cat /sys/fs/cgroup/"+file); !regexp.MustCompile("^(?s:" + want + ")$").MatchString(strings.TrimSpace(got)) {
				t.Errorf("%s: %s is %q, want %s", when(l), file, got, want)
			}
		}
	}
	check(func(l limit) string { return l.flag }, func(l limit) string { return l.v1Value }, func(l limit) string { return l.v2Value })
	if out := e.Must(append(append([]string{"update"}, changes...), "limited")...); strings.TrimSpace(out) != "limited" {
		t.Errorf("update says %q", out)
	}
	check(func(l limit) string { return l.updatable }, func(l limit) string { return l.v1Then }, func(l limit) string { return l.v2Then })
	if got := e.Must("inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.CpuShares}} {{.HostConfig.PidsLimit}}", "limited"); strings.TrimSpace(got) != "50331648 1024 0" {
		t.Errorf("inspect shows %q", got)
	}

	for _, r := range []struct{ args, why string }{
		{"update limited", "you must provide one or more flags"},
		{"update --memory 1m limited", "Minimum memory limit allowed is 6MB"},
		{"update --memory 1g limited", "update the memoryswap at the same time"},
		{"update --cpus 0.5 limited", "Nano CPUs cannot be updated as CPU Period has already been set"},
		{"update --cpuset-cpus 4000 limited", "Requested CPUs are not available"},
		{"update --restart sometimes limited", "invalid restart policy"},
		{"update --memory 32m nobody", "No such container: nobody"},
	} {
		got := e.Berth(strings.Fields(r.args)...)
		if got.Code == 0 || !strings.Contains(got.Stderr, r.why) || strings.Count(strings.TrimSpace(got.Stderr), "\n") > 0 {
			t.Errorf("%s: exit %d, %q (want one line with %s)", r.args, got.Code, got.Stderr, r.why)
		}
	}
	e.Must("update", "--restart", "always", "limited")
	e.Must("restart", "-t", "0", "limited")
	check(func(l limit) string { return l.updatable + ", started again" }, func(l limit) string { return l.v1Then }, func(l limit) string { return l.v2Then })
	e.MustDocker("update", "--memory", "40m", "--memory-swap", "-1", "limited")
	e.Must("rm", "-f", "limited")
}

// The same limits have the same effects on cgroup v1, on v2, and in systemd's scopes.
func TestLimitsHoldWhatTheyLimit(t *testing.T) { byEachDriver(t, limitsHold) }

func limitsHold(t *testing.T, e *testkit.Engine) {
	s, err := cgroup.Supported()
	if err != nil {
		t.Fatal(err)
	}
	// run gives what a container prints and its exit status.
	run := func(flags, shell string) (string, int) {
		t.Helper()
		r := e.Berth(append(append([]string{"run", "--rm", "--network", "none"}, strings.Fields(flags)...), "busybox", "sh", "-c", shell)...)
		return r.Stdout + r.Stderr, r.Code
	}
	// In the first column of v1's paths, the second of v2's, below /sys/fs/cgroup.
	file := func(v1, v2 string) string {
		if s.Version == 2 {
			return "/sys/fs/cgroup/" + v2
		}
		return "/sys/fs/cgroup/" + v1
	}
	t.Run("a memory limit kills, and an event tells", func(t *testing.T) {
		e := e.For(t)
		since := strings.TrimSpace(e.Must("run", "--rm", "--network", "none", "busybox", "date", "+%s"))
		e.Must("run", "-d", "--name", "fat", "--network", "none", "--memory", "16m", "--memory-swap", "16m", "busybox", "sh", "-c", "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done")
		if code := strings.TrimSpace(e.Must("wait", "fat")); code != "137" {
			t.Errorf("exit %s", code)
		}
		if got := e.Must("inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}", "fat"); strings.TrimSpace(got) != "true 137" {
			t.Errorf("inspect shows %q", got)
		}
		until := strings.TrimSpace(e.Must("run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo $(($(date +%s)+1))"))
		if got := e.Must("events", "--since", since, "--until", until, "--filter", "event=oom", "--format", "{{.Action}} {{.Actor.Attributes.name}}"); !strings.Contains(got, "oom fat") {
			t.Errorf("events: %q", got)
		}
		e.Must("rm", "fat")
	})
	t.Run("a limit of processes stops forks", func(t *testing.T) {
		if said, _ := run("--pids-limit 6", "for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done; echo all"); !strings.Contains(said, "can't fork") {
			t.Errorf("it says %q", said)
		}
	})
	t.Run("a quota of time throttles", func(t *testing.T) {
		stat := file("cpu/cpu.stat", "cpu.stat")
		if said, code := run("--cpus 0.1", "until grep -q 'nr_throttled [1-9]' "+stat+"; do :; done; echo throttled"); code != 0 || said != "throttled\n" {
			t.Errorf("exit %d, %q", code, said)
		}
	})
	t.Run("a set of CPUs is what it sees", func(t *testing.T) {
		if said, _ := run("--cpuset-cpus 0", "nproc; grep Cpus_allowed_list /proc/self/status"); said != "1\nCpus_allowed_list:\t0\n" {
			t.Errorf("it sees %q", said)
		}
	})
	t.Run("devices are denied but for those that rules allow", func(t *testing.T) {
		const open = "mknod /kmsg c 1 11 && (exec 3</kmsg) && echo open; head -c 1 /dev/zero | wc -c"
		if said, _ := run("--cap-add SYSLOG", open); strings.Contains(said, "open\n") || !strings.Contains(said, "not permitted") || !strings.HasPrefix(said, "1\n") {
			t.Errorf("without a rule: %q", said)
		}
		e := e.For(t)
		r := e.Berth("run", "--rm", "--network", "none", "--cap-add", "SYSLOG", "--device-cgroup-rule", "c 1:11 r", "busybox", "sh", "-c", open+"; (exec 3>/kmsg) && echo writable")
		if !strings.Contains(r.Stdout, "open\n") || strings.Contains(r.Stdout, "writable") {
			t.Errorf("with a rule: %q %q", r.Stdout, r.Stderr)
		}
	})
	t.Run("the freezer stops what runs", func(t *testing.T) {
		e := e.For(t)
		e.Must("run", "-d", "--name", "busy", "--network", "none", "--cpus", "0.5", "busybox", "sh", "-c", "while :; do :; done")
		pid := strings.TrimSpace(e.Must("inspect", "-f", "{{.State.Pid}}", "busy"))
		used := func() string {
			text, err := os.ReadFile("/proc/" + pid + "/schedstat")
			if err != nil {
				t.Fatal(err)
			}
			return strings.Fields(string(text))[0]
		}
		moves := func() bool {
			before := used()
			for range 20 {
				if used() != before {
					return true
				}
				time.Sleep(25 * time.Millisecond)
			}
			return false
		}
		e.Must("pause", "busy")
		testkit.Eventually(t, "a paused container does not use the processor", func() bool { return !moves() })
		e.Must("unpause", "busy")
		testkit.Eventually(t, "it goes on", moves)
		e.Must("pause", "busy")
		e.Must("rm", "-f", "busy")
	})
	t.Run("a rate of a disk is kept to", func(t *testing.T) {
		disk := diskOf(t, e.DataRoot)
		if !s.BlockIO || disk == "" {
			t.Skip("the data root lies on no disk of this machine's that could be throttled")
		}
		began := time.Now()
		if said, code := run("--device-write-bps "+disk+":1mb", "dd if=/dev/zero of=/big bs=256k count=16 oflag=direct"); code != 0 {
			t.Fatalf("exit %d, %q", code, said)
		}
		if took := time.Since(began); took < 2*time.Second {
			t.Errorf("4 MB at a MB/s took %v", took)
		}
	})
}

// diskOf is the whole disk that holds a file, if the file system lies on one directly.
func diskOf(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	at, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return ""
	}
	if _, err := os.Stat(at + "/partition"); err == nil {
		at = filepath.Dir(at)
	}
	disk := "/dev/" + filepath.Base(at)
	if _, err := os.Stat(disk); err != nil {
		return ""
	}
	return disk
}

func TestALimitBelowWhatIsInUseIsOneLineWithBothNumbers(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	if s, _ := cgroup.Supported(); s.Version != 1 {
		t.Skip("cgroup v2 reclaims and kills instead")
	}
	e.Must("run", "-d", "--name", "full", "--network", "none", "--memory", "64m", "--memory-swap", "64m", "--shm-size", "32m", "busybox",
		"sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=24 2>/dev/null; echo full; sleep 1000")
	for r := e.Berth("logs", "full"); !strings.Contains(r.Stdout, "full"); r = e.Berth("logs", "full") {
		if r.Code != 0 {
			t.Fatal(r.Stderr)
		}
	}
	r := e.Berth("update", "--memory", "8m", "full")
	if r.Code == 0 || !regexp.MustCompile(`cannot set memory limit to 8388608 bytes: [0-9]{8} bytes are in use\n$`).MatchString(r.Stderr) {
		t.Errorf("exit %d, %q", r.Code, r.Stderr)
	}
	if got := e.Must("inspect", "-f", "{{.HostConfig.Memory}}", "full"); strings.TrimSpace(got) != "67108864" {
		t.Errorf("inspect shows %s", got)
	}
	e.Must("rm", "-f", "full")
}

func TestContainersThatSayNothingGetTheEnginesDefaults(t *testing.T) {
	profile := filepath.Join(t.TempDir(), "nomkdir")
	write(t, profile, `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}`)
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--seccomp-profile", profile, "--no-new-privileges", "--default-cgroupns-mode", "host", "--default-ipc-mode", "shareable"}})
	e.Busybox()
	e.Must("run", "-d", "--name", "donor", "--network", "none", "busybox", "sleep", "1000")
	if got := e.Must("inspect", "-f", "{{.HostConfig.CgroupnsMode}} {{.HostConfig.IpcMode}} {{.HostConfig.SecurityOpt}}", "donor"); got != "host shareable []" {
		t.Error(got)
	}
	const look = `mkdir /x 2>/dev/null && echo made; grep -o 'NoNewPrivs:.*' /proc/self/status; grep -qE '[/-][0-9a-f]{64}(\.scope)?$' /proc/self/cgroup && echo host; true`
	for _, c := range []struct{ flags, want string }{
		{"", "NoNewPrivs:\t1\nhost"},
		{"--ipc container:donor", "NoNewPrivs:\t1\nhost"},
		{"--privileged", "made\nNoNewPrivs:\t1\nhost"},
		{"--security-opt seccomp=builtin --security-opt no-new-privileges=false --cgroupns private", "made\nNoNewPrivs:\t0"},
	} {
		if got := e.Must(append(append([]string{"run", "--rm", "--network", "none"}, strings.Fields(c.flags)...), "busybox", "sh", "-c", look)...); got != c.want {
			t.Errorf("%q: %q, want %q", c.flags, got, c.want)
		}
	}
	info := e.Must("info", "-f", "{{.SecurityOptions}}")
	for _, want := range []string{"name=seccomp,profile=" + profile, "name=no-new-privileges"} {
		if !strings.Contains(info, want) {
			t.Errorf("info tells %s, want %s", info, want)
		}
	}
}

func TestSecurityOptionsConfine(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	profile := func(name, text string) string {
		path := filepath.Join(e.Dir, name)
		write(t, path, text)
		return path
	}
	const rest = `"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_AARCH64"]`
	noMkdir := profile("nomkdir", `{`+rest+`,"syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}`)
	byArgument := profile("argument", `{`+rest+`,"syscalls":[{"names":["kill"],"action":"SCMP_ACT_ERRNO","errnoRet":38,"args":[{"index":1,"value":10,"op":"SCMP_CMP_EQ"}]}]}`)
	extended := profile("extended", `{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]},{"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]}],
		"syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28,"includes":{"minKernel":"3.0"},"excludes":{"caps":["CAP_SYS_TIME"]}}]}`)
	unknown := profile("unknown", `{`+rest+`,"syscalls":[{"names":["mkdirr"],"action":"SCMP_ACT_ERRNO"}]}`)
	action := profile("action", `{"defaultAction":"SCMP_ACT_SMILE"}`)
	kill := profile("kill", `{`+rest+`,"syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_KILL_PROCESS"}]}`)
	for _, c := range []struct {
		name  string
		flags string
		shell string
		code  int
		want  string // in what it says
	}{
		{"a profile of one's own", "--security-opt seccomp=" + noMkdir, "mkdir /x 2>&1", 1, "No space left on device"},
		{"a rule with an argument", "--security-opt seccomp=" + byArgument, "trap 'echo caught' USR1 USR2; kill -USR1 $$ 2>&1; kill -USR2 $$", 0, "Function not implemented"},
		{"Docker's extended form", "--security-opt seccomp=" + extended, "mkdir /x 2>&1", 1, "No space left on device"},
		{"and its exclusions", "--cap-add SYS_TIME --security-opt seccomp=" + extended, "mkdir /x && echo made", 0, "made"},
		{"a call that kills", "--security-opt seccomp=" + kill, "mkdir /x; echo $?", 0, "159"},
		{"the built-in profile by name", "--security-opt seccomp=builtin", "grep Seccomp: /proc/self/status; unshare -U true 2>&1", 1, "not permitted"},
		{"unconfined", "--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status", 0, "\t0"},
		{"no new privileges", "--security-opt no-new-privileges:true", "grep NoNewPrivs /proc/self/status", 0, "\t1"},
		{"open system paths", "--security-opt systempaths=unconfined", "mount | grep -c '/proc/sys '; wc -c </proc/keys >/dev/null && echo open", 0, "open"},
		{"no AppArmor", "--security-opt apparmor=unconfined", "echo fine", 0, "fine"},
		{"no label", "--security-opt label=disable", "echo fine", 0, "fine"},
		{"an unknown call to forbid", "--security-opt seccomp=" + unknown, "true", 125, `unknown system call "mkdirr"`},
		{"an unknown action", "--security-opt seccomp=" + action, "true", 125, `SCMP_ACT_SMILE`},
		{"a profile that is not there", "--security-opt seccomp=/no/such", "true", 125, `opening seccomp profile (/no/such) failed`},
		{"another parent group", "--cgroup-parent /berth-test-parent", "echo fine", 0, "fine"},
		{"systemd's slices", "--cgroup-parent user.slice", "true", 125, "slice of systemd"},
		{"a device rule", "--device-cgroup-rule c_42:7_r", "cat /sys/fs/cgroup/devices/devices.list 2>/dev/null || echo 'cgroup v2 has no such list: c 42:7 r'", 0, "c 42:7 r"},
		{"an annotation", "--annotation a=b", "echo fine", 0, "fine"},
		{"a domain name", "--domainname example.org --hostname h", "cat /proc/sys/kernel/domainname", 0, "example.org"},
		{"the host's UTS", "--uts host", "hostname", 0, hostName()},
		{"the host's cgroups", "--cgroupns host", "grep -qE '[/-][0-9a-f]{64}(\\.scope)?$' /proc/self/cgroup && echo its path", 0, "its path"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if e.Systemd { // then a parent is a slice
				switch c.name {
				case "another parent group":
					c.code, c.want = 125, `should be a valid slice named as "xxx.slice"`
				case "systemd's slices":
					c.code, c.want = 0, ""
				}
			}
			args := []string{"run", "--rm", "--network", "none"}
			for _, f := range strings.Fields(c.flags) {
				if strings.HasPrefix(f, "c_") {
					f = strings.ReplaceAll(f, "_", " ")
				}
				args = append(args, f)
			}
			r := e.Berth(append(args, "busybox", "sh", "-c", c.shell)...)
			if r.Code != c.code || !strings.Contains(r.Stdout+r.Stderr, c.want) {
				t.Errorf("exit %d (want %d), %q %q (want %s)", r.Code, c.code, r.Stdout, r.Stderr, c.want)
			}
			if c.code == 125 && strings.Count(strings.TrimSpace(r.Stderr), "\n") > 1 {
				t.Errorf("more than a line: %q", r.Stderr)
			}
		})
	}
	for _, dir := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		left, _ := filepath.Glob(dir + "berth-test-parent")
		for _, l := range left {
			if err := os.Remove(l); err != nil {
				t.Error(err)
			}
		}
	}
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return fmt.Sprint(err)
	}
	return name
}
