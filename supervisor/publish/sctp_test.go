package publish

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// association is one side of an SCTP connection, which waits.
type association struct {
	t  *testing.T
	fd int
}

func sctpSocket(t *testing.T, family int) association {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Skip("this kernel has no SCTP")
	}
	if err == nil {
		err = tuneSCTP(fd)
	}
	if err == nil { // who waits in vain fails
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20})
	}
	if err != nil {
		t.Fatal(err)
	}
	return association{t, fd}
}

func (a association) send(m message, data []byte) error {
	b := make([]byte, unix.CmsgSpace(16))
	h := b[:unix.CmsgLen(0)]
	binary.NativeEndian.PutUint64(h, uint64(unix.CmsgLen(16)))
	binary.NativeEndian.PutUint32(h[8:], unix.IPPROTO_SCTP)
	binary.NativeEndian.PutUint32(h[12:], sctpSndInfo)
	info := b[unix.CmsgLen(0):]
	binary.NativeEndian.PutUint16(info, m.stream)
	binary.NativeEndian.PutUint16(info[2:], m.flags)
	binary.NativeEndian.PutUint32(info[4:], m.protocol)
	return unix.Sendmsg(a.fd, data, b, nil, 0)
}

// receive reads a whole message; nil: the other side has closed.
func (a association) receive() (m message, data []byte, err error) {
	buf, oob := make([]byte, 256<<10), make([]byte, 128)
	for {
		n, on, flags, _, err := unix.Recvmsg(a.fd, buf, oob, 0)
		if err != nil || n == 0 {
			return m, nil, err
		}
		data = append(data, buf[:n]...)
		if flags&unix.MSG_EOR == 0 {
			continue
		}
		list, err := unix.ParseSocketControlMessage(oob[:on])
		if err != nil || len(list) != 1 || list[0].Header.Type != sctpRcvInfo {
			return m, data, fmt.Errorf("no information about a message: %v, %v", list, err)
		}
		info := list[0].Data
		m = message{binary.NativeEndian.Uint16(info), binary.NativeEndian.Uint16(info[4:]) & sctpUnordered, binary.NativeEndian.Uint32(info[8:])}
		return m, data, nil
	}
}

// serveSCTP echoes messages, one association after the other, and reports how each ended.
func serveSCTP(t *testing.T) (port uint16, ends chan error) {
	t.Helper()
	l := sctpSocket(t, unix.AF_INET)
	if err := errors.Join(unix.Bind(l.fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(l.fd, 8)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(l.fd)
	if err != nil {
		t.Fatal(err)
	}
	ends = make(chan error, 8)
	var all sync.WaitGroup
	var closing atomic.Bool
	all.Go(func() {
		for {
			fd, _, err := unix.Accept(l.fd)
			if closing.Load() {
				unix.Close(fd)
				return
			}
			if err != nil {
				continue // none came for a while
			}
			c := association{t, fd}
			for {
				m, data, err := c.receive()
				if err == nil && data != nil {
					err = c.send(m, data)
				}
				if err != nil || data == nil {
					ends <- err
					break
				}
			}
			unix.Close(fd)
		}
	})
	t.Cleanup(func() {
		closing.Store(true)
		last := sctpSocket(t, unix.AF_INET) // accept has to return
		unix.Connect(last.fd, name)
		unix.Close(last.fd)
		all.Wait()
		unix.Close(l.fd)
	})
	return uint16(name.(*unix.SockaddrInet4).Port), ends
}

func TestSCTPMessagesArriveAsTheyWereSent(t *testing.T) {
	server, ends := serveSCTP(t)
	_, bound := open(t, Port{Proto: "sctp", ContainerPort: server})
	for i, b := range bound {
		to, family := netip.AddrPortFrom(loopback4, b.HostPort), unix.AF_INET
		if b.HostIP.Is6() {
			to, family = netip.AddrPortFrom(loopback6, b.HostPort), unix.AF_INET6
		}
		c := sctpSocket(t, family)
		if err := unix.Connect(c.fd, sockaddr(to)); err != nil {
			t.Fatalf("%v: %v", to, err)
		}
		var sender sync.WaitGroup
		sender.Go(func() { // more than buffers hold
			for n := range 30 {
				m, data := exampleMessage(n)
				if err := c.send(m, data); err != nil {
					t.Errorf("send %d: %v", n, err)
				}
			}
		})
		for n := range 30 {
			m, data, err := c.receive()
			wantM, want := exampleMessage(n)
			if err != nil || m != wantM || !bytes.Equal(data, want) {
				t.Fatalf("%v: message %d: %+v, %d bytes, %v; want %+v, %d bytes", to, n, m, len(data), err, wantM, len(want))
			}
		}
		sender.Wait()
		if i == 0 { // the client's end reaches the server
			unix.Close(c.fd)
			if err := <-ends; err != nil {
				t.Errorf("the server reads to the end: %v", err)
			}
			continue
		}
		// … and its reset
		if err := unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			t.Fatal(err)
		}
		unix.Close(c.fd)
		if err := <-ends; !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("after a reset the server reads: %v", err)
		}
	}
}

// exampleMessage is the nth of a conversation: some longer than what is read at a time, all on one stream, since
// streams overtake each other.
func exampleMessage(n int) (message, []byte) {
	return message{stream: 17, protocol: uint32(46 + n)}, bytes.Repeat([]byte{byte(n)}, []int{1, 1400, 100_000}[n%3])
}

func TestSCTPPortsInUseAreNamedWithTheirHolder(t *testing.T) {
	searchWithoutHaste(t)
	server, _ := serveSCTP(t)
	p := new(Ports)
	defer p.Close()
	_, err := p.Set([]Port{{Proto: "sctp", HostIP: loopback4, HostPort: server, ContainerPort: 9}}, loopback4, loopback6)
	if want := fmt.Sprintf("Bind for 127.0.0.1:%d failed: port is already allocated (by process ", server); err == nil || len(err.Error()) < len(want) || err.Error()[:len(want)] != want {
		t.Errorf("%v", err)
	}
}

// A relay of messages can be tried without SCTP: a Unix socket that keeps messages apart stands for
// the association that they are delivered to, and ignores SCTP's control messages.
func messageRelay(t *testing.T, l *loop) (r *relay, peer int) {
	t.Helper()
	r = &relay{from: &socket{port: Port{Proto: "sctp"}}}
	r.client, r.server = side{r: r, slot: noSlot}, side{r: r, slot: noSlot}
	r.up, r.down = flow{from: &r.client, to: &r.server}, flow{from: &r.server, to: &r.client}
	for _, s := range []*side{&r.client, &r.server} {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		s.fd, peer = pair[0], pair[1]
		t.Cleanup(func() { unix.Close(pair[1]) })
		if s.slot, err = l.add(s.fd, s, 0); err != nil {
			t.Fatal(err)
		}
	}
	return r, peer
}

// stillLoop does nothing by itself.
func stillLoop(t *testing.T) *loop {
	t.Helper()
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	t.Cleanup(func() { l.mu.Unlock(); l.close() })
	return l
}

func TestPiecesOfAMessageAreDeliveredAsOne(t *testing.T) {
	l := stillLoop(t)
	r, peer := messageRelay(t, l)
	buf := make([]byte, 100)
	give := func(text string, kind piece) { l.take(&r.up, buf[:copy(buf, text)], message{}, kind) }
	give("lost", unfinished)
	give("", abandoned)
	give("be", unfinished)
	give("gin", unfinished)
	give("ning", last)
	give("next", last)
	for _, want := range []string{"beginning", "next"} {
		got := make([]byte, 100)
		if n, err := unix.Read(peer, got); err != nil || string(got[:n]) != want {
			t.Errorf("the server reads %q, %v; want %q", got[:max(n, 0)], err, want)
		}
	}
	if r.over || l.kept != 0 || len(l.begun) != 0 {
		t.Errorf("over %v, %d bytes kept, %d unfinished", r.over, l.kept, len(l.begun))
	}
}

func TestUnfinishedMessagesAreBoundedInSizeSumAndTime(t *testing.T) {
	data := make([]byte, bufferSize)
	fill := func(l *loop, f *flow, bytes int) {
		for n := 0; n < bytes && !f.from.r.over; n += len(data) {
			l.take(f, data, message{}, unfinished)
		}
	}
	t.Run("one that is too long ends its relay", func(t *testing.T) {
		l := stillLoop(t)
		r, _ := messageRelay(t, l)
		fill(l, &r.up, maxMessage)
		if r.over {
			t.Error("the longest message is refused")
		}
		fill(l, &r.up, 1)
		if !r.over || l.kept != 0 || r.up.part != nil {
			t.Errorf("over %v, %d bytes kept", r.over, l.kept)
		}
	})
	t.Run("those that hold most make room", func(t *testing.T) {
		l := stillLoop(t)
		small, peer := messageRelay(t, l)
		fill(l, &small.up, 1)
		ended := 0
		for range 20 {
			r, _ := messageRelay(t, l)
			fill(l, &r.down, maxMessage)
			if l.kept > maxKept {
				t.Fatalf("%d bytes are kept", l.kept)
			}
			if r.over {
				ended++
			}
		}
		if small.over || len(l.begun) < 3 {
			t.Errorf("the small one is over: %v; %d are left", small.over, len(l.begun))
		}
		l.take(&small.up, []byte("end"), message{}, last)
		if n, err := unix.Read(peer, make([]byte, 2*len(data))); err != nil || n != len(data)+3 {
			t.Errorf("the server reads %d bytes, %v", n, err)
		}
	})
	t.Run("whole ones that nobody takes count too", func(t *testing.T) {
		l := stillLoop(t)
		for range maxKept/len(data) + 10 {
			r, _ := messageRelay(t, l)
			for len(r.up.rest) == 0 && !r.over { // until the socket is full
				l.take(&r.up, data, message{}, last)
			}
			if l.kept > maxKept {
				t.Fatalf("%d bytes are kept", l.kept)
			}
		}
		if l.kept < maxKept/2 {
			t.Errorf("only %d bytes are kept", l.kept)
		}
	})
	t.Run("one that takes too long ends its relay", func(t *testing.T) {
		l := stillLoop(t)
		r, _ := messageRelay(t, l)
		fill(l, &r.up, 1)
		began := l.begun[&r.up]
		fill(l, &r.up, 1) // what comes next gives it no more time
		if next := l.expireMessages(began.Add(pieceTime - 1)); r.over || !next.Equal(began.Add(pieceTime)) {
			t.Errorf("over %v; to be looked at in %v", r.over, next.Sub(began))
		}
		if next := l.expireMessages(began.Add(pieceTime)); !r.over || !next.IsZero() || l.kept != 0 {
			t.Errorf("over %v, %d bytes kept", r.over, l.kept)
		}
	})
}
