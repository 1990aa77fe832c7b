package firewall

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestMain runs the tests in a process with a network namespace of its own: that is "the host".
func TestMain(m *testing.M) {
	const inside = "BERTH_TEST_FIREWALL_NETNS"
	if os.Getuid() != 0 || os.Getenv(inside) != "" {
		runtime.LockOSThread() // so that no node gets the first thread, whose namespace /proc/self shows
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "no network namespace to test in:", err)
		os.Exit(1)
	}
}

// node is a machine, or a container: a network namespace with one thread that lives in it.
type node struct {
	t    testing.TB
	name string
	ns   *os.File
	jobs chan func()
}

// newHost gives the process's own namespace, empty.
func newHost(t testing.TB) *node {
	t.Helper()
	if os.Getuid() != 0 || testing.Short() {
		t.Skip("machines made of network namespaces: need root, and seconds")
	}
	h := enter(t, "host", false)
	t.Cleanup(func() {
		links, _ := netlink.LinkList()
		for _, l := range links {
			if l.Type() == "bridge" || l.Type() == "veth" {
				netlink.LinkDel(l)
			}
		}
		c, _ := nftables.New()
		c.FlushRuleset()
		c.Flush()
	})
	for _, f := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		write(t, "/proc/sys/net/"+f, "1")
	}
	return h
}

func newNode(t testing.TB, name string) *node { return enter(t, name, true) }

func enter(t testing.TB, name string, fresh bool) *node {
	n := &node{t: t, name: name, jobs: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		var err error
		if fresh {
			err = unix.Unshare(unix.CLONE_NEWNET)
		}
		if err == nil {
			n.ns, err = os.Open("/proc/thread-self/ns/net")
		}
		ready <- err
		for job := range n.jobs {
			job()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(n.jobs); n.ns.Close() })
	n.must(func() error {
		// addresses are good at once
		for _, f := range []string{"all", "default"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+f+"/accept_dad", []byte("0"), 0); err != nil {
				return err
			}
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return n
}

// do runs f inside the namespace.
func (n *node) do(f func()) {
	done := make(chan struct{})
	n.jobs <- func() { defer close(done); f() }
	<-done
}

func (n *node) must(f func() error) {
	n.t.Helper()
	var err error
	n.do(func() { err = f() })
	if err != nil {
		n.t.Fatalf("%s: %v", n.name, err)
	}
}

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

func (n *node) addresses(link string, addrs ...string) {
	n.t.Helper()
	n.must(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			if addr.IP.To4() == nil {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := netlink.AddrAdd(l, addr); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(l)
	})
}

// linkLocal tells an interface's address of fe80::/10.
func (n *node) linkLocal(link string) (ip string) {
	n.t.Helper()
	n.must(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V6)
		for _, a := range addrs {
			if a.IP.IsLinkLocalUnicast() {
				ip = a.IP.String()
			}
		}
		return err
	})
	return ip
}

func (n *node) route(to, via string) {
	n.t.Helper()
	n.must(func() error {
		_, dst, err := net.ParseCIDR(to)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)})
	})
}

// bridge makes a bridge on the host, with the host's addresses on it.
func (n *node) bridge(name string, addrs ...string) {
	n.t.Helper()
	n.must(func() error {
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}})
	})
	n.addresses(name, addrs...)
}

var cables int

// plug connects other to the host by a cable. On the host its end is name, or a port of the
// bridge.
func (n *node) plug(name, bridge string, other *node, inside string, addrs ...string) {
	n.t.Helper()
	if name == "" {
		cables++
		name = fmt.Sprintf("veth%d", cables)
	}
	n.must(func() error {
		v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: inside, PeerNamespace: netlink.NsFd(int(other.ns.Fd()))}
		if err := netlink.LinkAdd(v); err != nil {
			return err
		}
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if bridge != "" {
			b, err := netlink.LinkByName(bridge)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetMaster(l, b); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(l)
	})
	other.addresses(inside, addrs...)
}

// serve answers on every TCP connection and UDP datagram with its name and the client's
// address, until the test ends.
func (n *node) serve(addrs ...string) {
	n.t.Helper()
	for _, a := range addrs {
		n.must(func() error {
			l, err := net.Listen("tcp", a)
			if err != nil {
				return err
			}
			n.t.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer c.Close()
						io.WriteString(c, n.name+" "+hostOf(c.RemoteAddr())+"\n")
						io.Copy(c, c) // stays open, echoing
					}()
				}
			}()
			p, err := net.ListenPacket("udp", a)
			if err != nil {
				return err
			}
			n.t.Cleanup(func() { p.Close() })
			go func() {
				b := make([]byte, 2048)
				for {
					_, from, err := p.ReadFrom(b)
					if err != nil {
						return
					}
					p.WriteTo([]byte(n.name+" "+hostOf(from)+"\n"), from)
				}
			}()
			return nil
		})
	}
}

// ping sends an echo request and tells whether it was answered.
func (n *node) ping(ip string) (answered bool) {
	n.t.Helper()
	addr := netip.MustParseAddr(ip)
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if addr.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	n.must(func() error {
		c, err := net.Dial(network, ip)
		if err != nil {
			return err
		}
		defer c.Close()
		message := []byte{request, 0, ^request, 0xff, 0, 0, 0, 0} // the kernel corrects the checksum of IPv6
		if _, err := c.Write(message); err != nil {
			return err
		}
		c.SetReadDeadline(time.Now().Add(4 * patience))
		b := make([]byte, 256)
		for {
			m, _, err := c.(*net.IPConn).ReadFrom(b) // without the header
			if err != nil {
				return nil
			}
			if m > 0 && b[0] == reply {
				answered = true
				return nil
			}
		}
	})
	return answered
}

func hostOf(a net.Addr) string {
	return netip.MustParseAddrPort(a.String()).Addr().Unmap().WithZone("").String()
}

const patience = 120 * time.Millisecond // for answers that must not come; those that must have longer

// get is ask for an answer that must come.
func (n *node) get(proto, addr string) (answer string) {
	n.t.Helper()
	n.do(func() { answer = ask(proto, addr, 30*time.Second) })
	return answer
}

// ask connects and returns what the server said, or "" if nobody answered.
func (n *node) ask(proto, addr string) (answer string) {
	n.t.Helper()
	n.do(func() { answer = ask(proto, addr, patience) })
	return answer
}

func ask(proto, addr string, wait time.Duration) string {
	c, err := net.DialTimeout(proto, addr, wait)
	if err != nil {
		return ""
	}
	defer c.Close()
	if proto == "udp" {
		c.Write([]byte("?"))
	}
	return answer(c, wait)
}

func answer(c net.Conn, wait time.Duration) string {
	c.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, 256)
	m, err := c.Read(b)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b[:m]))
}

// connect opens a connection to a server and reads its greeting.
func (n *node) connect(addr string) (c net.Conn, err error) {
	n.do(func() {
		if c, err = net.DialTimeout("tcp", addr, 30*time.Second); err == nil {
			_, err = bufio.NewReaderSize(c, 16).ReadString('\n')
		}
	})
	return c, err
}

// echo sends a line on an open connection and returns what comes back.
func echo(c net.Conn, line string) string {
	c.SetDeadline(time.Now().Add(30 * time.Second))
	defer c.SetDeadline(time.Time{})
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return err.Error()
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(answer)
}

// expect asks by TCP and UDP, at the same time. want "" means that nobody answers.
func (n *node) expect(addr, want string) {
	n.t.Helper()
	var tcp, udp string
	n.do(func() {
		u, err := net.Dial("udp", addr)
		if err == nil {
			defer u.Close()
			u.Write([]byte("?"))
		}
		tcp = ask("tcp", addr, patience)
		if err == nil {
			udp = answer(u, patience/4)
		}
		if want != "" && tcp == "" { // a busy machine
			tcp = ask("tcp", addr, 30*time.Second)
		}
		if want != "" && udp == "" {
			udp = ask("udp", addr, 30*time.Second)
		}
	})
	if tcp != want {
		n.t.Errorf("%s asks tcp %s: answer %q, want %q", n.name, addr, tcp, want)
	}
	if udp != want {
		n.t.Errorf("%s asks udp %s: answer %q, want %q", n.name, addr, udp, want)
	}
}

func openTable(t testing.TB, cfg Config) *Table {
	t.Helper()
	if cfg.Table == "" {
		cfg.Table = "berth_test"
	}
	cfg.Log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	table, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close(true) })
	return table
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}
