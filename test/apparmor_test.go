package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"berth/kernel/apparmor"
	"berth/testkit"
)

// needsAppArmor skips where profiles cannot be enforced.
func needsAppArmor(t *testing.T) {
	t.Helper()
	testkit.Integration(t)
	if !apparmor.Enabled() {
		t.Skip("the kernel has no AppArmor")
	}
	if lacks := apparmor.Lacks(); lacks != "" {
		t.Skip(lacks)
	}
}

// otherProfile loads a profile that allows all but writing to /forbidden.
func otherProfile(t *testing.T) (name string) {
	t.Helper()
	name = "berth-test-other"
	text := "profile " + name + " flags=(attach_disconnected) {\n file,\n capability,\n network,\n signal,\n ptrace,\n mount,\n umount,\n deny /forbidden w,\n}\n"
	cmd := exec.Command("apparmor_parser", "--replace", "--skip-cache", "--quiet")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { removeProfile(t, name) })
	return name
}

// removeProfile takes a profile out of the kernel, as aa-remove-unknown does.
func removeProfile(t *testing.T, name string) {
	t.Helper()
	if err := os.WriteFile("/sys/kernel/security/apparmor/.remove", []byte(name), 0o600); err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
}

// firmwareFile is one below /sys/firmware that root can read.
func firmwareFile() string {
	files, _ := filepath.Glob("/sys/firmware/*/*")
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.Mode().IsRegular() {
			return f
		}
	}
	return "/sys/firmware/acpi/pm_profile"
}

const current = "cat /proc/self/attr/current"

func TestAppArmorConfinesContainers(t *testing.T) {
	needsAppArmor(t)
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	other := otherProfile(t)
	e.Must("run", "-d", "--name", "target", "--network", "none", "busybox", "sleep", "1000")
	target := strings.TrimSpace(e.Must("inspect", "-f", "{{.State.Pid}}", "target"))

	firmware := firmwareFile()
	const open = "--security-opt systempaths=unconfined"
	same := func(file string) string { return "v=$(cat " + file + ") && echo $v >" + file }
	for _, c := range []struct {
		flags         string
		denied, other map[string]string // commands by what they reach for
	}{
		{open, map[string]string{
			"sysrq-trigger":           "echo h >/proc/sysrq-trigger",
			"a sysctl of the machine": same("/proc/sys/vm/swappiness"),
			"a sysctl of the kernel":  same("/proc/sys/kernel/printk"),
			"firmware":                "cat " + firmware,
		}, map[string]string{
			"a sysctl of its own IPC objects": same("/proc/sys/kernel/shmmax"),
			"a file of its own process":       "echo 5 >/proc/self/oom_score_adj",
			"a process of its own":            "sleep 9 & cat /proc/$!/environ",
			"a signal among its own":          "sleep 9 & kill $!",
		}},
		{"--cap-add SYS_ADMIN", map[string]string{
			"a mount":      "mount -t tmpfs x /tmp",
			"a bind mount": "mount --bind /etc /tmp",
			"a remount":    "mount -o remount,rw /proc/sys",
		}, nil},
		{"--pid host --cap-add SYS_PTRACE", map[string]string{
			"a process of the host": "cat /proc/1/environ",
			"a signal to the host":  "kill -0 1",
		}, map[string]string{
			"another container":             "cat /proc/" + target + "/environ",
			"a signal to another container": "kill -0 " + target,
		}},
		{"--privileged", map[string]string{
			"a switch of the memory management": same("/sys/kernel/mm/ksm/pages_to_scan"),
		}, map[string]string{
			"control groups": "d=/sys/fs/cgroup; [ -d $d/memory ] && d=$d/memory; mkdir $d/x && rmdir $d/x",
		}},
	} {
		t.Run(c.flags, func(t *testing.T) {
			var script strings.Builder
			for _, commands := range []map[string]string{c.denied, c.other} {
				for name, command := range commands {
					fmt.Fprintf(&script, "echo '=%s'; (%s) 2>&1 | tr -d '\\000'\n", name, command)
				}
			}
			// What is denied goes without the profile: the profile alone stands in its way.
			for _, profile := range []string{apparmor.Default, apparmor.Unconfined} {
				args := append([]string{"run", "--rm", "--network", "none", "--security-opt", "apparmor=" + profile}, strings.Fields(c.flags)...)
				out := e.Must(append(args, "busybox", "sh", "-c", script.String())...)
				seen := 0
				for said := range strings.SplitSeq(out, "=") {
					name, words, _ := strings.Cut(said, "\n")
					_, mustFail := c.denied[name]
					_, known := c.other[name]
					if !mustFail && !known {
						continue
					}
					seen++
					words = strings.ToLower(words)
					denied := strings.Contains(words, "permission denied") || strings.Contains(words, "not permitted") || strings.Contains(words, "can't open")
					if denied != (mustFail && profile == apparmor.Default) {
						t.Errorf("%s, under %s: %q", name, profile, words)
					}
				}
				if seen != len(c.denied)+len(c.other) {
					t.Errorf("under %s: %s", profile, out)
				}
			}
		})
	}

	t.Run("signals of other profiles", func(t *testing.T) {
		for profile, ok := range map[string]bool{other: false, apparmor.Unconfined: true, apparmor.Default: true} {
			r := e.Berth("run", "--rm", "--network", "none", "--pid", "host", "--security-opt", "apparmor="+profile, "busybox", "kill", "-0", target)
			if (r.Code == 0) != ok {
				t.Errorf("a signal from %s: exit %d, %q", profile, r.Code, r.Stderr)
			}
		}
	})
	t.Run("the engine's signals", func(t *testing.T) {
		e.Must("run", "-d", "--name", "stopped", "--network", "none", "busybox", "sh", "-c", "trap 'exit 7' TERM; trap 'echo usr1' USR1; while :; do sleep 0.1; done")
		e.Must("kill", "-s", "USR1", "stopped")
		testkit.Eventually(t, "the signal arrives", func() bool { return strings.Contains(e.Must("logs", "stopped"), "usr1") })
		e.Must("stop", "stopped")
		if code := strings.TrimSpace(e.Must("inspect", "-f", "{{.State.ExitCode}}", "stopped")); code != "7" {
			t.Errorf("exit %s", code)
		}
	})
	e.Must("rm", "-f", "target")
}

func TestAppArmorProfilesAreAppliedAndShown(t *testing.T) {
	needsAppArmor(t)
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	other := otherProfile(t)
	var info struct{ SecurityOptions, Warnings []string }
	if err := json.Unmarshal([]byte(e.Must("info", "-f", "{{json .}}")), &info); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(info.SecurityOptions, " "), "name=apparmor") || strings.Contains(strings.Join(info.Warnings, " "), "AppArmor") {
		t.Errorf("info: %v, %v", info.SecurityOptions, info.Warnings)
	}
	enforced := func(profile string) string {
		if profile == apparmor.Unconfined {
			return profile
		}
		return profile + " (enforce)"
	}
	for _, c := range []struct{ flags, profile string }{
		{"", apparmor.Default},
		{"--init", apparmor.Default},
		{"--tty", apparmor.Default},
		{"--read-only --user 65534 --security-opt no-new-privileges", apparmor.Default},
		{"--security-opt apparmor=" + apparmor.Default, apparmor.Default},
		{"--security-opt apparmor=" + other, other},
		{"--security-opt apparmor:unconfined", apparmor.Unconfined},
		{"--privileged", apparmor.Unconfined},
		{"--privileged --security-opt apparmor=" + other, other},
	} {
		t.Run("run "+c.flags, func(t *testing.T) {
			args := append([]string{"run", "--name", "cc", "--network", "none"}, strings.Fields(c.flags)...)
			got := e.Must(append(args, "busybox", "sh", "-c", current)...)
			if strings.TrimSpace(got) != enforced(c.profile) {
				t.Errorf("it runs under %q", got)
			}
			if got := e.Must("inspect", "-f", "{{.AppArmorProfile}}", "cc"); strings.TrimSpace(got) != c.profile {
				t.Errorf("inspect shows %q", got)
			}
			e.Must("rm", "cc")
		})
	}
	t.Run("further processes", func(t *testing.T) {
		e.Must("run", "-d", "--name", "cc", "--network", "none", "--health-cmd", current, "--health-interval", "1s", "busybox", "sleep", "1000")
		for _, flags := range []string{"", "--privileged", "--user 1000"} {
			got := e.Must(append(append([]string{"exec"}, strings.Fields(flags)...), "cc", "sh", "-c", current)...)
			if strings.TrimSpace(got) != enforced(apparmor.Default) {
				t.Errorf("exec %s runs under %q", flags, got)
			}
		}
		testkit.Eventually(t, "a probe tells its profile", func() bool {
			return strings.Contains(e.Must("inspect", "-f", "{{json .State.Health.Log}}", "cc"), enforced(apparmor.Default))
		})
		e.Must("rm", "-f", "cc")
	})
	t.Run("a profile that is not loaded", func(t *testing.T) {
		r := e.Berth("run", "--name", "nope", "--network", "none", "--security-opt", "apparmor=no-such-profile", "busybox", "true")
		if r.Code != 125 || !strings.Contains(r.Stderr, `the AppArmor profile "no-such-profile" is not loaded`) || strings.Count(strings.TrimSpace(r.Stderr), "\n") > 1 {
			t.Errorf("exit %d, %q", r.Code, r.Stderr)
		}
		e.Must("rm", "nope")
	})
	t.Run("files are copied both ways", func(t *testing.T) {
		e.Must("run", "-d", "--name", "cp", "--network", "none", "busybox", "sleep", "1000")
		file := filepath.Join(e.Dir, "file")
		write(t, file, "text")
		e.Must("cp", file, "cp:/tmp/in")
		if got := e.Must("exec", "cp", "cat", "/tmp/in"); got != "text" {
			t.Errorf("%q", got)
		}
		e.Must("cp", "cp:/tmp/in", file+".out")
		e.Must("rm", "-f", "cp")
	})
}

func TestTheAppArmorProfileIsLoadedWhenItIsGone(t *testing.T) {
	needsAppArmor(t)
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	run := func() string {
		return strings.TrimSpace(e.Must("run", "--rm", "--network", "none", "busybox", "sh", "-c", current))
	}
	const confined = apparmor.Default + " (enforce)"
	if got := run(); got != confined {
		t.Fatalf("%q", got)
	}
	e.Must("run", "-d", "--restart", "always", "--name", "long", "--network", "none", "--health-cmd", "true", "--health-interval", "2s", "busybox", "sh", "-c", current+"; exec sleep 1000")

	// An engine that comes later finds it, and does not load it again.
	entry, _ := apparmor.Find(apparmor.Default)
	info, err := os.Stat(entry.Dir + "/raw_data")
	e.Kill()
	e.Start()
	if got := run(); got != confined {
		t.Errorf("after a new start of the engine: %q", got)
	}
	if again, err2 := os.Stat(entry.Dir + "/raw_data"); err == nil && (err2 != nil || !os.SameFile(info, again)) {
		t.Error("the profile was loaded again")
	}
	if got := strings.TrimSpace(e.Must("exec", "long", "sh", "-c", current)); got != confined {
		t.Errorf("an exec through the new engine: %q", got)
	}

	removeProfile(t, apparmor.Default)
	if _, there := apparmor.Find(apparmor.Default); there {
		t.Skip("another engine loaded the profile at the same time")
	}
	if got := run(); got != confined {
		t.Errorf("after the profile was removed: %q", got)
	}
	if log := e.Log(); !strings.Contains(log, "somebody had removed the AppArmor profile") {
		t.Errorf("the log does not tell of it:\n%s", log)
	}
	removeProfile(t, apparmor.Default)
	if got := strings.TrimSpace(e.Must("exec", "long", "sh", "-c", current)); got != confined {
		t.Errorf("an exec after the profile was removed: %q", got)
	}

	removeProfile(t, apparmor.Default)
	testkit.Eventually(t, "a probe has failed, and the profile is loaded for the next", func() bool {
		_, there := apparmor.Find(apparmor.Default)
		return there
	})

	// So does a start by policy, by an engine that the shim has started.
	removeProfile(t, apparmor.Default)
	pid, err := strconv.Atoi(strings.TrimSpace(e.Must("inspect", "-f", "{{.State.Pid}}", "long")))
	if err != nil {
		t.Fatal(err)
	}
	e.Kill()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the shim has started an engine", func() bool { return e.Berth("version").Code == 0 })
	testkit.Eventually(t, "the container runs again", func() bool {
		out := e.Berth("logs", "long").Stdout
		return strings.Count(out, confined) == 2
	})
	e.Must("rm", "-f", "long")
}

func TestWithoutTheParserContainersRunUnconfined(t *testing.T) {
	needsAppArmor(t)
	parser, err := exec.LookPath("apparmor_parser")
	if err != nil {
		t.Skip(err)
	}
	if parser, err = filepath.EvalSymlinks(parser); err != nil {
		t.Fatal(err)
	}
	removeProfile(t, apparmor.Default)
	e := testkit.StartEngine(t, testkit.EngineOptions{Within: func(command ...string) []string {
		return append([]string{"unshare", "--mount", "sh", "-c", "mount --bind /dev/null " + parser + ` && exec "$@"`, "sh"}, command...)
	}})
	e.Busybox()
	if got := strings.TrimSpace(e.Must("run", "--rm", "--network", "none", "busybox", "sh", "-c", current)); got != apparmor.Unconfined {
		t.Errorf("%q", got)
	}
	const told = "AppArmor is enabled, but containers run without the profile berth-default: the program apparmor_parser is not installed"
	if r := e.Berth("info"); !strings.Contains(r.Stderr, told) {
		t.Errorf("info does not warn: %s", r.Stderr)
	}
	if n := strings.Count(e.Log(), told); n != 1 {
		t.Errorf("the log says it %d times", n)
	}
}
