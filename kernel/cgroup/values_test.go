package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
)

// fake is a v2 group as the kernel fills it, in a plain directory.
func fake(t *testing.T, files map[string]string) *Group {
	t.Helper()
	root := t.TempDir()
	g := &Group{path: "/box", dirs: []dir{{
		hierarchy{mount: root, unified: true, controllers: []string{"cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma"}}, root + "/box"}}}
	if err := os.Mkdir(root+"/box", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, "box", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func TestLimitsBecomeV2Values(t *testing.T) {
	mem := func(m specs.LinuxMemory) specs.LinuxResources { return specs.LinuxResources{Memory: &m} }
	cpu := func(c specs.LinuxCPU) specs.LinuxResources { return specs.LinuxResources{CPU: &c} }
	dev := specs.LinuxBlockIODevice{Major: 8, Minor: 16}
	for _, c := range []struct {
		what string
		res  specs.LinuxResources
		have map[string]string
		want map[string]string // the files that change
		err  string
	}{
		{what: "memory", res: mem(specs.LinuxMemory{Limit: ptr(int64(1000)), Reservation: ptr(int64(500))}), want: map[string]string{"memory.max": "1000", "memory.low": "500"}},
		{what: "swap is what exceeds memory", res: mem(specs.LinuxMemory{Limit: ptr(int64(1000)), Swap: ptr(int64(1500))}), want: map[string]string{"memory.max": "1000", "memory.swap.max": "500"}},
		{what: "no swap", res: mem(specs.LinuxMemory{Limit: ptr(int64(1000)), Swap: ptr(int64(1000))}), want: map[string]string{"memory.max": "1000", "memory.swap.max": "0"}},
		{what: "all the swap", res: mem(specs.LinuxMemory{Limit: ptr(int64(1000)), Swap: ptr(int64(-1))}), want: map[string]string{"memory.max": "1000", "memory.swap.max": "max"}},
		{what: "lift both", res: mem(specs.LinuxMemory{Limit: ptr(int64(-1))}), want: map[string]string{"memory.max": "max", "memory.swap.max": "max"}},
		{what: "zeroes are no limits", res: mem(specs.LinuxMemory{Limit: ptr(int64(0)), Swap: ptr(int64(0))})},
		{what: "swap without memory", res: mem(specs.LinuxMemory{Swap: ptr(int64(1000))}), err: "without a memory limit"},
		{what: "swap below memory", res: mem(specs.LinuxMemory{Limit: ptr(int64(1000)), Swap: ptr(int64(999))}), err: "below memory limit"},
		{what: "less than is in use, when asked to look", res: mem(specs.LinuxMemory{Limit: ptr(int64(1000)), CheckBeforeUpdate: ptr(true)}), have: map[string]string{"memory.current": "1001\n"}, err: "1001 bytes are in use"},
		{what: "swappiness", res: mem(specs.LinuxMemory{Swappiness: ptr(uint64(60))}), err: "swappiness"},
		{what: "no OOM killer", res: mem(specs.LinuxMemory{DisableOOMKiller: ptr(true)}), err: "OOM killer"},
		{what: "an OOM killer", res: mem(specs.LinuxMemory{DisableOOMKiller: ptr(false)})},

		{what: "default shares", res: cpu(specs.LinuxCPU{Shares: ptr(uint64(1024))}), want: map[string]string{"cpu.weight": "100"}},
		{what: "least shares", res: cpu(specs.LinuxCPU{Shares: ptr(uint64(2))}), want: map[string]string{"cpu.weight": "1"}},
		{what: "most shares", res: cpu(specs.LinuxCPU{Shares: ptr(uint64(262144))}), want: map[string]string{"cpu.weight": "10000"}},
		{what: "fewer shares than v1 takes", res: cpu(specs.LinuxCPU{Shares: ptr(uint64(1))}), want: map[string]string{"cpu.weight": "1"}},
		{what: "more", res: cpu(specs.LinuxCPU{Shares: ptr(uint64(262145))}), want: map[string]string{"cpu.weight": "10000"}},
		{what: "quota and period", res: cpu(specs.LinuxCPU{Quota: ptr(int64(5000)), Period: ptr(uint64(20000))}), want: map[string]string{"cpu.max": "5000 20000"}},
		{what: "quota alone", res: cpu(specs.LinuxCPU{Quota: ptr(int64(5000))}), want: map[string]string{"cpu.max": "5000"}},
		{what: "no quota", res: cpu(specs.LinuxCPU{Quota: ptr(int64(-1)), Period: ptr(uint64(20000))}), want: map[string]string{"cpu.max": "max 20000"}},
		{what: "period alone keeps the quota", res: cpu(specs.LinuxCPU{Period: ptr(uint64(50000))}), have: map[string]string{"cpu.max": "7000 100000\n"}, want: map[string]string{"cpu.max": "7000 50000"}},
		{what: "burst and idle", res: cpu(specs.LinuxCPU{Burst: ptr(uint64(9)), Idle: ptr(int64(1))}), want: map[string]string{"cpu.max.burst": "9", "cpu.idle": "1"}},
		{what: "realtime", res: cpu(specs.LinuxCPU{RealtimeRuntime: ptr(int64(9))}), err: "realtime"},
		{what: "cpuset", res: cpu(specs.LinuxCPU{Cpus: "0-1", Mems: "0"}), want: map[string]string{"cpuset.cpus": "0-1", "cpuset.mems": "0"}},

		{what: "pids", res: specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(12))}}, want: map[string]string{"pids.max": "12"}},
		{what: "no limit of pids", res: specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}, want: map[string]string{"pids.max": "max"}},
		{what: "huge pages", res: specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4096}}},
			want: map[string]string{"hugetlb.2MB.max": "4096", "hugetlb.2MB.rsvd.max": "4096"}},
		{what: "block IO weight", res: specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(500))}}, want: map[string]string{"io.weight": "4950"}},
		{what: "block IO rate", res: specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{{LinuxBlockIODevice: dev, Rate: 1 << 20}}}},
			want: map[string]string{"io.max": "8:16 wbps=1048576"}},
		{what: "no block IO rate", res: specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{ThrottleReadIOPSDevice: []specs.LinuxThrottleDevice{{LinuxBlockIODevice: dev}}}},
			want: map[string]string{"io.max": "8:16 riops=max"}},
		{what: "RDMA", res: specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"mlx5_0": {HcaHandles: ptr(uint32(3)), HcaObjects: ptr(uint32(4))}}},
			want: map[string]string{"rdma.max": "mlx5_0 hca_handle=3 hca_object=4"}},
		{what: "files of the unified map", res: specs.LinuxResources{Unified: map[string]string{"memory.high": "77"}}, want: map[string]string{"memory.high": "77"}},
		{what: "an escape in the unified map", res: specs.LinuxResources{Unified: map[string]string{"../x.y": "1"}}, err: "invalid cgroup v2 file name"},
		{what: "an unknown file in the unified map", res: specs.LinuxResources{Unified: map[string]string{"fast.enough": "1"}}, err: "does not support it"},
		{what: "network classes", res: specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr(uint32(1))}}, err: "net_cls"},
	} {
		t.Run(c.what, func(t *testing.T) {
			before := map[string]string{"cpu.max": "max 100000\n", "memory.current": "0\n"}
			for _, f := range []string{"memory.max", "memory.low", "memory.high", "memory.swap.max", "cpu.weight", "cpu.max.burst", "cpu.idle", "cpuset.cpus",
				"cpuset.mems", "pids.max", "hugetlb.2MB.max", "hugetlb.2MB.rsvd.max", "io.weight", "io.max", "rdma.max"} {
				before[f] = ""
			}
			for f, text := range c.have {
				before[f] = text
			}
			g := fake(t, before)
			err := g.Apply(t.Context(), &c.res)
			if c.err != "" {
				if !strings.Contains(errorText(err), c.err) || !fail.Is(err, fail.Invalid) && !fail.Is(err, fail.Conflict) {
					t.Fatalf("got %v (%v)", err, fail.Of(err))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for f, old := range before {
				want, changes := c.want[f]
				if !changes {
					want = old
				}
				b, err := os.ReadFile(g.dirs[0].path + "/" + f)
				if err != nil {
					t.Fatal(err)
				}
				// A plain file keeps what a shorter write does not cover.
				if got := string(b); got != want && (!changes || !strings.HasPrefix(got, want)) {
					t.Errorf("%s is %q, want %q", f, got, want)
				}
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestMountinfoOfEveryKindOfHost(t *testing.T) {
	const base = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
	for _, c := range []struct {
		what, text string
		want       []string
	}{
		{"v2 alone", base + "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n", []string{"v2 /sys/fs/cgroup"}},
		{"v1 with controllers together", base + "31 22 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" +
			"32 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n33 31 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd\n",
			[]string{"/sys/fs/cgroup/cpu,cpuacct cpu,cpuacct", "/sys/fs/cgroup/systemd name=systemd"}},
		{"a hybrid: v1 is asked first", "31 22 0:27 / /c/unified rw - cgroup2 cgroup2 rw\n32 31 0:28 / /c/pids rw - cgroup cgroup rw,pids\n", []string{"/c/pids pids", "v2 /c/unified"}},
		{"a plain directory beside mounts is none", "31 22 0:27 / /c rw - tmpfs tmpfs rw\n32 31 0:28 / /c/pids rw - cgroup cgroup rw,pids\n33 31 0:27 /memory /c/memory rw - tmpfs tmpfs rw\n", []string{"/c/pids pids"}},
		{"inside a container that sees its own part", "32 31 0:28 /docker/abc /c/pids ro - cgroup cgroup rw,pids\n", []string{"/c/pids pids"}},
		{"the same hierarchy twice", "32 31 0:28 / /c/pids rw - cgroup cgroup rw,pids\n33 31 0:28 / /mnt/pids rw - cgroup cgroup rw,pids\n", []string{"/c/pids pids"}},
		{"one mounted over another", "32 31 0:28 / /c rw - cgroup cgroup rw,pids\n33 31 0:30 / /c rw - cgroup2 cgroup2 rw\n", []string{"v2 /c"}},
		{"a mount point with a blank", `32 31 0:28 / /c\040d/pids rw - cgroup cgroup rw,pids` + "\n", []string{"/c d/pids pids"}},
		{"none, and nonsense", base + "x\n1 2 3\n - cgroup\n", nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			hs, err := parseMountinfo(strings.NewReader(c.text))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, h := range hs {
				if h.unified {
					got = append(got, "v2 "+h.mount)
				} else {
					got = append(got, h.mount+" "+strings.Join(h.controllers, ","))
				}
			}
			if !slices.Equal(got, c.want) {
				t.Fatalf("got %q", got)
			}
		})
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add(`33 31 0:29 / /c\040 rw - cgroup cgroup rw,name=systemd`)
	f.Add(`\`)
	f.Fuzz(func(t *testing.T, text string) { parseMountinfo(strings.NewReader(text)) })
}

func TestAHybridHostUsesV2OnlyForWhatV1Lacks(t *testing.T) {
	v2 := hierarchy{mount: "/u", unified: true, controllers: []string{"hugetlb", "io"}}
	v1 := func(c ...string) hierarchy { return hierarchy{mount: "/" + c[0], controllers: c} }
	full := []hierarchy{v1("memory"), v1("freezer"), v1("devices"), v1("blkio"), v2}
	for _, c := range []struct {
		what  string
		hosts []hierarchy
		asked []string
		want  bool
	}{
		{"nothing asked", full, nil, false},
		{"a v1 controller", full, []string{"memory", "devices", "blkio"}, false},
		{"a controller of v2 alone", full, []string{"hugetlb"}, true},
		{"a controller of neither", full, []string{"rdma"}, false},
		{"no freezer on v1", []hierarchy{v1("memory"), v2}, nil, true},
		{"no devices on v1", []hierarchy{v1("freezer"), v2}, []string{"devices"}, true},
		{"v2 alone", []hierarchy{v2}, nil, true},
	} {
		got := slices.ContainsFunc(chosen(c.hosts, c.asked), func(h hierarchy) bool { return h.unified })
		if got != c.want {
			t.Errorf("%s: got %v", c.what, got)
		}
	}
}

func TestDeviceRulesFoldIntoWhatV1CanHold(t *testing.T) {
	all := rule(false, "a", -1, -1, "rwm")
	text := func(p devicePolicy) string {
		s := "deny but"
		if p.allow {
			s = "allow but"
		}
		for _, e := range p.exceptions {
			s += " " + e.device() + " " + e.access.String() + ","
		}
		return s
	}
	for _, c := range []struct {
		what  string
		rules []specs.LinuxDeviceCgroup
		want  string
	}{
		{"deny all", []specs.LinuxDeviceCgroup{all}, "deny but"},
		{"merge", []specs.LinuxDeviceCgroup{all, rule(true, "c", 1, 3, "r"), rule(true, "c", 1, 3, "w")}, "deny but c 1:3 rw,"},
		{"take back", []specs.LinuxDeviceCgroup{all, rule(true, "c", 1, 3, "rwm"), rule(false, "c", 1, 3, "m")}, "deny but c 1:3 rw,"},
		{"take all of a kind back", []specs.LinuxDeviceCgroup{rule(true, "c", 1, 3, "rwm"), rule(true, "b", 8, -1, "r"), rule(false, "c", -1, -1, "")}, "deny but b 8:* r,"},
		{"both kinds", []specs.LinuxDeviceCgroup{rule(true, "", 9, 9, "r")}, "deny but b 9:9 r, c 9:9 r,"},
		{"allow all but one", []specs.LinuxDeviceCgroup{rule(true, "a", -1, -1, "rwm"), rule(false, "b", 8, 0, "w")}, "allow but b 8:0 w,"},
		{"start over", []specs.LinuxDeviceCgroup{rule(true, "c", 1, 3, "r"), all, rule(true, "c", 1, 5, "r")}, "deny but c 1:5 r,"},
		{"a part of a whole", []specs.LinuxDeviceCgroup{rule(true, "c", 1, -1, "r"), rule(false, "c", 1, 3, "r")}, "error"},
		{"a part, but other access", []specs.LinuxDeviceCgroup{rule(true, "c", 1, -1, "r"), rule(false, "c", 1, 3, "w")}, "deny but c 1:* r,"},
	} {
		rules, err := deviceRules(c.rules)
		if err != nil {
			t.Fatal(err)
		}
		p, err := policyOf(rules[:len(rules)-len(alwaysAllowed)])
		got := text(p)
		if err != nil {
			got = "error"
		}
		if got != c.want {
			t.Errorf("%s: got %s", c.what, got)
		}
	}
	for what, r := range map[string]specs.LinuxDeviceCgroup{
		"kind": rule(true, "x", 1, 1, "r"), "access": rule(true, "c", 1, 1, "rx"), "number": rule(true, "c", 1<<40, 1, "r"),
	} {
		if _, err := deviceRules([]specs.LinuxDeviceCgroup{r}); !fail.Is(err, fail.Invalid) {
			t.Errorf("wrong %s: got %v", what, err)
		}
	}
}

func TestWeightsKeepTheirOrderAndTheirDefault(t *testing.T) {
	last := uint64(0)
	for shares := uint64(2); shares <= 262144; shares += 7 {
		w := weightOfShares(shares)
		if w < last || w < 1 || w > 10000 {
			t.Fatalf("%d shares weigh %d, fewer weigh %d", shares, w, last)
		}
		last = w
	}
	if weightOfShares(1024) != 100 || ioWeight(10) != 1 || ioWeight(1000) != 10000 {
		t.Fatal("an anchor is off")
	}
}

func TestKeysOfFlatFilesAreFound(t *testing.T) {
	g := fake(t, map[string]string{"memory.events": "low 0\noom 3\noom_kill 12\noom_group_kill 4\n"})
	for key, want := range map[string]uint64{"oom": 3, "oom_kill": 12, "oom_group_kill": 4, "high": 0} {
		if n, err := readKey(g.dirs[0].path+"/memory.events", key); n != want || err != nil {
			t.Errorf("%s: got %d, %v", key, n, err)
		}
	}
	if n, err := g.OOMKills(); n != 12 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
}

func TestWhatTheHostSupportsIsFound(t *testing.T) {
	g := fake(t, map[string]string{"memory.swap.max": "", "cpu.max": "", "io.max": "", "io.weight": ""})
	got := supported([]hierarchy{g.dirs[0].hierarchy})
	want := Support{Version: 2, Memory: true, Swap: true, CPUShares: true, CPUQuota: true, CPUSet: true, PIDs: true,
		BlockIO: true, BlockIOWeight: true, DeviceWeight: true, Hugetlb: true, Devices: true, Freezer: true}
	if got != want {
		t.Fatalf("got %+v", got)
	}
	// A group with memory alone delegated to it does not tell what ours can have.
	g = fake(t, map[string]string{"cgroup.controllers": "memory\n", "memory.max": ""})
	if got = supported([]hierarchy{g.dirs[0].hierarchy}); got.Swap || !got.CPUQuota || !got.BlockIO || !got.BlockIOWeight || got.CPURealtime || got.OOMKillDisable {
		t.Fatalf("memory alone delegated: got %+v", got)
	}
	v1 := fakeV1(t, map[string]string{"cpu.cfs_quota_us": "", "blkio.bfq.io_serviced": "", "memory.oom_control": ""})
	if got = supported([]hierarchy{v1.dirs[0].hierarchy}); got.Version != 1 || !got.CPUQuota || !got.BlockIOWeight || !got.DeviceWeight || got.BlockIO || got.Swap || !got.OOMKillDisable {
		t.Fatalf("v1: got %+v", got)
	}
	if s := supported(nil); s != (Support{}) {
		t.Fatalf("nothing is mounted: got %+v", s)
	}
}

func TestTheLimitOfLockedMemoryIsAsItWas(t *testing.T) {
	limit := func() (l unix.Rlimit) {
		if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	before := limit()
	const unlimited = unix.RLIM_INFINITY & (1<<64 - 1)
	none := unix.Rlimit{Cur: unlimited, Max: unlimited}
	mayRaise := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &none) == nil
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &before); err != nil {
		t.Fatal(err)
	}
	var during []unix.Rlimit
	fd, err := lockingMemory(func() (int, error) {
		if during = append(during, limit()); len(during) == 1 {
			return -1, unix.EPERM
		}
		return 7, nil
	})
	want := []unix.Rlimit{before}
	if mayRaise {
		want = append(want, none)
	}
	if !slices.Equal(during, want) || (fd == 7) != mayRaise || (err == nil) != mayRaise {
		t.Errorf("loaded under %v, not %v: %d, %v", during, want, fd, err)
	}
	if after := limit(); after != before {
		t.Errorf("afterwards %v, not %v", after, before)
	}
	during = nil
	if _, err := lockingMemory(func() (int, error) { during = append(during, limit()); return -1, unix.EINVAL }); err != unix.EINVAL || len(during) != 1 {
		t.Errorf("another error: %v, %d times", err, len(during))
	}
}

func TestKillsForMemoryAreKnownWhenTheGroupIsGone(t *testing.T) {
	g := fake(t, map[string]string{"memory.events": "oom 1\noom_kill 2\n"})
	for range 2 {
		if n, err := g.OOMKills(); n != 2 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
		if err := os.RemoveAll(g.dirs[0].path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAKillThatNobodyReadIsKnownByTheGroupAbove(t *testing.T) {
	g := fake(t, map[string]string{"memory.events": "oom_kill 0\n"})
	above := filepath.Dir(g.dirs[0].path) + "/memory.events"
	for _, c := range []struct {
		hit  *hit
		want uint64
	}{{nil, 0}, {&hit{4, time.Now()}, 1}, {&hit{5, time.Now()}, 0}, {&hit{4, time.Now().Add(-time.Minute)}, 0}} {
		if err := os.WriteFile(above, []byte("oom_kill 5\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(g.dirs[0].path); err != nil {
			t.Fatal(err)
		}
		g.hit.Store(c.hit)
		if n, err := g.OOMKills(); n != c.want || err != nil {
			t.Errorf("%+v: %d, %v, want %d", c.hit, n, err, c.want)
		}
	}
}
