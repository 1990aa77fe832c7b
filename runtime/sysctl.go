package runtime

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// sysctls compiles the kernel parameters. Only those that belong to a namespace of the
// container can be set: any other would change the host.
func (b *builder) sysctls(values map[string]string) {
	keys := make([]string, 0, len(values))
	for k := range values {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, key := range keys {
		b.p.About("set sysctl", key)
		b.writeFile("/proc/sys/"+sysctlPath(key), values[key])
	}
}

// validateSysctl looks for the namespace that a parameter needs.
func validateSysctl(list []specs.LinuxNamespace, key, value string) error {
	path := sysctlPath(key)
	if path == "" {
		return invalid(sysctlField(key), "not the name of a kernel parameter")
	}
	if value == "" {
		return invalid(sysctlField(key), "the value is empty")
	}
	needs := sysctlNamespace(path)
	if needs == "" {
		return invalid(sysctlField(key), "it is not separate for a container")
	}
	if !namespaceGiven(list, needs) {
		return invalid(sysctlField(key), "it would change the host: the container shares the %s namespace with it", needs)
	}
	return nil
}

// sysctlPath turns a name with dots or slashes into a path. As for sysctl(8), the
// first separator tells which of the two separates; the other one is part of a name
// (net.ipv4.conf.eth0/1.forwarding is an interface called eth0.1).
func sysctlPath(key string) string {
	path := key
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '.' {
		path = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, key)
	}
	for _, part := range strings.Split(path, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsRune(part, 0) {
			return ""
		}
	}
	return path
}

// sysctlNamespace is the kind of namespace that a parameter belongs to, or "".
func sysctlNamespace(path string) specs.LinuxNamespaceType {
	switch path {
	case "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall",
		"kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced":
		return specs.IPCNamespace
	case "kernel/hostname", "kernel/domainname":
		return specs.UTSNamespace
	}
	if strings.HasPrefix(path, "fs/mqueue/") {
		return specs.IPCNamespace
	}
	if strings.HasPrefix(path, "net/") {
		return specs.NetworkNamespace
	}
	if strings.HasPrefix(path, "user/") {
		return specs.UserNamespace
	}
	return ""
}
