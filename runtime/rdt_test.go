package runtime

import (
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/fail"
)

// A directory takes the place of the resctrl file system, whose files are there at once.
func TestTheClassOfServiceOfAContainer(t *testing.T) {
	for _, tc := range []struct {
		name    string
		rdt     specs.LinuxIntelRdt
		dir     string // of the group
		wrote   string // to schemata
		stays   bool
		refused string
	}{
		{name: "its own", rdt: specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f"}, dir: "box", wrote: "L3:0=f\n"},
		{name: "a new one", rdt: specs.LinuxIntelRdt{ClosID: "gold", MemBwSchema: "MB:0=20", L3CacheSchema: "L3:0=f"}, dir: "gold", wrote: "MB:0=20\n", stays: true},
		{name: "the default one", rdt: specs.LinuxIntelRdt{ClosID: "/"}, dir: "", stays: true},
		{name: "an existing one", rdt: specs.LinuxIntelRdt{ClosID: "there"}, dir: "there", stays: true},
		{name: "an existing one with the same schemata", rdt: specs.LinuxIntelRdt{ClosID: "there", Schemata: []string{"L3:1=0FF"}}, dir: "there", stays: true},
		{name: "an existing one with others", rdt: specs.LinuxIntelRdt{ClosID: "there", Schemata: []string{"L3:0=1"}}, refused: "has not L3:0=1"},
		{name: "one that is missing", rdt: specs.LinuxIntelRdt{ClosID: "missing"}, refused: `no class of service "missing"`},
		{name: "monitored", rdt: specs.LinuxIntelRdt{ClosID: "there", EnableMonitoring: true}, dir: "there", stays: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			os.MkdirAll(root+"/there/mon_groups", 0o755)
			write(t, root+"/there/schemata", "    L3:0=f;1=ff\n    MB:0=100\n", 0o644)
			for _, dir := range []string{"/", "/there/"} {
				write(t, root+dir+"tasks", "", 0o644)
			}
			// Files appear with a directory; here they must be there before they are written.
			for _, dir := range []string{"/box", "/gold"} {
				if tc.dir != "" && dir == "/"+tc.dir {
					g := rdtOf(root, "box", &tc.rdt)
					if g.dir != root+dir {
						t.Errorf("the group is %s", g.dir)
					}
				}
			}
			g, err := makeRDT(root, "box", &tc.rdt)
			if tc.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tc.refused) || !fail.Is(err, fail.Invalid) && !fail.Is(err, fail.NotFound) {
					t.Errorf("got %v", err)
				}
				return
			}
			if tc.wrote != "" {
				// Without the kernel nobody makes the file: that is the error, and nothing is left.
				if err == nil || !strings.Contains(err.Error(), "schemata") {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if g.monitor != "" {
				write(t, g.monitor+"/tasks", "", 0o644)
			}
			if err := g.join(42); err != nil {
				t.Fatal(err)
			}
			for _, dir := range []string{g.dir, g.monitor} {
				if dir == "" {
					continue
				}
				if text, _ := os.ReadFile(dir + "/tasks"); string(text) != "42\n" {
					t.Errorf("%s: tasks %q", dir, text)
				}
			}
			if g.monitor != "" {
				os.Remove(g.monitor + "/tasks") // the kernel's files do not keep a group from being removed
			}
			if err := g.remove(); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(root + "/" + tc.dir); (err == nil) != tc.stays {
				t.Errorf("after the end: %v", err)
			}
			if _, err := os.Stat(root + "/there/mon_groups/box"); err == nil {
				t.Error("the monitoring group is left")
			}
		})
	}
}
