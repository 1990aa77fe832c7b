package dns

import (
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func BenchmarkAKnownName(b *testing.B) {
	r := &Resolver{}
	path := b.TempDir() + "/zone"
	if err := sample.WriteFile(path); err != nil {
		b.Fatal(err)
	}
	r.Set(Config{Zones: []string{path}, Own: []Own{{"Link", "web"}}})
	q := question("www.", dnsmessage.TypeA)
	raw, _ := q.Pack()
	var s scratch
	b.ReportAllocs()
	for b.Loop() {
		if answer, _ := r.answer(&s, raw, false); answer == nil {
			b.Fatal("no answer")
		}
	}
}
