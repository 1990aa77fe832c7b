package network

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"berth/fail"
)

// bridgeAddresses lists the addresses that the host has on a network's bridge.
func bridgeAddresses(t *testing.T, nw Network) (out []string) {
	t.Helper()
	l, err := netlink.LinkByName(bridgeName(nw))
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, family) })
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			if !a.IP.IsLinkLocalUnicast() {
				out = append(out, a.IPNet.String())
			}
		}
	}
	return out
}

func TestWhatTheHostIsOnABridge(t *testing.T) {
	const (
		name4, name6 = "com.docker.network.bridge.gateway_mode_ipv4", "com.docker.network.bridge.gateway_mode_ipv6"
		inhibit      = "com.docker.network.bridge.inhibit_ipv4"
	)
	for _, c := range []struct {
		name      string
		internal  bool
		options   map[string]string
		host, box string
	}{
		{"a gateway", false, nil, "10.1.0.1/24 fd12::1/64", "eth0 up 10.1.0.2/24 fd12::2/64; default 10.1.0.1 eth0; default fd12::1 eth0"},
		{"a router", false, map[string]string{name4: "routed", name6: "routed"}, "10.1.0.1/24 fd12::1/64", "eth0 up 10.1.0.2/24 fd12::2/64; default 10.1.0.1 eth0; default fd12::1 eth0"},
		{"internal", true, nil, "10.1.0.1/24 fd12::1/64", "eth0 up 10.1.0.2/24 fd12::2/64"},
		{"absent", true, map[string]string{name4: "isolated", name6: "isolated"}, "", "eth0 up 10.1.0.2/24 fd12::2/64"},
		{"absent for IPv4, somebody else is the gateway", false, map[string]string{inhibit: "true"}, "fd12::1/64", "eth0 up 10.1.0.2/24 fd12::2/64; default 10.1.0.1 eth0; default fd12::1 eth0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGround(t)
			nw := g.create(CreateRequest{Name: "n", EnableIPv6: is(true), Internal: c.internal, Options: c.options, IPAM: IPAM{Pools: prefixes(t, "10.1.0.0/24", "fd12::/64")}})
			got := ""
			for i, a := range bridgeAddresses(t, nw) {
				if i > 0 {
					got += " "
				}
				got += a
			}
			if got != c.host {
				t.Errorf("the host has %q, want %q", got, c.host)
			}
			if got := shape(t, g.join("c", EndpointRequest{Network: "n"}).Netns); got != c.box {
				t.Errorf("the container has\n%s, want\n%s", got, c.box)
			}
		})
	}
}

func TestTheHostForwardsOnceSomethingLeadsOut(t *testing.T) {
	g := newGround(t)
	uplink := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}}
	if err := netlink.LinkAdd(uplink); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkDel(uplink)
	for k, v := range map[string]string{"ipv4/ip_forward": "0", "ipv6/conf/all/forwarding": "0", "ipv6/conf/uplink/accept_ra": "1"} {
		if err := sysctl(k, v); err != nil {
			t.Fatal(err)
		}
	}
	now := func() string {
		return readSysctl("ipv4/ip_forward") + readSysctl("ipv6/conf/all/forwarding") + readSysctl("ipv6/conf/uplink/accept_ra")
	}
	g.create(CreateRequest{Name: "inside", Internal: true, EnableIPv6: is(true)})
	if now() != "001" {
		t.Error(now())
	}
	g.create(CreateRequest{Name: "out"})
	if now() != "101" {
		t.Error(now())
	}
	g.create(CreateRequest{Name: "out6", EnableIPv6: is(true)})
	if now() != "112" {
		t.Error(now())
	}
	if err := sysctl("ipv4/ip_forward", "0"); err != nil {
		t.Fatal(err)
	}
	other := newGround(t, func(c *Config) { c.Bridge.NoForwarding = true })
	other.create(CreateRequest{Name: "out"})
	if now() != "012" {
		t.Error(now())
	}
}

func TestEndpointsThatCannotBeLeaveNothing(t *testing.T) {
	g := newGround(t)
	g.create(CreateRequest{Name: "n", IPAM: IPAM{Pools: prefixes(t, "10.1.0.0/24")}})
	g.create(CreateRequest{Name: "pattern", ConfigOnly: true})
	g.join("other", EndpointRequest{Network: "n", IPv4: netip.MustParseAddr("10.1.0.9")})
	multicast, _ := net.ParseMAC("01:11:22:33:44:55")
	for _, c := range []struct {
		name  string
		eps   []EndpointRequest
		class fail.Class
		text  string
	}{
		{"an unknown network", []EndpointRequest{{Network: "n"}, {Network: "nothing"}}, fail.NotFound, "network nothing not found"},
		{"a pattern", []EndpointRequest{{Network: "pattern"}}, fail.Forbidden, "configuration network"},
		{"host", []EndpointRequest{{Network: "n"}, {Network: "host"}}, fail.Forbidden, "host"},
		{"the same one twice", []EndpointRequest{{Network: "n"}, {Network: "n"}}, fail.Forbidden, "already connected to network n"},
		{"an address outside", []EndpointRequest{{Network: "n", IPv4: netip.MustParseAddr("10.2.0.2")}}, fail.Invalid, "not in a subnet of network n (10.1.0.0/24)"},
		{"an address that is taken", []EndpointRequest{{Network: "bridge"}, {Network: "n", IPv4: netip.MustParseAddr("10.1.0.9")}}, fail.Forbidden, "Address already in use"},
		{"the gateway's", []EndpointRequest{{Network: "n", IPv4: netip.MustParseAddr("10.1.0.1")}}, fail.Forbidden, "Address already in use"},
		{"the broadcast address", []EndpointRequest{{Network: "n", IPv4: netip.MustParseAddr("10.1.0.255")}}, fail.Invalid, "network or broadcast address"},
		{"IPv6 where there is none", []EndpointRequest{{Network: "n", IPv6: netip.MustParseAddr("fd00::2")}}, fail.Invalid, "no addresses of this family"},
		{"a multicast MAC address", []EndpointRequest{{Network: "n", MAC: multicast}}, fail.Invalid, "invalid MAC address"},
		{"a link-local address that is none", []EndpointRequest{{Network: "n", LinkLocal: []netip.Addr{netip.MustParseAddr("10.1.0.3")}}}, fail.Invalid, "not a link-local address"},
		{"an unknown option", []EndpointRequest{{Network: "n", Options: map[string]string{"speed": "high"}}}, fail.Invalid, `unknown option "speed" for an endpoint`},
		{"an interface's name that is none", []EndpointRequest{{Network: "n", Options: map[string]string{optIfname: "eth0/1"}}}, fail.Invalid, "invalid interface name"},
		{"two interfaces of one name", []EndpointRequest{{Network: "n"}, {Network: "bridge", Options: map[string]string{optIfname: "eth0"}}}, fail.Conflict, "has an interface eth0 already"},
		{"a sysctl of the whole namespace", []EndpointRequest{{Network: "n", Options: map[string]string{optSysctls: "net.ipv4.ip_forward=1"}}}, fail.Invalid, "net.X.Y.IFNAME.Z=VALUE"},
		{"a sysctl that the kernel does not have", []EndpointRequest{{Network: "n", Options: map[string]string{optSysctls: "net.ipv4.conf.IFNAME.nonsense=1"}}}, fail.Invalid, "net.ipv4.conf.eth0.nonsense"},
	} {
		_, err := g.n.Join(t.Context(), SandboxRequest{ID: "c", Name: "c", Endpoints: c.eps})
		if err == nil {
			t.Errorf("%s: taken", c.name)
		}
		mustFail(t, err, c.class, c.text)
		if boxes := g.n.Sandboxes(); len(boxes) != 1 {
			t.Fatalf("%s: left %q", c.name, boxes)
		}
	}
	if nw, _ := g.n.Get("n"); len(g.n.Endpoints(nw.ID)) != 1 {
		t.Error("an endpoint is left")
	}
	_, err := g.n.Join(t.Context(), SandboxRequest{ID: "other"})
	mustFail(t, err, fail.Conflict, "has a network already")

	// A running container stays as it was, too.
	s := g.join("c", EndpointRequest{Network: "n"})
	was := shape(t, s.Netns)
	for _, e := range []EndpointRequest{
		{Network: "bridge", Options: map[string]string{optSysctls: "net.ipv4.conf.IFNAME.nonsense=1"}, GwPriority: 1},
		{Network: "bridge", Options: map[string]string{optIfname: "lo"}},
	} {
		if _, err := g.n.Connect(t.Context(), "c", s.Netns, e); err == nil {
			t.Error("taken")
		}
		if now := shape(t, s.Netns); now != was {
			t.Errorf("it was %s and is %s", was, now)
		}
	}
	if nw, _ := g.n.Get("bridge"); len(g.n.Endpoints(nw.ID)) != 0 {
		t.Error("an endpoint is left")
	}
	err = g.n.Publish(t.Context(), "nobody", nil)
	mustFail(t, err, fail.NotFound, "container nobody has no network")
}
