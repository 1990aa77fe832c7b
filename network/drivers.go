package network

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
	"berth/network/firewall"
)

// driver makes networks of one kind. Calls for one network never overlap, but for plug.
type driver interface {
	// check tells why the network cannot be made on this host.
	check(n *Networks, nw Network, set settings) error
	// up makes what the network has on the host, or completes what is there, and returns the
	// index of the interface that endpoints hang on.
	up(n *Networks, nw Network, set settings) (int, error)
	// down takes it away; what is gone already is no error.
	down(n *Networks, nw Network, set settings) error
	// plug returns the messages to the host's kernel that make an endpoint's interface in a
	// namespace. It is down and has its MAC address.
	plug(n *Networks, nw *entry, ns *os.File, e endpoint) []message
}

var drivers = map[string]driver{"bridge": bridge{}, "macvlan": xvlan{"macvlan"}, "ipvlan": xvlan{"ipvlan"}}

func driverNames() []string { return slices.Sorted(maps.Keys(drivers)) }

// able lists the drivers that work on this host.
func (n *Networks) able() []string {
	out := []string{"host", "null"}
	for name, d := range drivers {
		if x, ok := d.(xvlan); !ok || x.supported(n) == nil {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// alias marks an interface as one of this engine's. The kernel takes less than 256 bytes
// (IFALIASZ).
func (n *Networks) alias(what string) string {
	a := "berth " + n.cfg.EngineID + " " + what
	return a[:min(len(a), 255)]
}

// bridgeName is the name of a bridge network's interface.
func bridgeName(nw Network) string {
	if name := nw.Options["com.docker.network.bridge.name"]; name != "" {
		return name
	}
	return "br-" + nw.ID[:12]
}

// bridgeAddress is what a pool's bridge has of it.
func bridgeAddress(nw Network, p Pool) netip.Prefix {
	return netip.PrefixFrom(p.Gateway, p.Subnet.Bits())
}

// bridge networks are a bridge each, with a veth pair for each endpoint.
type bridge struct{}

func (bridge) check(n *Networks, nw Network, set settings) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, other := range n.nets {
		if other.rec.Driver == "bridge" && other.rec.ID != nw.ID && !other.rec.ConfigOnly && bridgeName(other.rec.Network) == bridgeName(nw) {
			return fail.New(fail.Conflict, "network %s uses the bridge %s already", other.rec.Name, bridgeName(nw))
		}
	}
	return nil
}

func (bridge) up(n *Networks, nw Network, set settings) (int, error) {
	name := bridgeName(nw)
	found, err := n.findLink(name)
	if err != nil {
		return 0, err
	}
	switch {
	case found == nil && nw.Predefined && n.cfg.Bridge.Name != "":
		return 0, fail.New(fail.NotFound, "bridge %s of the default network does not exist: make it, or name another one", name)
	case found == nil:
		if err := n.host.do(newBridge(name), n.mark(name, nw)); err != nil {
			return 0, err
		}
		durable.Failpoint("network.bridge.made")
	case found.kind != "bridge":
		return 0, fail.New(fail.Conflict, "interface %s exists and is not a bridge", name)
	case strings.HasPrefix(found.alias, "berth ") && !strings.HasPrefix(found.alias, n.alias("")):
		return 0, fail.New(fail.Conflict, "bridge %s is another engine's (%s)", name, found.alias)
	}
	index, err := n.host.index(name)
	if err != nil {
		return 0, err
	}
	for _, s := range [][2]string{
		{"ipv6/conf/" + name + "/disable_ipv6", flag(!nw.EnableIPv6)},
		{"ipv6/conf/" + name + "/accept_ra", "0"}, // a container could else become the host's router
		{"ipv6/conf/" + name + "/accept_dad", "0"},
	} {
		if err := optionalSysctl(s[0], s[1]); err != nil {
			return 0, err
		}
	}
	var batch []message
	if found != nil && n.madeBridge(found, nw) {
		batch = append(batch, n.mark(name, nw))
	}
	batch = append(batch, setUp(index, name))
	if set.mtu != 0 {
		req := linkMessage(index, "", 0, 0, 0)
		req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(set.mtu))))
		batch = append(batch, message{req, fmt.Sprintf("give bridge %s an MTU of %d", name, set.mtu), nil})
	}
	for _, p := range nw.IPAM.Pools {
		f := 0
		if p.Subnet.Addr().Is6() {
			f = 1
		}
		if set.modes[f] == modeIsolated || f == 0 && set.noAddress {
			continue
		}
		batch = append(batch, addressMessage(index, bridgeAddress(nw, p), unix.EEXIST))
	}
	if err := n.host.do(batch...); err != nil {
		return 0, err
	}
	if !nw.Internal {
		if err := n.forward(nw); err != nil {
			return 0, err
		}
	}
	if err := n.fire.Bridge(firewallBridge(nw, set)); err != nil {
		return 0, fmt.Errorf("write the firewall rules of network %s: %w", nw.Name, err)
	}
	return index, nil
}

func firewallBridge(nw Network, set settings) firewall.Bridge {
	gateway := func(f int) firewall.Gateway {
		m := set.modes[f]
		return firewall.Gateway{
			Mode: firewallModes[m], Source: set.source[f],
			Masquerade: !set.noMasq && !nw.Internal && (m == modeNAT || m == modeUnprotected),
		}
	}
	return firewall.Bridge{
		Name: bridgeName(nw), IPv4: gateway(0), IPv6: gateway(1),
		Internal: nw.Internal, Isolated: set.noICC, Trusted: set.trusted,
	}
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

func newBridge(name string) message {
	req := linkMessage(0, name, unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0, 0)
	// A given address stays; else the bridge would take the lowest of its ports', and change it
	// with them.
	req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, randomMAC()))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	req.AddData(info)
	return message{req, "make bridge " + name, nil}
}

func (bridge) down(n *Networks, nw Network, set settings) error {
	name := bridgeName(nw)
	err := n.fire.RemoveBridge(name)
	found, findErr := n.findLink(name)
	if findErr != nil || found == nil || !n.madeBridge(found, nw) {
		return errors.Join(err, findErr) // gone, or not ours
	}
	return errors.Join(err, n.host.do(deleteLink(name)))
}

// mark gives one of the host's interfaces the alias of ours.
func (n *Networks) mark(name string, nw Network) message {
	req := linkMessage(0, name, 0, 0, 0)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(n.alias(nw.Name))))
	return message{req, "mark " + name + " as ours", nil}
}

// madeBridge tells a bridge of ours from one that was there. An engine that was killed while it
// made it may have left it without its alias; then a name that nobody else would give tells.
func (n *Networks) madeBridge(found *foundLink, nw Network) bool {
	if found.alias == "" {
		return nw.Options["com.docker.network.bridge.name"] == "" || nw.Predefined && n.cfg.Bridge.Name == ""
	}
	return strings.HasPrefix(found.alias, n.alias(""))
}

func (bridge) plug(n *Networks, nw *entry, ns *os.File, e endpoint) []message {
	name := "connect " + e.Link + " to network " + nw.rec.Name
	pair := linkMessage(0, e.Link, unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0, 0)
	pair.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, randomMAC())) // one that is given, udev leaves alone
	pair.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(nw.index.Load()))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(e.Interface))
	peer.AddRtAttr(unix.IFLA_ADDRESS, e.MAC)
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns.Fd())))
	if m := nw.set.mtu; m != 0 {
		peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(m)))
		pair.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(m))))
	}
	pair.AddData(info)
	set := linkMessage(0, e.Link, 0, unix.IFF_UP, unix.IFF_UP)
	set.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(n.alias(nw.rec.Name))))
	quiet(set)
	if nw.set.noICC {
		set.AddData(bridgePort(map[int]uint8{nl.IFLA_BRPORT_ISOLATED: 1}))
	}
	return []message{{pair, name, nil}, {set, name, nil}}
}

// foundLink is an interface of the host.
type foundLink struct {
	index             int
	name, alias, kind string
	parent            int
}

// findLink looks for one of the host's interfaces; nil: there is none of that name.
func (n *Networks) findLink(name string) (*foundLink, error) {
	answers, err := n.host.exchange([]message{askLink(0, name)})
	if errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseLink(answers[0])
}

// parseLink reads an RTM_NEWLINK message (rtnetlink(7)).
func parseLink(data []byte) (*foundLink, error) {
	if len(data) < unix.SizeofIfInfomsg {
		return nil, syscall.EINVAL
	}
	l := &foundLink{index: int(nl.DeserializeIfInfomsg(data).Index)}
	attrs, err := nl.ParseRouteAttr(data[unix.SizeofIfInfomsg:])
	if err != nil {
		return nil, err
	}
	for _, a := range attrs {
		switch a.Attr.Type & nl.NLA_TYPE_MASK {
		case unix.IFLA_IFNAME:
			l.name = nl.BytesToString(a.Value)
		case unix.IFLA_IFALIAS:
			l.alias = nl.BytesToString(a.Value)
		case unix.IFLA_LINK:
			l.parent = int(nl.NativeEndian().Uint32(a.Value))
		case unix.IFLA_LINKINFO:
			info, err := nl.ParseRouteAttr(a.Value)
			if err != nil {
				return nil, err
			}
			for _, i := range info {
				if i.Attr.Type == nl.IFLA_INFO_KIND {
					l.kind = nl.BytesToString(i.Value)
				}
			}
		}
	}
	return l, nil
}

// forward lets the host route for the families of a network that leads out.
func (n *Networks) forward(nw Network) error {
	if n.cfg.Bridge.NoForwarding {
		return nil
	}
	if nw.EnableIPv4 {
		if err := sysctl("ipv4/ip_forward", "1"); err != nil {
			return fmt.Errorf("let the host forward IPv4: %w", err)
		}
	}
	if !nw.EnableIPv6 || readSysctl("ipv6/conf/all/forwarding") == "1" {
		return nil
	}
	// A router does not listen to other routers' announcements unless told to (ip-sysctl,
	// accept_ra), and so the host would lose its own default route.
	ents, _ := os.ReadDir("/proc/sys/net/ipv6/conf")
	for _, e := range ents {
		if key := "ipv6/conf/" + e.Name() + "/accept_ra"; e.Name() != "all" && e.Name() != "lo" && readSysctl(key) == "1" {
			if err := sysctl(key, "2"); err != nil {
				return fmt.Errorf("keep the host's IPv6 routes: %w", err)
			}
		}
	}
	if err := sysctl("ipv6/conf/all/forwarding", "1"); err != nil {
		return fmt.Errorf("let the host forward IPv6: %w", err)
	}
	return nil
}
