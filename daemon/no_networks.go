package daemon

import (
	"context"

	"berth/fail"
	"berth/network"
)

// noNetworks stands in until the networks are wired: there are host and none.
type noNetworks struct{}

var predefined = []network.Network{
	{ID: "host000000000000000000000000000000000000000000000000000000000000", Name: "host", Driver: "host", EnableIPv4: true, Predefined: true},
	{ID: "none000000000000000000000000000000000000000000000000000000000000", Name: "none", Driver: "null", EnableIPv4: true, Predefined: true},
}

func (noNetworks) Create(context.Context, network.CreateRequest) (network.Network, []string, error) {
	return network.Network{}, nil, fail.New(fail.NotImplemented, "creating networks is not supported by this version of Berth")
}

func (noNetworks) Remove(_ context.Context, ref string) error {
	return fail.New(fail.Forbidden, "%s is a pre-defined network and cannot be removed", ref)
}

func (noNetworks) Get(ref string) (network.Network, error) {
	for _, n := range predefined {
		if n.ID == ref || n.Name == ref {
			return n, nil
		}
	}
	return network.Network{}, fail.New(fail.NotFound, "network %s not found", ref)
}

func (noNetworks) List() []network.Network           { return predefined }
func (noNetworks) Endpoints(string) []network.Member { return nil }
func (noNetworks) Facts() network.Facts {
	return network.Facts{Drivers: []string{"host", "null"}, Firewall: "none"}
}
