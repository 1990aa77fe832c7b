package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// Whatever is taken, given back and asked for: nobody has an address twice, all are from
// where they should be, and as long as one is free one is found.
func TestAddressesAreGivenOutOnceAndToTheLastOne(t *testing.T) {
	for _, c := range []struct {
		subnet, from string
		usable       int // in from
	}{
		{"10.0.0.0/24", "", 254}, {"10.0.0.0/24", "10.0.0.0/28", 15}, {"10.0.0.0/24", "10.0.0.240/28", 15},
		{"10.0.0.0/30", "", 2}, {"10.0.0.0/31", "", 2}, {"10.0.0.7/32", "", 1},
		{"fd00::/120", "", 255}, {"fd00::/64", "fd00::10/124", 16}, {"fd00::/127", "", 2}, {"fd00::7/128", "", 1},
		{"255.255.255.0/24", "", 254}, // the last address of all has no next one
	} {
		subnet, from := netip.MustParsePrefix(c.subnet), netip.Prefix{}
		if c.from != "" {
			from = netip.MustParsePrefix(c.from)
		}
		s := NewSpace(subnet, from)
		if !from.IsValid() {
			from = subnet
		}
		r := rand.New(rand.NewPCG(1, 2))
		used := map[netip.Addr]bool{}
		inFrom := 0
		take := func(a netip.Addr) {
			used[a] = true
			if from.Contains(a) {
				inFrom++
			}
		}
		for range 5000 {
			switch r.IntN(5) {
			case 0: // one in particular, perhaps outside
				a := subnet.Addr()
				for range r.IntN(300) {
					a = a.Next()
				}
				err := s.Take(a)
				switch {
				case err == nil && (used[a] || !subnet.Contains(a)):
					t.Fatalf("%s: took %s", subnet, a)
				case err == nil:
					take(a)
				case used[a] != errors.Is(err, ErrTaken):
					t.Fatalf("%s: %s: %v", subnet, a, err)
				}
			case 1: // back
				for a := range used {
					s.Give(a)
					delete(used, a)
					if from.Contains(a) {
						inFrom--
					}
					break
				}
			default:
				a, err := s.Next()
				if err == nil {
					if used[a] || !from.Contains(a) {
						t.Fatalf("%s: gave %s", subnet, a)
					}
					take(a)
				} else if !errors.Is(err, ErrFull) || inFrom != c.usable {
					t.Fatalf("%s: with %d of %d taken: %v", subnet, inFrom, c.usable, err)
				}
			}
		}
	}
}

func TestAnAddressThatWasGivenBackIsNotTheNextOne(t *testing.T) {
	s := NewSpace(netip.MustParsePrefix("10.0.0.0/29"), netip.Prefix{})
	var got []string
	for range 8 {
		a, err := s.Next()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a.String())
		s.Give(a)
	}
	if fmt.Sprint(got) != "[10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6 10.0.0.1 10.0.0.2]" {
		t.Error(got)
	}
}

func TestChosenSubnetsOverlapWithNothing(t *testing.T) {
	ranges := []Range{{netip.MustParsePrefix("172.17.0.0/16"), 16}, {netip.MustParsePrefix("172.20.0.0/14"), 16}, {netip.MustParsePrefix("192.168.0.0/16"), 20}}
	taken := []netip.Prefix{netip.MustParsePrefix("192.168.17.3/32"), netip.MustParsePrefix("172.20.0.0/15"), netip.MustParsePrefix("10.0.0.0/8")}
	var got []string
	for {
		p, err := Choose(ranges, taken)
		if errors.Is(err, ErrNoMore) {
			break
		}
		for _, o := range taken {
			if p.Overlaps(o) {
				t.Fatalf("%s overlaps %s", p, o)
			}
		}
		got = append(got, p.String())
		taken = append(taken, p)
	}
	if len(got) != 1+2+15 || got[0] != "172.17.0.0/16" || got[1] != "172.22.0.0/16" || got[3] != "192.168.0.0/20" || got[4] != "192.168.32.0/20" {
		t.Error(got)
	}
	// The end of the address space is the end of the search.
	if _, err := Choose([]Range{{netip.MustParsePrefix("255.255.0.0/16"), 16}}, []netip.Prefix{netip.MustParsePrefix("255.255.255.255/32")}); !errors.Is(err, ErrNoMore) {
		t.Error(err)
	}
	if p, err := Choose([]Range{{netip.MustParsePrefix("fd00::/48"), 64}}, []netip.Prefix{netip.MustParsePrefix("fd00::/64")}); err != nil || p.String() != "fd00:0:0:1::/64" {
		t.Error(p, err)
	}
}

func TestFirstAndLast(t *testing.T) {
	for _, c := range [][3]string{
		{"10.0.0.0/24", "10.0.0.1", "10.0.0.255"}, {"10.0.0.0/31", "10.0.0.0", "10.0.0.1"}, {"10.0.0.9/32", "10.0.0.9", "10.0.0.9"},
		{"fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff"}, {"0.0.0.0/0", "0.0.0.1", "255.255.255.255"}, {"10.0.0.0/20", "10.0.0.1", "10.0.15.255"},
	} {
		p := netip.MustParsePrefix(c[0])
		if First(p).String() != c[1] || Last(p).String() != c[2] {
			t.Errorf("%s: %s %s", p, First(p), Last(p))
		}
	}
}
