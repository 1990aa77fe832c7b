package runtimecli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	featspec "github.com/opencontainers/runtime-spec/specs-go/features"

	oci "berth/oci/bundle"
)

// TestMain makes the test binary the program itself when it is asked to, so that tests
// drive what users run.
func TestMain(m *testing.M) {
	if os.Getenv("BERTH_TEST_RUNTIME") == "1" {
		os.Exit(Main(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// inside runs a command within this process: enough for those that make no container.
func inside(args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	a := &app{stdout: &out, stderr: &errs, protect: func() error { return nil }}
	status = a.execute(args)
	return status, out.String(), errs.String()
}

func TestCommandLinesThatCannotBe(t *testing.T) {
	root := t.TempDir()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"fly"}, `unknown command "fly"`},
		{[]string{"--log-format", "xml", "list"}, "invalid log format"},
		{[]string{"--nope", "list"}, "not defined: -nope"},
		{[]string{"list", "--nope"}, "not defined: -nope"},
		{[]string{"start"}, "usage: berth-runtime start ID"},
		{[]string{"start", "a", "b"}, "usage: berth-runtime start ID"},
		{[]string{"state", ""}, "container id cannot be empty"},
		{[]string{"state", "a/b"}, "invalid container ID format"},
		{[]string{"state", ".."}, "invalid container ID format"},
		{[]string{"state", "gone"}, "container does not exist"},
		{[]string{"start", "gone"}, "container does not exist"},
		{[]string{"kill", "gone", "KILL"}, "container does not exist"},
		{[]string{"kill", "gone", "SIGSMILE"}, `unknown signal "SIGSMILE"`},
		{[]string{"delete", "gone"}, "container does not exist"},
		{[]string{"pause", "gone"}, "container does not exist"},
		{[]string{"exec", "gone", "true"}, "container does not exist"},
		{[]string{"ps", "gone"}, "container does not exist"},
		{[]string{"update", "--memory", "lots", "gone"}, "invalid"},
		{[]string{"update", "--memory", "-2", "gone"}, "-2 is out of range"},
		{[]string{"update", "--cpu-share", "-1", "gone"}, "-1 is out of range"},
		{[]string{"update", "--blkio-weight", "65546", "gone"}, "65546 is out of range"},
		{[]string{"update", "--cpu-idle", "2", "gone"}, "2 is out of range"},
		{[]string{"list", "--format", "xml"}, "invalid format option"},
		{[]string{"create", "--bundle", t.TempDir(), "x"}, "config.json not found"},
	} {
		status, out, errs := inside(append([]string{"--root", root}, c.args...)...)
		if status == 0 || out != "" || !strings.Contains(errs, c.want) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: status %d, %q, %q", c.args, status, out, errs)
		}
	}
	if left, _ := os.ReadDir(root); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestHelpAndVersionAreNoErrors(t *testing.T) {
	for args, want := range map[string]string{
		"": "Commands:", "--help": "Commands:", "help": "Commands:", "create --help": "--bundle", "--version": "spec: " + specs.Version, "-v": "commit:",
	} {
		status, out, errs := inside(strings.Fields(args)...)
		if status != 0 || errs != "" || !strings.Contains(out, strings.TrimPrefix(want, "-")) {
			t.Errorf("%q: status %d, %q, %q", args, status, out, errs)
		}
	}
}

func TestDeletingWhatDoesNotExistByForceIsFine(t *testing.T) {
	if status, _, errs := inside("--root", t.TempDir(), "delete", "--force", "gone"); status != 0 {
		t.Error(errs)
	}
}

func TestErrorsAreLoggedAsContainerdReadsThem(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log.json")
	inside("--root", t.TempDir(), "--log", log, "--log-format", "json", "state", "gone")
	var line struct{ Level, Msg, Time string }
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &line); err != nil || line.Level != "error" || line.Msg != "container does not exist" || line.Time == "" {
		t.Fatalf("%s: %v", text, err)
	}
	inside("--root", t.TempDir(), "--log", log, "state", "gone")
	if text, _ = os.ReadFile(log); !strings.Contains(string(text), `level=error msg="container does not exist"`) {
		t.Fatalf("got %s", text)
	}
}

func TestSpecIsWrittenOnceAndReadBack(t *testing.T) {
	for _, rootless := range []bool{false, true} {
		bundle := t.TempDir()
		args := []string{"spec", "--bundle", bundle}
		if rootless {
			args = append(args, "--rootless")
		}
		if status, _, errs := inside(args...); status != 0 {
			t.Fatal(errs)
		}
		s, err := readSpec(bundle)
		if err != nil {
			t.Fatal(err)
		}
		user := slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace })
		if user != rootless || (len(s.Linux.UIDMappings) > 0) != rootless || !s.Process.Terminal {
			t.Errorf("rootless %v: %+v", rootless, s.Linux)
		}
		if status, _, errs := inside(args...); status == 0 || !strings.Contains(errs, "exists. Remove it first") {
			t.Errorf("got %d, %s", status, errs)
		}
	}
}

func TestFeaturesAreTheSpecificationsDocument(t *testing.T) {
	status, out, errs := inside("features")
	var f featspec.Features
	if err := json.Unmarshal([]byte(out), &f); status != 0 || err != nil {
		t.Fatal(status, errs, err)
	}
	if f.OCIVersionMin != "1.0.0" || f.OCIVersionMax != specs.Version || len(f.Hooks) != 6 {
		t.Errorf("versions and hooks: %s", out)
	}
	l := f.Linux
	for what, list := range map[string][2][]string{
		"mountOptions": {f.MountOptions, {"rro", "idmap", "ridmap", "tmpcopyup", "rbind", "runbindable", "nosymfollow", "ratime"}},
		"namespaces":   {l.Namespaces, {"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"}},
		"capabilities": {l.Capabilities, {"CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"}},
		"actions":      {l.Seccomp.Actions, {"SCMP_ACT_NOTIFY", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG"}},
		"operators":    {l.Seccomp.Operators, {"SCMP_CMP_MASKED_EQ"}},
		"archs":        {l.Seccomp.Archs, {"SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"}},
		"knownFlags":   {l.Seccomp.KnownFlags, {"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"}},
		"modes":        {l.MemoryPolicy.Modes, {"MPOL_BIND", "MPOL_WEIGHTED_INTERLEAVE"}},
		"flags":        {l.MemoryPolicy.Flags, {"MPOL_F_STATIC_NODES"}},
	} {
		for _, want := range list[1] {
			if !slices.Contains(list[0], want) {
				t.Errorf("%s: %s is missing in %v", what, want, list[0])
			}
		}
	}
	for what, enabled := range map[string]*bool{"cgroup.v1": l.Cgroup.V1, "cgroup.v2": l.Cgroup.V2, "seccomp": l.Seccomp.Enabled, "apparmor": l.Apparmor.Enabled,
		"selinux": l.Selinux.Enabled, "intelRdt": l.IntelRdt.Enabled, "monitoring": l.IntelRdt.Monitoring, "idmap": l.MountExtensions.IDMap.Enabled, "netDevices": l.NetDevices.Enabled} {
		if enabled == nil || !*enabled {
			t.Errorf("%s is not told", what)
		}
	}
}

func TestTheExecutedProcessIsTheContainersOwnWithChanges(t *testing.T) {
	base := &oci.Process{Args: []string{"init"}, Env: []string{"A=1"}, Cwd: "/", Terminal: true,
		Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}}}
	o := &execution{user: "7:8", groups: list{"9"}, env: list{"B=2"}, cwd: "/tmp", caps: list{"net_admin"}, noNewPrivs: true}
	p, err := o.process(base, []string{"ls", "-l"})
	if err != nil {
		t.Fatal(err)
	}
	if p.User.UID != 7 || p.User.GID != 8 || !slices.Equal(p.User.AdditionalGids, []uint32{9}) || p.Terminal || p.Cwd != "/tmp" ||
		!slices.Equal(p.Env, []string{"A=1", "B=2"}) || !slices.Equal(p.Capabilities.Bounding, []string{"CAP_KILL", "CAP_NET_ADMIN"}) ||
		!slices.Equal(p.Args, []string{"ls", "-l"}) || !p.NoNewPrivileges {
		t.Errorf("got %+v", p)
	}
	if len(base.Env) != 1 || len(base.Capabilities.Bounding) != 1 {
		t.Error("the container's own process has changed")
	}
	for _, bad := range []*execution{{user: "root"}, {user: "1:x"}, {groups: list{"-1"}}, {caps: list{"FLY"}}, {file: "/nonexistent"}} {
		if _, err := bad.process(base, []string{"x"}); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
	if _, err := new(execution).process(base, nil); err == nil {
		t.Error("nothing to execute is taken")
	}
}

func TestAnUpdateKeepsWhatItDoesNotName(t *testing.T) {
	a, b, c := int64(1), int64(2), uint64(3)
	got := merged(&oci.LinuxResources{Memory: &specs.LinuxMemory{Limit: &a}, CPU: &specs.LinuxCPU{Shares: &c}},
		&oci.LinuxResources{Memory: &specs.LinuxMemory{Swap: &b}})
	if *got.Memory.Limit != 1 || *got.Memory.Swap != 2 || *got.CPU.Shares != 3 {
		t.Errorf("got %+v", got)
	}
}
