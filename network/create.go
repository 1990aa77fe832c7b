package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
	"berth/network/ipam"
)

// builtInPools are Docker's (docs.docker.com, "Default address pools").
var builtInPools = []AddressPool{
	{netip.MustParsePrefix("172.17.0.0/16"), 16},
	{netip.MustParsePrefix("172.18.0.0/16"), 16},
	{netip.MustParsePrefix("172.19.0.0/16"), 16},
	{netip.MustParsePrefix("172.20.0.0/14"), 16},
	{netip.MustParsePrefix("172.24.0.0/14"), 16},
	{netip.MustParsePrefix("172.28.0.0/14"), 16},
	{netip.MustParsePrefix("192.168.0.0/16"), 20},
}

// Create makes a network. Class Conflict: the name exists; Forbidden: the subnet overlaps
// another network's; NotFound: an unknown driver or pattern; Invalid: what can never be.
// Warnings are one sentence each.
func (n *Networks) Create(ctx context.Context, r CreateRequest) (Network, []string, error) {
	n.making.Lock()
	defer n.making.Unlock()
	rec, warnings, err := n.design(r)
	if err != nil {
		return Network{}, nil, err
	}
	set, err := parseOptions(rec.Driver, rec.Options)
	if err != nil {
		return Network{}, nil, err
	}
	if rec.ConfigOnly {
		if err := n.store(rec); err != nil {
			return Network{}, nil, err
		}
		return rec.Network, warnings, nil
	}
	if err := checkSettings(rec.Network, set); err != nil {
		return Network{}, nil, err
	}
	d := drivers[rec.Driver]
	if err := d.check(n, rec.Network, set); err != nil {
		return Network{}, nil, err
	}
	unlock, err := lockSubnets(ctx, n.cfg.EngineID)
	if err != nil {
		return Network{}, nil, err
	}
	defer unlock()
	rec.Auto = auto(rec.IPAM.Pools)
	if err := n.fillPools(&rec); err != nil {
		return Network{}, nil, err
	}
	if err := n.store(rec); err != nil {
		return Network{}, nil, err
	}
	durable.Failpoint("network.create.stored")
	n.mu.Lock()
	nw := n.nets[rec.ID]
	n.mu.Unlock()
	if err := n.bringUp(ctx, nw); err != nil {
		return Network{}, nil, errors.Join(fmt.Errorf("create network %s: %w", rec.Name, err), n.erase(nw))
	}
	return rec.Network, warnings, nil
}

// design turns a request into a record; subnets are still missing.
func (n *Networks) design(r CreateRequest) (rec record, warnings []string, err error) {
	if err := goodName(r.Name); err != nil {
		return rec, nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, nw := range n.nets {
		if nw.rec.Name == r.Name {
			if nw.rec.Predefined {
				return rec, nil, fail.New(fail.Forbidden, "operation is not permitted on predefined %s network", r.Name)
			}
			return rec, nil, fail.New(fail.Conflict, "network with name %s already exists", r.Name)
		}
	}
	if r.ConfigFrom != "" {
		if r, err = n.configured(r); err != nil {
			return rec, nil, err
		}
	}
	driver := r.Driver
	if driver == "" {
		driver = "bridge"
	}
	switch {
	case driver == "host" || driver == "null":
		return rec, nil, fail.New(fail.Forbidden, "only one instance of %q network is allowed", driver)
	case drivers[driver] == nil:
		return rec, nil, fail.New(fail.NotFound, "could not find plugin %s in v1 plugin registry: Berth has the drivers %s", driver, strings.Join(driverNames(), ", "))
	}
	if d := r.IPAM.Driver; d != "" && d != "default" {
		return rec, nil, fail.New(fail.NotFound, "unknown IPAM driver %q: Berth has default", d)
	}
	for k := range r.IPAM.Options {
		return rec, nil, fail.New(fail.Invalid, "unknown option %q for the default IPAM driver", k)
	}
	given := map[string]string{}
	maps.Copy(given, r.Options)
	for k, v := range n.cfg.Options[driver] {
		if _, ok := given[k]; !ok && !r.ConfigOnly {
			given[k] = v
		}
	}
	set, err := parseOptions(driver, given)
	if err != nil {
		return rec, nil, err
	}
	rec.Network = Network{
		ID: randomHex(64), Name: r.Name, Created: time.Now().UTC(), Driver: driver, EnableIPv4: true,
		Internal: r.Internal, Attachable: r.Attachable, ConfigOnly: r.ConfigOnly, ConfigFrom: r.ConfigFrom,
		IPAM: IPAM{Driver: "default", Options: map[string]string{}, Pools: slices.Clone(r.IPAM.Pools)}, Options: given, Labels: map[string]string{},
	}
	maps.Copy(rec.Labels, r.Labels)
	if driver != "bridge" && set.parent == "" && !r.ConfigOnly {
		rec.Internal = true // there is nothing that it could lead out by
	}
	for _, f := range []struct {
		to, said *bool
		option   *bool
	}{{&rec.EnableIPv4, r.EnableIPv4, set.enable[0]}, {&rec.EnableIPv6, r.EnableIPv6, set.enable[1]}} {
		if f.option != nil {
			*f.to = *f.option
		}
		if f.said != nil {
			*f.to = *f.said
		}
	}
	if !rec.EnableIPv4 && !rec.EnableIPv6 {
		return rec, nil, fail.New(fail.Invalid, "IPv4 or IPv6 must be enabled")
	}
	if err := checkPools(&rec); err != nil {
		return rec, nil, err
	}
	if !rec.EnableIPv6 {
		rec.IPAM.Pools = slices.DeleteFunc(rec.IPAM.Pools, func(p Pool) bool {
			six := p.Subnet.IsValid() && p.Subnet.Addr().Is6()
			if six {
				warnings = append(warnings, fmt.Sprintf("subnet %s is left out: IPv6 is not enabled on this network", p.Subnet))
			}
			return six
		})
	}
	return rec, warnings, nil
}

// configured takes over what the pattern network says. The caller holds mu.
func (n *Networks) configured(r CreateRequest) (CreateRequest, error) {
	if r.ConfigOnly {
		return r, fail.New(fail.Invalid, "a configuration network cannot depend on another configuration network")
	}
	if len(r.IPAM.Pools) > 0 || len(r.Options) > 0 || r.EnableIPv4 != nil || r.EnableIPv6 != nil || r.Internal {
		return r, fail.New(fail.Forbidden, "user specified configurations are not supported if the network depends on a configuration network")
	}
	from, err := n.find(r.ConfigFrom)
	if err != nil {
		return r, fmt.Errorf("configuration network: %w", err)
	}
	if !from.rec.ConfigOnly {
		return r, fail.New(fail.Forbidden, "network %s is not a configuration network", r.ConfigFrom)
	}
	r.ConfigFrom = from.rec.Name
	r.IPAM, r.Options = from.rec.IPAM, from.rec.Options
	r.EnableIPv4, r.EnableIPv6, r.Internal = &from.rec.EnableIPv4, &from.rec.EnableIPv6, from.rec.Internal
	if len(r.Labels) == 0 {
		r.Labels = from.rec.Labels
	}
	return r, nil
}

// goodName refuses what cannot be a network's name (Docker's rule).
func goodName(name string) error {
	if strings.TrimSpace(name) == "" {
		return fail.New(fail.Invalid, "invalid network name: name is empty")
	}
	for i, r := range name {
		alnum := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("_.-", r)) {
			return fail.New(fail.Invalid, "invalid network name %q: only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed", name)
		}
	}
	if name == "default" || name == "container" {
		return fail.New(fail.Invalid, "invalid network name %q: it has a meaning of its own", name)
	}
	return nil
}

// checkPools refuses pools that can never be, and adds those that were left out.
func checkPools(rec *record) error {
	families := [2]int{}
	subnets := []netip.Prefix{}
	for i := range rec.IPAM.Pools {
		p := &rec.IPAM.Pools[i]
		if !p.Subnet.IsValid() {
			if p.Range.IsValid() || p.Gateway.IsValid() || len(p.Aux) > 0 {
				return fail.New(fail.Invalid, "invalid network config: a gateway, range or auxiliary address needs a subnet")
			}
			continue
		}
		family := 0
		if p.Subnet.Addr().Is6() {
			family = 1
		}
		switch {
		case p.Subnet.Addr().Is4In6():
			return fail.New(fail.Invalid, "invalid network config: subnet %s is an IPv4 subnet written as IPv6", p.Subnet)
		case p.Subnet.Masked() != p.Subnet:
			return fail.New(fail.Invalid, "invalid network config: invalid subnet %s: it should be %s", p.Subnet, p.Subnet.Masked())
		case family == 0 && !rec.EnableIPv4:
			return fail.New(fail.Invalid, "invalid network config: subnet %s is IPv4, which is disabled on this network", p.Subnet)
		case p.Subnet.Addr().IsMulticast() || p.Subnet.Addr().IsLoopback() || p.Subnet.Bits() == 0:
			return fail.New(fail.Invalid, "invalid network config: %s is no subnet for hosts", p.Subnet)
		}
		if slices.ContainsFunc(subnets, p.Subnet.Overlaps) {
			return fail.New(fail.Invalid, "invalid network config: subnet %s overlaps with another one of the same network", p.Subnet)
		}
		subnets = append(subnets, p.Subnet)
		families[family]++
		if p.Range.IsValid() {
			switch {
			case p.Range.Masked() != p.Range:
				return fail.New(fail.Invalid, "invalid network config: invalid ip-range %s: it should be %s", p.Range, p.Range.Masked())
			case !p.Subnet.Contains(p.Range.Addr()) || p.Range.Bits() < p.Subnet.Bits():
				return fail.New(fail.Invalid, "invalid network config: invalid ip-range %s: parent subnet is %s", p.Range, p.Subnet)
			}
		}
		s := ipam.NewSpace(p.Subnet, netip.Prefix{})
		if p.Gateway.IsValid() {
			if !p.Subnet.Contains(p.Gateway) {
				return fail.New(fail.Invalid, "invalid network config: invalid gateway %s: parent subnet is %s", p.Gateway, p.Subnet)
			}
			if err := s.Take(p.Gateway); err != nil {
				return fail.New(fail.Invalid, "invalid network config: invalid gateway %s: it is the network or broadcast address of %s", p.Gateway, p.Subnet)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(p.Aux)) {
			a := p.Aux[name]
			if !p.Subnet.Contains(a) {
				return fail.New(fail.Invalid, "invalid network config: invalid auxiliary address %s: parent subnet is %s", a, p.Subnet)
			}
			if err := s.Take(a); errors.Is(err, ipam.ErrTaken) {
				return fail.New(fail.Forbidden, "failed to allocate secondary ip address (%s:%s): Address already in use", name, a)
			}
		}
	}
	rec.IPAM.Pools = slices.DeleteFunc(rec.IPAM.Pools, func(p Pool) bool { return !p.Subnet.IsValid() })
	if rec.ConfigOnly {
		return nil
	}
	if rec.EnableIPv4 && families[0] == 0 {
		rec.IPAM.Pools = slices.Insert(rec.IPAM.Pools, 0, Pool{})
	}
	if rec.EnableIPv6 && families[1] == 0 {
		rec.IPAM.Pools = append(rec.IPAM.Pools, Pool{})
	}
	return nil
}

// minMTU6 is the least that IPv6 works with (RFC 8200, section 5).
const minMTU6 = 1280

// checkSettings refuses options that contradict the network.
func checkSettings(nw Network, set settings) error {
	if nw.EnableIPv6 && !haveIPv6() {
		return fail.New(fail.Invalid, "network %s cannot have IPv6: it is disabled in this host's kernel", nw.Name)
	}
	if nw.EnableIPv6 && set.mtu != 0 && set.mtu < minMTU6 {
		return fail.New(fail.Invalid, "an MTU of %d is too small for IPv6, which needs %d", set.mtu, minMTU6)
	}
	for i, m := range set.modes {
		if m == modeIsolated && !nw.Internal {
			return fail.New(fail.Invalid, "gateway mode 'isolated' can only be used for an internal network (IPv%d)", 4+2*i)
		}
	}
	return nil
}

// fillPools chooses the subnets that are missing, free of every other network's and of what
// the host routes, and the gateways.
func (n *Networks) fillPools(rec *record) error {
	n.mu.Lock()
	taken, owners := []netip.Prefix{}, []string{}
	for _, nw := range n.nets {
		if nw.rec.ID == rec.ID || nw.rec.ConfigOnly {
			continue
		}
		for _, p := range nw.rec.IPAM.Pools {
			taken, owners = append(taken, p.Subnet), append(owners, nw.rec.Name)
		}
	}
	n.mu.Unlock()
	for _, p := range rec.IPAM.Pools {
		if i := slices.IndexFunc(taken, p.Subnet.Overlaps); p.Subnet.IsValid() && i >= 0 {
			return fail.New(fail.Forbidden, "invalid pool request: Pool overlaps with other one on this address space: network %s has %s", owners[i], taken[i])
		}
	}
	var ranges [2][]ipam.Range
	for _, p := range n.cfg.Pools {
		f := 0
		if p.Base.Addr().Is6() {
			f = 1
		}
		ranges[f] = append(ranges[f], ipam.Range{Base: p.Base, Size: p.Size})
	}
	for i := range rec.IPAM.Pools {
		p := &rec.IPAM.Pools[i]
		if !p.Subnet.IsValid() {
			f := 0
			if i > 0 || !rec.EnableIPv4 {
				f = 1
			}
			routes, err := hostPrefixes(bridgeName(rec.Network))
			if err != nil {
				return err
			}
			if p.Subnet, err = ipam.Choose(ranges[f], append(taken, routes...)); err != nil {
				return fail.Mark(fail.Invalid, err)
			}
		}
		if !p.Gateway.IsValid() {
			p.Gateway = ipam.First(p.Subnet)
			for slices.Contains(slices.Collect(maps.Values(p.Aux)), p.Gateway) {
				p.Gateway = p.Gateway.Next()
			}
		}
	}
	return nil
}

// hostPrefixes lists what the host routes, but for its default routes and what is on the
// interface named; and its name servers.
func hostPrefixes(except string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	own := -1
	if l, err := netlink.LinkByName(except); err == nil {
		own = l.Attrs().Index
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		// Of all tables: VPNs like to have one of their own.
		routes, err := whole(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list the host's routes: %w", err)
		}
		for _, r := range routes {
			if r.Dst == nil || r.LinkIndex == own {
				continue
			}
			a, _ := netip.AddrFromSlice(r.Dst.IP)
			ones, _ := r.Dst.Mask.Size()
			if p := netip.PrefixFrom(a.Unmap(), ones); p.IsValid() && ones > 0 {
				out = append(out, p)
			}
		}
	}
	data, _ := os.ReadFile("/etc/resolv.conf")
	for line := range bytes.Lines(data) {
		f := bytes.Fields(line)
		if len(f) < 2 || string(f[0]) != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(string(f[1])); err == nil {
			out = append(out, netip.PrefixFrom(a.Unmap().WithZone(""), a.Unmap().BitLen()))
		}
	}
	return out, nil
}

// subnetLock is shared by all engines of the machine: it is held from the choice of a subnet
// until the host routes it, and so others see that it is taken.
const subnetLock = "/run/berth-subnets.lock"

func lockSubnets(ctx context.Context, engine string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	l, err := durable.AcquireWait(ctx, subnetLock, fmt.Sprintf("berthd (pid %d, engine %s)", os.Getpid(), engine))
	if err != nil {
		return nil, fmt.Errorf("wait for other engines that choose subnets: %w", err)
	}
	return func() { _ = l.Release() }, nil
}

// store records a network, and lets it be known as it is now.
func (n *Networks) store(rec record) error {
	nw, err := newEntry(rec)
	if err != nil {
		return err
	}
	if err := n.commit(rec); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nets[rec.ID] = nw
	return nil
}

func (n *Networks) commit(rec record) error {
	if err := n.cfg.DB.Update(func(tx *durable.Tx) error { return tx.Put(bucket, rec.ID, rec) }); err != nil {
		return fmt.Errorf("record network %s: %w", rec.Name, err)
	}
	return nil
}

// Remove deletes a network that nobody is on.
func (n *Networks) Remove(ctx context.Context, ref string) error {
	n.making.Lock()
	defer n.making.Unlock()
	n.mu.Lock()
	nw, err := n.find(ref)
	if err == nil {
		err = n.mayRemove(nw)
	}
	n.mu.Unlock()
	if err != nil {
		return err
	}
	return n.erase(nw)
}

// mayRemove tells why a network must stay. The caller holds mu.
func (n *Networks) mayRemove(nw *entry) error {
	name := nw.rec.Name
	if nw.rec.Predefined {
		return fail.New(fail.Forbidden, "%s is a pre-defined network and cannot be removed", name)
	}
	if nw.ends > 0 {
		var who []string
		for _, b := range n.boxes {
			if b.on(nw.rec.ID) {
				who = append(who, fmt.Sprintf("name:%q id:%q", b.rec.Name, b.rec.ID[:min(12, len(b.rec.ID))]))
			}
		}
		slices.Sort(who)
		return fail.New(fail.Forbidden, "error while removing network: network %s has active endpoints (%s)", name, strings.Join(who, ", "))
	}
	for _, other := range n.nets {
		if nw.rec.ConfigOnly && other.rec.ConfigFrom == name {
			return fail.New(fail.Forbidden, "configuration network %q is in use by network %s", name, other.rec.Name)
		}
	}
	return nil
}

// erase forgets a network that nobody is on: first for callers, then in the database, then
// in the kernel, where Open would find what a crash leaves.
func (n *Networks) erase(nw *entry) error {
	n.mu.Lock()
	if nw.ends > 0 {
		err := n.mayRemove(nw)
		n.mu.Unlock()
		return err
	}
	delete(n.nets, nw.rec.ID)
	n.mu.Unlock()
	if err := n.cfg.DB.Update(func(tx *durable.Tx) error { return tx.Delete(bucket, nw.rec.ID) }); err != nil {
		n.mu.Lock()
		n.nets[nw.rec.ID] = nw
		n.mu.Unlock()
		return fmt.Errorf("forget network %s: %w", nw.rec.Name, err)
	}
	durable.Failpoint("network.remove.forgotten")
	if n.pool != nil {
		n.pool.drop(nw.rec.ID)
	}
	return errors.Join(n.takeDown(nw), n.removeZone(nw))
}
