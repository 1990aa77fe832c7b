package dns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"berth/fail"
)

// patience is how long each server is waited for, in the first round and the second: a dead
// one shall not use up the client's own patience, which ends after 2.5 (musl) or 5 seconds
// (glibc), and one that has to ask around needs its time.
var patience = [...]time.Duration{time.Second, 3 * time.Second}

// ParseServer reads ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT. The port is 53 unless given.
func ParseServer(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return netip.AddrPortFrom(a.Unmap(), 53), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return ap, fail.New(fail.Invalid, "%q is no address of a DNS server", s)
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

// forward asks the servers what s.q asks. Answers that say no more than that a server has
// failed count if no other says more.
func (r *Resolver) forward(s *scratch, up *upstream, overTCP bool) []byte {
	var worst []byte
	for _, wait := range patience {
		for _, server := range up.servers {
			answer := r.askServer(&s.q, up, server, overTCP, time.Now().Add(wait))
			if answer == nil {
				continue
			}
			switch dnsmessage.RCode(flags(answer) & maskCode) {
			case dnsmessage.RCodeSuccess, dnsmessage.RCodeNameError:
				return answer
			}
			worst = answer
		}
		if worst != nil {
			return worst
		}
	}
	return s.fail(dnsmessage.RCodeServerFailure)
}

// askServer asks one server, in the way the client did; nil: no answer. Over UDP it goes on
// to TCP if that gets an answer that the client can take, and from a server that does not
// speak TCP it takes what comes over UDP.
func (r *Resolver) askServer(q *query, up *upstream, server netip.AddrPort, overTCP bool, deadline time.Time) []byte {
	if overTCP {
		if answer := r.exchange(q, up, server, unix.SOCK_STREAM, deadline); answer != nil {
			return answer
		}
	}
	answer := r.exchange(q, up, server, unix.SOCK_DGRAM, deadline)
	if answer != nil && !overTCP && flags(answer)&flagTruncated != 0 && q.limit > plainLimit {
		if whole := r.exchange(q, up, server, unix.SOCK_STREAM, deadline); whole != nil && len(whole) <= q.limit {
			return whole
		}
	}
	if answer != nil {
		return q.cut(answer)
	}
	return nil
}

// exchange sends the query to a server, from a port that the kernel chooses at random, with
// an id of its own, and waits for the answer.
func (r *Resolver) exchange(q *query, up *upstream, server netip.AddrPort, kind int, deadline time.Time) []byte {
	family := unix.AF_INET
	if server.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := up.socket(family, kind)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), "query")
	if !r.keep(f) {
		return nil
	}
	defer r.release(f)
	_ = f.SetDeadline(deadline)
	if connect(f, server) != nil {
		return nil
	}
	asked := append([]byte(nil), q.raw...)
	id := uint16(rand.Uint32())
	binary.BigEndian.PutUint16(asked, id)
	read := readDatagram
	if kind == unix.SOCK_STREAM {
		asked, read = framed(asked), readFramed
	}
	if _, err := f.Write(asked); err != nil {
		return nil
	}
	for {
		answer, err := read(f)
		if err != nil {
			return nil
		}
		if q.answeredBy(answer, id) {
			copy(answer, q.raw[:2])
			return answer
		}
	}
}

// connect gives the socket its peer, from which alone it then takes datagrams.
func connect(f *os.File, to netip.AddrPort) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = errors.Join(raw.Control(func(fd uintptr) {
		var name unix.Sockaddr
		if name, failed = sockaddr(int(fd), to); failed == nil {
			failed = unix.Connect(int(fd), name)
		}
	}), err)
	if err != nil || failed != unix.EINPROGRESS {
		return errors.Join(err, failed)
	}
	err = raw.Write(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, err := unix.Poll(p, 0); err == nil && n == 0 {
			return false
		}
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if failed = err; err == nil && errno != 0 {
			failed = unix.Errno(errno)
		}
		return true
	})
	return errors.Join(err, failed)
}

// sockaddr is an address for the socket fd, in whose network its zone is looked up.
func sockaddr(fd int, a netip.AddrPort) (unix.Sockaddr, error) {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}, nil
	}
	v6 := &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	if zone := a.Addr().Zone(); zone != "" {
		req, err := unix.NewIfreq(zone)
		if err != nil {
			return nil, err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
			return nil, err
		}
		v6.ZoneId = req.Uint32()
	}
	return v6, nil
}

func readDatagram(f *os.File) ([]byte, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var data []byte
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		// Its size first: few answers are as long as they may be.
		var n int
		n, _, failed = unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_TRUNC|unix.MSG_DONTWAIT)
		if failed == unix.EAGAIN {
			return false
		}
		if failed == nil {
			data = make([]byte, max(n, 1))
			n, failed = unix.Read(int(fd), data)
			data = data[:max(n, 0)]
		}
		return true
	})
	return data, errors.Join(err, failed)
}

func readFramed(f *os.File) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(f, size[:]); err != nil {
		return nil, err
	}
	data := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(f, data)
	return data, err
}

// answeredBy tells whether a message answers the query, which was sent as id. Servers that
// did not understand the question need not repeat it.
func (q *query) answeredBy(m []byte, id uint16) bool {
	if len(m) < headerSize || binary.BigEndian.Uint16(m) != id || flags(m)&flagResponse == 0 {
		return false
	}
	if binary.BigEndian.Uint16(m[4:]) == 0 {
		return flags(m)&maskCode != 0
	}
	end := questionEnd(m)
	return end > 0 && binary.BigEndian.Uint16(m[4:]) == 1 && equalFold(m[headerSize:end], q.question)
}

// equalFold compares questions as RFC 4343 compares names; a length or a type is no letter
// that has another case, or both are the same byte.
func equalFold(a, b []byte) bool {
	if len(a) != len(b) || len(a) < 4 || !bytes.Equal(a[len(a)-4:], b[len(b)-4:]) {
		return false
	}
	for i := range a[:len(a)-4] {
		x, y := a[i], b[i]
		if 'A' <= x && x <= 'Z' {
			x += 'a' - 'A'
		}
		if 'A' <= y && y <= 'Z' {
			y += 'a' - 'A'
		}
		if x != y {
			return false
		}
	}
	return true
}
