package supervisor

import (
	"net/netip"

	"berth/supervisor/publish"
)

// Network is what a shim does for its container's network: it holds the published ports on
// the host, serving those connections that the kernel cannot translate (loopback), and
// answers the container's DNS queries.
type Network struct {
	Ports   []Port     `json:"ports,omitempty"`
	Target4 netip.Addr `json:"target4,omitzero"` // where connections to IPv4 ports lead to
	Target6 netip.Addr `json:"target6,omitzero"` // … and to IPv6 ports; zero: Target4
	DNS     *DNS       `json:"dns,omitempty"`    // nil: no resolver
}

// Port is a published port.
type Port = publish.Port

// DNS configures the resolver at dns.Address.
type DNS struct {
	Zones    []string  `json:"zones,omitempty"`    // files, see dns.ReadZone; looked at when they change
	Own      []OwnName `json:"own,omitempty"`      // names that only this container knows (--link)
	Servers  []string  `json:"servers,omitempty"`  // ADDRESS or ADDRESS:PORT, asked in order
	FromHost bool      `json:"fromHost,omitempty"` // ask them from the host's network, not the container's
	Internal bool      `json:"internal,omitempty"` // no network leads out: nothing is forwarded
	Ndots    bool      `json:"ndots,omitempty"`    // the option ndots was set, to more than 0: names of one label are not forwarded
}

// OwnName is a name of the container's own, and the zone's name or the address that it
// stands for.
type OwnName struct {
	Alias  string `json:"alias"`
	Target string `json:"target"`
}
