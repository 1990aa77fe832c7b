package cgroup

import (
	"errors"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
)

// given is a limit as the specification has it: nil and 0 are "not set", -1 is "none".
func given(n *int64) bool { return n != nil && *n != 0 }

func isTrue(b *bool) bool { return b != nil && *b }

// memoryAsked: LinuxMemory.Kernel is not looked at. The specification calls it deprecated, Linux
// has not honoured it since 5.16, and runc ignores it too. That of TCP buffers is honoured where the kernel
// still has it.
func memoryAsked(r *specs.LinuxResources) bool {
	m := r.Memory
	return m != nil && (given(m.Limit) || given(m.Reservation) || given(m.Swap) || given(m.KernelTCP) ||
		m.Swappiness != nil || isTrue(m.DisableOOMKiller))
}

func memoryV1(dir string, r *specs.LinuxResources) error {
	m := r.Memory
	if isTrue(m.UseHierarchy) {
		// Always so since Linux 5.11; earlier kernels take it before children exist.
		if now, err := readLimit(dir + "/memory.use_hierarchy"); err == nil && now == 0 {
			if err := set("memory hierarchy", dir+"/memory.use_hierarchy", "1"); err != nil {
				return err
			}
		}
	}
	if err := memoryAndSwapV1(dir, m); err != nil {
		return err
	}
	if given(m.Reservation) {
		if err := set("memory reservation", dir+"/memory.soft_limit_in_bytes", strconv.FormatInt(*m.Reservation, 10)); err != nil {
			return err
		}
	}
	if given(m.KernelTCP) {
		if err := set("kernel TCP memory limit", dir+"/memory.kmem.tcp.limit_in_bytes", strconv.FormatInt(*m.KernelTCP, 10)); err != nil {
			return err
		}
	}
	if m.Swappiness != nil {
		if err := set("memory swappiness", dir+"/memory.swappiness", strconv.FormatUint(*m.Swappiness, 10)); err != nil {
			return err
		}
	}
	if m.DisableOOMKiller != nil {
		value := "0"
		if *m.DisableOOMKiller {
			value = "1"
		}
		if now, err := readKey(dir+"/memory.oom_control", "oom_kill_disable"); err == nil && strconv.FormatUint(now, 10) == value {
			return nil
		}
		return set("OOM killer", dir+"/memory.oom_control", value)
	}
	return nil
}

// memoryAndSwapV1 keeps memory.limit <= memory.memsw.limit at every step, which the
// kernel insists on.
func memoryAndSwapV1(dir string, m *specs.LinuxMemory) error {
	limit, swap := m.Limit, m.Swap
	swapFile := dir + "/memory.memsw.limit_in_bytes"
	if given(limit) && *limit < 0 && !given(swap) && exists(swapFile) {
		swap = limit // no limit on memory cannot stand under one on memory and swap
	}
	if given(swap) && *swap < 0 && !exists(swapFile) {
		swap = nil // there is none to lift
	}
	setLimit := func() error {
		if !given(limit) {
			return nil
		}
		return setMemory("memory limit", dir+"/memory.limit_in_bytes", dir+"/memory.usage_in_bytes", *limit)
	}
	setSwap := func() error {
		if !given(swap) {
			return nil
		}
		return setMemory("memory+swap limit", swapFile, dir+"/memory.memsw.usage_in_bytes", *swap)
	}
	first, second := setLimit, setSwap
	if given(swap) {
		now, err := readLimit(swapFile)
		if err != nil {
			return refused("memory+swap limit", strconv.FormatInt(*swap, 10), err)
		}
		if *swap < 0 || uint64(*swap) > now {
			first, second = setSwap, setLimit
		}
	}
	if err := first(); err != nil {
		return err
	}
	return second()
}

// setMemory says how much is in use when the kernel cannot get below a limit.
func setMemory(what, file, usageFile string, limit int64) error {
	err := write(file, strconv.FormatInt(limit, 10))
	if errors.Is(err, unix.EBUSY) {
		usage, _ := readLimit(usageFile)
		return fail.New(fail.Conflict, "cannot set %s to %d bytes: %d bytes are in use", what, limit, usage)
	}
	if err != nil {
		return refused(what, strconv.FormatInt(limit, 10), err)
	}
	return nil
}

func memoryV2(dir string, r *specs.LinuxResources) error {
	m := r.Memory
	switch {
	case m.Swappiness != nil:
		return fail.New(fail.Invalid, "cannot set memory swappiness: cgroup v2 does not have it")
	case isTrue(m.DisableOOMKiller):
		return fail.New(fail.Invalid, "cannot disable the OOM killer: cgroup v2 does not have it")
	case given(m.KernelTCP):
		return fail.New(fail.Invalid, "cannot set kernel TCP memory limit: cgroup v2 does not have it")
	}
	swap, err := swapMax(m)
	if err != nil {
		return err
	}
	if err := fits(dir, m); err != nil {
		return err
	}
	// Where the kernel has no swap, or does not account it, there is nothing to lift or to forbid.
	if swap != "" && (swap != "max" && swap != "0" || exists(dir+"/memory.swap.max")) {
		if err := set("swap limit", dir+"/memory.swap.max", swap); err != nil {
			return err
		}
	}
	if given(m.Limit) {
		if err := set("memory limit", dir+"/memory.max", maxOr(*m.Limit)); err != nil {
			return err
		}
	}
	if given(m.Reservation) {
		return set("memory reservation", dir+"/memory.low", maxOr(*m.Reservation))
	}
	return nil
}

// fits holds a new limit to what is in use, if the caller wants that.
func fits(dir string, m *specs.LinuxMemory) error {
	if m == nil || !given(m.Limit) || *m.Limit < 0 || !isTrue(m.CheckBeforeUpdate) {
		return nil
	}
	usage, err := readLimit(dir + "/memory.current")
	if err != nil {
		return err
	}
	if usage > uint64(*m.Limit) {
		return fail.New(fail.Conflict, "cannot set memory limit to %d bytes: %d bytes are in use", *m.Limit, usage)
	}
	return nil
}

// swapMax turns the specification's limit of memory and swap together into v2's limit of
// swap alone; "" when there is nothing to set.
func swapMax(m *specs.LinuxMemory) (string, error) {
	switch {
	case !given(m.Swap):
		if given(m.Limit) && *m.Limit < 0 {
			return "max", nil
		}
		return "", nil
	case *m.Swap < 0:
		return "max", nil
	case !given(m.Limit) || *m.Limit < 0:
		return "", fail.New(fail.Invalid, "cannot set memory+swap limit to %d without a memory limit", *m.Swap)
	case *m.Swap < *m.Limit:
		return "", fail.New(fail.Invalid, "memory+swap limit %d is below memory limit %d", *m.Swap, *m.Limit)
	}
	return strconv.FormatInt(*m.Swap-*m.Limit, 10), nil
}

// maxOr formats a v2 limit.
func maxOr(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}
