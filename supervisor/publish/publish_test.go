package publish

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
)

var (
	loopback4 = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.MustParseAddr("::1")
)

// open is Ports whose container is this process, by way of loopback.
func open(t *testing.T, ports ...Port) (*Ports, []Port) {
	t.Helper()
	before := descriptors(t)
	p := new(Ports)
	t.Cleanup(func() {
		p.Close()
		eventually(t, "descriptors are closed", func() bool { return descriptors(t) <= before })
	})
	bound, err := p.Set(ports, loopback4, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	return p, bound
}

func descriptors(t *testing.T) int {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// eventually polls, where there is no event to wait for.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Errorf("in vain waited until %s", what)
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// serve is the container's side: a TCP server.
func serve(t *testing.T, handle func(*net.TCPConn)) uint16 {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func dial(t *testing.T, ip string, port uint16) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", net.JoinHostPort(ip, fmt.Sprint(port)), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return c.(*net.TCPConn)
}

// refused connects, and reads until there is an error. It may come early.
func refused(port uint16) error {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.ReadAll(c)
	return err
}

// echo does not splice: the pipes that package net keeps for that would look like ours.
func echo(c *net.TCPConn) { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) }

func TestAConnectionIsLedToTheContainerByBothFamilies(t *testing.T) {
	_, bound := open(t, Port{Proto: "tcp", ContainerPort: serve(t, func(c *net.TCPConn) { fmt.Fprint(c, "hello") })})
	want := 1
	if haveIPv6() {
		want = 2
	}
	if len(bound) != want || bound[0].HostIP != netip.IPv4Unspecified() || bound[0].HostPort == 0 ||
		want == 2 && (bound[1].HostIP != netip.IPv6Unspecified() || bound[1].HostPort != bound[0].HostPort) {
		t.Fatalf("bound %+v", bound)
	}
	for _, ip := range []string{"127.0.0.1", "127.0.0.2", "::1"}[:1+want] {
		if got, err := io.ReadAll(dial(t, ip, bound[0].HostPort)); string(got) != "hello" || err != nil {
			t.Errorf("by %s: %q, %v", ip, got, err)
		}
	}
}

func TestIPv6PortsLeadToTheIPv6AddressIfThereIsOne(t *testing.T) {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("this host has no IPv6:", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "six")
			c.Close()
		}
	}()
	defer func() {
		l.Close()
		<-done
	}()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	p, bound := open(t, Port{Proto: "tcp", ContainerPort: port})
	for _, targets := range [][2]netip.Addr{{netip.MustParseAddr("127.0.0.77"), loopback6}, {{}, loopback6}} {
		if _, err := p.Set(bound, targets[0], targets[1]); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(dial(t, "::1", bound[0].HostPort)); string(got) != "six" || err != nil {
			t.Errorf("%v: %q, %v", targets, got, err)
		}
	}
	if got, err := io.ReadAll(dial(t, "127.0.0.1", bound[0].HostPort)); string(got) != "six" || err != nil {
		t.Errorf("IPv4 to a container with IPv6 alone: %q, %v", got, err)
	}
}

func TestMuchDataArrivesWholeInBothDirectionsAtOnce(t *testing.T) {
	const size = 8 << 20
	_, bound := open(t, Port{Proto: "tcp", HostIP: loopback4, ContainerPort: serve(t, echo)})
	for _, pause := range []time.Duration{0, 20 * time.Microsecond} { // a fast reader, and one that lets buffers fill
		data := make([]byte, size)
		rand.NewChaCha8([32]byte{1}).Read(data)
		c := dial(t, "127.0.0.1", bound[0].HostPort)
		go func() {
			for rest := data; len(rest) > 0; { // pieces of all sizes: copied and spliced
				n := min(len(rest), 1+rand.IntN(100_000))
				if _, err := c.Write(rest[:n]); err != nil {
					t.Error(err)
					return
				}
				rest = rest[n:]
			}
			c.CloseWrite()
		}()
		sum, buf := sha256.New(), make([]byte, 9000)
		for {
			n, err := c.Read(buf)
			sum.Write(buf[:n])
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if pause > 0 {
				time.Sleep(pause)
			}
		}
		if want := sha256.Sum256(data); !bytes.Equal(sum.Sum(nil), want[:]) {
			t.Error("what came back is not what was sent")
		}
	}
}

func TestEitherSideMayCloseItsHalfFirst(t *testing.T) {
	received := make(chan string, 1)
	_, bound := open(t, Port{Proto: "tcp", HostIP: loopback4, ContainerPort: serve(t, func(c *net.TCPConn) {
		fmt.Fprint(c, "banner")
		c.CloseWrite()
		data, _ := io.ReadAll(c)
		received <- string(data)
	})})
	c := dial(t, "127.0.0.1", bound[0].HostPort)
	if got, err := io.ReadAll(c); string(got) != "banner" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	fmt.Fprint(c, "after the end")
	c.CloseWrite()
	if got := <-received; got != "after the end" {
		t.Errorf("the server got %q", got)
	}
}

func TestWhereNothingListensTheConnectionEnds(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	_, bound := open(t, Port{Proto: "tcp", HostIP: loopback4, ContainerPort: port})
	if err := refused(bound[0].HostPort); err != nil {
		t.Errorf("the client got %v", err)
	}
}

func TestAResetIsPassedOn(t *testing.T) {
	reset := make(chan error, 1)
	_, bound := open(t, Port{Proto: "tcp", HostIP: loopback4, ContainerPort: serve(t, func(c *net.TCPConn) {
		fmt.Fprint(c, "x")
		_, err := io.ReadAll(c)
		reset <- err
	})})
	c := dial(t, "127.0.0.1", bound[0].HostPort)
	io.ReadFull(c, make([]byte, 1))
	c.SetLinger(0)
	c.Close()
	if err := <-reset; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the server got %v", err)
	}
}

func TestManyConnectionsLeaveNothing(t *testing.T) {
	p, bound := open(t, Port{Proto: "tcp", HostIP: loopback4, ContainerPort: serve(t, echo)})
	before := descriptors(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 100 {
				c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", bound[0].HostPort))
				if err != nil {
					t.Error(err)
					return
				}
				if i%10 == 0 { // leave without a word
					c.Close()
					continue
				}
				fmt.Fprint(c, i)
				c.(*net.TCPConn).CloseWrite()
				if got, err := io.ReadAll(c); string(got) != fmt.Sprint(i) || err != nil {
					t.Errorf("%q, %v", got, err)
				}
				c.Close()
			}
		})
	}
	all.Wait()
	eventually(t, "connections are closed", func() bool { return descriptors(t) <= before+2*2*sparePipes })
	eventually(t, "their slots are free", func() bool {
		p.loop.mu.Lock()
		defer p.loop.mu.Unlock()
		return len(p.loop.free) == len(p.loop.slots)-1
	})
}

// upper is the container's side: a UDP server that answers in capitals.
func upper(t *testing.T) uint16 {
	t.Helper()
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	go func() { // ends with the socket
		buf := make([]byte, 65536)
		for {
			n, from, err := server.ReadFromUDP(buf)
			if err != nil {
				return
			}
			server.WriteToUDP(bytes.ToUpper(buf[:n]), from)
		}
	}()
	return uint16(server.LocalAddr().(*net.UDPAddr).Port)
}

func TestTheSessionThatWasIdleLongestMakesRoom(t *testing.T) {
	p, bound := open(t, Port{Proto: "udp", HostIP: loopback4, ContainerPort: upper(t)})
	p.loop.mu.Lock()
	p.loop.udp.limit = 2
	p.loop.mu.Unlock()
	var clients []net.Conn
	for range 3 {
		c, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", bound[0].HostPort))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		clients = append(clients, c)
	}
	for _, i := range []int{0, 1, 0, 2, 1, 2} {
		buf := make([]byte, 8)
		fmt.Fprint(clients[i], "a")
		if n, err := clients[i].Read(buf); string(buf[:n]) != "A" || err != nil {
			t.Fatalf("client %d: %q, %v", i, buf[:n], err)
		}
		if i != 2 {
			continue
		}
		p.loop.mu.Lock()
		if n := len(p.loop.udp.all); n != 2 {
			t.Errorf("%d sessions", n)
		}
		p.loop.mu.Unlock()
	}
}

func TestDatagramsComeBackFromTheAddressTheyWereSentTo(t *testing.T) {
	server := upper(t)
	p, bound := open(t, Port{Proto: "udp", ContainerPort: server})
	ips := []string{"127.0.0.1", "127.0.0.9"}
	if len(bound) == 2 {
		ips = append(ips, "::1")
	}
	for _, ip := range ips {
		c, err := net.Dial("udp", net.JoinHostPort(ip, fmt.Sprint(bound[0].HostPort))) // takes answers from there alone
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		for _, text := range []string{"one", "", "two", strings.Repeat("x", 60000)} {
			buf := make([]byte, 65536)
			if _, err := fmt.Fprint(c, text); err != nil {
				t.Fatal(err)
			}
			if n, err := c.Read(buf); string(buf[:n]) != strings.ToUpper(text) || err != nil {
				t.Fatalf("%s: %d bytes for %d, %v", ip, n, len(text), err)
			}
		}
	}
	l := p.loop
	l.mu.Lock()
	if n := len(l.udp.all); n != len(ips) {
		t.Errorf("%d sessions for %d clients", n, len(ips))
	}
	if next := l.udp.expire(l, time.Now()); next.IsZero() {
		t.Error("young sessions were ended")
	}
	if next := l.udp.expire(l, time.Now().Add(idleSession)); !next.IsZero() || len(l.udp.all) > 0 {
		t.Errorf("%d idle sessions are kept", len(l.udp.all))
	}
	l.mu.Unlock()
}

func searchWithoutHaste(t *testing.T) {
	before := searchTime
	searchTime = time.Minute
	t.Cleanup(func() { searchTime = before })
}

func TestAPortInUseIsNamedWithItsHolder(t *testing.T) {
	searchWithoutHaste(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	tcp, udp := uint16(l.Addr().(*net.TCPAddr).Port), uint16(u.LocalAddr().(*net.UDPAddr).Port)
	comm, _ := os.ReadFile("/proc/self/comm")
	by := fmt.Sprintf(" (by process %d, %s)", os.Getpid(), bytes.TrimSpace(comm))
	before := descriptors(t)
	for _, test := range []struct {
		want  Port
		text  string
		class fail.Class
	}{
		{Port{Proto: "tcp", HostIP: loopback4, HostPort: tcp}, fmt.Sprintf("Bind for 127.0.0.1:%d failed: port is already allocated%s", tcp, by), fail.Conflict},
		{Port{Proto: "tcp", HostPort: tcp}, fmt.Sprintf("Bind for 0.0.0.0:%d failed: port is already allocated%s", tcp, by), fail.Conflict},
		{Port{Proto: "udp", HostPort: udp}, fmt.Sprintf("Bind for 0.0.0.0:%d failed: port is already allocated%s", udp, by), fail.Conflict},
		{Port{Proto: "tcp", HostIP: netip.MustParseAddr("198.51.100.1"), HostPort: 80}, "Bind for 198.51.100.1:80 failed: cannot assign requested address: the host has none like it", fail.Invalid},
		{Port{Proto: "icmp"}, `ports are tcp, udp or sctp, not "icmp"`, fail.Invalid},
	} {
		p := new(Ports)
		_, err := p.Set([]Port{{Proto: "tcp", ContainerPort: 1}, test.want}, loopback4, loopback6)
		if err == nil || err.Error() != test.text || !fail.Is(err, test.class) {
			t.Errorf("%+v: %v (%v)", test.want, err, fail.Of(err))
		}
		p.Close()
	}
	eventually(t, fmt.Sprintf("there are %d descriptors again", before), func() bool { return descriptors(t) == before })
}

func TestOfARangeTheFirstFreePortIsTaken(t *testing.T) {
	p, bound := open(t, Port{Proto: "tcp", HostIP: loopback4, ContainerPort: 1})
	first := bound[0].HostPort
	if first > 65000 {
		t.Skip("too near to the end of the ports")
	}
	want := Port{Proto: "tcp", HostIP: loopback4, HostPort: first, HostPortEnd: first + 50, ContainerPort: 2}
	var other Ports
	defer other.Close()
	got, err := other.Set([]Port{want}, loopback4, loopback6)
	if err != nil || got[0].HostPort <= first || got[0].HostPort > first+50 {
		t.Fatalf("%+v, %v", got, err)
	}
	want.HostPortEnd = 0
	want.HostPort = got[0].HostPort
	if _, err := p.Set([]Port{{Proto: "tcp", HostIP: loopback4, HostPort: first, ContainerPort: 1}, want}, loopback4, loopback6); !fail.Is(err, fail.Conflict) {
		t.Errorf("a port that another one has: %v", err)
	}
	if got := p.Bound(); len(got) != 1 || got[0] != bound[0] {
		t.Errorf("after a failure: %+v", got)
	}
	third := Port{Proto: "tcp", HostIP: loopback4, HostPort: first, HostPortEnd: first, ContainerPort: 3}
	if _, err := new(Ports).Set([]Port{third}, loopback4, loopback6); !fail.Is(err, fail.Conflict) {
		t.Errorf("a range without a free port: %v", err)
	}
}

func TestBothFamiliesGetANumberThatIsFreeForBoth(t *testing.T) {
	if !haveIPv6() {
		t.Skip("this host has no IPv6")
	}
	_, taken := open(t, Port{Proto: "tcp", HostIP: netip.IPv6Unspecified(), ContainerPort: 1})
	first := taken[0].HostPort
	if first > 65000 {
		t.Skip("too near to the end of the ports")
	}
	_, bound := open(t, Port{Proto: "tcp", HostPort: first, HostPortEnd: first + 50, ContainerPort: 2})
	if len(bound) != 2 || bound[0].HostPort <= first || bound[1].HostPort != bound[0].HostPort {
		t.Errorf("%+v", bound)
	}
	p := new(Ports)
	if _, err := p.Set([]Port{{Proto: "tcp", HostPort: first}}, loopback4, loopback6); !fail.Is(err, fail.Conflict) || !strings.HasPrefix(err.Error(), fmt.Sprintf("Bind for [::]:%d failed", first)) {
		t.Errorf("a number that is free for IPv4 alone: %v", err)
	}
}

func TestWithoutDescriptorsConnectionsWait(t *testing.T) {
	p, bound := open(t, Port{Proto: "tcp", HostIP: loopback4, ContainerPort: serve(t, echo)})
	p.loop.mu.Lock() // accepts nothing
	var clients []*net.TCPConn
	for range 20 {
		clients = append(clients, dial(t, "127.0.0.1", bound[0].HostPort))
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	highest, err := unix.Dup(0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(highest)
	few := old
	few.Cur = uint64(highest) // not one more
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	p.loop.mu.Unlock()
	eventually(t, "there are no descriptors", func() bool {
		p.loop.mu.Lock()
		defer p.loop.mu.Unlock()
		return len(p.loop.starved) == 1
	})
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	for i, c := range clients { // served when the second is over
		fmt.Fprint(c, i)
		c.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != fmt.Sprint(i) || err != nil {
			t.Errorf("client %d: %q, %v", i, got, err)
		}
	}
}

func TestPortsMayChangeWhileAllAreInUse(t *testing.T) {
	p, bound := open(t, Port{Proto: "tcp", HostIP: loopback4, ContainerPort: serve(t, echo)})
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", bound[0].HostPort))
				if err != nil {
					t.Error(err)
					return
				}
				data := bytes.Repeat([]byte("x"), 100_000)
				go c.Write(data)
				if n, err := io.ReadFull(c, make([]byte, len(data))); err != nil {
					t.Errorf("%d bytes came back: %v", n, err)
				}
				c.Close()
			}
		})
	}
	for range 200 {
		now, err := p.Set(append([]Port{{Proto: "udp", HostIP: loopback4, ContainerPort: 1}, {Proto: "tcp", HostIP: loopback4, ContainerPort: 2}}, bound...), loopback4, loopback6)
		if err != nil || len(now) != 3 || now[2] != bound[0] {
			t.Fatalf("%+v, %v", now, err)
		}
		if now, err = p.Set(bound, loopback4, loopback6); err != nil || len(now) != 1 || now[0] != bound[0] {
			t.Fatalf("%+v, %v", now, err)
		}
	}
	close(stop)
	all.Wait()
}

func TestWhatStaysPublishedKeepsItsConnections(t *testing.T) {
	server := serve(t, echo)
	keep, lose := Port{Proto: "tcp", ContainerPort: server}, Port{Proto: "tcp", HostIP: loopback4, ContainerPort: server}
	p, bound := open(t, keep, lose)
	kept, lost := dial(t, "127.0.0.1", bound[0].HostPort), dial(t, "127.0.0.1", bound[len(bound)-1].HostPort)
	for _, c := range []net.Conn{kept, lost} {
		fmt.Fprint(c, "x")
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	// Asked for as it was at first, and as it was bound.
	for _, want := range [][]Port{{keep}, bound[:len(bound)-1]} {
		now, err := p.Set(want, netip.MustParseAddr("127.0.0.77"), netip.Addr{})
		if err != nil || len(now) != len(bound)-1 || now[0] != bound[0] {
			t.Fatalf("%+v, %v", now, err)
		}
		fmt.Fprint(kept, "y")
		if _, err := io.ReadFull(kept, make([]byte, 1)); err != nil {
			t.Errorf("a connection through a port that stays: %v", err)
		}
	}
	if _, err := lost.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a connection through a port that went: %v", err)
	}
	// New connections go to the new address, where nobody listens.
	if err := refused(bound[0].HostPort); err != nil {
		t.Errorf("a new connection: %v", err)
	}
	if _, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", bound[len(bound)-1].HostPort)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("the port that went: %v", err)
	}
	p.Close()
	if _, err := kept.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives Close")
	}
}

func TestWithoutSCTPOneLineSaysSo(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)
	if err == nil {
		unix.Close(fd)
	}
	p := new(Ports)
	defer p.Close()
	bound, e := p.Set([]Port{{Proto: "sctp", HostIP: loopback4, ContainerPort: 9}}, loopback4, loopback6)
	if err == nil {
		if e != nil || bound[0].HostPort == 0 {
			t.Errorf("%+v, %v", bound, e)
		}
		return
	}
	if !fail.Is(e, fail.NotImplemented) || !strings.HasPrefix(e.Error(), "port 0/sctp cannot be published: this host's kernel has no SCTP") {
		t.Errorf("%v", e)
	}
}
