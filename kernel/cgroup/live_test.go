package cgroup

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
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
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// group makes a group below a parent of its own and leaves nothing of either.
func group(t *testing.T, hs []hierarchy, res *specs.LinuxResources) *Group {
	t.Helper()
	var b [6]byte
	rand.Read(b[:])
	parent := "/berth-test-" + hex.EncodeToString(b[:])
	g, err := create(hs, parent+"/box", res)
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
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
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
