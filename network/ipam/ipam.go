// Package ipam gives out addresses and subnets. It is arithmetic over what it is told: what
// is in use is known by the network package, which derives it from its records and sandbox
// files, so nothing here can be lost or forgotten.
package ipam

import (
	"errors"
	"net/netip"
)

// Reasons for a refusal, to be wrapped by whoever knows whose address it is.
var (
	ErrTaken   = errors.New("address already in use")
	ErrOutside = errors.New("no address of the subnet that a container can have")
	ErrFull    = errors.New("no available addresses left")
	ErrNoMore  = errors.New("all predefined address pools have been fully subnetted")
)

// Space is one subnet's addresses. It is not safe for concurrent use.
type Space struct {
	subnet, from netip.Prefix
	used         map[netip.Addr]struct{}
	next         netip.Addr
}

// NewSpace returns the space of subnet; Next gives out addresses of from alone, a part of
// it, or of all of it if from is zero. A subnet's own address and an IPv4 one's broadcast
// address are never given out.
func NewSpace(subnet, from netip.Prefix) *Space {
	if !from.IsValid() {
		from = subnet
	}
	return &Space{subnet: subnet, from: from, used: map[netip.Addr]struct{}{}, next: from.Addr()}
}

// Subnet is the space's.
func (s *Space) Subnet() netip.Prefix { return s.subnet }

// Take marks an address as used: ErrOutside if it is none of the subnet's usable ones,
// ErrTaken if it is in use.
func (s *Space) Take(a netip.Addr) error {
	if !s.subnet.Contains(a) || s.special(a) {
		return ErrOutside
	}
	if _, ok := s.used[a]; ok {
		return ErrTaken
	}
	s.used[a] = struct{}{}
	return nil
}

// Next takes the address after the one it gave last, so that one that was just given back
// is not seen again soon; ErrFull if there is none.
func (s *Space) Next() (netip.Addr, error) {
	for a, wrapped := s.next, false; ; a = a.Next() {
		if !a.IsValid() || !s.from.Contains(a) {
			if wrapped {
				return netip.Addr{}, ErrFull
			}
			a, wrapped = s.from.Addr(), true
		}
		if wrapped && a == s.next && a != s.from.Addr() {
			return netip.Addr{}, ErrFull
		}
		if s.Take(a) == nil {
			s.next = a.Next()
			return a, nil
		}
	}
}

// Give gives an address back; one that is not in use is no error.
func (s *Space) Give(a netip.Addr) { delete(s.used, a) }

// special tells the addresses that mean the subnet itself or everybody in it.
func (s *Space) special(a netip.Addr) bool {
	bits := a.BitLen()
	if s.subnet.Bits() >= bits-1 {
		return false // RFC 3021, RFC 6164: both are hosts; and a single one
	}
	return a == s.subnet.Addr() || a.Is4() && a == Last(s.subnet)
}

// First is the first address of a subnet that a host can have.
func First(p netip.Prefix) netip.Addr {
	if p.Bits() >= p.Addr().BitLen()-1 {
		return p.Masked().Addr()
	}
	return p.Masked().Addr().Next()
}

// Last is the last address of p.
func Last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Range is where subnets come from: those of Size (a prefix length) within Base.
type Range struct {
	Base netip.Prefix
	Size int
}

// Choose returns the first subnet of the ranges, in their order, that overlaps with none of
// those taken; ErrNoMore if there is none.
func Choose(ranges []Range, taken []netip.Prefix) (netip.Prefix, error) {
	for _, r := range ranges {
		if p, ok := r.choose(taken); ok {
			return p, nil
		}
	}
	return netip.Prefix{}, ErrNoMore
}

func (r Range) choose(taken []netip.Prefix) (netip.Prefix, bool) {
	base := r.Base.Masked()
	if r.Size < base.Bits() || r.Size > base.Addr().BitLen() {
		return netip.Prefix{}, false
	}
	for a := base.Addr(); a.IsValid() && base.Contains(a); {
		p := netip.PrefixFrom(a, r.Size)
		other, clash := overlapping(p, taken)
		if !clash {
			return p, true
		}
		// What is in the way may be much larger than one of our subnets, or many times
		// smaller: go on after the larger one.
		if other.Bits() > p.Bits() {
			other = p
		}
		a = Last(other).Next()
	}
	return netip.Prefix{}, false
}

func overlapping(p netip.Prefix, taken []netip.Prefix) (netip.Prefix, bool) {
	for _, t := range taken {
		if p.Overlaps(t) {
			return t.Masked(), true
		}
	}
	return netip.Prefix{}, false
}
