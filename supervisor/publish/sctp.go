package publish

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SCTP carries messages, on numbered streams. A relay passes them on as they were: whole, on the
// same stream, with their payload protocol (RFC 6458; linux/sctp.h has the numbers).

const (
	sctpInitMsg     = 2 // struct sctp_initmsg: streams out and in, attempts, timeout; 16 bits each
	sctpNoDelay     = 3
	sctpRecvRcvInfo = 32

	sctpSndInfo = 2 // control messages
	sctpRcvInfo = 3

	sctpUnordered = 1
)

// sctpStreams is how many streams a relay opens; the other side can have fewer.
const sctpStreams = 256

// maxMessage is the longest message that is passed on. Longer ones a sender has to have asked
// its kernel for (SO_SNDBUF).
const maxMessage = 4 << 20

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
	return unix.SetsockoptInt(fd, unix.IPPROTO_SCTP, sctpRecvRcvInfo, 1)
}

// receiveMessage reads a message, or a piece of one if end is false.
func receiveMessage(fd int, buf []byte) (n int, m message, end bool, err error) {
	iov := unix.Iovec{Base: &buf[0]}
	iov.SetLen(len(buf))
	var control [64]byte
	msg := unix.Msghdr{Iov: &iov, Control: &control[0]}
	msg.SetIovlen(1)
	msg.SetControllen(len(control))
	got, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), 0)
	if errno != 0 {
		return 0, m, false, errno
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	if head := unix.CmsgLen(0); int(msg.Controllen) >= head+12 && h.Level == unix.IPPROTO_SCTP && h.Type == sctpRcvInfo {
		info := control[head:] // struct sctp_rcvinfo: stream, sequence number, flags, 16 bits each; at 8 the payload protocol
		m.stream = binary.NativeEndian.Uint16(info)
		m.flags = binary.NativeEndian.Uint16(info[4:]) & sctpUnordered
		m.protocol = binary.NativeEndian.Uint32(info[8:])
	}
	return int(got), m, msg.Flags&unix.MSG_EOR != 0, nil
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
	n, m, end, err := receiveMessage(f.from.fd, buf)
	if !l.read(f, n, err) {
		return
	}
	data := buf[:n]
	if !end || len(f.part) > 0 {
		f.part = append(f.part, data...)
		data = f.part
	}
	switch {
	case len(data) > maxMessage:
		l.reset(f.from.r)
	case end:
		f.rest, f.message, f.part = data, m, nil
		l.deliver(f)
		if len(f.rest) > 0 && &f.rest[0] == &buf[0] {
			f.rest = append([]byte(nil), f.rest...)
		}
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
	}
	l.wrote(f, err)
}
