package publish

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// protocols are those that ports can be published for.
var protocols = map[string]struct{ kind, number int }{
	"tcp":  {unix.SOCK_STREAM, unix.IPPROTO_TCP},
	"udp":  {unix.SOCK_DGRAM, unix.IPPROTO_UDP},
	"sctp": {unix.SOCK_STREAM, unix.IPPROTO_SCTP},
}

// backlog is how many connections may wait to be accepted; the kernel has a limit of its own.
const backlog = 1<<16 - 1

// randomTries is how many random ports are tried that are free for IPv4 and taken for IPv6.
const randomTries = 64

// bind opens the sockets of a request, which has one address or both wildcards.
func bind(want Port) ([]*socket, error) {
	if _, ok := protocols[want.Proto]; !ok {
		return nil, fail.New(fail.Invalid, "ports are tcp, udp or sctp, not %q", want.Proto)
	}
	if want.HostIP.Zone() != "" {
		return nil, fail.New(fail.Invalid, "Bind for %s failed: an address with a zone cannot be published", want.HostIP)
	}
	addrs := []netip.Addr{want.HostIP.Unmap()}
	if !want.HostIP.IsValid() {
		addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
		if !haveIPv6() {
			addrs = addrs[:1]
		}
	}
	first, last := int(want.HostPort), max(int(want.HostPort), int(want.HostPortEnd))
	if want.HostPort == 0 {
		last = randomTries - 1
	}
	var err error
	for n := first; n <= last; n++ {
		number := uint16(n)
		if want.HostPort == 0 {
			number = 0
		}
		var made []*socket
		if made, err = bindAll(want, addrs, number); err == nil {
			return made, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	if errors.Is(err, unix.EADDRINUSE) && last > first {
		if want.HostPort == 0 {
			return nil, fail.New(fail.Conflict, "Bind for %s failed: no free port is left", addrs[0])
		}
		return nil, fail.New(fail.Conflict, "Bind for %s-%d failed: all ports are already allocated", netip.AddrPortFrom(addrs[0], want.HostPort), last)
	}
	return nil, explain(want.Proto, err)
}

// bindAll binds one number on all of addrs; zero: a random one.
func bindAll(want Port, addrs []netip.Addr, number uint16) (made []*socket, err error) {
	for _, ip := range addrs {
		fd, bound, err := listen(want.Proto, netip.AddrPortFrom(ip, number))
		if err != nil {
			closeAll(made)
			return nil, &bindError{netip.AddrPortFrom(ip, number), err}
		}
		number = bound
		made = append(made, &socket{fd: fd, slot: noSlot,
			port: Port{Proto: want.Proto, HostIP: ip, HostPort: bound, ContainerPort: want.ContainerPort}})
	}
	return made, nil
}

// bindError is what the kernel said of an address.
type bindError struct {
	addr netip.AddrPort
	err  error
}

func (e *bindError) Error() string { return fmt.Sprintf("Bind for %s failed: %v", e.addr, e.err) }
func (e *bindError) Unwrap() error { return e.err }

// explain says what the user can do.
func explain(proto string, err error) error {
	var e *bindError
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		by := holder(proto, e.addr.Port())
		return fail.New(fail.Conflict, "Bind for %s failed: port is already allocated%s", e.addr, by)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fail.New(fail.Invalid, "Bind for %s failed: cannot assign requested address: the host has none like it", e.addr)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fail.New(fail.Forbidden, "Bind for %s failed: permission denied", e.addr)
	case proto == "sctp" && (errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT)):
		return fail.New(fail.NotImplemented, "port %d/sctp cannot be published: this host's kernel has no SCTP", e.addr.Port())
	case errors.Is(err, unix.EMFILE):
		var limit unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
		return fail.New(fail.Unavailable, "Bind for %s failed: too many open files: a shim may have %d (the engine's hard limit; LimitNOFILE in systemd)", e.addr, limit.Cur)
	case errors.Is(err, unix.EAFNOSUPPORT):
		return fail.New(fail.Invalid, "Bind for %s failed: this host has no IPv6", e.addr)
	}
	return err
}

// listen opens, binds and listens, without waiting in anything.
func listen(proto string, addr netip.AddrPort) (fd int, bound uint16, err error) {
	p := protocols[proto]
	family := unix.AF_INET
	if addr.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, p.kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, p.number)
	if err != nil {
		return -1, 0, os.NewSyscallError("socket", err)
	}
	if bound, err = prepare(fd, proto, addr); err != nil {
		unix.Close(fd)
		return -1, 0, err
	}
	return fd, bound, nil
}

// prepare makes a new socket ready, and tells its port.
func prepare(fd int, proto string, addr netip.AddrPort) (uint16, error) {
	for _, o := range options(proto, addr.Addr()) {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return 0, os.NewSyscallError("setsockopt", err)
		}
	}
	if proto == "sctp" {
		if err := tuneSCTP(fd); err != nil {
			return 0, os.NewSyscallError("setsockopt", err)
		}
	}
	if err := unix.Bind(fd, sockaddr(addr)); err != nil {
		return 0, os.NewSyscallError("bind", err)
	}
	if protocols[proto].kind == unix.SOCK_STREAM {
		// With SO_REUSEADDR it may be only this call that fails if somebody listens.
		if err := unix.Listen(fd, backlog); err != nil {
			return 0, os.NewSyscallError("listen", err)
		}
	}
	if addr.Port() != 0 {
		return addr.Port(), nil
	}
	name, err := unix.Getsockname(fd)
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		return uint16(name.Port), nil
	case *unix.SockaddrInet6:
		return uint16(name.Port), nil
	}
	return 0, os.NewSyscallError("getsockname", err)
}

type option struct{ level, name, value int }

// options of a socket that is to be bound to ip. Connections inherit those of the listener
// that they came by.
func options(proto string, ip netip.Addr) (list []option) {
	if ip.Is6() {
		list = append(list, option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1})
	}
	switch proto {
	case "tcp":
		list = append(list, option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}, // connections of the last run may linger
			option{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, option{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			option{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 60}, option{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15})
	case "udp":
		if ip.IsUnspecified() && ip.Is4() {
			list = append(list, option{unix.IPPROTO_IP, unix.IP_PKTINFO, 1})
		} else if ip.IsUnspecified() {
			list = append(list, option{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1})
		}
	case "sctp":
		list = append(list, option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1})
	}
	return list
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// haveIPv6 tells whether the kernel has IPv6. It may still have no addresses.
var haveIPv6 = sync.OnceValue(func() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
})
