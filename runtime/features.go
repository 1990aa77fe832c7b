package runtime

import (
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"berth/kernel"
	filters "berth/kernel/seccomp"
)

// Features tells what this runtime understands, whether or not this host has it
// (runtime-spec, features.md and features-linux.md). What depends on the host is only
// Seccomp.SupportedFlags.
func Features() *features.Features {
	no, yes := false, true
	seccomp := &features.Seccomp{
		Enabled: &yes,
		Actions: names([]specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread,
			specs.ActLog, specs.ActNotify, specs.ActTrace, specs.ActTrap}),
		Operators: names([]specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpLessEqual,
			specs.OpLessThan, specs.OpMaskedEqual, specs.OpNotEqual}),
		Archs: names([]specs.Arch{specs.ArchAARCH64, specs.ArchARM, specs.ArchX32, specs.ArchX86, specs.ArchX86_64}),
		KnownFlags: names([]specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow, "SECCOMP_FILTER_FLAG_TSYNC",
			specs.LinuxSeccompFlagWaitKillableRecv}),
	}
	if actions := kernel.Probe().SeccompActions; len(actions) > 0 {
		seccomp.SupportedFlags = slices.DeleteFunc(slices.Clone(seccomp.KnownFlags), func(f string) bool {
			return f == string(specs.LinuxSeccompFlagWaitKillableRecv) && !filters.CanWaitKillable()
		})
	}
	var namespaces []specs.LinuxNamespaceType
	for _, k := range namespaceKinds {
		namespaces = append(namespaces, k.kind)
	}
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions:  MountOptions(),
		Linux: &features.Linux{
			Namespaces:      names(namespaces),
			Capabilities:    kernel.NamedCapabilities().Names(),
			Cgroup:          &features.Cgroup{V1: &yes, V2: &yes, Systemd: &no, SystemdUser: &no, Rdma: &yes},
			Seccomp:         seccomp,
			Apparmor:        &features.Apparmor{Enabled: &yes},
			Selinux:         &features.Selinux{Enabled: &yes},
			IntelRdt:        &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			MemoryPolicy:    &features.MemoryPolicy{Modes: names(slices.Collect(maps.Keys(memoryModes))), Flags: names(slices.Collect(maps.Keys(memoryFlags)))},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &yes},
		},
	}
}

// names sorts words of the specification.
func names[T ~string](list []T) []string {
	var out []string
	for _, s := range list {
		out = append(out, string(s))
	}
	slices.Sort(out)
	return out
}
