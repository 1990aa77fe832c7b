package runtimecli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	oci "berth/oci/bundle"
)

// inMountNamespace changes a configuration to use the mount namespace of a process, or the
// caller's for 0.
func inMountNamespace(pid int) func(*oci.Spec) {
	return func(s *oci.Spec) {
		s.Process.Args = []string{"sleep", "1000"}
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.MountNamespace })
		if pid != 0 {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.MountNamespace, Path: "/proc/" + strconv.Itoa(pid) + "/ns/mnt"})
		}
	}
}

func TestAContainerInAMountNamespaceOfOthersLeavesNothingThere(t *testing.T) {
	for _, c := range []struct {
		name string
		join bool
	}{{"the caller's", false}, {"a joined one", true}} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			mine := os.Getpid()
			pid := 0
			if c.join {
				other := exec.Command("sleep", "1000")
				other.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
				if err := other.Start(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { other.Process.Kill(); other.Wait() })
				mine, pid = other.Process.Pid, other.Process.Pid
			}
			h.configure(inMountNamespace(pid))
			h.must("run", "--detach", "--bundle", h.bundle, "--pid-file", filepath.Join(h.dir, "pid"), h.id)
			container := h.pid(filepath.Join(h.dir, "pid"))
			ours, _ := os.Readlink("/proc/" + strconv.Itoa(mine) + "/ns/mnt")
			theirs, _ := os.Readlink("/proc/" + strconv.Itoa(container) + "/ns/mnt")
			if ours != theirs || ours == "" {
				t.Errorf("it is in %s, not in %s", theirs, ours)
			}
			if out := h.must("exec", h.id, "ls", "/", "/proc/1"); !strings.Contains(out, "bin\n") || strings.Contains(out, "root\nrun") || !strings.Contains(out, "mountinfo") {
				t.Errorf("its root is not its own: %s", out)
			}
			h.must("delete", "--force", h.id)
			mounts, err := os.ReadFile("/proc/" + strconv.Itoa(mine) + "/mountinfo")
			if err != nil || bytes.Contains(mounts, []byte(h.dir)) {
				t.Errorf("mounts are left: %v", err)
			}
			// The bundle's own directory has not been touched.
			if _, err := os.Stat(filepath.Join(h.bundle, "rootfs", "bin", "busybox")); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAFailedCreateInTheCallersMountNamespaceLeavesNothing(t *testing.T) {
	h := newHost(t)
	h.configure(func(s *oci.Spec) {
		inMountNamespace(0)(s)
		s.Process.Args = []string{"nope"}
	})
	if status, _, errs := h.run("create", "--bundle", h.bundle, h.id); status == 0 || !strings.Contains(errs, "executable file not found") {
		t.Errorf("status %d: %s", status, errs)
	}
}

func TestAContainerWithoutAnyNamespace(t *testing.T) {
	h := newHost(t)
	h.configure(func(s *oci.Spec) {
		s.Process.Args = []string{"sleep", "1000"}
		s.Linux.Namespaces = nil
		s.Hostname = ""
	})
	h.must("run", "--detach", "--bundle", h.bundle, "--pid-file", filepath.Join(h.dir, "pid"), h.id)
	h.pid(filepath.Join(h.dir, "pid"))
	if out := h.must("exec", h.id, "ls", "/"); !strings.Contains(out, "bin\n") || strings.Contains(out, "usr\n") {
		t.Errorf("got %s", out)
	}
}

func TestAContainerInAUserNamespaceIsCreatedAndStarted(t *testing.T) {
	h := newHost(t)
	os.Chmod(h.dir, 0o755) // root in there is nobody special out here
	h.configure(func(s *oci.Spec) {
		s.Process.Args = []string{"sleep", "1000"}
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 1000}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
	})
	h.must("create", "--bundle", h.bundle, "--pid-file", filepath.Join(h.dir, "pid"), h.id)
	h.pid(filepath.Join(h.dir, "pid"))
	h.must("start", h.id)
	if out := h.must("exec", h.id, "id", "-u"); out != "0\n" {
		t.Errorf("got %q", out)
	}
}

func TestEachCgroupHierarchyHasItsOwnPlace(t *testing.T) {
	h := newHost(t)
	h.configure(func(s *oci.Spec) { s.Process.Args = []string{"cat", "/proc/1/mountinfo"} })
	seen := map[string]bool{}
	for line := range strings.Lines(h.must("run", "--bundle", h.bundle, h.id)) {
		f := strings.Fields(line)
		if at := f[4]; strings.HasPrefix(at, "/sys/fs/cgroup") {
			if seen[at] {
				t.Errorf("two mounts lie at %s", at)
			}
			seen[at] = true
		}
	}
	if len(seen) == 0 {
		t.Error("there is no cgroup mount")
	}
}
