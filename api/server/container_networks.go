package server

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	mobynet "github.com/moby/moby/api/types/network"

	"berth/engine"
	"berth/network"
)

// endpoints is a container's Networks map: what was asked, and what became of it while it
// runs.
func (s *Server) endpoints(c engine.Container, v version) map[string]*mobynet.EndpointSettings {
	out := map[string]*mobynet.EndpointSettings{}
	if c.Networking == nil || c.Config != nil && c.Config.NetworkDisabled {
		return out
	}
	for name, asked := range c.Networking.EndpointsConfig {
		e := &mobynet.EndpointSettings{}
		if asked != nil {
			e = &mobynet.EndpointSettings{
				IPAMConfig: asked.IPAMConfig, Links: asked.Links, Aliases: asked.Aliases, DriverOpts: asked.DriverOpts, GwPriority: asked.GwPriority,
				MacAddress: asked.MacAddress, NetworkID: asked.NetworkID,
			}
		}
		if n, err := s.Networks.Get(name); err == nil {
			e.NetworkID = n.ID
		}
		short := c.ID[:12]
		custom := container.NetworkMode(name).IsUserDefined()
		if custom {
			e.DNSNames = unique(append(append([]string{c.Name}, e.Aliases...), short))
		}
		switch live := endpointOn(c.Network, name); {
		case live != nil:
			fillEndpoint(e, live)
		case c.State.Running() && (name == mobynet.NetworkHost || name == mobynet.NetworkNone):
			e.EndpointID = plainEndpointID(c.ID, e.NetworkID)
		}
		if custom && v < 45 && !c.State.StartedAt.IsZero() {
			// Until then the short ID was an alias that a start added.
			e.Aliases = unique(append(slices.Clone(e.Aliases), short))
		}
		out[name] = e
	}
	return out
}

// endpointOn finds the endpoint on a network; nil: there is none now.
func endpointOn(sandbox *network.Sandbox, name string) *network.Endpoint {
	if sandbox == nil {
		return nil
	}
	for i, e := range sandbox.Endpoints {
		if e.NetworkName == name || e.Network == name {
			return &sandbox.Endpoints[i]
		}
	}
	return nil
}

func fillEndpoint(out *mobynet.EndpointSettings, e *network.Endpoint) {
	out.NetworkID, out.EndpointID, out.MacAddress = e.Network, e.ID, mobynet.HardwareAddr(e.MAC)
	out.Gateway, out.IPv6Gateway = e.Gateway4, e.Gateway6
	if e.IPv4.IsValid() {
		out.IPAddress, out.IPPrefixLen = e.IPv4.Addr(), e.IPv4.Bits()
	}
	if e.IPv6.IsValid() {
		out.GlobalIPv6Address, out.GlobalIPv6PrefixLen = e.IPv6.Addr(), e.IPv6.Bits()
	}
	if len(e.Names) > 0 {
		out.DNSNames = e.Names
	}
}

// summaryEndpoints leaves names and options to inspect.
func (s *Server) summaryEndpoints(c engine.Container, v version) map[string]*mobynet.EndpointSettings {
	out := s.endpoints(c, v)
	for _, e := range out {
		e.Links, e.Aliases, e.DNSNames = nil, nil, nil
	}
	return out
}

// plainEndpointID names the place of a container on host or none, which has no record: an
// ID that is as stable as the two.
func plainEndpointID(containerID, networkID string) string {
	sum := sha256.Sum256([]byte("endpoint " + containerID + " " + networkID))
	return hex.EncodeToString(sum[:])
}

func unique(names []string) []string {
	var out []string
	for _, n := range names {
		if n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// onNetwork reports whether a container is on the network of that name or ID, or of an ID
// that begins so.
func onNetwork(c engine.Container, want string) bool {
	if c.Networking == nil || want == "" {
		return false
	}
	for name, e := range c.Networking.EndpointsConfig {
		if name == want || (e != nil && strings.HasPrefix(e.NetworkID, want)) {
			return true
		}
	}
	if c.Network == nil {
		return false
	}
	return slices.ContainsFunc(c.Network.Endpoints, func(e network.Endpoint) bool { return strings.HasPrefix(e.Network, want) })
}

// networkSettings carries the default bridge's values at the top level. moby left them
// out at 1.52; scripts read them still, and an additional field breaks nobody.
type networkSettings struct {
	Bridge                 string
	SandboxID              string
	SandboxKey             string
	Ports                  mobynet.PortMap
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []struct{}
	SecondaryIPv6Addresses []struct{}
	EndpointID             string
	Gateway                netip.Addr
	GlobalIPv6Address      netip.Addr
	GlobalIPv6PrefixLen    int
	IPAddress              netip.Addr
	IPPrefixLen            int
	IPv6Gateway            netip.Addr
	MacAddress             mobynet.HardwareAddr
	Networks               map[string]*mobynet.EndpointSettings
}

func (s *Server) networkSettings(c engine.Container, v version) networkSettings {
	out := networkSettings{Ports: portMap(c), Networks: s.endpoints(c, v)}
	if c.State.Running() && !c.HostConfig.NetworkMode.IsContainer() {
		out.SandboxID = c.Sandbox
		out.SandboxKey = fmt.Sprintf("/proc/%d/ns/net", c.State.Pid)
	}
	if e := out.Networks[mobynet.NetworkBridge]; e != nil && c.State.Running() {
		out.EndpointID, out.MacAddress = e.EndpointID, e.MacAddress
		out.Gateway, out.IPAddress, out.IPPrefixLen = e.Gateway, e.IPAddress, e.IPPrefixLen
		out.IPv6Gateway, out.GlobalIPv6Address, out.GlobalIPv6PrefixLen = e.IPv6Gateway, e.GlobalIPv6Address, e.GlobalIPv6PrefixLen
	}
	return out
}

// portMap is what a running container exposes (null) and publishes.
func portMap(c engine.Container) mobynet.PortMap {
	out := mobynet.PortMap{}
	if c.Network == nil || len(c.Network.Endpoints) == 0 {
		return out
	}
	for p := range c.Config.ExposedPorts {
		out[p] = nil
	}
	for _, p := range sortedPorts(c.Network.Ports) {
		if key, ok := mobynet.PortFrom(p.ContainerPort, mobynet.IPProtocol(p.Proto)); ok {
			out[key] = append(out[key], mobynet.PortBinding{HostIP: p.HostIP, HostPort: strconv.Itoa(int(p.HostPort))})
		}
	}
	return out
}

// sortedPorts has IPv4 before IPv6.
func sortedPorts(ports []network.Port) []network.Port {
	return slices.SortedFunc(slices.Values(ports), func(a, b network.Port) int {
		return cmp.Or(cmp.Compare(a.ContainerPort, b.ContainerPort), cmp.Compare(a.Proto, b.Proto), a.HostIP.Compare(b.HostIP), cmp.Compare(a.HostPort, b.HostPort))
	})
}

// portSummary is a port in lists. What is only exposed has no address.
type portSummary struct {
	IP          netip.Addr `json:"IP,omitzero"`
	PrivatePort uint16
	PublicPort  uint16 `json:",omitempty"`
	Type        string
}

func portSummaries(c engine.Container) []portSummary {
	out := []portSummary{}
	if c.Network == nil || len(c.Network.Endpoints) == 0 {
		return out
	}
	published := map[mobynet.Port]bool{}
	for _, p := range sortedPorts(c.Network.Ports) {
		out = append(out, portSummary{IP: p.HostIP, PrivatePort: p.ContainerPort, PublicPort: p.HostPort, Type: p.Proto})
		if key, ok := mobynet.PortFrom(p.ContainerPort, mobynet.IPProtocol(p.Proto)); ok {
			published[key] = true
		}
	}
	for p := range c.Config.ExposedPorts {
		if !published[p] {
			out = append(out, portSummary{PrivatePort: p.Num(), Type: string(p.Proto())})
		}
	}
	slices.SortStableFunc(out, func(a, b portSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.Type, b.Type))
	})
	return out
}

// publishes reports whether one of the container's ports in want, a port or a range of the
// container's side, is asked to be published.
func publishes(c engine.Container, want string) bool {
	for p := range c.HostConfig.PortBindings {
		if inRange(p, want) {
			return true
		}
	}
	if c.Network == nil {
		return false
	}
	return slices.ContainsFunc(c.Network.Ports, func(p network.Port) bool {
		key, ok := mobynet.PortFrom(p.ContainerPort, mobynet.IPProtocol(p.Proto))
		return ok && inRange(key, want)
	})
}

func exposes(c engine.Container, want string) bool {
	for p := range c.Config.ExposedPorts {
		if inRange(p, want) {
			return true
		}
	}
	return false
}

func inRange(p mobynet.Port, want string) bool {
	r, err := mobynet.ParsePortRange(want)
	return err == nil && p.Proto() == r.Proto() && p.Num() >= r.Start() && p.Num() <= r.End()
}
