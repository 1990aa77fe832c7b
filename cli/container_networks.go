package cli

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// parseNetworks builds one endpoint per --network. The one-endpoint flags (--ip, --network-alias,
// --link …) belong to the first of them.
func (c *containerFlags) parseNetworks() (*network.NetworkingConfig, error) {
	attachments := c.network.Value()
	if len(attachments) == 0 {
		attachments = []opts.NetworkAttachmentOpts{{Target: "default"}}
	}
	var userDefined, other bool
	endpoints := make(map[string]*network.EndpointSettings, len(attachments))
	for i, a := range attachments {
		mode := container.NetworkMode(a.Target)
		if mode.IsUserDefined() {
			userDefined = true
		} else {
			other = true
		}
		if i == 0 {
			if err := c.applyEndpointFlags(&a); err != nil {
				return nil, err
			}
		}
		endpoint, err := endpointOf(a)
		if err != nil {
			return nil, err
		}
		if _, taken := endpoints[a.Target]; taken {
			return nil, fmt.Errorf("network %q is specified multiple times", a.Target)
		}
		// container:NAME and friends are modes of the host config, not endpoints by name; Docker
		// sends an endpoint for them too and engines ignore it.
		endpoints[a.Target] = endpoint
	}
	if userDefined && other {
		return nil, errors.New("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
	}
	return &network.NetworkingConfig{EndpointsConfig: endpoints}, nil
}

// applyEndpointFlags moves the one-endpoint flags into a, refusing to say a thing twice.
func (c *containerFlags) applyEndpointFlags(a *opts.NetworkAttachmentOpts) error {
	conflict := func(flag, key string) error {
		return fmt.Errorf("conflicting options: cannot specify both --%s and per-network %s", flag, key)
	}
	if c.aliases.Len() > 0 {
		if len(a.Aliases) > 0 {
			return conflict("network-alias", "alias")
		}
		a.Aliases = c.aliases.GetSlice()
	}
	if c.links.Len() > 0 {
		if len(a.Links) > 0 {
			return conflict("link", "links")
		}
		a.Links = c.links.GetSlice()
	}
	var err error
	if c.ip != "" {
		if a.IPv4Address.IsValid() {
			return conflict("ip", "IPv4 address")
		}
		if a.IPv4Address, err = netip.ParseAddr(c.ip); err != nil {
			return fmt.Errorf("invalid IPv4 address: %s", c.ip)
		}
	}
	if c.ip6 != "" {
		if a.IPv6Address.IsValid() {
			return conflict("ip6", "IPv6 address")
		}
		if a.IPv6Address, err = netip.ParseAddr(c.ip6); err != nil {
			return fmt.Errorf("invalid IPv6 address: %s", c.ip6)
		}
	}
	if c.mac != "" {
		if a.MacAddress != "" {
			return conflict("mac-address", "MAC address")
		}
		a.MacAddress = c.mac
	}
	if c.linkLocalIPs.Len() > 0 {
		if len(a.LinkLocalIPs) > 0 {
			return conflict("link-local-ip", "link-local IP addresses")
		}
		if a.LinkLocalIPs, err = parseAddresses(c.linkLocalIPs.GetSlice()); err != nil {
			return err
		}
	}
	return nil
}

func endpointOf(a opts.NetworkAttachmentOpts) (*network.EndpointSettings, error) {
	if strings.TrimSpace(a.Target) == "" {
		return nil, errors.New("no name set for network")
	}
	mode := container.NetworkMode(a.Target)
	if !mode.IsUserDefined() && len(a.Aliases) > 0 {
		return nil, errors.New("network-scoped aliases are only supported for user-defined networks")
	}
	endpoint := &network.EndpointSettings{GwPriority: a.GwPriority}
	if mode.IsUserDefined() {
		endpoint.Links = append(endpoint.Links, a.Links...)
	}
	endpoint.Aliases = append(endpoint.Aliases, a.Aliases...)
	endpoint.DriverOpts = a.DriverOpts
	if a.IPv4Address.IsValid() || a.IPv6Address.IsValid() || len(a.LinkLocalIPs) > 0 {
		endpoint.IPAMConfig = &network.EndpointIPAMConfig{
			IPv4Address:  a.IPv4Address,
			IPv6Address:  a.IPv6Address,
			LinkLocalIPs: a.LinkLocalIPs,
		}
	}
	if a.MacAddress != "" {
		mac, err := net.ParseMAC(strings.TrimSpace(a.MacAddress))
		if err != nil {
			return nil, fmt.Errorf("%s is not a valid mac address", a.MacAddress)
		}
		endpoint.MacAddress = network.HardwareAddr(mac)
	}
	return endpoint, nil
}
