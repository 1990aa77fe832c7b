package cgroup

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/fail"
)

// fakeV1 is a v1 group in a plain directory, with all controllers in one hierarchy.
func fakeV1(t *testing.T, files map[string]string) *Group {
	t.Helper()
	g := fake(t, files)
	g.dirs[0].unified = false
	g.dirs[0].controllers = []string{"cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "hugetlb", "rdma", "net_cls", "net_prio"}
	return g
}

func TestStatisticsOfV1AreRead(t *testing.T) {
	g := fakeV1(t, map[string]string{
		"cpu.stat":         "nr_periods 7\nnr_throttled 3\nthrottled_time 5000\nnr_bursts 2\nburst_time 9\n",
		"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n",
		"cpuacct.usage_percpu": "123000 456 \n", "cpuacct.stat": "user 250\nsystem 50\n", "cpuacct.usage_all": "cpu user system\n0 100 20\n1 3 4\n",
		"cpuset.cpus": "0-1\n", "cpuset.mems": "0\n", "cpuset.effective_cpus": "0\n",
		"memory.stat": "cache 1\nrss 2\ntotal_cache 4096\n", "memory.use_hierarchy": "1\n", "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 6\n",
		"memory.usage_in_bytes": "10\n", "memory.max_usage_in_bytes": "20\n", "memory.limit_in_bytes": "30\n", "memory.failcnt": "4\n",
		"memory.memsw.usage_in_bytes": "11\n", "memory.memsw.max_usage_in_bytes": "21\n", "memory.memsw.limit_in_bytes": "31\n", "memory.memsw.failcnt": "5\n",
		"pids.current": "3\n", "pids.max": "max\n",
		"blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 512\n8:0 Total 4608\nTotal 4608\n",
		"blkio.throttle.io_serviced_recursive":      "8:0 Read 1\nTotal 1\n",
		"hugetlb.2MB.usage_in_bytes":                "2097152\n", "hugetlb.2MB.max_usage_in_bytes": "4194304\n", "hugetlb.2MB.failcnt": "1\n",
		"hugetlb.2MB.rsvd.usage_in_bytes": "7\n", "hugetlb.2MB.limit_in_bytes": "9\n",
		"rdma.current": "mlx5_0 hca_handle=2 hca_object=3\n", "rdma.max": "mlx5_0 hca_handle=max hca_object=2000\n",
	})
	got, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	want := &Stats{
		CPU: &CPUStats{Total: 123456, User: 2500 * time.Millisecond, System: 500 * time.Millisecond, PerCPU: []PerCPU{{123000, 100, 20}, {456, 3, 4}},
			Quota: unlimited, Period: 100000, Periods: 7, ThrottledPeriods: 3, Throttled: 5000, Bursts: 2, BurstTime: 9},
		CPUSet: &CPUSetStats{"0", "0"},
		Memory: &MemoryStats{Counter: Counter{10, 20, 30, 4}, Swap: &Counter{11, 21, 31, 5}, Cache: 4096, OOMKills: 6, Hierarchy: true,
			Raw: map[string]uint64{"cache": 1, "rss": 2, "total_cache": 4096}},
		Pids:    &PidsStats{3, unlimited},
		BlockIO: &BlockIOStats{Bytes: []DeviceCount{{8, 0, "Read", 4096}, {8, 0, "Write", 512}, {8, 0, "Total", 4608}}, Operations: []DeviceCount{{8, 0, "Read", 1}}},
		Hugetlb: map[string]HugetlbStats{"2MB": {Usage: 2 << 20, Peak: 4 << 20, Failures: 1, Reserved: 7}},
		Rdma:    map[string]RdmaStats{"mlx5_0": {Handles: 2, HandleLimit: unlimited, Objects: 3, ObjectLimit: 2000}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestStatisticsOfV2AreRead(t *testing.T) {
	const pressure = "some avg10=1.50 avg60=0.25 avg300=0.00 total=42\nfull avg10=0.10 avg60=0.00 avg300=0.00 total=7\n"
	p := &Pressure{Some: PressureLine{1.5, 0.25, 0, 42 * time.Microsecond}, Full: PressureLine{0.1, 0, 0, 7 * time.Microsecond}}
	g := fake(t, map[string]string{
		"cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 7\nnr_throttled 3\nthrottled_usec 5\nnr_bursts 2\nburst_usec 9\n",
		"cpu.max":  "max 100000\n", "cpu.pressure": pressure, "memory.pressure": pressure,
		"cpuset.cpus.effective": "0-1\n", "cpuset.mems.effective": "0\n",
		"memory.stat": "anon 5\nfile 4096\n", "memory.events": "low 0\nmax 4\noom_kill 6\n",
		"memory.current": "10\n", "memory.peak": "20\n", "memory.max": "max\n",
		"memory.swap.current": "1\n", "memory.swap.max": "0\n", "memory.swap.events": "fail 8\n",
		"pids.current": "3\n", "pids.max": "12\n",
		"io.stat":             "8:0 rbytes=4096 wbytes=512 rios=1 wios=2 dbytes=0 dios=0 cost.usage=3\n254:16 \n",
		"hugetlb.2MB.current": "2097152\n", "hugetlb.2MB.rsvd.current": "7\n", "hugetlb.2MB.events": "max 1\n",
	})
	got, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	want := &Stats{
		CPU: &CPUStats{Total: 30 * time.Microsecond, User: 20 * time.Microsecond, System: 10 * time.Microsecond, Quota: unlimited, Period: 100000,
			Periods: 7, ThrottledPeriods: 3, Throttled: 5 * time.Microsecond, Bursts: 2, BurstTime: 9 * time.Microsecond, Pressure: p},
		CPUSet: &CPUSetStats{"0-1", "0"},
		Memory: &MemoryStats{Counter: Counter{10, 20, unlimited, 4}, Swap: &Counter{Usage: 1, Failures: 8}, Cache: 4096, OOMKills: 6, Hierarchy: true,
			Raw: map[string]uint64{"anon": 5, "file": 4096}, Pressure: p},
		Pids: &PidsStats{3, 12},
		BlockIO: &BlockIOStats{
			Bytes:      []DeviceCount{{8, 0, "Read", 4096}, {8, 0, "Write", 512}, {8, 0, "Discard", 0}},
			Operations: []DeviceCount{{8, 0, "Read", 1}, {8, 0, "Write", 2}, {8, 0, "Discard", 0}}},
		Hugetlb: map[string]HugetlbStats{"2MB": {Usage: 2 << 20, Failures: 1, Reserved: 7}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestALiveGroupIsCounted(t *testing.T) {
	both(t, func(t *testing.T, hs []hierarchy) {
		g := group(t, hs, nil)
		cmd := start(t, g, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; read more; exit 0 <&-")
		_ = cmd.Wait()
		s, err := g.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if s.CPU == nil || s.CPU.Total <= 0 || s.CPU.User+s.CPU.System > s.CPU.Total+time.Second {
			t.Errorf("CPU: %+v", s.CPU)
		}
		if m := s.Memory; m != nil && (m.Peak == 0 && (!g.v2() || exists(g.dirs[0].path+"/memory.peak")) || len(m.Raw) == 0) { // memory.peak: since Linux 5.19
			t.Errorf("memory: %+v", m)
		}
		if s.Pids != nil && s.Pids.Limit != unlimited {
			t.Errorf("pids: %+v", s.Pids)
		}
		if err := g.Remove(deadline(t)); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Stats(); !fail.Is(err, fail.NotFound) {
			t.Errorf("a group that is gone: %v", err)
		}
	})
}

// TestLimitsBecomeV1Values is about files that few machines have.
func TestLimitsBecomeV1Values(t *testing.T) {
	dev := specs.LinuxBlockIODevice{Major: 8, Minor: 16}
	for _, c := range []struct {
		what string
		res  specs.LinuxResources
		have map[string]string
		want map[string]string
		err  string
	}{
		{what: "block IO weights", res: specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(500)), LeafWeight: ptr(uint16(300)),
			WeightDevice: []specs.LinuxWeightDevice{{LinuxBlockIODevice: dev, Weight: ptr(uint16(400)), LeafWeight: ptr(uint16(200))}}}},
			have: map[string]string{"blkio.weight": "", "blkio.leaf_weight": "", "blkio.weight_device": "", "blkio.leaf_weight_device": ""},
			want: map[string]string{"blkio.weight": "500", "blkio.leaf_weight": "300", "blkio.weight_device": "8:16 400", "blkio.leaf_weight_device": "8:16 200"}},
		{what: "block IO weight of BFQ", res: specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(500))}},
			have: map[string]string{"blkio.bfq.weight": ""}, want: map[string]string{"blkio.bfq.weight": "500"}},
		{what: "no scheduler with weights", res: specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(500))}}, err: "block IO weight: this kernel does not support it"},
		{what: "network class and priorities", res: specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr(uint32(0x100001)), Priorities: []specs.LinuxInterfacePriority{{Name: "lo", Priority: 5}}}},
			have: map[string]string{"net_cls.classid": "", "net_prio.ifpriomap": ""}, want: map[string]string{"net_cls.classid": "1048577", "net_prio.ifpriomap": "lo 5"}},
		{what: "realtime: period before runtime", res: specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimePeriod: ptr(uint64(1000000)), RealtimeRuntime: ptr(int64(950000))}},
			have: map[string]string{"cpu.rt_period_us": "", "cpu.rt_runtime_us": ""}, want: map[string]string{"cpu.rt_period_us": "1000000", "cpu.rt_runtime_us": "950000"}},
		{what: "huge pages", res: specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4096}}},
			have: map[string]string{"hugetlb.2MB.limit_in_bytes": "", "hugetlb.2MB.rsvd.limit_in_bytes": ""},
			want: map[string]string{"hugetlb.2MB.limit_in_bytes": "4096", "hugetlb.2MB.rsvd.limit_in_bytes": "4096"}},
		//lint:ignore SA1019 that it is ignored is the point
		{what: "the kernel's memory is nobody's limit any more", res: specs.LinuxResources{Memory: &specs.LinuxMemory{Kernel: ptr(int64(5))}}},
		{what: "no swap accounting", res: specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(1000)), Swap: ptr(int64(2000))}},
			have: map[string]string{"memory.limit_in_bytes": ""}, err: "memory+swap limit: this kernel does not support it"},
		{what: "swappiness and the OOM killer", res: specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: ptr(uint64(60)), DisableOOMKiller: ptr(true)}},
			have: map[string]string{"memory.swappiness": "", "memory.oom_control": "oom_kill_disable 0\n"}, want: map[string]string{"memory.swappiness": "60"}},
		{what: "the unified map", res: specs.LinuxResources{Unified: map[string]string{"memory.high": "1"}}, err: "cannot set memory.high: this host does not use cgroup v2"},
	} {
		t.Run(c.what, func(t *testing.T) {
			g := fakeV1(t, c.have)
			err := g.Apply(t.Context(), &c.res)
			if c.err != "" {
				if !fail.Is(err, fail.Invalid) || errorText(err) != "cannot set "+c.err && errorText(err) != c.err {
					t.Fatalf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for f, want := range c.want {
				if b, err := os.ReadFile(filepath.Join(g.dirs[0].path, f)); err != nil || string(b) != want {
					t.Errorf("%s is %q, %v; want %q", f, b, err, want)
				}
			}
		})
	}
}

func TestPathsForSystemdAreToldApart(t *testing.T) {
	for path, want := range map[string]bool{
		"system.slice:docker:abc": true, ":libpod:abc": true, "machine.slice::abc": true,
		"/system.slice:docker:abc": false, "a:b:c": false, "a:b": false, "/berth/abc": false, "system.slice/x:y:z": false, "": false,
	} {
		if got := IsScope(path); got != want {
			t.Errorf("%q: got %v", path, got)
		}
	}
}

// FuzzStatFiles holds the readers of what the kernel shows to what they promise for any
// text: no panic, and no number that is not in it.
func FuzzStatFiles(f *testing.F) {
	f.Add([]byte("8:0 rbytes=4096 wbytes=512 rios=1 wios=2 dbytes=0 dios=0\n"))
	f.Add([]byte("8:0 Read 4096\nTotal 4608\n"))
	f.Add([]byte("some avg10=1.50 avg60=0.25 avg300=0.00 total=42\n"))
	f.Add([]byte("mlx5_0 hca_handle=max hca_object=3\n"))
	f.Add([]byte("cpu user system\n0 100 20\n"))
	f.Add([]byte("oom_kill 12\n= \n: = \n"))
	f.Add([]byte("c 1:3 rwm\na *:* rwm\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		lines := 1
		for _, b := range text {
			if b == '\n' {
				lines++
			}
		}
		bytesMoved, operations := parseIOStat(text)
		for _, c := range append(append(bytesMoved, operations...), parseBlockIO(text)...) {
			if c.Kind == "" {
				t.Errorf("a count of nothing: %+v", c)
			}
		}
		cpu := CPUStats{PerCPU: make([]PerCPU, 2)}
		cpu.divide(text)
		if len(cpu.PerCPU) != 2 || cpu.Total != 0 {
			t.Errorf("dividing the time changed it: %+v", cpu)
		}
		if n := len(parseFlat(text)); n > lines {
			t.Errorf("%d keys in %d lines", n, lines)
		}
		parseRdma(text)
		parsePressure(text)
		if p, err := parseDevices(string(text)); err == nil {
			for _, e := range p.exceptions {
				if e.kind != 'a' && e.kind != 'b' && e.kind != 'c' {
					t.Errorf("a device of kind %q", e.kind)
				}
			}
		}
	})
}

func TestBriefStatisticsAreWhatPeopleWatch(t *testing.T) {
	v1 := fakeV1(t, map[string]string{
		"cpu.stat": "nr_periods 7\nnr_throttled 3\nthrottled_time 5000\n", "cpu.cfs_quota_us": "1\n",
		"cpuacct.usage_percpu": "123000 456 \n", "cpuacct.usage_all": "cpu user system\n0 100 20\n1 3 4\n",
		"memory.stat": "cache 1\ntotal_cache 4096\n", "memory.usage_in_bytes": "10\n", "memory.max_usage_in_bytes": "20\n", "memory.limit_in_bytes": "30\n", "memory.failcnt": "4\n",
		"memory.memsw.usage_in_bytes": "11\n", "pids.current": "3\n", "pids.max": "max\n",
		"blkio.throttle.io_service_bytes": "8:0 Read 4096\nTotal 4096\n", "blkio.throttle.io_serviced": "8:0 Read 1\nTotal 1\n",
	})
	v2 := fake(t, map[string]string{
		"cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\n", "cpu.max": "1 1\n",
		"memory.stat": "anon 5\nfile 4096\n", "memory.current": "10\n", "memory.max": "max\n", "memory.peak": "20\n",
		"pids.current": "3\n", "pids.max": "12\n", "io.stat": "8:0 rbytes=4096 wbytes=512 rios=1 wios=2\n",
	})
	for _, c := range []struct {
		name string
		g    *Group
		want *Stats
	}{
		{"v1", v1, &Stats{
			CPU:    &CPUStats{Total: 123456, User: 103, System: 24, PerCPU: []PerCPU{{123000, 100, 20}, {456, 3, 4}}, Periods: 7, ThrottledPeriods: 3, Throttled: 5000},
			Memory: &MemoryStats{Counter: Counter{10, 20, 30, 4}, Cache: 4096, Hierarchy: true, Raw: map[string]uint64{"cache": 1, "total_cache": 4096}},
			Pids:   &PidsStats{3, unlimited}, BlockIO: &BlockIOStats{Bytes: []DeviceCount{{8, 0, "Read", 4096}}, Operations: []DeviceCount{{8, 0, "Read", 1}}},
		}},
		{"v2", v2, &Stats{
			CPU:     &CPUStats{Total: 30 * time.Microsecond, User: 20 * time.Microsecond, System: 10 * time.Microsecond},
			Memory:  &MemoryStats{Counter: Counter{Usage: 10, Limit: unlimited}, Cache: 4096, Hierarchy: true, Raw: map[string]uint64{"anon": 5, "file": 4096}},
			Pids:    &PidsStats{3, 12},
			BlockIO: &BlockIOStats{Bytes: []DeviceCount{{8, 0, "Read", 4096}, {8, 0, "Write", 512}}, Operations: []DeviceCount{{8, 0, "Read", 1}, {8, 0, "Write", 2}}},
		}},
	} {
		got, err := c.g.Brief("cpu", "cpuacct", "memory", "pids", "blkio")
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

func TestALoadedGroupLooksWhereItsControllersAre(t *testing.T) {
	hs := []hierarchy{
		{mount: "/c/cpu", controllers: []string{"cpu", "cpuacct"}},
		{mount: "/c/memory", controllers: []string{"memory"}},
		{mount: "/c/freezer", controllers: []string{"freezer"}},
		{mount: "/c/unified", unified: true, controllers: []string{"io", "pids"}},
	}
	paths := func(hs []hierarchy, controllers ...string) (out []string) {
		g, err := loadFor(hs, "/berth/x", controllers)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range g.dirs {
			out = append(out, d.path)
		}
		return out
	}
	for _, c := range []struct {
		name        string
		hs          []hierarchy
		controllers []string
		want        []string
	}{
		{"v1", hs[:3], []string{"cpu", "cpuacct", "memory"}, []string{"/c/cpu/berth/x", "/c/memory/berth/x"}},
		{"hybrid", hs, []string{"cpu", "blkio"}, []string{"/c/cpu/berth/x", "/c/unified/berth/x"}},
		{"hybrid, all of it on v1", hs, []string{"cpu", "memory"}, []string{"/c/cpu/berth/x", "/c/memory/berth/x"}},
		{"v2", []hierarchy{{mount: "/c", unified: true, controllers: []string{"memory"}}}, []string{"cpu", "memory"}, []string{"/c/berth/x"}},
		{"v2 without controllers", []hierarchy{{mount: "/c", unified: true}}, []string{"cpu"}, []string{"/c/berth/x"}},
	} {
		if d := cmp.Diff(c.want, paths(c.hs, c.controllers...)); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}
