package engine

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"berth/fail"
	"berth/network"
)

// fakeNetworks is a world of networks that outlives engines, as sandbox files and the
// kernel do. It keeps the addresses that are given out, and nothing else of real networks.
type fakeNetworks struct {
	mu         sync.Mutex // guards all below
	nets       []network.Network
	boxes      map[string]*network.Sandbox
	joins      []network.SandboxRequest
	publishErr error
	hints      []string      // what PublishHints tells
	leaveGate  chan struct{} // Leave waits for it if it is not nil
	lastByte   byte
}

func newFakeNetworks() *fakeNetworks {
	f := &fakeNetworks{boxes: map[string]*network.Sandbox{}}
	for _, n := range []struct{ name, driver string }{{"bridge", "bridge"}, {"host", "host"}, {"none", "null"}} {
		f.add(network.Network{Name: n.name, Driver: n.driver, Predefined: true})
	}
	return f
}

// add makes a network 10.N.0.0/16 whose gateway is 10.N.0.1.
func (f *fakeNetworks) add(n network.Network) network.Network {
	f.mu.Lock()
	defer f.mu.Unlock()
	n.ID = fmt.Sprintf("%02d%s", len(f.nets), strings.Repeat("f", 62))
	if n.Driver == "" {
		n.Driver = "bridge"
	}
	base := netip.AddrFrom4([4]byte{10, byte(len(f.nets)), 0, 0})
	n.IPAM.Pools = []network.Pool{{Subnet: netip.PrefixFrom(base, 16), Gateway: base.Next()}}
	f.nets = append(f.nets, n)
	return n
}

func (f *fakeNetworks) remove(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nets = slices.DeleteFunc(f.nets, func(n network.Network) bool { return n.Name == name })
}

func (f *fakeNetworks) PublishHints(string, []netip.Addr) []string { return f.hints }

func (f *fakeNetworks) Get(ref string) (network.Network, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.get(ref)
}

func (f *fakeNetworks) get(ref string) (network.Network, error) {
	for _, n := range f.nets {
		if n.ID == ref || n.Name == ref {
			return n, nil
		}
	}
	return network.Network{}, fail.New(fail.NotFound, "network %s not found", ref)
}

func (f *fakeNetworks) endpoint(r network.EndpointRequest) (network.Endpoint, error) {
	n, err := f.get(r.Network)
	if err != nil {
		return network.Endpoint{}, err
	}
	f.lastByte++
	addr := r.IPv4
	if !addr.IsValid() {
		base := n.IPAM.Pools[0].Subnet.Addr().As4()
		addr = netip.AddrFrom4([4]byte{10, base[1], 1, f.lastByte})
	}
	for _, b := range f.boxes {
		for _, e := range b.Endpoints {
			if e.IPv4.Addr() == addr {
				return network.Endpoint{}, fail.New(fail.Forbidden, "Address already in use")
			}
		}
	}
	mac := r.MAC
	if mac == nil {
		mac = net.HardwareAddr{2, 0, 0, 0, 0, f.lastByte}
	}
	return network.Endpoint{
		ID: fmt.Sprintf("%d%s", f.lastByte, strings.Repeat("e", 62)), Network: n.ID, NetworkName: n.Name, MAC: mac,
		IPv4: netip.PrefixFrom(addr, 16), Gateway4: n.IPAM.Pools[0].Gateway, Names: r.Names, Options: r.Options, GwPriority: r.GwPriority,
	}, nil
}

// settle finds the gateway: the first network that leads out.
func (f *fakeNetworks) settle(b *network.Sandbox) {
	b.Gateway4, b.Zones = "", nil
	for _, e := range b.Endpoints {
		n, _ := f.get(e.Network)
		if b.Gateway4 == "" && !n.Internal {
			b.Gateway4 = e.Network
		}
		b.Zones = append(b.Zones, "/zones/"+e.Network)
	}
}

func (f *fakeNetworks) Join(_ context.Context, r network.SandboxRequest) (*network.Sandbox, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.boxes[r.ID] != nil {
		return nil, fail.New(fail.Internal, "%s has a sandbox", r.ID)
	}
	f.joins = append(f.joins, r)
	b := &network.Sandbox{ID: r.ID}
	for _, q := range r.Endpoints {
		e, err := f.endpoint(q)
		if err != nil {
			return nil, err
		}
		b.Endpoints = append(b.Endpoints, e)
	}
	f.settle(b)
	f.boxes[r.ID] = b
	out := *b
	out.Netns, _ = os.Open("/proc/self/ns/net")
	return &out, nil
}

func (f *fakeNetworks) Publish(_ context.Context, id string, ports []network.Port) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.publishErr != nil {
		return f.publishErr
	}
	if f.boxes[id] == nil {
		return noSandbox(id)
	}
	f.change(id, func(b *network.Sandbox) { b.Ports = ports })
	return nil
}

func noSandbox(id string) error { return fail.New(fail.NotFound, "container %s has no sandbox", id) }

// change replaces a sandbox: those that were given out stay as they are.
func (f *fakeNetworks) change(id string, fn func(*network.Sandbox)) *network.Sandbox {
	b := *f.boxes[id]
	b.Endpoints = slices.Clone(b.Endpoints)
	fn(&b)
	f.boxes[id] = &b
	out := b
	return &out
}

func (f *fakeNetworks) Leave(_ context.Context, id string) error {
	f.mu.Lock()
	gate := f.leaveGate
	f.mu.Unlock()
	if gate != nil {
		<-gate
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.boxes, id)
	return nil
}

func (f *fakeNetworks) Connect(_ context.Context, id string, netns *os.File, r network.EndpointRequest) (*network.Sandbox, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if netns == nil || f.boxes[id] == nil {
		return nil, noSandbox(id)
	}
	e, err := f.endpoint(r)
	if err != nil {
		return nil, err
	}
	return f.change(id, func(b *network.Sandbox) {
		b.Endpoints = append(b.Endpoints, e)
		f.settle(b)
	}), nil
}

func (f *fakeNetworks) Disconnect(_ context.Context, id string, _ *os.File, ref string) (*network.Sandbox, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.boxes[id] == nil {
		return nil, noSandbox(id)
	}
	return f.change(id, func(b *network.Sandbox) {
		b.Endpoints = slices.DeleteFunc(b.Endpoints, func(e network.Endpoint) bool { return e.Network == ref || e.NetworkName == ref })
		f.settle(b)
	}), nil
}

func (f *fakeNetworks) Rename(_ context.Context, id, _ string, names map[string][]string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.boxes[id] == nil {
		return noSandbox(id)
	}
	f.change(id, func(b *network.Sandbox) {
		for n := range b.Endpoints {
			b.Endpoints[n].Names = names[b.Endpoints[n].Network]
		}
	})
	return nil
}

func (f *fakeNetworks) Sandbox(id string) (*network.Sandbox, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.boxes[id]
	return b, b != nil
}

func (f *fakeNetworks) Sandboxes() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.boxes))
}

func (f *fakeNetworks) HostGateway() (v4, v6 netip.Addr) { return netip.MustParseAddr("10.0.0.1"), v6 }
