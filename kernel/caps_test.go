package kernel

import "testing"

func TestCapabilityNamesAndNumbersBelongTogether(t *testing.T) {
	for _, c := range []struct {
		text string
		want Capability
		ok   bool
	}{
		{"CAP_CHOWN", 0, true}, {"net_admin", 12, true}, {"cap_sys_admin", 21, true}, {"CAP_CHECKPOINT_RESTORE", 40, true},
		{"CAP_FLY", -1, false}, {"", -1, false},
	} {
		got, ok := ParseCapability(c.text)
		if got != c.want || ok != c.ok {
			t.Errorf("%q: got %d, %v", c.text, got, ok)
		}
	}
	for n := range capabilityNames {
		if c, ok := ParseCapability(Capability(n).String()); !ok || int(c) != n {
			t.Errorf("%d does not come back", n)
		}
	}
	if Capability(63).String() != "CAP_63" {
		t.Error("a capability of a kernel to come has no name")
	}
}

func TestTheHostHasTheOldCapabilitiesAndNoneTwice(t *testing.T) {
	known, held := KnownCapabilities(), BoundingCapabilities()
	if !known.Has(0) || !known.Has(37) || held&^known != 0 {
		t.Fatalf("known %x, held %x", known, held)
	}
	if names := (CapabilitySet(1<<21 | 1)).Names(); len(names) != 2 || names[1] != "CAP_SYS_ADMIN" {
		t.Fatalf("got %v", names)
	}
}

func TestTheProbeSeesThisKernel(t *testing.T) {
	f := Probe()
	if f.Release == "" || len(f.Namespaces) < 6 || len(f.FileSystems) == 0 {
		t.Fatalf("got %+v", f)
	}
}
