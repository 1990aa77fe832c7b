package firewall

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"berth/fail"

	"golang.org/x/sys/unix"
)

var resolver = netip.MustParseAddrPort("127.0.0.11:53")

func TestTheResolverIsReachedAtPort53WhileTheContainerServesThatPortItself(t *testing.T) {
	newHost(t)
	c := newNode(t, "container")
	if err := Redirect(c.ns, resolver, 10953); err != nil {
		t.Fatal(err)
	}
	c.serve("127.0.0.11:10953")
	own := enterAs(c, "own")
	own.serve("0.0.0.0:53")
	c.expect("127.0.0.11:53", "container 127.0.0.1")
	c.expect("127.0.0.1:53", "own 127.0.0.1")

	// many bytes in both directions, and a connected UDP socket
	c.must(func() error {
		conn, err := net.DialTimeout("tcp", "127.0.0.11:53", 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		go conn.Write(sent)
		greeting := len("container 127.0.0.1\n")
		got := make([]byte, greeting+len(sent))
		if _, err := io.ReadFull(conn, got); err != nil {
			return err
		}
		if !bytes.Equal(got[greeting:], sent) {
			t.Error("a megabyte came back changed")
		}
		return nil
	})
}

// enterAs is a second server in a node's namespace.
func enterAs(n *node, name string) *node { return &node{t: n.t, name: name, ns: n.ns, jobs: n.jobs} }

func TestARedirectNeedsNoConnectionTracking(t *testing.T) {
	newHost(t)
	c := newNode(t, "container")
	if err := Redirect(c.ns, resolver, 10953); err != nil {
		t.Fatal(err)
	}
	c.serve("127.0.0.11:10953")
	c.expect("127.0.0.11:53", "container 127.0.0.1")
	c.must(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/nf_conntrack")
		if os.IsNotExist(err) {
			return nil
		}
		if len(b) > 0 {
			t.Errorf("connections of the namespace are tracked:\n%s", b)
		}
		return err
	})
}

func BenchmarkRedirect(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("network namespaces need root")
	}
	keep := newNode(b, "keep")
	Redirect(keep.ns, resolver, 10953)
	nodes := make([]*node, 100)
	for i := range nodes {
		nodes[i] = newNode(b, "container")
	}
	i := 0
	for b.Loop() {
		if i == len(nodes) {
			b.StopTimer()
			for i := range nodes {
				nodes[i] = newNode(b, "container")
			}
			i = 0
			b.StartTimer()
		}
		if err := Redirect(nodes[i].ns, resolver, 10953); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func TestTheRedirectWorksWithoutIngressHooks(t *testing.T) {
	newHost(t)
	c := newNode(t, "container")
	batch, err := redirectBatch(unix.NFPROTO_IPV4, unix.NF_INET_LOCAL_OUT, "", resolver, 10953)
	if err != nil {
		t.Fatal(err)
	}
	if err := sendInside(c.ns, batch); err != nil {
		t.Fatal(err)
	}
	c.serve("127.0.0.11:10953")
	c.expect("127.0.0.11:53", "container 127.0.0.1")
}

func TestARedirectThatTheKernelRefusesIsAnError(t *testing.T) {
	newHost(t)
	c := newNode(t, "container")
	batch, _ := redirectBatch(unix.NFPROTO_NETDEV, 99, "lo", resolver, 10953)
	if err := sendInside(c.ns, batch); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("a hook that does not exist: %v", err)
	}
	if err := Redirect(c.ns, netip.MustParseAddrPort("[::1]:53"), 1); !fail.Is(err, fail.Invalid) {
		t.Errorf("an IPv6 address: %v", err)
	}
}
