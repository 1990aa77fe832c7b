package engine

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/kernel/cgroup"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func specOf(t testing.TB, m *specMaker, cfg container.Config, h container.HostConfig) *specs.Spec {
	t.Helper()
	k := creator{host: m.host, idx: newIndex(), nets: newFakeNetworks(), runtimes: newRuntimes(Runtimes{}), logDriver: "json-file"}
	if cfg.Hostname == "" {
		cfg.Hostname = "c0ffee"
	}
	if _, _, err := k.normalise(&cfg, &h, nil); err != nil {
		t.Fatal(err)
	}
	command := commandOf(&cfg)
	plan, err := parseMounts(&h)
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.spec(t.Context(), Container{ID: "c0ffee", Config: &cfg, HostConfig: &h, plan: plan, Path: command[0], Args: command[1:]}, surroundings{netFiles: "/state/c0ffee"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// allLimits is a machine that can set every limit.
var allLimits = cgroup.Support{Version: 1, Memory: true, Swap: true, MemorySwappiness: true, OOMKillDisable: true, CPUShares: true, CPUQuota: true,
	CPURealtime: true, CPUSet: true, PIDs: true, BlockIO: true, BlockIOWeight: true, DeviceWeight: true, Hugetlb: true, Devices: true, Freezer: true}

func testMaker() *specMaker {
	return &specMaker{cgroupParent: "/berth", host: &machine{cpus: 2, limits: allLimits, caps: append(slices.Clone(defaultCaps), "CAP_SYS_ADMIN", "CAP_NET_ADMIN"), rro: true}, init: newInitProgram(layout{}, "", false)}
}

func TestSpecificationGoldens(t *testing.T) {
	src := "/tmp"
	limit := int64(100)
	for name, c := range map[string]struct {
		cfg container.Config
		h   container.HostConfig
	}{
		"plain": {container.Config{Cmd: []string{"sh"}}, container.HostConfig{NetworkMode: "none"}},
		"limits": {container.Config{Cmd: []string{"sh"}, Tty: true, WorkingDir: "/w", Domainname: "example.org"}, container.HostConfig{
			NetworkMode: "host", ReadonlyRootfs: true, ConsoleSize: [2]uint{24, 80}, OomScoreAdj: 5, CapAdd: []string{"net_admin"}, CapDrop: []string{"CAP_MKNOD"},
			SecurityOpt: []string{"no-new-privileges", "seccomp=unconfined"}, Annotations: map[string]string{"k": "v"},
			Resources: container.Resources{Memory: 64 << 20, NanoCPUs: 500_000_000, PidsLimit: &limit, BlkioWeight: 300,
				DeviceCgroupRules: []string{"c 42:* rw"}, Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 1024, Hard: 2048}}},
		}},
		"mounts": {container.Config{Cmd: []string{"sh"}}, container.HostConfig{
			NetworkMode: "none", ShmSize: 1 << 20, Sysctls: map[string]string{"kernel.msgmax": "9000"},
			Binds:  []string{src + ":/a/b:ro", src + ":/a", src + ":/s:rshared", src + ":/etc/hosts"},
			Mounts: []mount.Mount{{Type: "tmpfs", Target: "/t", TmpfsOptions: &mount.TmpfsOptions{SizeBytes: 4096, Mode: 0o700}}, {Type: "bind", Source: src, Target: "/n", ReadOnly: true, BindOptions: &mount.BindOptions{NonRecursive: true}}},
			Tmpfs:  map[string]string{"/u": "exec,size=1m"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := specOf(t, testMaker(), c.cfg, c.h)
			if s.Linux.Seccomp != nil { // the profile's own project tests its content
				s.Linux.Seccomp.Syscalls, s.Linux.Seccomp.Architectures = nil, nil
			}
			got, _ := json.MarshalIndent(s, "", "\t")
			path := filepath.Join("testdata", "spec-"+name+".json")
			if *update {
				if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)+"\n"); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestCapabilitySets(t *testing.T) {
	m := testMaker().host
	less := func(drop ...string) []string {
		return slices.DeleteFunc(slices.Clone(defaultCaps), func(c string) bool { return slices.Contains(drop, c) })
	}
	for _, c := range []struct {
		name string
		h    container.HostConfig
		want []string
	}{
		{"the default", container.HostConfig{}, defaultCaps},
		{"one less", container.HostConfig{CapDrop: []string{"chown"}}, less("CAP_CHOWN")},
		{"none", container.HostConfig{CapDrop: []string{"ALL"}}, nil},
		{"one only", container.HostConfig{CapDrop: []string{"all"}, CapAdd: []string{"KILL"}}, []string{"CAP_KILL"}},
		{"all but one", container.HostConfig{CapAdd: []string{"ALL"}, CapDrop: []string{"SYS_ADMIN"}}, append(slices.Clone(defaultCaps), "CAP_NET_ADMIN")},
		{"privileged", container.HostConfig{Privileged: true, CapDrop: []string{"ALL"}}, m.caps},
	} {
		got, err := capabilities(&c.h, m)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v %v", c.name, got, err)
		}
	}
}

func TestPrivilegedOpensWhatOrdinaryContainersCannotTouch(t *testing.T) {
	s := specOf(t, testMaker(), container.Config{Cmd: []string{"sh"}}, container.HostConfig{NetworkMode: "none", Privileged: true})
	if s.Linux.Seccomp != nil || len(s.Linux.MaskedPaths)+len(s.Linux.ReadonlyPaths) != 0 || len(s.Linux.Resources.Devices) != 1 || !s.Linux.Resources.Devices[0].Allow {
		t.Errorf("%+v", s.Linux)
	}
	for _, m := range s.Mounts {
		if m.Destination == "/sys" && slices.Contains(m.Options, "ro") {
			t.Error("/sys is read-only")
		}
	}
}

func BenchmarkSpec(b *testing.B) {
	m := testMaker()
	cfg, h := container.Config{Cmd: []string{"sh"}, Hostname: "x"}, container.HostConfig{NetworkMode: "none"}
	k := creator{host: m.host, idx: newIndex(), nets: newFakeNetworks(), runtimes: newRuntimes(Runtimes{}), logDriver: "json-file"}
	if _, _, err := k.normalise(&cfg, &h, nil); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := m.spec(b.Context(), Container{ID: "c0ffee", Config: &cfg, HostConfig: &h, Path: "sh"}, surroundings{netFiles: "/x"}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestSpecificationsOfDevicesEditAllThatTheyMay(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rdt.json"), []byte(`{"cdiVersion":"1.0.0","kind":"v.test/c","containerEdits":{"env":["PATH=/of/the/device"]},"devices":[{"name":"d","containerEdits":{
		"intelRdt":{"closID":"group","l3CacheSchema":"L3:0=ff"},"additionalGids":[7],"hooks":[{"hookName":"poststop","path":"/bin/true"}],
		"mounts":[{"hostPath":"/usr","containerPath":"/sys/a/b"},{"hostPath":"/usr","containerPath":"/dev/shm"}]}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	m := testMaker()
	var err error
	if m.named, err = newNamedDevices([]string{dir}); err != nil {
		t.Fatal(err)
	}
	s := specOf(t, m, container.Config{Cmd: []string{"sh"}}, container.HostConfig{NetworkMode: "none",
		Resources: container.Resources{DeviceRequests: []container.DeviceRequest{{Driver: "cdi", DeviceIDs: []string{"v.test/c=d"}}}}})
	var at []string
	for _, m := range s.Mounts {
		if m.Source == "/usr" || m.Destination == "/sys" || m.Destination == "/dev/shm" {
			at = append(at, m.Destination+" "+m.Source)
		}
	}
	if s.Linux.IntelRdt == nil || s.Linux.IntelRdt.ClosID != "group" || len(s.Hooks.Poststop) != 1 || !slices.Equal(groupsOf(s), []string{"7"}) ||
		!slices.Contains(s.Process.Env, "PATH=/of/the/device") || !slices.Equal(at, []string{"/sys sysfs", "/dev/shm /usr", "/sys/a/b /usr"}) {
		t.Errorf("%+v %+v %v %v", s.Linux.IntelRdt, s.Hooks, s.Process.Env, at)
	}
}
