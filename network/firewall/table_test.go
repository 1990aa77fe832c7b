package firewall

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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
	if on == "1" && os.Getuid() == 0 {
		exec.Command("modprobe", "br_netfilter").Run() // as a Docker daemon would have done
	}
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
			// and who comes by a link-local address, which cannot be routed
			address := "[" + w.host.linkLocal("up0") + "%eth0]:8000"
			for _, proto := range []string{"tcp", "udp"} {
				eventually(t, "the shim answers "+proto+" "+address, func() bool { return strings.HasPrefix(w.other.ask(proto, address), "host ") })
			}
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
	// but not on the way to another network of ours
	b1 := Publication{Container: "b1", Bridges: []string{"br-b"}, Ports: ports("172.21.0.2", "fd00:b::2", "0.0.0.0:8001", "[::]:8001")}
	if err := table.Publish(b1); err != nil {
		t.Fatal(err)
	}
	w.a1.expect("192.0.2.1:8001", "b1 172.20.0.2")
	w.a1.expect("[2001:db8::1]:8001", "b1 fd00:a::2")
}

func TestAPortOfOneAddressIsReachedByThatAddressOnly(t *testing.T) {
	w := newTown(t)
	w.host.addresses("up0", "192.0.2.9/24", "2001:db8::9/64")
	openTable(t, Config{Bridges: []Bridge{bridgeA, bridgeB}, Published: []Publication{publishA1("192.0.2.9:8000", "[2001:db8::9]:8000")}})
	w.other.expect("192.0.2.9:8000", "a1 192.0.2.2")
	w.other.expect("[2001:db8::9]:8000", "a1 2001:db8::2")
	w.host.expect("192.0.2.9:8000", "a1 192.0.2.1")
	w.b1.expect("192.0.2.9:8000", "a1 172.21.0.2")
	w.other.expect("192.0.2.1:8000", "")
	w.other.expect("[2001:db8::1]:8000", "")
}

func TestAPortOfLoopbackIsUnreachableForOtherHosts(t *testing.T) {
	w := newTown(t)
	w.host.serve("127.0.0.1:8000", "127.0.0.1:9000", "[::1]:8000")
	published := publishA1("127.0.0.1:8000", "[::1]:8000")
	table := openTable(t, Config{Bridges: []Bridge{bridgeA, bridgeB}, Published: []Publication{published}})
	w.host.expect("127.0.0.1:8000", "host 127.0.0.1")
	w.host.expect("[::1]:8000", "host ::1")
	w.other.expect("192.0.2.1:8000", "")
	w.other.expect("[2001:db8::1]:8000", "")

	// The other host, and a container, send what is for 127.0.0.1 to us, and we take it.
	for _, n := range []struct {
		*node
		via, link string
	}{{w.other, "192.0.2.1", "up0"}, {w.b1, "172.21.0.1", "br-b"}} {
		write(t, "/proc/sys/net/ipv4/conf/"+n.link+"/route_localnet", "1")
		write(t, "/proc/sys/net/ipv4/conf/"+n.link+"/rp_filter", "0")
		n.must(func() error {
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0); err != nil {
				return err
			}
			// 127/8 is in the table local, which is asked first: the way leads from another one
			rule := netlink.NewRule()
			rule.Priority, rule.Table = 1, 100
			if err := netlink.RuleAdd(rule); err != nil {
				return err
			}
			local := netlink.NewRule()
			local.Priority, local.Table = 2, 255
			zero := netlink.NewRule()
			zero.Priority, zero.Table = 0, 255
			if err := errors.Join(netlink.RuleAdd(local), netlink.RuleDel(zero)); err != nil {
				return err
			}
			_, forged, _ := net.ParseCIDR("127.0.0.1/32")
			return netlink.RouteAdd(&netlink.Route{Dst: forged, Gw: net.ParseIP(n.via), Table: 100})
		})
		n.expect("127.0.0.1:9000", "host "+map[string]string{"other": "192.0.2.2", "b1": "172.21.0.2"}[n.name]) // else this test proves nothing
		n.expect("127.0.0.1:8000", "")
	}
	if err := table.Unpublish("a1"); err != nil {
		t.Fatal(err)
	}
	w.other.expect("127.0.0.1:8000", "host 192.0.2.2") // it was the table that kept it out
}

func TestAnInternalNetworkReachesAndIsReachedByNobody(t *testing.T) {
	w := newTown(t)
	inner := Bridge{Name: "br-a", IPv4: natBoth, IPv6: natBoth, Internal: true}
	table := openTable(t, Config{Bridges: []Bridge{inner, bridgeB}, Published: []Publication{publishA1("0.0.0.0:8000", "[::]:8000"),
		{Container: "b1", Bridges: []string{"br-b"}, Ports: ports("172.21.0.2", "fd00:b::2", "0.0.0.0:8001", "[::]:8001")}}})
	for _, to := range []string{"192.0.2.2:80", "[2001:db8::2]:80", "172.21.0.2:80", "[fd00:b::2]:80", "192.0.2.1:8001", "[2001:db8::1]:8001"} {
		w.a1.expect(to, "")
	}
	for _, to := range []string{"192.0.2.1:8000", "[2001:db8::1]:8000", "172.20.0.2:80", "[fd00:a::2]:80"} {
		w.other.expect(to, "")
		w.b1.expect(to, "")
	}
	w.a1.expect("172.20.0.3:80", "a2 172.20.0.2")
	w.host.expect("172.20.0.2:80", "a1 172.20.0.1")
	if err := table.Bridge(bridgeA); err != nil {
		t.Fatal(err)
	}
	w.a1.expect("192.0.2.1:8001", "b1 172.20.0.2")
}

func TestARoutedNetworkIsReachedAtItsOpenPortsDirectly(t *testing.T) {
	w := newTown(t)
	routed := Bridge{Name: "br-a", IPv4: Gateway{Mode: Routed}, IPv6: Gateway{Mode: Routed}}
	open := Publication{Container: "a1", Bridges: []string{"br-a"}}
	for _, target := range []string{"172.20.0.2:80", "[fd00:a::2]:80"} {
		for _, proto := range []string{"tcp", "udp"} {
			open.Ports = append(open.Ports, Port{Proto: proto, Target: netip.MustParseAddrPort(target)})
		}
	}
	table := openTable(t, Config{Bridges: []Bridge{routed, bridgeB}, Published: []Publication{open}})
	w.other.expect("172.20.0.2:80", "a1 192.0.2.2")
	w.other.expect("[fd00:a::2]:80", "a1 2001:db8::2")
	w.b1.expect("172.20.0.2:80", "a1 172.21.0.2")
	w.other.expect("172.20.0.3:80", "")
	w.other.expect("[fd00:a::3]:80", "")
	w.a1.expect("192.0.2.2:80", "other 172.20.0.2")
	for ip, want := range map[string]bool{"172.20.0.3": true, "fd00:a::3": true, "172.21.0.2": false, "fd00:b::2": false} {
		if got := w.other.ping(ip); got != want {
			t.Errorf("ping %s: answered: %v, want %v", ip, got, want)
		}
	}
	// one family may be routed while the other is not
	mixed := routed
	mixed.IPv4 = natBoth
	if err := table.Bridge(mixed); err != nil {
		t.Fatal(err)
	}
	w.other.expect("172.20.0.2:80", "")
	w.other.expect("[fd00:a::2]:80", "a1 2001:db8::2")
}

func TestAnUnprotectedNetworkAndATrustedInterfaceLetEverythingIn(t *testing.T) {
	w := newTown(t)
	open := Bridge{Name: "br-a", IPv4: Gateway{Mode: Unprotected, Masquerade: true}, IPv6: Gateway{Mode: Unprotected}}
	trusting := bridgeB
	trusting.Trusted = []string{"up0"}
	openTable(t, Config{Bridges: []Bridge{open, trusting}, Published: []Publication{publishA1("0.0.0.0:8000")}})
	w.other.expect("172.20.0.3:80", "a2 192.0.2.2")
	w.other.expect("[fd00:a::3]:80", "a2 2001:db8::2")
	w.other.expect("192.0.2.1:8000", "a1 192.0.2.2")
	w.other.expect("172.21.0.2:80", "b1 192.0.2.2")
	w.a1.expect("172.21.0.2:80", "")
}

func TestAContainerOnSeveralNetworksAnswersClientsOfAllOfThem(t *testing.T) {
	w := newTown(t)
	w.host.plug("", "br-b", w.a1, "eth1", "172.21.0.9/24", "fd00:b::9/64")
	p := publishA1("0.0.0.0:8000", "[::]:8000")
	p.Bridges = append(p.Bridges, "br-b")
	openTable(t, Config{Bridges: []Bridge{bridgeA, bridgeB}, Published: []Publication{p}})
	w.b1.expect("192.0.2.1:8000", "a1 172.20.0.1")
	w.b1.expect("[2001:db8::1]:8000", "a1 fd00:a::1")
	w.other.expect("192.0.2.1:8000", "a1 192.0.2.2")
}

func TestOthersTrafficThroughThisHostIsNotTouched(t *testing.T) {
	w := newTown(t)
	far := newNode(t, "far")
	w.host.plug("up1", "", far, "eth0", "198.51.100.2/24")
	w.host.addresses("up1", "198.51.100.1/24")
	far.route("0.0.0.0/0", "198.51.100.1")
	far.serve(":80", ":8000")
	w.other.route("198.51.100.0/24", "192.0.2.1")
	openTable(t, Config{Bridges: []Bridge{bridgeA}, Published: []Publication{publishA1("0.0.0.0:8000")}})
	w.other.expect("198.51.100.2:80", "far 192.0.2.2")
	w.other.expect("198.51.100.2:8000", "far 192.0.2.2") // though the port is published here
	w.a1.expect("198.51.100.2:8000", "far 198.51.100.1")
	w.b1.expect("172.20.0.1:22", "") // just nobody there
	w.host.expect("198.51.100.2:8000", "far 198.51.100.1")
}

func TestSCTPPortsAreTranslatedToo(t *testing.T) {
	w := newTown(t)
	w.bridgeNetfilter("0")
	socket := func(n *node, family int) (fd int) {
		n.do(func() {
			var err error
			fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
			if err != nil {
				fd = -1
				return
			}
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20})
		})
		if fd < 0 {
			t.Skip("this kernel has no SCTP")
		}
		return fd
	}
	openTable(t, Config{Bridges: []Bridge{bridgeA}, Published: []Publication{{Container: "a1", Bridges: []string{"br-a"}, Ports: []Port{
		{"sctp", netip.MustParseAddrPort("0.0.0.0:8000"), netip.MustParseAddrPort("172.20.0.2:80")},
		{"sctp", netip.MustParseAddrPort("[::]:8000"), netip.MustParseAddrPort("[fd00:a::2]:80")}}}}})
	for _, c := range []struct {
		family     int
		at         unix.Sockaddr
		to         unix.Sockaddr
		client     *node
		seen, name string
	}{
		{unix.AF_INET, &unix.SockaddrInet4{Port: 80}, &unix.SockaddrInet4{Port: 8000, Addr: [4]byte{192, 0, 2, 1}}, w.other, "192.0.2.2", "another host"},
		{unix.AF_INET6, &unix.SockaddrInet6{Port: 80}, &unix.SockaddrInet6{Port: 8000, Addr: netip.MustParseAddr("2001:db8::1").As16()}, w.other, "2001:db8::2", "another host, IPv6"},
		{unix.AF_INET, &unix.SockaddrInet4{Port: 80}, &unix.SockaddrInet4{Port: 8000, Addr: [4]byte{172, 20, 0, 1}}, w.a2, "172.20.0.1", "the same network"},
	} {
		l := socket(w.a1, c.family)
		if err := errors.Join(unix.SetsockoptInt(l, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(l, c.at), unix.Listen(l, 1)); err != nil {
			t.Fatal(err)
		}
		from := make(chan string, 1)
		go func() {
			fd, peer, err := unix.Accept(l)
			switch peer := peer.(type) {
			case *unix.SockaddrInet4:
				from <- netip.AddrFrom4(peer.Addr).String()
			case *unix.SockaddrInet6:
				from <- netip.AddrFrom16(peer.Addr).String()
			default:
				from <- err.Error()
				return
			}
			unix.Write(fd, []byte("hello"))
			unix.Close(fd)
		}()
		fd := socket(c.client, c.family)
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 15}) // of connect, too
		if err := unix.Connect(fd, c.to); err != nil {
			t.Errorf("from %s: %v", c.name, err)
		}
		b := make([]byte, 16)
		n, err := unix.Read(fd, b)
		if seen := <-from; err != nil || string(b[:n]) != "hello" || seen != c.seen {
			t.Errorf("from %s: %q, %v; the container sees %s, want %s", c.name, b[:n], err, seen, c.seen)
		}
		unix.Close(fd)
		unix.Close(l)
	}
}
