package network

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"berth/fail"
)

// lan makes an interface lan0 that leads to another host with an address.
func lan(t *testing.T, addr string) (other *os.File) {
	t.Helper()
	ns, c, err := newNamespace(func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	c.close()
	t.Cleanup(func() { ns.Close() })
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "lan0"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "lan1", PeerNamespace: netlink.NsFd(ns.Fd())}); err != nil {
		t.Fatal(err)
	}
	l, err := netlink.LinkByName("lan0")
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netlink.LinkDel(l) })
	inside(t, ns, func() error {
		l, err := netlink.LinkByName("lan1")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(addr)
		return errors.Join(err, netlink.AddrAdd(l, a), netlink.LinkSetUp(l))
	})
	return ns
}

func TestMacvlanContainersAreOnTheParentsNetwork(t *testing.T) {
	g := newGround(t)
	if err := (xvlan{"macvlan"}).supported(g.n); err != nil {
		t.Skip(err)
	}
	other := lan(t, "10.50.0.1/24")
	g.create(CreateRequest{Name: "n", Driver: "macvlan", Options: map[string]string{"parent": "lan0"}, IPAM: IPAM{Pools: prefixes(t, "10.50.0.0/24")}})
	mac, _ := net.ParseMAC("02:11:22:33:44:55")
	a := g.join("a", EndpointRequest{Network: "n", MAC: mac})
	b := g.join("b", EndpointRequest{Network: "n"})
	if got := shape(t, a.Netns); got != "eth0 up 10.50.0.2/24; default 10.50.0.1 eth0" {
		t.Error(got)
	}
	if a.Endpoints[0].MAC.String() != mac.String() {
		t.Error(a.Endpoints[0].MAC)
	}
	for _, from := range []*os.File{other, b.Netns} {
		if _, err := reach(t, from, a.Netns, a.Endpoints[0].IPv4.Addr()); err != nil {
			t.Error(err)
		}
	}
	_, _, err := g.n.Create(t.Context(), CreateRequest{Name: "m", Driver: "macvlan", Options: map[string]string{"parent": "lan0"}, IPAM: IPAM{Pools: prefixes(t, "10.51.0.0/24")}})
	mustFail(t, err, fail.Forbidden, "network n is already using parent interface lan0")

	// Connected while it runs, and taken off.
	c := g.join("c", EndpointRequest{Network: "bridge"})
	if _, err := g.n.Connect(t.Context(), "c", c.Netns, EndpointRequest{Network: "n", GwPriority: 1}); err != nil {
		t.Fatal(err)
	}
	if got := shape(t, c.Netns); got != "eth0 up 172.17.0.2/16; eth1 up 10.50.0.4/24; default 10.50.0.1 eth1" {
		t.Error(got)
	}
	if _, err := g.n.Disconnect(t.Context(), "c", c.Netns, "n"); err != nil {
		t.Fatal(err)
	}
	if got := shape(t, c.Netns); got != "eth0 up 172.17.0.2/16; default 172.17.0.1 eth0" {
		t.Error(got)
	}
	for _, s := range []*Sandbox{a, b} {
		s.Netns.Close()
		g.leave(s.ID)
	}
	if err := g.n.Remove(t.Context(), "n"); err != nil {
		t.Fatal(err)
	}
	if _, err := netlink.LinkByName("lan0"); err != nil {
		t.Error("somebody else's interface is gone")
	}
}

func TestAnInternalMacvlanHasAParentOfItsOwn(t *testing.T) {
	g := newGround(t)
	if err := (xvlan{"macvlan"}).supported(g.n); err != nil {
		t.Skip(err)
	}
	nw := g.create(CreateRequest{Name: "n", Driver: "macvlan", Internal: true, EnableIPv6: is(true), IPAM: IPAM{Pools: prefixes(t, "10.50.0.0/24", "fd12::/64")}})
	a, b := g.join("a", EndpointRequest{Network: "n"}), g.join("b", EndpointRequest{Network: "n"})
	if got := shape(t, a.Netns); got != "eth0 up 10.50.0.2/24 fd12::2/64" {
		t.Error(got)
	}
	for _, p := range b.Endpoints[0].addresses() {
		if _, err := reach(t, a.Netns, b.Netns, p.Addr()); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []*Sandbox{a, b} {
		s.Netns.Close()
		g.leave(s.ID)
	}
	if err := g.n.Remove(t.Context(), "n"); err != nil {
		t.Fatal(err)
	}
	if l, err := netlink.LinkByName(ownParent(nw)); err == nil {
		t.Errorf("%s stays", l.Attrs().Name)
	}
}

func TestAVLANParentIsMadeAndTakenAway(t *testing.T) {
	g := newGround(t)
	if err := (xvlan{"macvlan"}).supported(g.n); err != nil {
		t.Skip(err)
	}
	lan(t, "10.50.0.1/24")
	probe := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "lan0.7", ParentIndex: index(t, "lan0")}, VlanId: 7}
	if err := netlink.LinkAdd(probe); errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("this kernel has no VLANs")
	} else if err == nil {
		netlink.LinkDel(probe)
	}
	for _, driver := range []string{"macvlan", "ipvlan"} {
		if err := (xvlan{driver}).supported(g.n); err == nil {
			t.Run(driver, func(t *testing.T) { vlanParent(t, g, driver) })
		}
	}
}

func vlanParent(t *testing.T, g *ground, driver string) {
	create := func(parent string) error {
		_, _, err := g.n.Create(t.Context(), CreateRequest{Name: "n", Driver: driver, Options: map[string]string{"parent": parent}, IPAM: IPAM{Pools: prefixes(t, "10.50.0.0/24")}})
		return err
	}
	mustFail(t, create("lan0.5000"), fail.Invalid, "no VLAN number")
	mustFail(t, create("nosuch.5"), fail.Invalid, "no interface nosuch")
	if err := create("lan0.50"); err != nil {
		t.Fatal(err)
	}
	index(t, "lan0.50")
	s := g.join("a", EndpointRequest{Network: "n"})
	if got := shape(t, s.Netns); !strings.HasPrefix(got, "eth0 up 10.50.0.2/24") {
		t.Error(got)
	}
	s.Netns.Close()
	g.leave("a")
	if err := g.n.Remove(t.Context(), "n"); err != nil {
		t.Fatal(err)
	}
	if _, err := netlink.LinkByName("lan0.50"); err == nil {
		t.Error("the VLAN stays")
	}
}

func TestIPvlanContainersAreOnTheParentsNetwork(t *testing.T) {
	g := newGround(t)
	if err := (xvlan{"ipvlan"}).supported(g.n); err != nil {
		mustFail(t, err, fail.NotImplemented, "the kernel of this host has no ipvlan driver")
		t.Skip(err)
	}
	other := lan(t, "10.50.0.1/24")
	hostOn(t, "lan0", "10.50.0.254/24")
	inside(t, other, func() error { // l3: the host's interface is the router
		_, to, _ := net.ParseCIDR("10.60.0.0/16")
		return netlink.RouteAdd(&netlink.Route{Dst: to, Gw: net.IPv4(10, 50, 0, 254)})
	})
	for _, c := range []struct {
		mode, flag, subnet, gateway string
		shape                       string
		among                       bool // containers reach each other
	}{
		{"", "", "10.50.0.0/24", "10.50.0.1", "eth0 up 10.50.0.2/24; default 10.50.0.1 eth0", true},
		{"l2", "private", "10.50.0.0/24", "10.50.0.1", "eth0 up 10.50.0.2/24; default 10.50.0.1 eth0", false},
		{"l3", "", "10.60.0.0/24", "", "eth0 up 10.60.0.2/24; default <nil> eth0", true},
		{"l3s", "bridge", "10.60.0.0/24", "", "eth0 up 10.60.0.2/24; default <nil> eth0", true},
	} {
		t.Run(c.mode+" "+c.flag, func(t *testing.T) {
			options := map[string]string{"parent": "lan0"}
			if c.mode != "" {
				options["ipvlan_mode"] = c.mode
			}
			if c.flag != "" {
				options["ipvlan_flag"] = c.flag
			}
			pools := prefixes(t, c.subnet)
			if c.gateway != "" {
				pools[0].Gateway = netip.MustParseAddr(c.gateway)
			}
			g.create(CreateRequest{Name: "n", Driver: "ipvlan", Options: options, IPAM: IPAM{Pools: pools}})
			a, b := g.join("a", EndpointRequest{Network: "n"}), g.join("b", EndpointRequest{Network: "n"})
			if got := shape(t, a.Netns); got != c.shape {
				t.Errorf("%s, want %s", got, c.shape)
			}
			if a.Endpoints[0].MAC != nil {
				t.Errorf("an endpoint has the MAC address %s, which is its parent's", a.Endpoints[0].MAC)
			}
			at := a.Endpoints[0].IPv4.Addr()
			if seen, err := reach(t, other, a.Netns, at); err != nil || seen != "10.50.0.1" {
				t.Errorf("from another host: %q, %v", seen, err)
			}
			if seen, err := reach(t, a.Netns, other, netip.MustParseAddr("10.50.0.1")); err != nil || seen != at.String() {
				t.Errorf("to another host: %q, %v", seen, err)
			}
			patience := 10 * time.Second
			if !c.among {
				patience = unreachable
			}
			if _, err := reachWithin(t, b.Netns, a.Netns, at, patience); (err == nil) != c.among {
				t.Errorf("from a container to another: %v, want %v", err, c.among)
			}
			for _, s := range []*Sandbox{a, b} {
				s.Netns.Close()
				g.leave(s.ID)
			}
			if err := g.n.Remove(t.Context(), "n"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestIPvlanNetworksShareAParentIfTheyAreOfOneMode(t *testing.T) {
	g := newGround(t)
	if err := (xvlan{"ipvlan"}).supported(g.n); err != nil {
		t.Skip(err)
	}
	lan(t, "10.50.0.1/24")
	create := func(name, parent string, options ...string) error {
		o := map[string]string{"parent": parent}
		for _, kv := range options {
			k, v, _ := strings.Cut(kv, "=")
			o[k] = v
		}
		_, _, err := g.n.Create(t.Context(), CreateRequest{Name: name, Driver: "ipvlan", Options: o})
		return err
	}
	mustFail(t, create("m", "lo"), fail.Invalid, "the loopback interface leads to no network")
	for _, err := range []error{create("a", "lan0"), create("b", "lan0", "ipvlan_mode=l2", "ipvlan_flag=bridge")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	mustFail(t, create("c", "lan0", "ipvlan_mode=l3"), fail.Forbidden, "network")
	mustFail(t, create("c", "lan0", "ipvlan_flag=vepa"), fail.Forbidden, "mode l2 and flag bridge: all ipvlan networks of a parent have the same")
	mac, _ := net.ParseMAC("02:11:22:33:44:55")
	_, err := g.n.Join(t.Context(), SandboxRequest{ID: "x", Name: "x", Endpoints: []EndpointRequest{{Network: "a", MAC: mac}}})
	mustFail(t, err, fail.Invalid, "parent interface's MAC address")
}

// hostOn gives the host an address on one of its interfaces.
func hostOn(t *testing.T, link, addr string) {
	t.Helper()
	l, err := netlink.LinkByName(link)
	if err != nil {
		t.Fatal(err)
	}
	a, err := netlink.ParseAddr(addr)
	if err := errors.Join(err, netlink.AddrAdd(l, a)); err != nil {
		t.Fatal(err)
	}
}

func index(t *testing.T, name string) int {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Index
}
