package firewall

import (
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kernel decides once for a flow where it goes. A UDP client that never pauses would go on
// talking to nobody, or to a container that has gone, when a port is published anew. So
// the kernel is made to forget such flows. TCP needs none of it: a new connection is a new flow.

// touched notes the UDP ports of a change, and has their flows looked at.
func (t *Table) touched(c change) {
	for _, list := range [][setCount][]nftables.SetElement{c.gone, c.new} {
		for _, m := range []struct {
			set setID
			at  int // where the protocol is in the key; the port follows
		}{{any4, 0}, {any6, 0}, {one4, 4}, {one6, 16}} {
			for _, e := range list[m.set] {
				if e.Key[m.at] == unix.IPPROTO_UDP {
					t.udp[uint16(e.Key[m.at+4])<<8|uint16(e.Key[m.at+5])] = true
				}
			}
		}
	}
	if len(t.udp) > 0 {
		notify(t.watch.flows)
	}
}

// forget deletes flows that lead elsewhere than the table would now lead them.
func (t *Table) forget(w *watch) {
	for w.wait(w.flows) {
		t.mu.Lock()
		ports := t.udp
		t.udp = map[uint16]bool{}
		t.mu.Unlock()
		own := map[netip.Addr]bool{}
		addrs, err := net.InterfaceAddrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				own[p.Addr().Unmap()] = true
			}
		}
		stale := staleFlows{t, ports, own}
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			if err == nil {
				_, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, stale)
			}
		}
		if err != nil {
			t.log.Warn("UDP clients of a port that changed may have to pause for a while until they reach its container", "error", err)
		}
	}
}

type staleFlows struct {
	table *Table
	ports map[uint16]bool
	own   map[netip.Addr]bool // the host's addresses
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s staleFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP || !s.ports[f.Forward.DstPort] {
		return false
	}
	to, ok1 := netip.AddrFromSlice(f.Forward.DstIP)
	from, ok2 := netip.AddrFromSlice(f.Reverse.SrcIP)
	to, from = to.Unmap(), from.Unmap()
	if !ok1 || !ok2 || !s.own[to] {
		return false
	}
	service := field(unix.IPPROTO_UDP) + portField(f.Forward.DstPort)
	s.table.mu.Lock()
	e, known := s.table.state.elements[elementKey{either(to.Is4(), one4, one6), addrField(to) + service}]
	if !known {
		e, known = s.table.state.elements[elementKey{either(to.Is4(), any4, any6), service}]
	}
	s.table.mu.Unlock()
	if !known {
		return from != to // it was translated
	}
	return e.value.data != addrField(from)+portField(f.Reverse.SrcPort)
}
