package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"berth/durable"
	"berth/fail"
)

// The tests that speak to the kernel run in a network namespace of their own, which the
// whole test process lives in.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv("BERTH_TEST_NETNS") != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "BERTH_TEST_NETNS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// ground is where an engine's networks live in a test.
type ground struct {
	t   testing.TB
	db  *durable.DB
	cfg Config
	n   *Networks
}

// newGround opens networks in a host without other interfaces than loopback.
func newGround(t testing.TB, change ...func(*Config)) *ground {
	t.Helper()
	if os.Getenv("BERTH_TEST_NETNS") == "" {
		t.Skip("making network namespaces needs root")
	}
	g := &ground{t: t}
	g.at(t.TempDir(), change...)
	t.Cleanup(func() {
		for _, id := range g.n.Sandboxes() {
			if err := g.n.Leave(context.Background(), id); err != nil {
				t.Errorf("leave %s: %v", id, err)
			}
		}
		if err := g.n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		g.nothingLeft()
	})
	return g
}

// at opens the networks that are in dir, with an engine ID that is the directory's own.
func (g *ground) at(dir string, change ...func(*Config)) {
	g.t.Helper()
	var err error
	if g.db, err = durable.OpenDB(filepath.Join(dir, "berth.db")); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { g.db.Close() })
	g.identify(dir)
	for _, f := range change {
		f(&g.cfg)
	}
	g.open()
}

func (g *ground) identify(dir string) {
	sum := sha256.Sum256([]byte(dir))
	g.cfg = Config{DB: g.db, RunDir: filepath.Join(dir, "run"), EngineID: hex.EncodeToString(sum[:4]) + "-0000"}
}

// firstOf is the first address of a network that a container can have.
func (g *ground) firstOf(name string) netip.Addr {
	nw, err := g.n.Get(name)
	if err != nil {
		g.t.Fatal(err)
	}
	return nw.IPAM.Pools[0].Gateway.Next()
}

func (g *ground) open() {
	g.t.Helper()
	n, err := Open(context.Background(), g.cfg)
	if err != nil {
		g.t.Fatal(err)
	}
	g.n = n
}

// nothingLeft waits until the kernel has taken down what the namespaces of ended
// containers had.
func (g *ground) nothingLeft() {
	g.t.Helper()
	var left []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		left = nil
		links, err := whole(netlink.LinkList)
		if err != nil {
			g.t.Fatal(err)
		}
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Alias, "berth "+g.cfg.EngineID) {
				left = append(left, "interface "+l.Attrs().Name)
			}
		}
		files, _ := filepath.Glob(filepath.Join(g.cfg.RunDir, "*"))
		more, _ := filepath.Glob(filepath.Join(g.cfg.RunDir, "sandboxes", "*"))
		for _, f := range append(files, more...) {
			if filepath.Base(f) != "sandboxes" {
				left = append(left, f)
			}
		}
		if len(left) == 0 {
			return
		}
	}
	g.t.Errorf("left behind: %s", strings.Join(left, ", "))
}

func (g *ground) create(r CreateRequest) Network {
	g.t.Helper()
	nw, _, err := g.n.Create(context.Background(), r)
	if err != nil {
		g.t.Fatal(err)
	}
	return nw
}

func (g *ground) join(id string, eps ...EndpointRequest) *Sandbox {
	g.t.Helper()
	s, err := g.n.Join(context.Background(), SandboxRequest{ID: id, Name: "name-of-" + id, Endpoints: eps})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { s.Netns.Close() })
	return s
}

func (g *ground) publish(id string, ports ...Port) {
	g.t.Helper()
	if err := g.n.Publish(context.Background(), id, ports); err != nil {
		g.t.Fatal(err)
	}
}

func (g *ground) leave(id string) {
	g.t.Helper()
	if err := g.n.Leave(context.Background(), id); err != nil {
		g.t.Fatal(err)
	}
}

// inside runs f in a container's namespace.
func inside(t testing.TB, ns *os.File, f func() error) {
	t.Helper()
	if err := inNamespace(ns, func(*conn) error { return f() }); err != nil {
		t.Fatal(err)
	}
}

// reach serves one TCP connection in ns at addr, and returns how a client in from sees it:
// the server tells the client its address.
func reach(t testing.TB, from, ns *os.File, addr netip.Addr) (seen string, err error) {
	t.Helper()
	return reachWithin(t, from, ns, addr, 10*time.Second)
}

// unreachable is how long is waited for what must not come.
const unreachable = 300 * time.Millisecond

func reachWithin(t testing.TB, from, ns *os.File, addr netip.Addr, patience time.Duration) (seen string, err error) {
	t.Helper()
	var l net.Listener
	inside(t, ns, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
	dial := func() error {
		c, err := net.DialTimeout("tcp", l.Addr().String(), patience)
		if err != nil {
			return err
		}
		defer c.Close()
		b := make([]byte, 100)
		n, err := c.Read(b)
		seen = string(b[:n])
		return err
	}
	if from == nil {
		return seen, dial()
	}
	err = inNamespace(from, func(*conn) error { return dial() })
	return seen, err
}

// shape is what ip(8) would show in a namespace: addresses and default routes.
func shape(t testing.TB, ns *os.File) string {
	t.Helper()
	var out []string
	inside(t, ns, func() error {
		links, err := whole(netlink.LinkList)
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Attrs().Name == "lo" {
				continue
			}
			var addrs []string
			for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
				list, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, family) })
				if err != nil {
					return err
				}
				for _, a := range list {
					if a.IP.To4() == nil && a.IP.IsLinkLocalUnicast() {
						continue
					}
					if a.Flags&0x40 != 0 {
						addrs = append(addrs, "tentative")
					}
					addrs = append(addrs, a.IPNet.String())
				}
			}
			state := "down"
			if l.Attrs().Flags&net.FlagUp != 0 {
				state = "up"
			}
			out = append(out, fmt.Sprintf("%s %s %s", l.Attrs().Name, state, strings.Join(addrs, " ")))
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
			if err != nil {
				return err
			}
			for _, r := range routes {
				if r.Dst != nil && r.Dst.IP.IsUnspecified() {
					l, err := netlink.LinkByIndex(r.LinkIndex)
					if err != nil {
						return err
					}
					out = append(out, fmt.Sprintf("default %v %s", r.Gw, l.Attrs().Name))
				}
			}
		}
		return nil
	})
	return strings.Join(out, "; ")
}

func mustFail(t *testing.T, err error, class fail.Class, text string) {
	t.Helper()
	if err == nil || !fail.Is(err, class) || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v (%v), want %v: %s", err, fail.Of(err), class, text)
	}
}

func prefixes(t testing.TB, s ...string) []Pool {
	var out []Pool
	for _, p := range s {
		out = append(out, Pool{Subnet: netip.MustParsePrefix(p)})
	}
	return out
}

func is(b bool) *bool { return &b }
