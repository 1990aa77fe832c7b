package network

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"berth/fail"
	"berth/network/ipam"
)

// withULA adds a range of unique local addresses (RFC 4193) of the engine's own, unless
// there are IPv6 pools already.
func withULA(pools []AddressPool, engineID string) []AddressPool {
	if slices.ContainsFunc(pools, func(p AddressPool) bool { return p.Base.Addr().Is6() }) {
		return pools
	}
	var a [16]byte
	sum := sha256.Sum256([]byte("berth " + engineID))
	a[0] = 0xfd
	copy(a[1:6], sum[:])
	return append(slices.Clone(pools), AddressPool{netip.PrefixFrom(netip.AddrFrom16(a), 48), 64})
}

// predefine makes the networks that are always there.
func (n *Networks) predefine() error {
	for _, p := range []struct{ name, driver string }{{"bridge", "bridge"}, {"host", "host"}, {"none", "null"}} {
		n.mu.Lock()
		nw, err := n.find(p.name)
		n.mu.Unlock()
		switch {
		case p.name == "bridge" && n.cfg.Bridge.Disabled:
			if err == nil {
				if err := n.erase(nw); err != nil {
					return err
				}
			}
			continue
		case p.name == "bridge":
			if _, err := n.defaultBridge(nw); err != nil {
				return err
			}
			continue
		case err == nil:
			continue
		}
		rec := record{Network: Network{
			ID: randomHex(64), Name: p.name, Created: time.Now().UTC(), Driver: p.driver, EnableIPv4: true, Predefined: true,
			IPAM: IPAM{Driver: "default"}, Options: map[string]string{}, Labels: map[string]string{},
		}}
		if err := n.store(rec); err != nil {
			return err
		}
	}
	return nil
}

// defaultBridge makes the network "bridge" as it is configured, or brings the one that is
// in line with that.
func (n *Networks) defaultBridge(nw *entry) (*entry, error) {
	c := n.cfg.Bridge
	rec := record{Network: Network{ID: randomHex(64), Name: "bridge", Created: time.Now().UTC(), Driver: "bridge", Predefined: true}}
	if nw != nil {
		rec.Network, rec.Auto = nw.rec.Network, slices.Clone(nw.rec.Auto)
	}
	was := rec
	rec.EnableIPv4, rec.EnableIPv6, rec.Labels = true, c.IPv6, map[string]string{}
	name := c.Name
	if name != "" {
		if _, err := net.InterfaceByName(name); err != nil {
			return nil, fail.New(fail.Invalid, "--bridge %s: there is no such interface: make it, or leave the option out for a bridge of Berth's own", name)
		}
	} else {
		name = "berth0"
		if !n.cfg.DefaultEngine {
			name = "br-" + rec.ID[:12]
		}
	}
	rec.Options = map[string]string{
		"com.docker.network.bridge.name":                 name,
		"com.docker.network.bridge.default_bridge":       "true",
		"com.docker.network.bridge.enable_icc":           fmt.Sprint(!c.NoICC),
		"com.docker.network.bridge.enable_ip_masquerade": fmt.Sprint(!c.NoMasquerade),
		"com.docker.network.bridge.host_binding_ipv4":    "0.0.0.0",
		"com.docker.network.driver.mtu":                  "1500",
	}
	for _, ip := range []netip.Addr{c.HostBindingIP6, c.HostBindingIP} {
		if ip.IsValid() {
			rec.Options["com.docker.network.bridge.host_binding_ipv4"] = ip.String()
		}
	}
	if c.MTU != 0 {
		rec.Options["com.docker.network.driver.mtu"] = fmt.Sprint(c.MTU)
	}
	var pools []Pool
	for _, f := range []struct {
		wanted      bool
		ip, fixed   netip.Prefix
		gateway     netip.Addr
		aux, ipFlag string
		is4         bool
	}{
		{true, c.IP, c.FixedCIDR, c.Gateway, "DefaultGatewayIPv4", "bip", true},
		{c.IPv6, c.IP6, c.FixedCIDR6, c.Gateway6, "DefaultGatewayIPv6", "bip6", false},
	} {
		if !f.wanted {
			continue
		}
		var p Pool
		switch {
		case f.ip.IsValid():
			p.Subnet, p.Gateway = f.ip.Masked(), f.ip.Addr()
			if f.ip.Addr() == p.Subnet.Addr() && f.ip.Bits() < f.ip.Addr().BitLen()-1 {
				return nil, fail.New(fail.Invalid, "--%s %s is the address of the subnet itself: name the bridge's own address, as %s/%d", f.ipFlag, f.ip, ipam.First(f.ip), f.ip.Bits())
			}
		case c.Name != "":
			p = bridgePool(c.Name, f.is4)
		case f.fixed.IsValid() && !f.is4:
			p.Subnet = f.fixed.Masked()
		}
		if !p.Subnet.IsValid() && f.fixed.IsValid() {
			p.Subnet = f.fixed.Masked()
		}
		if f.fixed.IsValid() {
			if !p.Subnet.Contains(f.fixed.Addr()) || f.fixed.Bits() < p.Subnet.Bits() {
				return nil, fail.New(fail.Invalid, "the default bridge's fixed CIDR %s is not within its subnet %s", f.fixed, p.Subnet)
			}
			if f.fixed.Masked() != p.Subnet {
				p.Range = f.fixed.Masked()
			}
		}
		if f.gateway.IsValid() {
			p.Aux = map[string]netip.Addr{f.aux: f.gateway}
		}
		pools = append(pools, p)
	}
	kept := keepChosen(pools, was)
	rec.IPAM = IPAM{Driver: "default", Pools: kept}
	rec.Auto = auto(pools)
	if err := n.fillPools(&rec); err != nil {
		return nil, err
	}
	for _, p := range rec.IPAM.Pools {
		for _, gw := range p.Aux {
			if !p.Subnet.Contains(gw) {
				return nil, fail.New(fail.Invalid, "the default gateway %s is not in the default bridge's subnet %s", gw, p.Subnet)
			}
		}
	}
	set, err := parseOptions(rec.Driver, rec.Options)
	if err == nil {
		err = checkSettings(rec.Network, set)
	}
	if err != nil {
		return nil, err
	}
	if nw != nil && sameRecord(was, rec) {
		return nw, nil
	}
	return nil, n.store(rec)
}

// keepChosen fills in the subnets that were chosen before.
func keepChosen(pools []Pool, was record) []Pool {
	out := slices.Clone(pools)
	for i := range out {
		for j, old := range was.IPAM.Pools {
			if !out[i].Subnet.IsValid() && j < len(was.Auto) && was.Auto[j] && old.Subnet.Addr().Is4() == (i == 0) {
				out[i].Subnet, out[i].Gateway = old.Subnet, old.Gateway
			}
		}
	}
	return out
}

func sameRecord(a, b record) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func auto(pools []Pool) []bool {
	out := make([]bool, len(pools))
	for i, p := range pools {
		out[i] = !p.Subnet.IsValid()
	}
	return out
}

// bridgePool is the subnet of a bridge that somebody else made.
func bridgePool(name string, is4 bool) (p Pool) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return p
	}
	addrs, _ := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP)
		ip = ip.Unmap()
		ones, _ := a.Mask.Size()
		if ip.Is4() == is4 && !ip.IsLinkLocalUnicast() {
			return Pool{Subnet: netip.PrefixFrom(ip, ones).Masked(), Gateway: ip}
		}
	}
	return p
}
