package server

import (
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/network"

	"berth/oci"
)

// platformFromString reads os/arch[/variant].
func platformFromString(s string) (oci.Platform, error) { return platforms.Parse(s) }

// exposedPorts turns an image's "80/tcp" keys into moby's; what is not a port is left out.
func exposedPorts(in map[string]struct{}) network.PortSet {
	if len(in) == 0 {
		return nil
	}
	out := network.PortSet{}
	for s := range in {
		if p, err := network.ParsePort(s); err == nil {
			out[p] = struct{}{}
		}
	}
	return out
}
