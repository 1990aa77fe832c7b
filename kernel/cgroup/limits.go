package cgroup

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/fail"
)

func pidsAsked(r *specs.LinuxResources) bool { return r.Pids != nil && r.Pids.Limit != nil }

// taskLimit makes one task of none, as runc does: no more of them can be made either way, but one
// has to be there, and systemd takes no 0.
func taskLimit(n int64) int64 {
	if n == 0 {
		return 1
	}
	return n
}

func pids(dir string, r *specs.LinuxResources) error {
	return set("pids limit", dir+"/pids.max", maxOr(taskLimit(*r.Pids.Limit)))
}

func hugetlbAsked(r *specs.LinuxResources) bool { return len(r.HugepageLimits) > 0 }

func hugetlbV1(dir string, r *specs.LinuxResources) error {
	return hugetlb(dir, r.HugepageLimits, ".limit_in_bytes")
}

func hugetlbV2(dir string, r *specs.LinuxResources) error {
	return hugetlb(dir, r.HugepageLimits, ".max")
}

// hugetlb sets each limit for use and, where the kernel has it (5.7), for reservation.
func hugetlb(dir string, limits []specs.LinuxHugepageLimit, suffix string) error {
	for _, l := range limits {
		if strings.ContainsAny(l.Pagesize, "/\x00") {
			return fail.New(fail.Invalid, "invalid huge page size %q", l.Pagesize)
		}
		file, value := dir+"/hugetlb."+l.Pagesize, strconv.FormatUint(l.Limit, 10)
		what := "huge page limit of " + l.Pagesize
		if err := set(what, file+suffix, value); err != nil {
			return err
		}
		if rsvd := file + ".rsvd" + suffix; exists(rsvd) {
			if err := set(what, rsvd, value); err != nil {
				return err
			}
		}
	}
	return nil
}

func netClsAsked(r *specs.LinuxResources) bool {
	return r.Network != nil && r.Network.ClassID != nil && *r.Network.ClassID != 0
}

func netCls(dir string, r *specs.LinuxResources) error {
	return set("network class", dir+"/net_cls.classid", strconv.FormatUint(uint64(*r.Network.ClassID), 10))
}

func netPrioAsked(r *specs.LinuxResources) bool {
	return r.Network != nil && len(r.Network.Priorities) > 0
}

func netPrio(dir string, r *specs.LinuxResources) error {
	for _, p := range r.Network.Priorities {
		if err := set("network priority", dir+"/net_prio.ifpriomap", fmt.Sprintf("%s %d", p.Name, p.Priority)); err != nil {
			return err
		}
	}
	return nil
}

func rdmaAsked(r *specs.LinuxResources) bool { return len(r.Rdma) > 0 }

func rdma(dir string, r *specs.LinuxResources) error {
	for device, l := range r.Rdma {
		value := device
		if l.HcaHandles != nil {
			value += fmt.Sprintf(" hca_handle=%d", *l.HcaHandles)
		}
		if l.HcaObjects != nil {
			value += fmt.Sprintf(" hca_object=%d", *l.HcaObjects)
		}
		if err := set("RDMA limit", dir+"/rdma.max", value); err != nil {
			return err
		}
	}
	return nil
}
