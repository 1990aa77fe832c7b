package test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"berth/testkit"
)

// du is what a directory takes, as du(1) counts.
func du(t *testing.T, dir string) int64 {
	t.Helper()
	out, err := exec.Command(testkit.NeedTool(t, "du"), "-sx", "--block-size=1", dir).Output()
	if err != nil && len(out) == 0 { // what goes meanwhile is told, and no error here
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.Fields(string(out))[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// usage is what GET /system/df and GET /berth/df say.
type usage struct {
	ImageUsage, ContainerUsage, VolumeUsage, BuildCacheUsage struct{ TotalSize, TotalCount, ActiveCount, Reclaimable int64 }
	Content, Cache, Logs, Overhead, Total                    int64
}

func usageOf(t *testing.T, e *testkit.Engine) (u usage) {
	t.Helper()
	for _, path := range []string{"/v1.55/system/df", "/berth/df"} {
		r, err := plainClient(e).Get("http://engine" + path)
		must(t, err)
		if r.StatusCode != 200 {
			t.Errorf("%s: %s", path, r.Status)
		}
		must(t, json.NewDecoder(r.Body).Decode(&u), r.Body.Close())
	}
	return u
}

func (u usage) sum() int64 {
	return u.ImageUsage.TotalSize + u.ContainerUsage.TotalSize + u.VolumeUsage.TotalSize + u.BuildCacheUsage.TotalSize + u.Content + u.Cache + u.Logs + u.Overhead
}

func TestDiskUsageIsWhatDuSays(t *testing.T) {
	for _, driver := range []string{"overlay", "copy"} {
		t.Run(driver, func(t *testing.T) {
			e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--storage-driver", driver}})
			compare := func(when string) usage {
				t.Helper()
				var u usage
				ok := func() bool { // files are deleted behind the answer
					u = usageOf(t, e)
					want := du(t, e.DataRoot)
					return math.Abs(float64(u.sum()-want)) <= float64(want)/100
				}
				if !ok() {
					t.Logf("%s: %+v is not yet %d", when, u, du(t, e.DataRoot))
					testkit.Eventually(t, when+": the sum is what du says", ok)
				}
				return u
			}
			compare("nothing yet")
			e.Busybox()
			e.Must("run", "--name", "maker", "--network", "none", "busybox", "sh", "-c", "dd if=/dev/zero of=/more bs=1k count=3000 2>/dev/null; echo logged; i=0; while [ $i -lt 300 ]; do echo $i > /small.$i; i=$((i+1)); done")
			e.Must("commit", "maker", "second")
			e.Must("run", "-d", "--name", "runs", "--network", "none", "-v", "named:/v", "-v", "/anonymous", "second", "sh", "-c",
				"dd if=/dev/zero of=/v/data bs=1k count=2000; truncate -s 100000000 /v/sparse; dd if=/dev/zero of=/anonymous/data bs=1k count=500; head -c 70000 /dev/zero | tr '\\0' 'x'; echo; echo here > /ready; sleep 1000")
			testkit.Eventually(t, "it has written", func() bool { return e.Berth("exec", "runs", "test", "-e", "/ready").Code == 0 })
			u := compare("with containers and volumes")
			for _, c := range []struct {
				what        string
				got, at, to int64
			}{
				{"images", u.ImageUsage.TotalSize, 4_500_000, 6_000_000}, // busybox and what maker added
				{"containers", u.ContainerUsage.TotalSize, 3_000_000, 3_200_000},
				{"volumes", u.VolumeUsage.TotalSize, 2_500 << 10, 2_600 << 10},
				{"logs", u.Logs, 70_000, 200_000},
				{"content", u.Content, 4_500_000, 7_000_000},
			} {
				if c.got < c.at || c.got > c.to {
					t.Errorf("%s: %d bytes, want %d to %d", c.what, c.got, c.at, c.to)
				}
			}
			if driver == "overlay" && u.Overhead > 2<<20 {
				t.Errorf("overhead of %d bytes", u.Overhead)
			}
			if out := e.Must("system", "df"); !strings.Contains(out, "\nOverhead ") || !strings.Contains(out, "\nLogs ") {
				t.Errorf("system df:\n%s", out)
			}
			e.Must("rm", "-f", "runs")
			e.Must("rm", "maker")
			compare("after the containers")
			e.Must("system", "prune", "-af", "--volumes")
			if u := compare("after all"); u.ImageUsage.TotalSize+u.ContainerUsage.TotalSize+u.Content+u.Cache+u.Logs != 0 {
				t.Errorf("something is left: %+v", u)
			}
		})
	}
}

func TestAPrunedEngineIsAsSmallAsAFreshOne(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	reg := testkit.Registry(t, testkit.RegistryOptions{})
	fresh := du(t, e.DataRoot)
	e.Busybox()
	e.Must("tag", "busybox", reg.Addr+"/a:1")
	e.Must("push", reg.Addr+"/a:1")
	e.Must("rmi", reg.Addr+"/a:1", "busybox")
	e.Must("pull", reg.Addr+"/a:1")
	for n := range 20 {
		e.Must("run", "--name", fmt.Sprint("c", n), "--network", "none", "-v", "/v", "-l", "filler="+strings.Repeat("x", 2000), reg.Addr+"/a:1", "sh", "-c", "echo x > /v/f; echo y > /f; seq 1000")
	}
	e.Must("run", "--rm", "-v", "/v", "--network", "none", reg.Addr+"/a:1", "true")
	e.Must("network", "create", "n")
	e.Must("commit", "c1", "made")
	before := du(t, e.DataRoot)
	if before < fresh+(4<<20) {
		t.Fatalf("%d bytes are no test beside %d", before, fresh)
	}
	out := e.Must("system", "prune", "-af", "--volumes")
	for _, want := range []string{"Deleted Containers:", "Deleted Networks:\nn\n", "Deleted Volumes:", "Deleted Images:", "Total reclaimed space:"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not told:\n%s", want, out)
		}
	}
	testkit.Eventually(t, "all is gone", func() bool { return du(t, e.DataRoot) <= fresh+(1<<20) })
	if t.Failed() {
		_ = filepath.WalkDir(e.DataRoot, func(path string, d fs.DirEntry, err error) error {
			if info, err := d.Info(); err == nil && !d.IsDir() {
				t.Log(path, info.Size())
			}
			return nil
		})
	}
}

// TestPruneFilters prunes with each filter, and looks what is left.
func TestPruneFilters(t *testing.T) {
	eachClient(t, func(t *testing.T, e *testkit.Engine, c client) {
		// make makes one of each kind.
		make := func(name string, labels ...string) {
			args := []string{}
			for _, l := range labels {
				args = append(args, "--label", l)
			}
			run := func(words ...string) { c.must(e, words...) }
			run(append(append([]string{"create", "--network", "none", "--name", name}, args...), "busybox", "true")...)
			run(append(append([]string{"network", "create"}, args...), name)...)
			run(append(append([]string{"volume", "create"}, args...), name)...)
			change := []string{"commit"}
			for _, l := range labels {
				change = append(change, "--change", "LABEL "+l)
			}
			run(append(change, name, name)...)
		}
		left := func(kind string) string {
			var words []string
			switch kind {
			case "container":
				words = []string{"ps", "-a", "--format", "{{.Names}}"}
			case "image":
				words = []string{"images", "--format", "{{.Repository}}"}
			case "network":
				words = []string{"network", "ls", "--filter", "type=custom", "--format", "{{.Name}}"}
			case "volume":
				words = []string{"volume", "ls", "--format", "{{.Name}}"}
			}
			var names []string
			for _, n := range strings.Fields(c.must(e, words...)) {
				if n == "one" || n == "two" || n == "three" {
					names = append(names, n)
				}
			}
			slices.Sort(names)
			return strings.Join(names, " ")
		}
		all := func() {
			make("one", "a=1")
			make("two", "a=2", "b=x")
		}
		between := func() string { return c.must(e, "info", "--format", "{{.SystemTime}}") }
		for _, p := range []struct {
			filters []string
			left    string
		}{
			{[]string{"label=a=1"}, "three two"},
			{[]string{"label=a"}, "three"},
			{[]string{"label=b=y"}, "one three two"},
			{[]string{"label!=a=1"}, "one"},
			{[]string{"label!=a"}, "one two"},
			{[]string{"label=a", "label!=b"}, "three two"},
			{[]string{"label=a=1", "label=a=2"}, "one three two"},
			{[]string{"until=NOW"}, "three"},
			{[]string{"until=1h"}, "one three two"},
			{nil, ""},
		} {
			all()
			now := between()
			make("three")
			for _, kind := range []string{"container", "image", "network", "volume"} {
				args := []string{kind, "prune", "-f"}
				if kind == "image" || kind == "volume" {
					args = append(args, "-a")
				}
				want := p.left
				for _, f := range p.filters {
					if kind == "volume" && strings.HasPrefix(f, "until") {
						want = "one three two"
					}
					args = append(args, "--filter", strings.ReplaceAll(f, "NOW", now))
				}
				if kind == "image" { // busybox's images are in nobody's way
					for _, name := range strings.Fields(left("container")) {
						c.must(e, "rm", name)
					}
				}
				r := c.run(e, args...)
				if kind == "volume" && strings.HasPrefix(strings.Join(p.filters, ""), "until") {
					if r.Code != 1 || !strings.Contains(r.Stderr, "until") {
						t.Errorf("%s: %+v", args, r)
					}
				} else if r.Code != 0 {
					t.Errorf("%s: %+v", args, r)
				}
				if got := left(kind); got != want {
					t.Errorf("%s: %q is left, want %q", args, got, want)
				}
			}
			c.run(e, "system", "prune", "-f")
			for _, kind := range []string{"container", "network", "volume", "image"} {
				for _, name := range strings.Fields(left(kind)) {
					c.must(e, kind, "rm", name)
				}
			}
			if e.Berth("image", "inspect", "busybox").Code != 0 {
				e.Busybox()
			}
		}
	})
}

func TestPruneAsks(t *testing.T) {
	eachClient(t, func(t *testing.T, e *testkit.Engine, c client) {
		c.must(e, "create", "--network", "none", "--name", "kept", "busybox", "true")
		program := filepath.Join(e.Bin, "berth")
		if c.name == "docker" {
			program = testkit.DockerCLI(t)
		}
		for _, words := range [][]string{{"container", "prune"}, {"system", "prune", "-a"}} {
			for answer, kept := range map[string]bool{"n\n": true, "": true, "maybe\n": true, "y\n": false} {
				if !kept && words[0] == "system" {
					continue
				}
				r := e.Run(answer, program, words...)
				if !strings.HasPrefix(r.Stdout, "WARNING! This will remove") || !strings.Contains(r.Stdout, "[y/N]") {
					t.Errorf("%s says %q", words, r.Stdout)
				}
				if got := e.Berth("container", "inspect", "kept").Code == 0; got != kept {
					t.Errorf("%s, answered %q: kept %v", words, answer, got)
				}
				if !kept {
					c.must(e, "create", "--network", "none", "--name", "kept", "busybox", "true")
				}
			}
		}
		c.must(e, "rm", "kept")
		if got := e.Must("builder", "prune", "-a", "-f", "--filter", "until=24h", "--keep-storage", "1GB"); got != "Total reclaimed space: 0B" {
			t.Errorf("builder prune: %q", got)
		}
	})
}
