package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"berth/durable"
	"berth/fail"
	"berth/network/firewall"
)

// Publish replaces a container's published ports, and lets its names be known.
func (n *Networks) Publish(ctx context.Context, containerID string, ports []Port) error {
	b, err := n.hold(containerID)
	if err != nil {
		return err
	}
	defer b.turn.Unlock()
	s := b.rec
	s.Ports, s.Published = slices.Clone(ports), true
	if err := n.write(s); err != nil {
		return err
	}
	n.put(b, s)
	durable.Failpoint("network.publish.recorded")
	if err := n.fire.Publish(n.publication(s)); err != nil {
		return fmt.Errorf("publish the container's ports: %w", err)
	}
	return n.writeZones(s.Endpoints)
}

// hold returns a container's sandbox with its turn held.
func (n *Networks) hold(containerID string) (*box, error) {
	n.mu.Lock()
	b := n.boxes[containerID]
	n.mu.Unlock()
	if b != nil {
		b.turn.Lock()
		if !b.gone {
			return b, nil
		}
		b.turn.Unlock()
	}
	return nil, fail.New(fail.NotFound, "container %s has no network", containerID)
}

func (n *Networks) writeZones(eps []endpoint) error {
	var err error
	for _, e := range eps {
		n.mu.Lock()
		nw := n.nets[e.Network]
		n.mu.Unlock()
		if nw != nil && len(e.Names) > 0 {
			err = errors.Join(err, n.writeZone(nw))
		}
	}
	return err
}

// publication is what the firewall has to know of a sandbox: ports whose target has an
// address of their family. What is published on loopback, the shim serves, and the firewall keeps
// others away from it.
func (n *Networks) publication(s sandbox) firewall.Publication {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := firewall.Publication{Container: s.ID}
	for _, p := range s.Ports {
		network, family := s.Gateway4, 0
		if p.HostIP.Is6() {
			network, family = s.Gateway6, 1
		}
		for _, e := range s.Endpoints {
			to := [2]netip.Prefix{e.IPv4, e.IPv6}[family]
			if e.Network != network || !to.IsValid() || e.Link == "" {
				continue
			}
			fp := firewall.Port{
				Proto: p.Proto, Host: netip.AddrPortFrom(p.HostIP, p.HostPort),
				Target: netip.AddrPortFrom(to.Addr(), p.ContainerPort),
			}
			if nw := n.nets[network]; nw != nil && nw.set.modes[family] == modeRouted {
				fp.Host = netip.AddrPort{} // reached at the container's own address
			}
			out.Ports = append(out.Ports, fp)
		}
	}
	if len(out.Ports) == 0 {
		return out
	}
	for _, e := range s.Endpoints {
		if nw := n.nets[e.Network]; nw != nil && nw.rec.Driver == "bridge" {
			out.Bridges = append(out.Bridges, bridgeName(nw.rec.Network))
		}
	}
	return out
}

// Leave gives back all that a container's network has. One that has none is no error. A
// macvlan or ipvlan interface lives as long as its namespace, where nobody but those in it
// can reach it: who has joined the container's network keeps it.
func (n *Networks) Leave(ctx context.Context, containerID string) error {
	b, err := n.hold(containerID)
	if fail.Is(err, fail.NotFound) {
		return nil
	}
	defer b.turn.Unlock()
	return n.dissolve(b)
}

// dissolve undoes a sandbox, as far as it was made: what the kernel has first, the file
// last. The caller has its turn.
func (n *Networks) dissolve(b *box) error {
	s := b.rec
	var err error
	if len(s.Ports) > 0 {
		err = n.fire.Unpublish(s.ID)
	}
	published := s.Published
	s.Ports, s.Published = nil, false
	n.put(b, s)
	if published {
		err = errors.Join(err, n.writeZones(s.Endpoints))
	}
	durable.Failpoint("network.leave.unpublished")
	err = errors.Join(err, n.unplug(s.Endpoints))
	if err != nil {
		return fmt.Errorf("take the container off its networks: %w", err) // its file stays, to try again
	}
	durable.Failpoint("network.leave.unplugged")
	if err := os.Remove(n.file(s.ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget the container's network: %w", err)
	}
	b.gone = true
	n.mu.Lock()
	delete(n.boxes, s.ID)
	n.giveBack(s)
	n.mu.Unlock()
	return nil
}

// unplug cuts interfaces off at once; they are deleted a little later, as mostly the
// kernel is about to do so with their namespace.
func (n *Networks) unplug(eps []endpoint) error {
	var batch []message
	var links []string
	for _, e := range eps {
		if e.Link == "" {
			continue
		}
		l, err := n.findLink(e.Link)
		if err != nil {
			return err
		}
		if l != nil {
			batch = append(batch, cutOff(l.index, e.Link))
			links = append(links, e.Link)
		}
	}
	if len(batch) == 0 {
		return nil
	}
	if err := n.host.do(batch...); err != nil {
		return err
	}
	n.reap.add(links)
	return nil
}
