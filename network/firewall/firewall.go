// Package firewall is everything Berth does with nftables: published ports, masquerading,
// isolation between bridges, and the redirect to the resolver in a container's namespace.
// It speaks netlink; no nft or iptables program is needed.
//
// # One table
//
// An engine has one table of family inet, which exists while it has a bridge. Its rules are
// always the same; bridges and ports are elements of its sets and maps. So a packet's way is
// as long with a thousand ports as with one, and a container's ports come and go in one
// netlink message. What should be in the table is kept in memory: when somebody flushes it,
// it is made again.
//
// # What it guarantees
//
//   - Into a bridge comes what is addressed to a published port (or, for a routed family, to
//     an open one), what answers, and what the host itself sends. Nothing else: neither from other
//     hosts nor from other bridges.
//   - Out of a bridge everything may go, but for internal networks.
//   - A port published on a loopback address is not translated at all; the shim's socket
//     serves it. From other hosts it is unreachable even where the kernel would route
//     127.0.0.0/8 (route_localnet).
//   - The client's address stays visible, but for a client that shares a bridge with the
//     container: then the host's address stands for it, as else the answer would bypass the host.
//   - Traffic that is neither from nor to one of the table's bridges is not judged.
//   - What another table drops stays dropped: see Hints.
package firewall

import (
	"log/slog"
	"net/netip"
)

// Config says what a table is called and what has to be in it from its first moment on.
type Config struct {
	Table     string // berth, or berth_<8 of the engine's ID>
	Off       bool   // no tables, no rules: every call only keeps its state
	Bridges   []Bridge
	Published []Publication
	Log       *slog.Logger // nil: nothing is told
}

// Bridge is how the traffic of one bridge is judged. The interface need not exist yet.
type Bridge struct {
	Name       string  // of the interface
	IPv4, IPv6 Gateway // what the host is for each family
	Internal   bool    // nothing in, nothing out: only the bridge's containers and the host see each other
	// Isolated: routing does not lead from the bridge back to it either, but for published
	// ports (icc off). What is switched on the bridge itself is not seen here: its ports'
	// isolation is the caller's.
	Isolated bool
	Trusted  []string // interfaces from which everything may come in (trusted_host_interfaces)
}

// Gateway says what the host does for one address family of a bridge.
type Gateway struct {
	Mode       Mode
	Masquerade bool       // what leaves by an interface that is not a bridge of ours gets the host's address
	Source     netip.Addr // … this one (host_ipv4, host_ipv6); zero: the outgoing interface's
}

// Mode says what may come into a bridge by the host.
type Mode uint8

const (
	NAT         Mode = iota // what was published, through the host's address only
	Routed                  // what was published, at the container's own address; and pings
	Unprotected             // everything (Docker's nat-unprotected); published ports are translated as well
)

// Publication is all the published ports of one container.
type Publication struct {
	Container string // ID
	Ports     []Port
	// Bridges the container is on. A client on one of them is masqueraded when it comes by the
	// host's address, because the container would answer it directly.
	Bridges []string
}

// Port leads from an address of the host to a container. Both addresses are of one family:
// what comes by IPv6 for a container without it is served by the shim's socket, and not
// mentioned here.
type Port struct {
	Proto string // tcp, udp, sctp
	// Host is where clients connect: an address of the host, or 0.0.0.0 or :: for all of that
	// family. Zero: nothing is translated, Target itself may be reached (Routed).
	Host   netip.AddrPort
	Target netip.AddrPort
}
