package test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	"berth/testkit"
)

var updateConformance = flag.Bool("update-conformance", false, "write docs/runtime-conformance.md anew, with runc's results beside ours")

const conformanceTable = "docs/runtime-conformance.md"

// whyNot tells of each validation program that does not pass, here or anywhere, what it
// wants and why it does not get it.
var whyNot = map[string]string{
	"delete":                         "Wants `delete` of a container that is created and not started to be refused. runc ends such a container, and containerd relies on it.",
	"hooks":                          "Compares with a text that its own hooks do not write.",
	"hooks_stdin":                    "Wants the status `created` in prestart hooks. They run during `create`, when it is `creating`. Its other checks depend on a process that may have ended.",
	"killsig":                        "Takes a container for stopped a moment after the signal was sent.",
	"linux_cgroups_blkio":            "Sets a leaf weight, which Linux has not had since the CFQ scheduler went (5.0).",
	"linux_cgroups_devices":          "Reads the list of devices back and wants it to be exactly what it asked for.",
	"linux_cgroups_hugetlb":          "Needs the hugetlb controller, which this machine does not have.",
	"linux_cgroups_memory":           "Sets limits of kernel memory, which Linux takes no more (5.16).",
	"linux_cgroups_network":          "Needs the controllers net_cls and net_prio, which this machine does not have.",
	"linux_process_apparmor_profile": "Wants a profile of its own name, acme_secure_profile, to be loaded, and this machine has no AppArmor at all. Where it is, profiles are applied (`TestAppArmorProfilesAreAppliedAndShown`).",
	"linux_rootfs_propagation":       "Wants all capabilities, and this machine withholds CAP_SYS_RESOURCE.",
	"misc_props":                     "Wants containers created whose program does not exist. `create` looks for it, as runc's does, and callers wait for that error there.",
	"mounts":                         "Takes the order of lines in mountinfo for the order of mounting. Since Linux 6.8 it is the order in which mounts were allocated, and we clone the sources of bind mounts before anything is mounted.",
	"pidfile":                        "Wants to see `true` running, or `kill` to succeed when it has ended; runtime.md wants an error.",
	"poststart":                      "Wants a shell to have written a line before a hook that is called when the shell is executed.",
	"poststart_fail":                 "Wants a failing poststart hook to be a warning. runtime.md, today: the runtime must generate an error and stop the container.",
	"prestart":                       "Wants prestart hooks to be called by `start`. config.md: they are part of `create`.",
	"process_capabilities":           "Wants all capabilities, and this machine withholds CAP_SYS_RESOURCE.",
	"process_capabilities_fail":      "Wants an unknown capability to be an error. config.md, today: it must be logged as a warning.",
	"process_rlimits":                "Its program in the container is written in Go, whose library raises its own soft limit of open files before it looks.",
	"start":                          "Its last check wants a `start` without a process to succeed, and says that it must fail.",
	"linux_cgroups_relative_blkio":   "As linux_cgroups_blkio.",
	"linux_cgroups_relative_devices": "As linux_cgroups_devices.",
	"linux_cgroups_relative_hugetlb": "As linux_cgroups_hugetlb.",
	"linux_cgroups_relative_memory":  "As linux_cgroups_memory.",
	"linux_cgroups_relative_network": "As linux_cgroups_network.",
	"linux_seccomp":                  "Refuses getcwd, which runc calls when the filter is in place.",
	"poststop_fail":                  "runc stops at the first poststop hook that fails.",
	"linux_mount_label":              "Gives a label on a machine without SELinux.",
}

// races are programs whose result is a matter of who is faster, for any runtime.
var races = map[string]bool{"pidfile": true, "poststart": true}

// tries is how often a program may try: what it tests is there if it is seen once, and
// many of them poll with clocks of their own.
const tries = 3

// validation runs the programs of github.com/opencontainers/runtime-tools.
type validation struct {
	*testing.T
	tools   string // where the programs are
	work    string
	runtime string // path of the program under test
	command string // the same with a state directory of its own
	state   string
}

func newValidation(t *testing.T, tools, runtimePath string) *validation {
	t.Helper()
	work, err := os.MkdirTemp("", "oci")
	if err != nil {
		t.Fatal(err)
	}
	v := &validation{T: t, tools: tools, work: work, runtime: runtimePath, state: filepath.Join(work, "state"), command: filepath.Join(work, "runtime")}
	script := fmt.Sprintf("#!/bin/sh\nexec %s --root %s \"$@\"\n", runtimePath, v.state)
	if err := os.WriteFile(v.command, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	rootfs := "rootfs-" + runtime.GOARCH + ".tar.gz"
	for _, name := range []string{rootfs, "runtimetest"} {
		// The programs copy a link as a link, into places from where it leads nowhere.
		if out, err := exec.Command("cp", filepath.Join(tools, name), work).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v: %s", err, out)
		}
	}
	os.Chmod(work, 0o755)
	if err := os.Mkdir(filepath.Join(work, "tmp"), 0o777); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.clean)
	return v
}

// clean removes what the programs themselves leave behind.
func (v *validation) clean() {
	ids, _ := os.ReadDir(v.state)
	for _, id := range ids {
		exec.Command(v.command, "delete", "--force", id.Name()).Run()
	}
	for _, group := range []string{"testdir/cgrouptest", "testdir", "cgrouptest"} {
		for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
			dirs, _ := filepath.Glob(pattern + group)
			for _, dir := range dirs {
				unix.Rmdir(dir)
			}
		}
	}
	os.RemoveAll(v.work)
}

var (
	notOK    = regexp.MustCompile(`(?m)^not ok`)
	anyOK    = regexp.MustCompile(`(?m)^ok`)
	complain = regexp.MustCompile(`"error": "[^"]`)
)

// passes runs a program once. Its report is TAP; programs without numbered checks put
// what went wrong into a comment.
func (v *validation) passes(program string) (bool, string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // on an emulated processor
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(v.tools, program))
	cmd.Dir = v.work
	cmd.Env = append(os.Environ(), "RUNTIME="+v.command, "TMPDIR="+filepath.Join(v.work, "tmp"))
	// runc leaves mounts behind for containers without a mount namespace; they end here.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	text := out.Bytes()
	ok := err == nil && !notOK.Match(text) && (anyOK.Match(text) || !complain.Match(text))
	return ok, fmt.Sprintf("%v\n%s\n%s", err, reduced(out.String()), errs.String())
}

// reduced leaves of a report what is wrong.
func reduced(report string) string {
	var lines []string
	for line := range strings.Lines(report) {
		if strings.HasPrefix(line, "not ok") || strings.HasPrefix(line, "#") || strings.Contains(line, `"error"`) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// result runs a program until it passes, but not for ever.
func (v *validation) result(program string) (ok bool, report string) {
	for range tries {
		if ok, report = v.passes(program); ok {
			break
		}
	}
	return ok, report
}

// all runs the programs and collects which ones pass. Those about control groups share
// the names of groups and run one after another.
func (v *validation) all(programs []string) map[string]bool {
	var mu sync.Mutex
	results, reports := map[string]bool{}, map[string]string{}
	var lanes sync.WaitGroup
	lane := func(list <-chan string) {
		lanes.Go(func() {
			for p := range list {
				ok, report := v.result(p)
				mu.Lock()
				results[p], reports[p] = ok, report
				mu.Unlock()
			}
		})
	}
	groups, others := make(chan string, len(programs)), make(chan string, len(programs))
	for _, p := range programs {
		if strings.HasPrefix(p, "linux_cgroups") || p == "delete_resources" || p == "delete_only_create_resources" {
			groups <- p
		} else {
			others <- p
		}
	}
	close(groups)
	close(others)
	lane(groups)
	lane(others)
	lane(others)
	lanes.Wait()
	for p, ok := range results {
		if !ok { // once more, with nobody beside it
			results[p], reports[p] = v.result(p)
		}
		if !results[p] {
			v.Logf("%s:\n%s", p, reports[p])
		}
	}
	return results
}

// validationPrograms lists them, those first that wait longest.
func validationPrograms(t *testing.T, tools string) []string {
	t.Helper()
	entries, err := os.ReadDir(tools)
	if err != nil {
		t.Fatal(err)
	}
	slow := []string{"delete", "kill", "pidfile"}
	programs := slices.Clone(slow)
	for _, e := range entries {
		if n := e.Name(); n != "runtimetest" && !strings.HasPrefix(n, "rootfs-") && !slices.Contains(slow, n) {
			programs = append(programs, n)
		}
	}
	return programs
}

// rows reads the table: program to verdict of berth-runtime.
func conformanceRows(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testkit.Root(), conformanceTable))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(line, "|"); len(cells) == 6 {
			rows[strings.TrimSpace(cells[1])] = strings.TrimSpace(cells[2])
		}
	}
	return rows
}

func verdict(program string, ok bool) string {
	switch {
	case races[program]:
		return "a race"
	case ok:
		return "passes"
	}
	return "fails"
}

// TestTheValidationProgramsOfTheOCIPassAsTheTableSays runs with berth-runtime all programs
// that pass in the table; with -update-conformance all there are, and with runc, too.
func TestTheValidationProgramsOfTheOCIPassAsTheTableSays(t *testing.T) {
	testkit.Integration(t)
	tools := filepath.Join(testkit.Root(), "bin", "tools", "oci")
	if _, err := os.Stat(filepath.Join(tools, "rootfs-"+runtime.GOARCH+".tar.gz")); err != nil {
		t.Skip("the validation programs and their root file system for this architecture are not built (make tools)")
	}
	t.Parallel() // they mostly wait
	ours := newValidation(t, tools, filepath.Join(testkit.Binaries(t), "berth-runtime"))
	programs := validationPrograms(t, tools)
	if *updateConformance {
		writeConformance(t, programs, tools, ours)
		return
	}
	rows := conformanceRows(t)
	_, err := os.Stat("/sys/fs/cgroup/memory/cgroup.procs")
	v1 := err == nil
	programs = slices.DeleteFunc(programs, func(p string) bool {
		if rows[p] == "" {
			t.Errorf("%s is not in %s", p, conformanceTable)
		}
		if strings.HasSuffix(p, "_cpus") && runtime.NumCPU() == 1 {
			return true // it takes 0-0 for another set than 0
		}
		// Those about control groups know their version 1 only.
		return rows[p] != "passes" && !passesHere(p) || (strings.HasPrefix(p, "linux_cgroups") || strings.HasPrefix(p, "delete_")) && !v1
	})
	for p, ok := range ours.all(programs) {
		if !ok {
			t.Errorf("%s does not pass, but %s says so", p, conformanceTable)
		}
	}
}

// passesHere tells that a program fails in the table for what that machine lacks, and this one has.
func passesHere(program string) bool {
	switch program {
	case "process_capabilities", "linux_rootfs_propagation":
		held, err := capability.GetBound(capability.CAP_SYS_RESOURCE)
		return held && err == nil
	case "mounts":
		var uts unix.Utsname
		var major, minor int
		if unix.Uname(&uts) == nil {
			fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &major, &minor)
		}
		return major < 6 || major == 6 && minor < 8
	}
	return false
}

func writeConformance(t *testing.T, programs []string, tools string, ours *validation) {
	t.Helper()
	runc := testkit.NeedTool(t, "runc")
	version, err := exec.Command(runc, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		t.Fatal(err)
	}
	mine := ours.all(programs)
	theirs := newValidation(t, tools, runc).all(programs)

	slices.Sort(programs)
	passed, runcPassed := 0, 0
	var table strings.Builder
	for _, p := range programs {
		why := ""
		if !mine[p] || !theirs[p] || races[p] {
			why = whyNot[p]
		}
		if !mine[p] && why == "" {
			t.Errorf("%s does not pass, and whyNot does not say why", p)
		}
		if mine[p] && !races[p] {
			passed++
		}
		if theirs[p] && !races[p] {
			runcPassed++
		}
		fmt.Fprintf(&table, "| %s | %s | %s | %s |\n", p, verdict(p, mine[p]), verdict(p, theirs[p]), why)
	}
	text := fmt.Sprintf(`# Conformance of berth-runtime

The OCI's own validation programs (github.com/opencontainers/runtime-tools v0.9.0), run with
berth-runtime and with runc on the same machine: Linux %s, %s.
They are older than the specification that we follow, and some of them ask for what it has
given up, or for what a machine must have; the last column says so of each one that fails.

Of %d programs berth-runtime passes %d, runc %d.

| program | berth-runtime | %s | why it fails |
|---|---|---|---|
%s
This file is written by "go test ./test -run ValidationPrograms -update-conformance" after
"make tools". Without the flag the same test fails if a program does not pass that passes here.
`, unix.ByteSliceToString(host.Release[:]), cgroupVersion(), len(programs), passed, runcPassed,
		strings.Replace(strings.SplitN(string(version), "\n", 2)[0], " version", "", 1), table.String())
	if err := os.WriteFile(filepath.Join(testkit.Root(), conformanceTable), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func cgroupVersion() string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return "cgroup v2"
	}
	return "cgroup v1"
}
