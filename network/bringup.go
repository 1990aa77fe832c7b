package network

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"berth/fail"
)

// bringUpAll brings up what the endpoints hang on.
func (n *Networks) bringUpAll(ctx context.Context, eps []EndpointRequest) error {
	for _, r := range eps {
		n.mu.Lock()
		nw, err := n.find(r.Network)
		n.mu.Unlock()
		if err == nil {
			err = usable(nw)
		}
		if err == nil && !n.present(nw) {
			err = n.firstUse(ctx, nw)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// present tells whether a network has its interface; somebody may have deleted it.
func (n *Networks) present(nw *entry) bool {
	if !nw.isUp.Load() {
		return false
	}
	_, err := n.host.exchange([]message{askLink(int(nw.index.Load()), "")})
	if errors.Is(err, unix.ENODEV) {
		n.log.Warn("the interface of a network was deleted; making it again", "network", nw.rec.Name)
		nw.isUp.Store(false)
		n.pool.drop(nw.rec.ID)
		return false
	}
	return true
}

func usable(nw *entry) error {
	switch {
	case nw.rec.ConfigOnly:
		return fail.New(fail.Forbidden, "cannot connect a container to network %s: it is a configuration network", nw.rec.Name)
	case drivers[nw.rec.Driver] == nil:
		return fail.New(fail.Forbidden, "container cannot be connected to network %s: it has no endpoints", nw.rec.Name)
	}
	return nil
}

// firstUse makes a network's interface where it is missing. A subnet that we chose, and
// that somebody else on this host has taken since, is chosen anew.
func (n *Networks) firstUse(ctx context.Context, nw *entry) error {
	n.making.Lock()
	defer n.making.Unlock()
	unlock, err := lockSubnets(ctx, n.cfg.EngineID)
	if err != nil {
		return err
	}
	defer unlock()
	n.mu.Lock()
	removed := n.nets[nw.rec.ID] != nw
	n.mu.Unlock()
	if removed {
		return fail.New(fail.NotFound, "network %s not found", nw.rec.Name)
	}
	if err := n.rechoose(nw); err != nil {
		return err
	}
	if err := n.bringUp(ctx, nw); err != nil {
		return fmt.Errorf("bring network %s up: %w", nw.rec.Name, err)
	}
	return nil
}

// rechoose replaces subnets that we chose and the host has other uses for now.
func (n *Networks) rechoose(nw *entry) error {
	if nw.isUp.Load() || !slices.Contains(nw.rec.Auto, true) {
		return nil
	}
	taken, err := hostPrefixes(bridgeName(nw.rec.Network))
	if err != nil {
		return err
	}
	rec := nw.rec
	rec.IPAM.Pools = slices.Clone(rec.IPAM.Pools)
	changed := false
	for i, p := range rec.IPAM.Pools {
		if i < len(rec.Auto) && rec.Auto[i] && slices.ContainsFunc(taken, p.Subnet.Overlaps) {
			n.log.Info("the subnet of a network is in use on this host; choosing another one", "network", rec.Name, "subnet", p.Subnet)
			rec.IPAM.Pools[i], changed = Pool{Aux: nil}, true
		}
	}
	n.mu.Lock()
	busy := nw.ends > 0
	n.mu.Unlock()
	if !changed || busy {
		return nil
	}
	if err := n.fillPools(&rec); err != nil {
		return err
	}
	if err := n.commit(rec); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	nw.subnet(rec.IPAM)
	return nil
}

// bringUp makes a network's interface, and what belongs to it on the host.
func (n *Networks) bringUp(_ context.Context, nw *entry) error {
	nw.up.Lock()
	defer nw.up.Unlock()
	if nw.isUp.Load() {
		return nil
	}
	d := drivers[nw.rec.Driver]
	if d == nil {
		return nil
	}
	index, err := d.up(n, nw.rec.Network, nw.set)
	if err != nil {
		return errors.Join(err, d.down(n, nw.rec.Network, nw.set))
	}
	nw.index.Store(int64(index))
	nw.isUp.Store(true)
	return n.rejoin(nw)
}

// rejoin puts the links of a network's endpoints on its bridge, if that is a new one.
func (n *Networks) rejoin(nw *entry) error {
	var batch []message
	n.mu.Lock()
	for _, b := range n.boxes {
		for _, e := range b.rec.Endpoints {
			if e.Network != nw.rec.ID || e.Link == "" {
				continue
			}
			req := linkMessage(0, e.Link, 0, 0, 0)
			req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(nw.index.Load()))))
			batch = append(batch, message{req, "connect " + e.Link + " to network " + nw.rec.Name, gone})
		}
	}
	n.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	return n.host.do(batch...)
}

// takeDown removes a network's interface, and what belongs to it on the host.
func (n *Networks) takeDown(nw *entry) error {
	nw.up.Lock()
	defer nw.up.Unlock()
	d := drivers[nw.rec.Driver]
	if d == nil || nw.rec.ConfigOnly {
		return nil
	}
	if err := d.down(n, nw.rec.Network, nw.set); err != nil {
		return fmt.Errorf("take network %s down: %w", nw.rec.Name, err)
	}
	nw.isUp.Store(false)
	return nil
}
