package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"berth/fail"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Redirect makes UDP and TCP that a namespace's processes send to addr, an IPv4 address of
// loopback, arrive at port to of that address, and the answers come from addr. The
// loopback interface must exist, it need not be up. The rules end with the namespace.
//
// Ports are exchanged in the packets as they arrive at loopback, in both directions; there is no
// NAT. So connections of the namespace are not tracked, and what goes through other interfaces
// meets no rule of ours at all.
func Redirect(netns *os.File, addr netip.AddrPort, to uint16) error {
	if !addr.Addr().Is4() {
		return fail.New(fail.Invalid, "%s: only IPv4 addresses are redirected", addr)
	}
	// ENOENT and EOPNOTSUPP: a kernel built without NETFILTER_INGRESS
	batch, err := redirectBatch(unix.NFPROTO_NETDEV, unix.NF_NETDEV_INGRESS, "lo", addr, to)
	if err == nil {
		err = sendInside(netns, batch)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		if batch, err = redirectBatch(unix.NFPROTO_IPV4, unix.NF_INET_LOCAL_OUT, "", addr, to); err == nil {
			err = sendInside(netns, batch)
		}
	}
	if err != nil {
		return fmt.Errorf("redirecting %s in a container's network: %w", addr, err)
	}
	return nil
}

// redirectBatch is the transaction that makes a table with one chain. It is put together here and not
// by the nftables library, which asks for an answer and a copy of every message: that takes
// twice as long as all the rest, in every start of a container.
func redirectBatch(family byte, hook uint32, device string, addr netip.AddrPort, to uint16) ([]byte, error) {
	const table, chain = "berth\x00", "loopback\x00"
	var b batch
	b.message(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	b.message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE, netlink.Create, family, 0,
		attr(unix.NFTA_TABLE_NAME, table))
	at := []netlink.Attribute{attr(unix.NFTA_HOOK_HOOKNUM, big(hook)), attr(unix.NFTA_HOOK_PRIORITY, big(0))}
	if device != "" {
		at = append(at, attr(unix.NFTA_HOOK_DEV, device+"\x00"))
	}
	b.message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWCHAIN, netlink.Create, family, 0,
		attr(unix.NFTA_CHAIN_TABLE, table), attr(unix.NFTA_CHAIN_NAME, chain), attr(unix.NFTA_CHAIN_TYPE, "filter\x00"),
		b.nested(unix.NFTA_CHAIN_HOOK, at...))
	ip := addr.Addr().AsSlice()
	for i, r := range []struct {
		proto     byte
		checksum  uint32 // offsets in the transport header: of the checksum,
		port      uint32 // … of the port;
		address   uint32 // in the IP header
		from, new uint16
	}{
		{unix.IPPROTO_UDP, 6, 2, 16, addr.Port(), to},
		{unix.IPPROTO_UDP, 6, 0, 12, to, addr.Port()},
		{unix.IPPROTO_TCP, 16, 2, 16, addr.Port(), to},
		{unix.IPPROTO_TCP, 16, 0, 12, to, addr.Port()},
	} {
		var parts []netlink.Attribute
		for _, e := range []expr.Any{
			meta(expr.MetaKeyPROTOCOL, reg0), cmp(reg0, 0x08, 0x00), // ETH_P_IP
			&expr.Payload{DestRegister: reg0, Base: expr.PayloadBaseNetworkHeader, Offset: r.address, Len: 4}, cmp(reg0, ip...),
			meta(expr.MetaKeyL4PROTO, reg0), cmp(reg0, r.proto),
			&expr.Payload{DestRegister: reg0, Base: expr.PayloadBaseTransportHeader, Offset: r.port, Len: 2}, cmp(reg0, port(r.from)...),
			&expr.Immediate{Register: reg0, Data: port(r.new)},
			&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: reg0, Base: expr.PayloadBaseTransportHeader,
				Offset: r.port, Len: 2, CsumType: expr.CsumTypeInet, CsumOffset: r.checksum},
			verdict(expr.VerdictAccept),
		} {
			data, err := expr.Marshal(family, e)
			if err != nil {
				return nil, err
			}
			parts = append(parts, attr(unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, string(data)))
		}
		flags := netlink.Create | netlink.Append
		if i == 3 { // the one answer, when all is done; errors are always told
			flags |= netlink.Acknowledge
		}
		b.message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWRULE, flags, family, 0,
			attr(unix.NFTA_RULE_TABLE, table), attr(unix.NFTA_RULE_CHAIN, chain), b.nested(unix.NFTA_RULE_EXPRESSIONS, parts...))
	}
	b.message(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	return b.bytes, b.err
}

const sizeofNfgenmsg = 4 // struct nfgenmsg

// batch collects messages of nfnetlink.
type batch struct {
	bytes []byte
	count uint32
	err   error
}

func (b *batch) message(kind uint16, flags netlink.HeaderFlags, family byte, resource uint16, attrs ...netlink.Attribute) {
	data := b.marshal(attrs)
	b.count++
	h := binary.NativeEndian
	b.bytes = h.AppendUint32(b.bytes, uint32(unix.SizeofNlMsghdr+sizeofNfgenmsg+len(data))) // all lengths are multiples of 4
	b.bytes = h.AppendUint16(b.bytes, kind)
	b.bytes = h.AppendUint16(b.bytes, uint16(netlink.Request|flags))
	b.bytes = h.AppendUint32(b.bytes, b.count)
	b.bytes = h.AppendUint32(b.bytes, 0) // sender: filled in by nobody, and the kernel does not look
	b.bytes = append(b.bytes, family, unix.NFNETLINK_V0)
	b.bytes = binary.BigEndian.AppendUint16(b.bytes, resource)
	b.bytes = append(b.bytes, data...)
}

func (b *batch) marshal(attrs []netlink.Attribute) []byte {
	data, err := netlink.MarshalAttributes(attrs)
	b.err = errors.Join(b.err, err)
	return data
}

func (b *batch) nested(kind uint16, attrs ...netlink.Attribute) netlink.Attribute {
	return attr(unix.NLA_F_NESTED|kind, string(b.marshal(attrs)))
}

func attr(kind uint16, data string) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: []byte(data)}
}

func big(v uint32) string { return string(binary.BigEndian.AppendUint32(nil, v)) }

func port(p uint16) []byte { return []byte{byte(p >> 8), byte(p)} }

// sendInside sends a batch to the nftables of a namespace and waits for the answer.
func sendInside(netns *os.File, batch []byte) error {
	result := make(chan error, 1)
	go func() { result <- onThreadOf(netns, func() error { return send(batch) }) }()
	return <-result
}

// onThreadOf runs f on a thread that is in netns meanwhile. A thread that cannot come back stays
// locked, and ends with the goroutine.
func onThreadOf(netns *os.File, f func() error) error {
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer unix.Close(home)
	if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("entering a network namespace: %w", err)
	}
	err = f()
	if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}

func send(batch []byte) error {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	if err := unix.Sendto(s, batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 8192)
	n, _, err := unix.Recvfrom(s, answer, 0)
	if err != nil {
		return err
	}
	// struct nlmsghdr, then struct nlmsgerr, which begins with the negative errno
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("an unexpected answer of the kernel: %d bytes", n)
	}
	if errno := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
		return unix.Errno(-errno)
	}
	return nil
}
