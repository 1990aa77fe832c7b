package network

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"berth/dns"
	"berth/fail"
)

func TestAContainerOnTheDefaultNetworkHasAnAddressAndAWayOut(t *testing.T) {
	g := newGround(t)
	s := g.join("c1", EndpointRequest{Network: "bridge", Names: []string{"web"}})
	if got := shape(t, s.Netns); got != "eth0 up 172.17.0.2/16; default 172.17.0.1 eth0" {
		t.Error(got)
	}
	if seen, err := reach(t, nil, s.Netns, netip.MustParseAddr("172.17.0.2")); err != nil || seen != "172.17.0.1" {
		t.Errorf("the host reaches the container as %q: %v", seen, err)
	}
	if v4, v6 := g.n.HostGateway(); v4 != netip.MustParseAddr("172.17.0.1") || v6.IsValid() {
		t.Error(v4, v6)
	}
	if readSysctl("ipv4/ip_forward") != "1" {
		t.Error("the host does not forward")
	}
}

func TestContainersOfOneNetworkReachEachOtherByBothFamilies(t *testing.T) {
	g := newGround(t)
	nw := g.create(CreateRequest{Name: "both", EnableIPv6: is(true)})
	if len(nw.IPAM.Pools) != 2 || !strings.HasPrefix(nw.IPAM.Pools[1].Subnet.String(), "fd") || nw.IPAM.Pools[1].Subnet.Bits() != 64 {
		t.Fatalf("%+v", nw.IPAM)
	}
	a, b := g.join("a", EndpointRequest{Network: "both"}), g.join("b", EndpointRequest{Network: "both"})
	for i := range 3 { // the third comes from the pool, or not: no difference may be seen
		for _, from := range []netip.Prefix{b.Endpoints[0].IPv4, b.Endpoints[0].IPv6} {
			if _, err := reach(t, a.Netns, b.Netns, from.Addr()); err != nil {
				t.Errorf("%d: %s: %v", i, from, err)
			}
		}
		g.leave("b")
		b.Netns.Close()
		b = g.join("b", EndpointRequest{Network: "both"})
	}
	if got := shape(t, a.Netns); strings.Contains(got, "tentative") || !strings.Contains(got, "default "+nw.IPAM.Pools[1].Gateway.String()+" eth0") {
		t.Error(got)
	}
}

func TestANetworkOfIPv6Alone(t *testing.T) {
	g := newGround(t)
	g.create(CreateRequest{Name: "six", EnableIPv4: is(false), EnableIPv6: is(true), IPAM: IPAM{Pools: prefixes(t, "fd12::/64")}})
	a := g.join("a", EndpointRequest{Network: "six"})
	b := g.join("b", EndpointRequest{Network: "six", IPv6: netip.MustParseAddr("fd12::99")})
	if got := shape(t, b.Netns); got != "eth0 up fd12::99/64; default fd12::1 eth0" {
		t.Error(got)
	}
	if _, err := reach(t, a.Netns, b.Netns, netip.MustParseAddr("fd12::99")); err != nil {
		t.Error(err)
	}
	if a.Gateway4 != "" || a.Gateway6 == "" {
		t.Errorf("%+v", a)
	}
}

func TestWhatWasAskedForIsGiven(t *testing.T) {
	g := newGround(t)
	g.create(CreateRequest{
		Name: "n", IPAM: IPAM{Pools: []Pool{{
			Subnet: netip.MustParsePrefix("10.9.0.0/16"), Range: netip.MustParsePrefix("10.9.5.0/30"),
			Gateway: netip.MustParseAddr("10.9.0.254"), Aux: map[string]netip.Addr{"router": netip.MustParseAddr("10.9.5.1")},
		}}},
		Options: map[string]string{"com.docker.network.driver.mtu": "1400", "com.docker.network.container_iface_prefix": "lan", "com.docker.network.bridge.name": "mybridge"},
	})
	mac, _ := net.ParseMAC("02:11:22:33:44:55")
	a := g.join("a", EndpointRequest{Network: "n", IPv4: netip.MustParseAddr("10.9.7.7"), MAC: mac, LinkLocal: []netip.Addr{netip.MustParseAddr("169.254.8.8")}})
	if got := shape(t, a.Netns); got != "lan0 up 169.254.8.8/16 10.9.7.7/16; default 10.9.0.254 lan0" {
		t.Error(got)
	}
	inside(t, a.Netns, func() error {
		i, err := net.InterfaceByName("lan0")
		if err == nil && (i.MTU != 1400 || i.HardwareAddr.String() != mac.String()) {
			t.Errorf("%+v", i)
		}
		return err
	})
	if i, err := net.InterfaceByName("mybridge"); err != nil || i.MTU != 1400 {
		t.Errorf("%+v %v", i, err)
	}
	for i, want := range []string{"10.9.5.0", "10.9.5.2", "10.9.5.3"} { // 1 is the router's
		if s := g.join("r"+want, EndpointRequest{Network: "n"}); s.Endpoints[0].IPv4.Addr().String() != want {
			t.Errorf("%d: %s", i, s.Endpoints[0].IPv4)
		}
	}
	_, err := g.n.Join(t.Context(), SandboxRequest{ID: "full", Endpoints: []EndpointRequest{{Network: "n"}}})
	mustFail(t, err, fail.Conflict, "no available addresses left")
	_, err = g.n.Join(t.Context(), SandboxRequest{ID: "taken", Endpoints: []EndpointRequest{{Network: "n", IPv4: netip.MustParseAddr("10.9.7.7")}}})
	mustFail(t, err, fail.Forbidden, "Address already in use")
	e := EndpointRequest{Network: "bridge", Options: map[string]string{optIfname: "wan", optSysctls: "net.ipv4.conf.IFNAME.log_martians=1"}}
	b := g.join("named", e)
	if got := shape(t, b.Netns); !strings.HasPrefix(got, "wan up") {
		t.Error(got)
	}
	inside(t, b.Netns, func() error {
		if got := readSysctl("ipv4/conf/wan/log_martians"); got != "1" {
			t.Error(got)
		}
		return nil
	})
}

func TestAnInternalNetworkLeadsNowhere(t *testing.T) {
	g := newGround(t)
	g.create(CreateRequest{Name: "n", Internal: true, IPAM: IPAM{Pools: prefixes(t, "10.9.0.0/24")}})
	a, b := g.join("a", EndpointRequest{Network: "n"}), g.join("b", EndpointRequest{Network: "n"})
	if got := shape(t, a.Netns); got != "eth0 up 10.9.0.2/24" || a.Gateway4 != "" {
		t.Error(got, a.Gateway4)
	}
	if _, err := reach(t, a.Netns, b.Netns, b.Endpoints[0].IPv4.Addr()); err != nil {
		t.Error(err)
	}
}

func TestWithoutICCContainersReachTheHostButNotEachOther(t *testing.T) {
	g := newGround(t)
	g.create(CreateRequest{Name: "n", Options: map[string]string{"com.docker.network.bridge.enable_icc": "false"}, IPAM: IPAM{Pools: prefixes(t, "10.9.0.0/24")}})
	a, b := g.join("a", EndpointRequest{Network: "n"}), g.join("b", EndpointRequest{Network: "n"})
	if _, err := reachWithin(t, a.Netns, b.Netns, b.Endpoints[0].IPv4.Addr(), unreachable); err == nil {
		t.Error("a container reaches another one")
	}
	if _, err := reach(t, nil, b.Netns, b.Endpoints[0].IPv4.Addr()); err != nil {
		t.Error(err)
	}
}

func TestSeveralNetworksTheHighestPriorityThenTheFirstNameLeadsOut(t *testing.T) {
	g := newGround(t)
	for name, subnet := range map[string]string{"alpha": "10.1.0.0/24", "beta": "10.2.0.0/24", "gamma": "10.3.0.0/24"} {
		g.create(CreateRequest{Name: name, IPAM: IPAM{Pools: prefixes(t, subnet)}})
	}
	s := g.join("c", EndpointRequest{Network: "gamma"}, EndpointRequest{Network: "beta"})
	if got := shape(t, s.Netns); got != "eth0 up 10.3.0.2/24; eth1 up 10.2.0.2/24; default 10.2.0.1 eth1" {
		t.Error(got)
	}
	if _, err := g.n.Connect(t.Context(), "c", s.Netns, EndpointRequest{Network: "alpha", GwPriority: -1}); err != nil {
		t.Fatal(err)
	}
	if got := shape(t, s.Netns); got != "eth0 up 10.3.0.2/24; eth1 up 10.2.0.2/24; eth2 up 10.1.0.2/24; default 10.2.0.1 eth1" {
		t.Error(got)
	}
	now, err := g.n.Disconnect(t.Context(), "c", s.Netns, "beta")
	if err != nil || len(now.Endpoints) != 2 {
		t.Fatal(now, err)
	}
	if got := shape(t, s.Netns); got != "eth0 up 10.3.0.2/24; eth2 up 10.1.0.2/24; default 10.3.0.1 eth0" {
		t.Error(got)
	}
	if _, err := g.n.Connect(t.Context(), "c", s.Netns, EndpointRequest{Network: "beta", GwPriority: 7}); err != nil {
		t.Fatal(err)
	}
	if got := shape(t, s.Netns); got != "eth0 up 10.3.0.2/24; eth2 up 10.1.0.2/24; eth1 up 10.2.0.3/24; default 10.2.0.1 eth1" {
		t.Error(got)
	}
	_, err = g.n.Connect(t.Context(), "c", s.Netns, EndpointRequest{Network: "beta"})
	mustFail(t, err, fail.Forbidden, "already connected to network beta")
	for _, name := range []string{"alpha", "beta", "gamma"} {
		if now, err = g.n.Disconnect(t.Context(), "c", s.Netns, name); err != nil {
			t.Fatal(err)
		}
	}
	if got := shape(t, s.Netns); got != "" || len(now.Endpoints) != 0 || now.Gateway4 != "" {
		t.Error(got, now)
	}
	_, err = g.n.Disconnect(t.Context(), "c", s.Netns, "beta")
	mustFail(t, err, fail.Forbidden, "not connected")
}

func TestAmongEqualsTheNetworkOfBothFamiliesLeadsOut(t *testing.T) {
	g := newGround(t)
	g.create(CreateRequest{Name: "alpha", IPAM: IPAM{Pools: prefixes(t, "10.1.0.0/24")}})
	g.create(CreateRequest{Name: "zeta", EnableIPv6: is(true), IPAM: IPAM{Pools: prefixes(t, "10.2.0.0/24", "fd12::/64")}})
	s := g.join("c", EndpointRequest{Network: "alpha"}, EndpointRequest{Network: "zeta"})
	if got := shape(t, s.Netns); got != "eth0 up 10.1.0.2/24; eth1 up 10.2.0.2/24 fd12::2/64; default 10.2.0.1 eth1; default fd12::1 eth1" {
		t.Error(got)
	}
	s = g.join("d", EndpointRequest{Network: "alpha", GwPriority: 1}, EndpointRequest{Network: "zeta"})
	if got := shape(t, s.Netns); got != "eth0 up 10.1.0.3/24; eth1 up 10.2.0.3/24 fd12::3/64; default 10.1.0.1 eth0; default fd12::1 eth1" {
		t.Error(got)
	}
}

func TestAnIPv6NetworkIsConnectedToAContainerThatHadNone(t *testing.T) {
	g := newGround(t)
	g.create(CreateRequest{Name: "both", EnableIPv6: is(true), IPAM: IPAM{Pools: prefixes(t, "10.1.0.0/24", "fd12::/64")}})
	s := g.join("c", EndpointRequest{Network: "bridge"})
	if _, err := g.n.Connect(t.Context(), "c", s.Netns, EndpointRequest{Network: "both"}); err != nil {
		t.Fatal(err)
	}
	if got := shape(t, s.Netns); got != "eth0 up 172.17.0.2/16; eth1 up 10.1.0.2/24 fd12::2/64; default 10.1.0.1 eth1; default fd12::1 eth1" {
		t.Error(got)
	}
}

func TestNamesAreKnownFromPublishToLeave(t *testing.T) {
	g := newGround(t)
	nw := g.create(CreateRequest{Name: "n", IPAM: IPAM{Pools: prefixes(t, "10.9.0.0/24")}})
	known := func() string {
		z, err := dns.ReadZone(g.n.zone(nw.ID))
		if fail.Is(err, fail.NotFound) {
			return ""
		} else if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, h := range z.Hosts {
			out = append(out, strings.Join(h.Names, ",")+"="+h.Addrs[0].String())
		}
		return strings.Join(out, " ")
	}
	s := g.join("a", EndpointRequest{Network: "n", Names: []string{"web", "www"}})
	g.join("b", EndpointRequest{Network: "n", Names: []string{"db"}})
	if len(s.Zones) != 1 || known() != "" {
		t.Error(s.Zones, known())
	}
	g.publish("a")
	g.publish("b")
	if known() != "web,www=10.9.0.2 db=10.9.0.3" {
		t.Error(known())
	}
	if err := g.n.Rename(t.Context(), "a", "new", map[string][]string{nw.ID: {"new", "www"}}); err != nil || known() != "new,www=10.9.0.2 db=10.9.0.3" {
		t.Error(known(), err)
	}
	if m := g.n.Endpoints(nw.ID); len(m) != 2 || m[0].ContainerName != "new" {
		t.Errorf("%+v", m)
	}
	g.leave("a")
	if known() != "db=10.9.0.3" {
		t.Error(known())
	}
	g.leave("b")
	if _, err := os.Stat(g.n.zone(nw.ID)); err == nil {
		t.Error("an empty zone stays")
	}
}

func TestLeaveCutsOffANamespaceThatLivesOn(t *testing.T) {
	g := newGround(t)
	a, b := g.join("a", EndpointRequest{Network: "bridge"}), g.join("b", EndpointRequest{Network: "bridge"})
	if _, err := reach(t, a.Netns, b.Netns, b.Endpoints[0].IPv4.Addr()); err != nil {
		t.Fatal(err)
	}
	g.leave("b")
	g.leave("b") // again, as after a crash
	if _, err := reachWithin(t, a.Netns, b.Netns, b.Endpoints[0].IPv4.Addr(), unreachable); err == nil {
		t.Error("who has left is still reached")
	}
	if err := g.n.reap.close(); err != nil { // what it does a second later
		t.Fatal(err)
	}
	var err error
	if g.n.reap, err = newReaper(g.n.log); err != nil {
		t.Fatal(err)
	}
	if got := shape(t, b.Netns); got != "" {
		t.Error(got)
	}
}

func TestHintsAboutPublishingAreForAddressesThatOthersReach(t *testing.T) {
	g := newGround(t)
	nft := func(script string) {
		t.Helper()
		if out, err := exec.Command("nft", script).CombinedOutput(); err != nil {
			t.Skipf("nft: %v: %s", err, out)
		}
	}
	nft("add table inet mine")
	t.Cleanup(func() { nft("delete table inet mine") })
	nft("add chain inet mine forward { type filter hook forward priority 0 ; policy drop ; }")
	g.create(CreateRequest{Name: "n"})
	g.create(CreateRequest{Name: "inner", Internal: true})
	g.create(CreateRequest{Name: "bound", Options: map[string]string{"com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"}})
	everywhere, here := netip.Addr{}, netip.MustParseAddr("127.0.0.1")
	for _, c := range []struct {
		network string
		at      []netip.Addr
		want    int
	}{
		{"n", []netip.Addr{everywhere}, 1},
		{"n", []netip.Addr{here, netip.MustParseAddr("192.0.2.1")}, 1},
		{"n", []netip.Addr{here, netip.IPv6Loopback()}, 0},
		{"inner", []netip.Addr{everywhere}, 0},
		{"bound", []netip.Addr{everywhere}, 0},
		{"bound", []netip.Addr{netip.IPv4Unspecified()}, 1},
		{"nosuch", []netip.Addr{everywhere}, 0},
	} {
		if hints := g.n.PublishHints(c.network, c.at); len(hints) != c.want {
			t.Errorf("%s at %v: %q", c.network, c.at, hints)
		}
	}
}
