package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (linux/seccomp.h), on little-endian machines.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// emitter writes a program from its end to its start. Classic BPF jumps only forward, so
// whatever a jump leads to is there before the jump, and how far it is away is known.
// Places are counted from the end of the program.
type emitter struct {
	code    []unix.SockFilter // last instruction first
	returns map[uint32]int    // the latest place of each return value
	narrow  bool              // arguments have 32 bits
}

// label is a place in the program: the number of instructions from there to the end.
type label int

func (e *emitter) put(code uint16, jt, jf uint8, k uint32) label {
	e.code = append(e.code, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
	return label(len(e.code))
}

// reach is the most that a conditional jump can skip.
const reach = 255

// far makes sure that target is within reach of a jump that is put after at most slack
// further instructions. A far target gets a stepping stone: the same return once more, or
// an unconditional jump, whose offset has 32 bits.
func (e *emitter) far(target label, slack int) label {
	distance := len(e.code) - int(target)
	if distance+slack <= reach {
		return target
	}
	if to := e.code[target-1]; to.Code == unix.BPF_RET|unix.BPF_K {
		return e.ret(to.K)
	}
	return e.put(unix.BPF_JMP|unix.BPF_JA, 0, 0, uint32(distance))
}

// ret is an instruction that ends the program, shared by those within reach.
func (e *emitter) ret(action uint32) label {
	if at, ok := e.returns[action]; ok && len(e.code)-at < reach/2 {
		return label(at)
	}
	at := e.put(unix.BPF_RET|unix.BPF_K, 0, 0, action)
	e.returns[action] = int(at)
	return at
}

// jump compares the accumulator with k.
func (e *emitter) jump(op uint16, k uint32, yes, no label) label {
	if yes == no {
		return e.follow(yes)
	}
	no = e.far(no, 1)
	yes = e.far(yes, 0)
	return e.put(unix.BPF_JMP|op|unix.BPF_K, uint8(len(e.code)-int(yes)), uint8(len(e.code)-int(no)), k)
}

// follow makes target the next instruction.
func (e *emitter) follow(target label) label {
	if int(target) == len(e.code) {
		return target
	}
	return e.put(unix.BPF_JMP|unix.BPF_JA, 0, 0, uint32(len(e.code)-int(target)))
}

// load reads a word of seccomp_data and goes on at next.
func (e *emitter) load(offset uint32, next label) label {
	e.follow(next)
	return e.put(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, offset)
}

func (e *emitter) program(set *ruleSet, archs []arch) []unix.SockFilter {
	e.returns = map[uint32]int{}
	e.code = make([]unix.SockFilter, 0, 1024)
	next := e.ret(unix.SECCOMP_RET_KILL_PROCESS)
	// One test for each architecture of linux/audit.h; the first in the list comes first.
	for i := len(archs) - 1; i >= 0; i-- {
		a := &archs[i]
		if a.bit != 0 {
			continue // x32 is a part of x86-64's numbers
		}
		var x32 *arch
		if j := slices.IndexFunc(archs, func(o arch) bool { return o.audit == a.audit && o.bit != 0 }); j >= 0 {
			x32 = &archs[j]
		}
		next = e.jump(unix.BPF_JEQ, a.audit, e.load(offNumber, e.calls(set, a, x32)), next)
	}
	e.load(offArch, next)
	slices.Reverse(e.code)
	return e.code
}

// calls is the search for a call's number on one architecture.
func (e *emitter) calls(set *ruleSet, a, x32 *arch) label {
	spans := set.spansOf(a)
	if a.audit == unix.AUDIT_ARCH_X86_64 {
		// Number -1 is a call that a tracer has skipped, and no x32 call.
		top := spans[len(spans)-1]
		if x32 != nil {
			wide := set.spansOf(x32)
			wide = wide[max(0, startAfter(wide, x32Bit)-1):]
			wide[0].start = x32Bit
			spans = append(spans, wide...)
		} else {
			spans = append(spans, span{start: x32Bit, action: unix.SECCOMP_RET_KILL_PROCESS})
		}
		spans = merge(append(spans, span{start: ^uint32(0), action: top.action}))
	}
	return e.search(spans)
}

// startAfter is the index of the first span that starts after number.
func startAfter(spans []span, number uint32) int {
	i := slices.IndexFunc(spans, func(s span) bool { return s.start > number })
	if i < 0 {
		return len(spans)
	}
	return i
}

// search finds the accumulator's span by halving.
func (e *emitter) search(spans []span) label {
	if len(spans) == 1 {
		return e.decide(spans[0])
	}
	mid := len(spans) / 2
	above := e.search(spans[mid:])
	below := e.search(spans[:mid])
	return e.jump(unix.BPF_JGE, spans[mid].start, above, below)
}

// decide is the end of a search: an action, or conditions to check.
func (e *emitter) decide(s span) label {
	e.narrow = s.narrow
	next := e.ret(s.action)
	for _, en := range slices.Backward(s.rules) {
		for _, all := range slices.Backward(en.rule.conds) {
			yes := e.ret(en.rule.action)
			for _, cond := range slices.Backward(all) {
				yes = e.test(cond, yes, next)
			}
			next = yes
		}
	}
	return next
}

// test checks one 64-bit argument in two halves. Conditions on an architecture with 32-bit
// arguments speak of the lower half alone, as in libseccomp. On x32 the upper half may hold
// something, but the kernel takes ints and pointers out of the lower one.
func (e *emitter) test(c specs.LinuxSeccompArg, yes, no label) label {
	low := offArgs + 8*uint32(c.Index)
	switch c.Op {
	case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual:
		yes, no = no, yes
	}
	switch c.Op {
	case specs.OpEqualTo, specs.OpNotEqual:
		return e.equal(low, ^uint64(0), c.Value, yes, no)
	case specs.OpMaskedEqual:
		return e.equal(low, c.Value, c.ValueTwo, yes, no)
	}
	// At least, more than; and, turned round, less than and at most.
	op := uint16(unix.BPF_JGE)
	if c.Op == specs.OpGreaterThan || c.Op == specs.OpLessEqual {
		op = unix.BPF_JGT
	}
	next := e.load(low, e.jump(op, uint32(c.Value), yes, no))
	if e.narrow {
		return next
	}
	same := e.jump(unix.BPF_JEQ, uint32(c.Value>>32), next, no)
	return e.load(low+4, e.jump(unix.BPF_JGT, uint32(c.Value>>32), yes, same))
}

// equal tests argument & mask == value, without the halves that the mask leaves out.
func (e *emitter) equal(low uint32, mask, value uint64, yes, no label) label {
	half := func(at, mask, value uint32, yes label) label {
		if mask == 0 {
			if value != 0 {
				return no
			}
			return yes
		}
		next := e.jump(unix.BPF_JEQ, value, yes, no)
		if mask != ^uint32(0) {
			e.follow(next)
			next = e.put(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, 0, 0, mask)
		}
		return e.load(at, next)
	}
	yes = half(low, uint32(mask), uint32(value), yes)
	if e.narrow {
		return yes
	}
	return half(low+4, uint32(mask>>32), uint32(value>>32), yes)
}
