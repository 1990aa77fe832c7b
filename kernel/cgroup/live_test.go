package cgroup

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
)

// host is the machine's hierarchies, or a reason to skip.
func host(t *testing.T) []hierarchy {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("control groups need root")
	}
	hs, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	if len(hs) == 0 {
		t.Skip("no control groups are mounted")
	}
	return hs
}

// unified is the v2 hierarchy alone, as a host without v1 has it.
func unified(t *testing.T) []hierarchy {
	t.Helper()
	for _, h := range host(t) {
		if h.unified {
			return []hierarchy{h}
		}
	}
	t.Skip("cgroup v2 is not mounted")
	return nil
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// group makes a group below a parent of its own and leaves nothing of either.
func group(t *testing.T, hs []hierarchy, res *specs.LinuxResources) *Group {
	t.Helper()
	var b [6]byte
	rand.Read(b[:])
	parent := "/berth-cgrouptest-" + hex.EncodeToString(b[:])
	g, err := create(t.Context(), hs, parent+"/box", res)
	cleanup := func() {
		for _, h := range hs {
			if err := removeTree(h.mount + parent); err != nil {
				t.Errorf("left behind: %v", err)
			}
		}
	}
	if err != nil {
		cleanup()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := g.Kill(ctx); err != nil {
			t.Error(err)
		}
		if err := g.Remove(ctx); err != nil {
			t.Error(err)
		}
		cleanup()
	})
	return g
}

// start runs a shell script inside the group.
func start(t *testing.T, g *Group, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "read go; "+script)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if err := g.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in, "go")
	in.Close()
	return cmd
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if err := retry(deadline(t), func() (bool, error) { return ok(), nil }); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func ptr[T any](v T) *T { return &v }

func content(t *testing.T, g *Group, controller, file string) string {
	t.Helper()
	d, ok := g.dirOf(controller)
	if !ok {
		t.Skipf("no %s controller", controller)
	}
	s, err := readString(d.path + "/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAProcessJoinsEveryHierarchyAndIsListedAndKilled(t *testing.T) {
	g := group(t, host(t), nil)
	cmd := start(t, g, "exec sleep 1000")
	pids, err := g.Pids()
	if err != nil || len(pids) != 1 || pids[0] != cmd.Process.Pid {
		t.Fatalf("got %v, %v", pids, err)
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "0::") && !strings.HasSuffix(strings.TrimSpace(line), g.Path()) {
			t.Errorf("not in the group: %s", line)
		}
	}
	if err := g.Kill(deadline(t)); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Fatalf("got %v", err)
	}
	if pids, err = g.Pids(); err != nil || len(pids) != 0 {
		t.Fatalf("got %v, %v", pids, err)
	}
}

func TestAThreadJoinsThroughJoinFiles(t *testing.T) {
	g := group(t, host(t), nil)
	files, err := g.JoinFiles()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", `i=3; while [ $i -lt `+strconv.Itoa(3+len(files))+` ]; do echo 0 >/proc/self/fd/$i || exit 1; i=$((i+1)); done; cat /proc/self/cgroup`)
	cmd.ExtraFiles = files
	out, err := cmd.CombinedOutput()
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "0::") && !strings.HasSuffix(strings.TrimSpace(line), g.Path()) {
			t.Errorf("not in the group: %s", line)
		}
	}
}

func TestLoadFindsAGroupAgainAndOnlyThat(t *testing.T) {
	hs := host(t)
	g := group(t, hs, nil)
	again, err := Load(g.Path())
	if err != nil || len(again.dirs) != len(g.dirs) {
		t.Fatalf("got %v, %v", again, err)
	}
	if _, err := Load(g.Path() + "-not"); !fail.Is(err, fail.NotFound) {
		t.Fatalf("got %v", err)
	}
}

func TestAnEmptyGroupIsMadeAnewAndABusyOneIsNot(t *testing.T) {
	hs := host(t)
	g := group(t, hs, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(7))}})
	again, err := create(t.Context(), hs, g.Path(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, again, "pids", "pids.max"); got != "max" {
		t.Fatalf("the old limit %s is still there", got)
	}
	start(t, again, "exec sleep 1000")
	if _, err := create(t.Context(), hs, g.Path(), nil); !fail.Is(err, fail.Conflict) {
		t.Fatalf("got %v", err)
	}
	if err := again.Remove(deadline(t)); !fail.Is(err, fail.Conflict) {
		t.Fatalf("removed with a process in it: %v", err)
	}
}

func TestBadPathsAreRefused(t *testing.T) {
	for _, name := range []string{"", "/", "/a/../..", "/a\nb", ".."} {
		if _, err := create(t.Context(), nil, name, nil); !fail.Is(err, fail.Invalid) {
			t.Errorf("%q: got %v", name, err)
		}
	}
}

// shown is a limit as the kernel shows it: v1's file and content, and v2's.
type shown struct{ controller, v1, v1Text, v2, v2Text string }

func TestLimitsReachTheKernel(t *testing.T) {
	hs := host(t)
	const mib = 1 << 20
	g := group(t, hs, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(64 * mib)), Swap: ptr(int64(128 * mib)), Reservation: ptr(int64(32 * mib))},
		CPU:    &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Cpus: "0"},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(100))},
	})
	apply := func(r *specs.LinuxResources) {
		t.Helper()
		if err := g.Apply(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		what   string
		change *specs.LinuxResources
		want   []shown
	}{
		{"created", nil, []shown{
			{"memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864"},
			{"memory", "memory.memsw.limit_in_bytes", "134217728", "memory.swap.max", "67108864"},
			{"memory", "memory.soft_limit_in_bytes", "33554432", "memory.low", "33554432"},
			{"cpu", "cpu.shares", "512", "cpu.weight", "59"},
			{"cpu", "cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000"},
			{"cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0"},
			{"pids", "pids.max", "100", "pids.max", "100"},
		}},
		{"raised", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(256 * mib)), Swap: ptr(int64(512 * mib))}}, []shown{
			{"memory", "memory.limit_in_bytes", "268435456", "memory.max", "268435456"},
			{"memory", "memory.memsw.limit_in_bytes", "536870912", "memory.swap.max", "268435456"},
		}},
		{"lowered", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(16 * mib)), Swap: ptr(int64(16 * mib))}}, []shown{
			{"memory", "memory.limit_in_bytes", "16777216", "memory.max", "16777216"},
			{"memory", "memory.memsw.limit_in_bytes", "16777216", "memory.swap.max", "0"},
		}},
		{"lifted", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}, Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}, []shown{
			{"memory", "memory.limit_in_bytes", "9223372036854771712", "memory.max", "max"},
			{"memory", "memory.memsw.limit_in_bytes", "9223372036854771712", "memory.swap.max", "max"},
			{"pids", "pids.max", "max", "pids.max", "max"},
		}},
		{"no further tasks", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(0))}}, []shown{{"pids", "pids.max", "1", "pids.max", "1"}}},
		{"quota, period and burst", &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(200000)), Period: ptr(uint64(500000)), Burst: ptr(uint64(1000))}}, []shown{
			{"cpu", "cpu.cfs_quota_us", "200000", "cpu.max", "200000 500000"},
			{"cpu", "cpu.cfs_period_us", "500000", "cpu.max", "200000 500000"},
			{"cpu", "cpu.cfs_burst_us", "1000", "cpu.max.burst", "1000"},
		}},
		{"no quota", &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(-1))}}, []shown{
			{"cpu", "cpu.cfs_quota_us", "-1", "cpu.max", "max 500000"},
		}},
		{"idle", &specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(1))}}, []shown{{"cpu", "cpu.idle", "1", "cpu.idle", "1"}}},
		{"busy", &specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(0)), Shares: ptr(uint64(1024))}}, []shown{
			{"cpu", "cpu.idle", "0", "cpu.idle", "0"},
			{"cpu", "cpu.shares", "1024", "cpu.weight", "100"},
		}},
	} {
		if c := step.change; c != nil && c.CPU != nil && g.v2() {
			cpu, _ := g.dirOf("cpu")
			if c.CPU.Burst != nil && !exists(cpu.path+"/cpu.max.burst") { // before Linux 5.14
				c.CPU.Burst, step.want = nil, step.want[:2]
			}
			if c.CPU.Idle != nil && !exists(cpu.path+"/cpu.idle") { // before Linux 5.15
				continue
			}
		}
		if step.change != nil {
			apply(step.change)
		}
		for _, w := range step.want {
			file, want := w.v1, w.v1Text
			if g.v2() {
				file, want = w.v2, w.v2Text
			}
			if got := content(t, g, w.controller, file); got != want {
				t.Errorf("%s: %s is %q, want %q", step.what, file, got, want)
			}
		}
	}

	bad := map[string]*specs.LinuxResources{
		"a cpu that is not there":   {CPU: &specs.LinuxCPU{Cpus: "4000"}},
		"a file of no kernel":       {Unified: map[string]string{"memory.nonsense": "max"}},
		"an RDMA device of no name": {Rdma: map[string]specs.LinuxRdma{"no/such": {}}},
		"a device that is none":     {BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{{Rate: 1, LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: 4000, Minor: 1}}}}},
		"a size that no page has":   {HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "3MB", Limit: 1}}},
		"an escape from the group":  {HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../2MB", Limit: 1}}},
	}
	if !g.v2() { // v2's runtimes take the nearest there is
		bad["too few shares"] = &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(1))}}
		bad["too many shares"] = &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(1 << 20))}}
		bad["a file of v2"] = &specs.LinuxResources{Unified: map[string]string{"memory.high": "max"}}
	}
	for what, r := range bad {
		if err := g.Apply(t.Context(), r); !fail.Is(err, fail.Invalid) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

func TestAFailedCreateLeavesNothing(t *testing.T) {
	hs := host(t)
	name := "/berth-test-undo-" + strconv.Itoa(os.Getpid()) + "/deep/box"
	if _, err := create(t.Context(), hs, name, &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4000"}}); !fail.Is(err, fail.Invalid) {
		t.Fatalf("got %v", err)
	}
	for _, h := range hs {
		if exists(h.mount + "/berth-test-undo-" + strconv.Itoa(os.Getpid())) {
			t.Errorf("left behind in %s", h.mount)
		}
	}
}

func TestThePidsLimitStopsForks(t *testing.T) {
	g := group(t, host(t), &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(1))}})
	cmd := start(t, g, "exec 2>/dev/null; /bin/true; echo forked")
	if err := cmd.Wait(); err == nil {
		t.Fatal("a second process was forked")
	}
}

func TestMemoryKillsAreCountedAndTold(t *testing.T) {
	g := group(t, host(t), &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(8 << 20)), Swap: ptr(int64(8 << 20))}})
	if n, err := g.OOMKills(); n != 0 || err != nil {
		t.Fatalf("got %d, %v", n, err)
	}
	ctx, cancel := context.WithCancel(deadline(t))
	events, err := g.WatchOOM(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cmd := start(t, g, `x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done`)
	select {
	case _, ok := <-events:
		if !ok {
			t.Fatal("the channel closed instead")
		}
	case <-ctx.Done():
		t.Fatal("nothing was told")
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the hungry process ended well")
	}
	eventually(t, "the kill is counted", func() bool { n, err := g.OOMKills(); return n == 1 && err == nil })
	cancel()
	eventually(t, "the channel closes", func() bool {
		select {
		case _, ok := <-events:
			return !ok
		default:
			return false
		}
	})
}

func TestTheOOMWatchEndsWithTheGroup(t *testing.T) {
	g := group(t, host(t), nil)
	if g.v2() {
		t.Skip("cgroup v2 does not tell its watchers that a group is removed")
	}
	events, err := g.WatchOOM(deadline(t))
	if err != nil {
		t.Skip(err)
	}
	if err := g.Remove(deadline(t)); err != nil {
		t.Fatal(err)
	}
	for range events {
		t.Error("an event for a group that is gone")
	}
}

// both runs a test on the host's own hierarchies and on v2 alone.
func both(t *testing.T, f func(t *testing.T, hs []hierarchy)) {
	t.Run("host", func(t *testing.T) { f(t, host(t)) })
	t.Run("v2", func(t *testing.T) { f(t, unified(t)) })
}

func TestTheFreezerFreezes(t *testing.T) {
	both(t, func(t *testing.T, hs []hierarchy) {
		g := group(t, hs, nil)
		file := t.TempDir() + "/beat"
		start(t, g, "while :; do echo x >>"+file+"; done")
		size := func() int64 {
			st, err := os.Stat(file)
			if err != nil {
				return 0
			}
			return st.Size()
		}
		eventually(t, "it runs", func() bool { return size() > 0 })
		if err := g.Freeze(deadline(t), true); err != nil {
			t.Fatal(err)
		}
		if frozen, err := g.Frozen(); !frozen || err != nil {
			t.Fatalf("got %v, %v", frozen, err)
		}
		before := size()
		time.Sleep(20 * time.Millisecond) // long enough for thousands of beats
		if size() != before {
			t.Fatal("it goes on")
		}
		if err := g.Freeze(deadline(t), false); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it goes on again", func() bool { return size() > before })
		if err := g.Freeze(deadline(t), true); err != nil {
			t.Fatal(err)
		}
		if err := g.Kill(deadline(t)); err != nil {
			t.Fatalf("a frozen group cannot be killed: %v", err)
		}
	})
}

func TestKillOutrunsATreeThatForks(t *testing.T) {
	both(t, func(t *testing.T, hs []hierarchy) {
		g := group(t, hs, nil)
		// Every process replaces itself all the time, and keeps a second one.
		start(t, g, `f() { (f) & (sleep 0.01; f) & wait; }; ulimit -u 200 2>/dev/null; i=0; while [ $i -lt 12 ]; do (while :; do (sleep 0.001) & done) & i=$((i+1)); done; wait`)
		eventually(t, "it forks", func() bool { pids, _ := g.Pids(); return len(pids) > 30 })
		if err := g.Kill(deadline(t)); err != nil {
			t.Fatal(err)
		}
		if pids, err := g.Pids(); len(pids) != 0 || err != nil {
			t.Fatalf("still alive: %v, %v", pids, err)
		}
	})
}

// A container that may write to its groups can have threaded ones, which do not list processes.
func TestProcessesWithThreadsInGroupsOfTheirOwnAreListedAndKilled(t *testing.T) {
	g := group(t, unified(t), nil)
	below := g.dirs[0].path + "/threads"
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := write(below+"/cgroup.type", "threaded"); err != nil {
		t.Skipf("no threaded groups: %v", err)
	}
	cmd := start(t, g, "exec sleep 1000")
	if err := write(below+"/cgroup.threads", strconv.Itoa(cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if pids, err := g.Pids(); err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("%v, %v; want %d", pids, err, cmd.Process.Pid)
	}
	if err := g.killEach(deadline(t)); err != nil { // as before cgroup.kill (Linux 5.14)
		t.Error(err)
	}
}

func TestGroupsMadeInsideAreSeenKilledAndRemoved(t *testing.T) {
	both(t, func(t *testing.T, hs []hierarchy) {
		g := group(t, hs, nil)
		inner, err := create(t.Context(), hs, g.Path()+"/inner/most", nil)
		if err != nil {
			t.Fatal(err)
		}
		cmd := start(t, inner, "exec sleep 1000")
		if pids, err := g.Pids(); len(pids) != 1 || pids[0] != cmd.Process.Pid || err != nil {
			t.Fatalf("got %v, %v", pids, err)
		}
		if err := g.Signal(int(unix.SIGUSR1)); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if err := g.Signal(int(unix.SIGUSR1)); !fail.Is(err, fail.NotFound) {
			t.Fatalf("got %v", err)
		}
		if err := g.Remove(deadline(t)); err != nil {
			t.Fatal(err)
		}
		if _, err := load(hs, g.Path()); !fail.Is(err, fail.NotFound) {
			t.Fatalf("got %v", err)
		}
	})
}

func TestAChildIsBornIntoAV2Group(t *testing.T) {
	g := group(t, unified(t), nil)
	d, err := g.Dir()
	if err != nil || d == nil {
		t.Fatalf("got %v, %v", d, err)
	}
	defer d.Close()
	cmd := exec.Command("/bin/cat", "/proc/self/cgroup")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(d.Fd())}
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), "0::"+g.Path()+"\n") {
		t.Fatalf("got %s, %v", out, err)
	}
}

func rule(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	r := specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Access: access}
	if major >= 0 {
		r.Major = &major
	}
	if minor >= 0 {
		r.Minor = &minor
	}
	return r
}

func TestDeviceRulesHoldAndChange(t *testing.T) {
	both(t, func(t *testing.T, hs []hierarchy) {
		dir := t.TempDir()
		for name, dev := range map[string]uint64{"null": unix.Mkdev(1, 3), "kmsg": unix.Mkdev(1, 11), "loop": unix.Mkdev(7, 200)} {
			if err := unix.Mknod(dir+"/"+name, unix.S_IFCHR|0o666, int(dev)); err != nil {
				t.Skip(err)
			}
		}
		deny := rule(false, "a", -1, -1, "rwm")
		g := group(t, hs, &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{deny}})
		opens := func(name, flags string) bool {
			t.Helper()
			// "exec" of a redirection that fails ends the shell with a failure.
			return start(t, g, "exec 2>&1 3"+flags+dir+"/"+name).Wait() == nil
		}
		if !opens("null", "<>") {
			t.Error("the null device is always there")
		}
		if opens("kmsg", "<") || opens("kmsg", ">") {
			t.Error("kmsg can be opened")
		}
		apply := func(rules ...specs.LinuxDeviceCgroup) {
			t.Helper()
			if err := g.Apply(t.Context(), &specs.LinuxResources{Devices: append([]specs.LinuxDeviceCgroup{deny}, rules...)}); err != nil {
				t.Fatal(err)
			}
		}
		apply(rule(true, "c", 1, 11, "r"))
		if !opens("kmsg", "<") || opens("kmsg", ">") || opens("kmsg", "<>") {
			t.Error("kmsg is not for reading only")
		}
		apply(rule(true, "c", 1, 11, "r"), rule(true, "c", 1, 11, "w"))
		if !opens("kmsg", "<>") {
			t.Error("reading and writing allowed apart are not both allowed")
		}
		apply(rule(true, "c", -1, -1, "rw"), rule(false, "c", -1, -1, "rw"))
		if opens("kmsg", "<") || !opens("null", "<") {
			t.Error("the last rule does not win")
		}
		apply(rule(true, "a", -1, -1, "rwm"))
		if !opens("kmsg", "<>") {
			t.Error("not everything is allowed")
		}
		apply()
		if opens("kmsg", "<") {
			t.Error("kmsg can be opened again")
		}
		if g.v2() {
			group, err := open(g.dirs[0].path, unix.O_RDONLY)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(group)
			if fd, err := attachedDeviceProgram(group); err != nil || fd < 0 {
				t.Errorf("no program is attached: %v", err)
			} else {
				unix.Close(fd)
			}
		}
	})
}
