package runtimecli

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/durable"
	"berth/fail"
	oci "berth/oci/bundle"
	"berth/runtime"
	"berth/version"
)

func specFlags(f *flag.FlagSet) action {
	bundle := both(f.StringVar, f, "bundle", "b", "", "directory to write config.json to (default: the working directory)")
	rootless := f.Bool("rootless", false, "for the present user, without privileges")
	return func(_ context.Context, a *app, _ []string) (int, error) {
		path := filepath.Join(*bundle, "config.json")
		if _, err := os.Lstat(path); err == nil {
			return 1, fail.New(fail.Conflict, "File %s exists. Remove it first", path)
		}
		spec := example()
		if *rootless {
			withoutPrivileges(spec)
		}
		text, err := json.MarshalIndent(spec, "", "\t")
		if err != nil {
			return 1, err
		}
		return 0, durable.WriteFileVolatile(path, append(text, '\n'), 0o666)
	}
}

// example is a configuration that runs a shell in ./rootfs.
func example() *oci.Spec {
	caps := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	return &oci.Spec{
		Version: specs.Version,
		Process: &oci.Process{
			Terminal: true, Args: []string{"sh"}, Cwd: "/", NoNewPrivileges: true,
			Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Effective: caps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
		},
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Hostname: "berth",
		Mounts: []oci.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		},
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.CgroupNamespace}},
			MaskedPaths: []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// withoutPrivileges turns an example into one for an ordinary user: in a user namespace
// with this user as root, in the host's network, with /sys as it is.
func withoutPrivileges(s *oci.Spec) {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: uint32(os.Geteuid()), Size: 1}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: uint32(os.Getegid()), Size: 1}}
	s.Linux.Resources = nil
	var mounts []oci.Mount
	for _, m := range s.Mounts {
		switch m.Type {
		case "cgroup":
			continue
		case "sysfs":
			m = oci.Mount{Destination: "/sys", Type: "none", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"}}
		}
		// Only one group is mapped.
		m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "gid=5" })
		mounts = append(mounts, m)
	}
	s.Mounts = mounts
}

// features prints what this runtime understands.
func features(_ context.Context, a *app, _ []string) (int, error) {
	f := runtime.Features()
	f.Annotations = map[string]string{"io.berth.version": version.Version, "io.berth.commit": version.Commit}
	return 0, a.print(f, "    ")
}
