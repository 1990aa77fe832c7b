package network

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"berth/fail"
)

func TestRequestsThatCannotBeAreRefusedInOneLine(t *testing.T) {
	g := newGround(t)
	g.create(CreateRequest{Name: "old", IPAM: IPAM{Pools: prefixes(t, "10.9.0.0/16")}, Options: map[string]string{"com.docker.network.bridge.name": "oldbr"}})
	g.create(CreateRequest{Name: "pattern", ConfigOnly: true})
	pool := func(subnet string, change func(*Pool)) IPAM {
		p := Pool{Subnet: netip.MustParsePrefix(subnet)}
		change(&p)
		return IPAM{Pools: []Pool{p}}
	}
	option := func(k, v string) map[string]string { return map[string]string{k: v} }
	before := len(g.n.List())
	for _, c := range []struct {
		r     CreateRequest
		class fail.Class
		text  string
	}{
		{CreateRequest{Name: ""}, fail.Invalid, "name is empty"},
		{CreateRequest{Name: "a/b"}, fail.Invalid, `invalid network name "a/b"`},
		{CreateRequest{Name: "old"}, fail.Conflict, "network with name old already exists"},
		{CreateRequest{Name: "bridge"}, fail.Forbidden, "operation is not permitted on predefined bridge network"},
		{CreateRequest{Name: "n", Driver: "overlay"}, fail.NotFound, "overlay"},
		{CreateRequest{Name: "n", Driver: "host"}, fail.Forbidden, `only one instance of "host" network is allowed`},
		{CreateRequest{Name: "n", Driver: "ipvlan"}, fail.NotImplemented, "no ipvlan driver"},
		{CreateRequest{Name: "n", Options: option("com.docker.network.bridge.nam", "x")}, fail.Invalid, `unknown option "com.docker.network.bridge.nam"`},
		{CreateRequest{Name: "n", Options: option("parent", "eth0")}, fail.Invalid, `unknown option "parent" for the bridge driver`},
		{CreateRequest{Name: "n", Options: option("com.docker.network.driver.mtu", "tall")}, fail.Invalid, "number of bytes"},
		{CreateRequest{Name: "n", Options: option("com.docker.network.bridge.name", "a-name-that-is-too-long")}, fail.Invalid, "1 to 15 characters"},
		{CreateRequest{Name: "n", Options: option("com.docker.network.bridge.name", "oldbr")}, fail.Conflict, "network old uses the bridge oldbr already"},
		{CreateRequest{Name: "n", Options: option("com.docker.network.bridge.name", "lo")}, fail.Conflict, "interface lo exists and is not a bridge"},
		{CreateRequest{Name: "n", Options: option("com.docker.network.bridge.enable_icc", "maybe")}, fail.Invalid, "true or false"},
		{CreateRequest{Name: "n", Options: option("com.docker.network.bridge.gateway_mode_ipv4", "isolated")}, fail.Invalid, "internal network"},
		{CreateRequest{Name: "n", Options: option("com.docker.network.bridge.gateway_mode_ipv4", "magic")}, fail.Invalid, "nat, nat-unprotected, routed or isolated"},
		{CreateRequest{Name: "n", EnableIPv6: is(true), Options: option("com.docker.network.driver.mtu", "1200")}, fail.Invalid, "too small for IPv6"},
		{CreateRequest{Name: "n", IPAM: IPAM{Driver: "infoblox"}}, fail.NotFound, `unknown IPAM driver "infoblox"`},
		{CreateRequest{Name: "n", IPAM: IPAM{Pools: prefixes(t, "10.9.4.0/24")}}, fail.Forbidden, "invalid pool request: Pool overlaps with other one on this address space: network old has 10.9.0.0/16"},
		{CreateRequest{Name: "n", IPAM: IPAM{Pools: prefixes(t, "10.0.0.0/8")}}, fail.Forbidden, "Pool overlaps"},
		{CreateRequest{Name: "n", IPAM: IPAM{Pools: prefixes(t, "10.1.0.0/24", "10.1.0.128/25")}}, fail.Invalid, "overlaps with another one of the same network"},
		{CreateRequest{Name: "n", IPAM: IPAM{Pools: prefixes(t, "10.1.0.1/24")}}, fail.Invalid, "invalid subnet 10.1.0.1/24: it should be 10.1.0.0/24"},
		{CreateRequest{Name: "n", IPAM: IPAM{Pools: prefixes(t, "127.0.0.0/24")}}, fail.Invalid, "no subnet for hosts"},
		{CreateRequest{Name: "n", IPAM: IPAM{Pools: []Pool{{Gateway: netip.MustParseAddr("10.1.0.1")}}}}, fail.Invalid, "needs a subnet"},
		{CreateRequest{Name: "n", IPAM: pool("10.1.0.0/24", func(p *Pool) { p.Gateway = netip.MustParseAddr("10.2.0.1") })}, fail.Invalid, "invalid gateway 10.2.0.1: parent subnet is 10.1.0.0/24"},
		{CreateRequest{Name: "n", IPAM: pool("10.1.0.0/24", func(p *Pool) { p.Gateway = netip.MustParseAddr("10.1.0.255") })}, fail.Invalid, "network or broadcast address"},
		{CreateRequest{Name: "n", IPAM: pool("10.1.0.0/24", func(p *Pool) { p.Range = netip.MustParsePrefix("10.1.1.0/25") })}, fail.Invalid, "invalid ip-range 10.1.1.0/25: parent subnet is 10.1.0.0/24"},
		{CreateRequest{Name: "n", IPAM: pool("10.1.0.0/24", func(p *Pool) { p.Range = netip.MustParsePrefix("10.1.0.0/23") })}, fail.Invalid, "invalid ip-range"},
		{CreateRequest{Name: "n", IPAM: pool("10.1.0.0/24", func(p *Pool) { p.Aux = map[string]netip.Addr{"x": netip.MustParseAddr("10.3.0.1")} })}, fail.Invalid, "invalid auxiliary address 10.3.0.1"},
		{CreateRequest{Name: "n", IPAM: pool("10.1.0.0/24", func(p *Pool) {
			p.Gateway, p.Aux = netip.MustParseAddr("10.1.0.1"), map[string]netip.Addr{"x": netip.MustParseAddr("10.1.0.1")}
		})}, fail.Forbidden, "failed to allocate secondary ip address (x:10.1.0.1): Address already in use"},
		{CreateRequest{Name: "n", EnableIPv4: is(false)}, fail.Invalid, "IPv4 or IPv6 must be enabled"},
		{CreateRequest{Name: "n", EnableIPv4: is(false), EnableIPv6: is(true), IPAM: IPAM{Pools: prefixes(t, "10.1.0.0/24")}}, fail.Invalid, "IPv4, which is disabled"},
		{CreateRequest{Name: "n", ConfigFrom: "nothing"}, fail.NotFound, "network nothing not found"},
		{CreateRequest{Name: "n", ConfigFrom: "old"}, fail.Forbidden, "not a configuration network"},
		{CreateRequest{Name: "n", ConfigFrom: "pattern", Internal: true}, fail.Forbidden, "user specified configurations are not supported"},
		{CreateRequest{Name: "n", ConfigFrom: "pattern", ConfigOnly: true}, fail.Invalid, "cannot depend on another configuration network"},
		{CreateRequest{Name: "n", Driver: "macvlan", Options: option("parent", "nosuch0")}, fail.Invalid, "the host has no such interface"},
	} {
		if c.r.Driver == "ipvlan" && (xvlan{"ipvlan"}).supported(g.n) == nil {
			continue
		}
		_, _, err := g.n.Create(t.Context(), c.r)
		mustFail(t, err, c.class, c.text)
	}
	if now := len(g.n.List()); now != before {
		t.Errorf("%d networks were left by what was refused", now-before)
	}
	if _, err := netlink.LinkByName("oldbr"); err != nil {
		t.Error(err)
	}
	long := strings.Repeat("long", 100) // the kernel has less room for it
	nw, warnings, err := g.n.Create(t.Context(), CreateRequest{Name: long, IPAM: IPAM{Pools: prefixes(t, "fd12::/64")}})
	if err != nil || len(nw.IPAM.Pools) != 1 || !nw.IPAM.Pools[0].Subnet.Addr().Is4() || len(warnings) != 1 || !strings.Contains(warnings[0], "fd12::/64") {
		t.Error(nw, warnings, err)
	}
	other := newGround(t)
	_, _, err = other.n.Create(t.Context(), CreateRequest{Name: "n", Options: option("com.docker.network.bridge.name", "oldbr")})
	mustFail(t, err, fail.Conflict, "another engine's")
	if _, err := netlink.LinkByName("oldbr"); err != nil {
		t.Error(err)
	}
}

func TestNetworksThatMustStay(t *testing.T) {
	g := newGround(t)
	nw := g.create(CreateRequest{Name: "n"})
	g.create(CreateRequest{Name: "pattern", ConfigOnly: true, IPAM: IPAM{Pools: prefixes(t, "10.1.0.0/24")}})
	g.create(CreateRequest{Name: "derived", ConfigFrom: "pattern"})
	g.join("c", EndpointRequest{Network: nw.ID[:10]})
	mustFail(t, g.n.Remove(t.Context(), "n"), fail.Forbidden, `network n has active endpoints (name:"name-of-c" id:"c")`)
	mustFail(t, g.n.Remove(t.Context(), "bridge"), fail.Forbidden, "bridge is a pre-defined network and cannot be removed")
	mustFail(t, g.n.Remove(t.Context(), "pattern"), fail.Forbidden, `configuration network "pattern" is in use`)
	mustFail(t, g.n.Remove(t.Context(), "nothing"), fail.NotFound, "network nothing not found")
	g.leave("c")
	for _, name := range []string{"n", "derived", "pattern"} {
		if err := g.n.Remove(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	for _, ref := range []string{"host", "none", "pattern"} {
		_, err := g.n.Join(t.Context(), SandboxRequest{ID: "x", Endpoints: []EndpointRequest{{Network: ref}}})
		if err == nil {
			t.Errorf("a container is on %s", ref)
		}
	}
	if len(g.n.Sandboxes()) != 0 {
		t.Error(g.n.Sandboxes())
	}
}

func TestAPatternGivesItsConfiguration(t *testing.T) {
	g := newGround(t)
	g.create(CreateRequest{Name: "pattern", ConfigOnly: true, Internal: true, EnableIPv6: is(true), Labels: map[string]string{"a": "b"},
		IPAM: IPAM{Pools: prefixes(t, "10.1.0.0/24", "fd12::/64")}, Options: map[string]string{"com.docker.network.driver.mtu": "1300"}})
	nw := g.create(CreateRequest{Name: "n", ConfigFrom: "pattern"})
	if !nw.EnableIPv6 || !nw.Internal || nw.ConfigFrom != "pattern" || nw.Options["com.docker.network.driver.mtu"] != "1300" || nw.Labels["a"] != "b" ||
		len(nw.IPAM.Pools) != 2 || nw.IPAM.Pools[0].Gateway.String() != "10.1.0.1" {
		t.Errorf("%+v", nw)
	}
	_, _, err := g.n.Create(t.Context(), CreateRequest{Name: "m", ConfigFrom: "pattern"})
	mustFail(t, err, fail.Forbidden, "Pool overlaps")
}

func TestNetworksAreFoundByIDNameAndPrefix(t *testing.T) {
	g := newGround(t)
	var all []Network
	for i := range 17 { // two of them begin alike
		all = append(all, g.create(CreateRequest{Name: fmt.Sprint("n", i), ConfigOnly: true}))
	}
	named := g.create(CreateRequest{Name: all[3].ID[:8], ConfigOnly: true})
	for ref, want := range map[string]string{all[3].ID: all[3].ID, all[3].Name: all[3].ID, all[3].ID[:8]: named.ID, all[4].ID[:12]: all[4].ID} {
		if got, err := g.n.Get(ref); err != nil || got.ID != want {
			t.Errorf("%s: %v", ref, err)
		}
	}
	count := map[string]int{}
	for _, nw := range g.n.List() {
		count[nw.ID[:1]]++
	}
	for first, n := range count {
		if n > 1 {
			_, err := g.n.Get(first)
			mustFail(t, err, fail.Invalid, "ambiguous")
		}
	}
	_, err := g.n.Get("")
	mustFail(t, err, fail.NotFound, "not found")
}

func TestRecordsOutliveTheEngine(t *testing.T) {
	g := newGround(t)
	g.create(CreateRequest{Name: "n", EnableIPv6: is(true), Labels: map[string]string{"a": "b"}, Attachable: true, IPAM: IPAM{Pools: []Pool{
		{Subnet: netip.MustParsePrefix("10.1.0.0/24"), Range: netip.MustParsePrefix("10.1.0.8/29"), Aux: map[string]netip.Addr{"x": netip.MustParseAddr("10.1.0.9")}},
		{Subnet: netip.MustParsePrefix("10.2.0.0/24")},
	}}})
	was := g.n.List()
	if err := g.n.Close(); err != nil {
		t.Fatal(err)
	}
	g.nothingLeft() // bridges of networks without containers neither
	g.open()
	if now := g.n.List(); fmt.Sprintf("%+v", now) != fmt.Sprintf("%+v", was) {
		t.Errorf("\n%+v\n%+v", was, now)
	}
	s := g.join("c", EndpointRequest{Network: "n", IPv4: netip.MustParseAddr("10.2.0.77")})
	if got := shape(t, s.Netns); !strings.Contains(got, "10.2.0.77/24") || !strings.Contains(got, "default 10.2.0.1 ") {
		t.Error(got)
	}
}

func TestTheDefaultNetworkIsAsItIsConfigured(t *testing.T) {
	for _, c := range []struct {
		name string
		b    BridgeConfig
		want string
		fail string
	}{
		{"nothing said", BridgeConfig{}, "172.17.0.0/16 gw 172.17.0.1; eth0 up 172.17.0.2/16; default 172.17.0.1 eth0", ""},
		{"bip", BridgeConfig{IP: netip.MustParsePrefix("10.5.0.9/24")}, "10.5.0.0/24 gw 10.5.0.9; eth0 up 10.5.0.1/24; default 10.5.0.9 eth0", ""},
		{"fixed-cidr", BridgeConfig{IP: netip.MustParsePrefix("10.5.0.1/24"), FixedCIDR: netip.MustParsePrefix("10.5.0.128/25")},
			"10.5.0.0/24 gw 10.5.0.1; eth0 up 10.5.0.128/24; default 10.5.0.1 eth0", ""},
		{"default gateway", BridgeConfig{IP: netip.MustParsePrefix("10.5.0.1/24"), Gateway: netip.MustParseAddr("10.5.0.2")},
			"10.5.0.0/24 gw 10.5.0.1; eth0 up 10.5.0.3/24; default 10.5.0.2 eth0", ""},
		{"ipv6", BridgeConfig{IPv6: true, FixedCIDR6: netip.MustParsePrefix("fd77::/64")},
			"172.17.0.0/16 gw 172.17.0.1; fd77::/64 gw fd77::1; eth0 up 172.17.0.2/16 fd77::2/64; default 172.17.0.1 eth0; default fd77::1 eth0", ""},
		{"a gateway elsewhere", BridgeConfig{IP: netip.MustParsePrefix("10.5.0.1/24"), Gateway: netip.MustParseAddr("10.6.0.2")}, "", "default gateway 10.6.0.2 is not in"},
		{"a range elsewhere", BridgeConfig{IP: netip.MustParsePrefix("10.5.0.1/24"), FixedCIDR: netip.MustParsePrefix("10.6.0.0/25")}, "", "not within its subnet"},
		{"an existing bridge", BridgeConfig{Name: "given0"}, "10.8.0.0/24 gw 10.8.0.3; eth0 up 10.8.0.1/24; default 10.8.0.3 eth0", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.b.Name != "" {
				br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: c.b.Name}}
				if err := netlink.LinkAdd(br); err != nil {
					t.Skip(err)
				}
				defer netlink.LinkDel(br)
				a, _ := netlink.ParseAddr("10.8.0.3/24")
				if err := netlink.AddrAdd(br, a); err != nil {
					t.Fatal(err)
				}
				defer func() {
					if _, err := netlink.LinkByName(c.b.Name); err != nil {
						t.Error("somebody else's bridge is gone")
					}
				}()
			}
			g := newGround(t) // as it was before
			if err := g.n.Close(); err != nil {
				t.Fatal(err)
			}
			g.cfg.Bridge = c.b
			n, err := Open(t.Context(), g.cfg)
			if c.fail != "" {
				mustFail(t, err, fail.Invalid, c.fail)
				g.cfg.Bridge = BridgeConfig{}
				g.open()
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			g.n = n
			nw, err := n.Get("bridge")
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, p := range nw.IPAM.Pools {
				got += fmt.Sprintf("%s gw %s; ", p.Subnet, p.Gateway)
			}
			s := g.join("c", EndpointRequest{Network: "bridge"})
			if got += shape(t, s.Netns); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			_, err = n.Join(t.Context(), SandboxRequest{ID: "d", Endpoints: []EndpointRequest{{Network: "bridge", IPv4: s.Endpoints[0].IPv4.Addr()}}})
			mustFail(t, err, fail.Invalid, "user specified IP address is supported on user defined networks only")
			s.Netns.Close()
			g.leave("c")
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			g.open() // nothing has to be changed
			if again, err := g.n.Get("bridge"); err != nil || fmt.Sprint(again) != fmt.Sprint(nw) {
				t.Errorf("%+v\n%+v\n%v", nw, again, err)
			}
		})
	}
}

func TestThereMayBeNoDefaultNetwork(t *testing.T) {
	g := newGround(t, func(c *Config) { c.Bridge.Disabled = true })
	var names []string
	for _, nw := range g.n.List() {
		names = append(names, nw.Name)
	}
	slices.Sort(names)
	if fmt.Sprint(names) != "[host none]" {
		t.Error(names)
	}
	if v4, _ := g.n.HostGateway(); v4.IsValid() {
		t.Error(v4)
	}
}

func TestSubnetsAreChosenBesideWhatTheHostUses(t *testing.T) {
	g := newGround(t, func(c *Config) {
		c.Pools = []AddressPool{{netip.MustParsePrefix("10.40.0.0/22"), 24}, {netip.MustParsePrefix("10.41.0.0/24"), 24}, {netip.MustParsePrefix("fd44::/62"), 64}}
		c.Options = map[string]map[string]string{"bridge": {"com.docker.network.driver.mtu": "1334"}}
	})
	other := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "elsewhere"}}
	route := func(prefix string) {
		t.Helper()
		a, err := netlink.ParseAddr(prefix)
		if err == nil {
			err = netlink.AddrAdd(other, a)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkAdd(other); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkDel(other)
	if err := netlink.LinkSetUp(other); err != nil {
		t.Fatal(err)
	}
	route("10.40.1.9/25")
	route("fd44::9/64")
	vpn := &netlink.Route{LinkIndex: index(t, "elsewhere"), Table: 52, Dst: &net.IPNet{IP: net.IPv4(10, 41, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}}
	if err := netlink.RouteAdd(vpn); err != nil {
		t.Fatal(err)
	}
	nw := g.create(CreateRequest{Name: "n", EnableIPv6: is(true)})
	if got := nw.IPAM.Pools[0].Subnet.String() + " " + nw.IPAM.Pools[1].Subnet.String(); got != "10.40.2.0/24 fd44:0:0:1::/64" {
		t.Error(got)
	}
	if nw.Options["com.docker.network.driver.mtu"] != "1334" {
		t.Error(nw.Options)
	}
	_, err := g.n.Join(t.Context(), SandboxRequest{ID: "c", Endpoints: []EndpointRequest{{Network: "n", IPv4: netip.MustParseAddr("10.40.2.9")}}})
	mustFail(t, err, fail.Invalid, "only when connecting to networks with user configured subnets")

	// The default network was given 10.40.0.0/24 when it was made; before its first container
	// somebody else takes that.
	route("10.40.0.7/24")
	if s := g.join("c", EndpointRequest{Network: "bridge"}); s.Endpoints[0].IPv4.String() != "10.40.3.2/24" {
		t.Error(s.Endpoints[0].IPv4)
	}
	if nw, err := g.n.Get("bridge"); err != nil || nw.IPAM.Pools[0].Gateway.String() != "10.40.3.1" {
		t.Error(nw, err)
	}
	_, _, err = g.n.Create(t.Context(), CreateRequest{Name: "m"})
	mustFail(t, err, fail.Invalid, "all predefined address pools have been fully subnetted") // 10.41.0.0/24 is in the VPN
}

func TestTwoEnginesOfOneHostDoNotClash(t *testing.T) {
	a, b := newGround(t), newGround(t)
	x, y := a.join("c", EndpointRequest{Network: "bridge"}), b.join("c", EndpointRequest{Network: "bridge"})
	if x.Endpoints[0].IPv4.Overlaps(y.Endpoints[0].IPv4) {
		t.Error(x.Endpoints[0].IPv4, y.Endpoints[0].IPv4)
	}
	if _, err := reachWithin(t, x.Netns, y.Netns, y.Endpoints[0].IPv4.Addr(), unreachable); err == nil {
		t.Error("containers of one engine reach those of another")
	}
	a.leave("c")
	if _, err := reach(t, nil, y.Netns, y.Endpoints[0].IPv4.Addr()); err != nil {
		t.Error(err)
	}
}

func TestABridgeThatSomebodyDeletedIsMadeAgain(t *testing.T) {
	g := newGround(t)
	nw := g.create(CreateRequest{Name: "n"})
	c := g.join("c", EndpointRequest{Network: "n"})
	l, err := netlink.LinkByName(bridgeName(nw))
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil {
		t.Fatal(err)
	}
	d := g.join("d", EndpointRequest{Network: "n"})
	for _, s := range []*Sandbox{c, d} {
		if _, err := reach(t, nil, s.Netns, s.Endpoints[0].IPv4.Addr()); err != nil {
			t.Error(err)
		}
	}
}

func TestJoinsAtTheSameTimeGetAddressesOfTheirOwn(t *testing.T) {
	g := newGround(t)
	g.create(CreateRequest{Name: "n", IPAM: IPAM{Pools: prefixes(t, "10.1.0.0/27")}})
	type result struct {
		s   *Sandbox
		err error
	}
	results := make(chan result)
	for i := range 40 {
		go func() {
			s, err := g.n.Join(context.Background(), SandboxRequest{ID: fmt.Sprint("c", i), Endpoints: []EndpointRequest{{Network: "n"}}})
			results <- result{s, err}
		}()
	}
	seen := map[netip.Addr]bool{}
	for range 40 {
		r := <-results
		if r.err != nil {
			mustFail(t, r.err, fail.Conflict, "no available addresses left")
			continue
		}
		r.s.Netns.Close()
		seen[r.s.Endpoints[0].IPv4.Addr()] = true
	}
	if len(seen) != 29 || len(g.n.Sandboxes()) != 29 {
		t.Errorf("%d addresses, %d sandboxes: %v", len(seen), len(g.n.Sandboxes()), slices.Collect(maps.Keys(seen)))
	}
}
