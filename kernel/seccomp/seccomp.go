// Package seccomp compiles the OCI runtime specification's seccomp section into
// one BPF program for all architectures that the running kernel can be asked for.
package seccomp

import (
	"runtime"
	"slices"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
)

//go:generate go run ./gen

// Program is a compiled filter and the flags of seccomp(2) to install it with.
type Program struct {
	Filter []unix.SockFilter
	Flags  uint
	// Notify says that the filter hands calls to an agent, SCMP_ACT_NOTIFY: Flags holds
	// SECCOMP_FILTER_FLAG_NEW_LISTENER, and what seccomp(2) returns is the descriptor that
	// the agent at the profile's listenerPath must get (seccomp_unotify(2)). A call that is
	// handed over blocks until then.
	Notify bool
}

// maxInstructions is BPF_MAXINSNS of linux/bpf_common.h.
const maxInstructions = 4096

// Compile translates a profile (config-linux.md, "Seccomp"). Names of system calls that no
// architecture of the profile knows are skipped, as libseccomp's users do; they come back
// in unknown. What the specification leaves open is decided as runc and libseccomp do:
//
//   - The native architecture is always part of the profile. A call by an architecture
//     that is not kills the process.
//   - Of the rules for one call, the first without conditions decides; if there is none,
//     the first whose conditions hold. A rule with the default action is no rule.
//   - The conditions of a rule must all hold; but when two of them look at the same
//     argument, any one suffices.
//   - A rule for a call that x86 programs can also make through socketcall(2) or ipc(2)
//     holds for that way too, unless it has conditions, which cannot be checked there.
//   - Unless the default action lets calls pass, calls newer than every call that the
//     profile names fail with ENOSYS: C libraries fall back on that, and not on EPERM.
//   - Without a list of flags, SECCOMP_FILTER_FLAG_SPEC_ALLOW is set.
//   - SCMP_ACT_NOTIFY needs a listenerPath, and cannot be the default action: the agent
//     would have to answer for calls of the process that hands it the descriptor.
//
// One thing is stricter than there: a name that no architecture of Linux knows, in a rule that
// shall take something from an otherwise lenient profile, is an error. Skipping it
// would let through what somebody meant to forbid.
//
// A profile that is wrong is class Invalid.
func Compile(profile *specs.LinuxSeccomp) (p *Program, unknown []string, err error) {
	notify := notifies(profile)
	if notify && profile.DefaultAction == specs.ActNotify {
		return nil, nil, fail.New(fail.Invalid, "seccomp action %s cannot be the default action", specs.ActNotify)
	}
	if notify && profile.ListenerPath == "" {
		return nil, nil, fail.New(fail.Invalid, "seccomp action %s needs a listenerPath", specs.ActNotify)
	}
	flags, err := flagsOf(profile.Flags, notify)
	if err != nil {
		return nil, nil, err
	}
	archs, err := archsOf(profile.Architectures, runtime.GOARCH)
	if err != nil {
		return nil, nil, err
	}
	if flags&unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV != 0 && !CanWaitKillable() {
		return nil, nil, fail.New(fail.NotImplemented, "seccomp flag %s needs Linux 5.19 or later", specs.LinuxSeccompFlagWaitKillableRecv)
	}
	filter, unknown, err := compile(profile, archs)
	if err != nil {
		return nil, nil, err
	}
	return &Program{Filter: filter, Flags: flags, Notify: notify}, unknown, nil
}

// CanWaitKillable tells whether this kernel knows SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, which
// is refused without a listener. Flags are looked at before the filter, which is missing here.
var CanWaitKillable = sync.OnceValue(func() bool {
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, 0)
	return errno == unix.EFAULT
})

// notifies reports whether the profile hands any call to an agent.
func notifies(profile *specs.LinuxSeccomp) bool {
	return profile.DefaultAction == specs.ActNotify ||
		slices.ContainsFunc(profile.Syscalls, func(s specs.LinuxSyscall) bool { return s.Action == specs.ActNotify })
}

// arch is one system call interface of the kernel.
type arch struct {
	name    specs.Arch
	audit   uint32 // AUDIT_ARCH_* of linux/audit.h
	numbers []uint16
	bit     uint32 // set in all numbers
	narrow  bool   // arguments have 32 bits
	mux     bool   // has socketcall(2) and ipc(2)
	native  string // GOARCH of the kernel whose own interface it is
}

const x32Bit = 0x40000000 // __X32_SYSCALL_BIT

// allArchs are the interfaces this compiler knows. x32 shares the audit number of x86-64
// and differs by a bit in the call's number.
var allArchs = []arch{
	{name: specs.ArchX86_64, audit: unix.AUDIT_ARCH_X86_64, numbers: numbersX86_64[:], native: "amd64"},
	{name: specs.ArchX32, audit: unix.AUDIT_ARCH_X86_64, numbers: numbersX32[:], bit: x32Bit, narrow: true},
	{name: specs.ArchX86, audit: unix.AUDIT_ARCH_I386, numbers: numbersX86[:], narrow: true, mux: true},
	{name: specs.ArchAARCH64, audit: unix.AUDIT_ARCH_AARCH64, numbers: numbersARM64[:], native: "arm64"},
	{name: specs.ArchARM, audit: unix.AUDIT_ARCH_ARM, numbers: numbersARM[:], narrow: true},
}

// foreign are the specification's architectures that no kernel Berth runs on has.
var foreign = []specs.Arch{specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64,
	specs.ArchMIPSEL64N32, specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390, specs.ArchS390X,
	specs.ArchPARISC, specs.ArchPARISC64, specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB}

// archsOf picks the listed architectures and the native one.
func archsOf(list []specs.Arch, goarch string) ([]arch, error) {
	var as []arch
	for _, a := range allArchs {
		if a.native == goarch || slices.Contains(list, a.name) {
			as = append(as, a)
		}
	}
	for _, name := range list {
		if !slices.ContainsFunc(allArchs, func(a arch) bool { return a.name == name }) && !slices.Contains(foreign, name) {
			return nil, fail.New(fail.Invalid, "invalid seccomp architecture %q", name)
		}
	}
	return as, nil
}

// absent marks a call that an architecture does not have.
const absent = 0xffff

// armPrivate is where ARM's private calls start; the table holds them from 0xf000 on.
const armPrivate = 0xf0000

// number is the number of call i (an index into names).
func (a *arch) number(i int) (uint32, bool) {
	n := uint32(a.numbers[i])
	switch {
	case n == absent:
		return 0, false
	case n >= 0xf000:
		n += armPrivate - 0xf000
	}
	return n | a.bit, true
}

// lookup finds the index of a call's name, -1 if it is none.
func lookup(name string) int {
	lo, hi := 0, len(nameEnds)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		switch n := nameAt(mid); {
		case n == name:
			return mid
		case n < name:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return -1
}

// Known reports whether Linux has a system call of that name on any architecture, also on
// those that Berth does not run on.
func Known(name string) bool {
	_, elsewhere := slices.BinarySearch(foreignCalls[:], name)
	return elsewhere || lookup(name) >= 0
}

// foreignCalls are the calls that only other architectures have, in ascending order.
var foreignCalls = [...]string{
	"cachectl", "execv", "getdomainname", "getpagesize", "kern_features", "memory_ordering", "multiplexer", "perfctr",
	"riscv_flush_icache", "riscv_hwprobe", "rtas", "s390_guarded_storage", "s390_pci_mmio_read", "s390_pci_mmio_write",
	"s390_runtime_instr", "s390_sthyi", "sched_get_affinity", "sched_set_affinity", "spu_create", "spu_run", "subpage_prot",
	"swapcontext", "switch_endian", "sync_file_range2", "sys_debug_setcontext", "syscall", "sysmips", "timerfd", "utrap_install",
}

func nameAt(i int) string {
	start := uint16(0)
	if i > 0 {
		start = nameEnds[i-1]
	}
	return names[start:nameEnds[i]]
}

// flagsOf translates the flags. SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV speaks of
// notifications, and the kernel refuses it where there are none.
func flagsOf(list []specs.LinuxSeccompFlag, notify bool) (uint, error) {
	var flags uint
	if notify {
		flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	if list == nil {
		return flags | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	for _, f := range list {
		switch f {
		case "SECCOMP_FILTER_FLAG_TSYNC":
			flags |= unix.SECCOMP_FILTER_FLAG_TSYNC
			if notify {
				// Both want the call's return value; this one lets the listener have it.
				flags |= unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
			}
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			if notify {
				flags |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
			}
		default:
			return 0, fail.New(fail.Invalid, "invalid seccomp flag %q", f)
		}
	}
	return flags, nil
}

// actionOf translates an action into a return value of the filter (seccomp(2)).
func actionOf(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	code := uint32(unix.EPERM)
	if errno != nil {
		if a != specs.ActErrno && a != specs.ActTrace {
			return 0, fail.New(fail.Invalid, "seccomp action %s takes no errnoRet", a)
		}
		if *errno > 4095 {
			return 0, fail.New(fail.Invalid, "seccomp errnoRet %d is above 4095", *errno)
		}
		code = uint32(*errno)
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | code, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | code, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActNotify:
		return unix.SECCOMP_RET_USER_NOTIF, nil
	}
	return 0, fail.New(fail.Invalid, "invalid seccomp action %q", a)
}
