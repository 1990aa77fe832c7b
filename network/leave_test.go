package network

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestWhoeverLeavesIsForgottenByTheBridgeAtOnce(t *testing.T) {
	n := newGround(t).n
	s, err := n.Join(t.Context(), SandboxRequest{ID: "c1", Name: "web", Endpoints: []EndpointRequest{{Network: "bridge", Names: []string{"web"}}}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Netns.Close() // somebody stays in the namespace
	link, err := netlink.LinkByName(n.boxes["c1"].rec.Endpoints[0].Link)
	if err != nil {
		t.Fatal(err)
	}
	mac := s.Endpoints[0].MAC
	if err := netlink.NeighAdd(&netlink.Neigh{LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, State: netlink.NUD_REACHABLE, HardwareAddr: mac}); err != nil {
		t.Fatal(err)
	}
	known := func() bool {
		entries, err := netlink.NeighList(link.Attrs().Index, unix.AF_BRIDGE)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.HardwareAddr.String() == mac.String() {
				return true
			}
		}
		return false
	}
	if !known() {
		t.Fatal("the bridge does not know the container, so nothing can be seen")
	}
	if err := n.Leave(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if known() {
		t.Error("frames for the container's address still go to its old port")
	}
}
