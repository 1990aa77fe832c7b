package runtime

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	oci "berth/oci/bundle"
)

// mountsOf maps mount points of a process to their options, the newest last.
// The mark that a volatile overlay leaves must not keep the container from a second run.
func TestAVolatileRootIsMountedAgain(t *testing.T) {
	needRoot(t)
	cfg := config(t, "sh", "-c", "echo x >>/kept; grep -c x /kept; grep -c ' / .*volatile' /proc/self/mountinfo")
	cfg.Root.Volatile = true
	for _, want := range []string{"1\n1\n", "2\n1\n"} {
		if got, _ := output(t, cfg); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	cfg.Root.Volatile = false
	if got, _ := output(t, cfg); got != "3\n0\n" {
		t.Errorf("got %q after volatile runs", got)
	}
}

func mountsOf(t testing.TB, pid int) map[string]string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		_, right, _ := strings.Cut(line, " - ")
		m[f[4]] = f[5] + " " + strings.Join(f[6:], " ") + " " + strings.TrimSpace(right)
	}
	return m
}

func TestOnlyTheContainersOwnMountsAreThere(t *testing.T) {
	cfg := config(t)
	c := running(t, cfg)
	var got []string
	for at := range mountsOf(t, c.Pid()) {
		if !strings.HasPrefix(at, "/sys/fs/cgroup/") && !strings.HasPrefix(at, "/proc/") && !strings.HasPrefix(at, "/sys/firmware") && !strings.HasPrefix(at, "/sys/devices") {
			got = append(got, at)
		}
	}
	slices.Sort(got)
	want := []string{"/", "/dev", "/dev/mqueue", "/dev/pts", "/dev/shm", "/proc", "/sys", "/sys/fs/cgroup"}
	if !slices.Equal(got, want) {
		t.Errorf("mounts %v", got)
	}
	host, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(host), cfg.Root.Upper) {
		t.Errorf("the host has a mount of the container:\n%s", host)
	}
}

func TestMountOptionsReachTheKernel(t *testing.T) {
	cfg := config(t)
	cfg.Spec.Mounts = append(cfg.Spec.Mounts,
		oci.Mount{Destination: "/m/a", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "size=1m"}},
		oci.Mount{Destination: "/m/b", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "suid", "nodev", "dev", "ro", "rw", "nosymfollow", "strictatime", "mode=0711"}},
		oci.Mount{Destination: "/m/c", Type: "tmpfs", Source: "tmpfs", Options: []string{"sync", "dirsync", "relatime", "rshared"}},
		oci.Mount{Destination: "/m/d", Type: "tmpfs", Source: "tmpfs", Options: []string{"unbindable"}},
	)
	c := running(t, cfg)
	m := mountsOf(t, c.Pid())
	for at, want := range map[string][]string{
		"/m/a": {"ro,", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "size=1024k"},
		"/m/b": {"rw,nosymfollow ", "mode=711"},
		"/m/c": {"rw,relatime ", "shared:", "sync,dirsync"},
		"/m/d": {"unbindable"},
	} {
		for _, w := range want {
			if !strings.Contains(m[at], w) {
				t.Errorf("%s: %q has no %q", at, m[at], w)
			}
		}
	}
}

func TestATmpfsKeepsTheModeOfTheDirectoryItCovers(t *testing.T) {
	needRoot(t)
	cfg := shell(t, "stat -c %a /tmp /root/new")
	cfg.Spec.Mounts = append(cfg.Spec.Mounts, oci.Mount{Destination: "/tmp", Type: "tmpfs"}, oci.Mount{Destination: "/root/new", Type: "tmpfs"})
	if text, _ := output(t, cfg); text != "1777\n755\n" {
		t.Errorf("got %q", text)
	}
}

func TestBindMountsOfFilesAndDirectories(t *testing.T) {
	needRoot(t)
	needMountSetattr(t)
	dir := t.TempDir()
	os.Mkdir(dir+"/sub", 0o755)
	write(t, dir+"/file", "from the host\n", 0o644)
	if err := unix.Mount("tmpfs", dir+"/sub", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir+"/sub", 0) })
	write(t, dir+"/sub/deep", "deep\n", 0o644)
	cfg := config(t)
	cfg.Bundle = dir
	cfg.Spec.Mounts = append(cfg.Spec.Mounts,
		oci.Mount{Destination: "/etc/new/file", Type: "bind", Source: dir + "/file", Options: []string{"bind", "ro"}},
		oci.Mount{Destination: "/plain", Type: "bind", Source: dir, Options: []string{"bind"}},
		oci.Mount{Destination: "/rec", Source: dir, Options: []string{"rbind", "ro", "rprivate"}},
		oci.Mount{Destination: "/rro", Source: dir, Options: []string{"rbind", "rro", "nosuid", "rslave"}},
		oci.Mount{Destination: "/relative", Source: "sub", Options: []string{"rbind", "noexec", "nodev", "noatime"}},
	)
	c := running(t, cfg)
	text := inside(t, c, "sh", "-c", `cat /etc/new/file; ls /plain/sub; cat /rec/sub/deep
		touch /etc/new/file 2>/dev/null || echo ro1; touch /rec/x 2>/dev/null || echo ro2
		touch /rec/sub/x 2>/dev/null && echo rw3; touch /rro/sub/y 2>/dev/null || echo ro4; touch /relative/z && echo rw5`)
	if text != "from the host\ndeep\nro1\nro2\nrw3\nro4\nrw5\n" {
		t.Errorf("got %q", text)
	}
	m := mountsOf(t, c.Pid())
	if !strings.Contains(m["/relative"], "nodev,noexec,noatime") || !strings.Contains(m["/rro"], "ro,nosuid") {
		t.Errorf("options: %q, %q", m["/relative"], m["/rro"])
	}
	for at, o := range m {
		if strings.Contains(o, "shared:") {
			t.Errorf("%s is shared with the host: %s", at, o)
		}
	}
}

func TestPropagationOfABindMount(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	os.Mkdir(dir+"/late", 0o755)
	os.Mkdir(dir+"/back", 0o755)
	cfg := config(t)
	cfg.Spec.Process.Capabilities.Bounding = append(slices.Clone(defaultCaps), "CAP_SYS_ADMIN")
	for _, p := range []string{"private", "slave", "shared"} {
		cfg.Spec.Mounts = append(cfg.Spec.Mounts, oci.Mount{Destination: "/" + p, Source: dir, Options: []string{"rbind", "r" + p}})
	}
	c := running(t, cfg)
	if err := unix.Mount("tmpfs", dir+"/late", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir+"/late", 0)
	m := mountsOf(t, c.Pid())
	if m["/private/late"] != "" || m["/slave/late"] == "" || m["/shared/late"] == "" {
		t.Errorf("private %q, slave %q, shared %q", m["/private/late"], m["/slave/late"], m["/shared/late"])
	}
}

func TestMountTargetsNeverLeaveTheRoot(t *testing.T) {
	needRoot(t)
	outside := t.TempDir()
	lower := layer(t)
	os.Symlink(outside, lower+"/absolute")
	os.Symlink("../../../../../../.."+outside, lower+"/dots")
	os.Symlink("/proc/self/root"+outside, lower+"/magic")
	os.Symlink("bin", lower+"/inside")
	// The targets of the links exist in the root, too.
	os.MkdirAll(lower+outside, 0o755)
	source := t.TempDir()
	for _, link := range []string{"/absolute", "/dots", "/inside"} {
		cfg := config(t)
		cfg.Root = overlay(t, lower)
		cfg.Spec.Mounts = append(cfg.Spec.Mounts,
			oci.Mount{Destination: link + "/new/dir", Source: source, Options: []string{"bind"}},
			oci.Mount{Destination: link + "/t", Type: "tmpfs"})
		c := running(t, cfg)
		want := map[string]string{"/absolute": outside, "/dots": outside, "/inside": "/bin"}[link]
		m := mountsOf(t, c.Pid())
		if m[want+"/new/dir"] == "" || m[want+"/t"] == "" {
			t.Errorf("%s: mounts %v", link, m)
		}
	}
	cfg := config(t, "true")
	cfg.Root = overlay(t, lower)
	cfg.Spec.Mounts = append(cfg.Spec.Mounts, oci.Mount{Destination: "/magic/x", Source: source, Options: []string{"bind"}})
	if c, err := Create(context.Background(), cfg); err == nil {
		t.Error("a magic link was followed")
		destroy(t, c)
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("something was made outside: %v", entries)
	}
}

func TestProcCannotBeCovered(t *testing.T) {
	needRoot(t)
	lower := layer(t)
	os.Symlink("/proc", lower+"/link")
	source := t.TempDir()
	file := source + "/file"
	write(t, file, "fake\n", 0o644)
	for _, tc := range []struct {
		mount oci.Mount
		ok    bool
	}{
		{oci.Mount{Destination: "/proc/self/attr", Source: source, Options: []string{"bind"}}, false},
		{oci.Mount{Destination: "/proc/../proc/sys", Type: "tmpfs"}, false},
		{oci.Mount{Destination: "/link", Type: "tmpfs"}, false},
		{oci.Mount{Destination: "/link/sys", Source: source, Options: []string{"bind"}}, false},
		{oci.Mount{Destination: "/proc/uptime", Source: file, Options: []string{"bind"}}, true},
	} {
		t.Run(tc.mount.Destination, func(t *testing.T) {
			cfg := config(t, "true")
			cfg.Root = overlay(t, lower)
			cfg.Spec.Mounts = append(cfg.Spec.Mounts, tc.mount)
			c, err := Create(context.Background(), cfg)
			if (err == nil) != tc.ok {
				t.Errorf("got %v", err)
			}
			if err == nil {
				destroy(t, c)
			}
		})
	}
	// A /proc that is a link would take the masks elsewhere.
	os.Rename(lower+"/proc", lower+"/real")
	os.Symlink("real", lower+"/proc")
	cfg := config(t, "true")
	cfg.Root = overlay(t, lower)
	if c, err := Create(context.Background(), cfg); err == nil {
		t.Error("/proc was mounted through a link")
		destroy(t, c)
	}
}

func TestMaskedAndReadOnlyPaths(t *testing.T) {
	c := running(t, config(t))
	text := inside(t, c, "sh", "-c", `cat /proc/keys; ls /proc/acpi; ls /sys/firmware
		stat -c %F /proc/keys; echo 1 2>/dev/null > /proc/sys/kernel/hostname || echo ro
		touch /sys/x 2>/dev/null || echo ro; touch /sys/firmware/x 2>/dev/null || echo ro; cat /proc/no/such 2>/dev/null || true`)
	if text != "character special file\nro\nro\nro\n" {
		t.Errorf("got %q", text)
	}
	if m := mountsOf(t, c.Pid()); !strings.HasPrefix(m["/proc/sys"], "ro,nosuid,nodev,noexec") || !strings.HasPrefix(m["/sys/firmware"], "ro,") {
		t.Errorf("mounts: %q %q", m["/proc/sys"], m["/sys/firmware"])
	}
}

func TestAReadOnlyRoot(t *testing.T) {
	needRoot(t)
	cfg := shell(t, "touch /x 2>&1; touch /tmp/x && echo tmp; touch /dev/shm/x && echo shm; echo y > /dev/null && echo null")
	cfg.Spec.Root = &specs.Root{Readonly: true}
	cfg.Spec.Mounts = append(cfg.Spec.Mounts, oci.Mount{Destination: "/tmp", Type: "tmpfs"})
	if text, _ := output(t, cfg); text != "touch: /x: Read-only file system\ntmp\nshm\nnull\n" {
		t.Errorf("got %q", text)
	}
}

func TestRootsOfEveryShape(t *testing.T) {
	needRoot(t)
	lower, empty := layer(t), t.TempDir()
	var many []string
	for i := range 40 {
		dir := t.TempDir()
		write(t, fmt.Sprintf("%s/from%d", dir, i), "", 0o644)
		many = append(many, dir)
	}
	up := overlay(t)
	bundle := t.TempDir()
	os.Rename(layer(t), bundle+"/rootfs")
	for _, tc := range []struct {
		name         string
		root         oci.Rootfs
		script, want string
		mounts       bool
	}{
		{"layers and an upper directory", overlay(t, append(many, lower)...), "touch /x && ls / | grep -c from", "40\n", true},
		{"one layer, read-only", oci.Rootfs{Lower: []string{lower}}, "touch /x 2>/dev/null || echo ro", "ro\n", false},
		{"several layers, read-only", oci.Rootfs{Lower: []string{empty, lower}}, "touch /x 2>/dev/null || echo ro", "ro\n", false},
		{"a directory in the bundle", oci.Rootfs{}, "touch /x && echo rw", "rw\n", true},
		{"an absolute directory", oci.Rootfs{Path: bundle + "/rootfs"}, "touch /x && echo rw", "rw\n", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := shell(t, tc.script)
			cfg.Root, cfg.Bundle = tc.root, bundle
			if tc.root.Path == "" && tc.root.Lower == nil {
				cfg.Spec.Root = &specs.Root{Path: "rootfs"}
			}
			if !tc.mounts { // mount points cannot be made
				cfg.Spec.Mounts = cfg.Spec.Mounts[:2]
				cfg.Spec.Linux.ReadonlyPaths = nil
			}
			if text, _ := output(t, cfg); text != tc.want {
				t.Errorf("got %q", text)
			}
		})
	}
	if _, err := os.Lstat(filepath.Join(lower, "x")); err == nil {
		t.Error("a lower layer was written to")
	}
	cfg := config(t, "/x")
	cfg.Root = oci.Rootfs{Upper: up.Upper, Work: up.Work}
	cfg.Spec.Mounts = nil
	c := create(t, cfg) // an image of no layers can be made, and has no program
	if err := c.Start(context.Background()); !fail.Is(err, fail.NotFound) {
		t.Errorf("got %v", err)
	}
	for _, root := range []oci.Rootfs{{Path: "/no/such"}, {Lower: []string{"/no/such"}}, overlay(t, lower, "/no/such"), {Path: "/etc/passwd"}} {
		cfg := config(t, "true")
		cfg.Root = root
		if _, err := Create(context.Background(), cfg); !fail.Is(err, fail.NotFound) {
			t.Errorf("%v: got %v", root, err)
		}
	}
}

func TestDevicesAndLinks(t *testing.T) {
	c := running(t, config(t))
	text := inside(t, c, "sh", "-c", `stat -c '%n %F %t:%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty
		for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; ls /dev`)
	want := `/dev/null character special file 1:3 666
/dev/zero character special file 1:5 666
/dev/full character special file 1:7 666
/dev/random character special file 1:8 666
/dev/urandom character special file 1:9 666
/dev/tty character special file 5:0 666
/proc/self/fd
/proc/self/fd/0
/proc/self/fd/1
/proc/self/fd/2
pts/ptmx
fd
full
mqueue
null
ptmx
pts
random
shm
stderr
stdin
stdout
tty
urandom
zero
`
	if text != want {
		t.Errorf("got:\n%s", text)
	}
}

func TestTheContainerSeesItsOwnCgroups(t *testing.T) {
	c := running(t, config(t))
	text := inside(t, c, "cat", "/proc/self/cgroup")
	for line := range strings.Lines(text) {
		if !strings.HasSuffix(line, ":/\n") && !strings.HasPrefix(line, "0::") {
			t.Errorf("a path outside is seen: %q", line)
		}
	}
	if got := inside(t, c, "sh", "-c", "cat /sys/fs/cgroup/memory/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null | head -n 1; touch /sys/fs/cgroup/x 2>/dev/null || echo ro"); got != "1\nro\n" {
		t.Errorf("got %q", got)
	}
}

func TestMountOptionsThatCannotBe(t *testing.T) {
	for _, list := range [][]string{{"bind", "nonsense"}, {"rbind", "size"}} {
		if _, err := parseMountOptions(list); err == nil {
			t.Errorf("%v: no error", list)
		}
	}
}

func TestSysctlNames(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward": "net/ipv4/ip_forward", "net/ipv4/ip_forward": "net/ipv4/ip_forward",
		"net.ipv4.conf.eth0/1.forwarding": "net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding": "net/ipv4/conf/eth0.1/forwarding",
		"": "", "..": "", "net//x": "", "net/../../x": "",
	} {
		if got := sysctlPath(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestRecursiveOptionsReachTheMountsBelow(t *testing.T) {
	needRoot(t)
	needMountSetattr(t)
	dir := tmpfs(t, t.TempDir()+"/m")
	tmpfs(t, dir+"/below")
	var mounts []oci.Mount
	want := map[string][2]string{ // what mountinfo has for the mount itself and for the one below
		"rro": {"ro,", "ro,"}, "rnosuid": {"nosuid", "nosuid"}, "rnodev": {"nodev", "nodev"}, "rnoexec": {"noexec", "noexec"}, "rnosymfollow": {"nosymfollow", "nosymfollow"},
		"rnodiratime": {"nodiratime", "nodiratime"}, "rnoatime": {"noatime", "noatime"}, "rrelatime": {"relatime", "relatime"}, "rstrictatime": {"rw ", "rw "},
		"nosuid,rsuid": {"rw,relatime", "rw,relatime"}, "ro": {"ro,", "rw,"}, "noatime,ratime": {"rw,relatime", "rw,relatime"},
	}
	for options := range want {
		mounts = append(mounts, oci.Mount{Destination: "/" + options, Source: dir, Options: append([]string{"rbind"}, strings.Split(options, ",")...)})
	}
	cfg := config(t)
	cfg.Spec.Mounts = append(cfg.Spec.Mounts, mounts...)
	m := mountsOf(t, running(t, cfg).Pid())
	for options, w := range want {
		for i, at := range []string{"/" + options, "/" + options + "/below"} {
			if got := m[at]; !strings.Contains(got, w[i]) {
				t.Errorf("%s: %q has no %q", at, got, w[i])
			}
		}
	}
}

func TestEveryMountOptionOfTheSpecificationIsKnown(t *testing.T) {
	table := strings.Fields( // config.md, "Linux mount options"
		`async atime defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime noexec
		noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rdev rdiratime relatime remount rexec rnoatime rnodiratime
		rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw
		shared silent slave strictatime suid sync symfollow tmpcopyup unbindable idmap ridmap`)
	for _, o := range table {
		if got, err := parseMountOptions([]string{"bind", o}); err != nil || len(got.data) > 0 {
			t.Errorf("%s: %+v, %v", o, got, err)
		}
	}
	known := MountOptions()
	for _, o := range append(table, "bind", "rbind") {
		if !slices.Contains(known, o) {
			t.Errorf("%s is missing in %v", o, known)
		}
	}
}

func TestThePropagationOfTheRoot(t *testing.T) {
	needRoot(t)
	host := tmpfs(t, t.TempDir()+"/m")
	if err := unix.Mount("", host, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", layer(t), host+"/root").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	os.Mkdir(host+"/root/late", 0o755)
	for _, tc := range []struct {
		how, want string
		late      bool // a later mount on the host is seen
	}{{"", "master:", true}, {"shared", "shared:", true}, {"slave", "master:", true}, {"private", "", false}, {"unbindable", "unbindable", false},
		{"rshared", "shared:", true}, {"rslave", "master:", true}, {"rprivate", "", false}, {"runbindable", "unbindable", false}} {
		t.Run(tc.how, func(t *testing.T) {
			cfg := config(t)
			cfg.Root = oci.Rootfs{Path: host + "/root"}
			cfg.Spec.Linux.RootfsPropagation = tc.how
			c := running(t, cfg)
			tmpfs(t, host+"/root/late")
			m := mountsOf(t, c.Pid())
			tags, _, _ := strings.Cut(m["/"], " - ")
			if tc.want != "" && !strings.Contains(tags, tc.want) || tc.want == "" && strings.ContainsAny(tags, ":") {
				t.Errorf("the root is %q, want %q", tags, tc.want)
			}
			if m["/dev"] == "" || (m["/late"] != "") != tc.late {
				t.Errorf("a later mount of the host: %q", m["/late"])
			}
			inner, _ := os.ReadFile("/proc/self/mountinfo")
			if strings.Contains(string(inner), host+"/root/proc") {
				t.Error("the host sees mounts of the container")
			}
		})
	}
}

func TestMountPointsBehindLinksThatLeadNowhereAreMade(t *testing.T) {
	needRoot(t)
	lower := layer(t)
	os.Symlink("../run/resolve/stub.conf", lower+"/etc/resolv.conf")
	os.Symlink("/var/../opt/x", lower+"/etc/dir")
	os.Symlink("loop", lower+"/etc/loop")
	os.Symlink("/../../../outside", lower+"/etc/up")
	source := t.TempDir()
	write(t, source+"/file", "nameserver\n", 0o644)
	cfg := config(t)
	cfg.Root = overlay(t, lower)
	cfg.Spec.Mounts = append(cfg.Spec.Mounts,
		oci.Mount{Destination: "/etc/resolv.conf", Source: source + "/file", Options: []string{"bind"}},
		oci.Mount{Destination: "/etc/dir/sub", Source: source, Options: []string{"bind"}},
		oci.Mount{Destination: "/etc/up", Type: "tmpfs"})
	m := mountsOf(t, running(t, cfg).Pid())
	for _, at := range []string{"/run/resolve/stub.conf", "/opt/x/sub", "/outside"} {
		if m[at] == "" {
			t.Errorf("nothing is mounted at %s: %v", at, m)
		}
	}
	cfg = config(t, "true")
	cfg.Root = overlay(t, lower)
	cfg.Spec.Mounts = append(cfg.Spec.Mounts, oci.Mount{Destination: "/etc/loop", Type: "tmpfs"})
	if _, err := Create(context.Background(), cfg); err == nil {
		t.Error("a link to itself was mounted at")
	}
}

func TestDevicesOfTheSpecificationAreMadeAsListed(t *testing.T) {
	needRoot(t)
	mode, uid, gid := os.FileMode(0o640), uint32(5), uint32(6)
	lower := layer(t)
	write(t, lower+"/etc/file", "", 0o644)
	if err := unix.Mknod(lower+"/etc/there", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	cfg := config(t)
	cfg.Root = overlay(t, lower)
	cfg.Spec.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, FileMode: &mode, UID: &uid, GID: &gid},
		{Path: "/dev/sub/disk", Type: "b", Major: 7, Minor: 300},
		{Path: "/srv/pipe", Type: "p", FileMode: &mode},
		{Path: "/dev/zero", Type: "u", Major: 1, Minor: 5, FileMode: &mode},
		{Path: "/etc/there", Type: "c", Major: 1, Minor: 3},
	}
	c := running(t, cfg)
	got := inside(t, c, "stat", "-c", "%n %F %t:%T %a %u:%g", "/dev/fuse", "/dev/sub/disk", "/srv/pipe", "/dev/zero", "/etc/there")
	want := `/dev/fuse character special file a:e5 640 5:6
/dev/sub/disk block special file 7:12c 666 0:0
/srv/pipe fifo 0:0 640 0:0
/dev/zero character special file 1:5 640 0:0
/etc/there character special file 1:3 600 0:0
`
	if got != want {
		t.Errorf("got:\n%s", got)
	}
	for _, d := range []specs.LinuxDevice{{Path: "/etc/file", Type: "c", Major: 1, Minor: 3}, {Path: "/etc/there", Type: "c", Major: 1, Minor: 5}, {Path: "/etc/there", Type: "p"}} {
		cfg := config(t, "true")
		cfg.Root = overlay(t, lower)
		cfg.Spec.Linux.Devices = []specs.LinuxDevice{d}
		if _, err := Create(context.Background(), cfg); err == nil || !strings.HasSuffix(err.Error(), "create device "+d.Path+": file exists") {
			t.Errorf("%s %s %d: %v", d.Path, d.Type, d.Minor, err)
		}
	}
}
