package firewall

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
)

// kernel stands for the kernel's sets: it does what a change says.
type kernel map[elementKey]string

func (k kernel) apply(t *testing.T, c change) {
	t.Helper()
	for id := range setCount {
		for _, e := range c.gone[id] {
			key := elementKey{id, string(e.Key)}
			if _, known := k[key]; !known {
				t.Errorf("%s: an element is deleted that is not there: the transaction would fail", shapes[id].name)
			}
			delete(k, key)
		}
		for _, e := range c.new[id] {
			key := elementKey{id, string(e.Key)}
			if _, known := k[key]; known {
				t.Errorf("%s: an element is added twice: the transaction would fail if it leads elsewhere", shapes[id].name)
			}
			k[key] = string(e.Val)
		}
	}
}

func TestChangesLeadFromOneStateToTheNext(t *testing.T) {
	s := state{elements: map[elementKey]entry{}, owned: map[string][]elementKey{}}
	k := kernel{}
	set := func(owner string, want map[elementKey]value) {
		t.Helper()
		k.apply(t, s.set(owner, want))
	}
	ports := func(target string, hosts ...string) map[elementKey]value {
		t.Helper()
		p := Publication{Container: "c", Bridges: []string{"br-a"}}
		for _, h := range hosts {
			p.Ports = append(p.Ports, Port{"tcp", netip.MustParseAddrPort(h), netip.MustParseAddrPort(target)})
		}
		all, err := p.elements(s.isolated)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	set("one", ports("10.0.0.2:80", "0.0.0.0:8000", "0.0.0.0:8001"))
	full := maps.Clone(k)
	set("one", ports("10.0.0.2:80", "0.0.0.0:8000", "0.0.0.0:8001"))
	if !maps.Equal(k, full) {
		t.Error("the same again is a change")
	}
	set("one", ports("10.0.0.2:81", "0.0.0.0:8000")) // another target, one port less
	set("two", ports("10.0.0.3:80", "0.0.0.0:8000")) // takes over
	taken := elementKey{any4, field(6) + portField(8000)}
	if got := k[taken]; got != addrField(netip.MustParseAddr("10.0.0.3"))+portField(80) {
		t.Errorf("port 8000 leads to %x", got)
	}
	set("one", nil)
	if _, stays := k[taken]; !stays {
		t.Error("the port of its new owner went with the old one")
	}
	set("two", nil)
	if len(k) > 0 || len(s.elements) > 0 || len(s.owned) > 0 {
		t.Errorf("left: %v, %v, %v", slices.Collect(maps.Keys(k)), s.elements, s.owned)
	}
}

func TestOnAnIsolatedBridgePortsAreLeftToTheShim(t *testing.T) {
	s := state{elements: map[elementKey]entry{}, owned: map[string][]elementKey{}}
	for _, b := range []Bridge{{Name: "br-a", Isolated: true}, {Name: "br-b"}} {
		want, err := b.elements()
		if err != nil {
			t.Fatal(err)
		}
		s.set(bridgeOwner(b.Name), want)
	}
	p := Publication{Container: "c", Bridges: []string{"br-a", "br-b"},
		Ports: []Port{{"tcp", netip.MustParseAddrPort("0.0.0.0:8000"), netip.MustParseAddrPort("10.0.0.2:80")}}}
	all, err := p.elements(s.isolated)
	if err != nil {
		t.Fatal(err)
	}
	target := addrField(netip.MustParseAddr("10.0.0.2"))
	for key, want := range map[elementKey]bool{
		{near, nameField("br-a") + field(6) + portField(8000)}: true,
		{near, nameField("br-b") + field(6) + portField(8000)}: false,
		{hairpin4, nameField("br-a") + target}:                 false,
		{hairpin4, nameField("br-b") + target}:                 true,
	} {
		if _, got := all[key]; got != want {
			t.Errorf("%s: %v, want %v", shapes[key.set].name, got, want)
		}
	}
}
