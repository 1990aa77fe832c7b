package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/fail"
)

// Stats is what the kernel has counted for a group and those below it. The part of a
// controller that is not there is nil or empty; so is a number that the kernel at hand
// does not keep. Limits that are none are the greatest number there is.
type Stats struct {
	CPU     *CPUStats
	CPUSet  *CPUSetStats
	Memory  *MemoryStats
	Pids    *PidsStats
	BlockIO *BlockIOStats
	Hugetlb map[string]HugetlbStats // by page size: "2MB"
	Rdma    map[string]RdmaStats    // by device: "mlx5_0"
}

// CPUStats counts time that was used, and time that the quota took away.
type CPUStats struct {
	Total, User, System time.Duration
	PerCPU              []PerCPU // v1 only
	Quota, Period       uint64   // in µs
	Periods             uint64   // that had something to run
	ThrottledPeriods    uint64   // in which the quota ran out
	Throttled           time.Duration
	Bursts              uint64 // periods that used more than their quota
	BurstTime           time.Duration
	Pressure            *Pressure // v2 only, as everywhere below
}

// PerCPU is the time used on one CPU.
type PerCPU struct{ Total, User, System time.Duration }

// CPUSetStats are the CPUs and memory nodes in effect, in the kernel's list format.
type CPUSetStats struct{ CPUs, Mems string }

// Counter is a quantity with a limit, as the memory controller keeps it, in bytes.
type Counter struct{ Usage, Peak, Limit, Failures uint64 }

// MemoryStats counts memory, in bytes. Swap is memory and swap together on v1, swap alone
// on v2, as the kernel has it. Raw is memory.stat.
type MemoryStats struct {
	Counter
	Swap      *Counter // nil where swap is not accounted
	Kernel    *Counter // v1 only
	KernelTCP *Counter // v1 only
	Cache     uint64   // pages of files
	OOMKills  uint64
	Hierarchy bool // groups below are counted: on v2 and on Linux 5.11 always so
	Raw       map[string]uint64
	Pressure  *Pressure
}

// PidsStats counts processes and threads.
type PidsStats struct{ Current, Limit uint64 }

// BlockIOStats counts what the devices did, since the group was made.
type BlockIOStats struct {
	Bytes, Operations []DeviceCount
	Pressure          *Pressure
}

// DeviceCount is one number of one device. Kind is "Read", "Write", "Discard", and on v1
// also "Sync", "Async" and "Total".
type DeviceCount struct {
	Major, Minor uint64
	Kind         string
	Value        uint64
}

// HugetlbStats counts huge pages of one size, in bytes.
type HugetlbStats struct {
	Usage, Peak, Failures uint64
	Reserved              uint64
}

// RdmaStats counts objects of one RDMA device.
type RdmaStats struct{ Handles, HandleLimit, Objects, ObjectLimit uint64 }

// Pressure tells how long tasks had to wait for something
// (Documentation/accounting/psi.rst): some of them, or all.
type Pressure struct{ Some, Full PressureLine }

// PressureLine has shares of time in per cent, over 10, 60 and 300 seconds.
type PressureLine struct {
	Avg10, Avg60, Avg300 float64
	Total                time.Duration
}

// Stats reads all counters. A group that has been removed is class NotFound.
func (g *Group) Stats() (*Stats, error) { return g.stats(false, nil) }

// Brief reads the counters of the controllers given by their v1 names, as far as people
// watch them: not the limits of processor time, pressure, swap and the kernel's own memory.
// That is a third of the files.
func (g *Group) Brief(controllers ...string) (*Stats, error) { return g.stats(true, controllers) }

func (g *Group) stats(brief bool, only []string) (*Stats, error) {
	if len(g.dirs) == 0 || !exists(g.dirs[0].path) {
		return nil, fail.New(fail.NotFound, "control group %s does not exist", g.path)
	}
	s := new(Stats)
	for _, part := range []struct {
		controller string
		read       func(s *Stats, d dir, brief bool) error
	}{
		{"cpu", cpuStats}, {"cpuacct", cpuacctStats}, {"cpuset", cpusetStats}, {"memory", memoryStats}, {"pids", pidsStats},
		{"blkio", blockIOStats}, {"hugetlb", hugetlbStats}, {"rdma", rdmaStats},
	} {
		if brief && !slices.Contains(only, part.controller) {
			continue
		}
		d, ok := g.dirOf(part.controller)
		if !ok && part.controller == "cpu" && g.v2() {
			d, ok = g.dirs[0], true // every v2 group counts its time
		}
		if !ok {
			continue
		}
		if err := part.read(s, d, brief); err != nil {
			if gone(err) && exists(d.path) {
				continue // v2: the controller is not delegated to this group
			}
			if gone(err) {
				return nil, fail.New(fail.NotFound, "control group %s does not exist", g.path)
			}
			return nil, fmt.Errorf("read the statistics of control group %s: %w", g.path, err)
		}
	}
	return s, nil
}

// ticks is USER_HZ, the unit of times in /proc and cgroup v1.
const ticks = 100

// cpuStats reads what the scheduler's controller has: on v1 the throttling alone.
func cpuStats(s *Stats, d dir, brief bool) error {
	stat, err := readFlat(d.path + "/cpu.stat")
	if err != nil {
		return err
	}
	c := s.cpu()
	c.Periods, c.ThrottledPeriods, c.Bursts = stat["nr_periods"], stat["nr_throttled"], stat["nr_bursts"]
	if !d.unified {
		c.Throttled, c.BurstTime = time.Duration(stat["throttled_time"]), time.Duration(stat["burst_time"])
		if !brief {
			c.Quota, c.Period = numberIn(d, "cpu.cfs_quota_us"), numberIn(d, "cpu.cfs_period_us")
		}
		return nil
	}
	c.Total, c.User, c.System = micros(stat["usage_usec"]), micros(stat["user_usec"]), micros(stat["system_usec"])
	c.Throttled, c.BurstTime = micros(stat["throttled_usec"]), micros(stat["burst_usec"])
	if brief {
		return nil
	}
	if text, err := readString(d.path + "/cpu.max"); err == nil {
		quota, period, _ := strings.Cut(text, " ")
		c.Quota, c.Period = limitOf(quota), limitOf(period)
	}
	c.Pressure = pressureIn(d, "cpu.pressure")
	return nil
}

func (s *Stats) cpu() *CPUStats {
	if s.CPU == nil {
		s.CPU = new(CPUStats)
	}
	return s.CPU
}

func micros(n uint64) time.Duration { return time.Duration(n) * time.Microsecond }

// cpuacctStats reads v1's accounting of time; v2 has it in cpu.stat. What was used is
// counted exactly; since Linux 5.17 usage_all divides ticks between user and kernel space,
// so what it sums up to is another time: none at all for who slept at each tick.
func cpuacctStats(s *Stats, d dir, brief bool) error {
	percpu, err := read(d.path + "/cpuacct.usage_percpu")
	if err != nil {
		return err
	}
	c := s.cpu()
	for _, f := range bytes.Fields(percpu) {
		n, err := strconv.ParseUint(string(f), 10, 64)
		if err != nil {
			return fmt.Errorf("%s/cpuacct.usage_percpu: %w", d.path, err)
		}
		c.PerCPU = append(c.PerCPU, PerCPU{Total: time.Duration(n)})
		c.Total += time.Duration(n)
	}
	if all, err := read(d.path + "/cpuacct.usage_all"); err == nil {
		c.divide(all)
	}
	if brief {
		return nil
	}
	stat, err := readFlat(d.path + "/cpuacct.stat")
	if err != nil {
		return err
	}
	c.User = time.Duration(stat["user"]) * (time.Second / ticks)
	c.System = time.Duration(stat["system"]) * (time.Second / ticks)
	return nil
}

// divide takes the times in user and kernel space from cpuacct.usage_all: a line for each
// CPU with its number and both in nanoseconds, under a title.
func (c *CPUStats) divide(text []byte) {
	for line := range bytes.Lines(text) {
		f := bytes.Fields(line)
		if len(f) != 3 {
			continue
		}
		cpu, err0 := strconv.Atoi(string(f[0]))
		user, err1 := strconv.ParseUint(string(f[1]), 10, 64)
		system, err2 := strconv.ParseUint(string(f[2]), 10, 64)
		if err0 != nil || err1 != nil || err2 != nil || cpu < 0 || cpu >= len(c.PerCPU) {
			continue
		}
		one := &c.PerCPU[cpu]
		one.User, one.System = time.Duration(user), time.Duration(system)
		c.User, c.System = c.User+one.User, c.System+one.System
	}
}

func cpusetStats(s *Stats, d dir, _ bool) error {
	cpus, err := readString(firstOf(d.path, "cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"))
	if err != nil {
		return err
	}
	mems, err := readString(firstOf(d.path, "cpuset.mems.effective", "cpuset.effective_mems", "cpuset.mems"))
	s.CPUSet = &CPUSetStats{cpus, mems}
	return err
}

func memoryStats(s *Stats, d dir, brief bool) error {
	raw, err := readFlat(d.path + "/memory.stat")
	if err != nil {
		return err
	}
	m := &MemoryStats{Raw: raw, Hierarchy: true}
	s.Memory = m
	if !d.unified {
		m.Hierarchy = brief || numberIn(d, "memory.use_hierarchy") == 1
		m.Cache = raw["cache"]
		if m.Hierarchy {
			m.Cache = raw["total_cache"]
		}
		m.Counter = *counterV1(d, "memory")
		if brief {
			return nil
		}
		m.Swap = counterV1(d, "memory.memsw")
		m.Kernel, m.KernelTCP = counterV1(d, "memory.kmem"), counterV1(d, "memory.kmem.tcp")
		m.OOMKills, err = readKey(d.path+"/memory.oom_control", "oom_kill")
		return err
	}
	m.Cache = raw["file"]
	if brief {
		m.Counter = Counter{Usage: numberIn(d, "memory.current"), Limit: numberIn(d, "memory.max")}
		return nil
	}
	events, err := readFlat(d.path + "/memory.events")
	if err != nil {
		return err
	}
	m.OOMKills = events["oom_kill"]
	m.Counter = Counter{numberIn(d, "memory.current"), numberIn(d, "memory.peak"), numberIn(d, "memory.max"), events["max"]}
	if exists(d.path + "/memory.swap.current") {
		failed, _ := readKey(d.path+"/memory.swap.events", "fail")
		m.Swap = &Counter{numberIn(d, "memory.swap.current"), numberIn(d, "memory.swap.peak"), numberIn(d, "memory.swap.max"), failed}
	}
	m.Pressure = pressureIn(d, "memory.pressure")
	return nil
}

// counterV1 reads one of v1's four counters, nil if the kernel does not keep it.
func counterV1(d dir, prefix string) *Counter {
	if prefix != "memory" && !exists(d.path+"/"+prefix+".usage_in_bytes") {
		return nil
	}
	return &Counter{
		numberIn(d, prefix+".usage_in_bytes"), numberIn(d, prefix+".max_usage_in_bytes"),
		numberIn(d, prefix+".limit_in_bytes"), numberIn(d, prefix+".failcnt"),
	}
}

func pidsStats(s *Stats, d dir, _ bool) error {
	now, err := readLimit(d.path + "/pids.current")
	if err != nil {
		return err
	}
	limit, err := readLimit(d.path + "/pids.max")
	s.Pids = &PidsStats{now, limit}
	return err
}

func blockIOStats(s *Stats, d dir, _ bool) error {
	b := new(BlockIOStats)
	if d.unified {
		text, err := read(d.path + "/io.stat")
		if err != nil {
			return err
		}
		b.Bytes, b.Operations = parseIOStat(text)
		b.Pressure = pressureIn(d, "io.pressure")
		s.BlockIO = b
		return nil
	}
	// BFQ counts what goes through it; the throttling layer sees all devices.
	for _, f := range []struct {
		to    *[]DeviceCount
		names []string
	}{
		{&b.Bytes, []string{"blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes", "blkio.bfq.io_service_bytes_recursive"}},
		{&b.Operations, []string{"blkio.throttle.io_serviced_recursive", "blkio.throttle.io_serviced", "blkio.bfq.io_serviced_recursive"}},
	} {
		text, err := read(firstOf(d.path, f.names...))
		if err != nil {
			return err
		}
		*f.to = parseBlockIO(text)
	}
	s.BlockIO = b
	return nil
}

// parseBlockIO reads v1's "8:0 Read 4096" lines; the sum over all devices is left out.
func parseBlockIO(text []byte) []DeviceCount {
	var out []DeviceCount
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) != 3 {
			continue
		}
		if c, ok := deviceCount(f[0], f[1], f[2]); ok {
			out = append(out, c)
		}
	}
	return out
}

// parseIOStat reads io.stat: "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0".
func parseIOStat(text []byte) (bytesMoved, operations []DeviceCount) {
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) < 2 {
			continue
		}
		for _, pair := range f[1:] {
			key, value, _ := strings.Cut(pair, "=")
			kind, isBytes := map[string]string{"r": "Read", "w": "Write", "d": "Discard"}[key[:min(1, len(key))]], strings.HasSuffix(key, "bytes")
			if kind == "" || key[1:] != "bytes" && key[1:] != "ios" {
				continue
			}
			c, ok := deviceCount(f[0], kind, value)
			switch {
			case !ok:
			case isBytes:
				bytesMoved = append(bytesMoved, c)
			default:
				operations = append(operations, c)
			}
		}
	}
	return bytesMoved, operations
}

func deviceCount(device, kind, value string) (DeviceCount, bool) {
	major, minor, ok := strings.Cut(device, ":")
	c := DeviceCount{Kind: kind}
	for _, n := range []struct {
		text string
		to   *uint64
	}{{major, &c.Major}, {minor, &c.Minor}, {value, &c.Value}} {
		v, err := strconv.ParseUint(n.text, 10, 64)
		if err != nil {
			return c, false
		}
		*n.to = v
	}
	return c, ok
}

func hugetlbStats(s *Stats, d dir, _ bool) error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	usage := ".usage_in_bytes"
	if d.unified {
		usage = ".current"
	}
	s.Hugetlb = map[string]HugetlbStats{}
	for _, e := range entries {
		size, ok := strings.CutPrefix(e.Name(), "hugetlb.")
		if !ok {
			continue
		}
		if size, ok = strings.CutSuffix(size, usage); !ok || strings.Contains(size, ".") {
			continue
		}
		h := HugetlbStats{Usage: numberIn(d, e.Name()), Reserved: numberIn(d, "hugetlb."+size+".rsvd"+usage)}
		if d.unified {
			h.Failures, _ = readKey(d.path+"/hugetlb."+size+".events", "max")
		} else {
			h.Peak, h.Failures = numberIn(d, "hugetlb."+size+".max_usage_in_bytes"), numberIn(d, "hugetlb."+size+".failcnt")
		}
		s.Hugetlb[size] = h
	}
	return nil
}

func rdmaStats(s *Stats, d dir, _ bool) error {
	now, err := read(d.path + "/rdma.current")
	if err != nil {
		return err
	}
	limit, err := read(d.path + "/rdma.max")
	if err != nil {
		return err
	}
	s.Rdma = map[string]RdmaStats{}
	for device, n := range parseRdma(now) {
		s.Rdma[device] = RdmaStats{Handles: n[0], Objects: n[1], HandleLimit: unlimited, ObjectLimit: unlimited}
	}
	for device, n := range parseRdma(limit) {
		r := s.Rdma[device]
		r.HandleLimit, r.ObjectLimit = n[0], n[1]
		s.Rdma[device] = r
	}
	return nil
}

// parseRdma reads "mlx5_0 hca_handle=2 hca_object=max" lines.
func parseRdma(text []byte) map[string][2]uint64 {
	out := map[string][2]uint64{}
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) < 2 {
			continue
		}
		var n [2]uint64
		for _, pair := range f[1:] {
			key, value, _ := strings.Cut(pair, "=")
			switch key {
			case "hca_handle":
				n[0] = limitOf(value)
			case "hca_object":
				n[1] = limitOf(value)
			}
		}
		out[f[0]] = n
	}
	return out
}

// pressureIn reads a file of the pressure stall information, nil if the kernel has none.
func pressureIn(d dir, name string) *Pressure {
	text, err := read(d.path + "/" + name)
	if err != nil {
		return nil // absent, or EOPNOTSUPP with psi=0
	}
	return parsePressure(text)
}

// parsePressure reads "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" and the same of full.
func parsePressure(text []byte) *Pressure {
	p := new(Pressure)
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) == 0 {
			continue
		}
		to := map[string]*PressureLine{"some": &p.Some, "full": &p.Full}[f[0]]
		if to == nil {
			continue
		}
		for _, pair := range f[1:] {
			key, value, _ := strings.Cut(pair, "=")
			if avg := map[string]*float64{"avg10": &to.Avg10, "avg60": &to.Avg60, "avg300": &to.Avg300}[key]; avg != nil {
				*avg, _ = strconv.ParseFloat(value, 64)
			} else if key == "total" {
				n, _ := strconv.ParseUint(value, 10, 64)
				to.Total = micros(n)
			}
		}
	}
	return p
}

// readFlat reads a file of "key number" lines, such as memory.stat.
func readFlat(path string) (map[string]uint64, error) {
	text, err := read(path)
	if err != nil {
		return nil, err
	}
	return parseFlat(text), nil
}

func parseFlat(text []byte) map[string]uint64 {
	out := make(map[string]uint64, bytes.Count(text, []byte{'\n'}))
	for line := range bytes.Lines(text) {
		key, value, ok := bytes.Cut(bytes.TrimSuffix(line, []byte{'\n'}), []byte{' '})
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(string(value), 10, 64); err == nil {
			out[string(key)] = n
		}
	}
	return out
}

// numberIn reads a file with one number, 0 if it is not there.
func numberIn(d dir, name string) uint64 {
	text, err := readString(d.path + "/" + name)
	if err != nil {
		return 0
	}
	return limitOf(text)
}

// limitOf is a number, or the greatest one for "max" and -1.
func limitOf(text string) uint64 {
	if text == "max" || text == "-1" {
		return unlimited
	}
	n, _ := strconv.ParseUint(text, 10, 64)
	return n
}
