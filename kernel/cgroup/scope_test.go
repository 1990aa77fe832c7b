package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/fail"
)

func TestScopesHaveTheirPlaceInTheSlices(t *testing.T) {
	for name, want := range map[string]string{
		"system.slice:docker:abc":       "/system.slice/docker-abc.scope",
		":libpod:abc":                   "/system.slice/libpod-abc.scope",
		"machine.slice::abc":            "/machine.slice/abc.scope",
		"foo-bar.slice:berth:abc":       "/foo.slice/foo-bar.slice/berth-abc.scope",
		"a-b-c.slice:p:x":               "/a.slice/a-b.slice/a-b-c.slice/p-x.scope",
		"-.slice:p:x":                   "/p-x.scope",
		"kube\\x2dpods.slice:cri:1.2_3": "/kube\\x2dpods.slice/cri-1.2_3.scope",
		"a--b.slice:p:x":                "",
		"-a.slice:p:x":                  "",
		"a-.slice:p:x":                  "",
		".slice:p:x":                    "",
		"system.slice:p:":               "",
		"system.slice:p:a+b":            "",
		"system.slice:p:a b":            "",
		"x y.slice:p:a":                 "",
		"system.slice:p:" + strings.Repeat("x", 250): "",
	} {
		at, err := clean(name)
		if want == "" {
			if !fail.Is(err, fail.Invalid) {
				t.Errorf("%q: got %+v, %v", name, at, err)
			}
			continue
		}
		if err != nil || at.path != want || at.path[strings.LastIndex(at.path, "/")+1:] != at.scope {
			t.Errorf("%q: got %+v, %v", name, at, err)
		}
	}
}

func TestOnlyAnEmptyScopeOfTheSamePlaceIsStopped(t *testing.T) {
	here := place{path: "/system.slice/session-3.scope", scope: "session-3.scope", slice: "system.slice"}
	dir := func(files map[string]string) string {
		d := t.TempDir()
		for name, text := range files {
			if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(d, name)), 0o755), os.WriteFile(filepath.Join(d, name), []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		return d
	}
	for _, c := range []struct {
		name, at, dir string
		why           string // empty: it may be stopped
	}{
		{"without a group", "", "/nowhere", ""},
		{"empty", here.path, dir(map[string]string{"cgroup.procs": ""}), ""},
		{"gone", here.path, "/nowhere", ""},
		{"with a process", here.path, dir(map[string]string{"cgroup.procs": "7\n"}), "1 processes"},
		{"with a process further in", here.path, dir(map[string]string{"cgroup.procs": "", "in/cgroup.procs": "7\n"}), "1 processes"},
		{"a login's, in another slice", "/user.slice/user-1000.slice/session-3.scope", "/nowhere", "control group /user.slice"},
		{"in another slice, beside an empty directory here", "/user.slice/session-3.scope", dir(map[string]string{"cgroup.procs": ""}), "control group /user.slice"},
		{"that cannot be looked at", here.path, dir(map[string]string{"cgroup.procs": "what"}), "look whether"},
	} {
		if err := here.abandoned(c.at, c.dir); (err != nil) != (c.why != "") || err != nil && !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
}

func TestAScopeGoesThoughSystemdDoesNotHelp(t *testing.T) {
	at := filepath.Join(t.TempDir(), "x.scope")
	if err := os.MkdirAll(filepath.Join(at, "in"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // whatever systemd there may be, it is not waited for
	g := &Group{path: "/x.scope", scope: "berthtest-" + filepath.Base(filepath.Dir(at)) + ".scope", dirs: []dir{{path: at}}}
	if err := g.Remove(ctx); err != nil || exists(at) {
		t.Errorf("got %v, and its directory is there: %v", err, exists(at))
	}
}

func TestLimitsAreTheScopesProperties(t *testing.T) {
	for _, c := range []struct {
		name string
		res  specs.LinuxResources
		now  period
		bfq  bool
		want string
	}{
		{"nothing", specs.LinuxResources{}, period{}, false, ""},
		{"memory", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(64)), Swap: ptr(int64(100)), Reservation: ptr(int64(32))}}, period{}, false,
			"MemoryMax=64 MemoryLow=32 MemorySwapMax=36"},
		{"no limit", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}, Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}, period{}, false,
			"MemoryMax=18446744073709551615 MemorySwapMax=18446744073709551615 TasksMax=18446744073709551615"},
		{"no further tasks", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(0))}}, period{}, false, "TasksMax=1"},
		{"shares", specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(1024))}}, period{}, false, "CPUWeight=100"},
		{"quota", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(20000)), Period: ptr(uint64(50000))}}, period{}, false,
			"CPUQuotaPeriodUSec=50000 CPUQuotaPerSecUSec=400000"},
		{"a quota beside the present period", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(30000))}}, period{20000, 60000}, false,
			"CPUQuotaPeriodUSec=60000 CPUQuotaPerSecUSec=500000"},
		{"a quota that is no whole percentage", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(33333))}}, period{}, false,
			"CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=340000"},
		{"no quota any more", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(-1))}}, period{20000, 50000}, false,
			"CPUQuotaPeriodUSec=50000 CPUQuotaPerSecUSec=18446744073709551615"},
		{"CPUs and nodes", specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0-2,9", Mems: "0"}}, period{}, false, "AllowedCPUs=[7 2] AllowedMemoryNodes=[1]"},
		{"idle", specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(1))}}, period{}, false, "CPUWeight=0"},
		{"block IO", specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(300))}}, period{}, false, "IOWeight=2930"},
		{"block IO of BFQ", specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(300))}}, period{}, true, "IOWeight=2300"},
		{"a low one", specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(20))}}, period{}, true, "IOWeight=20"},
		{"files of v2", specs.LinuxResources{Unified: map[string]string{"memory.high": "1000", "memory.min": "5", "cpu.max": "max 20000", "pids.max": "max",
			"io.weight": "default 50", "cpuset.cpus": "1", "cpu.weight": "nonsense", "misc.max": "res 1"}}, period{}, false,
			"MemoryMin=5 MemoryHigh=1000 TasksMax=18446744073709551615 IOWeight=50 CPUQuotaPeriodUSec=20000 CPUQuotaPerSecUSec=18446744073709551615 AllowedCPUs=[2]"},
	} {
		got, err := scopeProperties(&c.res, c.now, c.bfq)
		var words []string
		for _, p := range got {
			words = append(words, fmt.Sprintf("%s=%v", p.Name, p.Value))
		}
		if text := strings.Join(words, " "); err != nil || text != c.want {
			t.Errorf("%s: got %s, %v; want %s", c.name, text, err, c.want)
		}
	}
	for _, list := range []string{"a", "3-1", "99999", "-1"} {
		if _, err := cpuBits(list); !fail.Is(err, fail.Invalid) {
			t.Errorf("%q: got %v", list, err)
		}
	}
}

// What systemd makes of a weight when it writes BFQ's file is the weight that was asked for.
func TestAWeightOfBFQSurvivesSystemd(t *testing.T) {
	for w := uint64(10); w <= 1000; w++ {
		given := systemdWeight(uint16(w), true)
		written := given
		if given > 100 { // BFQ_WEIGHT in systemd's cgroup-util.h
			written = 100 + (given-100)*900/9900
		}
		if written != w || given > 10000 {
			t.Fatalf("%d becomes %d by way of %d", w, written, given)
		}
	}
}
