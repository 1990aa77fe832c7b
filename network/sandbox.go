package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"

	"berth/dns"
	"berth/durable"
	"berth/network/firewall"
)

// box is one container's sandbox as this engine knows it.
type box struct {
	turn sync.Mutex // held by the verb that changes it
	rec  sandbox    // replaced as a whole, under Networks.mu
	gone bool       // left, guarded by turn
}

// sandbox is the file RunDir/sandboxes/ID.json.
type sandbox struct {
	ID, Name           string
	Endpoints          []endpoint
	Gateway4, Gateway6 string `json:",omitempty"`
	Ports              []Port `json:",omitempty"`
	Published          bool   `json:",omitempty"` // its names are in the zones
	Resolver           bool   `json:",omitempty"` // the redirect to the resolver is there
	Six                bool   `json:",omitempty"` // new interfaces have IPv6 unless told otherwise
}

// endpoint is an Endpoint with what nobody else needs to know.
type endpoint struct {
	Endpoint
	Link     string `json:",omitempty"` // the end of its veth pair on the host
	OnDevice bool   `json:",omitempty"` // its default routes lead onto the interface, to no gateway
}

func (b *box) on(network string) bool {
	return slices.ContainsFunc(b.rec.Endpoints, func(e endpoint) bool { return e.Network == network })
}

func (n *Networks) file(id string) string {
	return filepath.Join(n.cfg.RunDir, "sandboxes", id+".json")
}

func (n *Networks) write(s sandbox) error {
	data, err := json.Marshal(s)
	if err == nil {
		err = durable.WriteFileVolatile(n.file(s.ID), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("record the container's network: %w", err)
	}
	return nil
}

// put makes s what is known of a sandbox.
func (n *Networks) put(b *box, s sandbox) {
	n.mu.Lock()
	b.rec = s
	n.mu.Unlock()
}

// loadBoxes reads the sandboxes' files and takes the addresses in them.
func (n *Networks) loadBoxes() error {
	dir := filepath.Join(n.cfg.RunDir, "sandboxes")
	if err := durable.RemoveDebris(dir); err != nil {
		return err
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range names {
		path := filepath.Join(dir, f.Name())
		var s sandbox
		if err := durable.ReadJSON(path, &s); err != nil || s.ID+".json" != f.Name() {
			n.log.Error("the file of a container's network is unreadable; its interfaces are deleted", "file", path, "error", err)
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		n.boxes[s.ID] = &box{rec: s}
		for _, e := range s.Endpoints {
			nw := n.nets[e.Network]
			if nw == nil {
				n.log.Error("a container is on a network that has no record", "container", s.ID, "network", e.NetworkName)
				continue
			}
			nw.ends++
			for _, p := range e.addresses() {
				if sp := nw.spaceOf(p.Addr()); sp != nil {
					_ = sp.Take(p.Addr())
				}
			}
		}
	}
	return nil
}

// makeTrue makes the kernel agree with the records: interfaces of ours that none of them
// names go; bridges, rules and zones of the sandboxes are there.
func (n *Networks) makeTrue(ctx context.Context) error {
	known := map[string]bool{}
	used := map[string]bool{}
	for _, b := range n.boxes {
		for _, e := range b.rec.Endpoints {
			known[e.Link], used[e.Network] = true, true
		}
	}
	for _, nw := range n.nets {
		for _, l := range hostLinks(nw.rec.Network, nw.set) {
			known[l] = true
		}
	}
	if err := n.deleteStrays(known); err != nil {
		return err
	}
	cfg := firewall.Config{Table: n.table(), Off: n.cfg.Firewall == "none", Log: n.log}
	for id := range used {
		if nw := n.nets[id]; nw != nil && nw.rec.Driver == "bridge" {
			cfg.Bridges = append(cfg.Bridges, firewallBridge(nw.rec.Network, nw.set))
		}
	}
	for _, b := range n.boxes {
		if p := n.publication(b.rec); len(p.Ports) > 0 {
			cfg.Published = append(cfg.Published, p)
		}
	}
	fire, err := firewall.Open(cfg)
	if err != nil {
		return fmt.Errorf("set the firewall up: %w", err)
	}
	n.fire = fire
	for id := range used {
		nw := n.nets[id]
		if nw == nil {
			continue
		}
		if err := n.bringUp(ctx, nw); err != nil {
			// Others may work; this one's containers are cut off anyway.
			n.log.Error("a network cannot be brought up", "network", nw.rec.Name, "error", err)
		}
	}
	return n.rewriteZones(used)
}

func (n *Networks) table() string {
	if n.cfg.DefaultEngine {
		return "berth"
	}
	return "berth_" + n.cfg.EngineID[:min(8, len(n.cfg.EngineID))]
}

// deleteStrays deletes the host's interfaces that carry this engine's alias and are not known.
func (n *Networks) deleteStrays(known map[string]bool) error {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list the host's interfaces: %w", err)
	}
	for _, l := range links {
		a := l.Attrs()
		if !strings.HasPrefix(a.Alias, n.alias("")) || known[a.Name] {
			continue
		}
		n.log.Info("deleting an interface that was left behind", "interface", a.Name, "was", a.Alias)
		if err := n.host.do(deleteLink(a.Name)); err != nil {
			return err
		}
	}
	return nil
}

// Sandbox returns what is known of a container's network.
func (n *Networks) Sandbox(containerID string) (*Sandbox, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	b, ok := n.boxes[containerID]
	if !ok {
		return nil, false
	}
	return n.show(b.rec), true
}

// Sandboxes lists the containers that have a network, by ID.
func (n *Networks) Sandboxes() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(maps.Keys(n.boxes))
}

func (n *Networks) show(s sandbox) *Sandbox {
	out := &Sandbox{ID: s.ID, Gateway4: s.Gateway4, Gateway6: s.Gateway6, Ports: slices.Clone(s.Ports)}
	for _, e := range s.Endpoints {
		out.Endpoints = append(out.Endpoints, e.Endpoint)
		out.Zones = append(out.Zones, n.zone(e.Network))
	}
	return out
}

// zone is the file with the names on a network.
func (n *Networks) zone(id string) string { return filepath.Join(n.cfg.RunDir, id+".names") }

// rewriteZones writes the zones of the networks that are used, and removes all others.
func (n *Networks) rewriteZones(used map[string]bool) error {
	if err := durable.RemoveDebris(n.cfg.RunDir); err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(n.cfg.RunDir, "*.names"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if !used[strings.TrimSuffix(filepath.Base(path), ".names")] {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	for id := range used {
		if nw := n.nets[id]; nw != nil {
			if err := n.writeZone(nw); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeZone replaces a network's zone by what is known now.
func (n *Networks) writeZone(nw *entry) error {
	nw.zoning.Lock()
	defer nw.zoning.Unlock()
	z := dns.Zone{Domain: nw.rec.Name}
	n.mu.Lock()
	for _, b := range n.boxes {
		if !b.rec.Published {
			continue
		}
		for _, e := range b.rec.Endpoints {
			if e.Network != nw.rec.ID || len(e.Names) == 0 {
				continue
			}
			h := dns.Host{Names: e.Names}
			for _, p := range e.addresses() {
				h.Addrs = append(h.Addrs, p.Addr())
			}
			if len(h.Addrs) > 0 {
				z.Hosts = append(z.Hosts, h)
			}
		}
	}
	n.mu.Unlock()
	slices.SortFunc(z.Hosts, func(a, b dns.Host) int { return a.Addrs[0].Compare(b.Addrs[0]) })
	if len(z.Hosts) == 0 {
		return n.removeZoneFile(nw)
	}
	if err := z.WriteFile(n.zone(nw.rec.ID)); err != nil {
		return fmt.Errorf("write the names on network %s: %w", nw.rec.Name, err)
	}
	return nil
}

func (n *Networks) removeZone(nw *entry) error {
	nw.zoning.Lock()
	defer nw.zoning.Unlock()
	return n.removeZoneFile(nw)
}

func (n *Networks) removeZoneFile(nw *entry) error {
	if err := os.Remove(n.zone(nw.rec.ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
