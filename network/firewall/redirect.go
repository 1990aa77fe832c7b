package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"berth/fail"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Redirect makes UDP and TCP that a namespace's processes send to addr, an IPv4 address of
// loopback, arrive at port to of that address, and the answers come from addr. The
// loopback interface must exist, it need not be up. The rules end with the namespace.
//
// Ports are exchanged in the packets as they arrive at loopback, in both directions; there is no NAT.
// So connections of the namespace are not tracked, and what goes through other interfaces meets
// no rule of ours at all.
func Redirect(netns *os.File, addr netip.AddrPort, to uint16) error {
	if !addr.Addr().Is4() {
		return fail.New(fail.Invalid, "%s: only IPv4 addresses are redirected", addr)
	}
	err := redirect(netns, addr, to, &nftables.Table{Name: "berth", Family: nftables.TableFamilyNetdev}, &nftables.Chain{
		Name: "loopback", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityRef(0), Device: "lo"})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) { // built without NETFILTER_INGRESS
		err = redirect(netns, addr, to, &nftables.Table{Name: "berth", Family: nftables.TableFamilyIPv4}, &nftables.Chain{
			Name: "loopback", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRef(0)})
	}
	if err != nil {
		return fmt.Errorf("redirecting %s in a container's network: %w", addr, err)
	}
	return nil
}

func redirect(netns *os.File, addr netip.AddrPort, to uint16, table *nftables.Table, ch *nftables.Chain) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(netns.Fd())))
	if err != nil {
		return err
	}
	accept := nftables.ChainPolicyAccept
	ch.Table, ch.Policy = table, &accept
	c.AddTable(table)
	c.AddChain(ch)
	ip := addr.Addr().AsSlice()
	for _, r := range []struct {
		address   uint32 // offset in the IP header
		port      uint32 // … in the transport header
		from, new uint16
	}{{16, 2, addr.Port(), to}, {12, 0, to, addr.Port()}} {
		for _, proto := range []struct {
			number   byte
			checksum uint32
		}{{unix.IPPROTO_UDP, 6}, {unix.IPPROTO_TCP, 16}} {
			c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: []expr.Any{
				meta(expr.MetaKeyPROTOCOL, reg0), cmp(reg0, 0x08, 0x00), // ETH_P_IP
				&expr.Payload{DestRegister: reg0, Base: expr.PayloadBaseNetworkHeader, Offset: r.address, Len: 4}, cmp(reg0, ip...),
				meta(expr.MetaKeyL4PROTO, reg0), cmp(reg0, proto.number),
				&expr.Payload{DestRegister: reg0, Base: expr.PayloadBaseTransportHeader, Offset: r.port, Len: 2},
				cmp(reg0, byte(r.from>>8), byte(r.from)),
				&expr.Immediate{Register: reg0, Data: []byte{byte(r.new >> 8), byte(r.new)}},
				&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: reg0, Base: expr.PayloadBaseTransportHeader,
					Offset: r.port, Len: 2, CsumType: expr.CsumTypeInet, CsumOffset: proto.checksum},
				verdict(expr.VerdictAccept),
			}})
		}
	}
	return c.Flush()
}
