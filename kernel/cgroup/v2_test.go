package cgroup

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
)

// v2Host is a host that has cgroup v2 alone, with its controllers.
func v2Host(t *testing.T) []hierarchy {
	t.Helper()
	hs := host(t)
	if len(hs) != 1 || !hs[0].unified {
		t.Skip("this host does not have cgroup v2 alone")
	}
	return hs
}

func TestFilesOfTheUnifiedMapAreWritten(t *testing.T) {
	hs := v2Host(t)
	want := map[string]string{
		"memory.high": "50331648", "memory.min": "4096", "memory.oom.group": "1", "memory.swap.max": "0", "cpu.weight": "7",
		"pids.max": "20", "cpuset.cpus": "0", "cgroup.max.descendants": "3",
	}
	for _, optional := range []string{"hugetlb.2MB.max", "hugetlb.2MB.rsvd.max", "misc.max"} {
		if exists(sampleWith(hs[0].mount, optional) + "/" + optional) {
			want[optional] = "2097152"
		}
	}
	if exists(sampleWith(hs[0].mount, "cpu.max.burst") + "/cpu.max.burst") { // since Linux 5.14
		want["cpu.max.burst"] = "10"
	}
	delete(want, "misc.max") // its resources are those of the processor
	files := map[string]string{"cpu.max": "5000 20000"}
	for f, v := range want {
		files[f] = v
	}
	g := group(t, hs, &specs.LinuxResources{Unified: files})
	for f, v := range want {
		if got, err := readString(g.dirs[0].path + "/" + f); err != nil || got != v {
			t.Errorf("%s is %q, %v; want %q", f, got, err, v)
		}
	}
	for f, v := range map[string]string{"cpuset.cpus.partition": "root", "memory.nonsense": "1", "cpu": "1", "../x.y": "1", "memory.max": "much"} {
		if f == "cpuset.cpus.partition" {
			v = "isolated"
		}
		err := g.Apply(t.Context(), &specs.LinuxResources{Unified: map[string]string{f: v}})
		if !fail.Is(err, fail.Invalid) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s=%s: got %v", f, v, err)
		}
	}
}

// sampleWith is a group below mount that has the file.
func sampleWith(mount, file string) string {
	children, _ := childGroups(mount)
	for _, c := range children {
		if exists(c + "/" + file) {
			return c
		}
	}
	return mount
}

// A group right below the root can be a partition: it gets its CPUs for itself.
func TestAPartitionOfCPUsIsMade(t *testing.T) {
	hs := v2Host(t)
	if online, err := readString("/sys/devices/system/cpu/online"); err != nil || !strings.ContainsAny(online, ",-") {
		t.Skip("it takes two CPUs")
	}
	name := "/berth-partition-" + strconv.Itoa(os.Getpid())
	g, err := create(t.Context(), hs, name, &specs.LinuxResources{Unified: map[string]string{"cpuset.cpus": "1", "cpuset.cpus.partition": "root"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, g, "cpuset", "cpuset.cpus.partition"); got != "root" {
		t.Errorf("it is a %s", got)
	}
	if err := g.Remove(deadline(t)); err != nil {
		t.Fatal(err)
	}
}

func TestAllProcessesOfAnOOMGroupAreKilled(t *testing.T) {
	g := group(t, v2Host(t), &specs.LinuxResources{Unified: map[string]string{"memory.max": "8388608", "memory.swap.max": "0", "memory.oom.group": "1"}})
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	events, err := g.WatchOOM(ctx)
	if err != nil {
		t.Fatal(err)
	}
	quiet := start(t, g, "exec sleep 1000")
	start(t, g, `x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done`)
	select {
	case <-events:
	case <-ctx.Done():
		t.Fatal("nothing was told")
	}
	quiet.Wait()
	if quiet.ProcessState.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Errorf("the one that needed nothing: %v", quiet.ProcessState)
	}
}

// cgroups(7), "no internal processes": a limit cannot be set below a group with processes, and
// the error says which group that is.
func TestALimitBelowAGroupWithProcessesSaysWhy(t *testing.T) {
	hs := v2Host(t)
	parent := group(t, hs, nil)
	start(t, parent, "exec sleep 1000")
	_, err := create(t.Context(), hs, parent.Path()+"/child", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(1 << 24))}})
	if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), parent.Path()+" has processes of its own") {
		t.Errorf("got %v", err)
	}
	if exists(parent.dirs[0].path + "/child") {
		t.Error("the child is left")
	}
	g, err := create(t.Context(), hs, parent.Path()+"/child", nil)
	if err != nil {
		t.Fatalf("without limits: %v", err)
	}
	if err := g.Freeze(deadline(t), true); err != nil {
		t.Errorf("what needs no controller: %v", err)
	}
	start(t, g, "exec sleep 1000") // it is good for whole processes, not for threads only
	if err := g.Kill(deadline(t)); err != nil {
		t.Error(err)
	}
	if err := g.Remove(deadline(t)); err != nil {
		t.Error(err)
	}
}

// A container whose systemd has given controllers to groups of its own is entered where its
// first process is.
func TestAGroupThatHandsControllersOnIsJoinedBelow(t *testing.T) {
	hs := v2Host(t)
	g := group(t, hs, nil)
	if g.Open(1) != g {
		t.Error("an ordinary group is not joined itself")
	}
	inner, err := create(t.Context(), hs, g.Path()+"/init.scope", nil) // enables the controllers in g
	if err != nil {
		t.Fatal(err)
	}
	first := start(t, inner, "exec sleep 1000")
	dir, err := g.Open(first.Process.Pid).Dir()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command("/bin/cat", "/proc/self/cgroup")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if out, err := cmd.Output(); err != nil || string(out) != "0::"+g.Path()+"/init.scope\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestADelegatedGroupTakesGroupsOfItsOwnerAndKeepsItsLimits(t *testing.T) {
	g := group(t, v2Host(t), &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(1 << 24))}})
	const uid = 54321
	if err := g.Delegate(uid); err != nil {
		t.Fatal(err)
	}
	owner := func(name string) uint32 {
		var st unix.Stat_t
		if err := unix.Stat(g.dirs[0].path+"/"+name, &st); err != nil {
			t.Fatal(err)
		}
		return st.Uid
	}
	for name, want := range map[string]uint32{".": uid, "cgroup.procs": uid, "cgroup.subtree_control": uid, "memory.max": 0, "cgroup.freeze": 0} {
		if got := owner(name); got != want {
			t.Errorf("%s belongs to %d, want %d", name, got, want)
		}
	}
	cmd := exec.Command("/bin/mkdir", g.dirs[0].path+"/theirs")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("its owner cannot make a group: %s", out)
	}
}

func TestPressureIsInTheStatistics(t *testing.T) {
	g := group(t, v2Host(t), nil)
	if !exists(g.dirs[0].path + "/memory.pressure") {
		t.Skip("this kernel does not account pressure")
	}
	if _, err := read(g.dirs[0].path + "/memory.pressure"); err != nil {
		t.Skip(err) // psi=0
	}
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.Memory == nil || s.Memory.Pressure == nil || s.CPU.Pressure == nil || s.BlockIO == nil || s.BlockIO.Pressure == nil {
		t.Errorf("got %+v", s)
	}
}

// A user may have 128 instances of inotify: a watch must not need one.
func TestManyGroupsAreWatchedAtOnce(t *testing.T) {
	hs := v2Host(t)
	g := group(t, hs, nil)
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	for range 300 {
		if _, err := g.WatchOOM(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAScopeIsMadeChangedAndForgotten(t *testing.T) {
	hs := v2Host(t)
	if err := scopesWork(hs); err != nil {
		t.Skip(err)
	}
	name := Scope("", "berthtest", strconv.Itoa(os.Getpid()))
	g, err := create(t.Context(), hs, name, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(30))}})
	if err != nil {
		t.Fatal(err)
	}
	cmd := start(t, g, "exec sleep 1000")
	g.Inhabited()
	property := func(p string) string {
		out, err := exec.Command("systemctl", "show", "--value", "-p", p, g.scope).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got := property("ActiveState") + property("TasksMax") + property("Slice"); got != "active30system.slice" {
		t.Errorf("systemd shows %s", got)
	}
	again, err := load(hs, name)
	if err != nil {
		t.Fatal(err)
	}
	if pids, err := again.Pids(); err != nil || len(pids) != 1 || pids[0] != cmd.Process.Pid {
		t.Errorf("in it are %v, %v", pids, err)
	}
	if err := again.Apply(t.Context(), &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(40))}}); err != nil {
		t.Fatal(err)
	}
	if got := property("TasksMax") + " " + content(t, g, "pids", "pids.max"); got != "40 40" {
		t.Errorf("changed: %s", got)
	}
	if _, err := create(t.Context(), hs, name, nil); !fail.Is(err, fail.Conflict) {
		t.Errorf("a second one of its name: %v", err)
	}
	if _, err := create(t.Context(), hs, strings.Replace(name, ":", "berthtest.slice:", 1), nil); !fail.Is(err, fail.Conflict) || property("ActiveState") != "active" {
		t.Errorf("one of its name in another slice: %v, and the first is %s", err, property("ActiveState"))
	}
	if err := again.Remove(deadline(t)); !fail.Is(err, fail.Conflict) {
		t.Errorf("removed with a process in it: %v", err)
	}
	if err := again.Kill(deadline(t)); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if err := again.Remove(deadline(t)); err != nil {
		t.Fatal(err)
	}
	// At once again: systemd may not have forgotten it.
	g, err = create(t.Context(), hs, name, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(deadline(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the unit is forgotten", func() bool { return property("LoadState") == "not-found" })
	for what, res := range map[string]*specs.LinuxResources{
		"a limit that cannot be":  {CPU: &specs.LinuxCPU{Cpus: "4000"}},
		"a list that is none":     {CPU: &specs.LinuxCPU{Cpus: "x"}},
		"a device that is none":   {BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{{Rate: 1, LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: 4000, Minor: 1}}}}},
		"swap without any memory": {Memory: &specs.LinuxMemory{Swap: ptr(int64(1000))}},
	} {
		if _, err := create(t.Context(), hs, name, res); !fail.Is(err, fail.Invalid) {
			t.Errorf("%s: got %v", what, err)
		}
		eventually(t, "after "+what+" nothing is left", func() bool { return property("LoadState") == "not-found" })
	}
}
