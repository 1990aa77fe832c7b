package runtime

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/fail"
	oci "berth/oci/bundle"
)

func TestAWrongSpecificationNamesTheField(t *testing.T) {
	type spec = oci.Spec
	wide := uint32(0o1777)
	far := 2000
	zero := 0
	mount := func(m oci.Mount) func(*spec) { return func(s *spec) { s.Mounts = []oci.Mount{m} } }
	ns := func(list ...specs.LinuxNamespace) func(*spec) {
		return func(s *spec) { s.Linux.Namespaces = append(s.Linux.Namespaces[:1:1], list...) }
	}
	user := func(s *spec, uids ...specs.LinuxIDMapping) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings, s.Linux.GIDMappings = uids, []specs.LinuxIDMapping{{HostID: 1, Size: 1000}}
	}
	ids := []specs.LinuxIDMapping{{HostID: 1, Size: 1}}
	for name, tc := range map[string]struct {
		change func(*spec)
		want   string
	}{
		"no process":                  {func(s *spec) { s.Process = nil }, "process: it is missing"},
		"an unknown version":          {func(s *spec) { s.Version = "2.0.0" }, "ociVersion: "},
		"no program":                  {func(s *spec) { s.Process.Args = nil }, "process.args: there is no program"},
		"a NUL in an argument":        {func(s *spec) { s.Process.Args = []string{"a\x00b"} }, "process.args: "},
		"a NUL in the environment":    {func(s *spec) { s.Process.Env = []string{"A=\x00"} }, "process.env: "},
		"a relative directory":        {func(s *spec) { s.Process.Cwd = "tmp" }, `process.cwd: "tmp" is not an absolute path`},
		"a wide umask":                {func(s *spec) { s.Process.User.Umask = &wide }, "process.user.umask: 01777 is above 0777"},
		"a score too high":            {func(s *spec) { s.Process.OOMScoreAdj = &far }, "process.oomScoreAdj: 2000"},
		"a huge terminal":             {func(s *spec) { s.Process.ConsoleSize = &specs.Box{Width: 70000} }, "process.consoleSize: "},
		"an unknown limit":            {func(s *spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_FUN"}} }, "process.rlimits[0].type: "},
		"a limit twice":               {func(s *spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU"}, {Type: "RLIMIT_CPU"}} }, "process.rlimits[1].type: "},
		"a soft limit above the hard": {func(s *spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU", Soft: 2, Hard: 1}} }, "process.rlimits[0].soft: "},
		"an unknown scheduler":        {func(s *spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_NEVER"} }, "process.scheduler.policy: "},
		"a nice value too high":       {func(s *spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: 20} }, "process.scheduler.nice: "},
		"no real-time priority":       {func(s *spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO} }, "process.scheduler.priority: "},
		"a priority without use":      {func(s *spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedIdle, Priority: 1} }, "process.scheduler.priority: "},
		"a deadline too short": {func(s *spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 2, Deadline: 1}
		}, "process.scheduler.runtime: "},
		"an unknown scheduler flag": {func(s *spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Flags: []specs.LinuxSchedulerFlag{"X"}}
		}, "process.scheduler.flags: "},
		"an unknown I/O class": {func(s *spec) { s.Process.IOPriority = &specs.LinuxIOPriority{Class: "X"} }, "process.ioPriority.class: "},
		"an I/O level too high": {func(s *spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 8}
		}, "process.ioPriority.priority: "},
		"wrong processors":            {func(s *spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "1-"} }, "process.execCPUAffinity.final: "},
		"a host name without UTS":     {func(s *spec) { s.Hostname = "x" }, "hostname: it is given without a UTS namespace"},
		"a long host name":            {func(s *spec) { ns(specs.LinuxNamespace{Type: "uts"})(s); s.Hostname = strings.Repeat("x", 65) }, "hostname: 65 bytes"},
		"an unknown namespace":        {ns(specs.LinuxNamespace{Type: "dream"}), `linux.namespaces[1].type: unknown namespace type "dream"`},
		"a namespace twice":           {ns(specs.LinuxNamespace{Type: "pid"}, specs.LinuxNamespace{Type: "pid", Path: "/x"}), "linux.namespaces[2].type: the pid namespace is given twice"},
		"a relative namespace":        {ns(specs.LinuxNamespace{Type: "pid", Path: "x"}), "linux.namespaces[1].path: "},
		"offsets without a namespace": {func(s *spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}} }, "linux.timeOffsets: "},
		"an unknown clock": {func(s *spec) {
			ns(specs.LinuxNamespace{Type: "time"})(s)
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"realtime": {}}
		}, `linux.timeOffsets: unknown clock "realtime"`},
		"ids without a namespace": {func(s *spec) { s.Linux.UIDMappings = ids }, "linux.uidMappings: ids are mapped without a user namespace"},
		"no ids":                  {func(s *spec) { user(s) }, "linux.uidMappings: a new user namespace needs mappings"},
		"an empty range":          {func(s *spec) { user(s, specs.LinuxIDMapping{}) }, "linux.uidMappings[0].size: it is 0"},
		"ranges that overlap": {func(s *spec) {
			user(s, specs.LinuxIDMapping{HostID: 1, Size: 10}, specs.LinuxIDMapping{ContainerID: 9, HostID: 100, Size: 1})
		}, "linux.uidMappings[1]: the range overlaps"},
		"a range beyond the end":      {func(s *spec) { user(s, specs.LinuxIDMapping{HostID: 1 << 31, Size: 1 << 31}) }, "linux.uidMappings[0].size: "},
		"a user who is not mapped":    {func(s *spec) { user(s, ids...); s.Process.User.UID = 5 }, "process.user.uid: 5 is not among the mapped ids"},
		"a mount without destination": {mount(oci.Mount{Type: "tmpfs"}), "mounts[0].destination: "},
		"a mount without type":        {mount(oci.Mount{Destination: "/x"}), "mounts[0].type: "},
		"a bind mount without source": {mount(oci.Mount{Destination: "/x", Type: "bind"}), "mounts[0].source: "},
		"a wrong option":              {mount(oci.Mount{Destination: "/x", Source: "/", Options: []string{"bind", "fly"}}), `mounts[0].options: mount option "fly"`},
		"mapped ids of a tmpfs":       {mount(oci.Mount{Destination: "/x", Type: "tmpfs", UIDMappings: ids, GIDMappings: ids}), "mounts[0]: only bind mounts"},
		"mapped ids from nowhere":     {mount(oci.Mount{Destination: "/x", Source: "/", Options: []string{"bind", "idmap"}}), "mounts[0].options: ids are to be mapped, but"},
		"mapped users, groups not":    {mount(oci.Mount{Destination: "/x", Source: "/", Options: []string{"bind"}, UIDMappings: ids}), "mounts[0].uidMappings: "},
		"a copy into a bind mount":    {mount(oci.Mount{Destination: "/x", Source: "/", Options: []string{"bind", "tmpcopyup"}}), "mounts[0].options: tmpcopyup"},
		"a relative mask":             {func(s *spec) { s.Linux.MaskedPaths = []string{"/a", "b"} }, `linux.maskedPaths[1]: "b"`},
		"a relative read-only path":   {func(s *spec) { s.Linux.ReadonlyPaths = []string{"b"} }, "linux.readonlyPaths[0]: "},
		"an unknown propagation":      {func(s *spec) { s.Linux.RootfsPropagation = "wild" }, `linux.rootfsPropagation: unknown value "wild"`},
		"a sysctl of the host":        {func(s *spec) { s.Linux.Sysctl = map[string]string{"kernel.panic": "1"} }, `linux.sysctl["kernel.panic"]: it is not separate`},
		"a sysctl of the host's net":  {func(s *spec) { s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"} }, `linux.sysctl["net.ipv4.ip_forward"]: it would change the host`},
		"metadata for nobody":         {func(s *spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{ListenerMetadata: "x"} }, "linux.seccomp.listenerMetadata: "},
		"an unknown memory mode":      {func(s *spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "X"} }, "linux.memoryPolicy.mode: "},
		"memory without nodes":        {func(s *spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind} }, "linux.memoryPolicy.nodes: MPOL_BIND needs nodes"},
		"an unknown personality":      {func(s *spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "BSD"} }, "linux.personality.domain: "},
		"devices of the host's net":   {func(s *spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {}} }, "linux.netDevices: the container shares"},
		"a network device's long name": {func(s *spec) {
			ns(specs.LinuxNamespace{Type: "network"})(s)
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"a": {Name: "sixteen-letters-"}}
		}, "linux.netDevices: "},
		"two devices of one name": {func(s *spec) {
			ns(specs.LinuxNamespace{Type: "network"})(s)
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"a": {Name: "x"}, "b": {Name: "x"}}
		}, `linux.netDevices: two devices are called "x"`},
		"a class with a path":       {func(s *spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "../x"} }, "linux.intelRdt.closID: "},
		"a schema of two lines":     {func(s *spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{Schemata: []string{"a", "L3:\nMB:"}} }, "linux.intelRdt.schemata[1]: "},
		"a wrong bandwidth schema":  {func(s *spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{MemBwSchema: "L3:0=1"} }, "linux.intelRdt.memBwSchema: "},
		"a relative device":         {func(s *spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "null", Type: "c"}} }, "linux.devices[0].path: "},
		"an unknown type of device": {func(s *spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "q"}} }, "linux.devices[0].type: "},
		"a device without number":   {func(s *spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "b", Major: -1}} }, "linux.devices[0].major: "},
		"a relative hook":           {func(s *spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "true"}}} }, "hooks.poststop[0].path: "},
		"a hook without time":       {func(s *spec) { s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/x", Timeout: &zero}}} }, "hooks.createRuntime[0].timeout: "},
	} {
		t.Run(name, func(t *testing.T) {
			s := &spec{Version: specs.Version, Process: &oci.Process{Args: []string{"x"}, Cwd: "/"},
				Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}}}}
			if err := validate(&Config{ID: "x", Spec: s}); err != nil {
				t.Fatal("before:", err)
			}
			tc.change(s)
			err := validate(&Config{ID: "x", Spec: s})
			if err == nil || !strings.HasPrefix(err.Error(), tc.want) || !fail.Is(err, fail.Invalid) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}

func TestLabelsAreRefusedWhereTheHostHasNoSuchModule(t *testing.T) {
	if selinuxEnabled() {
		t.Skip("this host has SELinux")
	}
	for want, p := range map[string]*oci.Process{
		`process.selinuxLabel: "a:b:c": this host has no SELinux`: {Args: []string{"x"}, SelinuxLabel: "a:b:c"},
		`process.apparmorProfile: "p": this host has no AppArmor`: {Args: []string{"x"}, ApparmorProfile: "p"},
	} {
		if strings.Contains(want, "AppArmor") {
			if text, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled"); strings.HasPrefix(string(text), "Y") {
				continue
			}
		}
		if err := validateProcess(p); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// FuzzSpec decodes a specification and compiles it, without making anything of it.
func FuzzSpec(f *testing.F) {
	if _, err := os.Stat("/bin/busybox"); err == nil {
		text, _ := json.Marshal(config(f, "sh", "-c", "true").Spec)
		f.Add(text)
	}
	for _, seed := range []string{
		`{}`, `null`, `{"process":{"args":["x"]},"linux":{"namespaces":[{"type":"mount"}]}}`,
		`{"ociVersion":"1.3.0","process":{"args":["/a/b"],"cwd":"/../..","terminal":true,"scheduler":{"policy":"SCHED_DEADLINE","runtime":1,"deadline":1},
			"execCPUAffinity":{"final":"0-4095"},"user":{"additionalGids":[1]}},"mounts":[{"destination":"/a","type":"tmpfs","options":["tmpcopyup","size=1"]},
			{"destination":"../b","source":"/","options":["rbind","rro","runbindable"]},{"destination":"/c","type":"cgroup"}],
			"linux":{"namespaces":[{"type":"mount"},{"type":"user"},{"type":"time"},{"type":"network","path":"/proc/self/ns/net"}],
			"uidMappings":[{"size":1}],"gidMappings":[{"size":1}],"timeOffsets":{"boottime":{"secs":-1}},"memoryPolicy":{"mode":"MPOL_BIND","nodes":"0,63-65"},
			"devices":[{"path":"/dev//x/../y","type":"p"}],"sysctl":{"net/core.x":"1"},"maskedPaths":["/"],"readonlyPaths":["//"],"rootfsPropagation":"shared"}}`,
		`{"process":{"args":[""],"env":["=","PATH=:a:"],"capabilities":{"bounding":["x"],"ambient":["CAP_CHOWN"]}},"hooks":{"poststop":[{"path":"/x"}]},
			"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/s","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]},"namespaces":[{"type":"mount"}]}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var spec oci.Spec
		if json.Unmarshal(text, &spec) != nil {
			return
		}
		// What the machine has at a path is not what is looked for.
		spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m oci.Mount) bool { return strings.HasPrefix(m.Source, "/proc") })
		_ = Rehearse(&spec)
	})
}
