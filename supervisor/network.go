package supervisor

import "net/netip"

// Network is what a shim does for its container's network: it holds the published ports on
// the host, serving those connections that the kernel cannot translate (loopback), and
// answers the container's DNS queries.
type Network struct {
	Ports   []Port     `json:"ports,omitempty"`
	Target4 netip.Addr `json:"target4,omitzero"` // where connections to IPv4 ports lead to
	Target6 netip.Addr `json:"target6,omitzero"` // … and to IPv6 ports; zero: Target4
	DNS     *DNS       `json:"dns,omitempty"`    // nil: no resolver
}

// Port is a published port. In a request HostPort zero asks for any free one, and HostPortEnd
// for the first free one up to and including it. A zero HostIP asks for 0.0.0.0 and ::, with
// the same number. In an answer HostIP and HostPort are what was bound.
type Port struct {
	Proto         string     `json:"proto"`
	HostIP        netip.Addr `json:"hostIP,omitzero"`
	HostPort      uint16     `json:"hostPort,omitempty"`
	HostPortEnd   uint16     `json:"hostPortEnd,omitempty"`
	ContainerPort uint16     `json:"containerPort"`
}

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
