package runtime

import (
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/fail"
	"berth/oci"
)

// validate refuses what can never work, and what is not built yet, before anything is
// made.
func validate(cfg *Config) error {
	s := cfg.Spec
	if s == nil || s.Process == nil {
		return fail.New(fail.Invalid, "the specification has no process")
	}
	if s.Linux == nil {
		s2 := *s
		s2.Linux = new(specs.Linux)
		cfg.Spec, s = &s2, &s2
	}
	if err := validateID(cfg.ID); err != nil {
		return err
	}
	if err := validateProcess(s.Process); err != nil {
		return err
	}
	l := s.Linux
	for _, refused := range []struct {
		set  bool
		what string
	}{
		{l.IntelRdt != nil, "linux.intelRdt"},
		{l.MemoryPolicy != nil, "linux.memoryPolicy"},
		{len(l.NetDevices) > 0, "linux.netDevices"},
		{l.Personality != nil, "linux.personality"},
		{l.MountLabel != "" && selinuxEnabled(), "linux.mountLabel"},
		// Such a root lies on "/", so there is no host to find the program in.
		{s.Hooks != nil && len(s.Hooks.CreateContainer) > 0 && len(cfg.Root.Lower) > 0, "the createContainer hook of a container whose root has no directory on the host"},
		{s.VM != nil, "vm"},
		{s.Windows != nil, "windows"},
		{s.Solaris != nil, "solaris"},
	} {
		if refused.set {
			return fail.New(fail.NotImplemented, "%s is not supported", refused.what)
		}
	}
	user := false
	for _, ns := range l.Namespaces {
		user = user || ns.Type == specs.UserNamespace && ns.Path == ""
	}
	if !user && len(l.UIDMappings)+len(l.GIDMappings) > 0 {
		return fail.New(fail.Invalid, "id mappings are given without a new user namespace")
	}
	if user && (len(l.UIDMappings) == 0 || len(l.GIDMappings) == 0) {
		return fail.New(fail.Invalid, "a new user namespace needs id mappings for users and groups")
	}
	if len(l.TimeOffsets) > 0 && !hasNamespace(l.Namespaces, specs.TimeNamespace) {
		return fail.New(fail.Invalid, "time offsets are given without a new time namespace")
	}
	if (s.Hostname != "" || s.Domainname != "") && !namespaceGiven(l.Namespaces, specs.UTSNamespace) {
		return fail.New(fail.Invalid, "a host name is given without a UTS namespace")
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

func validateProcess(p *oci.Process) error {
	if len(p.Args) == 0 {
		return fail.New(fail.Invalid, "the process has no arguments")
	}
	if p.Cwd != "" && !path.IsAbs(p.Cwd) {
		return fail.New(fail.Invalid, "the working directory %q is not an absolute path", p.Cwd)
	}
	for _, list := range [][]string{p.Args, p.Env, {p.Cwd}} {
		for _, s := range list {
			if strings.IndexByte(s, 0) >= 0 {
				return fail.New(fail.Invalid, "%q contains a NUL byte", s)
			}
		}
	}
	if p.Scheduler != nil || p.IOPriority != nil || p.ExecCPUAffinity != nil {
		return fail.New(fail.NotImplemented, "scheduler, ioPriority and execCPUAffinity are not supported")
	}
	return nil
}
