package runtime

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// sysctls compiles the kernel parameters. Only those that belong to a namespace of the
// container can be set: any other would change the host.
func (b *builder) sysctls(values map[string]string) error {
	keys := make([]string, 0, len(values))
	for k := range values {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, key := range keys {
		path := sysctlPath(key)
		if path == "" {
			return fail.New(fail.Invalid, "sysctl %q: not a name", key)
		}
		needs := sysctlNamespace(path)
		if needs == 0 {
			return fail.New(fail.Invalid, "sysctl %q is not separate for a container", key)
		}
		if !b.ns.own(needs) {
			return fail.New(fail.Invalid, "sysctl %q would change the host: the container shares that namespace with it", key)
		}
		b.p.About("set sysctl", key)
		b.writeFile("/proc/sys/"+path, values[key])
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

// sysctlNamespace is the kind of namespace that a parameter belongs to, or 0.
func sysctlNamespace(path string) uintptr {
	switch path {
	case "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall",
		"kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced":
		return unix.CLONE_NEWIPC
	case "kernel/hostname", "kernel/domainname":
		return unix.CLONE_NEWUTS
	}
	if strings.HasPrefix(path, "fs/mqueue/") {
		return unix.CLONE_NEWIPC
	}
	if strings.HasPrefix(path, "net/") {
		return unix.CLONE_NEWNET
	}
	if strings.HasPrefix(path, "user/") {
		return unix.CLONE_NEWUSER
	}
	return 0
}
