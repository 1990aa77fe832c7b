package firewall

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// legacyTables is iptables' older interface to the kernel, which nftables does not show. Only what its
// chain FORWARD does with packets that no rule matched is read (linux/netfilter_ipv4/ip_tables.h,
// ip6_tables.h; options of getsockopt).
type legacyTables struct {
	program      string // that changes them
	names        string // file with the tables that are in use
	family       int
	level        int
	interfaces   int // offset in an entry of the name of the incoming interface, 16 bytes; the outgoing follows
	targetOffset int // … of the field with the target's offset, 16 bits; the length of the entry follows
}

var (
	legacyIPv4 = legacyTables{"iptables-legacy", "/proc/thread-self/net/ip_tables_names", unix.AF_INET, unix.IPPROTO_IP, 16, 88}
	legacyIPv6 = legacyTables{"ip6tables-legacy", "/proc/thread-self/net/ip6_tables_names", unix.AF_INET6, unix.IPPROTO_IPV6, 64, 140}
)

const (
	iptGetInfo    = 64 // IPT_SO_GET_INFO and IP6T_SO_GET_INFO
	iptGetEntries = 65
	iptDrop       = -1 // a standard target's verdict: -NF_DROP - 1
	iptForward    = 2  // NF_INET_FORWARD
)

// iptInfo is struct ipt_getinfo.
type iptInfo struct {
	name       [32]byte
	validHooks uint32
	hookEntry  [5]uint32
	underflow  [5]uint32 // where the policies are, in bytes from the first entry
	entries    uint32
	size       uint32
}

// hint tells how to let the bridges through, if the policy is to drop and no rule names them.
func (l legacyTables) hint(names []string) string {
	inUse, err := os.ReadFile(l.names) // asking for a table that is not in use would load it
	if err != nil || len(names) == 0 || !slices.Contains(strings.Fields(string(inUse)), "filter") {
		return ""
	}
	policy, entries, ok := l.read()
	if !ok || policy != iptDrop {
		return ""
	}
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return l.named(entries, name) })
	if len(names) == 0 {
		return ""
	}
	if bytes.Contains(entries, []byte("ufw-before-forward\x00")) || bytes.Contains(entries, []byte("ufw6-before-forward\x00")) {
		return advice("ufw ("+l.program+") drops what is forwarded from and to", names, "ufw route allow in on %[1]s && ufw route allow out on %[1]s")
	}
	chain := "FORWARD"
	if bytes.Contains(entries, []byte("DOCKER-USER\x00")) {
		chain = "DOCKER-USER"
	}
	return advice("the policy of the chain FORWARD ("+l.program+") drops what is forwarded from and to", names,
		l.program+" -I "+chain+" -i %[1]s -j ACCEPT && "+l.program+" -I "+chain+" -o %[1]s -j ACCEPT")
}

// read gets the table filter: the verdict of FORWARD's policy, and all rules.
func (l legacyTables) read() (policy int32, entries []byte, ok bool) {
	s, err := unix.Socket(l.family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return 0, nil, false
	}
	defer unix.Close(s)
	var info iptInfo
	copy(info.name[:], "filter")
	if !l.get(s, iptGetInfo, unsafe.Pointer(&info), uint32(unsafe.Sizeof(info))) {
		return 0, nil, false
	}
	// struct ipt_get_entries: name, size, padding to 64 bits, entries
	const head = 40
	answer := make([]byte, head+int(info.size))
	copy(answer, "filter")
	binary.NativeEndian.PutUint32(answer[32:], info.size)
	if !l.get(s, iptGetEntries, unsafe.Pointer(&answer[0]), uint32(len(answer))) {
		return 0, nil, false
	}
	entries = answer[head:]
	at := int(info.underflow[iptForward])
	if len(entries) < at+l.targetOffset+2 {
		return 0, nil, false
	}
	// struct xt_standard_target: a header of 32 bytes, the verdict
	target := at + int(binary.NativeEndian.Uint16(entries[at+l.targetOffset:]))
	if len(entries) < target+36 {
		return 0, nil, false
	}
	return int32(binary.NativeEndian.Uint32(entries[target+32:])), entries, true
}

func (l legacyTables) get(socket, option int, buffer unsafe.Pointer, size uint32) bool {
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(socket), uintptr(l.level), uintptr(option),
		uintptr(buffer), uintptr(unsafe.Pointer(&size)), 0)
	return errno == 0
}

// named tells whether a rule is for packets from or to an interface.
func (l legacyTables) named(entries []byte, name string) bool {
	for len(entries) >= l.targetOffset+4 {
		for _, at := range []int{l.interfaces, l.interfaces + unix.IFNAMSIZ} {
			if string(bytes.TrimRight(entries[at:at+unix.IFNAMSIZ], "\x00")) == name {
				return true
			}
		}
		next := int(binary.NativeEndian.Uint16(entries[l.targetOffset+2:]))
		if next == 0 || next > len(entries) {
			return false
		}
		entries = entries[next:]
	}
	return false
}
