package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/kernel"
	oci "berth/oci/bundle"
)

// tmpfs mounts a file system for a test.
func tmpfs(t testing.TB, dir string) string {
	t.Helper()
	os.MkdirAll(dir, 0o755)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// mappable makes dir a mount whose ids can be mapped, as those of a tmpfs can since Linux 6.3 only.
func mappable(t testing.TB, dir string) string {
	t.Helper()
	os.MkdirAll(dir, 0o755)
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	f, err := kernel.CloneTree(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	one := []specs.LinuxIDMapping{{Size: 1}}
	if err := MapIDs(f, dir, one, one, false); err != nil {
		t.Skip(err)
	}
	return dir
}

func owner(t testing.TB, path string) string {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	s := st.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", s.Uid, s.Gid)
}

func TestABindMountWithMappedIDs(t *testing.T) {
	needRoot(t)
	dir := mappable(t, t.TempDir()+"/m")
	mappable(t, dir+"/below")
	for _, d := range []string{dir, dir + "/below"} {
		write(t, d+"/mine", "", 0o644)
		os.Chown(d+"/mine", 1000, 1000)
	}
	maps := []specs.LinuxIDMapping{{ContainerID: 1000, HostID: 3000, Size: 1}, {ContainerID: 0, HostID: 0, Size: 1}}
	cfg := config(t)
	for _, o := range []string{"idmap", "ridmap"} {
		cfg.Spec.Mounts = append(cfg.Spec.Mounts,
			oci.Mount{Destination: "/" + o, Source: dir, Options: []string{"rbind", o}, UIDMappings: maps, GIDMappings: maps})
	}
	cfg.Spec.Mounts = append(cfg.Spec.Mounts, oci.Mount{Destination: "/implied", Source: dir, Options: []string{"bind"}, UIDMappings: maps, GIDMappings: maps})
	c := running(t, cfg)
	got := inside(t, c, "stat", "-c", "%n %u:%g", "/idmap/mine", "/idmap/below/mine", "/ridmap/mine", "/ridmap/below/mine", "/implied/mine")
	want := "/idmap/mine 3000:3000\n/idmap/below/mine 1000:1000\n/ridmap/mine 3000:3000\n/ridmap/below/mine 3000:3000\n/implied/mine 3000:3000\n"
	if got != want {
		t.Errorf("got %s", got)
	}
	insideAs(t, c, &oci.Process{Args: []string{"touch", "/ridmap/below/new"}, Cwd: "/", Env: []string{"PATH=/bin"}})
	if got := owner(t, dir+"/below/new"); got != "0:0" {
		t.Errorf("a file made inside belongs to %s", got)
	}
}

func TestWithoutMappingsOfItsOwnAMountTakesTheContainersIDs(t *testing.T) {
	needRoot(t)
	for _, joined := range []bool{false, true} {
		t.Run(fmt.Sprintf("joined %v", joined), func(t *testing.T) {
			dir := mappable(t, t.TempDir()+"/m")
			for d := filepath.Dir(dir); d != "/tmp" && d != "/"; d = filepath.Dir(d) {
				os.Chmod(d, 0o755)
			}
			cfg := config(t)
			userNamespace(t, &cfg)
			if joined {
				first := running(t, cfg)
				cfg = config(t)
				userNamespace(t, &cfg)
				list := cfg.Spec.Linux.Namespaces
				list[len(list)-1].Path = fmt.Sprintf("/proc/%d/ns/user", first.Pid())
			}
			cfg.Spec.Mounts = append(cfg.Spec.Mounts, oci.Mount{Destination: "/data", Source: dir, Options: []string{"rbind", "idmap"}})
			c := running(t, cfg)
			if got := inside(t, c, "sh", "-c", "stat -c %u:%g /data; touch /data/new && stat -c %u /data/new"); got != "0:0\n0\n" {
				t.Errorf("inside: %q", got)
			}
			if got := owner(t, dir+"/new"); got != "0:0" {
				t.Errorf("on the host a new file belongs to %s", got)
			}
		})
	}
}

func TestMappingsOfAJoinedUserNamespaceMustBeItsOwn(t *testing.T) {
	needRoot(t)
	cfg := config(t)
	userNamespace(t, &cfg)
	first := running(t, cfg)
	cfg = config(t, "true")
	userNamespace(t, &cfg)
	list := cfg.Spec.Linux.Namespaces
	list[len(list)-1].Path = fmt.Sprintf("/proc/%d/ns/user", first.Pid())
	destroy(t, create(t, cfg))
	cfg.Spec.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 1}}
	if _, err := Create(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "linux.gidMappings: they differ") {
		t.Errorf("got %v", err)
	}
}

func TestATimeNamespaceWithOffsetsInAUserNamespace(t *testing.T) {
	needRoot(t)
	cfg := config(t)
	userNamespace(t, &cfg)
	cfg.Spec.Linux.Namespaces = append(cfg.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	cfg.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1_000_000, Nanosecs: 5}, "monotonic": {Secs: 77}}
	c := running(t, cfg)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/timens_offsets", c.Pid()))
	if got := strings.Join(strings.Fields(string(text)), " "); err != nil || got != "monotonic 77 0 boottime 1000000 5" {
		t.Errorf("offsets %q, %v", got, err)
	}
	of := fmt.Sprintf("/proc/%d/ns/time", c.Pid())
	init, _ := os.Readlink(of)
	if got := strings.TrimSpace(inside(t, c, "readlink", "/proc/self/ns/time")); got != init {
		t.Errorf("exec is in %s, the container in %s", got, init)
	}
	var up float64
	fmt.Sscan(inside(t, c, "cat", "/proc/uptime"), &up)
	if up < 1_000_000 {
		t.Errorf("exec sees an uptime of %v", up)
	}
	// Another container can live in it.
	cfg = config(t)
	cfg.Spec.Linux.Namespaces = append(cfg.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace, Path: of})
	second := running(t, cfg)
	if got, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/time", second.Pid())); got != init {
		t.Errorf("joined by path: %s, want %s", got, init)
	}
}
