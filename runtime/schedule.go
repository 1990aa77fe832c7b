package runtime

import (
	"errors"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel/stage"
	oci "berth/oci/bundle"
)

// scheduling is a process's share of processors and disks (runtime-spec, config.md,
// "Linux Process").
type scheduling struct {
	policy         specs.LinuxSchedulerPolicy
	attr           *unix.SchedAttr // nil: as it is
	ioPriority     int             // of ioprio_set(2); 0: as it is
	initial, final bitset          // processors before and after the cgroup is joined; nil: as they are
}

// schedPolicies are the SCHED_* numbers of linux/sched.h.
var schedPolicies = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: 3, specs.SchedISO: 4, specs.SchedIdle: 5, specs.SchedDeadline: 6,
}

// schedFlags are the SCHED_FLAG_* bits of linux/sched.h.
var schedFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork: 0x01, specs.SchedFlagReclaim: 0x02, specs.SchedFlagDLOverrun: 0x04, specs.SchedFlagKeepPolicy: 0x08,
	specs.SchedFlagKeepParams: 0x10, specs.SchedFlagUtilClampMin: 0x20, specs.SchedFlagUtilClampMax: 0x40,
}

// ioClasses are the IOPRIO_CLASS_* numbers of linux/ioprio.h.
var ioClasses = map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}

const (
	ioClassShift = 13
	maxIOLevel   = 7
)

// fromOutside tells that schedule has something to do.
func (s *scheduling) fromOutside() bool { return s.attr != nil || s.ioPriority >= 0 }

// schedulingOf reads what a process says about it.
func schedulingOf(p *oci.Process) (s scheduling, err error) {
	if p.Scheduler != nil {
		if s.attr, err = schedAttrOf(p.Scheduler); err != nil {
			return s, err
		}
		s.policy = p.Scheduler.Policy
	}
	if io := p.IOPriority; io != nil {
		class, ok := ioClasses[io.Class]
		if !ok {
			return s, invalid("process.ioPriority.class", "unknown class %q", io.Class)
		}
		if io.Priority < 0 || io.Priority > maxIOLevel {
			return s, invalid("process.ioPriority.priority", "%d is not between 0 and %d", io.Priority, maxIOLevel)
		}
		s.ioPriority = class<<ioClassShift | io.Priority
	}
	if a := p.ExecCPUAffinity; a != nil {
		if s.initial, err = parseList(a.Initial); err != nil {
			return s, invalid("process.execCPUAffinity.initial", "%w", err)
		}
		if s.final, err = parseList(a.Final); err != nil {
			return s, invalid("process.execCPUAffinity.final", "%w", err)
		}
	}
	return s, nil
}

func schedAttrOf(s *specs.Scheduler) (*unix.SchedAttr, error) {
	const at = "process.scheduler."
	policy, ok := schedPolicies[s.Policy]
	if !ok {
		return nil, invalid(at+"policy", "unknown policy %q", s.Policy)
	}
	if s.Nice < -20 || s.Nice > 19 {
		return nil, invalid(at+"nice", "%d is not between -20 and 19", s.Nice)
	}
	realtime := s.Policy == specs.SchedFIFO || s.Policy == specs.SchedRR
	if realtime && (s.Priority < 1 || s.Priority > 99) {
		return nil, invalid(at+"priority", "%d is not between 1 and 99, which %s needs", s.Priority, s.Policy)
	}
	if !realtime && s.Priority != 0 {
		return nil, invalid(at+"priority", "%d is given, but %s has no priorities", s.Priority, s.Policy)
	}
	if s.Policy != specs.SchedDeadline && (s.Runtime != 0 || s.Deadline != 0 || s.Period != 0) {
		return nil, invalid(at+"runtime", "runtime, deadline and period belong to SCHED_DEADLINE, not to %s", s.Policy)
	}
	if s.Policy == specs.SchedDeadline && (s.Runtime == 0 || s.Runtime > s.Deadline || s.Period != 0 && s.Deadline > s.Period) {
		return nil, invalid(at+"runtime", "runtime %d, deadline %d, period %d: each must be at most the next one, and none 0", s.Runtime, s.Deadline, s.Period)
	}
	attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy, Nice: s.Nice, Priority: uint32(s.Priority),
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period}
	for _, f := range s.Flags {
		bit, ok := schedFlags[f]
		if !ok {
			return nil, invalid(at+"flags", "unknown flag %q", f)
		}
		attr.Flags |= bit
	}
	return attr, nil
}

// schedule gives the waiting process its policy and priorities. It is done from outside,
// where the privilege is, and last: a real-time process cannot change its cgroup freely.
func (p *Process) schedule(s scheduling) error {
	if s.ioPriority != 0 {
		const whoProcess = 1
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, uintptr(p.pid), uintptr(s.ioPriority)); errno != 0 {
			return fail.New(fail.Invalid, "process.ioPriority: %w", errno)
		}
	}
	if s.attr == nil {
		return nil
	}
	err := unix.SchedSetAttr(p.pid, s.attr, 0)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM) && s.attr.Priority > 0:
		return fail.New(fail.Invalid, "process.scheduler: %s needs CAP_SYS_NICE, and real-time runtime in the container's cgroup (linux.resources.cpu.realtimeRuntime) where the kernel accounts it: %w", s.policy, err)
	}
	return fail.New(fail.Invalid, "process.scheduler: %s: %w", s.policy, err)
}

// initialAffinity is for the time before the child is in the cgroup.
func (b *builder) initialAffinity() {
	if b.initial != nil {
		b.p.About("process.execCPUAffinity.initial:", "run on the processors given")
		b.setAffinity(b.initial)
	}
}

// finalAffinity is for the child in its cgroup: what is given, else all that the group has, for
// since Linux 6.2 a process remembers what it, or one it comes from, was bound to before.
func (b *builder) finalAffinity(given bitset) {
	if given != nil {
		b.p.About("process.execCPUAffinity.final:", "run on the processors given")
		b.setAffinity(given)
		return
	}
	all := make(bitset, maxListed/64)
	for i := range all {
		all[i] = ^uint64(0)
	}
	b.p.About("run on all processors of the cgroup", "")
	b.setAffinity(all).Ignore(unix.EPERM, unix.EINVAL)
}

func (b *builder) setAffinity(cpus bitset) stage.Step {
	return b.p.Call(unix.SYS_SCHED_SETAFFINITY, stage.Int(0), stage.Int(len(cpus)*8), cpus.arg(b.p))
}

// bitset is a set of small numbers, as the kernel takes processors and memory nodes.
type bitset []uint64

func (s bitset) arg(p *stage.Program) stage.Arg {
	list := append([]uint64(nil), s...)
	return stage.Pin(p, &list[0])
}

const maxListed = 4096 // above CONFIG_NR_CPUS and MAX_NUMNODES of every kernel there is

// parseList reads a list of numbers and ranges like "0-3,7"; nil for the empty list.
func parseList(text string) (bitset, error) {
	if text == "" {
		return nil, nil
	}
	var set bitset
	for _, part := range strings.Split(text, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 32)
		to, err2 := strconv.ParseUint(last, 10, 32)
		if err != nil || err2 != nil || from > to || to >= maxListed {
			return nil, fail.New(fail.Invalid, "%q is not a list of numbers like 0-3,7", text)
		}
		for n := from; n <= to; n++ {
			for int(n/64) >= len(set) {
				set = append(set, 0)
			}
			set[n/64] |= 1 << (n % 64)
		}
	}
	return set, nil
}

// memoryModes are the MPOL_* numbers of linux/mempolicy.h; nodes says whether a mode
// takes a set of nodes: never, always or if it likes.
var memoryModes = map[specs.MemoryPolicyModeType]struct {
	number int
	nodes  nodesWanted
}{
	specs.MpolDefault: {0, nodesNever}, specs.MpolPreferred: {1, nodesMaybe}, specs.MpolBind: {2, nodesAlways}, specs.MpolInterleave: {3, nodesAlways},
	specs.MpolLocal: {4, nodesNever}, specs.MpolPreferredMany: {5, nodesAlways}, specs.MpolWeightedInterleave: {6, nodesAlways},
}

type nodesWanted int

const (
	nodesMaybe nodesWanted = iota
	nodesNever
	nodesAlways
)

var memoryFlags = map[specs.MemoryPolicyFlagType]int{
	specs.MpolFNumaBalancing: 1 << 13, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFStaticNodes: 1 << 15,
}

// memoryPolicyOf reads linux.memoryPolicy: the mode with its flags, and the nodes.
func memoryPolicyOf(m *specs.LinuxMemoryPolicy) (mode int, nodes bitset, err error) {
	const at = "linux.memoryPolicy."
	known, ok := memoryModes[m.Mode]
	if !ok {
		return 0, nil, invalid(at+"mode", "unknown mode %q", m.Mode)
	}
	if nodes, err = parseList(m.Nodes); err != nil {
		return 0, nil, invalid(at+"nodes", "%w", err)
	}
	switch {
	case known.nodes == nodesNever && nodes != nil:
		return 0, nil, invalid(at+"nodes", "%s takes no nodes", m.Mode)
	case known.nodes == nodesAlways && nodes == nil:
		return 0, nil, invalid(at+"nodes", "%s needs nodes", m.Mode)
	}
	mode = known.number
	for _, f := range m.Flags {
		bit, ok := memoryFlags[f]
		if !ok {
			return 0, nil, invalid(at+"flags", "unknown flag %q", f)
		}
		mode |= bit
	}
	return mode, nodes, nil
}

// personalities are the execution domains of sys/personality.h that the specification
// knows.
var personalities = map[specs.LinuxPersonalityDomain]int{specs.PerLinux: 0, specs.PerLinux32: 8}

// setPolicies gives the process the container's memory policy and execution domain, which
// every process of the container has, and which execve keeps.
func (b *builder) setPolicies() error {
	p, l := b.p, b.spec.Linux
	if m := l.MemoryPolicy; m != nil {
		mode, nodes, err := memoryPolicyOf(m)
		if err != nil {
			return err
		}
		p.About("linux.memoryPolicy:", string(m.Mode)+" "+m.Nodes)
		mask, bits := stage.Int(0), 0
		if nodes != nil {
			mask, bits = nodes.arg(p), len(nodes)*64+1 // the kernel looks at one bit less
		}
		p.Call(unix.SYS_SET_MEMPOLICY, stage.Int(mode), mask, stage.Int(bits))
	}
	if d := l.Personality; d != nil {
		p.About("linux.personality:", string(d.Domain))
		p.Call(unix.SYS_PERSONALITY, stage.Int(personalities[d.Domain]))
	}
	return nil
}
