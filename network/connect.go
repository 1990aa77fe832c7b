package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"berth/dns"
	"berth/durable"
	"berth/fail"
	"berth/network/firewall"
)

// Connect puts a running container, whose namespace is netns, on one more network. Its names
// are known, and its ports follow a new default route, from the next Publish on. Errors are
// Join's.
func (n *Networks) Connect(ctx context.Context, containerID string, netns *os.File, r EndpointRequest) (_ *Sandbox, err error) {
	if err := n.bringUpAll(ctx, []EndpointRequest{r}); err != nil {
		return nil, err
	}
	b, err := n.hold(containerID)
	if err != nil {
		return nil, err
	}
	defer b.turn.Unlock()
	was := b.rec
	n.mu.Lock()
	e, err := n.newEndpoint(was, r)
	n.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if n.driverOf(e.Network) == "bridge" {
		e.Link = newLinkName()
	}
	s := was
	s.Endpoints = append(slices.Clone(was.Endpoints), e)
	s.Resolver = true
	n.chooseGateways(&s)
	defer func() {
		if err != nil {
			err = errors.Join(err, n.unplug([]endpoint{e}), n.write(was))
			n.mu.Lock()
			b.rec = was
			n.giveBackOne(e)
			n.mu.Unlock()
		}
	}()
	if err := n.write(s); err != nil {
		return nil, err
	}
	durable.Failpoint("network.connect.recorded")
	if !was.Resolver {
		if err := firewall.Redirect(netns, resolverAt, dns.Port); err != nil {
			return nil, fmt.Errorf("lead the container to its resolver: %w", err)
		}
	}
	err = inNamespace(netns, func(c *conn) error {
		if _, err := c.index(e.Interface); err == nil {
			return fail.New(fail.Conflict, "the container has an interface %s already", e.Interface)
		}
		index, err := n.plug(netns, c, s, e)
		if err != nil {
			return err
		}
		err = settle(netns, c, index, s, e, false, false)
		if err == nil {
			err = n.carry(c, index, e)
		}
		if err == nil {
			err = reroute(c, was, s)
		}
		if err != nil {
			err = errors.Join(err, c.do(deleteLink(e.Interface)))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect the container to network %s: %w", e.NetworkName, err)
	}
	durable.Failpoint("network.connect.plugged")
	n.put(b, s)
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.show(s), nil
}

// reroute moves the default routes, inside a container, from where they are in one state of
// its sandbox to where they are in the next.
func reroute(c *conn, from, to sandbox) error {
	var batch []message
	for _, f := range []struct {
		was, is string
		six     bool
	}{{from.Gateway4, to.Gateway4, false}, {from.Gateway6, to.Gateway6, true}} {
		if f.was == f.is {
			continue
		}
		for _, e := range from.Endpoints {
			if e.Network != f.was {
				continue
			}
			if index, err := c.index(e.Interface); err == nil { // with the interface its routes go
				batch = append(batch, ways(unix.RTM_DELROUTE, index, e, !f.six, f.six)...)
			}
		}
		for _, e := range to.Endpoints {
			if e.Network != f.is {
				continue
			}
			index, err := c.index(e.Interface)
			if err != nil {
				return err
			}
			batch = append(batch, ways(unix.RTM_NEWROUTE, index, e, !f.six, f.six)...)
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return c.do(batch...)
}

// Disconnect takes a running container off a network. Class Forbidden: it is not on it.
func (n *Networks) Disconnect(ctx context.Context, containerID string, netns *os.File, networkRef string) (*Sandbox, error) {
	b, err := n.hold(containerID)
	if err != nil {
		return nil, err
	}
	defer b.turn.Unlock()
	n.mu.Lock()
	nw, err := n.find(networkRef)
	n.mu.Unlock()
	if err != nil {
		return nil, err
	}
	was := b.rec
	i := slices.IndexFunc(was.Endpoints, func(e endpoint) bool { return e.Network == nw.rec.ID })
	if i < 0 {
		return nil, fail.New(fail.Forbidden, "container %s is not connected to network %s", containerID, nw.rec.Name)
	}
	e := was.Endpoints[i]
	s := was
	s.Endpoints = slices.Delete(slices.Clone(was.Endpoints), i, i+1)
	n.chooseGateways(&s)
	if was.Gateway4 == e.Network || was.Gateway6 == e.Network {
		// Its ports led here; the next Publish says where they lead now.
		if err := n.fire.Unpublish(s.ID); err != nil {
			return nil, fmt.Errorf("withdraw the container's ports: %w", err)
		}
	}
	if err := n.unplug([]endpoint{e}); err != nil {
		return nil, err
	}
	err = inNamespace(netns, func(c *conn) error {
		if err := c.do(deleteLink(e.Interface)); err != nil {
			return err
		}
		return reroute(c, was, s)
	})
	if err != nil {
		return nil, fmt.Errorf("disconnect the container from network %s: %w", e.NetworkName, err)
	}
	durable.Failpoint("network.disconnect.unplugged")
	if err := n.write(s); err != nil {
		return nil, err
	}
	n.mu.Lock()
	b.rec = s
	n.giveBackOne(e)
	n.mu.Unlock()
	if err := n.writeZone(nw); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.show(s), nil
}

// Rename gives a container another name, and what the resolver knows it by, by network.
func (n *Networks) Rename(ctx context.Context, containerID, name string, names map[string][]string) error {
	b, err := n.hold(containerID)
	if err != nil {
		return err
	}
	defer b.turn.Unlock()
	s := b.rec
	s.Name = name
	s.Endpoints = slices.Clone(s.Endpoints)
	for i := range s.Endpoints {
		if to, ok := names[s.Endpoints[i].Network]; ok {
			s.Endpoints[i].Names = slices.Clone(to)
		}
	}
	if err := n.write(s); err != nil {
		return err
	}
	n.put(b, s)
	if !s.Published {
		return nil
	}
	return n.writeZones(s.Endpoints)
}
