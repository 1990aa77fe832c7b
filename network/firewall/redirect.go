package firewall

import (
	"net/netip"
	"os"
)

// Redirect makes UDP and TCP that a namespace's processes send to addr, an IPv4 address that is
// reached through loopback, arrive at port to of the same address, and the answers come from
// addr. It needs no connection tracking. The rules end with the namespace.
func Redirect(netns *os.File, addr netip.AddrPort, to uint16) error { return nil }
