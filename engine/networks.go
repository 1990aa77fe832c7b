package engine

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	mobynet "github.com/moby/moby/api/types/network"

	"berth/durable"
	"berth/fail"
	"berth/network"
	"berth/supervisor"
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
	PublishHints(ref string, at []netip.Addr) []string
}

// wiring is what lives do with networks: joining at the start, leaving at the end, and what
// a shim is told to do for its container's network.
type wiring struct {
	nets networks
	idx  *index
	ann  announcer
	log  *slog.Logger
	dns  DNS
	work *sync.WaitGroup // of the lifecycle

	bindIP     netip.Addr   // Options.DefaultBindIP
	gateways   []netip.Addr // Options.HostGateways
	resolvPath string       // the host's resolv.conf

	mu      sync.Mutex // guards leaving
	leaving map[*run]struct{}
}

// onNetworks reports whether a container has a namespace that networks are wired to; all
// others are on the host's network, on another container's, or have loopback alone.
func onNetworks(c Container) bool {
	m := c.HostConfig.NetworkMode
	if c.Config.NetworkDisabled || m.IsHost() || m.IsContainer() {
		return false
	}
	_, none := c.Networking.EndpointsConfig[mobynet.NetworkNone]
	return !none
}

// join puts a container that starts on its networks.
func (w *wiring) join(ctx context.Context, c Container) (*network.Sandbox, error) {
	if err := w.neighboursLeft(ctx, c); err != nil {
		return nil, err
	}
	req := network.SandboxRequest{ID: c.ID, Name: c.Name}
	for _, name := range networkOrder(c) {
		req.Endpoints = append(req.Endpoints, endpointRequest(c, name, c.Networking.EndpointsConfig[name]))
	}
	sb, err := w.nets.Join(ctx, req)
	if err != nil {
		return nil, asNetworking(err)
	}
	durable.Failpoint("engine.start.joined")
	return sb, nil
}

// asNetworking words a failure of the networks. Its class stays: Docker answers a start
// whose network is gone by 404.
func asNetworking(err error) error {
	err = fmt.Errorf("failed to set up container networking: %w", err)
	switch fail.Of(err) {
	case fail.Invalid, fail.NotFound, fail.Forbidden, fail.NotImplemented, fail.Unavailable, fail.Canceled:
		return err
	}
	return fail.Mark(fail.Internal, err)
}

// networkOrder are a container's networks: the one of its mode first, which becomes eth0,
// then by name.
func networkOrder(c Container) []string {
	names := sortedKeys(c.Networking.EndpointsConfig)
	slices.SortStableFunc(names, func(a, b string) int {
		mode := string(c.HostConfig.NetworkMode)
		return -cmp.Compare(btoi(a == mode), btoi(b == mode))
	})
	return names
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func endpointRequest(c Container, name string, e *mobynet.EndpointSettings) network.EndpointRequest {
	r := network.EndpointRequest{Network: name, Names: namesOn(c, e)}
	if e == nil {
		return r
	}
	r.MAC, r.Options, r.GwPriority = net.HardwareAddr(e.MacAddress), e.DriverOpts, e.GwPriority
	if a := e.IPAMConfig; a != nil {
		r.IPv4, r.IPv6, r.LinkLocal = a.IPv4Address, a.IPv6Address, a.LinkLocalIPs
	}
	return r
}

// namesOn are the names by which a container is known on a network. The first is what its
// addresses are translated back to.
func namesOn(c Container, e *mobynet.EndpointSettings) []string {
	names := []string{c.Name}
	if e != nil {
		names = append(names, e.Aliases...)
	}
	names = append(names, c.ID[:12], c.Config.Hostname)
	var out []string
	for _, n := range names {
		if n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// joining is a join under way beside the other preparations of a start.
type joining struct {
	done chan struct{}
	sb   *network.Sandbox // nil: the container is on no networks
	err  error
}

// begin joins the networks of a container that starts, if it is on any.
func (w *wiring) begin(ctx context.Context, c Container) *joining {
	j := &joining{done: make(chan struct{})}
	if !onNetworks(c) {
		close(j.done)
		return j
	}
	w.work.Go(func() {
		defer close(j.done)
		j.sb, j.err = w.join(ctx, c)
	})
	return j
}

func (j *joining) wait() (*network.Sandbox, error) {
	<-j.done
	return j.sb, j.err
}

// undo takes a join back.
func (w *wiring) undo(j *joining) {
	if sb, _ := j.wait(); sb != nil {
		_ = sb.Netns.Close() // nobody else may have come to it
		w.leaveNow(sb.ID)
	}
}

// leave takes a run off its networks, behind whoever waits for its end: the name, the ports
// and the addresses are given to others only when r.left is closed.
func (w *wiring) leave(c Container, r *run, sb *network.Sandbox) {
	w.mu.Lock()
	w.leaving[r] = struct{}{}
	w.mu.Unlock()
	w.work.Go(func() {
		w.leaveNow(c.ID)
		<-r.exited
		w.left(c, r, sb)
	})
}

// left tells that a run is off its networks.
func (w *wiring) left(c Container, r *run, sb *network.Sandbox) {
	w.tellAll("disconnect", c, sb)
	w.mu.Lock()
	delete(w.leaving, r)
	w.mu.Unlock()
	close(r.left)
}

// leaveNow is leave for what has told nobody of its networks.
func (w *wiring) leaveNow(id string) {
	if err := w.nets.Leave(context.Background(), id); err != nil {
		w.log.Error("a container's network could not be taken down; it is when the engine starts next", "id", id, "error", err)
	}
}

// neighboursLeft waits for containers that are leaving their networks, if c needs something
// that they may have had: a port, an address.
func (w *wiring) neighboursLeft(ctx context.Context, c Container) error {
	needs := len(c.HostConfig.PortBindings) > 0
	for _, e := range c.Networking.EndpointsConfig {
		needs = needs || e.IPAMConfig != nil || len(e.MacAddress) > 0
	}
	if !needs {
		return nil
	}
	w.mu.Lock()
	var pending []*run
	for r := range w.leaving {
		pending = append(pending, r)
	}
	w.mu.Unlock()
	for _, r := range pending {
		select {
		case <-r.left:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// tellAll publishes that a container came to its networks or left them.
func (w *wiring) tellAll(action string, c Container, sb *network.Sandbox) {
	if sb != nil {
		for _, e := range sb.Endpoints {
			w.tell(action, c, e.Network)
		}
		return
	}
	for _, name := range networkOrder(c) { // host or none
		w.tell(action, c, name)
	}
}

func (w *wiring) tell(action string, c Container, ref string) {
	if n, err := w.nets.Get(ref); err == nil {
		w.ann.network(action, c, n)
	}
}

// shimNetwork is what the shim does for a container on sb. Ports that are published already
// keep their numbers.
func (w *wiring) shimNetwork(c Container, sb *network.Sandbox, published []network.Port) *supervisor.Network {
	n := &supervisor.Network{DNS: w.resolver(c, sb)}
	for _, e := range sb.Endpoints {
		if e.Network == sb.Gateway4 && e.IPv4.IsValid() {
			n.Target4 = e.IPv4.Addr()
		}
		if e.Network == sb.Gateway6 && e.IPv6.IsValid() {
			n.Target6 = e.IPv6.Addr()
		}
	}
	gateway := w.portNetwork(sb)
	switch {
	case gateway == nil:
	case len(published) > 0:
		n.Ports = pinned(published)
	default:
		n.Ports = portRequests(c, w.bindAddress(gateway))
	}
	return n
}

// portNetwork is the network that ports are published to, nil if there is none: only
// bridges have the host as their gateway.
func (w *wiring) portNetwork(sb *network.Sandbox) *network.Network {
	for _, id := range []string{sb.Gateway4, sb.Gateway6} {
		if id == "" {
			continue
		}
		if n, err := w.nets.Get(id); err == nil && n.Driver == "bridge" {
			return &n
		}
	}
	return nil
}

// hostBinding is the option of a network whose ports are published on one address unless
// they name another.
const hostBinding = "com.docker.network.bridge.host_binding_ipv4"

// bindAddress is where ports that name no address are published; zero: everywhere.
func (w *wiring) bindAddress(n *network.Network) netip.Addr {
	if n.Predefined && w.bindIP.IsValid() {
		return w.bindIP
	}
	bind, err := netip.ParseAddr(n.Options[hostBinding])
	if err != nil || bind.IsUnspecified() {
		return netip.Addr{}
	}
	return bind
}

// resolver configures the container's resolver.
func (w *wiring) resolver(c Container, sb *network.Sandbox) *supervisor.DNS {
	up := w.upstream(c.HostConfig)
	d := &supervisor.DNS{
		Zones: sb.Zones, Servers: up.servers, FromHost: up.fromHost,
		Internal: sb.Gateway4 == "" && sb.Gateway6 == "",
		Ndots:    manyDots(up.options),
	}
	// Most programs find the machine's names in the hosts file; some ask name servers alone.
	for _, name := range hostNames {
		if givenAway(c, name) {
			continue
		}
		for _, a := range w.hostAddresses(c, sb) {
			d.Own = append(d.Own, supervisor.OwnName{Alias: name, Target: a.String()})
		}
	}
	for _, name := range networkOrder(c) {
		e := c.Networking.EndpointsConfig[name]
		if e == nil {
			continue
		}
		for _, link := range e.Links {
			target, alias := SplitLink(link)
			if i, err := w.idx.find(target); err == nil {
				target = i.now().Name
			}
			d.Own = append(d.Own, supervisor.OwnName{Alias: alias, Target: target})
		}
	}
	return d
}

// SplitLink takes a link apart: NAME:ALIAS, or NAME alone, with or without slashes before them.
func SplitLink(link string) (target, alias string) {
	target, alias, ok := strings.Cut(link, ":")
	target = strings.TrimPrefix(target, "/")
	if !ok || alias == "" {
		alias = target
	}
	return target, alias[strings.LastIndexByte(alias, '/')+1:]
}

// publish makes a container's ports and names known, as its shim has bound them. It returns
// the sandbox with them.
func (w *wiring) publish(ctx context.Context, sb *network.Sandbox, bound []supervisor.Port) (*network.Sandbox, error) {
	ports := published(bound)
	if err := w.nets.Publish(ctx, sb.ID, ports); err != nil {
		return nil, asNetworking(err)
	}
	now := *sb
	now.Netns, now.Ports = nil, ports
	return &now, nil
}
