// Package packaging holds no program of its own: these are the tests of the scripts.
package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// prerm runs the script in a pid namespace, in which a supervisor runs if one should, beside a berthd
// that says what it was called with and ends with the status given.
func prerm(t *testing.T, status string, shim bool, args ...string) (said string, err error) {
	t.Helper()
	bin := t.TempDir()
	for name, text := range map[string]string{
		"berthd":             "echo \"called: $*\"; echo 'berthd: the reason' >&2; exit " + status,
		"deb-systemd-invoke": "exit 0",
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script, err := filepath.Abs("debian/prerm")
	if err != nil {
		t.Fatal(err)
	}
	supervisor := "true"
	if shim {
		supervisor = `(exec -a berth-shim sleep 1000) & until grep -qz berth-shim /proc/$!/cmdline; do :; done`
	}
	cmd := exec.Command("unshare", append([]string{"--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", supervisor + `; script=$1; shift; sh "$script" "$@"`, "test", script}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestARemovalStopsIfContainersGoOn(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a pid namespace: needs root")
	}
	const called = "called: --end-containers\n"
	for name, c := range map[string]struct {
		args   string
		status string
		shim   bool
		fails  bool
		says   string
	}{
		"all have ended":                             {"remove", "0", false, false, called},
		"one could not be ended":                     {"remove", "1", true, true, called},
		"another package takes our place":            {"remove in-favour other 1.0", "1", true, true, called},
		"the engine fails, and no container is left": {"remove", "1", false, false, called},
		"an upgrade":                                 {"upgrade 2.0", "1", true, false, ""},
		"an upgrade from a version that fails":       {"failed-upgrade 1.0 2.0", "1", true, false, ""},
		"a deconfiguration":                          {"deconfigure in-favour other 1.0", "1", true, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			said, err := prerm(t, c.status, c.shim, strings.Fields(c.args)...)
			if failed := err != nil; failed != c.fails {
				t.Errorf("%v\n%s", err, said)
			}
			if !strings.HasPrefix(said, c.says) || c.says == "" && said != "" {
				t.Errorf("it says\n%s", said)
			}
			if told := strings.Count(said, "berth: not removed"); (told == 1) != c.fails || strings.Count(said, "\n") > 3 {
				t.Errorf("it says\n%s", said)
			}
		})
	}
}
