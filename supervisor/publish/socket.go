package publish

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These calls are made for every connection or datagram. They leave no garbage, and do not
// tell the Go scheduler of themselves: they never wait, but a longer one would lose the
// shim's only processor to another thread, and have to wait for that.

func accept(fd int) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0, 0)
	return result(n, errno)
}

func read(fd int, buf []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
	return result(n, errno)
}

func write(fd int, buf []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
	return result(n, errno)
}

func splice(from, to, size int) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(size), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	return result(n, errno)
}

func result(n uintptr, errno unix.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// endpoint is the other end of a datagram, with the address of ours that it came to if the
// socket is bound to a wildcard.
type endpoint struct {
	name       unix.RawSockaddrInet6 // or the shorter RawSockaddrInet4
	nameLen    uint32
	control    [64]byte // IP_PKTINFO (ip(7)) or IPV6_PKTINFO (RFC 3542)
	controlLen int
}

// receive reads a datagram. Room for the longest is the caller's to give.
func (e *endpoint) receive(fd int, buf []byte) (int, error) {
	iov := unix.Iovec{Base: &buf[0]}
	iov.SetLen(len(buf))
	msg := unix.Msghdr{Name: (*byte)(unsafe.Pointer(&e.name)), Namelen: unix.SizeofSockaddrInet6, Iov: &iov, Control: &e.control[0]}
	msg.SetIovlen(1)
	msg.SetControllen(len(e.control))
	n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), 0)
	if errno != 0 {
		return 0, errno
	}
	e.nameLen, e.controlLen = msg.Namelen, int(msg.Controllen)
	return int(n), nil
}

// send answers a datagram that was received as e, from the address that it had come to.
func (e *endpoint) send(fd int, data []byte) {
	var iov unix.Iovec
	if len(data) > 0 {
		iov.Base = &data[0]
	}
	iov.SetLen(len(data))
	msg := unix.Msghdr{Name: (*byte)(unsafe.Pointer(&e.name)), Namelen: e.nameLen, Iov: &iov}
	msg.SetIovlen(1)
	if info, v4 := e.info(); info != nil {
		if v4 {
			// The interface is left to the routes; the address stands in ipi_addr when it is
			// received, and in ipi_spec_dst when it is sent.
			binary.NativeEndian.PutUint32(info, 0)
			copy(info[4:8], info[8:12])
		} else if !netip.AddrFrom16([16]byte(info[:16])).IsLinkLocalUnicast() {
			binary.NativeEndian.PutUint32(info[16:], 0)
		}
		msg.Control = &e.control[0]
		msg.SetControllen(e.controlLen)
	}
	_, _, _ = unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// info is the payload of the control message, an in_pktinfo or in6_pktinfo; nil: none.
func (e *endpoint) info() (info []byte, v4 bool) {
	header := unix.CmsgLen(0)
	if e.controlLen < header {
		return nil, false
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&e.control[0]))
	switch {
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && e.controlLen >= header+unix.SizeofInet4Pktinfo:
		return e.control[header : header+unix.SizeofInet4Pktinfo], true
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && e.controlLen >= header+unix.SizeofInet6Pktinfo:
		return e.control[header : header+unix.SizeofInet6Pktinfo], false
	}
	return nil, false
}

func (e *endpoint) addr() netip.AddrPort {
	port := (*[2]byte)(unsafe.Pointer(&e.name.Port))
	n := binary.BigEndian.Uint16(port[:])
	if e.name.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&e.name))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), n)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(e.name.Addr), n)
}

func (e *endpoint) local() netip.Addr {
	info, v4 := e.info()
	switch {
	case info == nil:
		return netip.Addr{}
	case v4:
		return netip.AddrFrom4([4]byte(info[8:12]))
	}
	return netip.AddrFrom16([16]byte(info[:16]))
}
