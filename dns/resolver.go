package dns

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// ttl is how many seconds an answer of ours may be kept. Docker says 600, and whoever honours
// that talks to a dead address for ten minutes after a container was replaced. Asking again
// costs some microseconds.
const ttl = 5

// Config is what a resolver answers by.
type Config struct {
	Zones    []string // files
	Own      []Own
	Servers  []netip.AddrPort // asked in this order for what is not known here
	Internal bool             // they are not: what is not known here does not exist
	Ndots    bool             // names of one label are known here or have no addresses

	// Socket opens a socket, non-blocking and close-on-exec, in the network from which Servers
	// are asked (socket(2)).
	Socket func(family, kind int) (int, error)
}

// Own is a name that only this resolver knows.
type Own struct {
	Name   string
	Target string // a name in the zones, or an address
}

// Resolver answers the queries of one container.
type Resolver struct {
	udp *net.UDPConn
	tcp *net.TCPListener
	all sync.WaitGroup

	mu      sync.Mutex // guards all below
	cfg     Config
	zones   []zoneFile
	asking  int // queries that are with Servers
	clients int // TCP connections
	open    map[io.Closer]struct{}
	closed  bool
}

// Bounds of what a container can make its resolver hold.
const (
	maxAsking  = 1024
	maxClients = 128
	queue      = 1 << 20 // bytes that the kernel holds of queries that wait: some 800
	clientIdle = 10 * time.Second
)

// Listen opens the sockets that containers send their queries to, in the network namespace
// of the calling thread.
func Listen() (udp, tcp *os.File, err error) {
	open := func(kind int) (*os.File, error) {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return nil, os.NewSyscallError("socket", err)
		}
		f := os.NewFile(uintptr(fd), "dns")
		if kind == unix.SOCK_STREAM {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) // connections of the last one may linger
		} else {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queue)
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: Address.As4(), Port: Port}); err != nil {
			f.Close()
			return nil, os.NewSyscallError("bind", err)
		}
		if kind == unix.SOCK_STREAM {
			if err := unix.Listen(fd, maxClients); err != nil {
				f.Close()
				return nil, os.NewSyscallError("listen", err)
			}
		}
		return f, nil
	}
	if udp, err = open(unix.SOCK_DGRAM); err != nil {
		return nil, nil, err
	}
	if tcp, err = open(unix.SOCK_STREAM); err != nil {
		udp.Close()
		return nil, nil, err
	}
	return udp, tcp, nil
}

// Serve answers on sockets as Listen opens them, and takes them over.
func Serve(udp, tcp *os.File, cfg Config) (*Resolver, error) {
	defer udp.Close()
	defer tcp.Close()
	packets, err := net.FilePacketConn(udp)
	if err != nil {
		return nil, err
	}
	streams, err := net.FileListener(tcp)
	if err != nil {
		packets.Close()
		return nil, err
	}
	r := &Resolver{udp: packets.(*net.UDPConn), tcp: streams.(*net.TCPListener), open: map[io.Closer]struct{}{}}
	r.Set(cfg)
	r.all.Go(r.serveUDP) // both end with Close
	r.all.Go(r.serveTCP)
	return r, nil
}

// Set changes what is answered from now on.
func (r *Resolver) Set(cfg Config) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cfg = cfg
	r.zones = slices.DeleteFunc(r.zones, func(z zoneFile) bool { return !slices.Contains(cfg.Zones, z.path) })
	for _, path := range cfg.Zones {
		if !slices.ContainsFunc(r.zones, func(z zoneFile) bool { return z.path == path }) {
			r.zones = append(r.zones, newZoneFile(path))
		}
	}
}

// Close ends everything.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.closed = true
	for c := range r.open {
		c.Close()
	}
	r.mu.Unlock()
	r.udp.Close()
	r.tcp.Close()
	r.all.Wait()
}

// keep notes what Close has to close; false: all is closed already.
func (r *Resolver) keep(c io.Closer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		c.Close()
		return false
	}
	r.open[c] = struct{}{}
	return true
}

func (r *Resolver) release(c io.Closer) {
	r.mu.Lock()
	delete(r.open, c)
	r.mu.Unlock()
	c.Close()
}

// scratch is what serving a query needs again and again.
type scratch struct {
	q     query
	addrs []netip.Addr
	out   []byte
}

func (r *Resolver) serveUDP() {
	var s scratch
	in := make([]byte, ourLimit)
	for {
		n, from, err := r.udp.ReadFromUDPAddrPort(in)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // of an earlier answer
		}
		answer, servers := r.answer(&s, in[:n], false)
		if servers == nil {
			if answer != nil {
				_, _ = r.udp.WriteToUDPAddrPort(answer, from)
			}
			continue
		}
		asked := append([]byte(nil), in[:n]...)
		r.all.Go(func() { // ends with the last server's timeout, or Close
			defer r.asked()
			var s scratch
			s.q.parse(asked, false)
			_, _ = r.udp.WriteToUDPAddrPort(r.forward(&s, servers, false), from)
		})
	}
}

func (r *Resolver) serveTCP() {
	for {
		c, err := r.tcp.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(50 * time.Millisecond) // no descriptors: there is no event for that
			continue
		}
		r.mu.Lock()
		busy := r.clients >= maxClients
		if !busy {
			r.clients++
		}
		r.mu.Unlock()
		if busy {
			c.Close()
			continue
		}
		r.all.Go(func() { // ends with the connection, or Close
			r.serveConn(c)
			r.mu.Lock()
			r.clients--
			r.mu.Unlock()
		})
	}
}

// serveConn answers the queries of one connection in order.
func (r *Resolver) serveConn(c *net.TCPConn) {
	if !r.keep(c) {
		return
	}
	defer r.release(c)
	var s scratch
	var in []byte
	for {
		_ = c.SetDeadline(time.Now().Add(clientIdle))
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		in = slices.Grow(in[:0], n)[:n]
		if _, err := io.ReadFull(c, in); err != nil {
			return
		}
		answer, servers := r.answer(&s, in, true)
		if servers != nil {
			answer = r.forward(&s, servers, true)
			r.asked()
		}
		if answer == nil {
			return
		}
		_ = c.SetDeadline(time.Now().Add(clientIdle))
		if _, err := c.Write(framed(answer)); err != nil {
			return
		}
	}
}

// framed puts the length before a message (RFC 1035, 4.2.2).
func framed(msg []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg))), msg...)
}

// upstream is who is asked, and how.
type upstream struct {
	servers []netip.AddrPort
	socket  func(family, kind int) (int, error)
}

// answer answers the query raw, or tells who is to be asked: then asked has to be called
// when that is over. Without either there is nothing to say. The answer is good until s is
// used again.
func (r *Resolver) answer(s *scratch, raw []byte, overTCP bool) ([]byte, *upstream) {
	q := &s.q
	code, ok := q.parse(raw, overTCP)
	if !ok {
		return nil, nil
	}
	if code != dnsmessage.RCodeSuccess {
		return s.fail(code), nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.zones {
		r.zones[i].refresh()
	}
	if q.class == dnsmessage.ClassINET && r.known(s) {
		return s.out, nil
	}
	single := len(q.name) > 0 && !slices.Contains(q.name, '.')
	switch {
	case r.cfg.Internal:
		return s.fail(dnsmessage.RCodeNameError), nil
	case r.cfg.Ndots && single && (q.kind == dnsmessage.TypeA || q.kind == dnsmessage.TypeAAAA):
		return s.fail(dnsmessage.RCodeSuccess), nil // the client's search list follows
	case len(r.cfg.Servers) == 0 || r.cfg.Socket == nil || r.asking >= maxAsking || r.closed:
		return s.fail(dnsmessage.RCodeServerFailure), nil
	}
	r.asking++
	return nil, &upstream{r.cfg.Servers, r.cfg.Socket}
}

func (r *Resolver) asked() {
	r.mu.Lock()
	r.asking--
	r.mu.Unlock()
}

// fail makes an answer without records.
func (s *scratch) fail(code dnsmessage.RCode) []byte {
	m := s.q.begin(s.out, code)
	s.out = m.end()
	return s.out
}

// known answers what the zones can. A name that they have exists in all types, though only
// some have records: none of them is for others to answer.
func (r *Resolver) known(s *scratch) bool {
	q := &s.q
	if q.kind == dnsmessage.TypePTR {
		if addr, ok := reverse(string(q.name)); ok {
			return r.knownAddress(s, addr)
		}
	}
	var known, ours bool
	s.addrs, known, ours = r.lookup(q.name, s.addrs[:0])
	if !ours {
		return false
	}
	if !known {
		s.fail(dnsmessage.RCodeNameError)
		return true
	}
	m := q.begin(s.out, dnsmessage.RCodeSuccess)
	rand.Shuffle(len(s.addrs), func(i, j int) { s.addrs[i], s.addrs[j] = s.addrs[j], s.addrs[i] })
	for i, a := range s.addrs {
		if (q.kind == dnsmessage.TypeALL || a.Is4() == (q.kind == dnsmessage.TypeA)) &&
			(q.kind == dnsmessage.TypeALL || q.kind == dnsmessage.TypeA || q.kind == dnsmessage.TypeAAAA) && !slices.Contains(s.addrs[:i], a) {
			m.address(a)
		}
	}
	s.out = m.end()
	return true
}

func (r *Resolver) knownAddress(s *scratch, addr netip.Addr) bool {
	for i := range r.zones {
		name := r.zones[i].nameOf(addr)
		if name == "" {
			continue
		}
		m := s.q.begin(s.out, dnsmessage.RCodeSuccess)
		if data, ok := appendName(nil, name); ok {
			m.record(dnsmessage.TypePTR, data)
		}
		s.out = m.end()
		return true
	}
	return false
}
