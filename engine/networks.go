package engine

import (
	"context"
	"net/netip"
	"os"

	mobynet "github.com/moby/moby/api/types/network"

	"berth/fail"
	"berth/network"
)

// networks is what the engine asks of the networks; see network.Networks.
type networks interface {
	Get(ref string) (network.Network, error)
	Join(ctx context.Context, r network.SandboxRequest) (*network.Sandbox, error)
	Publish(ctx context.Context, containerID string, ports []network.Port) error
	Leave(ctx context.Context, containerID string) error
	Connect(ctx context.Context, containerID string, netns *os.File, e network.EndpointRequest) (*network.Sandbox, error)
	Disconnect(ctx context.Context, containerID string, netns *os.File, networkRef string) (*network.Sandbox, error)
	Rename(ctx context.Context, containerID, name string, names map[string][]string) error
	Sandbox(containerID string) (*network.Sandbox, bool)
	Sandboxes() []string
	HostGateway() (v4, v6 netip.Addr)
}

func (l *lifecycle) connect(context.Context, *instance, string, *mobynet.EndpointSettings) error {
	return fail.New(fail.NotImplemented, "networks are not built yet")
}

func (l *lifecycle) disconnect(context.Context, *instance, string, bool) error {
	return fail.New(fail.NotImplemented, "networks are not built yet")
}
