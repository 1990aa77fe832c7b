package seccomp

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
)

// decide is the reading of a profile that the compiler must agree with: straight from the
// profile's text, call by call, with nothing prepared.
func decide(p *specs.LinuxSeccomp, archs []arch, c call) uint32 {
	var a *arch
	for i := range archs {
		x32 := archs[i].audit == unix.AUDIT_ARCH_X86_64 && c.number >= x32Bit && c.number != ^uint32(0)
		if archs[i].audit == c.audit && (archs[i].bit != 0) == x32 {
			a = &archs[i]
		}
	}
	if a == nil {
		return unix.SECCOMP_RET_KILL_PROCESS
	}
	fallback, _ := actionOf(p.DefaultAction, p.DefaultErrnoRet)
	var conditional []uint32
	last, lastPrivate := int64(-1), int64(-1)
	for _, s := range p.Syscalls {
		action, _ := actionOf(s.Action, s.ErrnoRet)
		for _, name := range s.Names {
			for _, way := range ways(a, name) {
				if way.direct && way.number >= armPrivate && a.name == specs.ArchARM {
					lastPrivate = max(lastPrivate, int64(way.number))
				} else {
					last = max(last, int64(way.number))
				}
				if way.number != c.number || action == fallback || !way.direct && len(s.Args) > 0 {
					continue
				}
				switch {
				case way.direct && len(s.Args) == 0:
					return action
				case way.direct && holds(a, s.Args, c), !way.direct && way.selects(c.args[0]):
					conditional = append(conditional, action)
				}
			}
		}
	}
	// An unconditional rule anywhere in the profile would have returned by now.
	if len(conditional) > 0 {
		return conditional[0]
	}
	lenient := p.DefaultAction == specs.ActAllow || p.DefaultAction == specs.ActLog
	private := a.name == specs.ArchARM && c.number >= armPrivate && lastPrivate >= 0
	if !lenient && last >= 0 && (!private && int64(c.number) > last || private && int64(c.number) > lastPrivate) {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return fallback
}

type way struct {
	number  uint32
	direct  bool
	selects func(arg uint64) bool
}

// ways lists the numbers by which a call can be made.
func ways(a *arch, name string) []way {
	var ws []way
	numberOf := func(name string) (uint32, bool) {
		i := lookup(name)
		if i < 0 {
			return 0, false
		}
		return a.number(i)
	}
	if n, ok := numberOf(name); ok {
		ws = append(ws, way{number: n, direct: true})
	}
	if a.name == specs.ArchX86 {
		if sub := socketCall(name); sub != 0 {
			n, _ := numberOf("socketcall")
			ws = append(ws, way{number: n, selects: func(arg uint64) bool { return uint32(arg) == uint32(sub) }})
		}
		if sub := ipcCall(name); sub != 0 {
			n, _ := numberOf("ipc")
			ws = append(ws, way{number: n, selects: func(arg uint64) bool { return arg&0xffff == sub }})
		}
	}
	return ws
}

func holds(a *arch, conds []specs.LinuxSeccompArg, c call) bool {
	indexes := map[uint]int{}
	all, any := true, false
	for _, cond := range conds {
		indexes[cond.Index]++
		arg, value, two := c.args[cond.Index], cond.Value, cond.ValueTwo
		if a.narrow {
			arg, value, two = uint64(uint32(arg)), uint64(uint32(value)), uint64(uint32(two))
		}
		ok := map[specs.LinuxSeccompOperator]bool{
			specs.OpNotEqual: arg != value, specs.OpLessThan: arg < value, specs.OpLessEqual: arg <= value,
			specs.OpEqualTo: arg == value, specs.OpGreaterEqual: arg >= value, specs.OpGreaterThan: arg > value,
			specs.OpMaskedEqual: arg&value == two,
		}[cond.Op]
		all, any = all && ok, any || ok
	}
	for _, n := range indexes {
		if n > 1 {
			return any
		}
	}
	return all
}

// agree compares the compiled profile with the reading of it, on all calls of all
// architectures, numbers around them, and arguments around the profile's values.
func agree(t *testing.T, p *specs.LinuxSeccomp, archs []arch) {
	t.Helper()
	filter, _, err := compile(p, archs)
	if err != nil {
		t.Fatal(err)
	}
	values := []uint64{0, 1, 0xffffffff, 1 << 32, ^uint64(0), 2, 17, 0x10001}
	for _, s := range p.Syscalls {
		for _, a := range s.Args {
			values = append(values, a.Value, a.Value-1, a.Value+1, a.ValueTwo, a.Value^1<<32, a.Value|a.ValueTwo)
		}
	}
	slices.Sort(values)
	values = slices.Compact(values)
	if len(values) > 40 {
		rand.New(rand.NewPCG(1, 2)).Shuffle(len(values), func(i, j int) { values[i], values[j] = values[j], values[i] })
		values = values[:40]
	}
	check := func(c call) {
		t.Helper()
		got, _, err := run(filter, c)
		if err != nil {
			t.Fatalf("%#v: %v", c, err)
		}
		if want := decide(p, archs, c); got != want {
			t.Fatalf("arch %#x call %#x args %#x: got %#x, want %#x", c.audit, c.number, c.args, got, want)
		}
	}
	for _, a := range allArchs {
		numbers := []uint32{0, x32Bit - 1, x32Bit, ^uint32(0), ^uint32(0) - 1, 1 << 31, armPrivate - 1, armPrivate + 100}
		for i := range a.numbers {
			if n, ok := a.number(i); ok {
				numbers = append(numbers, n, n+1)
			}
		}
		slices.Sort(numbers)
		for i, n := range slices.Compact(numbers) {
			c := call{number: n, audit: a.audit}
			check(c)
			asked := slices.ContainsFunc(p.Syscalls, func(s specs.LinuxSyscall) bool {
				return (len(s.Args) > 0 || a.mux) && slices.ContainsFunc(s.Names, func(name string) bool {
					return slices.ContainsFunc(ways(&a, name), func(w way) bool { return w.number == n })
				})
			})
			if !asked {
				continue
			}
			for j, v := range values {
				for k := range c.args {
					c.args[k] = values[(j+k*(i+1))%len(values)]
				}
				check(c)
				c.args = [6]uint64{v, v, v, v, v, v}
				check(c)
			}
		}
	}
	check(call{number: 1, audit: unix.AUDIT_ARCH_S390X})
}

// docker is Docker's default profile for a container with the capabilities.
func docker(t *testing.T, caps ...string) *specs.LinuxSeccomp {
	t.Helper()
	p, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{
		Capabilities: &specs.LinuxCapabilities{Bounding: caps},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDockersDefaultProfileMeansWhatItSays(t *testing.T) {
	for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_NET_ADMIN"}} {
		p := docker(t, caps...)
		archs, err := archsOf(p.Architectures, runtime.GOARCH)
		if err != nil {
			t.Fatal(err)
		}
		agree(t, p, archs)
		agree(t, p, allArchs)
	}
}

func TestDockersDefaultProfileHasNoNameThatOnlyWeDoNotKnow(t *testing.T) {
	p := docker(t)
	_, unknown, err := compile(p, allArchs)
	if err != nil {
		t.Fatal(err)
	}
	// Names of other architectures, and of kernels before ours.
	for _, name := range unknown {
		if !strings.HasPrefix(name, "s390_") && !strings.HasPrefix(name, "riscv_") && !strings.HasPrefix(name, "spu_") &&
			!slices.Contains([]string{"switch_endian", "swapcontext", "rtas", "set_tls", "sync_file_range2", "subpage_prot", "pciconfig_iobase"}, name) {
			t.Errorf("unknown: %s", name)
		}
	}
}

func arg(index uint, op specs.LinuxSeccompOperator, values ...uint64) specs.LinuxSeccompArg {
	a := specs.LinuxSeccompArg{Index: index, Value: values[0], Op: op}
	if len(values) > 1 {
		a.ValueTwo = values[1]
	}
	return a
}

func ptr[T any](v T) *T { return &v }

func TestProfilesMeanWhatTheySay(t *testing.T) {
	name := func(n ...string) []string { return n }
	var everything []string
	for i := range nameEnds {
		everything = append(everything, nameAt(i))
	}
	var many []specs.LinuxSyscall
	for i := range 40 {
		many = append(many, specs.LinuxSyscall{Names: name("ioctl", "prctl"), Action: specs.ActErrno, ErrnoRet: ptr(uint(i)),
			Args: []specs.LinuxSeccompArg{arg(uint(i%6), specs.OpEqualTo, uint64(i)<<32|7), arg(uint((i+1)%6), specs.OpLessEqual, 1<<40)}})
	}
	var spread []specs.LinuxSyscall
	for i, n := range everything {
		spread = append(spread, specs.LinuxSyscall{Names: name(n), Action: specs.ActErrno, ErrnoRet: ptr(uint(i%5 + 1))})
	}
	var ops []specs.LinuxSyscall
	for i, op := range []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan} {
		for j, v := range []uint64{0, 5, 1 << 32, 5<<32 | 9, ^uint64(0)} {
			ops = append(ops, specs.LinuxSyscall{Names: name(everything[10*i+j]), Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{arg(uint(i), op, v)}})
		}
	}
	for i, m := range [][]uint64{{0x7e020000, 0}, {0xff, 3}, {0xff, 0x1ff}, {^uint64(0), 5}, {0xff << 32, 2 << 32}, {0, 0}, {0, 1}} {
		ops = append(ops, specs.LinuxSyscall{Names: name(everything[100+i]), Action: specs.ActKillProcess, Args: []specs.LinuxSeccompArg{arg(2, specs.OpMaskedEqual, m...)}})
	}
	for title, p := range map[string]*specs.LinuxSeccomp{
		"no rule at all":              {DefaultAction: specs.ActErrno},
		"all allowed, one denied":     {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: name("mkdir"), Action: specs.ActErrno, ErrnoRet: ptr(uint(13))}}},
		"sockets denied by any way":   {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: name("socket", "shmget", "accept4"), Action: specs.ActErrno}}},
		"sockets allowed by any way":  {DefaultAction: specs.ActKill, Syscalls: []specs.LinuxSyscall{{Names: name("socket", "msgget"), Action: specs.ActAllow}}},
		"every operator":              {DefaultAction: specs.ActAllow, Syscalls: ops},
		"a call without a number":     {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: name("send", "read"), Action: specs.ActAllow}}},
		"all operators, denied":       {DefaultAction: specs.ActLog, Syscalls: ops},
		"far jumps between rules":     {DefaultAction: specs.ActErrno, DefaultErrnoRet: ptr(uint(38)), Syscalls: many},
		"far jumps between calls":     {DefaultAction: specs.ActTrace, Syscalls: spread},
		"private calls of ARM":        {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: name("read", "set_tls"), Action: specs.ActAllow}}},
		"the same argument twice":     {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: name("personality"), Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, 0), arg(0, specs.OpEqualTo, 8)}}}},
		"a condition, then none":      {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: name("ioctl"), Action: specs.ActKill, Args: []specs.LinuxSeccompArg{arg(1, specs.OpEqualTo, 5)}}, {Names: name("ioctl"), Action: specs.ActAllow}, {Names: name("ioctl"), Action: specs.ActTrap}}},
		"a rule that says nothing":    {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: name("ioctl"), Action: specs.ActErrno}, {Names: name("ioctl"), Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg(1, specs.OpEqualTo, 5)}}}},
		"unknown names among others":  {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: name("nope", "read"), Action: specs.ActAllow}}},
		"every call, one after other": {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: everything, Action: specs.ActAllow}}},
	} {
		t.Run(title, func(t *testing.T) {
			agree(t, p, allArchs)
			agree(t, p, allArchs[:1])
			agree(t, p, allArchs[2:])
			agree(t, p, []arch{allArchs[0], allArchs[2]})
		})
	}
}

func TestBadProfilesAreRefused(t *testing.T) {
	rule := func(s specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{s}}
	}
	read := []string{"read"}
	var huge []specs.LinuxSyscall
	for i := range 2000 {
		huge = append(huge, specs.LinuxSyscall{Names: read, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{arg(0, specs.OpEqualTo, uint64(i))}})
	}
	for title, c := range map[string]struct {
		profile *specs.LinuxSeccomp
		class   fail.Class
	}{
		"no default action":      {&specs.LinuxSeccomp{}, fail.Invalid},
		"an unknown action":      {rule(specs.LinuxSyscall{Names: read, Action: "SCMP_ACT_SMILE"}), fail.Invalid},
		"an agent nobody names":  {rule(specs.LinuxSyscall{Names: read, Action: specs.ActNotify}), fail.Invalid},
		"an agent for all calls": {&specs.LinuxSeccomp{DefaultAction: specs.ActNotify, ListenerPath: "/run/agent"}, fail.Invalid},
		"a call no Linux has":    {rule(specs.LinuxSyscall{Names: []string{"mkdirr"}, Action: specs.ActErrno}), fail.Invalid},
		"an errno for a kill":    {rule(specs.LinuxSyscall{Names: read, Action: specs.ActKill, ErrnoRet: ptr(uint(1))}), fail.Invalid},
		"an errno out of range":  {rule(specs.LinuxSyscall{Names: read, Action: specs.ActErrno, ErrnoRet: ptr(uint(4096))}), fail.Invalid},
		"a rule without names":   {rule(specs.LinuxSyscall{Action: specs.ActErrno}), fail.Invalid},
		"an unknown operator":    {rule(specs.LinuxSyscall{Names: read, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{arg(0, "SCMP_CMP_ISH", 1)}}), fail.Invalid},
		"a seventh argument":     {rule(specs.LinuxSyscall{Names: read, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{arg(6, specs.OpEqualTo, 1)}}), fail.Invalid},
		"an unknown flag":        {&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"FAST"}}, fail.Invalid},
		"an unknown architecure": {&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_ARCH_PDP11"}}, fail.Invalid},
		"too many rules":         {&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: huge}, fail.Invalid},
	} {
		t.Run(title, func(t *testing.T) {
			if _, _, err := Compile(c.profile); !fail.Is(err, c.class) {
				t.Fatalf("got %v (%v)", err, fail.Of(err))
			}
		})
	}
}

func TestUnknownNamesAndForeignArchitecturesAreSkipped(t *testing.T) {
	p, unknown, err := Compile(&specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchS390X},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"read", "frobnicate"}, Action: specs.ActAllow}},
	})
	if err != nil || len(p.Filter) == 0 || !slices.Equal(unknown, []string{"frobnicate"}) {
		t.Fatalf("got %v, %v, %v", p, unknown, err)
	}
}

func TestFlagsAreTranslated(t *testing.T) {
	for _, c := range []struct {
		flags []specs.LinuxSeccompFlag
		want  uint
	}{
		{nil, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		{[]specs.LinuxSeccompFlag{}, 0},
		{[]specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC", specs.LinuxSeccompFlagLog}, unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_LOG},
		{[]specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}, 0},
	} {
		p, _, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: c.flags})
		if err != nil || p.Flags != c.want || p.Notify {
			t.Errorf("%v: got %v, %v", c.flags, p, err)
		}
	}
}

func TestAnAgentMakesAListenerAndTheFlagsFitIt(t *testing.T) {
	for _, c := range []struct {
		flags []specs.LinuxSeccompFlag
		want  uint
	}{
		{nil, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		{[]specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV},
		{[]specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC"}, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH},
	} {
		p, _, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: c.flags, ListenerPath: "/run/agent",
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}}})
		if c.want&unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV != 0 && !CanWaitKillable() {
			if !fail.Is(err, fail.NotImplemented) {
				t.Errorf("%v: %v on a kernel without it", c.flags, err)
			}
			continue
		}
		if err != nil || !p.Notify || p.Flags != c.want {
			t.Errorf("%v: got %+v, %v", c.flags, p, err)
			continue
		}
		i := lookup("mkdir")
		for _, a := range allArchs[:1] {
			if n, ok := a.number(i); ok {
				if got, _, err := run(p.Filter, call{number: n, audit: a.audit}); runtime.GOARCH == a.native && (err != nil || got != unix.SECCOMP_RET_USER_NOTIF) {
					t.Errorf("mkdir on %s: %#x, %v", a.name, got, err)
				}
			}
		}
	}
}

func TestForeignCallsAreInOrderAndNoneIsOurs(t *testing.T) {
	if !slices.IsSorted(foreignCalls[:]) {
		t.Error("not in order")
	}
	for _, name := range foreignCalls {
		if lookup(name) >= 0 || !Known(name) {
			t.Error(name)
		}
	}
	if Known("mkdirr") || !Known("mkdir") {
		t.Error("mkdirr is known or mkdir is not")
	}
}

func TestNumbersAreTheKernels(t *testing.T) {
	for _, c := range []struct {
		arch int
		name string
		want uint32
	}{
		{0, "read", 0}, {0, "clone3", 435}, {0, "newfstatat", 262}, {1, "execve", x32Bit | 520}, {1, "read", x32Bit}, {1, "mseal", x32Bit | 462},
		{2, "socketcall", 102}, {2, "_llseek", 140}, {2, "ugetrlimit", 191}, {3, "read", 63}, {3, "newfstatat", 79},
		{4, "set_tls", 0xf0005}, {4, "cacheflush", 0xf0002}, {4, "arm_fadvise64_64", 270},
	} {
		i := lookup(c.name)
		if i < 0 {
			t.Errorf("%s is not known", c.name)
			continue
		}
		if n, ok := allArchs[c.arch].number(i); !ok || n != c.want {
			t.Errorf("%s on %s: got %#x, %v", c.name, allArchs[c.arch].name, n, ok)
		}
	}
}

// FuzzCompile builds profiles out of bytes and compares the filter with the reading.
func FuzzCompile(f *testing.F) {
	f.Add([]byte{0, 3, 1, 1, 10, 0, 2, 1, 4, 5, 0})
	f.Add([]byte("some profile with several rules and conditions in it, of every kind"))
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActTrap, specs.ActLog, specs.ActKillProcess, specs.ActTrace, specs.ActNotify}
	ops := []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}
	f.Fuzz(func(t *testing.T, in []byte) {
		next := func() uint64 {
			if len(in) == 0 {
				return 0
			}
			b := in[0]
			in = in[1:]
			return uint64(b)
		}
		wide := func() uint64 { return next() | next()<<32 }
		p := &specs.LinuxSeccomp{DefaultAction: actions[next()%8]}
		archs := [][]arch{allArchs, allArchs[:1], allArchs[2:], allArchs[3:], allArchs[:3]}[next()%5]
		for len(in) > 0 && len(p.Syscalls) < 100 {
			s := specs.LinuxSyscall{Action: actions[next()%8]}
			for range next()%5 + 1 {
				s.Names = append(s.Names, nameAt(int((next()|next()<<8)%uint64(len(nameEnds)))))
			}
			for range next() % 4 {
				s.Args = append(s.Args, arg(uint(next()%6), ops[next()%7], wide(), wide()))
			}
			p.Syscalls = append(p.Syscalls, s)
		}
		filter, _, err := compile(p, archs)
		if fail.Is(err, fail.Invalid) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(uint64(len(in)), 1))
		for range 2000 {
			a := &allArchs[r.IntN(len(allArchs))]
			n, _ := a.number(r.IntN(len(a.numbers)))
			if len(p.Syscalls) > 0 && r.IntN(4) > 0 {
				s := p.Syscalls[r.IntN(len(p.Syscalls))]
				n, _ = a.number(lookup(s.Names[r.IntN(len(s.Names))]))
			}
			c := call{number: n, audit: a.audit}
			for i := range c.args {
				c.args[i] = uint64(r.IntN(256)) | uint64(r.IntN(256))<<32
				if len(p.Syscalls) > 0 {
					s := p.Syscalls[r.IntN(len(p.Syscalls))]
					for _, sa := range s.Args {
						if int(sa.Index) == i {
							c.args[i] = []uint64{sa.Value, sa.ValueTwo, sa.Value - 1, sa.Value + 1}[r.IntN(4)]
						}
					}
				}
			}
			got, _, err := run(filter, c)
			if err != nil {
				t.Fatal(err)
			}
			if want := decide(p, archs, c); got != want {
				t.Fatalf("arch %#x call %#x args %#x: got %#x, want %#x\n%s", c.audit, c.number, c.args, got, want, fmt.Sprint(p))
			}
		}
	})
}

func BenchmarkCompileDockersProfile(b *testing.B) {
	p, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Compile(p); err != nil {
			b.Fatal(err)
		}
	}
}
