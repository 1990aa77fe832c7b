package engine

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	mobynet "github.com/moby/moby/api/types/network"

	"berth/durable"
	"berth/fail"
	"berth/network"
	"berth/supervisor"
)

// A container's record says which networks it belongs to. A connection is made first and
// recorded then, a disconnection the other way round: so an endpoint that the record does
// not know is one that nobody was told of, and an engine that opens takes it back (rewire).

// connect puts a container on a further network.
func (l *lifecycle) connect(ctx context.Context, i *instance, ref string, cfg *mobynet.EndpointSettings) error {
	giveBack, err := l.take(ctx, i)
	if err != nil {
		return err
	}
	defer giveBack()
	ctx = context.WithoutCancel(ctx)
	c, err := i.forNetworks()
	if err != nil {
		return err
	}
	n, err := l.wire.nets.Get(ref)
	if err != nil {
		return err
	}
	if err := mayConnect(c, n); err != nil {
		return err
	}
	e := asRequested(cfg)
	if err := checkEndpoint(n.Name, &n, e); err != nil {
		return err
	}
	with := onToo(c, n.Name, e)
	var sb *network.Sandbox
	if c.Network != nil {
		if sb, err = l.plug(ctx, i, with, n, e); err != nil {
			return err
		}
		durable.Failpoint("engine.connect.made")
	}
	if err := l.renetwork(i, with.Networking); err != nil {
		if sb != nil {
			l.unplug(ctx, i, c, n)
		}
		return err
	}
	durable.Failpoint("engine.connect.recorded")
	if sb != nil {
		l.wire.tell("connect", with, n.ID)
	}
	return nil
}

// forNetworks is the container if its networks may be changed. The caller holds the turn.
func (i *instance) forNetworks() (Container, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.now()
	if i.removed || c.State.Status == removing || c.State.Status == dead {
		return c, fail.New(fail.Conflict, "Container %s is marked for removal and cannot be connected to or disconnected from a network", c.ID)
	}
	return c, nil
}

// mayConnect refuses what two networks cannot be to one container.
func mayConnect(c Container, n network.Network) error {
	m := c.HostConfig.NetworkMode
	_, there := c.Networking.EndpointsConfig[n.Name]
	_, isolated := c.Networking.EndpointsConfig[mobynet.NetworkNone]
	switch {
	case m.IsHost() || m.IsContainer():
		return errSharedNetwork
	case n.Driver == "host":
		return errHostNetwork
	case there:
		return fail.New(fail.Forbidden, "endpoint with name %s already exists in network %s", c.Name, n.Name)
	case c.Config.NetworkDisabled || isolated || n.Name == mobynet.NetworkNone && len(c.Networking.EndpointsConfig) > 0:
		return errPrivateNetwork
	case n.Name == mobynet.NetworkNone && c.Network != nil:
		return fail.New(fail.Conflict, "container %s runs: stop it before you connect it to network none", c.Name)
	}
	return nil
}

var (
	errSharedNetwork  = fail.New(fail.Invalid, "container sharing network namespace with another container or host cannot be connected to any other network")
	errHostNetwork    = fail.New(fail.Invalid, "container cannot be disconnected from host network or connected to host network")
	errPrivateNetwork = fail.New(fail.Invalid, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
)

// onToo is c with a further network.
func onToo(c Container, name string, e *mobynet.EndpointSettings) Container {
	c.Networking = &mobynet.NetworkingConfig{EndpointsConfig: maps.Clone(c.Networking.EndpointsConfig)}
	if c.Networking.EndpointsConfig == nil {
		c.Networking.EndpointsConfig = map[string]*mobynet.EndpointSettings{}
	}
	c.Networking.EndpointsConfig[name] = e
	return c
}

// notOn is c without a network.
func notOn(c Container, name string) Container {
	c.Networking = &mobynet.NetworkingConfig{EndpointsConfig: maps.Clone(c.Networking.EndpointsConfig)}
	delete(c.Networking.EndpointsConfig, name)
	return c
}

// renetwork records which networks the container belongs to.
func (l *lifecycle) renetwork(i *instance, to *mobynet.NetworkingConfig) error {
	i.mu.Lock()
	was := i.now().Networking
	i.change(func(c *Container) { c.Networking = to })
	i.mu.Unlock()
	err := l.rec.save(i)
	if err != nil {
		i.mu.Lock()
		i.change(func(c *Container) { c.Networking = was })
		i.mu.Unlock()
	}
	return err
}

// plug makes the endpoint of a running container.
func (l *lifecycle) plug(ctx context.Context, i *instance, with Container, n network.Network, e *mobynet.EndpointSettings) (*network.Sandbox, error) {
	r, c, err := i.live()
	if err != nil {
		return nil, err
	}
	ns, err := netnsOf(i, c)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	sb, err := l.wire.nets.Connect(ctx, c.ID, ns, endpointRequest(with, n.Name, e))
	if err != nil {
		return nil, orEnded(i, r, err)
	}
	durable.Failpoint("engine.connect.plugged")
	if sb, err = l.adjust(ctx, i, r, with, sb); err != nil {
		l.unplug(ctx, i, c, n)
		return nil, orEnded(i, r, err)
	}
	return sb, nil
}

// orEnded is err, unless the container has ended meanwhile, which explains any.
func orEnded(i *instance, r *run, err error) error {
	if now, c, liveErr := i.live(); liveErr != nil || now != r {
		return notRunning(c)
	}
	return err
}

// unplug takes back what plug has made, or what is recorded as gone.
func (l *lifecycle) unplug(ctx context.Context, i *instance, c Container, n network.Network) {
	if err := l.pull(ctx, i, c, n.ID); err != nil {
		l.log.Error("a container could not be taken off a network", "id", c.ID, "network", n.Name, "error", err)
	}
}

// pull takes the endpoint of a running container away. without is the container as it is
// recorded then.
func (l *lifecycle) pull(ctx context.Context, i *instance, without Container, networkID string) error {
	r, c, err := i.live()
	if fail.Is(err, fail.Conflict) {
		return nil // it has ended, and leaves all its networks
	}
	if err != nil {
		return err
	}
	ns, err := netnsOf(i, c)
	if err != nil {
		return err
	}
	defer ns.Close()
	sb, err := l.wire.nets.Disconnect(ctx, c.ID, ns, networkID)
	if err == nil {
		durable.Failpoint("engine.disconnect.pulled")
		_, err = l.adjust(ctx, i, r, without, sb)
	}
	if err != nil {
		if fail.Is(orEnded(i, r, err), fail.Conflict) {
			return nil // as above
		}
		return err
	}
	return nil
}

// netnsOf opens the network namespace of a running container.
func netnsOf(i *instance, c Container) (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", c.State.Pid))
	if err != nil {
		return nil, notRunning(c)
	}
	if now := i.now(); now.State.Pid != c.State.Pid { // it may be whoever got its pid
		f.Close()
		return nil, notRunning(c)
	}
	return f, nil
}

// adjust makes shim, published ports, names and hosts file follow a change of the sandbox
// from c.Network to sb.
func (l *lifecycle) adjust(ctx context.Context, i *instance, r *run, c Container, sb *network.Sandbox) (*network.Sandbox, error) {
	before := c.Network
	want := l.wire.shimNetwork(c, sb, before.Ports)
	bound, err := r.shim.SetNetwork(ctx, *want)
	if fail.Is(err, fail.Conflict) {
		return nil, l.wire.bindFailure(c, sb, want.Ports, err)
	}
	if err != nil {
		return nil, asGone(err, c)
	}
	if sb, err = l.wire.publish(ctx, sb, bound); err != nil {
		return nil, err
	}
	i.mu.Lock()
	if i.run == r {
		c = i.change(func(c *Container) { c.Network = sb })
	}
	i.mu.Unlock()
	if err := l.wire.rehost(i.dir, c, before, sb); err != nil {
		return nil, err
	}
	return sb, nil
}

// disconnect takes a container off a network.
func (l *lifecycle) disconnect(ctx context.Context, i *instance, ref string, force bool) error {
	giveBack, err := l.take(ctx, i)
	if err != nil {
		return err
	}
	defer giveBack()
	ctx = context.WithoutCancel(ctx)
	c, err := i.forNetworks()
	if err != nil {
		return err
	}
	name := ref
	n, err := l.wire.nets.Get(ref)
	switch {
	case err == nil:
		name = n.Name
	case !force || !fail.Is(err, fail.NotFound):
		return err
	}
	_, there := c.Networking.EndpointsConfig[name]
	switch {
	case c.HostConfig.NetworkMode.IsHost() && name == mobynet.NetworkHost:
		return errHostNetwork
	case !there:
		return fail.New(fail.Conflict, "container %s is not connected to network %s", c.ID, name)
	}
	without := notOn(c, name)
	if err := l.renetwork(i, without.Networking); err != nil {
		return err
	}
	durable.Failpoint("engine.disconnect.recorded")
	if endpointOn(c.Network, name) == nil {
		return nil
	}
	if err := l.pull(ctx, i, without, n.ID); err != nil {
		return err
	}
	l.wire.tell("disconnect", without, n.ID)
	return nil
}

// found is the network of a container that runs, as the last engine left it.
func (w *wiring) found(id string) *network.Sandbox {
	sb, ok := w.nets.Sandbox(id)
	if !ok {
		return nil
	}
	now := *sb
	now.Netns = nil
	return &now
}

// rewire finishes for a running container what the last engine did not: endpoints that its
// record does not know go, and shim, ports and names are made to follow.
func (l *lifecycle) rewire(ctx context.Context, i *instance, r *run) {
	giveBack, err := l.take(ctx, i)
	if err != nil {
		return
	}
	defer giveBack()
	c := i.now()
	if c.Network == nil {
		return
	}
	changed := false
	for _, e := range c.Network.Endpoints {
		if _, known := c.Networking.EndpointsConfig[e.NetworkName]; !known {
			l.unplug(ctx, i, c, network.Network{ID: e.Network, Name: e.NetworkName})
			changed = true
		}
	}
	if changed {
		return
	}
	sb, bound := c.Network, *c.Network
	bound.Ports = published(r.shim.Ports())
	c.Network = &bound
	if _, err := l.adjust(ctx, i, r, c, sb); err != nil {
		l.log.Error("a container's network could not be brought in line with its record", "id", i.id, "error", err)
	}
}

func published(ports []supervisor.Port) []network.Port {
	out := make([]network.Port, len(ports))
	for n, p := range ports {
		out[n] = network.Port{Proto: p.Proto, HostIP: p.HostIP, HostPort: p.HostPort, ContainerPort: p.ContainerPort}
	}
	return out
}

// renamed tells the networks a container's new name. The caller holds the turn.
func (l *lifecycle) renamed(ctx context.Context, i *instance, c Container) {
	if c.Network == nil {
		return
	}
	names := map[string][]string{}
	for _, e := range c.Network.Endpoints {
		names[e.Network] = namesOn(c, c.Networking.EndpointsConfig[e.NetworkName])
	}
	if err := l.wire.nets.Rename(ctx, c.ID, c.Name, names); err != nil {
		l.log.Error("a container's new name is not known on its networks until it starts again", "id", c.ID, "error", err)
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if now := i.now(); now.Network == c.Network {
		sb := *c.Network
		sb.Endpoints = slices.Clone(sb.Endpoints)
		for n := range sb.Endpoints {
			sb.Endpoints[n].Names = names[sb.Endpoints[n].Network]
		}
		i.change(func(c *Container) { c.Network = &sb })
	}
}
