package seccomp

import (
	"cmp"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
)

// rule is what one entry of the profile says about one call. conds is a list of
// alternatives, each a list of conditions that must all hold; empty: always.
type rule struct {
	action uint32
	conds  [][]specs.LinuxSeccompArg
}

// entry is a rule for one call number of one architecture.
type entry struct {
	number uint32
	order  int
	rule   *rule
}

// span is a range of call numbers with one fate: from its start to the next span's.
type span struct {
	start  uint32
	action uint32
	rules  []entry // if not empty: asked first, action being what remains
	narrow bool    // the rules are about the lower halves of arguments
}

// ruleSet is the profile, translated but for the numbers of the calls.
type ruleSet struct {
	fallback uint32
	calls    []callRule
}

type callRule struct {
	call int // index into names
	rule *rule
	noop bool // has the default action
}

// socketCall is the number by which x86 makes a call through socketcall(2) (SYS_* of
// linux/net.h), ipcCall through ipc(2) (linux/ipc.h); 0 for none.
func socketCall(name string) uint64 {
	return 1 + uint64(slices.Index(socketCalls[:], name))
}

func ipcCall(name string) uint64 {
	switch name {
	case "semop":
		return 1
	case "semget":
		return 2
	case "semctl":
		return 3
	case "semtimedop":
		return 4
	case "msgsnd":
		return 11
	case "msgrcv":
		return 12
	case "msgget":
		return 13
	case "msgctl":
		return 14
	case "shmat":
		return 21
	case "shmdt":
		return 22
	case "shmget":
		return 23
	case "shmctl":
		return 24
	}
	return 0
}

var socketCalls = [...]string{"socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair",
	"send", "recv", "sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4",
	"recvmmsg", "sendmmsg"}

func compile(profile *specs.LinuxSeccomp, archs []arch) ([]unix.SockFilter, []string, error) {
	set, unknown, err := translate(profile, archs)
	if err != nil {
		return nil, nil, err
	}
	var e emitter
	filter := e.program(set, archs)
	if len(filter) > maxInstructions {
		return nil, nil, fail.New(fail.Invalid, "the seccomp profile is too large: %d instructions, the kernel takes %d", len(filter), maxInstructions)
	}
	return filter, unknown, nil
}

// translate checks the profile and resolves its names.
func translate(profile *specs.LinuxSeccomp, archs []arch) (*ruleSet, []string, error) {
	fallback, err := actionOf(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, nil, err
	}
	set := &ruleSet{fallback: fallback}
	var unknown []string
	for _, s := range profile.Syscalls {
		action, err := actionOf(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, nil, err
		}
		conds, err := conditions(s.Args)
		if err != nil {
			return nil, nil, err
		}
		if len(s.Names) == 0 {
			return nil, nil, fail.New(fail.Invalid, "a seccomp rule names no system call")
		}
		r := &rule{action, conds}
		set.calls = slices.Grow(set.calls, len(s.Names))
		for _, name := range s.Names {
			call := lookup(name)
			if lenient(fallback) && !lenient(action) && !Known(name) {
				return nil, nil, fail.New(fail.Invalid, "unknown system call %q: %s would have no effect on it, and the profile lets through what it does not name", name, s.Action)
			}
			if call < 0 || !slices.ContainsFunc(archs, func(a arch) bool { return a.makes(call) }) {
				unknown = append(unknown, name)
				continue
			}
			set.calls = append(set.calls, callRule{call, r, action == fallback})
		}
	}
	return set, unknown, nil
}

// lenient reports whether an action lets the call happen.
func lenient(action uint32) bool {
	return action == unix.SECCOMP_RET_ALLOW || action == unix.SECCOMP_RET_LOG
}

// conditions checks a rule's arguments and arranges them into alternatives.
func conditions(args []specs.LinuxSeccompArg) ([][]specs.LinuxSeccompArg, error) {
	if len(args) == 0 {
		return nil, nil
	}
	var seen [6]int
	twice := false
	for _, a := range args {
		if a.Index > 5 {
			return nil, fail.New(fail.Invalid, "invalid seccomp argument index %d: must be below 6", a.Index)
		}
		switch a.Op {
		case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
			specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual:
		default:
			return nil, fail.New(fail.Invalid, "invalid seccomp operator %q", a.Op)
		}
		seen[a.Index]++
		twice = twice || seen[a.Index] > 1
	}
	if !twice {
		return [][]specs.LinuxSeccompArg{args}, nil
	}
	var alternatives [][]specs.LinuxSeccompArg
	for _, a := range args {
		alternatives = append(alternatives, []specs.LinuxSeccompArg{a})
	}
	return alternatives, nil
}

// spansOf lays the rules out over all 2³² call numbers of an architecture.
func (set *ruleSet) spansOf(a *arch) []span {
	entries := make([]entry, 0, len(set.calls)+len(set.calls)/8)
	last, lastPrivate := int64(-1), int64(-1)
	add := func(number uint32, r *rule) { entries = append(entries, entry{number, len(entries), r}) }
	for _, c := range set.calls {
		number, ok := a.number(c.call)
		if ok && !c.noop {
			add(number, c.rule)
		}
		if a.mux {
			if mux, r, ok := multiplexed(a, c); ok {
				last = max(last, int64(mux))
				if !c.noop && len(c.rule.conds) == 0 {
					add(mux, r)
				}
			}
		}
		switch {
		case !ok:
		case number >= armPrivate && a.audit == unix.AUDIT_ARCH_ARM:
			lastPrivate = max(lastPrivate, int64(number))
		default:
			last = max(last, int64(number))
		}
	}
	slices.SortFunc(entries, func(x, y entry) int {
		return cmp.Or(cmp.Compare(x.number, y.number), cmp.Compare(x.order, y.order))
	})

	spans := make([]span, 1, 2*len(entries)+8)
	spans[0].action = set.fallback
	for i := 0; i < len(entries); {
		j := i
		for j < len(entries) && entries[j].number == entries[i].number {
			j++
		}
		s := span{start: entries[i].number, action: set.fallback, rules: entries[i:j], narrow: a.narrow}
		if u := slices.IndexFunc(s.rules, func(e entry) bool { return len(e.rule.conds) == 0 }); u >= 0 {
			s.action, s.rules = s.rules[u].rule.action, nil
		}
		spans = append(spans, s, span{start: s.start + 1, action: set.fallback})
		i = j
	}
	if !lenient(set.fallback) && last >= 0 {
		spans = a.unheardOf(spans, uint32(last), lastPrivate)
	}
	return merge(spans)
}

// makes reports whether programs of the architecture can make a call, by its number or through
// socketcall(2) or ipc(2): there is no other way to send(2) on x86.
func (a *arch) makes(call int) bool {
	name := nameAt(call)
	return a.numbers[call] != absent || a.mux && (socketCall(name) != 0 || ipcCall(name) != 0)
}

// multiplexed is the rule that a call's rule means for socketcall(2) or ipc(2).
func multiplexed(a *arch, c callRule) (uint32, *rule, bool) {
	name := nameAt(c.call)
	via, cond := "socketcall", specs.LinuxSeccompArg{Op: specs.OpEqualTo, Value: socketCall(name)}
	if cond.Value == 0 {
		// The upper half of ipc's first argument is a version.
		via, cond = "ipc", specs.LinuxSeccompArg{Op: specs.OpMaskedEqual, Value: 0xffff, ValueTwo: ipcCall(name)}
		if cond.ValueTwo == 0 {
			return 0, nil, false
		}
	}
	mux, ok := a.number(lookup(via))
	return mux, &rule{c.rule.action, [][]specs.LinuxSeccompArg{{cond}}}, ok
}

// unheardOf makes calls after the last one that the profile names fail with ENOSYS. ARM's
// private calls have a range and an end of their own.
func (a *arch) unheardOf(spans []span, last uint32, lastPrivate int64) []span {
	const enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	// The span after an entry starts right behind it, so the spans to change are there.
	at := slices.IndexFunc(spans, func(s span) bool { return s.start > last })
	if at < 0 {
		at = len(spans)
	}
	if at == len(spans) || spans[at].start != last+1 {
		spans = slices.Insert(spans, at, span{start: last + 1})
	}
	spans[at].action = enosys
	if lastPrivate < 0 {
		return spans
	}
	spans = slices.Insert(spans, at+1, span{start: armPrivate, action: spans[0].action})
	return append(spans, span{start: uint32(lastPrivate) + 1, action: enosys})
}

// merge joins neighbours with the same fate, and drops empty spans: of two that start at
// the same number the later one counts.
func merge(spans []span) []span {
	out := spans[:0]
	for i, s := range spans {
		if i+1 < len(spans) && spans[i+1].start == s.start {
			continue
		}
		if n := len(out); n > 0 && len(s.rules) == 0 && len(out[n-1].rules) == 0 && out[n-1].action == s.action {
			continue
		}
		out = append(out, s)
	}
	return out
}
