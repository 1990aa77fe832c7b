package cgroup

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
)

// On v2, device rules are a BPF program of type BPF_PROG_TYPE_CGROUP_DEVICE attached to
// the group (Documentation/admin-guide/cgroup-v2.rst, "Device controller"). The few
// instructions it needs are encoded here: a BPF library would double the supervisor's size.

// bpfInsn is struct bpf_insn of linux/bpf.h.
type bpfInsn struct {
	code byte
	regs byte // destination in the low half, source in the high half
	off  int16
	imm  int32
}

// Registers, by the use the program makes of them.
const (
	regResult  = 0
	regContext = 1
	regKind    = 2
	regAccess  = 3 // what was requested and no rule has decided yet
	regMajor   = 4
	regMinor   = 5
)

func bpfLoad32(dst, src byte, off int16) bpfInsn {
	return bpfInsn{unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W, dst | src<<4, off, 0}
}
func bpfMove32(dst, src byte) bpfInsn {
	return bpfInsn{unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X, dst | src<<4, 0, 0}
}
func bpfALU32(op byte, dst byte, imm int32) bpfInsn {
	return bpfInsn{unix.BPF_ALU | op | unix.BPF_K, dst, 0, imm}
}
func bpfJump(op byte, dst byte, imm int32, off int) bpfInsn {
	return bpfInsn{unix.BPF_JMP | op | unix.BPF_K, dst, int16(off), imm}
}

// bpfReturn ends the program: 1 lets the access happen, 0 makes it EPERM.
func bpfReturn(allow bool) []bpfInsn {
	var result int32
	if allow {
		result = 1
	}
	return []bpfInsn{
		{unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K, regResult, 0, result},
		{unix.BPF_JMP | unix.BPF_EXIT, 0, 0, 0},
	}
}

// deviceProgram compiles rules, the last of which is asked first. Every rule takes the
// bits of access it decides: one denied bit denies, and when all are allowed it is done.
func deviceProgram(rules []deviceRule) []bpfInsn {
	// struct bpf_cgroup_dev_ctx { u32 access_type, major, minor }, access_type being
	// (access << 16) | kind.
	prog := []bpfInsn{
		bpfLoad32(regKind, regContext, 0),
		bpfMove32(regAccess, regKind),
		bpfALU32(unix.BPF_AND, regKind, 0xffff),
		bpfALU32(unix.BPF_RSH, regAccess, 16),
		bpfLoad32(regMajor, regContext, 4),
		bpfLoad32(regMinor, regContext, 8),
	}
	for _, r := range slices.Backward(rules) {
		var body []bpfInsn
		switch {
		case r.access == accessAll:
			body = bpfReturn(r.allow)
		case r.allow:
			body = append(body, bpfALU32(unix.BPF_AND, regAccess, ^int32(r.access)), bpfJump(unix.BPF_JNE, regAccess, 0, 2))
			body = append(body, bpfReturn(true)...)
		default:
			body = append(body, bpfJump(unix.BPF_JSET, regAccess, int32(r.access), 1), bpfJump(unix.BPF_JA, 0, 0, 2))
			body = append(body, bpfReturn(false)...)
		}
		var tests []bpfInsn
		test := func(reg byte, value int64) { tests = append(tests, bpfJump(unix.BPF_JNE, reg, int32(value), 0)) }
		switch r.kind {
		case 'b':
			test(regKind, unix.BPF_DEVCG_DEV_BLOCK)
		case 'c':
			test(regKind, unix.BPF_DEVCG_DEV_CHAR)
		}
		if r.major != anyNumber {
			test(regMajor, r.major)
		}
		if r.minor != anyNumber {
			test(regMinor, r.minor)
		}
		for i := range tests {
			tests[i].off = int16(len(tests) - i - 1 + len(body))
		}
		prog = append(append(prog, tests...), body...)
		if len(tests) == 0 && r.access == accessAll {
			return prog // nothing can come after it, and the kernel refuses dead code
		}
	}
	return append(prog, bpfReturn(false)...)
}

func devicesV2(dir string, r *specs.LinuxResources) error {
	rules, err := deviceRules(r.Devices)
	if err != nil {
		return err
	}
	if err := attachDeviceProgram(dir, deviceProgram(rules)); err != nil {
		refused := errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
		if refused && kernel.InUserNamespace() {
			return nil // where no device can be made or opened that the host has not given
		}
		if refused {
			return fail.New(fail.Invalid, "cannot set device rules: %w", err)
		}
		return fmt.Errorf("set device rules: %w", err)
	}
	return nil
}

// bpf is bpf(2); attr must be the start of a union bpf_attr for the command.
func bpf(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EAGAIN, unix.EINTR:
		default:
			return -1, errno
		}
	}
}

func loadDeviceProgram(prog []bpfInsn) (int, error) {
	license := []byte("Apache-2.0\x00") // no helper function is called, so none needs the GPL
	var pin runtime.Pinner              // the addresses stand in integers below
	defer pin.Unpin()
	pin.Pin(&prog[0])
	pin.Pin(&license[0])
	attr := struct {
		progType, insnCount uint32
		insns, license      uint64
		logLevel, logSize   uint32
		logBuf              uint64
		kernVersion, flags  uint32
		name                [16]byte
		ifindex, attachType uint32
	}{
		progType: unix.BPF_PROG_TYPE_CGROUP_DEVICE, insnCount: uint32(len(prog)),
		insns: uint64(uintptr(unsafe.Pointer(&prog[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
		attachType: unix.BPF_CGROUP_DEVICE, name: [16]byte{'b', 'e', 'r', 't', 'h'},
	}
	fd, err := lockingMemory(func() (int, error) { return bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr)) })
	if err != nil {
		return -1, fmt.Errorf("load BPF program: %w", err)
	}
	return fd, nil
}

// lockingMemory loads a program again without a limit of locked memory, if that was what refused it:
// before Linux 5.11 programs count against the user's. The limit is as it was afterwards, for
// containers inherit it.
func lockingMemory(load func() (int, error)) (int, error) {
	fd, err := load()
	var was unix.Rlimit
	if err != unix.EPERM || unix.Getrlimit(unix.RLIMIT_MEMLOCK, &was) != nil {
		return fd, err
	}
	none := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &none) != nil {
		return fd, err
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &was) }() // to lower it is always allowed
	return load()
}

// attachDeviceProgram makes prog the device program of the group dir, in place of the one
// an earlier call has attached: there is no moment without rules.
func attachDeviceProgram(dir string, prog []bpfInsn) error {
	group, err := open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(group)
	fd, err := loadDeviceProgram(prog)
	if err != nil {
		return err
	}
	defer unix.Close(fd) // the group keeps it
	attr := struct{ target, prog, attachType, flags, replace uint32 }{
		target: uint32(group), prog: uint32(fd), attachType: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI,
	}
	old, err := attachedDeviceProgram(group)
	if err != nil {
		return err
	}
	if old >= 0 {
		defer unix.Close(old)
		attr.flags |= unix.BPF_F_REPLACE
		attr.replace = uint32(old)
	}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return fmt.Errorf("attach BPF program to %s: %w", dir, err)
	}
	return nil
}

// attachedDeviceProgram opens the device program attached to the group itself, -1 if it
// has none. A group of ours has at most one.
func attachedDeviceProgram(group int) (int, error) {
	var ids [8]uint32
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&ids)
	query := struct {
		target, attachType, queryFlags, attachFlags uint32
		ids                                         uint64
		count, _                                    uint32
	}{target: uint32(group), attachType: unix.BPF_CGROUP_DEVICE, ids: uint64(uintptr(unsafe.Pointer(&ids))), count: uint32(len(ids))}
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&query), unsafe.Sizeof(query))
	if err != nil {
		return -1, fmt.Errorf("query BPF programs: %w", err)
	}
	if query.count == 0 {
		return -1, nil
	}
	byID := struct{ id, next, flags uint32 }{id: ids[query.count-1]}
	fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&byID), unsafe.Sizeof(byID))
	if err != nil {
		return -1, fmt.Errorf("open BPF program %d: %w", byID.id, err)
	}
	return fd, nil
}
