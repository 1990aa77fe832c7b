package firewall

import (
	"net/netip"

	"berth/fail"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// elementKey is an element of a set, as the kernel compares them: fields padded to 32 bits.
type elementKey struct {
	set setID
	key string
}

// value is what an element of a map leads to: bytes, or a chain, or a verdict.
type value struct {
	data  string
	chain string
	drop  bool
}

// entry is an element that should be in the kernel, and who wants it.
type entry struct {
	value value
	owner string
}

func (k elementKey) element(v value) nftables.SetElement {
	e := nftables.SetElement{Key: []byte(k.key)}
	switch {
	case v.chain != "":
		e.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: v.chain}
	case v.drop:
		e.VerdictData = &expr.Verdict{Kind: expr.VerdictDrop}
	case v.data != "":
		e.Val = []byte(v.data)
	}
	return e
}

// field pads what is one field of a key.
func field(b ...byte) string {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return string(b)
}

func nameField(s string) string { return string(name16(s)) }

func addrField(a netip.Addr) string { return field(a.AsSlice()...) }

func portField(p uint16) string { return field(byte(p>>8), byte(p)) }

var protocols = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}

func checkName(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ {
		return fail.New(fail.Invalid, "%q is no name of a network interface (1 to %d bytes)", name, unix.IFNAMSIZ-1)
	}
	return nil
}

// elements tells what makes b known to the table.
func (b Bridge) elements() (map[elementKey]value, error) {
	if err := checkName(b.Name); err != nil {
		return nil, err
	}
	name := nameField(b.Name)
	all := map[elementKey]value{{bridges, name}: {}}
	if b.Internal {
		all[elementKey{internal, name}] = value{}
	}
	if !b.Isolated {
		all[elementKey{pairs, name + name}] = value{}
	}
	for _, from := range b.Trusted {
		if err := checkName(from); err != nil {
			return nil, err
		}
		all[elementKey{pairs, nameField(from) + name}] = value{}
	}
	for _, f := range []struct {
		family  byte
		gateway Gateway
		source  setID
	}{{unix.NFPROTO_IPV4, b.IPv4, source4}, {unix.NFPROTO_IPV6, b.IPv6, source6}} {
		key := field(f.family) + name
		switch {
		case b.Internal:
			all[elementKey{into, key}] = value{drop: true}
			continue
		case f.gateway.Mode == Unprotected:
			all[elementKey{into, key}] = value{chain: "admit"}
		case f.gateway.Mode == Routed:
			all[elementKey{into, key}] = value{chain: "routed"}
		default:
			all[elementKey{into, key}] = value{chain: "published"}
		}
		if !f.gateway.Masquerade {
			continue
		}
		if !f.gateway.Source.IsValid() {
			all[elementKey{leave, key}] = value{chain: "masquerade"}
			continue
		}
		if f.gateway.Source.Is4() != (f.source == source4) {
			return nil, fail.New(fail.Invalid, "bridge %s: %s is of the other address family", b.Name, f.gateway.Source)
		}
		all[elementKey{leave, key}] = value{chain: "source"}
		all[elementKey{f.source, name}] = value{data: addrField(f.gateway.Source)}
	}
	return all, nil
}

// elements tells what opens a container's ports. isolated tells of a bridge whether it is.
func (p Publication) elements(isolated func(bridge string) bool) (map[elementKey]value, error) {
	all := map[elementKey]value{}
	for _, port := range p.Ports {
		proto, ok := protocols[port.Proto]
		if !ok {
			return nil, fail.New(fail.Invalid, "protocol %q of a published port is none of tcp, udp, sctp", port.Proto)
		}
		host, target := port.Host.Addr().Unmap(), port.Target.Addr().Unmap()
		if !target.IsValid() || port.Target.Port() == 0 || port.Host.IsValid() && (port.Host.Port() == 0 || host.Is4() != target.Is4()) {
			return nil, fail.New(fail.Invalid, "a published port cannot lead from %s to %s", port.Host, port.Target)
		}
		v4 := target.Is4()
		service, to := field(proto)+portField(port.Host.Port()), addrField(target)+portField(port.Target.Port())
		switch {
		case !port.Host.IsValid():
			all[elementKey{either(v4, open4, open6), addrField(target) + field(proto) + portField(port.Target.Port())}] = value{}
			continue
		case host.IsLoopback():
			if v4 { // ::1 from elsewhere is dropped by the kernel, whatever is configured (RFC 4291, 2.5.3)
				all[elementKey{loopback, addrField(host) + service}] = value{}
			}
			continue
		case host.IsUnspecified():
			all[elementKey{either(v4, any4, any6), service}] = value{data: to}
		default:
			all[elementKey{either(v4, one4, one6), addrField(host) + service}] = value{data: to}
		}
		// A frame that br_netfilter translates on the bridge never leaves by the port that it
		// came from, nor from an isolated port by another one. The host has a socket for these.
		all[elementKey{either(v4, self4, self6), addrField(target) + service}] = value{}
		for _, b := range p.Bridges {
			if err := checkName(b); err != nil {
				return nil, err
			}
			if isolated(b) {
				all[elementKey{near, nameField(b) + service}] = value{}
				continue
			}
			all[elementKey{either(v4, hairpin4, hairpin6), nameField(b) + addrField(target)}] = value{}
		}
	}
	return all, nil
}

func either(first bool, a, b setID) setID {
	if first {
		return a
	}
	return b
}

// state is what should be in the kernel.
type state struct {
	elements map[elementKey]entry
	owned    map[string][]elementKey // by owner; an owner may have lost some to another one
}

// change is what has to be told to the kernel.
type change struct {
	gone, new [setCount][]nftables.SetElement
}

func (c *change) empty() bool {
	for i := range c.gone {
		if len(c.gone[i])+len(c.new[i]) > 0 {
			return false
		}
	}
	return true
}

// set gives owner exactly the elements want, and returns how the kernel gets there.
func (s *state) set(owner string, want map[elementKey]value) change {
	var c change
	for _, k := range s.owned[owner] {
		if _, stays := want[k]; !stays && s.elements[k].owner == owner {
			delete(s.elements, k)
			c.gone[k.set] = append(c.gone[k.set], k.element(value{}))
		}
	}
	delete(s.owned, owner)
	for k, v := range want {
		old, known := s.elements[k]
		s.elements[k] = entry{v, owner}
		s.owned[owner] = append(s.owned[owner], k)
		if known && old.value == v {
			continue
		}
		if known {
			c.gone[k.set] = append(c.gone[k.set], k.element(value{}))
		}
		c.new[k.set] = append(c.new[k.set], k.element(v))
	}
	return c
}

// wants gives back what set was given.
func (s *state) wants(owner string) map[elementKey]value {
	all := map[elementKey]value{}
	for _, k := range s.owned[owner] {
		if e := s.elements[k]; e.owner == owner {
			all[k] = e.value
		}
	}
	return all
}

// isolated tells whether a bridge was announced as such.
func (s *state) isolated(bridge string) bool {
	_, known := s.elements[elementKey{bridges, nameField(bridge)}]
	_, within := s.elements[elementKey{pairs, nameField(bridge) + nameField(bridge)}]
	return known && !within
}

func bridgeOwner(name string) string { return "bridge " + name }

func containerOwner(id string) string { return "container " + id }
