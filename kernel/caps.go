package kernel

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Capability is a capability's number in linux/capability.h.
type Capability int

// CapabilitySet is a set as a bit mask, bit n being capability n.
type CapabilitySet uint64

// capabilityNames are those of capabilities(7), each at its number.
var capabilityNames = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// ParseCapability reads a name with or without CAP_, in any case. Whether this kernel has
// the capability is another question.
func ParseCapability(name string) (Capability, bool) {
	name = "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_")
	n := slices.Index(capabilityNames[:], name)
	return Capability(n), n >= 0
}

// String is the name, e.g. "CAP_CHOWN"; one that is newer than this table has a number only.
func (c Capability) String() string {
	if c >= 0 && int(c) < len(capabilityNames) {
		return capabilityNames[c]
	}
	return fmt.Sprintf("CAP_%d", int(c))
}

// Has reports whether c is in the set.
func (s CapabilitySet) Has(c Capability) bool { return c >= 0 && c < 64 && s&(1<<c) != 0 }

// Names lists the set in ascending numbers.
func (s CapabilitySet) Names() []string {
	var names []string
	for c := range Capability(64) {
		if s.Has(c) {
			names = append(names, c.String())
		}
	}
	return names
}

// NamedCapabilities are all that have a name here.
func NamedCapabilities() CapabilitySet { return 1<<len(capabilityNames) - 1 }

// KnownCapabilities are those that the running kernel has.
func KnownCapabilities() CapabilitySet {
	known, _ := boundingSets()
	return known
}

// BoundingCapabilities are those that a process started by this one can ever have.
func BoundingCapabilities() CapabilitySet {
	_, held := boundingSets()
	return held
}

// EffectiveCapabilities are those that the calling thread has now: capget(2).
func EffectiveCapabilities() CapabilitySet {
	var data [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
		return 0
	}
	return CapabilitySet(data[1].Effective)<<32 | CapabilitySet(data[0].Effective)
}

// boundingSets asks PR_CAPBSET_READ once: berth does not shrink its own bounding set.
var boundingSets = sync.OnceValues(func() (known, held CapabilitySet) {
	for c := range 64 {
		in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if err != nil {
			break
		}
		known |= 1 << c
		held |= CapabilitySet(in) << c
	}
	return known, held
})
