package engine

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/moby/moby/api/types/container"
	mobynet "github.com/moby/moby/api/types/network"

	"berth/fail"
	"berth/network"
)

// networker settles which networks a container is to be on. It asks for nothing of the
// kernel, and a network that does not exist is an error only when the container starts: it
// may exist by then.
type networker struct {
	nets networks
	idx  *index
}

// normalise fills in what the request leaves open, names every network by its name, and
// refuses what contradicts itself.
func (k networker) normalise(cfg *container.Config, h *container.HostConfig, asked *mobynet.NetworkingConfig) (*mobynet.NetworkingConfig, []string, error) {
	if err := checkPorts(h); err != nil {
		return nil, nil, err
	}
	if h.NetworkMode == "" || h.NetworkMode.IsDefault() {
		h.NetworkMode = container.NetworkMode(k.standard())
	}
	if err := k.mode(cfg, h); err != nil {
		return nil, nil, err
	}
	places, err := k.places(h, asked)
	if err != nil {
		return nil, nil, err
	}
	if err := k.links(h, places); err != nil {
		return nil, nil, err
	}
	var warnings []string
	if h.NetworkMode.IsHost() && len(h.PortBindings) > 0 {
		warnings = append(warnings, "Published ports are discarded when using host network mode")
	}
	if at := publishedAt(cfg, h); len(at) > 0 && (h.NetworkMode.IsUserDefined() || h.NetworkMode.IsBridge()) {
		warnings = append(warnings, k.nets.PublishHints(string(h.NetworkMode), at)...)
	}
	return &mobynet.NetworkingConfig{EndpointsConfig: places}, warnings, nil
}

// mode settles the network mode itself, and the host name where that decides it.
func (k networker) mode(cfg *container.Config, h *container.HostConfig) (err error) {
	switch m := h.NetworkMode; {
	case m.IsHost():
		if cfg.Hostname == "" {
			if cfg.Hostname, err = os.Hostname(); err != nil {
				return err
			}
		}
	case m.IsContainer():
		donor, err := k.idx.find(m.ConnectedContainer())
		if err != nil {
			return err
		}
		if err := refuseBesideDonor(cfg, h); err != nil {
			return err
		}
		d := donor.now()
		if d.HostConfig.NetworkMode.IsContainer() {
			return fail.New(fail.Conflict, "cannot join the network of container %s, which has joined another container's itself", d.ID)
		}
		cfg.Hostname, cfg.Domainname = d.Config.Hostname, d.Config.Domainname
		h.NetworkMode = container.NetworkMode("container:" + donor.id)
	case m.IsUserDefined():
		n, err := k.nets.Get(string(m))
		if err == nil {
			h.NetworkMode = container.NetworkMode(n.Name)
		} else if !fail.Is(err, fail.NotFound) {
			return err
		}
	}
	return nil
}

// places are the container's networks by name, with what is asked of each.
func (k networker) places(h *container.HostConfig, asked *mobynet.NetworkingConfig) (map[string]*mobynet.EndpointSettings, error) {
	m := h.NetworkMode
	places := map[string]*mobynet.EndpointSettings{}
	var errs []error
	if asked != nil {
		for _, ref := range sortedKeys(asked.EndpointsConfig) {
			e := asRequested(asked.EndpointsConfig[ref])
			if m.IsContainer() && strings.HasPrefix(ref, "container:") && isZero(e) {
				continue // clients send it by habit
			}
			name, n := k.named(ref)
			if places[name] != nil {
				return nil, fail.New(fail.Invalid, "network %s is asked for twice", name)
			}
			if err := checkEndpoint(name, n, e); err != nil {
				errs = append(errs, fmt.Errorf("invalid config for network %s: %w", name, err))
			}
			places[name] = e
		}
	}
	if err := allOf(errs); err != nil {
		return nil, err
	}
	if m.IsContainer() {
		if len(places) > 0 {
			return nil, errSharedNetwork
		}
		return places, nil
	}
	if len(places) == 0 || !m.IsBridge() && places[string(m)] == nil {
		places[string(m)] = &mobynet.EndpointSettings{}
	}
	if len(places) > 1 {
		switch {
		case m.IsHost():
			return nil, errSharedNetwork
		case places[mobynet.NetworkNone] != nil:
			return nil, errPrivateNetwork
		case places[mobynet.NetworkHost] != nil:
			return nil, errHostNetwork
		}
	}
	return places, nil
}

// standard is the network of containers that name none. An engine may have no bridge.
func (k networker) standard() string {
	if _, err := k.nets.Get(mobynet.NetworkBridge); fail.Is(err, fail.NotFound) {
		return mobynet.NetworkNone
	}
	return mobynet.NetworkBridge
}

// named is the name of a network, and the network if it exists.
func (k networker) named(ref string) (string, *network.Network) {
	if ref == mobynet.NetworkDefault {
		ref = k.standard()
	}
	n, err := k.nets.Get(ref)
	if err != nil {
		return ref, nil
	}
	return n.Name, &n
}

// asRequested is the part of an endpoint's settings that a client decides; never nil.
func asRequested(e *mobynet.EndpointSettings) *mobynet.EndpointSettings {
	if e == nil {
		return &mobynet.EndpointSettings{}
	}
	e = e.Copy()
	return &mobynet.EndpointSettings{
		IPAMConfig: e.IPAMConfig, Links: e.Links, Aliases: e.Aliases, DriverOpts: e.DriverOpts,
		GwPriority: e.GwPriority, MacAddress: e.MacAddress,
	}
}

func isZero(e *mobynet.EndpointSettings) bool {
	return e.IPAMConfig == nil && len(e.Links)+len(e.Aliases)+len(e.DriverOpts)+len(e.MacAddress) == 0
}

// checkEndpoint validates what is asked of one network. n is nil if it does not exist.
func checkEndpoint(name string, n *network.Network, e *mobynet.EndpointSettings) error {
	var errs []error
	refuse := func(format string, args ...any) { errs = append(errs, fail.New(fail.Invalid, format, args...)) }
	own := container.NetworkMode(name).IsUserDefined()
	ipam := e.IPAMConfig
	if ipam == nil {
		ipam = &mobynet.EndpointIPAMConfig{}
	}
	if !own && (ipam.IPv4Address.IsValid() || ipam.IPv6Address.IsValid()) {
		refuse("user specified IP address is supported on user defined networks only")
	}
	if !own && len(e.Aliases) > 0 {
		refuse("network-scoped aliases are only supported for user-defined networks")
	}
	if a := ipam.IPv4Address; a.IsValid() && (!a.Is4() || a.IsUnspecified()) {
		refuse("invalid IPv4 address: %s", a)
	}
	if a := ipam.IPv6Address; a.IsValid() && (!a.Is6() || a.Is4In6() || a.IsUnspecified()) {
		refuse("invalid IPv6 address: %s", a)
	}
	for _, a := range ipam.LinkLocalIPs {
		if !a.IsLinkLocalUnicast() {
			refuse("invalid link-local IP address: %s", a)
		}
	}
	if len(e.MacAddress) != 0 && (len(e.MacAddress) != 6 || e.MacAddress[0]&1 == 1) {
		refuse("invalid MAC address: %s", e.MacAddress)
	}
	for _, l := range e.Links {
		if _, _, err := parseLink(l); err != nil {
			errs = append(errs, err)
		}
	}
	for _, a := range e.Aliases {
		if a == "" || strings.ContainsAny(a, " \t\n/") {
			refuse("invalid network alias: %q", a)
		}
	}
	if own && n != nil {
		for _, a := range []netip.Addr{ipam.IPv4Address, ipam.IPv6Address} {
			if a.IsValid() && !contains(n.IPAM.Pools, a) {
				refuse("no configured subnet or ip-range contain the IP address %s", a)
			}
		}
	}
	return allOf(errs)
}

// allOf are several faults of a request in one line; nil if there are none.
func allOf(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	texts := make([]string, len(errs))
	for n, err := range errs {
		texts[n] = err.Error()
	}
	return fail.New(fail.Invalid, "%s", strings.Join(texts, "; "))
}

func contains(pools []network.Pool, a netip.Addr) bool {
	for _, p := range pools {
		if p.Subnet.Contains(a) {
			return true
		}
	}
	return false
}

// links validates the links, and moves those of a container on a user-defined network to
// that network.
func (k networker) links(h *container.HostConfig, places map[string]*mobynet.EndpointSettings) error {
	m := h.NetworkMode
	switch {
	case len(h.Links) == 0:
		return nil
	case m.IsHost():
		return fail.New(fail.Invalid, "conflicting options: host type networking can't be used with links. This would result in undefined behavior")
	case m.IsContainer():
		return fail.New(fail.Invalid, "conflicting options: container type network can't be used with links. This would result in undefined behavior")
	case m.IsUserDefined():
		for _, l := range h.Links {
			if _, _, err := parseLink(l); err != nil {
				return err
			}
		}
		if e := places[string(m)]; len(e.Links) == 0 {
			e.Links = h.Links
		}
		return nil
	}
	return checkLinks(h.Links, k.idx)
}

// settled is what a container's record says of its networks. A record from before there were
// any says less.
func settled(h *container.HostConfig, n *mobynet.NetworkingConfig) (*container.HostConfig, *mobynet.NetworkingConfig) {
	if h.NetworkMode == "" || h.NetworkMode.IsDefault() {
		c := *h
		c.NetworkMode = mobynet.NetworkBridge
		return &c, onOne(mobynet.NetworkBridge)
	}
	m := h.NetworkMode
	switch {
	case m.IsContainer():
		return h, &mobynet.NetworkingConfig{}
	case n == nil || m.IsHost() || m.IsNone() && len(n.EndpointsConfig) == 0:
		return h, onOne(string(m))
	}
	return h, n
}
