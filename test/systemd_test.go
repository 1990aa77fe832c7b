package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"berth/testkit"
)

func systemctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("systemctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestContainersAreScopesOfSystemd(t *testing.T) {
	e := systemdEngine(t)
	e.Busybox()
	slice := filepath.Base(e.CgroupParent)
	if got := e.Must("info", "-f", "{{.CgroupDriver}} {{.CgroupVersion}}"); got != "systemd 2" {
		t.Errorf("info shows %q", got)
	}
	id := strings.TrimSpace(e.Must("run", "-d", "--name", "box", "--network", "none", "--memory", "64m", "--memory-swap", "96m", "--memory-reservation", "32m",
		"--cpus", "0.5", "--cpu-shares", "512", "--pids-limit", "100", "--cpuset-cpus", "0", "busybox", "sleep", "1000"))
	unit := "berth-" + id + ".scope"
	properties := func() string {
		return strings.Join(strings.Fields(systemctl(t, "show", "--value", "-p",
			"ActiveState,Delegate,Slice,ControlGroup,MemoryMax,MemoryLow,MemorySwapMax,CPUQuotaPerSecUSec,CPUWeight,TasksMax,AllowedCPUs", unit)), " ")
	}
	has := func(when string, want ...string) {
		t.Helper()
		got := properties()
		for _, w := range want {
			if !strings.Contains(" "+got+" ", " "+w+" ") {
				t.Errorf("%s: no %q in %q", when, w, got)
			}
		}
	}
	has("started", "active", "yes", slice, e.CgroupParent+"/"+unit, "67108864", "33554432", "500ms", "59", "100", "0")
	files := func() string {
		out := ""
		for _, f := range []string{"memory.max", "memory.low", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max", "cpuset.cpus"} {
			text, err := os.ReadFile("/sys/fs/cgroup" + e.CgroupParent + "/" + unit + "/" + f)
			if err != nil {
				t.Fatal(err)
			}
			out += f + " " + string(text)
		}
		return out
	}
	before := files()
	systemctl(t, "daemon-reload")
	if after := files(); after != before {
		t.Errorf("a reload of systemd has changed\n%sto\n%s", before, after)
	}
	e.Must("update", "--memory", "48m", "--memory-swap", "48m", "--cpus", "0.25", "--pids-limit", "50", "box")
	has("updated", "50331648", "250ms", "50")
	before = files()
	systemctl(t, "daemon-reload")
	if after := files(); after != before || !strings.Contains(after, "memory.swap.max 0\n") {
		t.Errorf("after an update a reload of systemd has changed\n%sto\n%s", before, after)
	}
	if got := e.Must("exec", "box", "cat", "/proc/self/cgroup"); got != "0::/" {
		t.Errorf("in its namespace the container sees the group %q", got)
	}

	gone := func(when string) {
		t.Helper()
		testkit.Eventually(t, "systemd has forgotten the scope "+when, func() bool {
			out, _ := exec.Command("systemctl", "list-units", "--all", "--plain", "--no-legend", unit).Output()
			_, err := os.Stat("/sys/fs/cgroup" + e.CgroupParent + "/" + unit)
			return len(out) == 0 && os.IsNotExist(err)
		})
	}
	e.Must("restart", "-t", "0", "box")
	has("restarted", "active", "50331648")
	e.Must("kill", "box")
	e.Must("wait", "box")
	gone("after the container's end")
	for range 3 { // systemd may not have forgotten the last run yet
		e.Must("start", "box")
		e.Must("stop", "-t", "0", "box")
	}
	e.Must("start", "box")
	e.Must("rm", "-f", "box")
	gone("after the removal")

	t.Run("without an engine a policy starts it again in a scope", func(t *testing.T) {
		e := e.For(t)
		id := strings.TrimSpace(e.Must("run", "-d", "--name", "again", "--network", "none", "--restart", "always", "busybox", "sleep", "1000"))
		pid, err := strconv.Atoi(strings.TrimSpace(e.Must("inspect", "-f", "{{.State.Pid}}", "again")))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "it runs again", func() bool {
			now := strings.TrimSpace(e.Must("inspect", "-f", "{{.State.Pid}}", "again"))
			return now != "0" && now != strconv.Itoa(pid)
		})
		if got := systemctl(t, "show", "--value", "-p", "ActiveState", "berth-"+id+".scope"); got != "active" {
			t.Errorf("its scope is %s", got)
		}
		e.Must("rm", "-f", "again")
	})
	t.Run("a shim that is killed leaves no scope", func(t *testing.T) {
		e := e.For(t)
		id := strings.TrimSpace(e.Must("run", "-d", "--name", "orphan", "--network", "none", "busybox", "sleep", "1000"))
		pid := strings.TrimSpace(e.Must("inspect", "-f", "{{.State.Pid}}", "orphan"))
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		shim, err := strconv.Atoi(strings.Fields(rest)[1])
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if code := strings.TrimSpace(e.Must("wait", "orphan")); code != "137" {
			t.Errorf("exit %s", code)
		}
		testkit.Eventually(t, "the scope is gone", func() bool {
			return exec.Command("systemctl", "is-active", "-q", "berth-"+id+".scope").Run() != nil
		})
		e.Must("rm", "orphan")
	})
	t.Run("slices of a container's own nest", func(t *testing.T) {
		e := e.For(t)
		nested := strings.TrimSuffix(slice, ".slice") + "-inner.slice"
		id := strings.TrimSpace(e.Must("run", "-d", "--name", "deep", "--network", "none", "--cgroup-parent", nested, "--cgroupns", "host", "busybox", "sleep", "1000"))
		want := "0::/" + slice + "/" + nested + "/berth-" + id + ".scope"
		if got := e.Must("exec", "deep", "cat", "/proc/self/cgroup"); got != want {
			t.Errorf("it is in %q, want %q", got, want)
		}
		if got := e.Must("exec", "deep", "sh", "-c", "cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/cgroup.procs | wc -l"); got == "0" {
			t.Errorf("it does not find its own group: %q", got)
		}
		e.Must("rm", "-f", "deep")
		systemctl(t, "stop", nested)
	})
	for _, c := range []struct{ parent, why string }{
		{"/a/path", "valid slice"}, {"no", "valid slice"}, {"a--b.slice", "valid slice"},
	} {
		if r := e.Berth("create", "--cgroup-parent", c.parent, "busybox"); r.Code == 0 || !strings.Contains(r.Stderr, c.why) {
			t.Errorf("%s: exit %d, %q", c.parent, r.Code, r.Stderr)
		}
	}
}

func TestWithoutSystemdTheDriverIsRefused(t *testing.T) {
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		t.Skip("systemd runs here")
	}
	testkit.Integration(t)
	e := testkit.StartEngine(t, testkit.EngineOptions{Lazy: true})
	write(t, filepath.Join(e.Dir, "daemon.json"), "{}")
	for _, c := range []struct{ option, why string }{
		{"native.cgroupdriver=systemd", "it does not run here; use the cgroup driver cgroupfs"},
		{"native.cgroupdriver=magic", "native.cgroupdriver option magic is not supported: use cgroupfs or systemd"},
		{"native.speed=11", `invalid exec-opt "native.speed=11"`},
	} {
		command := append(e.Command()[1:], "--exec-opt", c.option)
		if c.option == "native.cgroupdriver=systemd" {
			command = append(command, "--cgroup-parent", "system.slice")
		}
		out, err := exec.Command(e.Command()[0], command...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.why) {
			t.Errorf("%s: %v, %s", c.option, err, out)
		}
	}
}
