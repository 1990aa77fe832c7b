package supervisor

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"berth/dns"
	"berth/fail"
	"berth/kernel"
)

// netns is a network namespace that a cable leads to, and a server in it.
type netns struct {
	t    *testing.T
	file *os.File
	addr netip.Addr // its end of the cable
	port uint16     // of a TCP and UDP server that echoes
}

func newNetns(t *testing.T) *netns {
	t.Helper()
	var id [4]byte
	rand.Read(id[:])
	name := "bsup" + hex.EncodeToString(id[:])
	n := &netns{t: t, addr: netip.AddrFrom4([4]byte{198, 19, id[0], id[1]&^3 | 2})} // of RFC 2544's networks for tests
	ours := netip.PrefixFrom(n.addr.Prev(), 30)
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	n.run(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		n.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	t.Cleanup(func() { n.file.Close() })
	try(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(n.file.Fd())}))
	link, err := netlink.LinkByName(name)
	try(err)
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	addr, err := netlink.ParseAddr(ours.String())
	try(err)
	try(netlink.AddrAdd(link, addr))
	try(netlink.LinkSetUp(link))
	n.inside(func() error {
		for name, addr := range map[string]string{"lo": "", "eth0": netip.PrefixFrom(n.addr, 30).String()} {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if a, err := netlink.ParseAddr(addr); err == nil {
				if err := netlink.AddrAdd(link, a); err != nil {
					return err
				}
			}
			if err := netlink.LinkSetUp(link); err != nil {
				return err
			}
		}
		return n.serve()
	})
	return n
}

// run calls f on a thread of its own, inside does so in the namespace.
func (n *netns) run(f func() error) {
	n.t.Helper()
	var err error
	kernel.OnOwnThread(func() { err = f() })
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *netns) inside(f func() error) {
	n.t.Helper()
	n.run(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// serve echoes what it gets.
func (n *netns) serve() error {
	l, err := net.Listen("tcp4", ":0")
	if err != nil {
		return err
	}
	u, err := net.ListenPacket("udp4", l.Addr().String())
	if err != nil {
		l.Close()
		return err
	}
	n.port = uint16(l.Addr().(*net.TCPAddr).Port)
	go func() { // these end with their sockets
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			}()
		}
	}()
	go func() {
		buf := make([]byte, 2048)
		for {
			size, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(buf[:size], from)
		}
	}()
	n.t.Cleanup(func() {
		l.Close()
		u.Close()
	})
	return nil
}

// resolve asks the resolver in the namespace for addresses.
func (n *netns) resolve(network, name string) (list []string, code dnsmessage.RCode) {
	n.t.Helper()
	n.inside(func() error {
		q := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true},
			Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
		raw, err := q.Pack()
		if err != nil {
			return err
		}
		c, err := net.Dial(network, netip.AddrPortFrom(dns.Address, dns.Port).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		in := make([]byte, 4096)
		if network == "tcp" {
			raw = append([]byte{0, byte(len(raw))}, raw...)
		}
		if _, err := c.Write(raw); err != nil {
			return err
		}
		size, err := c.Read(in)
		if err != nil {
			return err
		}
		in = in[:size]
		if network == "tcp" {
			in = in[2:]
		}
		var m dnsmessage.Message
		if err := m.Unpack(in); err != nil {
			return err
		}
		for _, a := range m.Answers {
			if a, ok := a.Body.(*dnsmessage.AResource); ok {
				list = append(list, netip.AddrFrom4(a.A).String())
			}
		}
		code = m.RCode
		return nil
	})
	return list, code
}

// talk says something through a published port, and waits for the echo.
func talk(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	in := make([]byte, 16)
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Errorf("write: %v", err)
		return
	}
	if n, err := c.Read(in); err != nil || string(in[:n]) != "hello" {
		t.Errorf("%q came back, %v", in[:n], err)
	}
}

func connectTo(t *testing.T, network string, p Port) net.Conn {
	t.Helper()
	ip := "127.0.0.1"
	if p.HostIP.Is6() {
		ip = "::1"
	}
	c, err := net.Dial(network, net.JoinHostPort(ip, fmt.Sprint(p.HostPort)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// nameserver answers everything with 192.0.2.7, in the namespace of the calling thread.
func nameserver(t *testing.T, addr string) string {
	u, err := net.ListenPacket("udp4", addr)
	if err != nil {
		t.Error(err)
		return ""
	}
	t.Cleanup(func() { u.Close() })
	go func() { // ends with its socket
		buf := make([]byte, 2048)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil {
				continue
			}
			m.Response = true
			m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET}, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 7}}}}
			if raw, err := m.Pack(); err == nil {
				_, _ = u.WriteTo(raw, from)
			}
		}
	}()
	return u.LocalAddr().String()
}

func TestPortsAndNamesOutliveTheEngine(t *testing.T) {
	for _, runtime := range []string{"", "runc"} {
		t.Run("runtime "+runtime, func(t *testing.T) {
			s, n := newStage(t, 1), newNetns(t)
			cfg := s.config("sleep", "1000")
			if runtime != "" {
				path, err := exec.LookPath(runtime)
				if err != nil {
					t.Skip("needs runc (Debian: runc)")
				}
				cfg.Runtime = &Runtime{Name: runtime, Path: path}
			}
			joinNetns(&cfg, n)
			zone := filepath.Join(s.dir, "zone")
			write := func(z dns.Zone) {
				t.Helper()
				if err := z.WriteFile(zone); err != nil {
					t.Fatal(err)
				}
			}
			host := func(name, addr string) dns.Host {
				return dns.Host{Names: []string{name}, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
			}
			write(dns.Zone{Domain: "net", Hosts: []dns.Host{host("web", "10.9.0.2")}})
			cfg.Network = &Network{Target4: n.addr, Ports: []Port{{Proto: "tcp", ContainerPort: n.port}, {Proto: "udp", ContainerPort: n.port}},
				DNS: &DNS{Zones: []string{zone}, Own: []OwnName{{"link", "web"}}, Servers: []string{nameserver(t, "127.0.0.1:0")}, FromHost: true}}
			shim := s.start(cfg)
			ports := shim.Ports()
			if len(ports) < 2 || ports[0].Proto != "tcp" || ports[0].HostPort == 0 || ports[len(ports)-1].Proto != "udp" {
				t.Fatalf("%+v", ports)
			}
			check := func(when string, names map[string]string) {
				t.Helper()
				for _, p := range ports {
					talk(t, connectTo(t, p.Proto, p))
				}
				for name, want := range names {
					for _, network := range []string{"udp", "tcp"} {
						if got, code := n.resolve(network, name); strings.Join(got, " ") != want {
							t.Errorf("%s: %s over %s is %v (%v), not %s", when, name, network, got, code, want)
						}
					}
				}
			}
			check("at first", map[string]string{"web.": "10.9.0.2", "LINK.": "10.9.0.2", "web.net.": "10.9.0.2", "other.example.": "192.0.2.7"})
			open := []net.Conn{connectTo(t, "tcp", ports[0]), connectTo(t, "udp", ports[len(ports)-1])}
			for _, c := range open {
				talk(t, c)
			}

			shim.Close()
			for _, c := range open {
				talk(t, c)
			}
			write(dns.Zone{Hosts: []dns.Host{host("web", "10.9.0.3"), host("db", "10.9.0.4")}})
			check("without an engine", map[string]string{"web.": "10.9.0.3", "db.": "10.9.0.4", "other.example.": "192.0.2.7"})

			shim, err := Reattach(s.ctx(), cfg.RunDir)
			if err != nil {
				t.Fatal(err)
			}
			if got := shim.Ports(); fmt.Sprint(got) != fmt.Sprint(ports) {
				t.Errorf("after the engine came back: %+v", got)
			}
			var inner string
			n.inside(func() error { inner = nameserver(t, "127.0.0.1:0"); return nil })
			change := *cfg.Network
			change.Ports = ports[:len(ports)-1]
			change.DNS = &DNS{Own: []OwnName{{"me", "10.9.0.9"}}, Servers: []string{inner}} // one in the container
			for range 2 {
				now, err := shim.SetNetwork(s.ctx(), change)
				if err != nil || fmt.Sprint(now) != fmt.Sprint(change.Ports) {
					t.Fatalf("%+v, %v", now, err)
				}
			}
			ports = change.Ports
			talk(t, open[0])
			check("changed", map[string]string{"web.": "192.0.2.7", "me.": "10.9.0.9"})
			change.DNS = &DNS{Internal: true}
			if _, err := shim.SetNetwork(s.ctx(), change); err != nil {
				t.Fatal(err)
			}
			if got, code := n.resolve("udp", "web."); code != dnsmessage.RCodeNameError {
				t.Errorf("on an internal network: %v, %v", got, code)
			}
			if err := shim.Signal(s.ctx(), "", unix.SIGKILL, false); err != nil {
				t.Fatal(err)
			}
			s.exit(shim)
			for _, p := range ports {
				// Somebody else's connection may have got that number from the kernel.
				eventually(t, "a port is free after the end", func() bool { return canListen(p.Proto, netip.AddrPortFrom(p.HostIP, p.HostPort).String()) == nil })
			}
		})
	}
}

// canListen tells whether a port is free. It says nothing of the other protocol's port of that number.
func canListen(proto, addr string) error {
	var l io.Closer
	var err error
	if proto == "udp" {
		l, err = net.ListenPacket("udp", addr)
	} else {
		l, err = net.Listen("tcp", addr)
	}
	if err != nil {
		return err
	}
	return l.Close()
}

func joinNetns(cfg *Config, n *netns) {
	for i, ns := range cfg.Spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			cfg.Spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd())
		}
	}
}

func TestANetworkThatCannotBeLeavesNoContainer(t *testing.T) {
	s := newStage(t, 1)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).AddrPort()
	for text, test := range map[string]struct {
		network Network
		class   fail.Class
	}{
		fmt.Sprintf("Bind for %s failed: port is already allocated", taken): {Network{Ports: []Port{{Proto: "tcp", ContainerPort: 80}, {Proto: "tcp", HostIP: taken.Addr(), HostPort: taken.Port(), ContainerPort: 81}}}, fail.Conflict},
		`"nobody" is no address of a DNS server`:                            {Network{DNS: &DNS{Servers: []string{"nobody"}}}, fail.Invalid},
		"names are not ours to resolve":                                     {Network{DNS: &DNS{}}, fail.Invalid},
	} {
		cfg := s.config("true")
		cfg.Network = &test.network
		if strings.HasPrefix(text, "names") { // in the host's network
			cfg.Spec.Linux.Namespaces = cfg.Spec.Linux.Namespaces[:4]
		}
		if _, err := s.launcher.Create(s.ctx(), cfg, nil); !fail.Is(err, test.class) || !strings.Contains(err.Error(), text) {
			t.Errorf("%v (%v), not %s", err, fail.Of(err), text)
		}
		if _, err := os.Stat(cfg.RunDir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the run directory is left", text)
		}
	}
}

func TestAThousandPortsOfOneContainer(t *testing.T) {
	s, n := newStage(t, 0), newNetns(t)
	cfg := s.config("sleep", "1000")
	joinNetns(&cfg, n)
	cfg.Network = &Network{Target4: n.addr}
	for range 1000 {
		cfg.Network.Ports = append(cfg.Network.Ports, Port{Proto: "tcp", HostIP: netip.MustParseAddr("127.0.0.1"), ContainerPort: n.port})
	}
	shim := s.start(cfg)
	ports := shim.Ports()
	if len(ports) != 1000 {
		t.Fatalf("%d ports", len(ports))
	}
	for _, i := range []int{0, 500, 999} {
		talk(t, connectTo(t, "tcp", ports[i]))
	}
	few, err := shim.SetNetwork(s.ctx(), Network{Target4: n.addr, Ports: ports[:1]})
	if err != nil || len(few) != 1 {
		t.Fatalf("%d, %v", len(few), err)
	}
	talk(t, connectTo(t, "tcp", few[0]))
	if _, err := net.Dial("tcp", netip.AddrPortFrom(ports[999].HostIP, ports[999].HostPort).String()); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a port that is not published any more: %v", err)
	}
	if err := shim.Signal(s.ctx(), "", unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	s.exit(shim)
}
