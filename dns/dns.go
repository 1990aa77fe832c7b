// Package dns is the resolver of containers: names of the containers on the same networks,
// everything else forwarded. The network package writes the zones, shims serve them.
package dns

import "net/netip"

// Address is where containers find the resolver, on port 53; a redirect in their network
// namespace leads from there to Port, so that a container can serve port 53 itself.
var Address = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// Port is where the resolver listens on Address, for UDP and TCP.
const Port = 10953
