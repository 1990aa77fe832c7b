package network

import (
	"cmp"
	"errors"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"berth/fail"
)

// xvlan networks, macvlan or ipvlan, hang their endpoints on one of the host's interfaces;
// without one they are internal, and it is one of their own that leads nowhere.
type xvlan struct{ kind string }

// xvlanModes are the kernel's numbers (linux/if_link.h).
var xvlanModes = map[string]uint32{
	"private": nl.MACVLAN_MODE_PRIVATE, "vepa": nl.MACVLAN_MODE_VEPA, "bridge": nl.MACVLAN_MODE_BRIDGE, "passthru": nl.MACVLAN_MODE_PASSTHRU,
	"l2": uint32(netlink.IPVLAN_MODE_L2), "l3": uint32(netlink.IPVLAN_MODE_L3), "l3s": uint32(netlink.IPVLAN_MODE_L3S),
}

var ipvlanFlags = map[string]uint16{"bridge": 0, "private": uint16(netlink.IPVLAN_FLAG_PRIVATE), "vepa": uint16(netlink.IPVLAN_FLAG_VEPA)}

func (x xvlan) check(n *Networks, nw Network, set settings) error {
	if err := x.supported(n); err != nil {
		return err
	}
	if set.parent == "lo" {
		return fail.New(fail.Invalid, "-o parent=lo: the loopback interface leads to no network; without a parent the network is internal")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, other := range n.nets {
		o := other.rec
		if set.parent == "" || o.ConfigOnly || o.ID == nw.ID || other.set.parent != set.parent {
			continue
		}
		// ipvlan networks may share a parent; macvlan ones must have the same mode, and only one
		// of them can be passthru.
		if x.kind != o.Driver || x.kind == "macvlan" {
			return fail.New(fail.Forbidden, "network %s is already using parent interface %s", o.Name, set.parent)
		}
		// The kernel keeps mode and flag of ipvlan with the parent: the last network would change the others'.
		if a, b := x.way(other.set), x.way(set); a != b {
			return fail.New(fail.Forbidden, "network %s is on parent interface %s already, with %s: all ipvlan networks of a parent have the same", o.Name, set.parent, a)
		}
	}
	return nil
}

// way says what the kernel is told of how interfaces on one parent are connected.
type way struct{ mode, flag string }

func (w way) String() string {
	return "mode " + w.mode + " and flag " + w.flag
}

func (x xvlan) way(set settings) way {
	w := way{cmp.Or(set.mode, "bridge"), ""}
	if x.kind == "ipvlan" {
		w = way{cmp.Or(set.mode, "l2"), cmp.Or(set.flag, "bridge")}
	}
	return w
}

// supported asks the kernel for an interface of the kind on nothing: one that knows the kind
// misses the parent, another one does not know what is meant.
func (x xvlan) supported(n *Networks) error {
	req := linkMessage(0, "veth"+randomHex(11), unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0, 0)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(x.kind))
	req.AddData(info)
	if err := n.host.do(message{req, "ask for " + x.kind, nil}); errors.Is(err, unix.EOPNOTSUPP) {
		return fail.New(fail.NotImplemented, "the kernel of this host has no %s driver: load the module %s, or use a kernel that has it", x.kind, x.kind)
	}
	return nil
}

// ownParent is the name of the parent that a network without one gets.
func ownParent(nw Network) string { return "dm-" + nw.ID[:12] }

func (x xvlan) up(n *Networks, nw Network, set settings) (int, error) {
	name := set.parent
	if name == "" {
		name = ownParent(nw)
	}
	found, err := n.findLink(name)
	if err != nil {
		return 0, err
	}
	if found == nil {
		if err := x.makeParent(n, nw, set, name); err != nil {
			return 0, err
		}
		if found, err = n.findLink(name); err != nil || found == nil {
			return 0, errors.Join(err, fail.New(fail.Internal, "interface %s went away while it was made", name))
		}
	}
	if strings.HasPrefix(found.alias, n.alias("")) || set.parent == "" {
		return found.index, n.host.do(setUp(found.index, name))
	}
	return found.index, nil
}

// makeParent makes what leads nowhere, or the VLAN that "eth0.50" asks for.
func (x xvlan) makeParent(n *Networks, nw Network, set settings, name string) error {
	var link netlink.Link
	switch base, vlan, ok := cutLast(name, "."); {
	case set.parent == "":
		link = &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: name}}
	case !ok:
		return fail.New(fail.Invalid, "-o parent=%s: the host has no such interface", name)
	default:
		id, err := strconv.Atoi(vlan)
		if err != nil || id < 1 || id > 4094 {
			return fail.New(fail.Invalid, "-o parent=%s: the host has no such interface, and %q is no VLAN number (1 to 4094)", name, vlan)
		}
		parent, err := n.findLink(base)
		if err != nil {
			return err
		}
		if parent == nil {
			return fail.New(fail.Invalid, "-o parent=%s: the host has no interface %s that the VLAN could be on", name, base)
		}
		link = &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: parent.index}, VlanId: id}
	}
	err := netlink.LinkAdd(link)
	if errors.Is(err, unix.EOPNOTSUPP) && set.parent == "" {
		err = n.loneCable(name)
	}
	if err != nil {
		return fail.New(fail.Internal, "make the parent interface %s: %w", name, err)
	}
	req := linkMessage(0, name, 0, unix.IFF_UP, unix.IFF_UP)
	quiet(req) // the host itself is not on it
	return n.host.do(n.mark(name, nw), message{req, "bring " + name + " up", nil})
}

// loneCable makes a veth pair of which nobody has the other end, for kernels without dummy
// interfaces.
func (n *Networks) loneCable(name string) error {
	other := "dn-" + strings.TrimPrefix(name, "dm-")
	pair := linkMessage(0, name, unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0, 0)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(other))
	pair.AddData(info)
	end := linkMessage(0, other, 0, unix.IFF_UP, unix.IFF_UP)
	quiet(end)
	return n.host.do(message{pair, "make " + name, nil}, message{end, "bring " + other + " up", nil})
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func (x xvlan) down(n *Networks, nw Network, set settings) error {
	name := set.parent
	if name == "" {
		name = ownParent(nw)
	}
	found, err := n.findLink(name)
	ours := found != nil && (strings.HasPrefix(found.alias, n.alias("")) || found.alias == "" && set.parent == "") // as madeBridge
	if err != nil || !ours {
		return err // gone, or not ours
	}
	return n.host.do(deleteLink(name))
}

func (x xvlan) plug(n *Networks, nw *entry, ns *os.File, e endpoint) []message {
	req := linkMessage(0, e.Interface, unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0, 0)
	req.AddData(nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(uint32(nw.index.Load()))))
	req.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns.Fd()))))
	if m := nw.set.mtu; m != 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(m))))
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(x.kind))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	how := x.way(nw.set)
	if x.kind == "macvlan" {
		data.AddRtAttr(nl.IFLA_MACVLAN_MODE, nl.Uint32Attr(xvlanModes[how.mode]))
		req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, e.MAC))
	} else {
		data.AddRtAttr(nl.IFLA_IPVLAN_MODE, nl.Uint16Attr(uint16(xvlanModes[how.mode])))
		data.AddRtAttr(nl.IFLA_IPVLAN_FLAG, nl.Uint16Attr(ipvlanFlags[how.flag]))
	}
	req.AddData(info)
	return []message{{req, "make the " + x.kind + " interface " + e.Interface, nil}}
}

// hostLinks are the interfaces that a network may have on the host.
func hostLinks(nw Network, set settings) []string {
	switch {
	case nw.ConfigOnly:
		return nil
	case nw.Driver == "bridge":
		return []string{bridgeName(nw)}
	case set.parent != "":
		return []string{set.parent}
	}
	return []string{ownParent(nw)}
}
