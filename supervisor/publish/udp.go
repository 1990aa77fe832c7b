package publish

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// idleSession is how long a UDP client's session is kept without a datagram: nobody says
// when one ends.
const idleSession = 90 * time.Second

// maxSessions bounds them; the one that was idle longest makes room for another.
const maxSessions = 4096

// datagramShare is how many datagrams are moved before others have their turn.
const datagramShare = 32

// datagrams is a bound UDP socket.
type datagrams socket

// client is who talks to which of our addresses.
type client struct {
	socket *socket
	addr   netip.AddrPort
	local  netip.Addr // zero if the socket has but one
}

// session is a client and the socket on which the container talks to it.
type session struct {
	client
	peer       endpoint // the client, and our address that it knows
	fd         int
	slot       int32
	used       time.Time
	next, prev *session // by use
}

// sessions are all sessions, the list of them in order of their last use.
type sessions struct {
	all   map[client]*session
	list  session // a ring; next is the oldest
	limit int
}

func (t *sessions) init() { t.limit, t.list.next, t.list.prev = maxSessions, &t.list, &t.list }

func (t *sessions) first() *session {
	if t.list.next == &t.list {
		return nil
	}
	return t.list.next
}

// touch makes s the last one used.
func (t *sessions) touch(s *session, now time.Time) {
	if s.next != nil {
		s.next.prev, s.prev.next = s.prev, s.next
	}
	s.used = now
	s.prev, s.next = t.list.prev, &t.list
	s.prev.next, t.list.prev = s, s
}

func (t *sessions) remove(l *loop, s *session) {
	s.next.prev, s.prev.next = s.prev, s.next
	delete(t.all, s.client)
	l.vacate(s.slot)
	unix.Close(s.fd)
	l.feed()
}

// expire ends what was idle for too long, and tells when to look again; zero: never.
func (t *sessions) expire(l *loop, now time.Time) (next time.Time) {
	for s := t.first(); s != nil; s = t.first() {
		if end := s.used.Add(idleSession); now.Before(end) {
			return end
		}
		t.remove(l, s)
	}
	return time.Time{}
}

// end ends the sessions of a socket.
func (t *sessions) end(l *loop, of *socket) {
	for _, s := range t.all {
		if s.socket == of {
			t.remove(l, s)
		}
	}
}

// act passes datagrams of clients to the container. What cannot be passed on is lost, as
// datagrams may be.
func (d *datagrams) act(l *loop, _ uint32) bool {
	now := time.Now()
	var from endpoint
	for range datagramShare {
		n, err := from.receive(d.fd, l.buffer())
		if err == unix.EAGAIN {
			return true
		}
		if err != nil {
			continue // an ICMP error of an earlier answer
		}
		if s := l.session((*socket)(d), &from); s != nil {
			l.udp.touch(s, now)
			if _, err := write(s.fd, l.buf[:n]); err == unix.ECONNREFUSED {
				_, _ = write(s.fd, l.buf[:n]) // that was about the last one
			}
		}
	}
	return false
}

func (d *datagrams) release() { unix.Close(d.fd) }

// session returns the session of a client, nil if it can have none.
func (l *loop) session(of *socket, from *endpoint) *session {
	key := client{socket: of, addr: from.addr(), local: from.local()}
	if s := l.udp.all[key]; s != nil {
		return s
	}
	if of.target == nil {
		return nil
	}
	if len(l.udp.all) >= l.udp.limit {
		l.udp.remove(l, l.udp.first())
	}
	fd, err := dialUDP(of.target)
	if (err == unix.EMFILE || err == unix.ENFILE) && l.udp.first() != nil {
		l.udp.remove(l, l.udp.first())
		fd, err = dialUDP(of.target)
	}
	if err != nil {
		return nil
	}
	s := &session{client: key, peer: *from, fd: fd}
	if s.slot, err = l.add(fd, s, unix.EPOLLIN); err != nil {
		unix.Close(fd)
		return nil
	}
	if l.udp.all == nil {
		l.udp.all = map[client]*session{}
	}
	l.udp.all[key] = s
	return s
}

func dialUDP(to unix.Sockaddr) (int, error) {
	family := unix.AF_INET
	if _, ok := to.(*unix.SockaddrInet6); ok {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, to); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// act passes answers back, from the address that the client has sent to.
func (s *session) act(l *loop, _ uint32) bool {
	l.udp.touch(s, time.Now())
	for range datagramShare {
		n, err := read(s.fd, l.buffer())
		if err == unix.EAGAIN {
			return true
		}
		if err == nil {
			s.peer.send(s.socket.fd, l.buf[:n])
		}
	}
	return false
}

func (s *session) release() { unix.Close(s.fd) }
