package runtime

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	oci "berth/oci/bundle"
)

// needRoot skips tests that make real containers.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("needs /bin/busybox")
	}
}

// layer makes a root file system of busybox.
func layer(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "root", "home/alice"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.Chmod(filepath.Join(dir, "tmp"), os.ModeSticky|0o777)
	text, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "bin/busybox"), string(text), 0o755)
	for _, name := range []string{"sh", "cat", "true", "false", "sleep", "id", "ls", "mount", "hostname", "stat", "tty", "stty",
		"readlink", "env", "echo", "ps", "touch", "mkdir", "pwd", "grep", "ip", "test", "kill", "head", "mkfifo", "umask", "rm", "umount"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\n", 0o644)
	write(t, filepath.Join(dir, "etc/group"), "root:x:0:\nalice:x:1001:\nwheel:x:10:root,alice\n", 0o644)
	return dir
}

func write(t testing.TB, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// overlay makes a root that is written to in its own upper directory.
func overlay(t testing.TB, lower ...string) oci.Rootfs {
	t.Helper()
	dir := t.TempDir()
	r := oci.Rootfs{Lower: lower, Upper: dir + "/upper", Work: dir + "/work"}
	os.Mkdir(r.Upper, 0o755)
	os.Mkdir(r.Work, 0o755)
	return r
}

var defaultCaps = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}

// config is a container as Docker would make it.
func config(t testing.TB, args ...string) Config {
	t.Helper()
	id := fmt.Sprintf("berth-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	return Config{ID: id, Root: overlay(t, layer(t)), Spec: &oci.Spec{
		Version: specs.Version,
		Process: &oci.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin", "HOME=/root"},
			Capabilities: &specs.LinuxCapabilities{Bounding: defaultCaps, Effective: defaultCaps, Permitted: defaultCaps},
		},
		Hostname: "box",
		Mounts: []oci.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=64m"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.CgroupNamespace}},
			MaskedPaths:   []string{"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}}
}

// create makes a container that is destroyed at the end of the test.
func create(t testing.TB, cfg Config) *Container {
	t.Helper()
	needRoot(t)
	c, err := Create(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { destroy(t, c) })
	return c
}

func destroy(t testing.TB, c *Container) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.Destroy(ctx); err != nil {
		t.Error(err)
	}
}

// running is a container whose process sleeps.
func running(t testing.TB, cfg Config) *Container {
	t.Helper()
	cfg.Spec.Process.Args = []string{"sleep", "1000"}
	c := create(t, cfg)
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return c
}

// output runs a container to its end and tells what it wrote.
func output(t testing.TB, cfg Config) (string, Exit) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cfg.Stdio[1], cfg.Stdio[2] = w, w
	c, err := Create(context.Background(), cfg)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer destroy(t, c)
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	exit, err := c.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return string(text), exit
}

// inside runs a command in a running container.
func inside(t testing.TB, c *Container, args ...string) string {
	t.Helper()
	return insideAs(t, c, &oci.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}})
}

func insideAs(t testing.TB, c *Container, proc *oci.Process) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := c.Exec(context.Background(), ExecConfig{Process: proc, Stdio: [3]*os.File{nil, w, w}})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	text, _ := io.ReadAll(r)
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func shell(t testing.TB, script string) Config {
	return config(t, "sh", "-c", script)
}

func TestAContainerRunsAndTellsItsExitCode(t *testing.T) {
	needRoot(t)
	text, exit := output(t, shell(t, "echo hello; hostname; echo $$; exit 7"))
	if text != "hello\nbox\n1\n" {
		t.Errorf("output %q", text)
	}
	if exit.Code != 7 || exit.Signal != 0 {
		t.Errorf("exit %+v", exit)
	}
}

func TestASignalIsTheExitCodeAbove128(t *testing.T) {
	c := running(t, config(t))
	if err := c.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exit, err := c.Wait()
	if err != nil || exit.Code != 137 || exit.Signal != unix.SIGKILL {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

func TestExecEntersTheContainer(t *testing.T) {
	c := running(t, config(t))
	for _, ns := range []string{"mnt", "net", "uts", "pid", "ipc", "cgroup"} {
		init, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.Pid(), ns))
		if err != nil {
			t.Fatal(err)
		}
		got := strings.TrimSpace(inside(t, c, "readlink", "/proc/self/ns/"+ns))
		own, _ := os.Readlink("/proc/self/ns/" + ns)
		if got != init || got == own {
			t.Errorf("%s: exec has %s, init %s, the host %s", ns, got, init, own)
		}
	}
}
