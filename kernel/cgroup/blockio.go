package cgroup

import (
	"fmt"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/fail"
)

func weightGiven(w *uint16) bool { return w != nil && *w != 0 }

func blockIOAsked(r *specs.LinuxResources) bool {
	b := r.BlockIO
	return b != nil && (weightGiven(b.Weight) || weightGiven(b.LeafWeight) || len(b.WeightDevice) > 0 ||
		len(b.ThrottleReadBpsDevice) > 0 || len(b.ThrottleWriteBpsDevice) > 0 ||
		len(b.ThrottleReadIOPSDevice) > 0 || len(b.ThrottleWriteIOPSDevice) > 0)
}

// firstOf picks the file the kernel has: weights are served by the BFQ scheduler's file
// or by the controller's own.
func firstOf(dir string, names ...string) string {
	for _, n := range names {
		if exists(dir + "/" + n) {
			return dir + "/" + n
		}
	}
	return dir + "/" + names[0]
}

func blockIOV1(dir string, r *specs.LinuxResources) error {
	b := r.BlockIO
	if weightGiven(b.Weight) {
		if err := set("block IO weight", firstOf(dir, "blkio.weight", "blkio.bfq.weight"), strconv.Itoa(int(*b.Weight))); err != nil {
			return err
		}
	}
	if weightGiven(b.LeafWeight) {
		if err := set("block IO leaf weight", dir+"/blkio.leaf_weight", strconv.Itoa(int(*b.LeafWeight))); err != nil {
			return err
		}
	}
	for _, w := range b.WeightDevice {
		if weightGiven(w.Weight) {
			value := fmt.Sprintf("%d:%d %d", w.Major, w.Minor, *w.Weight)
			if err := set("block IO device weight", firstOf(dir, "blkio.weight_device", "blkio.bfq.weight_device"), value); err != nil {
				return err
			}
		}
		if weightGiven(w.LeafWeight) {
			value := fmt.Sprintf("%d:%d %d", w.Major, w.Minor, *w.LeafWeight)
			if err := set("block IO device leaf weight", dir+"/blkio.leaf_weight_device", value); err != nil {
				return err
			}
		}
	}
	for _, t := range throttles(b) {
		for _, d := range t.devices {
			value := fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate)
			if err := set(t.what, dir+"/"+t.v1, value); err != nil {
				return err
			}
		}
	}
	return nil
}

func blockIOV2(dir string, r *specs.LinuxResources) error {
	b := r.BlockIO
	if weightGiven(b.LeafWeight) {
		return fail.New(fail.Invalid, "cannot set block IO leaf weight: cgroup v2 does not have it")
	}
	bfq := dir + "/io.bfq.weight"
	hasBFQ := exists(bfq)
	setWeight := func(what, prefix string, w uint16) error {
		if hasBFQ {
			return set(what, bfq, prefix+strconv.Itoa(int(w)))
		}
		return set(what, dir+"/io.weight", prefix+strconv.FormatUint(ioWeight(w), 10))
	}
	if weightGiven(b.Weight) {
		if err := setWeight("block IO weight", "", *b.Weight); err != nil {
			return err
		}
	}
	for _, w := range b.WeightDevice {
		if weightGiven(w.LeafWeight) {
			return fail.New(fail.Invalid, "cannot set block IO leaf weight: cgroup v2 does not have it")
		}
		if weightGiven(w.Weight) {
			if err := setWeight("block IO device weight", fmt.Sprintf("%d:%d ", w.Major, w.Minor), *w.Weight); err != nil {
				return err
			}
		}
	}
	for _, t := range throttles(b) {
		for _, d := range t.devices {
			rate := "max"
			if d.Rate != 0 {
				rate = strconv.FormatUint(d.Rate, 10)
			}
			if err := set(t.what, dir+"/io.max", fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, t.v2, rate)); err != nil {
				return err
			}
		}
	}
	return nil
}

// ioWeight maps blkio's 10…1000 onto io.weight's 1…10000, as the OCI runtimes do.
func ioWeight(w uint16) uint64 {
	w = min(max(w, 10), 1000)
	return 1 + (uint64(w)-10)*9999/990
}

type throttle struct {
	what, v1, v2 string // v1: the file; v2: the key in io.max
	devices      []specs.LinuxThrottleDevice
}

func throttles(b *specs.LinuxBlockIO) []throttle {
	return []throttle{
		{"device read rate", "blkio.throttle.read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"device write rate", "blkio.throttle.write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"device read IOPS", "blkio.throttle.read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"device write IOPS", "blkio.throttle.write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	}
}
