package firewall

import (
	"fmt"
	"net/netip"
	"testing"
)

// One container's port comes and goes, beside none and beside a thousand others.
func BenchmarkPublish(b *testing.B) {
	for _, there := range []int{0, 1000, 10000} {
		b.Run(fmt.Sprintf("beside %d", there), func(b *testing.B) {
			h := newHost(b)
			cfg := Config{Table: "berth_bench", Bridges: []Bridge{{Name: "br0", IPv4: Gateway{Masquerade: true}}}}
			for n := range there / 5 {
				cfg.Published = append(cfg.Published, publication(n, 5))
			}
			var table *Table
			h.must(func() (err error) { table, err = Open(cfg); return err })
			defer table.Close(true)
			one := publication(13000, 1)
			for b.Loop() {
				if err := table.Publish(one); err != nil {
					b.Fatal(err)
				}
				if err := table.Unpublish(one.Container); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// publication is a container with so many ports; n is told in its name, address and ports.
func publication(n, ports int) Publication {
	p := Publication{Container: fmt.Sprintf("c%d", n), Bridges: []string{"br0"}}
	target := netip.AddrFrom4([4]byte{10, 9, byte(n >> 8), byte(n)})
	for i := range ports {
		p.Ports = append(p.Ports, Port{Proto: "tcp", Host: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(1+n*5+i)), Target: netip.AddrPortFrom(target, uint16(80+i))})
	}
	return p
}
