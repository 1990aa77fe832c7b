package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/dns"
	"berth/durable"
	"berth/fail"
	"berth/network/firewall"
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
		if e.Link == "" {
			if err := takeOver(c, index, p); err != nil {
				return err
			}
			continue
		}
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

// takeOver gives an interface an address that its last owner may still have. The kernel knows the addresses of
// all ipvlan interfaces of a parent, and those of an ended container until it has taken its
// namespace down, a while after the last process. It does not tell when that is done.
func takeOver(c *conn, index int, p netip.Prefix) error {
	for end := time.Now().Add(takeOverTime); ; time.Sleep(5 * time.Millisecond) {
		err := c.do(addAddress(index, p))
		if !errors.Is(err, unix.EADDRINUSE) || time.Now().After(end) {
			return err
		}
	}
}

// takeOverTime is how long a namespace may take to go.
const takeOverTime = 3 * time.Second

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
