package publish

import (
	"golang.org/x/sys/unix"
)

// listener is a socket that accepts connections.
type listener socket

// acceptShare is how many connections are accepted before others have their turn.
const acceptShare = 32

func (s *listener) act(l *loop, _ uint32) bool {
	for range acceptShare {
		fd, err := accept(s.fd)
		switch err {
		case nil:
			l.relay((*socket)(s), fd)
		case unix.EAGAIN:
			return true
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			l.starve(s.slot)
			return true
		}
		// Others are errors of the connection, see accept(2).
	}
	return false
}

func (s *listener) release() { unix.Close(s.fd) }

// relay is a connection to a published port and the one to the container that it is led to.
type relay struct {
	from           *socket
	client, server side
	up, down       flow // to the container, and back
	connecting     bool
	over           bool
}

// side is one of a relay's connections. What it can do is known until the kernel refuses.
type side struct {
	r        *relay
	fd       int
	slot     int32
	readable bool
	writable bool
}

// flow is one direction of a relay.
type flow struct {
	from, to *side
	rest     []byte  // read and not yet written
	message  message // … how, if these are messages
	part     []byte  // of a message whose end has not come
	kept     int     // what of both was counted (keep)
	pipe     [2]int  // for large amounts: data goes through it without being copied; 0: none
	held     int     // bytes in the pipe
	full     bool    // it may be
	eof      bool
	done     bool // the end was passed on, or nobody wants more
}

// events are those that a connection reports.
const events = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP

// relay leads an accepted connection to the container.
func (l *loop) relay(s *socket, client int) {
	var r *relay
	if last := len(l.spare) - 1; last >= 0 {
		r, l.spare = l.spare[last], l.spare[:last]
	} else {
		r = new(relay)
	}
	r.from, r.connecting, r.over = s, true, false
	r.client, r.server = side{r: r, fd: client, slot: noSlot}, side{r: r, fd: -1, slot: noSlot}
	r.up, r.down = flow{from: &r.client, to: &r.server}, flow{from: &r.server, to: &r.client}
	if !l.connect(r) {
		l.finish(r)
	}
}

// connect begins both sides.
func (l *loop) connect(r *relay) bool {
	if r.from.target == nil {
		return false
	}
	family := unix.AF_INET
	if _, ok := r.from.target.(*unix.SockaddrInet6); ok {
		family = unix.AF_INET6
	}
	p := protocols[r.from.port.Proto]
	var err error
	if r.server.fd, err = unix.Socket(family, p.kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, p.number); err != nil {
		r.server.fd = -1
		return false
	}
	if r.stream() {
		_ = unix.SetsockoptInt(r.server.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	} else if tuneSCTP(r.server.fd) != nil {
		return false
	}
	switch err := unix.Connect(r.server.fd, r.from.target); err {
	case nil:
		r.connecting = false
	case unix.EINPROGRESS, unix.EINTR:
	default:
		return false
	}
	for _, s := range []*side{&r.server, &r.client} {
		if s.slot, err = l.add(s.fd, s, events); err != nil {
			return false
		}
	}
	return true
}

// stream tells whether bytes flow, and not messages (sctp.go).
func (r *relay) stream() bool { return r.from.port.Proto == "tcp" }

func (s *side) release() {
	unix.Close(s.fd)
	for _, f := range []*flow{&s.r.up, &s.r.down} {
		if f.from == s && f.pipe != [2]int{} {
			unix.Close(f.pipe[0])
			unix.Close(f.pipe[1])
		}
	}
}

func (s *side) act(l *loop, events uint32) bool {
	r := s.r
	const broken = unix.EPOLLERR | unix.EPOLLHUP
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|broken) != 0 {
		s.readable = true
	}
	if events&(unix.EPOLLOUT|broken) != 0 {
		s.writable = true
	}
	switch {
	case r.over:
		return true
	case !r.connecting:
	case s == &r.client:
		if events&broken != 0 {
			l.reset(r)
		}
		return true
	default:
		if errno, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || errno != 0 {
			// An end, no reset: that could overtake the client's connect(2), whose error would then be
			// one that clients who wait for a server do not expect.
			l.finish(r)
			return true
		}
		if !s.writable {
			return true
		}
		r.connecting = false
	}
	up, down := l.pump(&r.up), l.pump(&r.down)
	if r.up.done && r.down.done && !r.over {
		l.finish(r)
	}
	return r.over || up && down
}

// share is how many steps a flow makes before others have their turn.
const share = 16

// chunk is the most that is read to be written at once. More than that at a time goes through
// a pipe.
const chunk = 16 << 10

// pump moves what can be moved; false asks for another call.
func (l *loop) pump(f *flow) bool {
	for range share {
		waiting := f.held > 0 || len(f.rest) > 0
		switch {
		case f.done, f.from.r.over:
			return true
		case len(f.rest) > 0 && f.to.writable && !f.from.r.stream():
			l.deliver(f)
		case len(f.rest) > 0 && f.to.writable: // read before what is in the pipe
			n, err := write(f.to.fd, f.rest)
			if f.rest = f.rest[n:]; len(f.rest) == 0 {
				f.rest = nil
			}
			l.wrote(f, err)
		case f.held > 0 && f.to.writable:
			n, err := splice(f.pipe[0], f.to.fd, f.held)
			f.held -= n
			f.full = false
			l.wrote(f, err)
		case f.eof && !waiting:
			_ = unix.Shutdown(f.to.fd, unix.SHUT_WR)
			f.done = true
		case f.eof, !f.from.readable:
			return true
		case f.pipe != [2]int{} && !f.full:
			n, err := splice(f.from.fd, f.pipe[1], pipeSize)
			f.held += n
			if f.full = err == unix.EAGAIN && waiting; !f.full { // or there is nothing to read: that will show
				l.read(f, n, err)
			}
		case waiting:
			return true
		case !f.from.r.stream():
			l.forward(f)
		default:
			l.copy(f)
		}
	}
	return false
}

// copy moves a piece by way of the buffer.
func (l *loop) copy(f *flow) {
	buf := l.buffer()[:chunk]
	n, err := read(f.from.fd, buf)
	if !l.read(f, n, err) {
		return
	}
	wrote, err := write(f.to.fd, buf[:n])
	if wrote < n {
		f.rest = append([]byte(nil), buf[wrote:n]...)
	}
	l.wrote(f, err)
	if n == len(buf) {
		f.pipe = l.takePipe()
	}
}

// read deals with the result of a read: true if there is data.
func (l *loop) read(f *flow, n int, err error) bool {
	switch {
	case err == nil && n > 0:
		return true
	case err == nil:
		f.eof = true
	case err == unix.EAGAIN:
		f.from.readable = false
	case err != unix.EINTR:
		l.reset(f.from.r)
	}
	return false
}

// wrote deals with the result of a write. Who does not read any more may still have
// something to say, so only this direction ends.
func (l *loop) wrote(f *flow, err error) {
	switch err {
	case nil, unix.EINTR:
	case unix.EAGAIN:
		f.to.writable = false
	default:
		f.done, f.rest, f.held = true, nil, 0
		l.dropPipe(f, false)
	}
}

// finish ends a relay whose flows have ended.
func (l *loop) finish(r *relay) {
	r.over = true
	for _, f := range []*flow{&r.up, &r.down} {
		l.dropPipe(f, f.held == 0)
		f.rest = nil // the relay may lie among the spare ones for long
		l.forget(f)
	}
	for _, s := range []*side{&r.client, &r.server} {
		l.vacate(s.slot)
		if s.fd >= 0 {
			unix.Close(s.fd)
		}
	}
	if len(l.spare) < spareRelays {
		l.spare = append(l.spare, r)
	}
	l.feed()
}

// spareRelays are kept for the next connections, which so leave no garbage.
const spareRelays = 64

// reset ends a relay at once; whoever is still there is told so.
func (l *loop) reset(r *relay) {
	if r.over {
		return
	}
	for _, s := range []*side{&r.client, &r.server} {
		if s.fd >= 0 {
			_ = unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}
	}
	l.finish(r)
}

// pipeSize is what a pipe holds: on a busy machine, what can be moved at each turn.
const pipeSize = 1 << 20

// sparePipes are kept for the next flows.
const sparePipes = 4

// takePipe returns a pipe, or zeros if there is none to be had: then data is copied.
func (l *loop) takePipe() (p [2]int) {
	if last := len(l.pipes) - 1; last >= 0 {
		p, l.pipes = l.pipes[last], l.pipes[:last]
		return p
	}
	if unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return [2]int{}
	}
	_, _ = unix.FcntlInt(uintptr(p[0]), unix.F_SETPIPE_SZ, pipeSize) // fewer turns; refused if pipes are many
	return p
}

func (l *loop) dropPipe(f *flow, clean bool) {
	p := f.pipe
	f.pipe = [2]int{}
	if p == [2]int{} {
		return
	}
	if clean && len(l.pipes) < sparePipes {
		l.pipes = append(l.pipes, p)
		return
	}
	unix.Close(p[0])
	unix.Close(p[1])
}
