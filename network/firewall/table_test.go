package firewall

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
)

// town is what most tests play on:
//
//	other ---- up0 host br-a ---- a1, a2
//	                    br-b ---- b1
type town struct {
	host, other, a1, a2, b1 *node
}

func newTown(t testing.TB) *town {
	h := newHost(t)
	w := &town{host: h, other: newNode(t, "other"), a1: newNode(t, "a1"), a2: newNode(t, "a2"), b1: newNode(t, "b1")}
	h.plug("up0", "", w.other, "eth0", "192.0.2.2/24", "2001:db8::2/64")
	h.addresses("up0", "192.0.2.1/24", "2001:db8::1/64")
	h.bridge("br-a", "172.20.0.1/24", "fd00:a::1/64")
	h.bridge("br-b", "172.21.0.1/24", "fd00:b::1/64")
	h.plug("", "br-a", w.a1, "eth0", "172.20.0.2/24", "fd00:a::2/64")
	h.plug("", "br-a", w.a2, "eth0", "172.20.0.3/24", "fd00:a::3/64")
	h.plug("", "br-b", w.b1, "eth0", "172.21.0.2/24", "fd00:b::2/64")
	for _, n := range []*node{w.a1, w.a2} {
		n.route("0.0.0.0/0", "172.20.0.1")
		n.route("::/0", "fd00:a::1")
	}
	w.b1.route("0.0.0.0/0", "172.21.0.1")
	w.b1.route("::/0", "fd00:b::1")
	// the other host knows the way to the containers, as an attacker's would
	w.other.route("172.20.0.0/15", "192.0.2.1")
	w.other.route("fd00::/16", "2001:db8::1")
	for _, n := range []*node{w.other, w.a1, w.a2, w.b1} {
		n.serve(":80")
	}
	return w
}

// bridgeNetfilter switches br_netfilter, which shows bridged frames to the table as if they were routed.
func (w *town) bridgeNetfilter(on string) {
	w.host.t.Helper()
	for _, f := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		file := "/proc/sys/net/bridge/" + f
		if _, err := os.Stat(file); err != nil {
			if on == "1" {
				w.host.t.Skip("no br_netfilter here")
			}
			continue
		}
		write(w.host.t, file, on)
	}
}

// isolatePorts does what the network package does when containers must not see each other.
func (w *town) isolatePorts(bridge string) {
	w.host.t.Helper()
	w.host.must(func() error {
		b, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Attrs().MasterIndex == b.Attrs().Index {
				err = errors.Join(err, netlink.LinkSetIsolated(l, true))
			}
		}
		return err
	})
}

// towards is a neighbour's entry that sends what is for ip to the bridge itself.
func (w *town) towards(ip, bridge string) *netlink.Neigh {
	n := &netlink.Neigh{State: netlink.NUD_PERMANENT, IP: net.ParseIP(ip)}
	w.host.do(func() {
		if l, err := netlink.LinkByName(bridge); err == nil {
			n.HardwareAddr = l.Attrs().HardwareAddr
		}
	})
	if l, err := netlink.LinkByName("eth0"); err == nil { // of the caller's namespace
		n.LinkIndex = l.Attrs().Index
	}
	return n
}

var natBoth = Gateway{Masquerade: true}

var bridgeA = Bridge{Name: "br-a", IPv4: natBoth, IPv6: natBoth}
var bridgeB = Bridge{Name: "br-b", IPv4: natBoth, IPv6: natBoth}

// ports publishes port 80 of a container at each of the host's addresses, by TCP and UDP.
func ports(target4, target6 string, hosts ...string) []Port {
	var all []Port
	for _, h := range hosts {
		host := netip.MustParseAddrPort(h)
		target := target4
		if host.Addr().Is6() {
			target = target6
		}
		for _, proto := range []string{"tcp", "udp"} {
			all = append(all, Port{proto, host, netip.AddrPortFrom(netip.MustParseAddr(target), 80)})
		}
	}
	return all
}

func publishA1(hosts ...string) Publication {
	return Publication{Container: "a1", Bridges: []string{"br-a"}, Ports: ports("172.20.0.2", "fd00:a::2", hosts...)}
}

func TestPublishedPortsAreReachedFromEverywhereWithTheClientsAddress(t *testing.T) {
	for _, bridgeNetfilter := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+bridgeNetfilter, func(t *testing.T) {
			w := newTown(t)
			w.bridgeNetfilter(bridgeNetfilter)
			w.host.serve(":8000") // the shim
			openTable(t, Config{Bridges: []Bridge{bridgeA, bridgeB}, Published: []Publication{publishA1("0.0.0.0:8000", "[::]:8000")}})
			w.other.expect("192.0.2.1:8000", "a1 192.0.2.2")
			w.other.expect("[2001:db8::1]:8000", "a1 2001:db8::2")
			w.host.expect("192.0.2.1:8000", "a1 192.0.2.1")
			w.host.expect("[2001:db8::1]:8000", "a1 2001:db8::1")
			// another network
			w.b1.expect("192.0.2.1:8000", "a1 172.21.0.2")
			w.b1.expect("172.20.0.1:8000", "a1 172.21.0.2")
			w.b1.expect("[2001:db8::1]:8000", "a1 fd00:b::2")
			// the same network cannot keep its address, except where frames are translated on the bridge
			near4, near6 := "a1 172.20.0.1", "a1 fd00:a::1"
			if bridgeNetfilter == "1" {
				near4, near6 = "a1 172.20.0.3", "a1 fd00:a::3"
			}
			w.a2.expect("192.0.2.1:8000", near4)
			w.a2.expect("172.20.0.1:8000", near4)
			w.a2.expect("[2001:db8::1]:8000", near6)
			// the container itself gets the shim
			w.a1.expect("172.20.0.1:8000", "host 172.20.0.2")
			w.a1.expect("[fd00:a::1]:8000", "host fd00:a::2")
			// so does loopback
			w.host.expect("127.0.0.1:8000", "host 127.0.0.1")
			w.host.expect("[::1]:8000", "host ::1")
		})
	}
}

func TestContainersOfAnIsolatedBridgeReachEachOtherByPublishedPortsOnly(t *testing.T) {
	for _, bridgeNetfilter := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+bridgeNetfilter, func(t *testing.T) {
			w := newTown(t)
			w.bridgeNetfilter(bridgeNetfilter)
			w.host.serve(":8000")
			w.isolatePorts("br-a")
			isolated := bridgeA
			isolated.Isolated = true
			openTable(t, Config{Bridges: []Bridge{isolated, bridgeB}, Published: []Publication{publishA1("0.0.0.0:8000", "[::]:8000")}})
			w.a2.expect("172.20.0.2:80", "")
			w.a2.expect("[fd00:a::2]:80", "")
			w.a2.expect("172.20.0.1:8000", "host 172.20.0.3")
			w.a2.expect("[fd00:a::1]:8000", "host fd00:a::3")
			w.other.expect("192.0.2.1:8000", "a1 192.0.2.2")
			// by way of the gateway
			w.a2.must(func() error { return netlink.NeighSet(w.towards("172.20.0.2", "br-a")) })
			w.a2.expect("172.20.0.2:80", "")
		})
	}
}

func TestNothingElseComesIntoABridge(t *testing.T) {
	w := newTown(t)
	openTable(t, Config{Bridges: []Bridge{bridgeA, bridgeB}, Published: []Publication{publishA1("0.0.0.0:8000", "[::]:8000")}})
	for _, direct := range []string{"172.20.0.2:80", "172.20.0.3:80", "[fd00:a::2]:80", "[fd00:a::3]:80"} {
		w.other.expect(direct, "")
		w.b1.expect(direct, "")
	}
	w.host.expect("172.20.0.3:80", "a2 172.20.0.1")
	w.host.expect("[fd00:a::3]:80", "a2 fd00:a::1")
	w.a1.expect("172.20.0.3:80", "a2 172.20.0.2")
	w.a1.expect("[fd00:a::3]:80", "a2 fd00:a::2")
}

func TestWhatLeavesIsMasqueraded(t *testing.T) {
	w := newTown(t)
	plain := Bridge{Name: "br-b"}
	table := openTable(t, Config{Bridges: []Bridge{bridgeA, plain}})
	w.a1.expect("192.0.2.2:80", "other 192.0.2.1")
	w.a1.expect("[2001:db8::2]:80", "other 2001:db8::1")
	w.b1.expect("192.0.2.2:80", "other 172.21.0.2")
	w.b1.expect("[2001:db8::2]:80", "other fd00:b::2")

	w.host.addresses("up0", "192.0.2.9/24", "2001:db8::9/64")
	fixed := Bridge{Name: "br-a",
		IPv4: Gateway{Masquerade: true, Source: netip.MustParseAddr("192.0.2.9")},
		IPv6: Gateway{Masquerade: true, Source: netip.MustParseAddr("2001:db8::9")}}
	if err := table.Bridge(fixed); err != nil {
		t.Fatal(err)
	}
	w.a1.expect("192.0.2.2:80", "other 192.0.2.9")
	w.a1.expect("[2001:db8::2]:80", "other 2001:db8::9")
}
