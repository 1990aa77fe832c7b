package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
)

func TestTheGroupOfAContainerIsTold(t *testing.T) {
	const machine, other = "pid:[4026531836]", "pid:[4026532500]"
	tests := []struct {
		name                     string
		typed                    bool // the root of what is mounted is not the root of all
		first, self, comm, space string
		systemd                  bool
		dirs                     []string
		want                     string // "": nothing is ours
	}{
		{name: "a host without systemd", first: "/", self: "/", comm: "init", space: machine},
		{name: "a host with systemd", first: "/init.scope", self: "/system.slice/x.service", comm: "systemd", space: machine, systemd: true, dirs: []string{"init.scope", "system.slice/x.service"}},
		{name: "a container", typed: true, first: "/", self: "/", comm: "sh", space: other, want: "/"},
		{name: "a container whose processes have been moved", typed: true, first: "/berth-init", self: "/berth-init", comm: "sh", space: other, dirs: []string{"berth-init"}, want: "/"},
		{name: "a container with systemd", typed: true, first: "/init.scope", self: "/system.slice/x.service", comm: "systemd", space: other, systemd: true, dirs: []string{"init.scope", "system.slice/x.service"}},
		{name: "a container with systemd and another /run", typed: true, first: "/init.scope", self: "/system.slice/x.service", comm: "systemd", space: other, dirs: []string{"init.scope", "system.slice/x.service"}},
		{name: "a container with the host's processes", typed: true, first: "/../../../init.scope", self: "/", comm: "systemd", space: machine, want: "/"},
		{name: "a container that sees a part that it is not in", typed: true, first: "/", self: "/elsewhere", comm: "sh", space: other},
		{name: "a container with the host's groups", first: "/docker/4711", self: "/docker/4711", comm: "sh", space: other, dirs: []string{"docker/4711"}, want: "/docker/4711"},
		{name: "the same, moved", first: "/docker/4711/berth-init", self: "/docker/4711/berth-init", comm: "sh", space: other, dirs: []string{"docker/4711/berth-init"}, want: "/docker/4711"},
		{name: "a container with the host's groups and processes", first: "/docker/4711", self: "/docker/4711", comm: "sh", space: machine, dirs: []string{"docker/4711"}},
		{name: "the host's groups in a cgroup namespace", first: "/", self: "/", comm: "sh", space: other},
		{name: "a group that is not mounted here", first: "/docker/4711", self: "/docker/4711", comm: "sh", space: other},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root, mount := t.TempDir(), t.TempDir()
			put := func(path, text string) {
				t.Helper()
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			put(root+"/proc/1/cgroup", "4:memory:/wrong\n0::"+tt.first+"\n")
			put(root+"/proc/1/comm", tt.comm+"\n")
			put(root+"/proc/self/cgroup", "0::"+tt.self+"\n")
			if err := errors.Join(os.MkdirAll(root+"/proc/self/ns", 0o755), os.Symlink(tt.space, root+"/proc/self/ns/pid")); err != nil {
				t.Fatal(err)
			}
			if tt.typed {
				put(mount+"/cgroup.type", "domain\n")
			}
			if tt.systemd {
				put(root+"/run/systemd/system/x", "")
			}
			for _, d := range tt.dirs {
				if err := os.MkdirAll(filepath.Join(mount, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			got, ok := containerGroup(mount, root)
			if !ok {
				got = ""
			}
			if got != tt.want {
				t.Errorf("it is %q, want %q", got, tt.want)
			}
		})
	}
}

func TestThatThereAreNoControlGroupsIsSaid(t *testing.T) {
	home, err := settle(t.Context(), nil, "")
	if home.Path != "/" || !fail.Is(err, fail.Unavailable) || !strings.Contains(err.Error(), "no control groups are mounted") {
		t.Errorf("got %+v, %v", home, err)
	}
}

// In a cgroup namespace of its own, whose root is a group with processes that come and go.
func TestProcessesMakeRoomForGroupsBelowThem(t *testing.T) {
	if kind := os.Getenv("BERTH_TEST_SETTLE"); kind != "" {
		settleInside(t, kind)
		return
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("unshare is not installed")
	}
	for _, kind := range []string{"its own", "its own, of a unit that systemd has given away", "others'", "its own, with controllers handed on", "a unit's", "threads", "read-only"} {
		t.Run(kind, func(t *testing.T) {
			hs := unified(t)
			g := group(t, hs, nil)
			at := g.dirs[0].path
			_ = handOn(filepath.Dir(at), hs[0].controllers)
			if strings.Contains(kind, "unit") {
				if err := unix.Setxattr(at, "trusted.invocation_id", []byte("4711"), 0); err != nil {
					t.Skipf("groups take no attributes: %v", err)
				}
				if strings.Contains(kind, "given away") {
					if err := unix.Setxattr(at, "trusted.delegate", []byte("1"), 0); err != nil {
						t.Fatal(err)
					}
				}
			}
			said := filepath.Join(t.TempDir(), "said")
			t.Setenv("BERTH_TEST_SETTLE", kind)
			c := start(t, g, "exec "+unshare+" -C -p -f --kill-child -m "+os.Args[0]+" -test.v -test.run '^TestProcessesMakeRoomForGroupsBelowThem$' >"+said+" 2>&1")
			if kind != "others'" { // unshare itself is outside, a stranger inside, as is for a moment who executes something in the container
				eventually(t, "the child is there", func() bool { pids, _ := members(at); return len(pids) > 1 })
				if err := write(hs[0].mount+"/cgroup.procs", strconv.Itoa(c.Process.Pid)); err != nil {
					t.Fatal(err)
				}
			}
			err := c.Wait()
			text, _ := os.ReadFile(said)
			if _, reason, ok := strings.Cut(string(text), "home_test.go:"); ok && err == nil {
				reason, _, _ = strings.Cut(reason, "\n")
				t.Skipf("line %s", reason)
			}
			if err != nil {
				t.Errorf("%v\n%s", err, text)
			}
		})
	}
}

func settleInside(t *testing.T, kind string) {
	mount := t.TempDir()
	if err := errors.Join(unix.Mount("proc", "/proc", "proc", 0, ""), unix.Mount("cgroup2", mount, "cgroup2", 0, "")); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(mount, unix.MNT_DETACH)
	if systemdRuns("") { // the machine's, which this container does not have
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	controllers := controllersOf(mount)
	if len(controllers) == 0 {
		t.Skip("cgroup v2 has no controllers here")
	}
	hs := []hierarchy{{mount: mount, unified: true, controllers: controllers}}
	busy := exec.Command("/bin/sh", "-c", "while :; do /bin/true; done & while :; do /bin/true; done")
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	switch kind {
	case "threads":
		if err := errors.Join(os.Mkdir(mount+"/x", 0o755), write(mount+"/x/cgroup.type", "threaded")); err != nil {
			t.Fatal(err)
		}
	case "its own, with controllers handed on": // by somebody who did not know better: the kernel takes those for threads
		if err := write(mount+"/cgroup.subtree_control", "+cpu"); err != nil {
			t.Skipf("there is no controller of CPU: %v", err)
		}
		if now, err := readString(mount + "/cgroup.type"); err != nil || now != "domain threaded" {
			t.Fatalf("the group is %q, %v", now, err)
		}
	case "read-only":
		if err := unix.Mount("", mount, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
	}
	before, _ := members(mount)
	home, err := settle(t.Context(), hs, "")
	if refusal := map[string]string{"others'": "not this container's", "a unit's": "Delegate=yes", "threads": "is domain threaded", "read-only": "read-only"}[kind]; refusal != "" {
		after, _ := members(mount)
		if !fail.Is(err, fail.Unavailable) || !strings.Contains(err.Error(), refusal) || strings.Contains(err.Error(), "\n") || home.Moved != 0 || len(after) == 0 || exists(mount+residence) {
			t.Errorf("got %+v, %v; of the processes %v there are %v", home, err, before, after)
		}
		return
	}
	if err != nil || home.Path != "/" || home.Moved < 2 {
		t.Errorf("got %+v, %v", home, err)
	}
	if pids, err := members(mount); err != nil || len(pids) > 0 {
		t.Errorf("left where they were: %v, %v", pids, err)
	}
	if pids, err := members(mount + residence); err != nil || len(pids) < 2 {
		t.Errorf("moved are %v, %v", pids, err)
	}
	if on, err := readString(mount + "/cgroup.subtree_control"); err != nil || on == "" {
		t.Errorf("handed on are %q, %v", on, err)
	}
	if home, err := settle(t.Context(), hs, ""); err != nil || home.Path != "/" || home.Moved != 0 {
		t.Errorf("once more: %+v, %v", home, err)
	}
	g, err := create(t.Context(), hs, home.Path+"/berth/x", &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 2 << 20}}})
	if err != nil {
		t.Fatal(err)
	}
	inside := start(t, g, "exec sleep 1000")
	if pids, err := g.Pids(); err != nil || len(pids) != 1 || pids[0] != inside.Process.Pid {
		t.Errorf("in the new group are %v, %v", pids, err)
	}
}
