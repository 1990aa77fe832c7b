package network

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	gonet "net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"berth/dns"
	"berth/durable"
	"berth/fail"
	"berth/network/firewall"
	"berth/network/ipam"
)

// resolverAt is where a container's processes look for the resolver.
var resolverAt = netip.AddrPortFrom(dns.Address, 53)

// Join makes a container's network: addresses are taken, the sandbox's file is written, and
// then a namespace has the interfaces. After an error nothing is left. Class NotFound: no
// such network; Conflict: the container has a network already; Forbidden: an address is
// taken; Invalid: what can never be.
func (n *Networks) Join(ctx context.Context, r SandboxRequest) (_ *Sandbox, err error) {
	if err := n.bringUpAll(ctx, r.Endpoints); err != nil {
		return nil, err
	}
	b, err := n.reserve(r)
	if err != nil {
		return nil, err
	}
	defer b.turn.Unlock()
	s := b.rec
	// Whoever waits in the pool is wired already; its interface is the first endpoint's.
	var w *wired
	if len(s.Endpoints) > 0 && s.Endpoints[0].Options[optIfname] == "" {
		w = n.pool.take(s.Endpoints[0].Network)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.dissolve(b))
		}
	}()
	s.Endpoints = slices.Clone(s.Endpoints)
	if w != nil {
		s.Endpoints[0].Link = w.link
	}
	for i := range s.Endpoints {
		if e := &s.Endpoints[i]; e.Link == "" && n.driverOf(e.Network) == "bridge" {
			e.Link = newLinkName()
		}
	}
	s.Six = len(s.Endpoints) == 0 || s.Endpoints[0].IPv6.IsValid()
	s.Resolver = len(s.Endpoints) > 0
	n.put(b, s)
	if err := n.write(s); err != nil {
		w.drop()
		return nil, err
	}
	durable.Failpoint("network.join.recorded")
	plugged := 0
	if w == nil {
		if w, err = n.wire(s.Six, s.Resolver); err != nil {
			return nil, err
		}
	} else {
		plugged = 1
	}
	defer w.conn.close()
	for i, e := range s.Endpoints {
		if i >= plugged {
			w.index, err = n.plug(w.ns, w.conn, s, e)
		}
		if err == nil {
			err = settle(w.ns, w.conn, w.index, s, e, s.Gateway4 == e.Network, s.Gateway6 == e.Network)
		}
		if err == nil && i >= plugged {
			err = n.carry(w.conn, w.index, e)
		}
		if err != nil {
			w.ns.Close()
			return nil, fmt.Errorf("connect the container to network %s: %w", e.NetworkName, err)
		}
	}
	durable.Failpoint("network.join.wired")
	n.pool.want(s.Endpoints)
	n.mu.Lock()
	out := n.show(s)
	n.mu.Unlock()
	out.Netns = w.ns
	return out, nil
}

func newLinkName() string { return "veth" + randomHex(11) }

func (n *Networks) driverOf(network string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if nw := n.nets[network]; nw != nil {
		return nw.rec.Driver
	}
	return ""
}

// wired is a namespace that is ready to be a container's.
type wired struct {
	ns    *os.File
	conn  *conn
	link  string // of the interface that is there already, on the host
	index int    // … and in the namespace
}

// drop gives a namespace up that nobody is in.
func (w *wired) drop() {
	if w != nil {
		w.ns.Close()
		w.conn.close()
	}
}

// wire makes a namespace.
func (n *Networks) wire(six, resolver bool) (*wired, error) {
	ns, c, err := newNamespace(func() error { return prepare(six) })
	if err != nil {
		return nil, err
	}
	if resolver {
		if err := firewall.Redirect(ns, resolverAt, dns.Port); err != nil {
			ns.Close()
			c.close()
			return nil, fmt.Errorf("lead the container to its resolver: %w", err)
		}
	}
	return &wired{ns: ns, conn: c}, nil
}

// prepare says what interfaces of a fresh namespace will be like: addresses are good at
// once, as ipam excludes duplicates; neighbours are told of changes of IPv6 addresses;
// nobody on the network can make itself the router.
func prepare(six bool) error {
	for _, s := range [][2]string{
		{"ipv6/conf/default/disable_ipv6", flag(!six)},
		{"ipv6/conf/default/accept_dad", "0"},
		{"ipv6/conf/default/accept_ra", "0"},
		{"ipv6/conf/default/ndisc_notify", "1"},
	} {
		if !six && strings.HasPrefix(s[0], "ipv6") && !strings.HasSuffix(s[0], "disable_ipv6") {
			continue
		}
		if err := optionalSysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

// plug makes an endpoint's interface in a namespace and returns its index there.
func (n *Networks) plug(ns *os.File, c *conn, s sandbox, e endpoint) (int, error) {
	n.mu.Lock()
	nw := n.nets[e.Network]
	n.mu.Unlock()
	if nw == nil {
		return 0, fail.New(fail.NotFound, "network %s not found", e.NetworkName)
	}
	if err := n.host.do(drivers[nw.rec.Driver].plug(n, nw, ns, e)...); err != nil {
		return 0, err
	}
	return c.index(e.Interface)
}

// carry makes the kernel notice that both ends of an endpoint's link are up, and with the
// first one the bridge, before anything is sent: it does so by itself a little later, and
// drops everything till then. A question for a link's state is answered with the true one,
// which has to be found first (rtnl_getlink, linkwatch_sync_dev; since Linux 6.8).
func (n *Networks) carry(c *conn, index int, e endpoint) error {
	if e.Link == "" {
		return nil
	}
	if _, err := c.exchange([]message{askLink(index, "")}); err != nil {
		return err
	}
	n.mu.Lock()
	nw := n.nets[e.Network]
	n.mu.Unlock()
	if nw == nil {
		return fail.New(fail.NotFound, "network %s not found", e.NetworkName)
	}
	_, err := n.host.exchange([]message{askLink(0, e.Link), askLink(int(nw.index.Load()), "")})
	return err
}

// settle gives an interface its addresses, brings it up, and makes it the way out if it is
// that.
func settle(ns *os.File, c *conn, index int, s sandbox, e endpoint, out4, out6 bool) error {
	six := e.IPv6.IsValid() || slices.ContainsFunc(e.LinkLocal, netip.Addr.Is6)
	sysctls, err := endpointSysctlsOf(e)
	if err != nil {
		return err
	}
	// Neighbours are told where an address is now. Not on a bridge, where the MAC address
	// follows from it and theirs is no news to them: with 200 containers there the telling
	// takes longer than the rest of the start.
	if e.Link == "" || !bytes.Equal(e.MAC, macOf(e.IPv4.Addr())) {
		sysctls = append(sysctls, [2]string{"ipv4/conf/IFNAME/arp_notify", "1"})
	}
	if six != s.Six || len(sysctls) > 0 {
		if err := inNamespace(ns, func(*conn) error { return tune(e.Interface, six, sysctls) }); err != nil {
			return err
		}
	}
	var batch []message
	for _, p := range e.addresses() {
		batch = append(batch, addAddress(index, p))
	}
	for _, a := range e.LinkLocal {
		bits := 16
		if a.Is6() {
			bits = 64
		}
		batch = append(batch, addAddress(index, netip.PrefixFrom(a, bits)))
	}
	// Also where it is so already: that makes the kernel tell the neighbours, where it does.
	if e.MAC != nil {
		batch = append(batch, setAddress(index, e.MAC))
	}
	batch = append(batch, setUp(index, e.Interface))
	return c.do(append(batch, ways(unix.RTM_NEWROUTE, index, e, out4, out6)...)...)
}

func tune(name string, six bool, sysctls [][2]string) error {
	if err := optionalSysctl("ipv6/conf/"+name+"/disable_ipv6", flag(!six)); err != nil {
		return err
	}
	for _, kv := range sysctls {
		if err := sysctl(strings.Replace(kv[0], "IFNAME", name, 1), kv[1]); err != nil {
			return fail.Mark(fail.Invalid, err)
		}
	}
	return nil
}

func endpointSysctlsOf(e endpoint) ([][2]string, error) {
	if v, ok := e.Options[optSysctls]; ok {
		return endpointSysctls(v)
	}
	return nil, nil
}

// ways are the messages that make (or delete) the default routes by an endpoint.
func ways(kind, index int, e endpoint, out4, out6 bool) []message {
	var batch []message
	for _, f := range []struct {
		out     bool
		gateway netip.Addr
		own     netip.Prefix
		six     bool
	}{{out4, e.Gateway4, e.IPv4, false}, {out6, e.Gateway6, e.IPv6, true}} {
		switch {
		case !f.out:
		case e.OnDevice:
			batch = append(batch, defaultRoute(kind, index, netip.Addr{}, f.six))
		case f.gateway.IsValid():
			if kind == unix.RTM_NEWROUTE && !f.own.Masked().Contains(f.gateway) {
				batch = append(batch, onLink(index, f.gateway))
			}
			batch = append(batch, defaultRoute(kind, index, f.gateway, f.six))
		}
	}
	return batch
}

// addresses are the endpoint's own, not link-local ones.
func (e Endpoint) addresses() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range []netip.Prefix{e.IPv4, e.IPv6} {
		if p.IsValid() {
			out = append(out, p)
		}
	}
	return out
}

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

// reserve takes what a sandbox needs of the networks, and returns it with its turn held.
func (n *Networks) reserve(r SandboxRequest) (*box, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.boxes[r.ID]; ok {
		return nil, fail.New(fail.Conflict, "container %s has a network already", r.ID)
	}
	s := sandbox{ID: r.ID, Name: r.Name}
	for _, er := range r.Endpoints {
		e, err := n.newEndpoint(s, er)
		if err != nil {
			n.giveBack(s)
			return nil, err
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	n.chooseGateways(&s)
	b := &box{rec: s}
	b.turn.Lock()
	n.boxes[r.ID] = b
	return b, nil
}

// giveBack undoes newEndpoint for all of s. The caller holds mu.
func (n *Networks) giveBack(s sandbox) {
	for _, e := range s.Endpoints {
		n.giveBackOne(e)
	}
}

func (n *Networks) giveBackOne(e endpoint) {
	nw := n.nets[e.Network]
	if nw == nil {
		return
	}
	nw.ends--
	for _, p := range e.addresses() {
		if sp := nw.spaceOf(p.Addr()); sp != nil {
			sp.Give(p.Addr())
		}
	}
}

func (nw *entry) spaceOf(a netip.Addr) *ipam.Space {
	for _, s := range nw.space {
		if s.Subnet().Contains(a) {
			return s
		}
	}
	return nil
}

// newEndpoint takes what a place on a network needs. The caller holds mu.
func (n *Networks) newEndpoint(s sandbox, r EndpointRequest) (e endpoint, err error) {
	nw, err := n.find(r.Network)
	if err != nil {
		return e, err
	}
	if err := usable(nw); err != nil {
		return e, err
	}
	if err := checkEndpointOptions(r.Options); err != nil {
		return e, err
	}
	if slices.ContainsFunc(s.Endpoints, func(o endpoint) bool { return o.Network == nw.rec.ID }) {
		return e, fail.New(fail.Forbidden, "container is already connected to network %s", nw.rec.Name)
	}
	e.Endpoint = Endpoint{
		ID: randomHex(64), Network: nw.rec.ID, NetworkName: nw.rec.Name, MAC: r.MAC, LinkLocal: r.LinkLocal,
		Names: r.Names, Options: r.Options, GwPriority: r.GwPriority,
	}
	for _, a := range r.LinkLocal {
		if !a.IsLinkLocalUnicast() {
			return e, fail.New(fail.Invalid, "%s is not a link-local address", a)
		}
	}
	if e.Interface, err = interfaceName(s, nw.set.prefix, r.Options[optIfname]); err != nil {
		return e, err
	}
	defer func() {
		if err != nil {
			nw.ends++ // as giveBackOne counts it down
			n.giveBackOne(e)
		}
	}()
	for _, f := range []struct {
		enabled bool
		wanted  netip.Addr
		to      *netip.Prefix
		gateway *netip.Addr
		is4     bool
	}{{nw.rec.EnableIPv4, r.IPv4, &e.IPv4, &e.Gateway4, true}, {nw.rec.EnableIPv6, r.IPv6, &e.IPv6, &e.Gateway6, false}} {
		if !f.enabled && f.wanted.IsValid() {
			return e, fail.New(fail.Invalid, "invalid address %s: network %s has no addresses of this family", f.wanted, nw.rec.Name)
		}
		if !f.enabled {
			continue
		}
		pool, a, err := nw.takeAddress(f.wanted, f.is4)
		if err != nil {
			return e, err
		}
		*f.to = netip.PrefixFrom(a, pool.Subnet.Bits())
		*f.gateway = nw.gateway(pool)
	}
	e.OnDevice = !nw.rec.Internal && nw.rec.Driver == "ipvlan" && strings.HasPrefix(nw.set.mode, "l3")
	switch {
	case nw.rec.Driver == "ipvlan" && e.MAC != nil:
		return e, fail.New(fail.Invalid, "a container on an ipvlan network has its parent interface's MAC address: it cannot have %s", e.MAC)
	case nw.rec.Driver == "ipvlan":
	case e.MAC == nil:
		e.MAC = macOf(e.IPv4.Addr())
	case len(e.MAC) != 6 || e.MAC[0]&1 != 0:
		return e, fail.New(fail.Invalid, "invalid MAC address %s: it is a multicast address or no Ethernet address", e.MAC)
	}
	nw.ends++
	return e, nil
}

// takeAddress takes the wanted address of a network, or any one of the family.
func (nw *entry) takeAddress(wanted netip.Addr, is4 bool) (Pool, netip.Addr, error) {
	if wanted.IsValid() && nw.rec.Predefined {
		return Pool{}, wanted, fail.New(fail.Invalid, "user specified IP address is supported on user defined networks only")
	}
	full := ipam.ErrFull
	for i, p := range nw.rec.IPAM.Pools {
		if p.Subnet.Addr().Is4() != is4 {
			continue
		}
		if !wanted.IsValid() {
			a, err := nw.space[i].Next()
			if err == nil {
				return p, a, nil
			}
			full = err
			continue
		}
		if !p.Subnet.Contains(wanted) {
			continue
		}
		if i < len(nw.rec.Auto) && nw.rec.Auto[i] {
			return p, wanted, fail.New(fail.Invalid, "user specified IP address is supported only when connecting to networks with user configured subnets")
		}
		switch err := nw.space[i].Take(wanted); {
		case errors.Is(err, ipam.ErrTaken):
			return p, wanted, fail.New(fail.Forbidden, "Address already in use: %s on network %s", wanted, nw.rec.Name)
		case err != nil:
			return p, wanted, fail.New(fail.Invalid, "invalid address %s: it is the network or broadcast address of %s", wanted, p.Subnet)
		}
		return p, wanted, nil
	}
	if wanted.IsValid() {
		return Pool{}, wanted, fail.New(fail.Invalid, "invalid address %s: it is not in a subnet of network %s (%s)", wanted, nw.rec.Name, nw.subnets())
	}
	return Pool{}, wanted, fail.New(fail.Conflict, "network %s: %w", nw.rec.Name, full)
}

func (nw *entry) subnets() string {
	var out []string
	for _, p := range nw.rec.IPAM.Pools {
		out = append(out, p.Subnet.String())
	}
	return strings.Join(out, ", ")
}

// gateway is where the default route of a pool's endpoints leads to; zero: nowhere.
func (nw *entry) gateway(p Pool) netip.Addr {
	f := 0
	aux := "DefaultGatewayIPv4"
	if p.Subnet.Addr().Is6() {
		f, aux = 1, "DefaultGatewayIPv6"
	}
	switch a, ok := p.Aux[aux]; {
	case nw.rec.Internal, nw.set.modes[f] == modeIsolated, nw.rec.Driver == "ipvlan" && strings.HasPrefix(nw.set.mode, "l3"):
		return netip.Addr{}
	case ok:
		return a
	}
	return p.Gateway
}

// interfaceName is the first free name, or the one that was asked for.
func interfaceName(s sandbox, prefix, wanted string) (string, error) {
	taken := func(name string) bool {
		return name == "lo" || slices.ContainsFunc(s.Endpoints, func(e endpoint) bool { return e.Interface == name })
	}
	if wanted != "" {
		if taken(wanted) {
			return "", fail.New(fail.Conflict, "the container has an interface %s already", wanted)
		}
		return wanted, nil
	}
	for i := 0; ; i++ {
		if name := fmt.Sprintf("%s%d", cmp.Or(prefix, "eth"), i); !taken(name) {
			return name, nil
		}
	}
}

// macOf is the MAC address of whoever has the IPv4 address: always the same, so that
// neighbours that remember the previous one are right.
func macOf(a netip.Addr) gonet.HardwareAddr {
	if !a.Is4() {
		return randomMAC()
	}
	b := a.As4()
	return gonet.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}
}

// chooseGateways decides which networks provide the default routes: those of the highest
// priority, then those that have one for both families, or for IPv6, then the first by name
// (as Docker does it).
func (n *Networks) chooseGateways(s *sandbox) {
	order := slices.Clone(s.Endpoints)
	families := func(e endpoint) (weight int) {
		if e.Gateway4.IsValid() || e.OnDevice && e.IPv4.IsValid() {
			weight++
		}
		if e.Gateway6.IsValid() || e.OnDevice && e.IPv6.IsValid() {
			weight += 2
		}
		return weight
	}
	slices.SortStableFunc(order, func(a, b endpoint) int {
		return cmp.Or(cmp.Compare(b.GwPriority, a.GwPriority), cmp.Compare(families(b), families(a)), strings.Compare(a.NetworkName, b.NetworkName))
	})
	s.Gateway4, s.Gateway6 = "", ""
	for _, e := range order {
		if s.Gateway4 == "" && (e.Gateway4.IsValid() || e.OnDevice && e.IPv4.IsValid()) {
			s.Gateway4 = e.Network
		}
		if s.Gateway6 == "" && (e.Gateway6.IsValid() || e.OnDevice && e.IPv6.IsValid()) {
			s.Gateway6 = e.Network
		}
	}
}

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
