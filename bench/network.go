package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// Each engine that makes networks lives on a "host" of its own: a namespace with loopback
// and one uplink, a pair of interfaces that leads to a second host. The addresses are those
// that RFC 2544 sets aside for measurements.
const (
	hostAddress    = "198.18.0.1"
	outsideAddress = "198.18.0.2"
)

// openNetworks readies a further engine of every kind, with networks: it shares the state of
// none that is measured without.
func (b *bench) openNetworks(ctx context.Context) (peers []*peer) {
	for _, p := range b.engines {
		q, err := b.networked(ctx, p)
		if err != nil {
			b.notes = append(b.notes, p.name+" does not start with networks: "+lastLine(err.Error()))
			continue
		}
		peers = append(peers, q)
	}
	return peers
}

func (b *bench) networked(ctx context.Context, p *peer) (*peer, error) {
	hidden := []string{}
	if p.engine == nil {
		// Podman's plugins write to /var/lib/cni and /run whatever they are told.
		hidden = []string{"/run", "/var/lib"}
	}
	q, err := b.newPeer(ctx, p.name+"-net", hidden...)
	if err != nil {
		return nil, err
	}
	move := func(words []string) (moved []string) {
		for _, w := range words {
			moved = append(moved, strings.ReplaceAll(w, p.dir+"/", q.dir+"/"))
		}
		return moved
	}
	q.name, q.client, q.engine = p.name, move(p.client), move(p.engine)
	q.runFlags, q.form, q.keepers = p.runFlags, p.form, p.keepers
	switch p.name {
	case "berth":
		err = os.WriteFile(filepath.Join(q.dir, "daemon.json"), []byte("{}\n"), 0o600)
	case "docker":
		q.engine = slices.DeleteFunc(q.engine, func(w string) bool { return w == "--bridge" || w == "none" || w == "--iptables=false" })
	case "podman":
		q.client = append(q.client, "--network-config-dir", filepath.Join(q.dir, "networks"))
		err = os.MkdirAll(filepath.Join(q.dir, "networks"), 0o755)
	}
	if err != nil {
		return nil, err
	}
	if q.outside, err = newSpace(ctx); err != nil {
		return nil, err
	}
	if err := q.space.connect(ctx, q.outside); err != nil {
		return nil, fmt.Errorf("make an uplink: %w", err)
	}
	if err := q.startEngine(ctx); err != nil {
		return nil, err
	}
	_, err = q.do(ctx, "import", filepath.Join(b.dir, "busybox.tar"), "busybox")
	return q, err
}

// connect gives the namespace an uplink to another one, with hostAddress on our side.
func (s *space) connect(ctx context.Context, outside *space) (err error) {
	var there *os.File
	outside.within(ctx, func() { there, err = os.Open("/proc/thread-self/ns/net") })
	if err != nil {
		return err
	}
	defer there.Close()
	s.within(ctx, func() {
		err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "up0", PeerNamespace: netlink.NsFd(int(there.Fd()))})
		if err == nil {
			err = addressUp("up0", hostAddress)
		}
	})
	if err != nil {
		return err
	}
	outside.within(ctx, func() { err = addressUp("up0", outsideAddress) })
	return err
}

func addressUp(name, address string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(address), Mask: net.CIDRMask(24, 32)}}); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// bridgeGoals are for a run to its end on a bridge.
var bridgeGoals = []goal{{against: "docker", factor: 10}, {against: "podman", factor: 10}}

const sectionBridge = "Containers on a bridge network, with nothing else running"

func sectionBridgeCrowd(n int) string {
	return fmt.Sprintf("Containers on a bridge network, with %d running on every engine", n)
}

// onBridge and onPort are arguments of run for a busybox on the default network, without and
// with a published port.
var (
	onBridge = []string{"--network", "bridge", "busybox"}
	onPort   = []string{"--network", "bridge", "-p", "80", "busybox"}
)

// bridgeRows are the same alone and in a crowd.
func bridgeRows(engines []*peer, section string) []row {
	return on(engines, section, []row{
		{name: "run --rm true", bothPaces: true, goals: bridgeGoals, work: timed("run", append([]string{"--rm"}, append(onBridge, "true")...)...)},
		{name: "run --rm -p 80 true", goals: bridgeGoals, work: timed("run", append([]string{"--rm"}, append(onPort, "true")...)...)},
	})
}

// measureNetworks measures everything that has a network, on engines of its own.
func (b *bench) measureNetworks(ctx context.Context, o options, r *report, dense, spaced pace) error {
	lonely := o.wanted(bridgeRows(b.engines, sectionBridge))
	crowded := o.crowd > 0 && (len(o.wanted(bridgeRows(b.engines, sectionBridgeCrowd(o.crowd)))) > 0 || o.wants(sectionMemory, memoryOnNetwork))
	ports := o.crowd > 0 && o.wants(sectionPorts, "one more")
	traffic := o.wants(sectionTraffic, trafficNames)
	if len(lonely) == 0 && !crowded && !ports && !traffic || ctx.Err() != nil {
		return ctx.Err()
	}
	for _, p := range b.engines { // they are started again for what follows
		if err := p.stopEngine(ctx); err != nil {
			return err
		}
	}
	engines := b.openNetworks(ctx)
	if len(engines) == 0 {
		return ctx.Err()
	}
	r.checkLoad(ctx, sectionBridge)
	spaced.n = (spaced.n + 1) / 2 // rests are most of the time that this takes
	if len(lonely) > 0 {
		r.results = append(r.results, measureBoth(ctx, bridgeRows(engines, sectionBridge), dense, spaced)...)
	}
	if traffic && ctx.Err() == nil {
		results, err := b.measureTraffic(ctx, o, engines)
		if err != nil {
			return err
		}
		r.results = append(r.results, results...)
	}
	if crowded && ctx.Err() == nil {
		b.measureBridgeCrowd(ctx, o, r, engines, dense, spaced)
	}
	if ports && ctx.Err() == nil {
		r.results = append(r.results, b.measurePorts(ctx, o, engines)...)
	}
	for _, p := range engines {
		if err := p.stopEngine(ctx); err != nil {
			b.notes = append(b.notes, err.Error())
		}
	}
	for _, p := range b.engines {
		if err := p.startEngine(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// measureBridgeCrowd starts a crowd on the default network, each container with a published
// port, measures with it and removes it.
func (b *bench) measureBridgeCrowd(ctx context.Context, o options, r *report, engines []*peer, dense, spaced pace) {
	section := sectionBridgeCrowd(o.crowd)
	before := b.baseline(ctx, engines)
	starts := gather(ctx, engines, o.crowd, section, "-d -p 80", onPort)
	r.results = append(r.results, starts)
	if o.wants(sectionMemory, memoryOnNetwork) && ctx.Err() == nil {
		result, notes := weighAll(ctx, engines, before, o.crowd, o.idle/12, starts)
		result.row, result.goals = memoryOnNetwork, nil
		r.last = append(r.last, result)
		r.notes = append(r.notes, notes...)
	}
	r.results = append(r.results, measureBoth(ctx, o.wanted(bridgeRows(engines, section)), dense, spaced)...)
	removal := result{section: section, row: fmt.Sprintf("rm -f of %d in one command", o.crowd), unit: "s"}
	for i, p := range engines {
		c := cell{peer: p.name, why: starts.cells[i].why}
		if took, err := p.disperse(ctx, o.crowd); err != nil {
			c.fail(err)
		} else if c.why == "" {
			c.values = samples{took.Seconds()}
		}
		removal.cells = append(removal.cells, c)
	}
	r.results = append(r.results, removal)
}
