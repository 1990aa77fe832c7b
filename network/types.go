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
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"berth/durable"
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

// CreateRequest asks for a network.
type CreateRequest struct {
	Name       string
	Driver     string // empty: bridge
	EnableIPv4 *bool  // nil: yes
	EnableIPv6 *bool  // nil: as the engine's default network options say, else no
	Internal   bool
	Attachable bool
	ConfigOnly bool
	ConfigFrom string
	IPAM       IPAM
	Options    map[string]string
	Labels     map[string]string
}

// Member is a running container on a network.
type Member struct {
	ContainerID, ContainerName string
	Endpoint                   Endpoint
}

// Facts are what the engine tells of its networks.
type Facts struct {
	Drivers         []string // that this kernel can do, by name
	Firewall        string   // nftables, none
	FirewallVersion string   // of the kernel, which nftables is a part of
	IPv4Forwarding  bool
	IPv6Forwarding  bool
	Hints           []string // what the host should allow, a sentence each
	Pools           []AddressPool
}

// AddressPool is a range that subnets of Size (a prefix length) are taken from for
// networks that name none.
type AddressPool struct {
	Base netip.Prefix
	Size int
}

// BridgeConfig are the settings of the default network.
type BridgeConfig struct {
	Disabled       bool         // --bridge none: there is no default network
	Name           string       // an existing bridge; empty: one of our own
	IP             netip.Prefix // --bip: address and length of the bridge; zero: chosen
	IP6            netip.Prefix // --bip6
	FixedCIDR      netip.Prefix // addresses are given out from here
	FixedCIDR6     netip.Prefix
	Gateway        netip.Addr // --default-gateway: another one than the bridge
	Gateway6       netip.Addr
	MTU            int // 0: 1500
	NoICC          bool
	IPv6           bool
	NoMasquerade   bool
	NoForwarding   bool       // --ip-forward=false: leave the host's forwarding as it is
	HostBindingIP  netip.Addr // --ip: where ports are published that name no address
	HostBindingIP6 netip.Addr
}

// Config configures Open.
type Config struct {
	DB       *durable.DB
	RunDir   string // <exec-root>/networks: sandbox files and zones
	EngineID string
	// DefaultEngine is true for the engine of the machine's default data root, which alone calls
	// its bridge berth0 and its nft table berth.
	DefaultEngine bool
	Firewall      string // nftables (default) or none
	Bridge        BridgeConfig
	Pools         []AddressPool // empty: Docker's
	// Options are drivers' options that networks get unless they say otherwise
	// (--default-network-opt), by driver.
	Options map[string]map[string]string
	Log     *slog.Logger
}
