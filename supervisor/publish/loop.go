package publish

import (
	"errors"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// loop is the goroutine that serves sockets. All of them wait in one epoll instance, edge
// triggered: whoever is called because something may be possible again does it until it is
// not, or until it has had its share and asks to be called again.
type loop struct {
	epoll *os.File
	raw   syscall.RawConn
	fd    int
	done  chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex // guards all below; held while events are handled
	slots   []slot
	free    []int32
	again   []int32 // slots that have had their share
	starved []int32 // slots that cannot accept until a descriptor is free
	feedAt  time.Time
	buf     []byte // for what is read and written at once
	events  [64]unix.EpollEvent
	pipes   [][2]int // unused
	spare   []*relay // over
	alarm   bool     // the wait is bounded
	udp     sessions
	begun   map[*flow]time.Time // messages whose end has not come
	kept    int                 // bytes of messages that relays hold
	closed  bool
}

// actor is what a descriptor belongs to. act is called with the loop's lock; false asks
// for another call, without a new event.
type actor interface {
	act(l *loop, events uint32) (done bool)
	release() // closes what it has, when all ends
}

// slot is a registered descriptor. The generation tells events of its former users apart.
type slot struct {
	actor      actor
	generation int32
	queued     bool // in again
}

const noSlot = -1

// bufferSize is the room for one datagram.
const bufferSize = 64 << 10

func newLoop() (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // for the Go runtime to wait for it
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	l := &loop{fd: fd, epoll: os.NewFile(uintptr(fd), "ports"), done: make(chan struct{})}
	if l.raw, err = l.epoll.SyscallConn(); err != nil {
		l.epoll.Close()
		return nil, err
	}
	l.udp.init()
	go l.run() // ends with close
	return l, nil
}

func (l *loop) run() {
	defer close(l.done)
	for {
		err := l.raw.Read(func(uintptr) bool { return !l.work() })
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		l.tick()
	}
}

// work handles events until there are none, and tells whether to wait for more; it returns
// for tick otherwise.
func (l *loop) work() (wait bool) {
	for {
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return false
		}
		n, err := unix.EpollWait(l.fd, l.events[:], 0)
		if err != nil && err != unix.EINTR {
			n = 0
		}
		again := l.again
		l.again = nil
		for _, slot := range again {
			l.slots[slot].queued = false
			l.call(slot, 0)
		}
		for _, e := range l.events[:max(n, 0)] {
			if l.slots[e.Fd].generation == e.Pad {
				l.call(e.Fd, e.Events)
			}
		}
		idle := n <= 0 && err == nil && len(l.again) == 0
		bounded := l.alarm || l.udp.first() == nil && len(l.starved) == 0 && len(l.begun) == 0
		l.mu.Unlock()
		if idle {
			return bounded
		}
	}
}

func (l *loop) call(slot int32, events uint32) {
	if a := l.slots[slot].actor; a != nil && !a.act(l, events) {
		l.enqueue(slot)
	}
}

func (l *loop) enqueue(slot int32) {
	if s := &l.slots[slot]; !s.queued {
		s.queued = true
		l.again = append(l.again, slot)
	}
}

// tick sees to what has become too old, and bounds the next wait if anything can become so.
func (l *loop) tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	now := time.Now()
	next := l.udp.expire(l, now)
	if end := l.expireMessages(now); !end.IsZero() && (next.IsZero() || end.Before(next)) {
		next = end
	}
	if len(l.starved) > 0 && !now.Before(l.feedAt) {
		l.feed()
	} else if len(l.starved) > 0 && (next.IsZero() || l.feedAt.Before(next)) {
		next = l.feedAt
	}
	l.alarm = !next.IsZero()
	_ = l.epoll.SetReadDeadline(next)
}

// add registers fd; events are passed to a.
func (l *loop) add(fd int, a actor, events uint32) (int32, error) {
	n := int32(len(l.slots))
	if last := len(l.free) - 1; last >= 0 {
		n, l.free = l.free[last], l.free[:last]
	} else {
		l.slots = append(l.slots, slot{})
	}
	s := &l.slots[n]
	s.actor = a
	err := unix.EpollCtl(l.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events | unix.EPOLLET, Fd: n, Pad: s.generation})
	if err != nil {
		l.vacate(n)
		return noSlot, os.NewSyscallError("epoll_ctl", err)
	}
	return n, nil
}

// vacate forgets a descriptor, before it is closed.
func (l *loop) vacate(n int32) {
	if n == noSlot {
		return
	}
	s := &l.slots[n]
	s.actor = nil
	s.generation++
	l.free = append(l.free, n)
}

// starve sets a slot aside that needs descriptors or memory that there are none of: until
// one is given back, or for a second.
func (l *loop) starve(slot int32) {
	if len(l.starved) == 0 {
		l.feedAt = time.Now().Add(time.Second)
		l.alarm = false // it may be for a later moment
	}
	l.starved = append(l.starved, slot)
}

// feed lets those that starved try again.
func (l *loop) feed() {
	for _, slot := range l.starved {
		l.enqueue(slot)
	}
	l.starved = l.starved[:0]
}

// buffer is for the current actor.
func (l *loop) buffer() []byte {
	if l.buf == nil {
		l.buf = make([]byte, bufferSize)
	}
	return l.buf
}

// serve begins with a socket that was bound.
func (l *loop) serve(s *socket) (err error) {
	s.slot, err = l.add(s.fd, s.actor(), unix.EPOLLIN)
	return err
}

func (s *socket) actor() actor {
	if s.port.Proto == "udp" {
		return (*datagrams)(s)
	}
	return (*listener)(s)
}

// lead directs a socket's connections.
func (l *loop) lead(s *socket, target4, target6 netip.Addr) {
	ip, other := target4.Unmap(), target6
	if s.port.HostIP.Is6() {
		ip, other = other, ip
	}
	if !ip.IsValid() {
		ip = other
	}
	to := netip.AddrPort{}
	if ip.IsValid() {
		to = netip.AddrPortFrom(ip, s.port.ContainerPort)
	}
	if to == s.to {
		return
	}
	s.to, s.target = to, nil
	if ip.IsValid() {
		s.target = sockaddr(to)
	}
	l.udp.end(l, s)
}

// drop closes a socket with its connections.
func (l *loop) drop(s *socket) {
	l.udp.end(l, s)
	for _, o := range l.slots {
		if side, ok := o.actor.(*side); ok && side.r.from == s {
			l.reset(side.r)
		}
	}
	l.vacate(s.slot)
	unix.Close(s.fd)
}

// close ends the goroutine and everything that it serves.
func (l *loop) close() {
	l.mu.Lock()
	l.closed = true
	for _, s := range l.slots {
		if s.actor != nil {
			s.actor.release()
		}
	}
	for _, p := range l.pipes {
		unix.Close(p[0])
		unix.Close(p[1])
	}
	l.slots, l.again, l.starved, l.pipes = nil, nil, nil, nil
	l.mu.Unlock()
	l.epoll.Close()
	<-l.done
}
