package cgroup

import "os"

// Support says which limits this host can set, as `docker info` reports it.
type Support struct {
	Version          int // 2 when only v2 is mounted, 1 with any v1 controller, 0 without control groups
	Memory, Swap     bool
	MemorySwappiness bool
	OOMKillDisable   bool
	CPUShares        bool
	CPUQuota         bool // the CFS scheduler's quota and period
	CPURealtime      bool
	CPUSet           bool
	PIDs             bool
	BlockIO          bool // throttling by device
	BlockIOWeight    bool
	DeviceWeight     bool // block IO weight by device
	Hugetlb          bool
	Devices          bool
	Freezer          bool
}

// Supported looks the host's hierarchies over. Some files exist only in groups below the
// root, so it asks the first group that it finds there.
func Supported() (Support, error) {
	hs, err := hierarchies()
	if err != nil {
		return Support{}, err
	}
	return supported(hs), nil
}

func supported(hs []hierarchy) Support {
	s := Support{}
	find := func(controller string) (dir, bool) {
		for _, h := range chosen(hs, nil) {
			if h.serves(controller) {
				return dir{h, sample(h.mount)}, true
			}
		}
		return dir{}, false
	}
	// pick is whether a controller is there with the file that v1 or v2 has for a thing; no
	// name says that the version cannot do it. On v2, groups have only the files of the
	// controllers that were delegated to them, which ours will all be: one that the sample
	// lacks is taken for complete.
	pick := func(controller, v1, v2 string) bool {
		d, ok := find(controller)
		switch {
		case !ok:
			return false
		case !d.unified:
			return v1 != "" && exists(d.path+"/"+v1)
		case v2 == "":
			return false
		}
		here := hierarchy{unified: true, controllers: controllersOf(d.path)}
		return exists(d.path+"/"+v2) || d.path == d.mount || !here.serves(controller)
	}
	for _, h := range hs {
		switch {
		case !h.unified:
			s.Version = 1
		case s.Version == 0:
			s.Version = 2
		}
	}
	_, s.Memory = find("memory")
	s.Swap = pick("memory", "memory.memsw.limit_in_bytes", "memory.swap.max")
	s.MemorySwappiness = pick("memory", "memory.swappiness", "")
	s.OOMKillDisable = pick("memory", "memory.oom_control", "")
	_, s.CPUShares = find("cpu")
	s.CPUQuota = pick("cpu", "cpu.cfs_quota_us", "cpu.max")
	s.CPURealtime = pick("cpu", "cpu.rt_runtime_us", "")
	_, s.CPUSet = find("cpuset")
	_, s.PIDs = find("pids")
	s.BlockIO = pick("blkio", "blkio.throttle.read_bps_device", "io.max")
	// The root group has no weight, but BFQ's counters.
	bfq := pick("blkio", "blkio.bfq.weight", "io.bfq.weight") || pick("blkio", "blkio.bfq.io_serviced", "")
	s.BlockIOWeight = bfq || pick("blkio", "blkio.weight", "io.weight")
	s.DeviceWeight = bfq || pick("blkio", "blkio.weight_device", "io.weight")
	_, s.Hugetlb = find("hugetlb")
	_, s.Devices = find("devices")
	_, s.Freezer = find("freezer")
	return s
}

// sample is a group below the root, or the root when it has none.
func sample(mount string) string {
	entries, err := os.ReadDir(mount)
	if err != nil {
		return mount
	}
	for _, e := range entries {
		if e.IsDir() {
			return mount + "/" + e.Name()
		}
	}
	return mount
}
