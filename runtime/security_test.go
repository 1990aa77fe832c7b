package runtime

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/kernel"
	"berth/kernel/stage"
	oci "berth/oci/bundle"
)

func fileOf(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// A container's root owns what the host's root owns: a file of the host that it can name, also by a
// descriptor, it can take away from all others by a chmod.
func TestNoDeviceFileOfTheHostIsInAContainer(t *testing.T) {
	cfg := config(t)
	host := fileOf(t, "/dev/null")
	c := running(t, cfg)
	p, err := c.Exec(context.Background(), ExecConfig{Process: &oci.Process{Args: []string{"sleep", "1000"}, Cwd: "/", Env: []string{"PATH=/bin"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	defer p.kill()
	for _, pid := range []int{c.Pid(), p.Pid()} {
		for fd := range 3 {
			got := fileOf(t, fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
			if got.Ino == host.Ino && got.Dev == host.Dev {
				t.Errorf("descriptor %d of %d is the host's /dev/null", fd, pid)
			}
		}
	}
	if text := inside(t, c, "sh", "-c", "rm /dev/null; mkfifo /dev/null"); text != "" {
		t.Fatal(text)
	}
	if text := inside(t, c, "sh", "-c", "cat; chmod 666 /proc/self/fd/0 && echo changed"); !strings.Contains(text, "Read-only file system") || strings.Contains(text, "changed") {
		t.Errorf("without a /dev/null of the container's own: %q", text)
	}
	if text := inside(t, c, "sh", "-c", "chmod 666 /proc/keys && echo changed"); strings.Contains(text, "changed") {
		t.Error("who may be anybody changed a masked file")
	}
}

func TestProcBehindALinkThatLeadsNowhereIsRefused(t *testing.T) {
	needRoot(t)
	lower := layer(t)
	os.Remove(lower + "/proc")
	os.Symlink("/not/there", lower+"/proc")
	cfg := config(t, "true")
	cfg.Root = overlay(t, lower)
	if c, err := Create(context.Background(), cfg); err == nil {
		t.Error("/proc was mounted through a link")
		destroy(t, c)
	}
}

func TestNothingButProcIsMountedAtProc(t *testing.T) {
	needRoot(t)
	for _, tc := range []struct {
		mount oci.Mount
		ok    bool
	}{
		{oci.Mount{Destination: "/proc", Type: "tmpfs"}, false},
		{oci.Mount{Destination: "/proc", Source: t.TempDir(), Options: []string{"bind"}}, false},
		{oci.Mount{Destination: "/proc", Source: "/proc/self", Options: []string{"rbind"}}, true},
	} {
		cfg := config(t, "true")
		cfg.Spec.Mounts = append(cfg.Spec.Mounts, tc.mount)
		c, err := Create(context.Background(), cfg)
		if (err == nil) != tc.ok {
			t.Errorf("%+v: got %v", tc.mount, err)
		}
		if err == nil {
			destroy(t, c)
		}
	}
}

// An image brings device files: to open one can be an act, as of a watchdog, which the container
// itself is refused.
func TestUserFilesThatAreNoFilesAreNotOpened(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(dir+"/etc", 0o755)
	if err := unix.Mkfifo(dir+"/etc/passwd", 0o666); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, dir+"/etc/passwd", unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ResolveUser(root, "alice", nil); err == nil {
		t.Error("no error")
	}
	if n, _ := unix.Read(watch, make([]byte, 512)); n > 0 {
		t.Error("it was opened")
	}
}

// Who shares a volume with a container that fills it may exchange what was copied.
func TestAttributesAreNotGivenThroughALink(t *testing.T) {
	from, to, outside := t.TempDir(), t.TempDir(), t.TempDir()+"/file"
	write(t, from+"/f", "", 0o777)
	write(t, outside, "", 0o600)
	if err := os.Symlink(outside, to+"/f"); err != nil {
		t.Fatal(err)
	}
	var dirs [2]int
	for i, dir := range []string{from, to} {
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		dirs[i] = int(f.Fd())
	}
	if err := copyAttributes(dirs[0], dirs[1], "f"); err == nil {
		t.Error("no error")
	}
	if st := fileOf(t, outside); st.Mode&0o777 != 0o600 {
		t.Errorf("a file outside has mode %o now", st.Mode&0o777)
	}
}

// While a process is on its way into a container it is a copy of the program that made it
// (CVE-2016-9962).
func TestWhoEntersAContainerCannotBeLookedInto(t *testing.T) {
	needRoot(t)
	cfg := config(t)
	userNamespace(t, &cfg)
	caps := append([]string{"CAP_SYS_PTRACE"}, defaultCaps...)
	cfg.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	c := running(t, cfg)
	if text := inside(t, c, "sh", "-c", "ls /proc/1/fd >/dev/null && echo seen"); text != "seen\n" {
		t.Fatalf("the container's root does not even see its own: %q", text)
	}
	exec := ExecConfig{Process: &oci.Process{Args: []string{"true"}, Cwd: "/"}}
	b := newBuilder(c.spec, c.bundle)
	defer b.release()
	b.ns, b.userns = &namespaces{}, true
	opt, err := b.compileExec(c, &exec, exec.Process)
	if err != nil {
		t.Fatal(err)
	}
	child, err := stage.Start(b.p, opt)
	if err != nil {
		t.Fatal(err)
	}
	// It waits in the container's namespaces until Receive has told us its new pid.
	defer func() {
		child.Receive()
		child.Close()
		unix.Wait4(child.Pid, nil, 0, nil)
	}()
	var text string
	for deadline := time.Now().Add(10 * time.Second); text == "" && time.Now().Before(deadline); {
		text = inside(t, c, "sh", "-c", `for p in /proc/[0-9]*; do
			grep -q '^Uid:[[:space:]]*65534' $p/status 2>/dev/null && { echo there; readlink $p/cwd; }; done 2>/dev/null`)
	}
	if text != "there\n" {
		t.Errorf("the container's root sees %q", text)
	}
}

// without leaves out the mounts at and below a path.
func without(list []oci.Mount, at string) []oci.Mount {
	return slices.DeleteFunc(slices.Clone(list), func(m oci.Mount) bool {
		return m.Destination == at || strings.HasPrefix(m.Destination, at+"/")
	})
}

// What covers a file is the host's null device, whatever the image calls /dev/null (CVE-2025-31133).
func TestFilesAreMaskedByNothingOfTheImages(t *testing.T) {
	needRoot(t)
	lower := layer(t)
	os.Mkdir(lower+"/victim", 0o755)
	write(t, lower+"/victim/file", "secret", 0o644)
	write(t, lower+"/other", "another", 0o644)
	os.Symlink("/other", lower+"/dev/null")
	cfg := config(t)
	cfg.Root = overlay(t, lower)
	cfg.Spec.Mounts = without(cfg.Spec.Mounts, "/dev")
	cfg.Spec.Linux.MaskedPaths = []string{"/victim/file"}
	stdio, err := os.Open("/proc/version") // nil ones would need a /dev/null
	if err != nil {
		t.Fatal(err)
	}
	defer stdio.Close()
	cfg.Stdio = [3]*os.File{stdio, stdio, stdio}
	c := running(t, cfg)
	st := fileOf(t, fmt.Sprintf("/proc/%d/root/victim/file", c.Pid()))
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("the file is covered by one of mode %o, device %d", st.Mode, st.Rdev)
	}
}

// The terminal does not come where the image's /dev/console leads (CVE-2025-52565), and what the
// image puts in the place of the terminals is not opened.
func TestATerminalIsNotMountedThroughALink(t *testing.T) {
	needRoot(t)
	for _, tc := range []struct{ name, from, to, keep string }{
		{"console", "/dev/console", "/proc/sysrq-trigger", "/dev/pts"},
		{"terminals", "/dev/pts", "/tmp", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lower := layer(t)
			if err := os.Symlink(tc.to, lower+tc.from); err != nil {
				t.Fatal(err)
			}
			cfg := config(t, "true")
			cfg.Root = overlay(t, lower)
			mounts := without(cfg.Spec.Mounts, "/dev")
			for _, m := range cfg.Spec.Mounts {
				if m.Destination == tc.keep {
					mounts = append(mounts, m)
				}
			}
			cfg.Spec.Mounts, cfg.Spec.Process.Terminal = mounts, true
			c, err := Create(context.Background(), cfg)
			if err == nil {
				t.Errorf("mounts: %v", mountsOf(t, c.Pid()))
				destroy(t, c)
			}
		})
	}
}

// Parameters go to the kernel, whatever the image has at /proc (CVE-2025-52881).
func TestSysctlsAreNotWrittenToFilesOfTheImage(t *testing.T) {
	needRoot(t)
	lower := layer(t)
	fake := lower + "/proc/sys/net/ipv4"
	if err := os.MkdirAll(fake, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, lower+"/trigger", "", 0o666)
	os.Symlink("/trigger", fake+"/ip_forward")
	cfg := config(t)
	cfg.Root = overlay(t, lower)
	cfg.Spec.Mounts = without(cfg.Spec.Mounts, "/proc")
	cfg.Spec.Linux.MaskedPaths, cfg.Spec.Linux.ReadonlyPaths = nil, nil
	cfg.Spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
	c := running(t, cfg)
	if text := inside(t, c, "sh", "-c", "cat /trigger; echo done"); text != "done\n" {
		t.Errorf("the image's file holds %q", text)
	}
	var forward []byte
	kernel.OnOwnThread(func() {
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", c.Pid()))
		if err != nil {
			t.Error(err)
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		forward, _ = os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	})
	if string(forward) != "1\n" {
		t.Errorf("the kernel has %q", forward)
	}
}
