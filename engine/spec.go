package engine

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/kernel/cgroup"
	"berth/oci"
)

// specMaker turns containers into runtime specifications. It holds no state but the
// cache of default seccomp profiles, and makes a specification in well under a
// millisecond.
type specMaker struct {
	host         *machine
	cgroupParent string
	ulimits      map[string]*container.Ulimit
	profiles     seccompProfiles
	named        *namedDevices
	init         *initProgram
	profile      *profileKeeper
	labels       *labels
}

// surroundings is what a start finds out and the request does not say.
type surroundings struct {
	netFiles   string                              // holds hostname, hosts and resolv.conf
	namespaces map[specs.LinuxNamespaceType]string // to join instead of making
	shm        string                              // another container's /dev/shm
}

// specVersion is what specifications claim to be written for. Runtimes refuse a version
// that is newer than they are, crun 1.8 anything but 1.0; of what came later they just
// take what they know.
const specVersion = "1.0.2"

// spec makes the specification of a container. Missing directories of -v are made.
func (m *specMaker) spec(ctx context.Context, c Container, s surroundings) (*oci.Spec, error) {
	h := c.HostConfig
	process, err := m.process(c)
	if err != nil {
		return nil, err
	}
	res, err := resources(&h.Resources)
	if err != nil {
		return nil, err
	}
	nodes, rules, err := m.devices(h)
	if err != nil {
		return nil, err
	}
	res.Devices = rules
	filter, err := m.filter(h, process.Capabilities.Bounding)
	if err != nil {
		return nil, err
	}
	mounts, propagation, err := m.mounts(ctx, c, s)
	if err != nil {
		return nil, err
	}
	spec := &oci.Spec{
		Version:     specVersion,
		Process:     process,
		Root:        &specs.Root{Path: "rootfs", Readonly: h.ReadonlyRootfs},
		Mounts:      mounts,
		Annotations: h.Annotations,
		Linux: &specs.Linux{
			Sysctl:            sysctls(h),
			Resources:         res,
			CgroupsPath:       m.cgroup(c),
			Namespaces:        namespaces(h, s.namespaces),
			Devices:           nodes,
			Seccomp:           filter,
			RootfsPropagation: propagation,
			MaskedPaths:       h.MaskedPaths,
			ReadonlyPaths:     h.ReadonlyPaths,
		},
	}
	if m.labels.on() {
		spec.Linux.MountLabel = c.MountLabel
	}
	if h.Privileged {
		spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = nil, nil
	}
	if !h.UTSMode.IsHost() {
		spec.Hostname, spec.Domainname = c.Config.Hostname, c.Config.Domainname
		// The specification has domain names since 1.1; older runtimes know the sysctl.
		if name := c.Config.Domainname; name != "" && h.Runtime != OwnRuntime && h.Sysctls["kernel.domainname"] == "" {
			spec.Linux.Sysctl["kernel.domainname"] = name
		}
	}
	// Last, for what a device's specification says replaces what is there already.
	return spec, m.named.apply(spec, h.DeviceRequests)
}

func (m *specMaker) cgroup(c Container) string {
	parent := m.cgroupParent
	if p := c.HostConfig.CgroupParent; p != "" {
		parent = p
	}
	if m.host.scopes {
		return cgroup.Scope(parent, "berth", c.ID)
	}
	return path.Join("/", parent, c.ID)
}

// process is the container's process; its user is resolved where the image's files are.
func (m *specMaker) process(c Container) (*oci.Process, error) {
	h, cfg := c.HostConfig, c.Config
	caps, err := capabilities(h, m.host)
	if err != nil {
		return nil, err
	}
	limits, err := rlimits(m.ulimits, h.Ulimits)
	if err != nil {
		return nil, err
	}
	sec, err := parseSecurity(h.SecurityOpt, m.host)
	if err != nil {
		return nil, err
	}
	cwd := cfg.WorkingDir
	if cwd == "" {
		cwd = "/"
	}
	oom := h.OomScoreAdj
	p := &oci.Process{
		Terminal:        cfg.Tty,
		Args:            append([]string{c.Path}, c.Args...),
		Env:             environment(cfg, nil),
		Cwd:             cwd,
		Capabilities:    capSets(caps),
		Rlimits:         limits,
		NoNewPrivileges: sec.noNewPrivs,
		OOMScoreAdj:     &oom,
	}
	if m.init.wanted(h) {
		p.Args = m.init.before(p.Args)
	}
	p.User.Umask = h.Umask
	if p.ApparmorProfile = sec.apparmor; p.ApparmorProfile == "" {
		p.ApparmorProfile = m.profile.standard(h.Privileged)
	} else if m.profile == nil { // "unconfined", where nothing confines
		p.ApparmorProfile = ""
	}
	if m.labels.on() {
		p.SelinuxLabel = c.ProcessLabel
	}
	if cfg.Tty && h.ConsoleSize != [2]uint{} {
		p.ConsoleSize = &specs.Box{Height: h.ConsoleSize[0], Width: h.ConsoleSize[1]}
	}
	return p, nil
}

// capSets gives caps without making them inheritable (CVE-2022-24769).
func capSets(caps []string) *specs.LinuxCapabilities {
	return &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
}

func (m *specMaker) devices(h *container.HostConfig) ([]specs.LinuxDevice, []specs.LinuxDeviceCgroup, error) {
	nodes, rules, err := mappedDevices(h.Devices)
	if err != nil {
		return nil, nil, err
	}
	extra, err := deviceRules(h.DeviceCgroupRules)
	if err != nil {
		return nil, nil, err
	}
	if h.Privileged {
		return append(hostDevices(), nodes...), allDevices, nil
	}
	return nodes, slices.Concat(defaultDeviceRules, rules, extra), nil
}

func (m *specMaker) filter(h *container.HostConfig, caps []string) (*specs.LinuxSeccomp, error) {
	sec, err := parseSecurity(h.SecurityOpt, m.host)
	switch {
	case err != nil:
		return nil, err
	case sec.seccomp == "" && h.Privileged:
		return nil, nil
	}
	switch profile := cmp.Or(sec.seccomp, m.host.defaults.Seccomp, builtin); profile {
	case unconfined:
		return nil, nil
	case builtin, m.host.defaults.Seccomp:
		return m.profiles.get(profile, caps)
	default:
		return customSeccomp(profile, caps)
	}
}

// namespaces lists those to make, and with a path those to join. What the host shares
// is absent.
func namespaces(h *container.HostConfig, join map[specs.LinuxNamespaceType]string) []specs.LinuxNamespace {
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, n := range []struct {
		kind specs.LinuxNamespaceType
		host bool
	}{
		{specs.NetworkNamespace, h.NetworkMode.IsHost()},
		{specs.UTSNamespace, h.UTSMode.IsHost()},
		{specs.PIDNamespace, h.PidMode.IsHost()},
		{specs.IPCNamespace, h.IpcMode.IsHost()},
		{specs.CgroupNamespace, h.CgroupnsMode.IsHost()},
	} {
		if !n.host {
			out = append(out, specs.LinuxNamespace{Type: n.kind, Path: join[n.kind]})
		}
	}
	return out
}

// sysctls are the user's, and two that let programs without privileges bind low ports
// and send pings in a network namespace of the container's own.
func sysctls(h *container.HostConfig) map[string]string {
	out := map[string]string{}
	if !h.NetworkMode.IsHost() && !h.NetworkMode.IsContainer() {
		out["net.ipv4.ip_unprivileged_port_start"] = "0"
		out["net.ipv4.ping_group_range"] = "0 2147483647"
	}
	maps.Copy(out, h.Sysctls)
	return out
}

func (m *specMaker) mounts(ctx context.Context, c Container, s surroundings) ([]oci.Mount, string, error) {
	h := c.HostConfig
	asked, propagation, err := c.plan.mounts(m.host)
	if err != nil {
		return nil, "", err
	}
	sec, err := parseSecurity(h.SecurityOpt, m.host)
	if err != nil {
		return nil, "", err
	}
	slices.SortStableFunc(asked, func(a, b oci.Mount) int { return depth(a.Destination) - depth(b.Destination) })
	taken := map[string]bool{}
	for _, a := range asked {
		taken[a.Destination] = true
	}
	var out []oci.Mount
	for _, d := range slices.Concat(systemMounts(h, s, sec), fileMounts(h, s)) {
		if taken[d.Destination] || taken["/dev"] && strings.HasPrefix(d.Destination, "/dev/") {
			continue // the user's own mount takes its place
		}
		out = append(out, d)
	}
	if sec.nested && m.labels.on() && !taken["/sys/fs/selinux"] {
		out = append(out, oci.Mount{Destination: "/sys/fs/selinux", Type: "bind", Source: "/sys/fs/selinux", Options: []string{"bind", "rprivate", "nosuid", "noexec"}})
	}
	out = append(out, asked...)
	if m.init.wanted(h) && !taken[initInside] { // on top of all: it may lie in a volume
		init, err := m.init.mount()
		// One that the administrator gave keeps its label: programs of a distribution (bin_t) containers
		// may execute anyway, and it may be used by others, or lie on a read-only file system.
		if err == nil && m.labels.on() && m.init.given == "" {
			err = m.labels.host.Relabel(ctx, init.Source, m.labels.host.ReadOnly())
		}
		if err != nil {
			return nil, "", err
		}
		out = append(out, init)
	}
	return out, propagation, nil
}

// systemMounts are the file systems every container has.
func systemMounts(h *container.HostConfig, s surroundings, sec security) []oci.Mount {
	access := "ro"
	if h.Privileged {
		access = "rw"
	}
	groups := access
	if sec.ownGroups != nil {
		if groups = "ro"; *sec.ownGroups {
			groups = "rw"
		}
	}
	out := []oci.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{groups, "nosuid", "noexec", "nodev"}},
	}
	shared := []string{"rbind", "rprivate"}
	// It shows the queues of the IPC namespace that it is mounted in, the host's too.
	out = append(out, oci.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}})
	switch {
	case h.IpcMode.IsNone():
	case h.IpcMode.IsHost():
		out = append(out, oci.Mount{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm", Options: shared})
	case s.shm != "":
		out = append(out, oci.Mount{Destination: "/dev/shm", Type: "bind", Source: s.shm, Options: shared})
	default:
		out = append(out, oci.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(h.ShmSize, 10)}})
	}
	return out
}

// fileMounts are the three files that belong to the container and not to its image.
func fileMounts(h *container.HostConfig, s surroundings) []oci.Mount {
	opts := []string{"rbind", "rprivate"}
	if h.ReadonlyRootfs {
		opts = append(opts, "ro")
	}
	var out []oci.Mount
	for _, name := range []string{"resolv.conf", "hostname", "hosts"} {
		out = append(out, oci.Mount{Destination: "/etc/" + name, Type: "bind", Source: path.Join(s.netFiles, name), Options: opts})
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// execProcess is a further process of a running container: the container's own
// confinement, with what the request changes.
func (m *specMaker) execProcess(c Container, r ExecRequest, rows, cols uint16) (*oci.Process, error) {
	p, err := m.process(c)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.ID, err)
	}
	cfg := *c.Config
	cfg.Tty = r.Tty
	p.Env = environment(&cfg, r.Env)
	p.Args, p.Terminal, p.ConsoleSize = r.Cmd, r.Tty, nil
	if r.WorkingDir != "" {
		p.Cwd = r.WorkingDir
	}
	if r.Privileged {
		p.Capabilities = capSets(m.host.caps)
	}
	p.ApparmorProfile = c.AppArmorProfile
	if r.Tty && rows > 0 && cols > 0 {
		p.ConsoleSize = &specs.Box{Height: uint(rows), Width: uint(cols)}
	}
	return p, nil
}
