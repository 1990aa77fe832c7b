package network

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
	"berth/network/firewall"
	"berth/network/ipam"
)

// Networks are an engine's networks and the sandboxes on them.
type Networks struct {
	cfg  Config
	log  *slog.Logger
	host *conn // in the engine's network namespace
	fire *firewall.Table
	pool *pool
	reap *reaper

	making sync.Mutex // held while a network is created, changed or removed

	mu    sync.Mutex // guards what follows, and is never held while the kernel is spoken to
	nets  map[string]*entry
	boxes map[string]*box
}

// entry is one network as this engine knows it.
type entry struct {
	rec   record        // its IPAM may change, under Networks.making and mu; nothing else does
	set   settings      // of rec
	space []*ipam.Space // by pool
	ends  int           // endpoints, also those being made

	up     sync.Mutex // held while its interface is made or removed
	isUp   atomic.Bool
	index  atomic.Int64 // of its interface
	zoning sync.Mutex   // held while its zone is written
}

// record is what the database knows of a network.
type record struct {
	Network
	Auto []bool `json:",omitempty"` // by pool: we chose the subnet, and may choose another while nobody uses it
}

const bucket = "networks"

// Open loads the networks' records and the sandboxes' files, and makes the kernel agree
// with them: bridges and firewall rules of the sandboxes that are, and nothing of those
// that are not. A sandbox whose container has ended is still known; it is the engine that
// knows that, and leaves it.
func Open(ctx context.Context, cfg Config) (_ *Networks, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Firewall == "" {
		cfg.Firewall = "nftables"
	}
	if cfg.Firewall != "nftables" && cfg.Firewall != "none" {
		return nil, fail.New(fail.Invalid, "unknown firewall backend %q: it is nftables or none", cfg.Firewall)
	}
	if len(cfg.Pools) == 0 {
		cfg.Pools = builtInPools
	}
	cfg.Pools = withULA(cfg.Pools, cfg.EngineID)
	if err := os.MkdirAll(filepath.Join(cfg.RunDir, "sandboxes"), 0o700); err != nil {
		return nil, err
	}
	n := &Networks{cfg: cfg, log: cfg.Log, nets: map[string]*entry{}, boxes: map[string]*box{}}
	if n.host, err = dial(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.host.close()
		}
	}()
	if err := n.load(); err != nil {
		return nil, fmt.Errorf("load the networks: %w", err)
	}
	if err := n.predefine(); err != nil {
		return nil, fmt.Errorf("make the predefined networks: %w", err)
	}
	if err := n.loadBoxes(); err != nil {
		return nil, fmt.Errorf("load the containers' networks: %w", err)
	}
	if err := n.makeTrue(ctx); err != nil {
		return nil, fmt.Errorf("bring the host's network in line: %w", err)
	}
	if n.reap, err = newReaper(n.log); err != nil {
		return nil, err
	}
	n.pool = newPool(n)
	return n, nil
}

// Close ends what works in the background. Containers' networks go on; if there are none,
// nothing of ours is left on the host.
func (n *Networks) Close() error {
	n.pool.close()
	err := n.reap.close()
	n.mu.Lock()
	idle := len(n.boxes) == 0
	nets := n.all()
	n.mu.Unlock()
	if idle {
		for _, nw := range nets {
			err = errors.Join(err, n.takeDown(nw))
		}
	}
	err = errors.Join(err, n.fire.Close(idle))
	n.host.close()
	return err
}

// all lists the networks, oldest first. The caller holds mu.
func (n *Networks) all() []*entry {
	var out []*entry
	for _, nw := range n.nets {
		out = append(out, nw)
	}
	slices.SortFunc(out, func(a, b *entry) int {
		return cmp.Or(a.rec.Created.Compare(b.rec.Created), strings.Compare(a.rec.ID, b.rec.ID))
	})
	return out
}

// load reads the networks' records.
func (n *Networks) load() error {
	return n.cfg.DB.View(func(tx *durable.Tx) error {
		return tx.ForEach(bucket, func(id string, data []byte) error {
			var rec record
			err := json.Unmarshal(data, &rec)
			if err == nil {
				var nw *entry
				if nw, err = newEntry(rec); err == nil {
					n.nets[id] = nw
					return nil
				}
			}
			// One that cannot be read must not take the engine with it.
			n.log.Error("the record of a network is unreadable; it is left alone", "id", id, "error", err)
			return nil
		})
	})
}

func newEntry(rec record) (*entry, error) {
	set, err := parseOptions(rec.Driver, rec.Options)
	if err != nil {
		return nil, err
	}
	nw := &entry{rec: rec, set: set}
	nw.subnet(rec.IPAM)
	return nw, nil
}

// subnet replaces the subnets; nobody may have an address.
func (nw *entry) subnet(to IPAM) {
	nw.rec.IPAM, nw.space = to, nil
	if nw.rec.ConfigOnly {
		return
	}
	for _, p := range to.Pools {
		s := ipam.NewSpace(p.Subnet, p.Range)
		_ = s.Take(p.Gateway)
		for _, a := range p.Aux {
			_ = s.Take(a)
		}
		nw.space = append(nw.space, s)
	}
}

// Get finds a network by its ID, its name or a unique prefix of its ID, in this order.
// Errors are NotFound, and Invalid for a prefix of several.
func (n *Networks) Get(ref string) (Network, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	nw, err := n.find(ref)
	if err != nil {
		return Network{}, err
	}
	return nw.rec.Network, nil
}

// find is Get for a caller that holds mu.
func (n *Networks) find(ref string) (*entry, error) {
	if nw, ok := n.nets[ref]; ok {
		return nw, nil
	}
	var byPrefix []*entry
	for id, nw := range n.nets {
		if nw.rec.Name == ref {
			return nw, nil
		}
		if ref != "" && strings.HasPrefix(id, ref) {
			byPrefix = append(byPrefix, nw)
		}
	}
	switch len(byPrefix) {
	case 1:
		return byPrefix[0], nil
	case 0:
		return nil, fail.New(fail.NotFound, "network %s not found", ref)
	}
	return nil, fail.New(fail.Invalid, "network %s is ambiguous (%d matches found on ID prefix)", ref, len(byPrefix))
}

// List returns all networks, oldest first.
func (n *Networks) List() []Network {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []Network
	for _, nw := range n.all() {
		out = append(out, nw.rec.Network)
	}
	return out
}

// Endpoints returns who is on a network, by container ID.
func (n *Networks) Endpoints(networkID string) []Member {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []Member
	for _, b := range n.boxes {
		for _, e := range b.rec.Endpoints {
			if e.Network == networkID {
				out = append(out, Member{ContainerID: b.rec.ID, ContainerName: b.rec.Name, Endpoint: e.Endpoint})
			}
		}
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.ContainerID, b.ContainerID) })
	return out
}

// HostGateway returns the default bridge's own addresses, under which containers reach the
// host.
func (n *Networks) HostGateway() (v4, v6 netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	nw, err := n.find("bridge")
	if err != nil {
		return
	}
	for _, p := range nw.rec.IPAM.Pools {
		a := bridgeAddress(nw.rec.Network, p).Addr()
		if a.Is4() && !v4.IsValid() {
			v4 = a
		} else if a.Is6() && !v6.IsValid() {
			v6 = a
		}
	}
	return v4, v6
}

// Facts returns what the engine tells of its networks.
func (n *Networks) Facts() Facts {
	return Facts{
		Drivers:         n.able(),
		Firewall:        n.cfg.Firewall,
		FirewallVersion: n.firewallVersion(),
		IPv4Forwarding:  readSysctl("ipv4/ip_forward") == "1",
		IPv6Forwarding:  readSysctl("ipv6/conf/all/forwarding") == "1",
		Hints:           n.fire.Hints(),
		Pools:           slices.Clone(n.cfg.Pools),
	}
}

// PublishHints tells, a sentence each, what keeps other hosts from ports that a container on a network
// publishes at addresses of the host (zero: all, or the network's own setting), and what to allow. For a
// network that is not there it tells nothing.
func (n *Networks) PublishHints(ref string, at []netip.Addr) []string {
	n.mu.Lock()
	nw, err := n.find(ref)
	n.mu.Unlock()
	if err != nil || nw.rec.Driver != "bridge" || nw.rec.Internal || nw.rec.ConfigOnly {
		return nil
	}
	bind := nw.set.hostBinding
	if nw.rec.Predefined && n.cfg.Bridge.HostBindingIP.IsValid() {
		bind = n.cfg.Bridge.HostBindingIP
	}
	if !slices.ContainsFunc(at, func(a netip.Addr) bool { return !a.IsLoopback() && (a.IsValid() || !bind.IsLoopback()) }) {
		return nil
	}
	return n.fire.PublishHints(bridgeName(nw.rec.Network))
}

func (n *Networks) firewallVersion() string {
	var u unix.Utsname
	if n.cfg.Firewall != "nftables" || unix.Uname(&u) != nil {
		return ""
	}
	return "Linux " + unix.ByteSliceToString(u.Release[:])
}
