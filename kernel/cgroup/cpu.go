package cgroup

import (
	"errors"
	"math"
	"path"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
)

// positive is an unsigned limit of the specification: nil and 0 are "not set".
func positive(n *uint64) bool { return n != nil && *n != 0 }

func cpuAsked(r *specs.LinuxResources) bool {
	c := r.CPU
	return c != nil && (positive(c.Shares) || given(c.Quota) || positive(c.Period) || c.Burst != nil ||
		given(c.RealtimeRuntime) || positive(c.RealtimePeriod) || c.Idle != nil)
}

func cpuV1(dir string, r *specs.LinuxResources) error {
	c := r.CPU
	if err := busy(dir, c); err != nil {
		return err
	}
	if positive(c.Shares) {
		if err := set("cpu shares", dir+"/cpu.shares", strconv.FormatUint(*c.Shares, 10)); err != nil {
			return err
		}
		// The kernel clamps silently.
		got, err := readLimit(dir + "/cpu.shares")
		if err != nil {
			return err
		}
		if got > *c.Shares {
			return fail.New(fail.Invalid, "the minimum allowed cpu-shares is %d", got)
		}
		if got < *c.Shares {
			return fail.New(fail.Invalid, "the maximum allowed cpu-shares is %d", got)
		}
	}
	if positive(c.RealtimePeriod) {
		if err := set("realtime period", dir+"/cpu.rt_period_us", strconv.FormatUint(*c.RealtimePeriod, 10)); err != nil {
			return err
		}
	}
	if given(c.RealtimeRuntime) {
		if err := realtime(dir, *c.RealtimeRuntime); err != nil {
			return err
		}
	}
	if err := quotaV1(dir, c); err != nil {
		return err
	}
	return idle(dir, c)
}

// realtime sets the share of time for realtime scheduling, which the groups above must have to
// give: none has it at first.
func realtime(dir string, runtime int64) error {
	err := write(dir+"/cpu.rt_runtime_us", strconv.FormatInt(runtime, 10))
	if errors.Is(err, unix.EINVAL) {
		if above, e := readString(path.Dir(dir) + "/cpu.rt_runtime_us"); e == nil {
			return fail.New(fail.Invalid, "cannot set realtime runtime to %d µs: the control group above, %s, has %s", runtime, path.Dir(dir), above)
		}
	}
	if err != nil {
		return refused("realtime runtime", strconv.FormatInt(runtime, 10), err)
	}
	return nil
}

// quotaV1 sets quota, period and burst. Each write is checked against the values of the
// others at that moment, so the order that works depends on which way they move: what is
// refused at first is tried again after the rest.
func quotaV1(dir string, c *specs.LinuxCPU) error {
	type step struct{ what, file, value string }
	var todo []step
	if positive(c.Period) {
		todo = append(todo, step{"cpu period", dir + "/cpu.cfs_period_us", strconv.FormatUint(*c.Period, 10)})
	}
	if given(c.Quota) {
		todo = append(todo, step{"cpu quota", dir + "/cpu.cfs_quota_us", strconv.FormatInt(*c.Quota, 10)})
	}
	if c.Burst != nil {
		todo = append(todo, step{"cpu burst", dir + "/cpu.cfs_burst_us", strconv.FormatUint(*c.Burst, 10)})
	}
	for len(todo) > 0 {
		var later []step
		var first error
		for _, s := range todo {
			err := write(s.file, s.value)
			if err == nil {
				continue
			}
			if !errors.Is(err, unix.EINVAL) {
				return refused(s.what, s.value, err)
			}
			if first == nil {
				first = refused(s.what, s.value, err)
			}
			later = append(later, s)
		}
		if len(later) == len(todo) {
			return first
		}
		todo = later
	}
	return nil
}

// An idle group has no weight that could be set: one that shall not be idle any more loses
// that first (busy), one that shall become so, last (idle).
func busy(dir string, c *specs.LinuxCPU) error {
	if c.Idle == nil || *c.Idle != 0 {
		return nil
	}
	return set("cpu idle", dir+"/cpu.idle", "0")
}

func idle(dir string, c *specs.LinuxCPU) error {
	if c.Idle == nil || *c.Idle == 0 {
		return nil
	}
	return set("cpu idle", dir+"/cpu.idle", strconv.FormatInt(*c.Idle, 10))
}

func cpuV2(dir string, r *specs.LinuxResources) error {
	c := r.CPU
	if given(c.RealtimeRuntime) || positive(c.RealtimePeriod) {
		return fail.New(fail.Invalid, "cannot set realtime scheduling: cgroup v2 does not have it")
	}
	if err := busy(dir, c); err != nil {
		return err
	}
	if positive(c.Shares) {
		if err := set("cpu shares", dir+"/cpu.weight", strconv.FormatUint(weightOfShares(*c.Shares), 10)); err != nil {
			return err
		}
	}
	setBurst := func() error {
		return set("cpu burst", dir+"/cpu.max.burst", strconv.FormatUint(*c.Burst, 10))
	}
	// A burst may not exceed the quota: a smaller one goes before it, a larger one after.
	burstDone := c.Burst == nil || setBurst() == nil
	if given(c.Quota) || positive(c.Period) {
		now, err := readString(dir + "/cpu.max")
		if err != nil {
			return refused("cpu quota", "", err)
		}
		if err := set("cpu quota", dir+"/cpu.max", cpuMax(now, c)); err != nil {
			return err
		}
	}
	if !burstDone {
		if err := setBurst(); err != nil {
			return err
		}
	}
	return idle(dir, c)
}

// cpuMax is the new content of cpu.max, "quota period", given the present one.
func cpuMax(now string, c *specs.LinuxCPU) string {
	quota, _, _ := strings.Cut(now, " ")
	if given(c.Quota) {
		quota = maxOr(*c.Quota)
	}
	if !positive(c.Period) {
		// The kernel keeps the period when it is left out.
		return quota
	}
	return quota + " " + strconv.FormatUint(*c.Period, 10)
}

// The bounds of v1's cpu.shares (kernel/sched: MIN_SHARES, MAX_SHARES).
const (
	minShares = 2
	maxShares = 262144
)

// weightOfShares maps shares (2…262144, 1024 by default) to cpu.weight (1…10000, 100 by
// default) by the curve the OCI runtimes agreed on in 2025: it meets both ends and the
// default, which the straight line they used before does not (it made 1024 into 39).
func weightOfShares(shares uint64) uint64 {
	switch {
	case shares <= minShares:
		return 1
	case shares >= maxShares:
		return 10000
	}
	l := math.Log2(float64(shares))
	exponent := (l*l+125*l)/612 - 7.0/34.0
	return uint64(math.Ceil(math.Pow(10, exponent)))
}

func cpusetAsked(r *specs.LinuxResources) bool {
	return r.CPU != nil && (r.CPU.Cpus != "" || r.CPU.Mems != "")
}

func cpuset(dir string, r *specs.LinuxResources) error {
	if r.CPU.Cpus != "" {
		if err := set("cpuset cpus", dir+"/cpuset.cpus", r.CPU.Cpus); err != nil {
			return err
		}
	}
	if r.CPU.Mems != "" {
		return set("cpuset mems", dir+"/cpuset.mems", r.CPU.Mems)
	}
	return nil
}
