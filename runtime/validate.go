package runtime

import (
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	oci "berth/oci/bundle"
)

// invalid says which field of the specification is wrong, by its JSON path, and why.
func invalid(field, format string, args ...any) error {
	return fail.New(fail.Invalid, field+": "+format, args...)
}

func indexed(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }

// validate refuses what can never work, and what this runtime does not do, before
// anything is made.
func validate(cfg *Config) error {
	s := cfg.Spec
	if s == nil {
		return fail.New(fail.Invalid, "there is no specification")
	}
	if s.Process == nil {
		return invalid("process", "it is missing")
	}
	if s.Linux == nil {
		s2 := *s
		s2.Linux = new(specs.Linux)
		cfg.Spec, s = &s2, &s2
	}
	if err := validateID(cfg.ID); err != nil {
		return err
	}
	if s.Version != "" && !strings.HasPrefix(s.Version, "1.") {
		return invalid("ociVersion", "%q is not a version of the specification that is known here (1.x)", s.Version)
	}
	for field, set := range map[string]bool{"vm": s.VM != nil, "windows": s.Windows != nil, "solaris": s.Solaris != nil, "zos": s.ZOS != nil, "freebsd": s.FreeBSD != nil} {
		if set {
			return fail.New(fail.NotImplemented, "%s: this runtime makes Linux containers only", field)
		}
	}
	for _, check := range []func(*oci.Spec) error{
		func(s *oci.Spec) error { return validateProcess(s.Process) },
		validateNamespaces, validateMappings, validateNames, validateMounts, validateLinux, validateDevices, validateHooks,
	} {
		if err := check(s); err != nil {
			return err
		}
	}
	return nil
}

// validateNamespaces looks at the list itself, and at what is only possible with one.
func validateNamespaces(s *oci.Spec) error {
	list := s.Linux.Namespaces
	for i, ns := range list {
		field := indexed("linux.namespaces", i)
		if !knownNamespace(ns.Type) {
			return invalid(field+".type", "unknown namespace type %q", ns.Type)
		}
		if ns.Path != "" && !path.IsAbs(ns.Path) {
			return invalid(field+".path", "%q is not an absolute path", ns.Path)
		}
		for _, other := range list[:i] {
			if other.Type == ns.Type {
				return invalid(field+".type", "the %s namespace is given twice", ns.Type)
			}
		}
	}
	if len(s.Linux.TimeOffsets) > 0 && !hasNamespace(list, specs.TimeNamespace) {
		return invalid("linux.timeOffsets", "they are given without a new time namespace")
	}
	for clock, o := range s.Linux.TimeOffsets {
		if clock != "monotonic" && clock != "boottime" {
			return invalid("linux.timeOffsets", "unknown clock %q: there are monotonic and boottime", clock)
		}
		if o.Nanosecs >= 1e9 {
			return invalid("linux.timeOffsets."+clock+".nanosecs", "%d is a second or more", o.Nanosecs)
		}
	}
	return nil
}

func hasNamespace(list []specs.LinuxNamespace, kind specs.LinuxNamespaceType) bool {
	for _, ns := range list {
		if ns.Type == kind && ns.Path == "" {
			return true
		}
	}
	return false
}

func namespaceGiven(list []specs.LinuxNamespace, kind specs.LinuxNamespaceType) bool {
	for _, ns := range list {
		if ns.Type == kind {
			return true
		}
	}
	return false
}

// maxMappings is UID_GID_MAP_MAX_EXTENTS of linux/user_namespace.h.
const maxMappings = 340

func validateMappings(s *oci.Spec) error {
	l := s.Linux
	for field, list := range map[string][]specs.LinuxIDMapping{"linux.uidMappings": l.UIDMappings, "linux.gidMappings": l.GIDMappings} {
		if err := validateIDs(field, list); err != nil {
			return err
		}
	}
	user := namespaceGiven(l.Namespaces, specs.UserNamespace)
	if !user && len(l.UIDMappings)+len(l.GIDMappings) > 0 {
		return invalid("linux.uidMappings", "ids are mapped without a user namespace")
	}
	if !hasNamespace(l.Namespaces, specs.UserNamespace) {
		return nil
	}
	if len(l.UIDMappings) == 0 || len(l.GIDMappings) == 0 {
		return invalid("linux.uidMappings", "a new user namespace needs mappings for users and for groups")
	}
	for _, id := range []struct {
		field string
		id    uint32
		list  []specs.LinuxIDMapping
	}{{"process.user.uid", s.Process.User.UID, l.UIDMappings}, {"process.user.gid", s.Process.User.GID, l.GIDMappings}} {
		if !mapped(id.list, id.id) {
			return invalid(id.field, "%d is not among the mapped ids", id.id)
		}
	}
	return nil
}

func mapped(list []specs.LinuxIDMapping, id uint32) bool {
	for _, m := range list {
		if id >= m.ContainerID && uint64(id) < uint64(m.ContainerID)+uint64(m.Size) {
			return true
		}
	}
	return false
}

func validateIDs(field string, list []specs.LinuxIDMapping) error {
	if len(list) > maxMappings {
		return invalid(field, "%d ranges: the kernel takes %d", len(list), maxMappings)
	}
	overlap := func(a, b, size1, size2 uint32) bool {
		return uint64(a) < uint64(b)+uint64(size2) && uint64(b) < uint64(a)+uint64(size1)
	}
	for i, m := range list {
		at := indexed(field, i)
		if m.Size == 0 {
			return invalid(at+".size", "it is 0")
		}
		if uint64(m.ContainerID)+uint64(m.Size) > math.MaxUint32 || uint64(m.HostID)+uint64(m.Size) > math.MaxUint32 {
			return invalid(at+".size", "the range of %d ids does not end below 4294967295", m.Size)
		}
		for _, o := range list[:i] {
			if overlap(m.ContainerID, o.ContainerID, m.Size, o.Size) || overlap(m.HostID, o.HostID, m.Size, o.Size) {
				return invalid(at, "the range overlaps an earlier one")
			}
		}
	}
	return nil
}

const maxHostName = 64 // __NEW_UTS_LEN of linux/utsname.h

func validateNames(s *oci.Spec) error {
	for field, name := range map[string]string{"hostname": s.Hostname, "domainname": s.Domainname} {
		switch {
		case name == "":
		case !namespaceGiven(s.Linux.Namespaces, specs.UTSNamespace):
			return invalid(field, "it is given without a UTS namespace")
		case len(name) > maxHostName:
			return invalid(field, "%d bytes: the kernel takes %d", len(name), maxHostName)
		case strings.IndexByte(name, 0) >= 0:
			return invalid(field, "%q contains a NUL byte", name)
		}
	}
	return nil
}

func validateMounts(s *oci.Spec) error {
	for i, m := range s.Mounts {
		field := indexed("mounts", i)
		if m.Destination == "" {
			return invalid(field+".destination", "it is empty")
		}
		for name, text := range map[string]string{".destination": m.Destination, ".source": m.Source, ".type": m.Type} {
			if strings.IndexByte(text, 0) >= 0 {
				return invalid(field+name, "%q contains a NUL byte", text)
			}
		}
		o, err := parseMountOptions(m.Options)
		if err != nil {
			return invalid(field+".options", "%w", err)
		}
		bind := o.bind || m.Type == "bind"
		switch {
		case o.remount:
		case bind && m.Source == "":
			return invalid(field+".source", "a bind mount needs one")
		case !bind && m.Type == "":
			return invalid(field+".type", "it is empty, and options name no bind mount")
		}
		if err := validateIDMap(s, &m, o, bind, field); err != nil {
			return err
		}
		if o.copyUp && (bind || m.Type != "tmpfs") {
			return invalid(field+".options", "tmpcopyup is for a tmpfs")
		}
	}
	return nil
}

// validateIDMap finds out whether there are ids to map by.
func validateIDMap(s *oci.Spec, m *oci.Mount, o mountOptions, bind bool, field string) error {
	given := len(m.UIDMappings)+len(m.GIDMappings) > 0
	if !given && !o.idmap {
		return nil
	}
	if !bind {
		return invalid(field, "only bind mounts can have mapped ids")
	}
	if !given {
		if !namespaceGiven(s.Linux.Namespaces, specs.UserNamespace) {
			return invalid(field+".options", "ids are to be mapped, but neither the mount has mappings nor the container a user namespace")
		}
		return nil
	}
	if len(m.UIDMappings) == 0 || len(m.GIDMappings) == 0 {
		return invalid(field+".uidMappings", "a mount with mapped ids needs mappings for users and for groups")
	}
	if err := validateIDs(field+".uidMappings", m.UIDMappings); err != nil {
		return err
	}
	return validateIDs(field+".gidMappings", m.GIDMappings)
}

func validateLinux(s *oci.Spec) error {
	l := s.Linux
	for field, list := range map[string][]string{"linux.maskedPaths": l.MaskedPaths, "linux.readonlyPaths": l.ReadonlyPaths} {
		for i, p := range list {
			if !path.IsAbs(p) || strings.IndexByte(p, 0) >= 0 {
				return invalid(indexed(field, i), "%q is not an absolute path", p)
			}
		}
	}
	if name := l.RootfsPropagation; name != "" {
		if _, ok := propagations[name]; !ok {
			return invalid("linux.rootfsPropagation", "unknown value %q", name)
		}
	}
	if l.MountLabel != "" && !selinuxEnabled() {
		return invalid("linux.mountLabel", "%q: this host has no SELinux", l.MountLabel)
	}
	for key, value := range l.Sysctl {
		if err := validateSysctl(l.Namespaces, key, value); err != nil {
			return err
		}
	}
	if c := l.Seccomp; c != nil {
		if c.ListenerMetadata != "" && c.ListenerPath == "" {
			return invalid("linux.seccomp.listenerMetadata", "it is given without listenerPath")
		}
		if c.ListenerPath != "" && len(c.ListenerPath) >= len(unix.RawSockaddrUnix{}.Path) {
			return invalid("linux.seccomp.listenerPath", "%q is too long for a socket", c.ListenerPath)
		}
	}
	if m := l.MemoryPolicy; m != nil {
		if _, _, err := memoryPolicyOf(m); err != nil {
			return err
		}
	}
	if d := l.Personality; d != nil {
		if _, ok := personalities[d.Domain]; !ok {
			return invalid("linux.personality.domain", "unknown domain %q", d.Domain)
		}
		if len(d.Flags) > 0 {
			return invalid("linux.personality.flags", "the specification defines none, %q is unknown", d.Flags[0])
		}
	}
	if err := validateNetDevices(l); err != nil {
		return err
	}
	return validateRDT(l.IntelRdt)
}

func validateDevices(s *oci.Spec) error {
	for i, d := range s.Linux.Devices {
		field := indexed("linux.devices", i)
		if !path.IsAbs(d.Path) || path.Clean(d.Path) == "/" || strings.IndexByte(d.Path, 0) >= 0 {
			return invalid(field+".path", "%q is not the absolute path of a device", d.Path)
		}
		if _, ok := deviceTypes[d.Type]; !ok {
			return invalid(field+".type", "unknown type %q: there are c, u, b and p", d.Type)
		}
		// 12 and 20 bits (linux/kdev_t.h).
		if d.Type != "p" && (d.Major < 0 || d.Major >= 1<<12 || d.Minor < 0 || d.Minor >= 1<<20) {
			return invalid(field+".major", "%d:%d is not the number of a device", d.Major, d.Minor)
		}
	}
	return nil
}

func validateHooks(s *oci.Spec) error {
	if s.Hooks == nil {
		return nil
	}
	h := s.Hooks
	for kind, list := range map[string][]specs.Hook{
		//lint:ignore SA1019 deprecated hooks are still in bundles
		"prestart": h.Prestart, "createRuntime": h.CreateRuntime, "createContainer": h.CreateContainer,
		"startContainer": h.StartContainer, "poststart": h.Poststart, "poststop": h.Poststop,
	} {
		for i, hook := range list {
			field := indexed("hooks."+kind, i)
			if !path.IsAbs(hook.Path) {
				return invalid(field+".path", "%q is not an absolute path", hook.Path)
			}
			if hook.Timeout != nil && *hook.Timeout <= 0 {
				return invalid(field+".timeout", "%d is not positive", *hook.Timeout)
			}
			for _, list := range [][]string{{hook.Path}, hook.Args, hook.Env} {
				if err := noNUL(field, list); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func noNUL(field string, list []string) error {
	for _, s := range list {
		if strings.IndexByte(s, 0) >= 0 {
			return invalid(field, "%q contains a NUL byte", s)
		}
	}
	return nil
}

// validateID takes what runc takes, so that an id is a safe file and cgroup name.
func validateID(id string) error {
	if id == "" {
		return fail.New(fail.Invalid, "the container has no id")
	}
	for _, r := range id {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_+-.", r) {
			return fail.New(fail.Invalid, "container id %q: only letters, digits and _ + - . are allowed", id)
		}
	}
	if id == "." || id == ".." {
		return fail.New(fail.Invalid, "container id %q is not a name", id)
	}
	return nil
}

const maxTerminal = math.MaxUint16 // struct winsize

func validateProcess(p *oci.Process) error {
	if len(p.Args) == 0 {
		return invalid("process.args", "there is no program to execute")
	}
	if p.Cwd != "" && !path.IsAbs(p.Cwd) {
		return invalid("process.cwd", "%q is not an absolute path", p.Cwd)
	}
	for field, list := range map[string][]string{"process.args": p.Args, "process.env": p.Env, "process.cwd": {p.Cwd},
		"process.apparmorProfile": {p.ApparmorProfile}, "process.selinuxLabel": {p.SelinuxLabel}} {
		if err := noNUL(field, list); err != nil {
			return err
		}
	}
	if b := p.ConsoleSize; b != nil && (b.Height > maxTerminal || b.Width > maxTerminal) {
		return invalid("process.consoleSize", "a terminal of %d x %d is too large", b.Width, b.Height)
	}
	if u := p.User.Umask; u != nil && *u > 0o777 {
		return invalid("process.user.umask", "%#o is above 0777", *u)
	}
	if adj := p.OOMScoreAdj; adj != nil && (*adj < -1000 || *adj > 1000) {
		return invalid("process.oomScoreAdj", "%d is not between -1000 and 1000", *adj)
	}
	if err := validateRlimits(p.Rlimits); err != nil {
		return err
	}
	if _, err := labelsOf(p); err != nil {
		return err
	}
	_, err := schedulingOf(p)
	return err
}

func validateRlimits(list []specs.POSIXRlimit) error {
	for i, l := range list {
		field := indexed("process.rlimits", i)
		if _, ok := rlimitNumbers[l.Type]; !ok {
			return invalid(field+".type", "unknown limit %q", l.Type)
		}
		if l.Soft > l.Hard {
			return invalid(field+".soft", "the soft limit %d of %s is above the hard limit %d", l.Soft, l.Type, l.Hard)
		}
		for _, o := range list[:i] {
			if o.Type == l.Type {
				return invalid(field+".type", "%s is given twice", l.Type)
			}
		}
	}
	return nil
}

// sysctlField is the path of one kernel parameter, whose name has dots.
func sysctlField(key string) string { return fmt.Sprintf("linux.sysctl[%q]", key) }
