package publish

import (
	"encoding/binary"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SCTP carries messages, on numbered streams. A relay passes them on as they were: whole, on the
// same stream, with their payload protocol (RFC 6458; linux/sctp.h has the numbers).

const (
	sctpInitMsg     = 2 // struct sctp_initmsg: streams out and in, attempts, timeout; 16 bits each
	sctpNoDelay     = 3
	sctpEvents      = 11 // struct sctp_event_subscribe: a byte for each kind
	sctpRecvRcvInfo = 32

	sctpSndInfo = 2 // control messages
	sctpRcvInfo = 3

	sctpUnordered = 1

	msgNotification = 0x8000 // what was read is news of the kernel, and no message
)

// sctpStreams is how many streams a relay opens; the other side can have fewer.
const sctpStreams = 256

// maxMessage is the longest message that is passed on. Longer ones a sender has to have asked
// its kernel for (SO_SNDBUF).
const maxMessage = 4 << 20

// maxKept is what all the relays of a loop keep of messages that are not complete, or that the other
// side does not take yet. The shim's memory is not the container's, and everybody may connect.
const maxKept = 16 << 20

// pieceTime is how long a message may take from its first piece to its last. Pieces are read at all
// only where the kernel cannot hold a message whole.
const pieceTime = 30 * time.Second

// message says how a message is sent: struct sctp_sndinfo without its last two fields, which are zero.
type message struct {
	stream, flags uint16
	protocol      uint32 // as it is in the packet
}

// tuneSCTP makes a socket, and those that come of it, tell the streams of messages.
func tuneSCTP(fd int) error {
	init := binary.NativeEndian.AppendUint16(nil, sctpStreams)
	if err := unix.SetsockoptString(fd, unix.IPPROTO_SCTP, sctpInitMsg, string(append(init, 0, 0, 0, 0, 0, 0))); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_SCTP, sctpNoDelay, 1); err != nil {
		return err
	}
	// Of partial delivery alone, the seventh kind: that a message of which pieces were read will have no end (RFC 6458, 6.1.7).
	if err := unix.SetsockoptString(fd, unix.IPPROTO_SCTP, sctpEvents, "\x00\x00\x00\x00\x00\x00\x01"); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_SCTP, sctpRecvRcvInfo, 1)
}

// piece tells what a read has brought.
type piece uint8

const (
	unfinished piece = iota // the beginning of a message, or what comes next of one
	last                    // … its end
	abandoned               // no data: what was read of a message is to be forgotten
)

// receiveMessage reads a message, or a piece of one.
func receiveMessage(fd int, buf []byte) (n int, m message, kind piece, err error) {
	iov := unix.Iovec{Base: &buf[0]}
	iov.SetLen(len(buf))
	var control [64]byte
	msg := unix.Msghdr{Iov: &iov, Control: &control[0]}
	msg.SetIovlen(1)
	msg.SetControllen(len(control))
	got, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), 0)
	if errno != 0 {
		return 0, m, unfinished, errno
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	if head := unix.CmsgLen(0); int(msg.Controllen) >= head+12 && h.Level == unix.IPPROTO_SCTP && h.Type == sctpRcvInfo {
		info := control[head:] // struct sctp_rcvinfo: stream, sequence number, flags, 16 bits each; at 8 the payload protocol
		m.stream = binary.NativeEndian.Uint16(info)
		m.flags = binary.NativeEndian.Uint16(info[4:]) & sctpUnordered
		m.protocol = binary.NativeEndian.Uint32(info[8:])
	}
	switch {
	case msg.Flags&msgNotification != 0:
		kind = abandoned
	case msg.Flags&unix.MSG_EOR != 0:
		kind = last
	}
	return int(got), m, kind, nil
}

// sendMessage sends all or nothing.
func sendMessage(fd int, data []byte, m message) error {
	const size = 16 // struct sctp_sndinfo
	iov := unix.Iovec{Base: &data[0]}
	iov.SetLen(len(data))
	control := make([]byte, unix.CmsgSpace(size))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	h.Level, h.Type = unix.IPPROTO_SCTP, sctpSndInfo
	h.SetLen(unix.CmsgLen(size))
	info := control[unix.CmsgLen(0):]
	binary.NativeEndian.PutUint16(info, m.stream)
	binary.NativeEndian.PutUint16(info[2:], m.flags)
	binary.NativeEndian.PutUint32(info[4:], m.protocol)
	msg := unix.Msghdr{Iov: &iov, Control: &control[0]}
	msg.SetIovlen(1)
	msg.SetControllen(len(control))
	_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if errno != 0 {
		return errno
	}
	return nil
}

// forward moves a message, or takes up a piece of one.
func (l *loop) forward(f *flow) {
	buf := l.buffer()
	n, m, kind, err := receiveMessage(f.from.fd, buf)
	if l.read(f, n, err) {
		l.take(f, buf[:n], m, kind)
	}
}

// take takes what was read. The data is the caller's again afterwards.
func (l *loop) take(f *flow, data []byte, m message, kind piece) {
	if kind == abandoned { // by its sender, so nobody waits for it
		l.forget(f)
		return
	}
	whole := kind == last && len(f.part) == 0
	if !whole {
		if len(f.part) == 0 {
			l.begin(f, time.Now())
		}
		f.part = append(f.part, data...)
		data = f.part
	}
	switch {
	case len(data) > maxMessage:
		l.reset(f.from.r)
		return
	case kind == last:
		l.forget(f)
		f.rest, f.message = data, m
		l.deliver(f)
		if whole && len(f.rest) > 0 {
			f.rest = append([]byte(nil), f.rest...)
		}
	}
	l.keep(f)
}

// begin notes that a message has begun whose end has not come.
func (l *loop) begin(f *flow, now time.Time) {
	if l.begun == nil {
		l.begun = map[*flow]time.Time{}
	}
	l.begun[f] = now
	l.alarm = false // the next wait is to be bounded anew
}

// forget drops the pieces of a message.
func (l *loop) forget(f *flow) {
	f.part = nil
	delete(l.begun, f)
	l.keep(f)
}

// expireMessages ends the relays of messages that took too long, and tells when to look again; zero:
// never.
func (l *loop) expireMessages(now time.Time) (next time.Time) {
	for f, began := range l.begun {
		switch end := began.Add(pieceTime); {
		case !now.Before(end):
			l.reset(f.from.r)
		case next.IsZero() || end.Before(next):
			next = end
		}
	}
	return next
}

// keep counts what a flow holds. When all hold too much, those that have most are reset.
func (l *loop) keep(f *flow) {
	holds := cap(f.part) + len(f.rest)
	if f.from.r.over || f.from.r.stream() {
		holds = 0
	}
	more := holds - f.kept
	l.kept += more
	f.kept = holds
	for more > 0 && l.kept > maxKept {
		var most *flow
		for _, s := range l.slots {
			if s, ok := s.actor.(*side); ok {
				for _, f := range []*flow{&s.r.up, &s.r.down} {
					if most == nil || f.kept > most.kept {
						most = f
					}
				}
			}
		}
		l.reset(most.from.r)
	}
}

// deliver sends the message that waits. One that the other side cannot have ends the connection:
// what comes behind it would not be what was meant.
func (l *loop) deliver(f *flow) {
	err := sendMessage(f.to.fd, f.rest, f.message)
	switch err {
	case unix.EAGAIN, unix.EINTR:
	case unix.EINVAL, unix.EMSGSIZE:
		l.reset(f.from.r)
		return
	default:
		f.rest = nil
		l.keep(f)
	}
	l.wrote(f, err)
}
