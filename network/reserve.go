package network

import (
	"cmp"
	"errors"
	"fmt"
	gonet "net"
	"net/netip"
	"slices"
	"strings"

	"berth/fail"
	"berth/network/ipam"
)

// reserve takes what a sandbox needs of the networks, and returns it with its turn held.
func (n *Networks) reserve(r SandboxRequest) (*box, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.boxes[r.ID]; ok {
		return nil, fail.New(fail.Conflict, "container %s has a network already", r.ID)
	}
	s := sandbox{ID: r.ID, Name: r.Name}
	for _, er := range r.Endpoints {
		e, err := n.newEndpoint(s, er)
		if err != nil {
			n.giveBack(s)
			return nil, err
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	n.chooseGateways(&s)
	b := &box{rec: s}
	b.turn.Lock()
	n.boxes[r.ID] = b
	return b, nil
}

// giveBack undoes newEndpoint for all of s. The caller holds mu.
func (n *Networks) giveBack(s sandbox) {
	for _, e := range s.Endpoints {
		n.giveBackOne(e)
	}
}

func (n *Networks) giveBackOne(e endpoint) {
	nw := n.nets[e.Network]
	if nw == nil {
		return
	}
	nw.ends--
	for _, p := range e.addresses() {
		if sp := nw.spaceOf(p.Addr()); sp != nil {
			sp.Give(p.Addr())
		}
	}
}

func (nw *entry) spaceOf(a netip.Addr) *ipam.Space {
	for _, s := range nw.space {
		if s.Subnet().Contains(a) {
			return s
		}
	}
	return nil
}

// newEndpoint takes what a place on a network needs. The caller holds mu.
func (n *Networks) newEndpoint(s sandbox, r EndpointRequest) (e endpoint, err error) {
	nw, err := n.find(r.Network)
	if err != nil {
		return e, err
	}
	if err := usable(nw); err != nil {
		return e, err
	}
	if err := checkEndpointOptions(r.Options); err != nil {
		return e, err
	}
	if slices.ContainsFunc(s.Endpoints, func(o endpoint) bool { return o.Network == nw.rec.ID }) {
		return e, fail.New(fail.Forbidden, "container is already connected to network %s", nw.rec.Name)
	}
	e.Endpoint = Endpoint{
		ID: randomHex(64), Network: nw.rec.ID, NetworkName: nw.rec.Name, MAC: r.MAC, LinkLocal: r.LinkLocal,
		Names: r.Names, Options: r.Options, GwPriority: r.GwPriority,
	}
	for _, a := range r.LinkLocal {
		if !a.IsLinkLocalUnicast() {
			return e, fail.New(fail.Invalid, "%s is not a link-local address", a)
		}
	}
	if e.Interface, err = interfaceName(s, nw.set.prefix, r.Options[optIfname]); err != nil {
		return e, err
	}
	defer func() {
		if err != nil {
			nw.ends++ // as giveBackOne counts it down
			n.giveBackOne(e)
		}
	}()
	for _, f := range []struct {
		enabled bool
		wanted  netip.Addr
		to      *netip.Prefix
		gateway *netip.Addr
		is4     bool
	}{{nw.rec.EnableIPv4, r.IPv4, &e.IPv4, &e.Gateway4, true}, {nw.rec.EnableIPv6, r.IPv6, &e.IPv6, &e.Gateway6, false}} {
		if !f.enabled && f.wanted.IsValid() {
			return e, fail.New(fail.Invalid, "invalid address %s: network %s has no addresses of this family", f.wanted, nw.rec.Name)
		}
		if !f.enabled {
			continue
		}
		pool, a, err := nw.takeAddress(f.wanted, f.is4)
		if err != nil {
			return e, err
		}
		*f.to = netip.PrefixFrom(a, pool.Subnet.Bits())
		*f.gateway = nw.gateway(pool)
	}
	e.OnDevice = !nw.rec.Internal && nw.rec.Driver == "ipvlan" && strings.HasPrefix(nw.set.mode, "l3")
	switch {
	case nw.rec.Driver == "ipvlan" && e.MAC != nil:
		return e, fail.New(fail.Invalid, "a container on an ipvlan network has its parent interface's MAC address: it cannot have %s", e.MAC)
	case nw.rec.Driver == "ipvlan":
	case e.MAC == nil:
		e.MAC = macOf(e.IPv4.Addr())
	case len(e.MAC) != 6 || e.MAC[0]&1 != 0:
		return e, fail.New(fail.Invalid, "invalid MAC address %s: it is a multicast address or no Ethernet address", e.MAC)
	}
	nw.ends++
	return e, nil
}

// takeAddress takes the wanted address of a network, or any one of the family.
func (nw *entry) takeAddress(wanted netip.Addr, is4 bool) (Pool, netip.Addr, error) {
	if wanted.IsValid() && nw.rec.Predefined {
		return Pool{}, wanted, fail.New(fail.Invalid, "user specified IP address is supported on user defined networks only")
	}
	full := ipam.ErrFull
	for i, p := range nw.rec.IPAM.Pools {
		if p.Subnet.Addr().Is4() != is4 {
			continue
		}
		if !wanted.IsValid() {
			a, err := nw.space[i].Next()
			if err == nil {
				return p, a, nil
			}
			full = err
			continue
		}
		if !p.Subnet.Contains(wanted) {
			continue
		}
		if i < len(nw.rec.Auto) && nw.rec.Auto[i] {
			return p, wanted, fail.New(fail.Invalid, "user specified IP address is supported only when connecting to networks with user configured subnets")
		}
		switch err := nw.space[i].Take(wanted); {
		case errors.Is(err, ipam.ErrTaken):
			return p, wanted, fail.New(fail.Forbidden, "Address already in use: %s on network %s", wanted, nw.rec.Name)
		case err != nil:
			return p, wanted, fail.New(fail.Invalid, "invalid address %s: it is the network or broadcast address of %s", wanted, p.Subnet)
		}
		return p, wanted, nil
	}
	if wanted.IsValid() {
		return Pool{}, wanted, fail.New(fail.Invalid, "invalid address %s: it is not in a subnet of network %s (%s)", wanted, nw.rec.Name, nw.subnets())
	}
	return Pool{}, wanted, fail.New(fail.Conflict, "network %s: %w", nw.rec.Name, full)
}

func (nw *entry) subnets() string {
	var out []string
	for _, p := range nw.rec.IPAM.Pools {
		out = append(out, p.Subnet.String())
	}
	return strings.Join(out, ", ")
}

// gateway is where the default route of a pool's endpoints leads to; zero: nowhere.
func (nw *entry) gateway(p Pool) netip.Addr {
	f := 0
	aux := "DefaultGatewayIPv4"
	if p.Subnet.Addr().Is6() {
		f, aux = 1, "DefaultGatewayIPv6"
	}
	switch a, ok := p.Aux[aux]; {
	case nw.rec.Internal, nw.set.modes[f] == modeIsolated, nw.rec.Driver == "ipvlan" && strings.HasPrefix(nw.set.mode, "l3"):
		return netip.Addr{}
	case ok:
		return a
	}
	return p.Gateway
}

// interfaceName is the first free name, or the one that was asked for.
func interfaceName(s sandbox, prefix, wanted string) (string, error) {
	taken := func(name string) bool {
		return name == "lo" || slices.ContainsFunc(s.Endpoints, func(e endpoint) bool { return e.Interface == name })
	}
	if wanted != "" {
		if taken(wanted) {
			return "", fail.New(fail.Conflict, "the container has an interface %s already", wanted)
		}
		return wanted, nil
	}
	for i := 0; ; i++ {
		if name := fmt.Sprintf("%s%d", cmp.Or(prefix, "eth"), i); !taken(name) {
			return name, nil
		}
	}
}

// macOf is the MAC address of whoever has the IPv4 address: always the same, so that
// neighbours that remember the previous one are right.
func macOf(a netip.Addr) gonet.HardwareAddr {
	if !a.Is4() {
		return randomMAC()
	}
	b := a.As4()
	return gonet.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}
}

// chooseGateways decides which networks provide the default routes: those of the highest
// priority, then those that have one for both families, or for IPv6, then the first by name
// (as Docker does it).
func (n *Networks) chooseGateways(s *sandbox) {
	order := slices.Clone(s.Endpoints)
	families := func(e endpoint) (weight int) {
		if e.Gateway4.IsValid() || e.OnDevice && e.IPv4.IsValid() {
			weight++
		}
		if e.Gateway6.IsValid() || e.OnDevice && e.IPv6.IsValid() {
			weight += 2
		}
		return weight
	}
	slices.SortStableFunc(order, func(a, b endpoint) int {
		return cmp.Or(cmp.Compare(b.GwPriority, a.GwPriority), cmp.Compare(families(b), families(a)), strings.Compare(a.NetworkName, b.NetworkName))
	})
	s.Gateway4, s.Gateway6 = "", ""
	for _, e := range order {
		if s.Gateway4 == "" && (e.Gateway4.IsValid() || e.OnDevice && e.IPv4.IsValid()) {
			s.Gateway4 = e.Network
		}
		if s.Gateway6 == "" && (e.Gateway6.IsValid() || e.OnDevice && e.IPv6.IsValid()) {
			s.Gateway6 = e.Network
		}
	}
}
