package test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/testkit"
)

func TestDiffAndExportOfAContainer(t *testing.T) {
	for _, driver := range []string{"overlay", "copy"} {
		t.Run(driver, func(t *testing.T) {
			e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--storage-driver", driver}})
			e.Busybox()
			since := e.Must("info", "--format", "{{.SystemTime}}")
			e.Must("create", "--name", "never", "--network", "none", "busybox", "true")
			e.Must("run", "-d", "--name", "some", "--network", "none", "-v", "/vol", "--tmpfs", "/tm", "busybox", "sh", "-c",
				"echo x > /vol/f; echo x > /tm/f; mkdir -p /a/b; echo x > /a/b/f; rm /bin/true; rm -r /home/app; echo more >> /etc/passwd; chmod 700 /root; touch /ready; sleep 1000")
			testkit.Eventually(t, "it is ready", func() bool { return e.Berth("exec", "some", "test", "-e", "/ready").Code == 0 })
			want := strings.Split("A /a\nA /a/b\nA /a/b/f\nC /bin\nD /bin/true\nC /etc\nC /etc/passwd\nC /home\nD /home/app\nA /ready\nC /root\nA /tm\nA /vol", "\n")
			for _, state := range []string{"running", "stopped"} {
				for _, c := range clients {
					lines := func(name string) []string {
						return slices.Sorted(slices.Values(strings.Split(c.must(e, "diff", name), "\n")))
					}
					if diff := cmp.Diff(slices.Sorted(slices.Values(want)), lines("some")); diff != "" {
						t.Errorf("%s, %s: %s", state, c.name, diff)
					}
					if got := c.must(e, "diff", "never"); got != "" {
						t.Errorf("%s: a container that was never started has changes: %s", c.name, got)
					}
					to := filepath.Join(t.TempDir(), "export.tar")
					c.must(e, "export", "-o", to, "some")
					piped := c.must(e, "export", "some")
					data, err := os.ReadFile(to)
					must(t, err)
					names := strings.Join(treeIn(t, string(data)), "\n")
					if names != strings.Join(treeIn(t, piped), "\n") {
						t.Errorf("%s: a file and a pipe get other exports", c.name)
					}
					for name, there := range map[string]bool{"a/b/f -": true, "vol d": true, "vol/f": false, "tm/f": false, "bin/true": false, "bin/busybox -": true, "home/app": false} {
						if strings.Contains("\n"+names, "\n"+name) != there {
							t.Errorf("%s, %s: %s is exported: %v", state, c.name, name, !there)
						}
					}
					if got := c.must(e, "export", "never"); !strings.Contains(strings.Join(treeIn(t, got), "\n"), "bin/true ") {
						t.Errorf("%s: the export of a container that was never started is not its image's", c.name)
					}
					if r := c.run(e, "export", "none"); r.Code != 1 || !strings.Contains(r.Stderr, "No such container: none") {
						t.Errorf("%s: %+v", c.name, r)
					}
				}
				if state == "running" {
					e.Must("kill", "some")
					e.Must("wait", "some")
				}
			}
			tty := e.Terminal("export", "some")
			tty.Expect("cowardly refusing to save to a terminal. Use the -o flag or redirect")
			if code := tty.Exit(); code != 1 {
				t.Errorf("export to a terminal ends with %d", code)
			}
			e.Must("cp", "some:/a", filepath.Join(t.TempDir(), "a"))
			e.Must("cp", "/etc/hostname", "some:/a/")
			told := e.Must("events", "--since", since, "--until", e.Must("info", "--format", "{{.SystemTime}}"), "--filter", "container=some", "--format", "{{.Action}}")
			for _, action := range []string{"archive-path", "extract-to-dir", "export"} {
				if !slices.Contains(strings.Split(told, "\n"), action) {
					t.Errorf("no event tells of %s: %s", action, told)
				}
			}
			e.Must("rm", "-v", "some", "never")
		})
	}
}
