package engine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"

	"berth/fail"
	"berth/kernel/cgroup"
)

func TestAnUpdateReachesTheRecordTheKernelAndTheEvents(t *testing.T) {
	f, begin := newFixture(t), time.Now()
	id := f.create("web", func(r *CreateRequest) {
		r.HostConfig.Memory, r.HostConfig.MemorySwap, r.HostConfig.CPUQuota = 64<<20, 128<<20, 20000
	})
	update := func(r UpdateRequest) {
		t.Helper()
		if _, err := f.Containers.Update(t.Context(), "web", r); err != nil {
			t.Fatal(err)
		}
	}
	// Not running: the record alone.
	update(UpdateRequest{Resources: container.Resources{CPUShares: 512}})
	f.start("web")
	s := f.shims.of(id)
	none := int64(-1)
	update(UpdateRequest{Resources: container.Resources{Memory: 32 << 20, CPUPeriod: 50000, PidsLimit: &none},
		RestartPolicy: container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 3}})
	update(UpdateRequest{RestartPolicy: container.RestartPolicy{Name: "always"}})

	check := func(when string) {
		t.Helper()
		c, err := f.Containers.Get("web")
		if err != nil {
			t.Fatal(err)
		}
		h := c.HostConfig
		if h.Memory != 32<<20 || h.MemorySwap != 128<<20 || h.CPUShares != 512 || h.CPUQuota != 20000 || h.CPUPeriod != 50000 || *h.PidsLimit != 0 || !h.RestartPolicy.IsAlways() {
			t.Errorf("%s: %+v", when, h)
		}
	}
	check("recorded")
	if len(s.updates) != 1 {
		t.Fatalf("the shim was told %d times", len(s.updates))
	}
	u := s.updates[0]
	if *u.Memory.Limit != 32<<20 || *u.Memory.Swap != 128<<20 || *u.CPU.Period != 50000 || u.CPU.Quota != nil || u.CPU.Shares != nil || *u.Pids.Limit != -1 || u.BlockIO != nil {
		t.Errorf("%+v %+v %+v", u.Memory, u.CPU, u.Pids)
	}
	if got := actions(f, begin); !slices.Equal(got, []string{"create", "update", "connect", "start", "update", "update"}) {
		t.Errorf("events %v", got)
	}

	s.mu.Lock()
	s.updateErr = fail.New(fail.Conflict, "cannot set memory limit to 6291456 bytes: 7000000 bytes are in use")
	s.mu.Unlock()
	_, err := f.Containers.Update(t.Context(), "web", UpdateRequest{Resources: container.Resources{Memory: 6 << 20}})
	if !fail.Is(err, fail.Conflict) || !strings.HasPrefix(err.Error(), "Cannot update container "+id+": cannot set memory limit") {
		t.Errorf("got %v", err)
	}
	check("after a refusal")
	f.crash()
	f.open()
	check("after a restart of the engine")
}

func TestUpdatesThatContradictAreRefused(t *testing.T) {
	f := newFixture(t)
	f.create("cpus", func(r *CreateRequest) { r.HostConfig.NanoCPUs = 5e8 })
	f.create("quota", func(r *CreateRequest) { r.HostConfig.CPUQuota, r.HostConfig.CPUPeriod = 20000, 50000 })
	f.create("memory", func(r *CreateRequest) { r.HostConfig.Memory = 32 << 20 })
	f.create("rm", autoRemove)
	for _, c := range []struct {
		what, ref string
		r         container.Resources
		restart   container.RestartPolicyMode
		class     fail.Class
		text      string
	}{
		{"quota beside cpus", "cpus", container.Resources{CPUQuota: 20000}, "", fail.Conflict, "CPU Quota cannot be updated as NanoCPUs has already been set"},
		{"period beside cpus", "cpus", container.Resources{CPUPeriod: 20000}, "", fail.Conflict, "CPU Period cannot be updated as NanoCPUs has already been set"},
		{"cpus beside quota", "quota", container.Resources{NanoCPUs: 5e8}, "", fail.Conflict, "Nano CPUs cannot be updated as CPU Period has already been set"},
		{"memory above its swap", "memory", container.Resources{Memory: 128 << 20}, "", fail.Conflict, "update the memoryswap at the same time"},
		{"memory with its swap", "memory", container.Resources{Memory: 128 << 20, MemorySwap: 256 << 20}, "", 0, ""},
		{"swap below its memory", "memory", container.Resources{MemorySwap: 64 << 20}, "", fail.Conflict, "update the memory at the same time"},
		{"swap without memory", "cpus", container.Resources{MemorySwap: 64 << 20}, "", fail.Conflict, "always set the Memory limit"},
		{"memory below the least", "memory", container.Resources{Memory: 1 << 20}, "", fail.Invalid, "Minimum memory limit allowed is 6MB"},
		{"a policy beside --rm", "rm", container.Resources{}, "always", fail.Conflict, "Restart policy cannot be updated because AutoRemove is enabled"},
		{"no policy beside --rm", "rm", container.Resources{}, "no", 0, ""},
		{"a policy that is none", "memory", container.Resources{}, "sometimes", fail.Invalid, "sometimes"},
		{"nobody", "nobody", container.Resources{}, "", fail.NotFound, "No such container: nobody"},
	} {
		_, err := f.Containers.Update(t.Context(), c.ref, UpdateRequest{Resources: c.r, RestartPolicy: container.RestartPolicy{Name: c.restart}})
		if c.text == "" {
			if err != nil {
				t.Errorf("%s: %v", c.what, err)
			}
			continue
		}
		if !fail.Is(err, c.class) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v (%v)", c.what, err, fail.Of(err))
		}
	}
}

func TestWhatTheKernelLacksIsDiscardedWithAWarning(t *testing.T) {
	yes, fifty, limit := true, int64(50), int64(10)
	all := func() *container.Resources {
		return &container.Resources{Memory: 64 << 20, MemoryReservation: 32 << 20, MemorySwappiness: &fifty, OomKillDisable: &yes, PidsLimit: &limit,
			CPUShares: 512, CPUPeriod: 50000, CPUQuota: 20000, CpusetCpus: "0", CpusetMems: "0", BlkioWeight: 300}
	}
	r := all()
	if w := discardUnsupported(r, &machine{limits: allLimits}); len(w) != 0 || r.Memory == 0 || r.BlkioWeight == 0 {
		t.Errorf("nothing lacks: %q, %+v", w, r)
	}
	noSwap := allLimits
	noSwap.Swap = false
	if w := discardUnsupported(r, &machine{limits: noSwap}); !slices.Equal(w, []string{"Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap."}) || r.MemorySwap != -1 {
		t.Errorf("no swap: %q, %d", w, r.MemorySwap)
	}
	r = all()
	w := discardUnsupported(r, &machine{limits: cgroup.Support{}})
	if len(w) != 9 || r.Memory != 0 || r.MemorySwap != -1 || r.MemoryReservation != 0 || r.MemorySwappiness != nil || r.OomKillDisable != nil || r.PidsLimit != nil ||
		r.CPUShares != 0 || r.CPUPeriod != 0 || r.CPUQuota != 0 || r.CpusetCpus != "" || r.CpusetMems != "" || r.BlkioWeight != 0 {
		t.Errorf("all lacks: %d warnings %q, %+v", len(w), w, r)
	}
	err := checkLimits(&container.Resources{NanoCPUs: 1e9}, &machine{cpus: 2})
	if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "NanoCPUs can not be set") {
		t.Errorf("--cpus: %v", err)
	}
}

func TestASeccompProfileIsReadAtCreation(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct{ what, profile, err, warning string }{
		{"a profile", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}`, "", ""},
		{"an unknown action", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_SMILE"}]}`, `seccomp profile: invalid seccomp action "SCMP_ACT_SMILE"`, ""},
		{"an unknown call to forbid", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdirr"],"action":"SCMP_ACT_ERRNO"}]}`, `unknown system call "mkdirr"`, ""},
		{"an unknown call to allow", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["mkdirr"],"action":"SCMP_ACT_ALLOW"}]}`, "", `"mkdirr"`},
		{"a call of another machine", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["s390_sthyi"],"action":"SCMP_ACT_ERRNO"}]}`, "", ""},
		{"an unknown architecture", `{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_PDP11"]}`, `"SCMP_ARCH_PDP11"`, ""},
		{"both lists of architectures", `{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}`, "architectures", ""},
		{"an errno for a kill", `{"defaultAction":"SCMP_ACT_KILL","defaultErrnoRet":1}`, "takes no errnoRet", ""},
	} {
		_, warnings, err := f.Containers.Create(t.Context(), CreateRequest{Config: &container.Config{Image: "busybox"},
			HostConfig: &container.HostConfig{NetworkMode: "none", SecurityOpt: []string{"seccomp=" + c.profile}}})
		switch {
		case c.err == "" && err != nil:
			t.Errorf("%s: %v", c.what, err)
		case c.err != "" && (!fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%s: %v (%v)", c.what, err, fail.Of(err))
		case err == nil && (len(warnings) > 0) != (c.warning != "") || c.warning != "" && !strings.Contains(strings.Join(warnings, "\n"), c.warning):
			t.Errorf("%s: warnings %q", c.what, warnings)
		}
	}
}

// FuzzSeccompProfile: whatever a client sends as a profile is a filter or one line.
func FuzzSeccompProfile(f *testing.F) {
	for _, text := range []string{
		`{}`, `null`, `[]`, `{"defaultAction":"SCMP_ACT_ALLOW"}`,
		`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X32"]}],"flags":["SECCOMP_FILTER_FLAG_LOG"],
			"syscalls":[{"name":"read","action":"SCMP_ACT_ALLOW"},{"names":["ioctl"],"action":"SCMP_ACT_TRACE","errnoRet":5,"args":[{"index":1,"value":5,"valueTwo":7,"op":"SCMP_CMP_MASKED_EQ"}],"includes":{"minKernel":"4.8","caps":["CAP_KILL"]},"excludes":{"arches":["arm64"]}}]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/a","listenerMetadata":"m","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir\n"],"action":"SCMP_ACT_KILL"}]}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, err := checkSeccomp(text, defaultCaps)
		if err == nil {
			return
		}
		if class := fail.Of(err); class != fail.Invalid && class != fail.NotImplemented || strings.ContainsAny(err.Error(), "\n\r") {
			t.Errorf("%q (%v)", err, class)
		}
	})
}

// FuzzWordsOfHostConfig: what is written of devices, security and sizes is understood or refused
// as the request's fault, in one line.
func FuzzWordsOfHostConfig(f *testing.F) {
	for _, word := range []string{"c 1:3 rwm", "a *:* r", "b 4294967296:-1 m", "no-new-privileges:perhaps", "seccomp=builtin", "writable-cgroups=1", "apparmor:x", "label=level:s0:c1,c2",
		"10g", "-1", "vendor.com/class=name", "nvidia.com/gpu=all", "=/:", "vendor.com/class=a b\n"} {
		f.Add(word)
	}
	m := testMaker().host
	f.Fuzz(func(t *testing.T, word string) {
		_, rules := deviceRules([]string{word})
		_, security := parseSecurity([]string{word}, m)
		_, size := storageSize(map[string]string{"size": word})
		_, key := storageSize(map[string]string{word: "1"})
		device := checkDeviceRequests([]container.DeviceRequest{{Driver: cdiDriver, DeviceIDs: []string{word}}})
		for _, err := range []error{rules, security, size, key, device} {
			if err != nil && (!fail.Is(err, fail.Invalid) || strings.ContainsAny(strings.ReplaceAll(err.Error(), word, ""), "\n\r")) {
				t.Errorf("%q: %q (%v)", word, err, fail.Of(err))
			}
		}
	})
}

func TestLimitsThatFewMachinesHaveAreInTheSpecification(t *testing.T) {
	yes, swappiness := true, int64(30)
	got, err := resources(&container.Resources{
		Memory: 64 << 20, MemorySwap: 96 << 20, MemoryReservation: 32 << 20, MemorySwappiness: &swappiness, OomKillDisable: &yes,
		CPUShares: 512, CPUPeriod: 50000, CPUQuota: 20000, CPURealtimePeriod: 1000000, CPURealtimeRuntime: 950000, CpusetCpus: "0", CpusetMems: "0", BlkioWeight: 300,
	})
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(got)
	const want = `{"memory":{"limit":67108864,"reservation":33554432,"swap":100663296,"swappiness":30,"disableOOMKiller":true},` +
		`"cpu":{"shares":512,"quota":20000,"period":50000,"realtimeRuntime":950000,"realtimePeriod":1000000,"cpus":"0","mems":"0"},"blockIO":{"weight":300}}`
	if string(text) != want {
		t.Errorf("%s", text)
	}
	disks, _ := filepath.Glob("/sys/block/*/dev")
	for _, d := range disks {
		node := "/dev/" + filepath.Base(filepath.Dir(d))
		numbers, _ := os.ReadFile(d)
		if _, err := os.Stat(node); err != nil {
			continue
		}
		got, err := resources(&container.Resources{
			BlkioWeightDevice: []*blkiodev.WeightDevice{{Path: node, Weight: 200}}, BlkioDeviceReadBps: []*blkiodev.ThrottleDevice{{Path: node, Rate: 1}}, BlkioDeviceWriteBps: []*blkiodev.ThrottleDevice{{Path: node, Rate: 2}},
			BlkioDeviceReadIOps: []*blkiodev.ThrottleDevice{{Path: node, Rate: 3}}, BlkioDeviceWriteIOps: []*blkiodev.ThrottleDevice{{Path: node, Rate: 4}},
		})
		if err != nil {
			t.Fatal(err)
		}
		at := `{"major":` + strings.Replace(strings.TrimSpace(string(numbers)), ":", `,"minor":`, 1) + `,`
		text, _ := json.Marshal(got)
		if want := `{"blockIO":{"weightDevice":[` + at + `"weight":200}],"throttleReadBpsDevice":[` + at + `"rate":1}],"throttleWriteBpsDevice":[` + at + `"rate":2}],"throttleReadIOPSDevice":[` + at +
			`"rate":3}],"throttleWriteIOPSDevice":[` + at + `"rate":4}]}}`; string(text) != want {
			t.Errorf("%s, want %s", text, want)
		}
		return
	}
}
