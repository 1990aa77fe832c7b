package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	oci "berth/oci/bundle"
)

// status is a field of /proc/PID/status.
func status(t testing.TB, pid int, field string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if k, v, _ := strings.Cut(line, ":"); k == field {
			return strings.TrimSpace(v)
		}
	}
	t.Fatalf("no field %s", field)
	return ""
}

func TestEveryKindOfNamespaceIsNewAndTheOthersAreShared(t *testing.T) {
	cfg := config(t)
	cfg.Spec.Linux.Namespaces = append(cfg.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	cfg.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1_000_000}}
	c := running(t, cfg)
	for _, k := range namespaceKinds {
		own, _ := os.Readlink("/proc/self/ns/" + k.file)
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.Pid(), k.file))
		if err != nil {
			t.Fatal(err)
		}
		if shared := own == theirs; shared != (k.kind == specs.UserNamespace) {
			t.Errorf("%s: the container has %s, the host %s", k.kind, theirs, own)
		}
	}
	var up float64
	fmt.Sscan(inside(t, c, "cat", "/proc/uptime"), &up)
	if up < 1_000_000 {
		t.Errorf("uptime %v without the offset", up)
	}
	if got := inside(t, c, "cat", "/sys/class/net/lo/operstate", "/sys/class/net/lo/flags"); !strings.Contains(got, "0x9") {
		t.Errorf("lo is not up: %q", got)
	}
}

func TestNamespacesAreJoinedByPath(t *testing.T) {
	first := running(t, config(t))
	cfg := config(t)
	cfg.Spec.Hostname = ""
	for i, ns := range cfg.Spec.Linux.Namespaces {
		for _, k := range namespaceKinds {
			if k.kind == ns.Type && ns.Type != specs.MountNamespace {
				cfg.Spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/%s", first.Pid(), k.file)
			}
		}
	}
	second := running(t, cfg)
	for _, file := range []string{"net", "uts", "pid", "ipc", "cgroup"} {
		a, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", first.Pid(), file))
		b, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", second.Pid(), file))
		if err != nil || a != b {
			t.Errorf("%s: %s and %s, %v", file, a, b, err)
		}
	}
	if ppid := status(t, second.Pid(), "PPid"); ppid != fmt.Sprint(os.Getpid()) {
		t.Errorf("the parent is %s, want this process", ppid)
	}
	if got := inside(t, second, "hostname"); got != "box\n" {
		t.Errorf("host name %q", got)
	}
	// The second one's death is its own.
	destroy(t, second)
	if !first.Alive() {
		t.Error("the first container died with the second one")
	}
}

// userNamespace gives a configuration a user namespace whose root is host id 100000.
func userNamespace(t testing.TB, cfg *Config) {
	cfg.Spec.Linux.Namespaces = append(cfg.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	cfg.Spec.Linux.UIDMappings, cfg.Spec.Linux.GIDMappings = maps, maps
	for _, dir := range append([]string{cfg.Root.Upper, cfg.Root.Work}, cfg.Root.Lower...) {
		filepath.WalkDir(dir, func(path string, _ os.DirEntry, _ error) error {
			return os.Lchown(path, 100000, 100000)
		})
		// The directories above belong to root and must be passable.
		for d := filepath.Dir(dir); d != "/" && d != "/tmp"; d = filepath.Dir(d) {
			os.Chmod(d, 0o755)
		}
	}
}

func TestANewUserNamespaceMapsRoot(t *testing.T) {
	needRoot(t)
	cfg := config(t)
	userNamespace(t, &cfg)
	c := running(t, cfg)
	if uid := status(t, c.Pid(), "Uid"); !strings.HasPrefix(uid, "100000") {
		t.Errorf("init runs as %s on the host", uid)
	}
	text := inside(t, c, "sh", "-c", "id -u; id -g; echo x > /dev/null && echo null; touch /made && stat -c %u /made; cat /proc/self/uid_map; readlink /proc/self/ns/user")
	lines := strings.Fields(text)
	own, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", c.Pid()))
	want := []string{"0", "0", "null", "0", "0", "100000", "65536", own}
	if strings.Join(lines, " ") != strings.Join(want, " ") {
		t.Errorf("got %v, want %v", lines, want)
	}
	if st, err := os.Stat(cfg.Root.Upper + "/made"); err != nil || fmt.Sprint(st.Sys()) == "" {
		t.Errorf("the file is not in the upper directory: %v", err)
	}
}

func TestAUserNamespaceIsJoinedByPathWithNewOnesBesideIt(t *testing.T) {
	needRoot(t)
	cfg := config(t)
	userNamespace(t, &cfg)
	first := running(t, cfg)
	cfg = config(t)
	userNamespace(t, &cfg)
	cfg.Spec.Linux.UIDMappings, cfg.Spec.Linux.GIDMappings = nil, nil
	for i, ns := range cfg.Spec.Linux.Namespaces {
		switch ns.Type {
		case specs.UserNamespace:
			cfg.Spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/user", first.Pid())
		case specs.NetworkNamespace:
			cfg.Spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/net", first.Pid())
		}
	}
	second := running(t, cfg)
	for file, same := range map[string]bool{"user": true, "net": true, "pid": false, "mnt": false, "uts": false} {
		a, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", first.Pid(), file))
		b, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", second.Pid(), file))
		if (a == b) != same {
			t.Errorf("%s: %s and %s", file, a, b)
		}
	}
	if got := inside(t, second, "sh", "-c", "id -u; cat /proc/1/cmdline"); got != "0\nsleep\x001000\x00" {
		t.Errorf("got %q", got)
	}
}

func TestCapabilitiesAreExactlyThoseOfTheSpecification(t *testing.T) {
	c := running(t, config(t))
	var want uint64
	for _, name := range []int{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FSETID, unix.CAP_FOWNER, unix.CAP_MKNOD, unix.CAP_NET_RAW, unix.CAP_SETGID,
		unix.CAP_SETUID, unix.CAP_SETFCAP, unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT, unix.CAP_KILL, unix.CAP_AUDIT_WRITE} {
		want |= 1 << name
	}
	for field, mask := range map[string]uint64{"CapBnd": want, "CapEff": want, "CapPrm": want, "CapInh": 0, "CapAmb": 0} {
		if got := status(t, c.Pid(), field); got != fmt.Sprintf("%016x", mask) {
			t.Errorf("%s is %s, want %016x", field, got, mask)
		}
	}
}

func TestAmbientCapabilitiesReachAUserWhoIsNotRoot(t *testing.T) {
	cfg := config(t)
	one := []string{"CAP_NET_BIND_SERVICE"}
	cfg.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: one, Effective: one, Permitted: one, Inheritable: one, Ambient: one}
	cfg.Spec.Process.User = oci.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{10, 20}}
	c := running(t, cfg)
	for _, field := range []string{"CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb"} {
		if got := status(t, c.Pid(), field); got != fmt.Sprintf("%016x", 1<<unix.CAP_NET_BIND_SERVICE) {
			t.Errorf("%s is %s", field, got)
		}
	}
	if got := status(t, c.Pid(), "Groups"); got != "10 20" {
		t.Errorf("groups %q", got)
	}
	if got := status(t, c.Pid(), "Uid"); got != "1000\t1000\t1000\t1000" {
		t.Errorf("uid %q", got)
	}
}

func TestACapabilityThatTheHostLacksIsLeftOutWithAWarning(t *testing.T) {
	needRoot(t)
	cfg := config(t)
	all := append([]string{"CAP_UNHEARD_OF"}, defaultCaps...)
	cfg.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	c := running(t, cfg)
	if w := strings.Join(c.Warnings(), "\n"); !strings.Contains(w, "CAP_UNHEARD_OF") {
		t.Errorf("warnings: %q", w)
	}
}

func TestNoNewPrivilegesAndTheSeccompFilterAreInPlace(t *testing.T) {
	for _, nnp := range []bool{false, true} {
		t.Run(fmt.Sprintf("noNewPrivileges %v", nnp), func(t *testing.T) {
			cfg := config(t)
			profile, err := seccomp.GetDefaultProfile(cfg.Spec)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Spec.Linux.Seccomp = profile
			cfg.Spec.Process.NoNewPrivileges = nnp
			c := running(t, cfg)
			if got := status(t, c.Pid(), "Seccomp"); got != "2" {
				t.Errorf("init has seccomp mode %s", got)
			}
			if got := status(t, c.Pid(), "NoNewPrivs"); got != map[bool]string{false: "0", true: "1"}[nnp] {
				t.Errorf("init has NoNewPrivs %s", got)
			}
			if got := inside(t, c, "grep", "Seccomp:", "/proc/self/status"); got != "Seccomp:\t2\n" {
				t.Errorf("exec has %q", got)
			}
			if got := inside(t, c, "mount", "-t", "tmpfs", "x", "/tmp"); got == "" {
				t.Error("mount is allowed")
			}
		})
	}
}

func TestAProgramThatCannotBeExecutedIsExplainedAsDockerDoes(t *testing.T) {
	needRoot(t)
	lower := layer(t)
	write(t, lower+"/bin/plain", "x", 0o644)
	write(t, lower+"/script", "#!/no/such/interpreter\n", 0o755)
	write(t, lower+"/junk", "\x00\x01\x02\x03", 0o755)
	for _, tc := range []struct {
		program, text string
		class         fail.Class
	}{
		{"nope", `exec: "nope": executable file not found in $PATH`, fail.NotFound},
		{"/nope", `exec: "/nope": stat /nope: no such file or directory`, fail.NotFound},
		{"/etc/passwd/x", `exec: "/etc/passwd/x": stat /etc/passwd/x: not a directory`, fail.NotFound},
		{"/etc/passwd", `exec: "/etc/passwd": permission denied`, fail.Forbidden},
		{"plain", `exec: "plain": permission denied`, fail.Forbidden},
		{"/etc", `exec: "/etc": is a directory`, fail.Forbidden},
		{"/script", `exec /script: no such file or directory`, fail.NotFound},
		{"/junk", `exec /junk: exec format error`, fail.Forbidden},
		{"", `exec: "": executable file not found in $PATH`, fail.NotFound},
	} {
		t.Run(tc.program, func(t *testing.T) {
			cfg := config(t, tc.program)
			cfg.Root = overlay(t, lower)
			c := create(t, cfg)
			err := c.Start(context.Background())
			if err == nil || err.Error() != tc.text || !fail.Is(err, tc.class) {
				t.Errorf("start: got %v (%v)", err, fail.Of(err))
			}
			c2 := running(t, func() Config { c := config(t); c.Root = overlay(t, lower); return c }())
			_, err = c2.Exec(context.Background(), ExecConfig{Process: &oci.Process{Args: []string{tc.program}, Cwd: "/", Env: []string{"PATH=/bin"}}})
			if err == nil || err.Error() != tc.text || !fail.Is(err, tc.class) {
				t.Errorf("exec: got %v (%v)", err, fail.Of(err))
			}
		})
	}
}

func TestExecHasTheSameConfinement(t *testing.T) {
	cfg := config(t)
	c := running(t, cfg)
	umask := uint32(0o027)
	text := insideAs(t, c, &oci.Process{Args: []string{"sh", "-c", "id; pwd; umask; grep -E 'Cap(Bnd|Eff)' /proc/self/status; cat /proc/self/cgroup; ls -l /proc/self/fd | grep -c '[0-9] -> '"},
		Cwd: "/home/alice", Env: []string{"PATH=/bin"}, User: oci.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{10}, Umask: &umask}})
	for _, want := range []string{"uid=1000(alice) gid=1001(alice) groups=10(wheel)", "\n/home/alice\n", "\n0027\n", "CapEff:\t0000000000000000", "CapBnd:\t00000000a80425fb"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
	pids, err := c.Pids()
	if err != nil || len(pids) != 1 || pids[0] != c.Pid() {
		t.Errorf("pids %v, %v", pids, err)
	}
}

func TestOnlyTheStreamsAndTheExtraFilesAreOpen(t *testing.T) {
	needRoot(t)
	if unix.CloseRange(1<<30, 1<<30, unix.CLOSE_RANGE_CLOEXEC) != nil {
		t.Skip("before Linux 5.11 who passes a descriptor on makes it close-on-exec")
	}
	leak, err := os.Open("/") // not close-on-exec below
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	unix.FcntlInt(leak.Fd(), unix.F_SETFD, 0)
	cfg := config(t)
	extra, err := os.Open("/etc/hostname")
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	cfg.Extra = []*os.File{extra, leak}
	c := running(t, cfg)
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	var fds []string
	for _, e := range entries {
		fds = append(fds, e.Name())
	}
	if strings.Join(fds, " ") != "0 1 2 3 4" {
		t.Errorf("open descriptors: %v", fds)
	}
	if got, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/3", c.Pid())); got != "/etc/hostname" {
		t.Errorf("descriptor 3 is %s", got)
	}
}

func TestLimitsAreSetAndKeptWhereTheHostForbidsToRaiseThem(t *testing.T) {
	needRoot(t)
	may := ownCapabilities()&(1<<unix.CAP_SYS_RESOURCE) != 0
	var before unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NICE, nil, &before); err != nil {
		t.Fatal(err)
	}
	score := func(pid int) string {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
		return strings.TrimSpace(string(text))
	}
	for _, adj := range []int{500, -500} {
		cfg := config(t)
		cfg.Spec.Process.Rlimits = []specs.POSIXRlimit{
			{Type: "RLIMIT_NOFILE", Soft: 64, Hard: 128},
			{Type: "RLIMIT_CORE", Soft: 0, Hard: 0},
			{Type: "RLIMIT_NICE", Soft: 1 << 40, Hard: 1 << 40},
		}
		cfg.Spec.Process.OOMScoreAdj = &adj
		c := running(t, cfg)
		var nofile, core, nice unix.Rlimit
		unix.Prlimit(c.Pid(), unix.RLIMIT_NOFILE, nil, &nofile)
		unix.Prlimit(c.Pid(), unix.RLIMIT_CORE, nil, &core)
		unix.Prlimit(c.Pid(), unix.RLIMIT_NICE, nil, &nice)
		if nofile != (unix.Rlimit{Cur: 64, Max: 128}) || core != (unix.Rlimit{}) {
			t.Errorf("limits %v %v", nofile, core)
		}
		wantNice, wantScore := unix.Rlimit{Cur: 1 << 40, Max: 1 << 40}, strconv.Itoa(adj)
		if !may {
			wantNice = unix.Rlimit{Cur: before.Max, Max: before.Max}
			if adj < 0 {
				wantScore = score(os.Getpid())
			}
		}
		if got := score(c.Pid()); nice != wantNice || got != wantScore || (len(c.Warnings()) == 0) != may {
			t.Errorf("nice %v, want %v; oom_score_adj %s, want %s; warnings %q", nice, wantNice, got, wantScore, c.Warnings())
		}
	}
}

func TestSysctlsOfTheContainersNamespacesAreSetAndOthersRefused(t *testing.T) {
	needRoot(t)
	cfg := config(t)
	cfg.Spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}
	c := running(t, cfg)
	if got := inside(t, c, "cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shm_rmid_forced"); got != "1\n1\n" {
		t.Errorf("got %q", got)
	}
	for _, key := range []string{"kernel.panic", "vm.swappiness", "net.../x", "user.x"} {
		cfg := config(t, "true")
		cfg.Spec.Linux.Sysctl = map[string]string{key: "1"}
		if c, err := Create(context.Background(), cfg); !fail.Is(err, fail.Invalid) {
			t.Errorf("%s: got %v", key, err)
			if err == nil {
				destroy(t, c)
			}
		}
	}
}

// A descriptor of the program that makes the container would lead out of it (CVE-2024-21626).
func TestTheWorkingDirectoryIsMadeAndNeverOutside(t *testing.T) {
	needRoot(t)
	lower := layer(t)
	os.Symlink("/proc/self/fd/7", lower+"/escape")
	cfg := config(t, "pwd")
	cfg.Root = overlay(t, lower)
	cfg.Spec.Process.Cwd = "/made/for/me"
	if text, _ := output(t, cfg); text != "/made/for/me\n" {
		t.Errorf("cwd %q", text)
	}
	for _, cwd := range []string{"/proc/self/fd/7", "/escape"} {
		cfg := config(t, "pwd")
		cfg.Root = overlay(t, lower)
		cfg.Spec.Process.Cwd = cwd
		c, err := Create(context.Background(), cfg)
		if err == nil {
			t.Errorf("%s was accepted", cwd)
			destroy(t, c)
		}
	}
}

func TestTheWorkingDirectoryOfAnExecMustBeThere(t *testing.T) {
	c := running(t, config(t))
	for _, cwd := range []string{"/not/there", "/proc/self/fd/7", "/bin/sh"} {
		_, err := c.Exec(context.Background(), ExecConfig{Process: &oci.Process{Args: []string{"true"}, Cwd: cwd}})
		if err == nil || !strings.Contains(err.Error(), "change to the working directory "+cwd) {
			t.Errorf("%s: %v", cwd, err)
		}
	}
	if _, err := os.Lstat(fmt.Sprintf("/proc/%d/root/not", c.Pid())); err == nil {
		t.Error("it was made")
	}
}

func TestSignalsIgnoredByTheCallerAreNotIgnoredInside(t *testing.T) {
	c := running(t, config(t))
	if got := status(t, c.Pid(), "SigIgn"); got != "0000000000000000" {
		t.Errorf("ignored signals %s", got)
	}
	if got := status(t, c.Pid(), "SigBlk"); got != "0000000000000000" {
		t.Errorf("blocked signals %s", got)
	}
}

func TestThePropertiesOfTheProcess(t *testing.T) {
	needRoot(t)
	mask := uint32(0o027)
	score := 500
	cfg := config(t)
	cfg.Spec.Domainname = "example.net"
	cfg.Spec.Process.User = oci.User{UID: 7, GID: 8, AdditionalGids: []uint32{9, 10}, Umask: &mask}
	cfg.Spec.Process.OOMScoreAdj = &score
	cfg.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 0, Hard: 4096}}
	cfg.Spec.Process.NoNewPrivileges = true
	c := running(t, cfg)
	pid := c.Pid()
	for field, want := range map[string]string{"Umask": "0027", "Uid": "7\t7\t7\t7", "Gid": "8\t8\t8\t8", "Groups": "9 10", "NoNewPrivs": "1"} {
		if got := status(t, pid, field); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
	for file, want := range map[string]string{"oom_score_adj": "500\n"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil || string(text) != want {
			t.Errorf("%s: %q", file, text)
		}
	}
	if limits, _ := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid)); !strings.Contains(string(limits), "Max core file size        0                    4096 ") {
		t.Errorf("limits:\n%s", limits)
	}
	if got := inside(t, c, "cat", "/proc/sys/kernel/domainname"); got != "example.net\n" {
		t.Errorf("domain name %q", got)
	}
}

func TestAContainerHasASessionKeyringOfItsOwnUnlessItShallNot(t *testing.T) {
	needRoot(t)
	for _, keep := range []bool{false, true} {
		cfg := shell(t, "cat /proc/keys")
		cfg.Spec.Linux.MaskedPaths = nil
		cfg.NoNewKeyring = keep
		text, _ := output(t, cfg)
		if own := strings.Contains(text, "_ses."+cfg.ID); own == keep {
			t.Errorf("no new keyring %v:\n%s", keep, text)
		}
	}
}

func TestATerminalHasTheSizeOfTheSpecification(t *testing.T) {
	needRoot(t)
	cfg := config(t)
	cfg.Spec.Process.Terminal = true
	cfg.Spec.Process.ConsoleSize = &specs.Box{Height: 33, Width: 99}
	c := running(t, cfg)
	size, err := unix.IoctlGetWinsize(int(c.Console().Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Row != 33 || size.Col != 99 {
		t.Errorf("size %+v, %v", size, err)
	}
}
