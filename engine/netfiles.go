package engine

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	mobynet "github.com/moby/moby/api/types/network"

	"berth/dns"
	"berth/durable"
	"berth/fail"
	"berth/network"
)

// writeNetFiles makes hostname, hosts and resolv.conf in the container's directory. sb is
// nil for a container that is on no networks. They are remade at every start, so losing
// them to a power loss costs nothing.
func (w *wiring) writeNetFiles(dir string, c Container, sb *network.Sandbox) error {
	hosts, err := w.hostsFile(c, sb)
	if err != nil {
		return err
	}
	for _, f := range []struct{ name, text string }{
		{"hostname", c.Config.Hostname + "\n"}, {"hosts", hosts}, {"resolv.conf", w.resolvFile(c, sb)},
	} {
		// A file that is mounted somewhere keeps its inode if nothing changes.
		path := filepath.Join(dir, f.name)
		if holds(path, f.text) {
			continue
		}
		if err := durable.WriteFileVolatile(path, []byte(f.text), 0o644); err != nil {
			return fmt.Errorf("write the container's %s: %w", f.name, err)
		}
	}
	return nil
}

// holds reports whether a file has that text and no more. The container can write to it, so it may be of any size.
func holds(path, text string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	have, err := io.ReadAll(io.LimitReader(f, int64(len(text))+1))
	return err == nil && string(have) == text
}

// rehost makes the hosts file of a running container follow a change of its networks.
func (w *wiring) rehost(dir string, c Container, before, after *network.Sandbox) error {
	h := *c.HostConfig
	h.Links, c.HostConfig = nil, &h // they stay as they are, see relink
	was, err := w.hostsFile(c, before)
	if err != nil {
		return err
	}
	is, err := w.hostsFile(c, after)
	if err != nil {
		return err
	}
	old, now := strings.Split(was, "\n"), strings.Split(is, "\n")
	return editHosts(dir, func(line string) bool {
		return slices.Contains(old, line) && !slices.Contains(now, line)
	}, missing(now, old))
}

// missing are the lines of a that are missing in b.
func missing(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(line string) bool { return slices.Contains(b, line) })
}

// editHosts drops and adds lines of a running container's hosts file, and leaves all others
// as they are: the container may have changed it. It is done in place, for the file itself is
// mounted in the container, and without a moment in which it is empty. One that the container
// has made larger than maxHosts is refused.
func editHosts(dir string, drop func(line string) bool, add []string) error {
	f, err := os.OpenFile(filepath.Join(dir, "hosts"), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("change the container's hosts: %w", err)
	}
	defer f.Close()
	was, err := io.ReadAll(io.LimitReader(f, maxHosts+1))
	if err == nil && len(was) > maxHosts {
		err = fail.New(fail.Conflict, "it is larger than %d bytes, and stays as the container has made it", maxHosts)
	}
	if err != nil {
		return fmt.Errorf("change the container's hosts: %w", err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(was)) {
		line = strings.TrimSuffix(line, "\n")
		if !drop(line) && !slices.Contains(add, line) {
			out.WriteString(line + "\n")
		}
	}
	for _, line := range add {
		out.WriteString(line + "\n")
	}
	if out.String() == string(was) {
		return nil
	}
	if _, err = f.WriteAt([]byte(out.String()), 0); err == nil {
		err = f.Truncate(int64(out.Len()))
	}
	if err != nil {
		return fmt.Errorf("change the container's hosts: %w", err)
	}
	return nil
}

// maxHosts bounds a hosts file that is read to be changed.
const maxHosts = 4 << 20

const ownHosts = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// hostNames always mean the machine that containers run on.
var hostNames = []string{"host.docker.internal", "host.berth.internal"}

// hostsFile is the host's own file for --network host, else one that knows loopback; with
// the extra hosts, the links of the default bridge, the machine, and the container itself
// on its networks. Of several lines for one name the first one counts.
func (w *wiring) hostsFile(c Container, sb *network.Sandbox) (string, error) {
	text := ownHosts
	h := c.HostConfig
	if h.NetworkMode.IsHost() {
		b, err := os.ReadFile("/etc/hosts")
		if err != nil && !os.IsNotExist(err) {
			return "", fmt.Errorf("read the host's hosts: %w", err)
		}
		if len(b) > 0 {
			text = strings.TrimRight(string(b), "\n") + "\n"
		}
	}
	out := hostLines{text: text}
	gateways := w.hostAddresses(c, sb)
	for _, e := range h.ExtraHosts {
		name, addr := splitExtraHost(e)
		if addr != hostGateway {
			out.add(addr, name)
			continue
		}
		for _, a := range gateways {
			out.add(a.String(), name)
		}
	}
	if sb != nil && h.NetworkMode.IsBridge() {
		if err := w.linkLines(&out, c); err != nil {
			return "", err
		}
	}
	var machine []string
	for _, n := range hostNames {
		if !slices.Contains(out.names, n) {
			machine = append(machine, n)
		}
	}
	for _, a := range gateways {
		out.add(a.String(), machine...)
	}
	if sb != nil {
		names := []string{c.Config.Hostname}
		if c.Config.Domainname != "" {
			names = []string{c.Config.Hostname + "." + c.Config.Domainname, c.Config.Hostname}
		}
		for _, e := range sb.Endpoints {
			for _, p := range []netip.Prefix{e.IPv4, e.IPv6} {
				if p.IsValid() {
					out.add(p.Addr().String(), names...)
				}
			}
		}
	}
	return out.text, nil
}

// givenAway reports whether --add-host says what a name means.
func givenAway(c Container, name string) bool {
	return slices.ContainsFunc(c.HostConfig.ExtraHosts, func(e string) bool {
		own, _ := splitExtraHost(e)
		return own == name
	})
}

// hostLines is a hosts file in the making.
type hostLines struct {
	text  string
	names []string // added ones
}

func (l *hostLines) add(addr string, names ...string) {
	if len(names) == 0 || addr == "" {
		return
	}
	l.text += addr + "\t" + strings.Join(names, " ") + "\n"
	l.names = append(l.names, names...)
}

// hostGateway stands for the host's address in --add-host.
const hostGateway = "host-gateway"

// splitExtraHost takes NAME:ADDRESS apart.
func splitExtraHost(e string) (name, addr string) {
	name, addr, _ = strings.Cut(e, ":")
	return name, strings.Trim(addr, "[]")
}

// hostAddresses are where a container finds the machine: loopback in the host's own
// network, what the engine is configured with, the container's own bridge, which is up as
// long as the container is on it, else the default bridge.
func (w *wiring) hostAddresses(c Container, sb *network.Sandbox) []netip.Addr {
	switch {
	case c.HostConfig.NetworkMode.IsHost():
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	case sb == nil:
		return nil
	case len(w.gateways) > 0:
		return w.gateways
	}
	var v4, v6 netip.Addr
	if n := w.portNetwork(sb); n != nil {
		for _, e := range sb.Endpoints {
			if e.Network == n.ID {
				v4, v6 = e.Gateway4, e.Gateway6
			}
		}
	}
	if !v4.IsValid() && !v6.IsValid() {
		v4, v6 = w.nets.HostGateway()
	}
	return slices.DeleteFunc([]netip.Addr{v4, v6}, func(a netip.Addr) bool { return !a.IsValid() })
}

// nameServers are what a container's queries are answered by.
type nameServers struct {
	servers         []string // ADDRESS
	fromHost        bool     // they can be asked from the host's network only
	search, options []string
}

// parseResolv reads a resolv.conf(5).
func parseResolv(text string) nameServers {
	var n nameServers
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			n.servers = append(n.servers, f[1])
			n.fromHost = n.fromHost || onlyFromHost(f[1])
		case "search":
			n.search = f[1:]
		case "domain":
			n.search = f[1:2]
		case "options":
			n.options = append(n.options, f[1:]...)
		}
	}
	if len(n.servers) == 0 { // then the local machine's is used
		n.servers, n.fromHost = []string{"127.0.0.1"}, true
	}
	return n
}

// onlyFromHost reports whether a server's address means something on the host alone:
// loopback, or a link's.
func onlyFromHost(server string) bool {
	a, err := netip.ParseAddr(server)
	return err == nil && (a.Unmap().IsLoopback() || a.Zone() != "")
}

// upstream are the servers, search domains and options that a container asked for, else the
// engine's, else the host's. An engine's or container's lone search domain "." means none.
func (w *wiring) upstream(h *container.HostConfig) nameServers {
	b, _ := os.ReadFile(w.resolvPath) // without one the host asks itself, as with an empty one
	n := parseResolv(string(b))
	for _, s := range [][]netip.Addr{w.dns.Servers, h.DNS} {
		if len(s) > 0 {
			n.servers, n.fromHost = addresses(s), false
		}
	}
	for _, s := range [][]string{w.dns.Search, h.DNSSearch} {
		if len(s) > 0 {
			n.search = s
		}
	}
	for _, o := range [][]string{w.dns.Options, h.DNSOptions} {
		if len(o) > 0 {
			n.options = o
		}
	}
	if len(n.search) == 1 && n.search[0] == "." {
		n.search = nil
	}
	return n
}

func addresses(a []netip.Addr) []string {
	out := make([]string, len(a))
	for n, x := range a {
		out[n] = x.String()
	}
	return out
}

// resolvFile leads to the resolver of Berth in a container on networks, and to the servers
// themselves in others. Without a network those on the host's loopback are left out: the
// container's own loopback is another one.
func (w *wiring) resolvFile(c Container, sb *network.Sandbox) string {
	h := c.HostConfig
	if h.NetworkMode.IsHost() && len(h.DNS)+len(h.DNSSearch)+len(h.DNSOptions)+len(w.dns.Servers)+len(w.dns.Search)+len(w.dns.Options) == 0 {
		b, _ := os.ReadFile(w.resolvPath)
		return string(b)
	}
	up := w.upstream(h)
	servers, options := up.servers, up.options
	var notes string
	switch {
	case sb != nil:
		servers = []string{dns.Address.String()}
		if !slices.ContainsFunc(options, isNdots) {
			options = append(slices.Clone(options), "ndots:0")
		}
		notes = "\n# Berth's resolver knows the containers of this one's networks.\n# ExtServers: [" + strings.Join(up.described(), " ") + "]\n"
	case !h.NetworkMode.IsHost() && up.fromHost:
		servers = slices.DeleteFunc(slices.Clone(servers), onlyFromHost)
	}
	var out strings.Builder
	for _, s := range servers {
		out.WriteString("nameserver " + s + "\n")
	}
	if len(up.search) > 0 {
		out.WriteString("search " + strings.Join(up.search, " ") + "\n")
	}
	if len(options) > 0 {
		out.WriteString("options " + strings.Join(options, " ") + "\n")
	}
	return out.String() + notes
}

// described are the servers as Docker's comment in resolv.conf tells them.
func (n nameServers) described() []string {
	out := slices.Clone(n.servers)
	for i, s := range out {
		if n.fromHost {
			out[i] = "host(" + s + ")"
		}
	}
	return out
}

func isNdots(option string) bool { return strings.HasPrefix(option, "ndots:") }

// manyDots reports whether the options tell the resolver to try names without dots on no
// server: ndots is set, to more than 0.
func manyDots(options []string) bool {
	for _, o := range options {
		if v, ok := strings.CutPrefix(o, "ndots:"); ok {
			n, err := strconv.Atoi(v)
			return err == nil && n > 0
		}
	}
	return false
}

// onOne is the request for a place on one network, with nothing special.
func onOne(name string) *mobynet.NetworkingConfig {
	return &mobynet.NetworkingConfig{EndpointsConfig: map[string]*mobynet.EndpointSettings{name: {}}}
}
