package seccomp

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// libseccompJob is what testdata/libseccomp.py takes.
type libseccompJob struct {
	Default  [2]any           `json:"default"`
	Archs    []string         `json:"archs"`
	Optimize int              `json:"optimize"` // 1: in the order of rules; 2: a binary tree
	Rules    []libseccompRule `json:"rules"`
}

type libseccompRule struct {
	Action [2]any   `json:"action"`
	Name   string   `json:"name"`
	Args   [][4]any `json:"args"`
}

type libseccompResult struct {
	BPF     []byte   `json:"bpf"`
	Unknown []string `json:"unknown"` // calls newer than the library
	Refused []string `json:"refused"` // rules it would not add
	Failed  string   `json:"failed"`  // it did not get to a filter
	filter  []unix.SockFilter
}

var libseccompNames = map[specs.Arch]string{specs.ArchX86_64: "x86_64", specs.ArchX32: "x32", specs.ArchX86: "x86", specs.ArchAARCH64: "aarch64", specs.ArchARM: "arm"}

func jobOf(p *specs.LinuxSeccomp, archs []arch, optimize int) libseccompJob {
	action := func(a specs.LinuxSeccompAction, errno *uint) [2]any {
		code := uint(0)
		if a == specs.ActErrno || a == specs.ActTrace {
			code = uint(unix.EPERM)
			if errno != nil {
				code = *errno
			}
		}
		name := strings.TrimPrefix(string(a), "SCMP_ACT_")
		if a == specs.ActKillThread {
			name = "KILL"
		}
		return [2]any{name, code}
	}
	job := libseccompJob{Default: action(p.DefaultAction, p.DefaultErrnoRet), Optimize: optimize, Rules: []libseccompRule{}}
	for _, a := range archs {
		job.Archs = append(job.Archs, libseccompNames[a.name])
	}
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			r := libseccompRule{Action: action(s.Action, s.ErrnoRet), Name: name, Args: [][4]any{}}
			for _, a := range s.Args {
				r.Args = append(r.Args, [4]any{a.Index, strings.TrimPrefix(string(a.Op), "SCMP_CMP_"), a.Value, a.ValueTwo})
			}
			job.Rules = append(job.Rules, r)
		}
	}
	return job
}

// libseccomp compiles all jobs, or skips the test where the library is not installed.
func libseccomp(t *testing.T, jobs []libseccompJob) []libseccompResult {
	t.Helper()
	const python = "/usr/bin/python3" // Debian's, which has its packages
	if out, err := exec.Command(python, "-c", "import seccomp").CombinedOutput(); err != nil {
		t.Skipf("python3-seccomp is not installed: %s", out)
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("the jobs name architectures as an x86-64 machine sees them")
	}
	var in bytes.Buffer
	for _, j := range jobs {
		if err := json.NewEncoder(&in).Encode(j); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "testdata/libseccomp.py")
	cmd.Stdin = &in
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var results []libseccompResult
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var r libseccompResult
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		for b := r.BPF; len(b) >= 8; b = b[8:] {
			r.filter = append(r.filter, unix.SockFilter{Code: binary.LittleEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.LittleEndian.Uint32(b[4:])})
		}
		results = append(results, r)
	}
	if len(results) != len(jobs) {
		t.Fatalf("%d jobs, %d results: %s", len(jobs), len(results), stderr.String())
	}
	return results
}

// randomProfile makes a profile whose meaning the documentation of libseccomp settles: all
// rules for one call have the same action, or compare one argument for equality with
// different values. Where rules of different actions overlap, libseccomp decides by the shape
// of its tree and we by the profile's order; TestProfilesMeanWhatTheySay is about those.
func randomProfile(r *rand.Rand) *specs.LinuxSeccomp {
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActTrap, specs.ActLog, specs.ActKillProcess, specs.ActTrace, specs.ActNotify}
	ops := []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}
	values := []uint64{0, 1, 2, 0xff, 1 << 31, 0xffffffff, 1 << 32, 5<<32 | 7, 1 << 63, ^uint64(0), r.Uint64(), uint64(r.Uint32())}
	value := func() uint64 { return values[r.IntN(len(values))] }
	errno := func(a specs.LinuxSeccompAction) *uint {
		if (a == specs.ActErrno || a == specs.ActTrace) && r.IntN(2) == 0 {
			return ptr(uint(r.IntN(200)))
		}
		return nil
	}
	p := &specs.LinuxSeccomp{DefaultAction: actions[r.IntN(7)]}
	p.DefaultErrnoRet = errno(p.DefaultAction)
	used := map[string]bool{}
	for range 1 + r.IntN(40) {
		name := nameAt(r.IntN(len(nameEnds)))
		if used[name] {
			continue
		}
		used[name] = true
		action := actions[r.IntN(len(actions))]
		code := errno(action)
		switch r.IntN(4) {
		case 0, 1:
			p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{name}, Action: action, ErrnoRet: code})
		case 2: // alternatives, all with one action
			for range 1 + r.IntN(4) {
				s := specs.LinuxSyscall{Names: []string{name}, Action: action, ErrnoRet: code}
				for range 1 + r.IntN(3) {
					a := arg(uint(r.IntN(6)), ops[r.IntN(7)], value())
					if a.Op == specs.OpMaskedEqual {
						a.ValueTwo = value() & a.Value
					}
					s.Args = append(s.Args, a)
				}
				p.Syscalls = append(p.Syscalls, s)
			}
		case 3: // different actions for different values of one argument
			index := uint(r.IntN(6))
			for i := range 1 + r.IntN(5) {
				a := actions[r.IntN(len(actions))]
				p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{name}, Action: a, ErrnoRet: errno(a),
					Args: []specs.LinuxSeccompArg{arg(index, specs.OpEqualTo, uint64(i)*3+uint64(r.IntN(3)))}})
			}
		}
	}
	return p
}

// callsFor are calls worth asking about: those that the profile names, their neighbours, and
// some of all kinds, with arguments around the values of the profile.
func callsFor(r *rand.Rand, p *specs.LinuxSeccomp, archs []arch) []call {
	values := []uint64{0, 1, 0xffffffff, 1 << 32, ^uint64(0)}
	var named []string
	for _, s := range p.Syscalls {
		named = append(named, s.Names...)
		for _, a := range s.Args {
			values = append(values, a.Value, a.Value-1, a.Value+1, a.ValueTwo, a.Value^1<<32, a.Value|a.ValueTwo)
		}
	}
	var calls []call
	for _, a := range archs {
		numbers := []uint32{0, ^uint32(0), x32Bit, r.Uint32(), a.bit | uint32(r.IntN(600))}
		for _, name := range named {
			for _, w := range ways(&a, name) {
				numbers = append(numbers, w.number, w.number+1)
			}
		}
		slices.Sort(numbers)
		for _, n := range slices.Compact(numbers) {
			for range 6 {
				c := call{number: n, audit: a.audit}
				for i := range c.args {
					c.args[i] = values[r.IntN(len(values))]
					if a.narrow && a.bit == 0 {
						c.args[i] &= 0xffffffff // the registers have no more
					}
				}
				calls = append(calls, c)
			}
		}
	}
	return append(calls, call{number: 1, audit: unix.AUDIT_ARCH_S390X})
}

// excused tells why the two filters may differ on a call; empty: they may not.
func excused(p *specs.LinuxSeccomp, archs []arch, c call, ours, theirs uint32, result libseccompResult) string {
	fallback, _ := actionOf(p.DefaultAction, p.DefaultErrnoRet)
	if ours == unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS) && theirs == fallback && decide(p, archs, c) == ours {
		return "a call newer than the profile fails with ENOSYS: runc patches libseccomp's filter to the same effect"
	}
	alternatives, several, ordered := map[string]int{}, map[string]bool{}, map[string]bool{}
	for _, s := range p.Syscalls {
		conds, _ := conditions(s.Args)
		for _, name := range s.Names {
			alternatives[name] += len(conds)
			several[name] = several[name] || len(s.Args) > 1 && len(conds) == 1
			ordered[name] = ordered[name] || slices.ContainsFunc(s.Args, func(a specs.LinuxSeccompArg) bool {
				return a.Op != specs.OpEqualTo && a.Op != specs.OpNotEqual && a.Op != specs.OpMaskedEqual
			})
		}
	}
	for _, s := range p.Syscalls {
		wide := slices.ContainsFunc(s.Args, func(a specs.LinuxSeccompArg) bool { return (a.Value|a.ValueTwo)>>32 != 0 })
		for _, name := range s.Names {
			for i := range archs {
				switch a := &archs[i]; {
				case !slices.ContainsFunc(ways(a, name), func(w way) bool { return w.number == c.number && a.audit == c.audit }):
				case len(s.Args) > 0 && slices.ContainsFunc(ways(a, name), func(w way) bool { return !w.direct && w.number == c.number }) && decide(p, archs, c) == ours:
					return "a rule with conditions for a call made through socketcall or ipc: libseccomp holds them to the wrong arguments, we leave such rules to the direct call"
				case slices.Contains(result.Unknown, name):
					return "a call that this version of libseccomp does not know"
				case a.narrow && wide && decide(p, archs, c) == ours:
					return "a value of more than 32 bits where arguments have 32: we compare the lower half, libseccomp merges such rules as if they had 64"
				case alternatives[name] > 1 && several[name] && decide(p, archs, c) == ours:
					return "alternatives of several conditions: where the first of one holds and the second does not, libseccomp may not ask the others"
				case alternatives[name] > 1 && ordered[name] && decide(p, archs, c) == ours:
					return "alternatives with < or >: libseccomp shares the test of an upper half between conditions that need different ones"
				}
			}
		}
	}
	return ""
}

func TestOurFiltersDecideAsLibseccomps(t *testing.T) {
	r := rand.New(rand.NewPCG(2026, 11))
	sets := [][]arch{allArchs[:1], {allArchs[0], allArchs[2]}, allArchs[:3], allArchs[3:], allArchs}
	var profiles []*specs.LinuxSeccomp
	var archs [][]arch
	for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_NET_ADMIN", "CAP_SYS_TIME"}} {
		profiles, archs = append(profiles, docker(t, caps...)), append(archs, allArchs[:3])
	}
	random := 150
	if testing.Short() {
		random = 40
	}
	for range random {
		profiles, archs = append(profiles, randomProfile(r)), append(archs, sets[r.IntN(len(sets))])
	}
	var jobs []libseccompJob
	for i, p := range profiles {
		jobs = append(jobs, jobOf(p, archs[i], 1+i%2))
	}
	compared, reasons := 0, map[string]int{}
	type doubt struct {
		profile int
		call    call
		verdict uint32
	}
	var doubts []doubt
	for i, theirs := range libseccomp(t, jobs) {
		p := profiles[i]
		if len(theirs.Refused) > 0 || theirs.Failed != "" {
			reasons["profiles not compared: libseccomp "+cmp.Or(theirs.Failed, "refuses a rule")]++
			continue
		}
		filter, _, err := compile(p, archs[i])
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range callsFor(r, p, archs[i]) {
			compared++
			ours, _, err := run(filter, c)
			if err != nil {
				t.Fatal(err)
			}
			other, _, err := run(theirs.filter, c)
			if err != nil {
				t.Fatalf("libseccomp's filter: %v", err)
			}
			if ours == other {
				continue
			}
			why := excused(p, archs[i], c, ours, other, theirs)
			if why == "" && decide(p, archs[i], c) == ours {
				doubts = append(doubts, doubt{i, c, ours})
				continue
			}
			if why == "" {
				t.Fatalf("profile %d, arch %#x call %#x args %#x: ours %#x, libseccomp's %#x, the profile's text %#x\n%s",
					i, c.audit, c.number, c.args, ours, other, decide(p, archs[i], c), text(relevant(p, archs[i], c)))
			}
			reasons[why]++
		}
	}
	// In a large filter libseccomp lets blocks be shared that should not be. Its verdict counts
	// that it gives when the rules for the call are alone.
	jobs = nil
	for _, d := range doubts {
		jobs = append(jobs, jobOf(relevant(profiles[d.profile], archs[d.profile], d.call), archs[d.profile], 1))
	}
	for i, theirs := range libseccomp(t, jobs) {
		d := doubts[i]
		other, _, err := run(theirs.filter, d.call)
		if theirs.Failed == "" && (err != nil || other != d.verdict) {
			t.Fatalf("profile %d, arch %#x call %#x args %#x: ours %#x, libseccomp's %#x, %v\n%s",
				d.profile, d.call.audit, d.call.number, d.call.args, d.verdict, other, err, text(relevant(profiles[d.profile], archs[d.profile], d.call)))
		}
		reasons["with other rules beside them libseccomp decides otherwise than with the rules for the call alone"]++
	}
	t.Logf("%d profiles, %d calls compared", len(profiles), compared)
	for why, n := range reasons {
		t.Logf("%d: %s", n, why)
	}
}

// relevant is the profile with the rules for a call alone.
func relevant(p *specs.LinuxSeccomp, archs []arch, c call) *specs.LinuxSeccomp {
	out := &specs.LinuxSeccomp{DefaultAction: p.DefaultAction, DefaultErrnoRet: p.DefaultErrnoRet}
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			if slices.ContainsFunc(archs, func(a arch) bool {
				return slices.ContainsFunc(ways(&a, name), func(w way) bool { return w.number == c.number && a.audit == c.audit })
			}) {
				one := s
				one.Names = []string{name}
				out.Syscalls = append(out.Syscalls, one)
			}
		}
	}
	return out
}

func text(p *specs.LinuxSeccomp) string {
	b, _ := json.Marshal(p)
	return string(b)
}

// TestWhatFiltersCost prints how many instructions a call costs, as every call of a
// container pays for them.
func TestWhatFiltersCost(t *testing.T) {
	p := docker(t)
	results := libseccomp(t, []libseccompJob{jobOf(p, allArchs[:3], 1), jobOf(p, allArchs[:3], 2)})
	ours, _, err := compile(p, allArchs[:3])
	if err != nil {
		t.Fatal(err)
	}
	common := strings.Fields("read write close fstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask ioctl pread64 access pipe select " +
		"sched_yield madvise dup nanosleep getpid socket connect accept sendto recvfrom clone execve exit wait4 kill fcntl fsync getcwd openat " +
		"newfstatat futex epoll_wait epoll_ctl clock_gettime clock_nanosleep getrandom statx rseq clone3 prctl gettid")
	costs := make([]float64, 3)
	for i, f := range [][]unix.SockFilter{ours, results[0].filter, results[1].filter} {
		total, worst, which := 0, 0, ""
		for _, name := range common {
			n, ok := allArchs[0].number(lookup(name))
			if !ok {
				t.Fatal(name)
			}
			_, steps, err := run(f, call{number: n, audit: allArchs[0].audit})
			if err != nil {
				t.Fatal(err)
			}
			total += steps
			if steps > worst {
				worst, which = steps, name
			}
		}
		costs[i] = float64(total) / float64(len(common))
		t.Logf("%-34s %4d instructions; of %d common calls on x86-64 on average %5.1f, at most %d (%s)",
			[]string{"ours", "libseccomp's", "libseccomp's, optimisation level 2"}[i], len(f), len(common), costs[i], worst, which)
	}
	if costs[0] > costs[1] || costs[0] > costs[2]+2 {
		t.Errorf("a common call costs %.1f instructions, %.1f and %.1f with libseccomp", costs[0], costs[1], costs[2])
	}
}
