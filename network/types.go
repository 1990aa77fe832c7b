// Package network makes the networks that containers are on: bridges, macvlan and ipvlan
// links, addresses, names, published ports.
//
// # Who keeps what
//
// A network is a record in the database. A sandbox, the network of one container while
// it runs, is a file under the exec root, written before anything is made in the kernel
// and removed after all of it is gone: so a killed engine leaves nothing that the next one
// does not know. Addresses in use are derived from these files. A container's network
// namespace is held by its processes and its shim alone; when they end, the kernel takes it
// down with the interfaces in it.
//
// # One start
//
//	Join     addresses, a wired namespace (from the pool if one waits), the sandbox's file
//	         … the caller makes the container in it; its shim binds the published ports …
//	Publish  ports into the firewall's maps, names into the networks' zones
//	Leave    all of it back
package network

import (
	"net"
	"net/netip"
	"os"
	"time"
)

// Network is a network as it was created, with what was left open filled in.
type Network struct {
	ID, Name   string
	Created    time.Time
	Driver     string // bridge, macvlan, ipvlan; host and null for the predefined "host" and "none"
	EnableIPv4 bool
	EnableIPv6 bool
	Internal   bool // no way out and no way in
	Attachable bool
	ConfigOnly bool   // only a pattern for other networks
	ConfigFrom string // the pattern's name
	IPAM       IPAM
	Options    map[string]string // the driver's, as given
	Labels     map[string]string
	Predefined bool // bridge, host, none
}

// IPAM says where a network's addresses come from.
type IPAM struct {
	Driver  string // default
	Options map[string]string
	Pools   []Pool
}

// Pool is one subnet of a network. In a request all but Subnet may be missing, and the
// Subnet too if there is a single pool of its family.
type Pool struct {
	Subnet  netip.Prefix
	Range   netip.Prefix // addresses given out come from here; zero: the whole subnet
	Gateway netip.Addr
	Aux     map[string]netip.Addr // addresses never given out
}

// EndpointRequest asks for a container's place on a network.
type EndpointRequest struct {
	Network    string     // ID, name or unique ID prefix
	IPv4, IPv6 netip.Addr // zero: chosen
	LinkLocal  []netip.Addr
	MAC        net.HardwareAddr // nil: chosen
	Names      []string         // what the resolver knows it by on this network: name, short ID, aliases
	Options    map[string]string
	GwPriority int // the highest provides the default routes
}

// Endpoint is a container's place on a network, while the container runs.
type Endpoint struct {
	ID          string
	Network     string // ID
	NetworkName string
	Interface   string // inside the container
	MAC         net.HardwareAddr
	IPv4, IPv6  netip.Prefix // with the subnet's length; zero: none
	LinkLocal   []netip.Addr
	Gateway4    netip.Addr // zero: none
	Gateway6    netip.Addr
	Names       []string
	Options     map[string]string
	GwPriority  int
}

// SandboxRequest asks for a container's network.
type SandboxRequest struct {
	ID        string // of the container
	Name      string
	Endpoints []EndpointRequest // none: a namespace with loopback only
}

// Sandbox is the network of a running container.
type Sandbox struct {
	ID        string
	Endpoints []Endpoint
	Gateway4  string // ID of the network with the IPv4 default route, and the one that ports are published to; empty: none
	Gateway6  string
	Ports     []Port   // published
	Zones     []string // files with the names of its networks, for the resolver

	// Netns is the namespace; Join's caller closes it once the container is in it. Nil from
	// other calls.
	Netns *os.File
}

// Port is a published port. Who binds it has filled HostIP and HostPort in.
type Port struct {
	Proto         string     // tcp, udp, sctp
	HostIP        netip.Addr // never zero: 0.0.0.0 and :: are two ports
	HostPort      uint16
	ContainerPort uint16
}
