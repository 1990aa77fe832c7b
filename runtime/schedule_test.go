package runtime

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/kernel"
	oci "berth/oci/bundle"
)

func TestASchedulerOfTheSpecificationIsTheProcesss(t *testing.T) {
	needRoot(t)
	for _, tc := range []struct {
		scheduler specs.Scheduler
		want      unix.SchedAttr
	}{
		{specs.Scheduler{Policy: specs.SchedOther, Nice: 5}, unix.SchedAttr{Nice: 5}},
		{specs.Scheduler{Policy: specs.SchedBatch, Nice: 19, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}}, unix.SchedAttr{Policy: 3, Nice: 19, Flags: 1}},
		{specs.Scheduler{Policy: specs.SchedIdle}, unix.SchedAttr{Policy: 5}},
		{specs.Scheduler{Policy: specs.SchedFIFO, Priority: 10}, unix.SchedAttr{Policy: 1, Priority: 10}},
		{specs.Scheduler{Policy: specs.SchedRR, Priority: 20, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}}, unix.SchedAttr{Policy: 2, Priority: 20, Flags: 1}},
		{specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1e6, Deadline: 10e6, Period: 20e6}, unix.SchedAttr{Policy: 6, Runtime: 1e6, Deadline: 10e6, Period: 20e6}},
	} {
		t.Run(string(tc.scheduler.Policy), func(t *testing.T) {
			cfg := config(t, "sleep", "1000")
			cfg.Spec.Process.Scheduler = &tc.scheduler
			c, err := Create(context.Background(), cfg)
			if err != nil {
				if tc.want.Policy != 0 && strings.Contains(err.Error(), "process.scheduler") {
					t.Skip("this host gives no such time:", err)
				}
				t.Fatal(err)
			}
			defer destroy(t, c)
			if err := c.Start(context.Background()); err != nil {
				t.Fatal(err)
			}
			got, err := unix.SchedGetAttr(c.Pid(), 0)
			if err != nil {
				t.Fatal(err)
			}
			tc.want.Size = got.Size
			if tc.want.Policy == 5 { // which leaves the nice value as it was
				own, err := unix.SchedGetAttr(0, 0)
				if err != nil {
					t.Fatal(err)
				}
				tc.want.Nice = own.Nice
			}
			if tc.want.Runtime == 0 {
				got.Runtime = 0 // since Linux 6.12 the slice of an ordinary process
			}
			if *got != tc.want {
				t.Errorf("the process has %+v, want %+v", *got, tc.want)
			}
		})
	}
}

func TestAnIOPriorityIsTheProcesssAndItsChildrens(t *testing.T) {
	for class, n := range ioClasses {
		t.Run(string(class), func(t *testing.T) {
			cfg := config(t)
			cfg.Spec.Process.IOPriority = &specs.LinuxIOPriority{Class: class, Priority: 3}
			c := running(t, cfg)
			got, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, 1, uintptr(c.Pid()), 0)
			if errno != 0 || int(got) != n<<13|3 {
				t.Errorf("%#x, %v", got, errno)
			}
		})
	}
}

func TestAnExecutedProcessRunsOnTheProcessorsGiven(t *testing.T) {
	needRoot(t)
	var now unix.CPUSet
	if err := unix.SchedGetaffinity(0, &now); err != nil || now.Count() < 2 {
		t.Skip("needs two processors")
	}
	cfg := config(t)
	cfg.Spec.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "1"}
	c := running(t, cfg)
	const list = "Cpus_allowed_list"
	if got := status(t, c.Pid(), list); got == "1" {
		t.Errorf("the first process is bound to %s, too", got)
	}
	read := []string{"grep", list, "/proc/self/status"}
	if got := inside(t, c, read...); got != list+":\t1\n" {
		t.Errorf("by the container's specification: %q", got)
	}
	proc := &oci.Process{Args: read, Cwd: "/", Env: []string{"PATH=/bin"}, ExecCPUAffinity: &specs.CPUAffinity{Initial: "0"}}
	// Without "final" it has what the cgroup gives, as the specification wants it.
	if got, all := insideAs(t, c, proc), list+":\t"+status(t, c.Pid(), list)+"\n"; got != all {
		t.Errorf("by its own: %q, want %q", got, all)
	}
}

func TestAContainerDoesNotInheritTheProcessorsOfItsCaller(t *testing.T) {
	needRoot(t)
	var now unix.CPUSet
	if err := unix.SchedGetaffinity(0, &now); err != nil || now.Count() < 2 {
		t.Skip("needs two processors")
	}
	const list = "Cpus_allowed_list"
	all := status(t, os.Getpid(), list)
	kernel.OnOwnThread(func() {
		var one unix.CPUSet
		one.Set(0)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Error(err)
			return
		}
		c, err := Create(context.Background(), config(t, "true"))
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Destroy(context.Background())
		if got := status(t, c.Pid(), list); got != all {
			t.Errorf("it runs on %s, not on %s", got, all)
		}
	})
}

func TestPersonalityAndMemoryPolicyHoldForAllProcesses(t *testing.T) {
	cfg := config(t)
	cfg.Spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	numa := true
	if _, err := os.Stat("/proc/self/numa_maps"); err != nil {
		numa = false
	} else {
		cfg.Spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}
	}
	c := running(t, cfg)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/personality", c.Pid()))
	if err != nil || strings.TrimSpace(string(text)) != "00000008" {
		t.Errorf("personality %q, %v", text, err)
	}
	if got := inside(t, c, "cat", "/proc/self/personality"); got != "00000008\n" {
		t.Errorf("exec has the personality %q", got)
	}
	if !numa {
		t.Skip("this kernel has no memory policies")
	}
	text, err = os.ReadFile(fmt.Sprintf("/proc/%d/numa_maps", c.Pid()))
	if err != nil || !strings.Contains(string(text), " bind=static:0 ") {
		t.Errorf("memory policy: %.200q, %v", text, err)
	}
	if got := inside(t, c, "cat", "/proc/self/numa_maps"); !strings.Contains(got, " bind=static:0 ") {
		t.Errorf("exec has the memory policy %.200q", got)
	}
}

func TestListsOfNumbers(t *testing.T) {
	for text, want := range map[string]string{"": "[]", "0": "[1]", "0-3,7": "[143]", "64,1": "[2 1]", " 2 ": "[4]"} {
		if got, err := parseList(text); err != nil || fmt.Sprint([]uint64(got)) != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{",", "3-1", "a", "-1", "1-", "4096", "1,,2", "0x1"} {
		if got, err := parseList(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}
