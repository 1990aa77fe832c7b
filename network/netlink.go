package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"berth/network/ipam"
)

// conn is a route netlink socket. It belongs to the network namespace of the thread that
// dialed it, whichever thread uses it later: so a namespace that waits in the pool is
// configured without entering it.
type conn struct {
	mu  sync.Mutex
	fd  int
	seq uint32
	buf []byte
}

func dial() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	// The kernel works inside sendto: an answer that is not there yet never comes.
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind a netlink socket: %w", err)
	}
	return &conn{fd: fd, buf: make([]byte, 32<<10)}, nil
}

func (c *conn) close() { _ = unix.Close(c.fd) }

// kernelError is a refusal with the kernel's own words, if it had some.
type kernelError struct {
	errno syscall.Errno
	text  string
}

func (e *kernelError) Error() string {
	if e.text != "" {
		return e.errno.Error() + " (" + e.text + ")"
	}
	return e.errno.Error()
}
func (e *kernelError) Unwrap() error { return e.errno }

// message is one request of a batch.
type message struct {
	req     *nl.NetlinkRequest
	what    string          // for the error: "add the address 10.0.0.2/24"
	ignored []syscall.Errno // are no errors
}

func (m message) ignores(err error) bool {
	return slices.ContainsFunc(m.ignored, func(e syscall.Errno) bool { return errors.Is(err, e) })
}

// do sends all messages as one, which the kernel then carries out in order, and returns
// the first error. Messages behind a failed one are carried out too.
func (c *conn) do(batch ...message) error {
	var first error
	for part := range slices.Chunk(batch, 64) { // more answers might not fit into the socket
		if _, err := c.exchange(part); first == nil {
			first = err
		}
	}
	return first
}

// exchange is do with the answers that are not acknowledgements.
func (c *conn) exchange(batch []message) (answers [][]byte, first error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []byte
	base := c.seq + 1
	for _, m := range batch {
		c.seq++
		m.req.Seq = c.seq
		m.req.Flags |= unix.NLM_F_REQUEST | unix.NLM_F_ACK
		out = append(out, m.req.Serialize()...)
		out = append(out, make([]byte, -len(out)&3)...)
	}
	if err := unix.Sendto(c.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("speak to the kernel: %w", err)
	}
	for acked := 0; acked < len(batch); {
		n, _, err := unix.Recvfrom(c.fd, c.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("listen to the kernel: %w", err)
		}
		msgs, err := syscall.ParseNetlinkMessage(c.buf[:n])
		if err != nil {
			return nil, fmt.Errorf("understand the kernel: %w", err)
		}
		for _, m := range msgs {
			i := int(m.Header.Seq - base)
			if i < 0 || i >= len(batch) {
				continue // of an earlier exchange that timed out
			}
			if m.Header.Type != unix.NLMSG_ERROR {
				answers = append(answers, append([]byte{}, m.Data...))
				continue
			}
			acked++
			if err := ackError(m); err != nil && first == nil && !batch[i].ignores(err) {
				first = fmt.Errorf("%s: %w", batch[i].what, err)
			}
		}
	}
	return answers, first
}

// ackError reads struct nlmsgerr and the extended acknowledgement behind it (netlink(7)).
func ackError(m syscall.NetlinkMessage) error {
	if len(m.Data) < 4 {
		return errors.New("a short acknowledgement")
	}
	errno := -int32(binary.NativeEndian.Uint32(m.Data))
	if errno == 0 {
		return nil
	}
	e := &kernelError{errno: syscall.Errno(errno)}
	if m.Header.Flags&unix.NLM_F_ACK_TLVS == 0 {
		return e
	}
	at := 4 + unix.SizeofNlMsghdr
	if m.Header.Flags&unix.NLM_F_CAPPED == 0 && len(m.Data) >= 8 {
		at = 4 + (int(binary.NativeEndian.Uint32(m.Data[4:]))+3)&^3
	}
	if at > len(m.Data) {
		return e
	}
	attrs, err := nl.ParseRouteAttr(m.Data[at:])
	if err != nil {
		return e
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.NLMSGERR_ATTR_MSG {
			e.text = nl.BytesToString(a.Value)
		}
	}
	return e
}

// link starts a message about an interface, found by its index or else by its name. flags
// are NLM_F_CREATE and the like; change says which of the interface's IFF_ flags it sets.
func linkMessage(index int, name string, flags int, set, change uint32) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, flags)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index, info.Flags, info.Change = int32(index), set, change
	req.AddData(info)
	if index == 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	}
	return req
}

var gone = []syscall.Errno{unix.ENODEV}

func deleteLink(name string) message {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return message{req, "delete the interface " + name, gone}
}

const in6AddrGenModeNone = 1 // linux/if_link.h

// quiet keeps the kernel from giving an interface an IPv6 address of its own, which a
// bridge's port does not need.
func quiet(req *nl.NetlinkRequest) {
	if !haveIPv6() {
		return // the kernel would not know the attribute
	}
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	inet6 := spec.AddRtAttr(unix.AF_INET6, nil)
	inet6.AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, nl.Uint8Attr(in6AddrGenModeNone))
	req.AddData(spec)
}

// haveIPv6 tells whether the kernel does IPv6 at all (not with ipv6.disable=1).
var haveIPv6 = sync.OnceValue(func() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
})

// bridgePort are a port's attributes (IFLA_BRPORT_), each of one byte.
func bridgePort(attrs map[int]uint8) *nl.RtAttr {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_SLAVE_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(nl.IFLA_INFO_SLAVE_DATA, nil)
	for k, v := range attrs {
		data.AddRtAttr(k, nl.Uint8Attr(v))
	}
	return info
}

// addAddress gives an interface an address that can be used at once: duplicates are
// excluded by whoever gave it out.
func addAddress(index int, p netip.Prefix) message { return addressMessage(index, p) }

func addressMessage(index int, p netip.Prefix, ignored ...syscall.Errno) message {
	req := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	family, flags := unix.AF_INET, uint32(0)
	if p.Addr().Is6() {
		family, flags = unix.AF_INET6, unix.IFA_F_NODAD
	}
	msg := nl.NewIfAddrmsg(family)
	msg.Index, msg.Prefixlen = uint32(index), uint8(p.Bits())
	if p.Addr().IsLinkLocalUnicast() {
		msg.Scope = unix.RT_SCOPE_LINK
	}
	req.AddData(msg)
	addr := p.Addr().AsSlice()
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, addr))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, addr))
	if p.Addr().Is4() && p.Bits() < 31 {
		req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, ipam.Last(p).AsSlice()))
	}
	if flags != 0 {
		req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(flags)))
	}
	return message{req, "add the address " + p.String(), ignored}
}

// defaultRoute leads everything to via, or straight onto the interface if via is zero.
// kind is RTM_NEWROUTE or RTM_DELROUTE.
func defaultRoute(kind, index int, via netip.Addr, six bool) message {
	flags, ignored := unix.NLM_F_CREATE|unix.NLM_F_REPLACE, []syscall.Errno(nil)
	if kind == unix.RTM_DELROUTE {
		flags, ignored = 0, []syscall.Errno{unix.ESRCH}
	}
	req := nl.NewNetlinkRequest(kind, flags)
	family := unix.AF_INET
	if six {
		family = unix.AF_INET6
	}
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{
		Family: uint8(family), Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_BOOT,
		Type: unix.RTN_UNICAST, Scope: routeScope(via),
	}})
	if via.IsValid() {
		req.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, via.AsSlice()))
	}
	req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	what := "set the default route"
	if via.IsValid() {
		what += " by " + via.String()
	}
	return message{req, what, ignored}
}

func routeScope(via netip.Addr) uint8 {
	if via.IsValid() {
		return unix.RT_SCOPE_UNIVERSE
	}
	return unix.RT_SCOPE_LINK
}

// onLink is a route to a single gateway outside the subnet.
func onLink(index int, to netip.Addr) message {
	req := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	family := unix.AF_INET
	if to.Is6() {
		family = unix.AF_INET6
	}
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{
		Family: uint8(family), Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_BOOT,
		Type: unix.RTN_UNICAST, Scope: unix.RT_SCOPE_LINK, Dst_len: uint8(to.BitLen()),
	}})
	req.AddData(nl.NewRtAttr(unix.RTA_DST, to.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	return message{req, "reach the gateway " + to.String(), nil}
}

// askLink asks for an interface by its index, or else by its name.
func askLink(index int, name string) message {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(index)
	req.AddData(info)
	if index == 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	}
	return message{req, "find the interface " + name, nil}
}

// index finds an interface in the connection's namespace.
func (c *conn) index(name string) (int, error) {
	answers, err := c.exchange([]message{askLink(0, name)})
	if err != nil {
		return 0, err
	}
	if len(answers) == 0 || len(answers[0]) < unix.SizeofIfInfomsg {
		return 0, fmt.Errorf("find the interface %s: no answer", name)
	}
	return int(nl.DeserializeIfInfomsg(answers[0]).Index), nil
}

func setAddress(index int, mac net.HardwareAddr) message {
	req := linkMessage(index, "", 0, 0, 0)
	req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
	return message{req, "set the MAC address " + mac.String(), nil}
}

func setUp(index int, name string) message {
	return message{linkMessage(index, name, 0, unix.IFF_UP, unix.IFF_UP), "bring " + name + " up", nil}
}

// whole lists until nothing changed while the kernel was listing; on a host where something always
// changes, the last list is as good as any.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range 20 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, nil
}
