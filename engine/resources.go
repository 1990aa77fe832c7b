package engine

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel/cgroup"
	"berth/oci"
)

const leastMemory = 6 << 20

// normaliseResources validates limits and fills in what follows from them. Limits that this
// machine cannot set are taken out of h, with a warning, in Docker's words.
func normaliseResources(h *container.HostConfig, m *machine) (warnings []string, err error) {
	r := &h.Resources
	if r.Memory > 0 && r.MemorySwap == 0 {
		r.MemorySwap = 2 * r.Memory
	}
	if r.PidsLimit != nil && *r.PidsLimit <= 0 {
		r.PidsLimit = nil
	}
	if r.MemorySwappiness != nil && *r.MemorySwappiness == -1 {
		r.MemorySwappiness = nil
	}
	warnings = discardUnsupported(r, m)
	if r.OomKillDisable == nil {
		off := false
		r.OomKillDisable = &off
	}
	if *r.OomKillDisable && r.Memory == 0 {
		warnings = append(warnings, "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.")
	}
	if err := checkLimits(r, m); err != nil {
		return nil, err
	}
	for _, rule := range []struct {
		broken bool
		text   string
	}{
		{h.ShmSize < 0, "SHM size can not be less than 0"},
		{h.OomScoreAdj < -1000 || h.OomScoreAdj > 1000, fmt.Sprintf("Invalid value %d, range for oom score adj is [-1000, 1000]", h.OomScoreAdj)},
		{r.Memory == 0 && r.MemorySwap > 0, "You should always set the Memory limit when using Memoryswap limit, see usage"},
	} {
		if rule.broken {
			return nil, fail.New(fail.Invalid, "%s", rule.text)
		}
	}
	if _, err := rlimits(nil, r.Ulimits); err != nil {
		return nil, err
	}
	if err := checkCgroupParent(h.CgroupParent, m.scopes); err != nil {
		return nil, err
	}
	if _, err := deviceRules(r.DeviceCgroupRules); err != nil {
		return nil, err
	}
	if err := checkDeviceRequests(r.DeviceRequests); err != nil {
		return nil, err
	}
	return warnings, checkDeviceMappings(r.Devices)
}

// checkCgroupParent holds a container's wish to the engine's way of making control groups.
func checkCgroupParent(parent string, scopes bool) error {
	switch {
	case parent == "":
	case scopes && cgroup.CheckSlice(parent) != nil:
		return fail.New(fail.Invalid, "cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\": got %q", parent)
	case scopes:
	case strings.Contains(parent, "..") || strings.ContainsAny(parent, "\x00\n"):
		return fail.New(fail.Invalid, "invalid cgroup parent %q", parent)
	case strings.HasSuffix(parent, ".slice"):
		return fail.New(fail.Invalid, "cgroup parent %q is a slice of systemd, but this engine makes control groups itself: give a path like /name, or start the engine with --exec-opt native.cgroupdriver=systemd", parent)
	}
	return nil
}

// discardUnsupported takes out of r what this machine's control groups do not have.
func discardUnsupported(r *container.Resources, m *machine) (warnings []string) {
	const mounted = " or the cgroup is not mounted"
	for _, limit := range []struct {
		lacks bool
		what  string
		drop  func()
	}{
		{r.Memory > 0 && !m.limits.Memory, "memory limit capabilities" + mounted + ". Limitation discarded.", func() { r.Memory, r.MemorySwap = 0, -1 }},
		{r.Memory > 0 && r.MemorySwap != -1 && m.limits.Memory && !m.limits.Swap, "swap limit capabilities" + mounted + ". Memory limited without swap.", func() { r.MemorySwap = -1 }},
		{r.MemorySwappiness != nil && !m.limits.MemorySwappiness, "memory swappiness capabilities" + mounted + ". Memory swappiness discarded.", func() { r.MemorySwappiness = nil }},
		{r.MemoryReservation > 0 && !m.limits.Memory, "memory soft limit capabilities" + mounted + ". Limitation discarded.", func() { r.MemoryReservation = 0 }},
		{r.OomKillDisable != nil && *r.OomKillDisable && !m.limits.OOMKillDisable, "OomKillDisable. OomKillDisable discarded.", func() { r.OomKillDisable = nil }},
		{r.PidsLimit != nil && !m.limits.PIDs, "PIDs limit capabilities" + mounted + ". PIDs limit discarded.", func() { r.PidsLimit = nil }},
		{r.CPUShares > 0 && !m.limits.CPUShares, "CPU shares" + mounted + ". Shares discarded.", func() { r.CPUShares = 0 }},
		{(r.CPUPeriod != 0 || r.CPUQuota != 0) && !m.limits.CPUQuota, "CPU CFS scheduler. CPU period/quota discarded.", func() { r.CPUPeriod, r.CPUQuota = 0, 0 }},
		{(r.CpusetCpus != "" || r.CpusetMems != "") && !m.limits.CPUSet, "cpuset" + mounted + ". Cpuset discarded.", func() { r.CpusetCpus, r.CpusetMems = "", "" }},
		{r.BlkioWeight > 0 && !m.limits.BlockIOWeight, "Block I/O weight" + mounted + ". Weight discarded.", func() { r.BlkioWeight = 0 }},
		{len(r.BlkioWeightDevice) > 0 && !m.limits.DeviceWeight, "Block I/O weight_device" + mounted + ". Weight-device discarded.", func() { r.BlkioWeightDevice = nil }},
		{len(r.BlkioDeviceReadBps) > 0 && !m.limits.BlockIO, "BPS Block I/O read limit" + mounted + ". Block I/O BPS read limit discarded.", func() { r.BlkioDeviceReadBps = nil }},
		{len(r.BlkioDeviceWriteBps) > 0 && !m.limits.BlockIO, "BPS Block I/O write limit" + mounted + ". Block I/O BPS write limit discarded.", func() { r.BlkioDeviceWriteBps = nil }},
		{len(r.BlkioDeviceReadIOps) > 0 && !m.limits.BlockIO, "IOPS Block read limit" + mounted + ". Block I/O IOPS read limit discarded.", func() { r.BlkioDeviceReadIOps = nil }},
		{len(r.BlkioDeviceWriteIOps) > 0 && !m.limits.BlockIO, "IOPS Block write limit" + mounted + ". Block I/O IOPS write limit discarded.", func() { r.BlkioDeviceWriteIOps = nil }},
	} {
		if limit.lacks {
			warnings = append(warnings, "Your kernel does not support "+limit.what)
			limit.drop()
		}
	}
	return warnings
}

// checkLimits holds limits to their ranges and to each other: those of a new container, or
// those that an update brings.
func checkLimits(r *container.Resources, m *machine) error {
	for _, rule := range []struct {
		broken bool
		text   string
	}{
		{r.Memory < 0 || r.Memory > 0 && r.Memory < leastMemory, "Minimum memory limit allowed is 6MB"},
		{r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory, "Minimum memoryswap limit should be larger than memory limit, see usage"},
		{r.MemorySwap < -1, "Invalid memoryswap limit"},
		{r.MemorySwappiness != nil && (*r.MemorySwappiness < 0 || *r.MemorySwappiness > 100), "Invalid value for memory swappiness, valid range is 0-100"},
		{r.MemoryReservation < 0 || r.MemoryReservation > 0 && r.MemoryReservation < leastMemory, "Minimum memory reservation allowed is 6MB"},
		{r.Memory > 0 && r.MemoryReservation > r.Memory, "Minimum memory limit can not be less than memory reservation limit, see usage"},
		{r.NanoCPUs > 0 && r.CPUPeriod > 0, "Conflicting options: Nano CPUs and CPU Period cannot both be set"},
		{r.NanoCPUs > 0 && r.CPUQuota > 0, "Conflicting options: Nano CPUs and CPU Quota cannot both be set"},
		{r.NanoCPUs > 0 && !m.limits.CPUQuota, "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted"},
		{r.NanoCPUs < 0 || r.NanoCPUs > int64(m.cpus)*1e9, fmt.Sprintf("Range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", m.cpus, m.cpus)},
		{r.CPUShares < 0, fmt.Sprintf("invalid CPU shares (%d): value must be a positive integer", r.CPUShares)},
		{r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000), "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"},
		{r.CPUQuota > 0 && r.CPUQuota < 1000, "CPU cfs quota can not be less than 1ms (i.e. 1000)"},
		{(r.CPURealtimePeriod != 0 || r.CPURealtimeRuntime != 0) && !m.limits.CPURealtime, "Your kernel does not support CPU real-time scheduler"},
		{r.CPURealtimePeriod < 0 || r.CPURealtimeRuntime < 0, "CPU real-time period and runtime can not be less than 0"},
		{r.CPURealtimePeriod != 0 && r.CPURealtimeRuntime > r.CPURealtimePeriod, "cpu real-time runtime cannot be higher than cpu real-time period"},
		{r.BlkioWeight > 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000), "Range of blkio weight is from 10 to 1000"},
	} {
		if rule.broken {
			return fail.New(fail.Invalid, "%s", rule.text)
		}
	}
	for _, d := range r.BlkioWeightDevice {
		if d.Weight != 0 && (d.Weight < 10 || d.Weight > 1000) {
			return fail.New(fail.Invalid, "Range of blkio weight is from 10 to 1000: %s has %d", d.Path, d.Weight)
		}
	}
	if err := checkSet("CPUs", "cpus", r.CpusetCpus, "/sys/devices/system/cpu/online"); err != nil {
		return err
	}
	return checkSet("memory nodes", "mems", r.CpusetMems, "/sys/devices/system/node/online")
}

// checkSet holds a cpuset list to what is online.
func checkSet(what, kind, list, onlineFile string) error {
	if list == "" {
		return nil
	}
	asked, err := parseCPUSet(list)
	if err != nil {
		return fail.New(fail.Invalid, "Invalid value %s for cpuset %s", list, kind)
	}
	b, err := os.ReadFile(onlineFile)
	if err != nil {
		return nil // no NUMA: the kernel decides
	}
	online, err := parseCPUSet(strings.TrimSpace(string(b)))
	if err != nil {
		return nil
	}
	for n := range asked {
		if !online[n] {
			return fail.New(fail.Invalid, "Requested %s are not available - requested %s, available: %s", what, list, strings.TrimSpace(string(b)))
		}
	}
	return nil
}

// resources translates limits into the runtime specification's form.
func resources(r *container.Resources) (*oci.LinuxResources, error) {
	out := &oci.LinuxResources{}
	mem := &specs.LinuxMemory{
		Limit: positive(r.Memory), Reservation: positive(r.MemoryReservation), Swap: nonZero(r.MemorySwap),
	}
	if r.MemorySwappiness != nil {
		v := uint64(*r.MemorySwappiness)
		mem.Swappiness = &v
	}
	if r.OomKillDisable != nil && *r.OomKillDisable {
		mem.DisableOOMKiller = r.OomKillDisable
	}
	if *mem != (specs.LinuxMemory{}) {
		out.Memory = mem
	}
	cpu := &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems, Quota: nonZero(r.CPUQuota)}
	cpu.Shares, cpu.Period = unsigned(r.CPUShares), unsigned(r.CPUPeriod)
	if r.NanoCPUs > 0 {
		// https://docs.kernel.org/scheduler/sched-bwc.html: microseconds per period
		const period = 100_000
		cpu.Period, cpu.Quota = unsigned(period), positive(r.NanoCPUs*period/1e9)
	}
	cpu.RealtimePeriod, cpu.RealtimeRuntime = unsigned(r.CPURealtimePeriod), nonZero(r.CPURealtimeRuntime)
	if *cpu != (specs.LinuxCPU{}) {
		out.CPU = cpu
	}
	if r.PidsLimit != nil {
		limit := *r.PidsLimit
		if limit <= 0 {
			limit = -1 // an update to no limit leaves 0 in the record, as in Docker
		}
		out.Pids = &specs.LinuxPids{Limit: &limit}
	}
	var err error
	out.BlockIO, err = blockIO(r)
	return out, err
}

func blockIO(r *container.Resources) (*specs.LinuxBlockIO, error) {
	out := &specs.LinuxBlockIO{}
	used := false
	if r.BlkioWeight > 0 {
		w := r.BlkioWeight
		out.Weight, used = &w, true
	}
	for _, d := range r.BlkioWeightDevice {
		dev, err := blockDevice(d.Path)
		if err != nil {
			return nil, err
		}
		w := d.Weight
		out.WeightDevice, used = append(out.WeightDevice, specs.LinuxWeightDevice{LinuxBlockIODevice: dev, Weight: &w}), true
	}
	for _, t := range []struct {
		from []*blkiodev.ThrottleDevice
		to   *[]specs.LinuxThrottleDevice
	}{
		{r.BlkioDeviceReadBps, &out.ThrottleReadBpsDevice},
		{r.BlkioDeviceWriteBps, &out.ThrottleWriteBpsDevice},
		{r.BlkioDeviceReadIOps, &out.ThrottleReadIOPSDevice},
		{r.BlkioDeviceWriteIOps, &out.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.from {
			dev, err := blockDevice(d.Path)
			if err != nil {
				return nil, err
			}
			*t.to, used = append(*t.to, specs.LinuxThrottleDevice{LinuxBlockIODevice: dev, Rate: d.Rate}), true
		}
	}
	if !used {
		return nil, nil
	}
	return out, nil
}

func blockDevice(path string) (specs.LinuxBlockIODevice, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return specs.LinuxBlockIODevice{}, fail.New(fail.Invalid, "block IO limit of %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return specs.LinuxBlockIODevice{}, fail.New(fail.Invalid, "block IO limit of %s: not a block device", path)
	}
	return specs.LinuxBlockIODevice{Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev))}, nil
}

// rlimits merges the engine's defaults with the container's own, by name.
func rlimits(defaults map[string]*container.Ulimit, own []*container.Ulimit) ([]specs.POSIXRlimit, error) {
	var out []specs.POSIXRlimit
	seen := map[string]bool{}
	add := func(u *container.Ulimit) error {
		if _, err := u.GetRlimit(); err != nil {
			return fail.New(fail.Invalid, "%w", err)
		}
		seen[u.Name] = true
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
		return nil
	}
	for _, u := range own {
		if u == nil {
			continue
		}
		if err := add(u); err != nil {
			return nil, err
		}
	}
	for _, name := range sortedKeys(defaults) {
		if u := defaults[name]; u != nil && !seen[u.Name] {
			if err := add(u); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func positive(v int64) *int64 {
	if v <= 0 {
		return nil
	}
	return &v
}

func nonZero(v int64) *int64 {
	if v == 0 {
		return nil
	}
	return &v
}

func unsigned(v int64) *uint64 {
	if v <= 0 {
		return nil
	}
	u := uint64(v)
	return &u
}

// deviceRules reads --device-cgroup-rule values: "c 42:* rmw".
func deviceRules(rules []string) ([]specs.LinuxDeviceCgroup, error) {
	var out []specs.LinuxDeviceCgroup
	for _, rule := range rules {
		f := strings.Fields(rule)
		bad := fail.New(fail.Invalid, "invalid device cgroup rule format: '%s'", rule)
		if len(f) != 3 || !strings.Contains("abc", f[0]) || len(f[0]) != 1 || strings.Trim(f[2], "rwm") != "" {
			return nil, bad
		}
		major, minor, ok := strings.Cut(f[1], ":")
		if !ok {
			return nil, bad
		}
		d := specs.LinuxDeviceCgroup{Allow: true, Type: f[0], Access: f[2]}
		for _, n := range []struct {
			text string
			to   **int64
		}{{major, &d.Major}, {minor, &d.Minor}} {
			if n.text == "*" {
				continue
			}
			v, err := strconv.ParseUint(n.text, 10, 32)
			if err != nil {
				return nil, bad
			}
			i := int64(v)
			*n.to = &i
		}
		out = append(out, d)
	}
	return out, nil
}
