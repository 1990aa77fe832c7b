package network

import (
	"testing"
)

func TestAContainerOnTheDefaultNetworkHasAnAddressAndAWayOut(t *testing.T) {
	g := newGround(t)
	n := g.open()
	defer n.Close()
	s, err := n.Join(t.Context(), SandboxRequest{ID: "c1", Name: "web", Endpoints: []EndpointRequest{{Network: "bridge", Names: []string{"web"}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", s)
	if err := n.Publish(t.Context(), "c1", nil); err != nil {
		t.Fatal(err)
	}
	if err := n.Leave(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
}
