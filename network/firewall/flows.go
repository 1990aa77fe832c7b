package firewall

import (
	"errors"
	"net"
	"net/netip"
	"time"

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

// flowsPause lets answers arrive that were under way when their flow was deleted. Such a one makes
// a flow of its own, the other way round, and the client's datagrams are taken for answers to it.
const flowsPause = 200 * time.Millisecond

// forget deletes flows that lead elsewhere than the table would now lead them, until there are none.
func (t *Table) forget(w *watch) {
	for w.wait(w.flows) {
		t.mu.Lock()
		ports := t.udp
		t.udp = map[uint16]bool{}
		t.mu.Unlock()
		for {
			deleted, err := t.forgetOnce(ports)
			if err != nil {
				t.log.Warn("UDP clients of a port that changed may have to pause for a while until they reach its container", "error", err)
			}
			if deleted == 0 || err != nil {
				break
			}
			if !w.sleep(flowsPause) {
				return
			}
		}
	}
}

func (t *Table) forgetOnce(ports map[uint16]bool) (deleted uint, err error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return 0, err
	}
	own := map[netip.Addr]bool{}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own[p.Addr().Unmap()] = true
		}
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		n, e := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, staleFlows{t, ports, own})
		deleted += n
		if !errors.Is(e, netlink.ErrDumpInterrupted) { // flows come and go while they are listed
			err = errors.Join(err, e)
		}
	}
	return deleted, err
}

type staleFlows struct {
	table *Table
	ports map[uint16]bool
	own   map[netip.Addr]bool // the host's addresses
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s staleFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	if host := asAddr(f.Forward.DstIP); s.ports[f.Forward.DstPort] && s.own[host] {
		from := asAddr(f.Reverse.SrcIP)
		target, known := s.target(host, f.Forward.DstPort)
		if !known {
			return from != host // it was translated
		}
		return target != addrField(from)+portField(f.Reverse.SrcPort)
	}
	if host := asAddr(f.Forward.SrcIP); s.ports[f.Forward.SrcPort] && s.own[host] {
		_, known := s.target(host, f.Forward.SrcPort)
		return known
	}
	return false
}

func asAddr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// target tells where a port of the host leads to, as the maps have it.
func (s staleFlows) target(host netip.Addr, port uint16) (string, bool) {
	service := field(unix.IPPROTO_UDP) + portField(port)
	s.table.mu.Lock()
	defer s.table.mu.Unlock()
	e, known := s.table.state.elements[elementKey{either(host.Is4(), one4, one6), addrField(host) + service}]
	if !known {
		e, known = s.table.state.elements[elementKey{either(host.Is4(), any4, any6), service}]
	}
	return e.value.data, known
}
