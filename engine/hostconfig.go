package engine

import (
	"cmp"
	"net/netip"
	"os"
	"path"
	"strings"

	"github.com/moby/moby/api/types/container"

	"berth/fail"
)

// refuseForeign refuses, in one line each, what is not for Linux, or for no container of ours.
func refuseForeign(h *container.HostConfig) error {
	if h.CPUCount != 0 || h.CPUPercent != 0 || h.IOMaximumBandwidth != 0 || h.IOMaximumIOps != 0 {
		return fail.New(fail.Invalid, "CPU count, CPU percent and IO maximum exist on Windows only")
	}
	if !h.Isolation.IsDefault() {
		return fail.New(fail.Invalid, "invalid isolation %q: only 'default' is supported", string(h.Isolation))
	}
	if !h.UsernsMode.Valid() {
		return fail.New(fail.Invalid, "invalid user namespace mode: %s", string(h.UsernsMode))
	}
	if h.Umask != nil && *h.Umask > 0o777 {
		return fail.New(fail.Invalid, "invalid umask %#o: it has the bits of 0777 only", *h.Umask)
	}
	if _, empty := h.Annotations[""]; empty {
		return fail.New(fail.Invalid, "invalid Annotations: the empty string is not permitted as an annotation key")
	}
	if h.Cgroup != "" {
		return fail.New(fail.Invalid, "invalid cgroup mode: %s", string(h.Cgroup))
	}
	return nil
}

// normaliseNamespaces settles which namespaces the container shares with whom, the network's
// apart (see networker). named: the request gives the host name.
func normaliseNamespaces(cfg *container.Config, h *container.HostConfig, named bool, idx *index, by Defaults) (err error) {
	if !h.UTSMode.Valid() {
		return fail.New(fail.Invalid, "invalid UTS mode: %s", string(h.UTSMode))
	}
	if h.UTSMode.IsHost() {
		if named {
			return fail.New(fail.Invalid, "conflicting options: hostname and the UTS mode")
		}
		if cfg.Hostname, err = os.Hostname(); err != nil {
			return err
		}
	}
	if h.CgroupnsMode.IsEmpty() {
		h.CgroupnsMode = cmp.Or(by.CgroupnsMode, container.CgroupnsModePrivate)
	}
	if !h.CgroupnsMode.Valid() {
		return fail.New(fail.Invalid, "invalid cgroup namespace mode: %s", string(h.CgroupnsMode))
	}
	if h.IpcMode.IsEmpty() {
		h.IpcMode = cmp.Or(by.IPCMode, container.IPCModePrivate)
	}
	if !h.IpcMode.Valid() {
		return fail.New(fail.Invalid, "invalid IPC mode: %s", string(h.IpcMode))
	}
	if h.IpcMode.IsContainer() {
		donor, err := idx.find(h.IpcMode.Container())
		if err != nil {
			return err
		}
		if !donor.now().HostConfig.IpcMode.IsShareable() {
			return fail.New(fail.Conflict, "can't join IPC of container %s: non-shareable IPC (hint: use IpcMode:shareable for the donor container)", donor.id)
		}
		h.IpcMode = container.IpcMode("container:" + donor.id)
	}
	if !h.PidMode.Valid() {
		return fail.New(fail.Invalid, "invalid PID mode: %s", string(h.PidMode))
	}
	if h.PidMode.IsContainer() {
		donor, err := idx.find(h.PidMode.Container())
		if err != nil {
			return err
		}
		h.PidMode = container.PidMode("container:" + donor.id)
	}
	return nil
}

// refuseBesideDonor refuses what the owner of a shared network namespace decides.
func refuseBesideDonor(cfg *container.Config, h *container.HostConfig) error {
	for _, r := range []struct {
		asked bool
		what  string
	}{
		{cfg.Hostname != "", "hostname and the network mode"},
		{len(h.DNS) > 0, "dns and the network mode"},
		{len(h.ExtraHosts) > 0, "custom host-to-IP mapping and the network mode"},
		{len(h.PortBindings) > 0 || h.PublishAllPorts, "port publishing and the container type network mode"},
	} {
		if r.asked {
			return fail.New(fail.Invalid, "conflicting options: %s", r.what)
		}
	}
	return nil
}

// checkRestart validates the restart policy.
func checkRestart(h *container.HostConfig) error {
	if err := checkPolicy(h.RestartPolicy); err != nil {
		return err
	}
	if h.AutoRemove && !h.RestartPolicy.IsNone() {
		return fail.New(fail.Invalid, "can't create 'AutoRemove' container with restart policy")
	}
	return nil
}

// sysctlOwner tells which namespace a sysctl belongs to, "" if to none of a container's.
func sysctlOwner(key string) string {
	switch {
	case strings.HasPrefix(key, "net."):
		return "network"
	case strings.HasPrefix(key, "fs.mqueue."):
		return "ipc"
	case key == "kernel.domainname":
		return "uts"
	}
	switch key {
	case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
		"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced":
		return "ipc"
	}
	return ""
}

// checkSysctls lets through only what belongs to a namespace the container has for
// itself.
func checkSysctls(h *container.HostConfig) error {
	for key := range h.Sysctls {
		dotted := strings.ReplaceAll(key, "/", ".")
		clean := path.Clean("/" + strings.ReplaceAll(key, ".", "/"))
		if key == "" || strings.Contains(key, "..") || clean != "/"+strings.ReplaceAll(key, ".", "/") {
			return fail.New(fail.Invalid, "sysctl %q is malformed", key)
		}
		switch owner := sysctlOwner(dotted); {
		case owner == "":
			return fail.New(fail.Invalid, "sysctl %q is not in a separate kernel namespace", key)
		case owner == "network" && h.NetworkMode.IsHost():
			return fail.New(fail.Invalid, "sysctl %q not allowed in host network namespace", key)
		case owner == "ipc" && h.IpcMode.IsHost():
			return fail.New(fail.Invalid, "sysctl %q not allowed in host IPC namespace", key)
		case owner == "uts" && h.UTSMode.IsHost():
			return fail.New(fail.Invalid, "sysctl %q not allowed in host UTS namespace", key)
		}
	}
	return nil
}

// checkNetFiles validates what goes into hosts and resolv.conf.
func checkNetFiles(h *container.HostConfig) error {
	for _, e := range h.ExtraHosts {
		name, addr, ok := strings.Cut(e, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t\n") {
			return fail.New(fail.Invalid, "bad format for add-host: %q", e)
		}
		if addr == hostGateway {
			continue
		}
		if _, err := netip.ParseAddr(strings.Trim(addr, "[]")); err != nil {
			return fail.New(fail.Invalid, "invalid IP address in add-host: %q", addr)
		}
	}
	for _, s := range append(append([]string{}, h.DNSSearch...), h.DNSOptions...) {
		if strings.ContainsAny(s, "\n\r") {
			return fail.New(fail.Invalid, "a DNS search domain or option contains a line break")
		}
	}
	return nil
}
