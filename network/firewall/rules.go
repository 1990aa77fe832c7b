package firewall

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The table, in nft's language. Only elements change.
//
//	chain forward {                      # type filter, before the host's own filter chains
//	  ct state established,related accept
//	  iifname . oifname @pairs goto pass         # a bridge's own traffic, trusted interfaces
//	  iifname @internal drop
//	  meta nfproto . oifname vmap @into          # goto published | goto routed | goto admit | drop
//	  iifname @bridges goto pass
//	}
//	chain published { ct status dnat goto admit; drop }
//	chain routed {
//	  ip daddr . meta l4proto . th dport @open4 goto admit
//	  ip6 daddr . meta l4proto . th dport @open6 goto admit
//	  icmp type echo-request goto admit
//	  icmpv6 type echo-request goto admit
//	  goto published
//	}
//	chain pass { accept }                      # what containers begin
//	chain admit { accept }                     # what others begin
//
//	chain prerouting  { meta nfproto ipv4 goto publish4; goto publish6 }     # type nat: new connections only
//	chain output      { the same }
//	chain publish4 {
//	  ip daddr 127.0.0.0/8 goto loopback
//	  iifname . meta l4proto . th dport @near return           # the shim's socket serves these
//	  ip saddr . meta l4proto . th dport @self4 return
//	  fib daddr type local dnat to ip daddr . meta l4proto . th dport map @one4
//	  fib daddr type local dnat to meta l4proto . th dport map @any4
//	}
//	chain publish6 {
//	  ip6 daddr ::1 return               # the shim's socket serves loopback …
//	  ip6 daddr fe80::/10 return         # … and link-local clients, which nobody may route
//	  near, self6, one6, any6 as above
//	}
//	chain loopback { iifname != lo iifname != "" ip daddr . meta l4proto . th dport @loopback drop }
//
//	chain postrouting {
//	  ct status dnat jump hairpin
//	  meta nfproto . iifname vmap @leave         # goto masquerade | goto source
//	}
//	chain hairpin {
//	  iifname . ip daddr @hairpin4 masquerade
//	  iifname . ip6 daddr @hairpin6 masquerade
//	}
//	chain masquerade { oifname @bridges return; masquerade }
//	chain source { oifname @bridges return; snat to iifname map @source4; snat to iifname map @source6 }
//
// Where others drop what we accept, forward begins otherwise and pass and admit mark connections: see beside.go.

// setID names a set or map of the table.
type setID uint8

const (
	bridges  setID = iota // interface names of our bridges
	internal              // … of those that nothing leaves
	pairs                 // from . to: always passes
	into                  // family . to: who may enter
	leave                 // family . from: which address it gets
	source4               // from: fixed address
	source6
	any4 // protocol . port: container address . port, for bindings to all addresses
	any6
	one4 // address . protocol . port: … for bindings to one
	one6
	loopback // address . protocol . port: bindings to 127.0.0.0/8
	open4    // container address . protocol . port: reachable directly
	open6
	hairpin4 // from . container address: masqueraded when translated
	hairpin6
	self4 // container address . protocol . host port: not translated
	self6
	near    // from . protocol . host port: not translated
	dockers // Docker's bridges, see beside.go
	setCount
)

// shape is what a set holds.
type shape struct {
	name string
	key  []nftables.SetDatatype
	data []nftables.SetDatatype // nil: a set, no map
}

var shapes = [setCount]shape{
	bridges:  {"bridges", []nftables.SetDatatype{nftables.TypeIFName}, nil},
	internal: {"internal", []nftables.SetDatatype{nftables.TypeIFName}, nil},
	pairs:    {"pairs", []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeIFName}, nil},
	into:     {"into", []nftables.SetDatatype{nftables.TypeNFProto, nftables.TypeIFName}, []nftables.SetDatatype{nftables.TypeVerdict}},
	leave:    {"leave", []nftables.SetDatatype{nftables.TypeNFProto, nftables.TypeIFName}, []nftables.SetDatatype{nftables.TypeVerdict}},
	source4:  {"source4", []nftables.SetDatatype{nftables.TypeIFName}, []nftables.SetDatatype{nftables.TypeIPAddr}},
	source6:  {"source6", []nftables.SetDatatype{nftables.TypeIFName}, []nftables.SetDatatype{nftables.TypeIP6Addr}},
	any4:     {"any4", []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}, []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeInetService}},
	any6:     {"any6", []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}, []nftables.SetDatatype{nftables.TypeIP6Addr, nftables.TypeInetService}},
	one4:     {"one4", []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService}, []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeInetService}},
	one6:     {"one6", []nftables.SetDatatype{nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService}, []nftables.SetDatatype{nftables.TypeIP6Addr, nftables.TypeInetService}},
	loopback: {"loopback", []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService}, nil},
	open4:    {"open4", []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService}, nil},
	open6:    {"open6", []nftables.SetDatatype{nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService}, nil},
	hairpin4: {"hairpin4", []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeIPAddr}, nil},
	hairpin6: {"hairpin6", []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeIP6Addr}, nil},
	self4:    {"self4", []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService}, nil},
	self6:    {"self6", []nftables.SetDatatype{nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService}, nil},
	near:     {"near", []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeInetProto, nftables.TypeInetService}, nil},
	dockers:  {"dockers", []nftables.SetDatatype{nftables.TypeIFName}, nil},
}

// set makes the library's description of a set. IDs are given here, because the library counts
// them without a lock.
func (id setID) set(t *nftables.Table) *nftables.Set {
	s := shapes[id]
	set := &nftables.Set{Table: t, ID: uint32(id) + 1, Name: s.name, KeyType: nftables.MustConcatSetType(s.key...), Concatenation: len(s.key) > 1}
	if s.key[0].Name == nftables.TypeIFName.Name && len(s.key) == 1 {
		set.KeyByteOrder = binaryutil.NativeEndian // nft's listings print names reversed otherwise
	}
	if s.data != nil {
		set.IsMap = true
		set.DataType = nftables.MustConcatSetType(s.data...)
	}
	return set
}

// The registers of 32 bits that rules load their fields to.
const reg0 = unix.NFT_REG32_00

func meta(key expr.MetaKey, reg uint32) expr.Any { return &expr.Meta{Key: key, Register: reg} }

func cmp(reg uint32, data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: data}
}

func mask(reg uint32, bits ...byte) expr.Any {
	return &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: uint32(len(bits)), Mask: bits, Xor: make([]byte, len(bits))}
}

func differs(reg uint32, data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: data}
}

func nonzero(reg uint32) expr.Any { return differs(reg, make([]byte, 4)) }

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func in(id setID, reg uint32) expr.Any {
	return &expr.Lookup{SourceRegister: reg, SetName: shapes[id].name, SetID: uint32(id) + 1}
}

// mapTo looks a key up and loads what it leads to; register 0 is the verdict.
func mapTo(id setID, reg, to uint32) expr.Any {
	return &expr.Lookup{SourceRegister: reg, DestRegister: to, IsDestRegSet: true, SetName: shapes[id].name, SetID: uint32(id) + 1}
}

func verdict(k expr.VerdictKind) expr.Any { return &expr.Verdict{Kind: k} }

func jump(chain string) expr.Any { return &expr.Verdict{Kind: expr.VerdictJump, Chain: chain} }

func goTo(chain string) expr.Any { return &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain} }

func dportTo(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

func family(f byte) []expr.Any { return []expr.Any{meta(expr.MetaKeyNFPROTO, reg0), cmp(reg0, f)} }

// daddr4 and daddr6 load the destination and must stand behind family.
func daddr4(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
}

func daddr6(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16}
}

func saddr4(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
}

func saddr6(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 16}
}

// translated asks whether a connection's destination was translated (IPS_DST_NAT).
func translated() []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeySTATUS, Register: reg0}, mask(reg0, native(1<<5)...), nonzero(reg0)}
}

func answering() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg0},
		mask(reg0, native(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)...), nonzero(reg0),
	}
}

// local asks whether the destination is an address of this host.
func local(reg uint32) []expr.Any {
	return []expr.Any{&expr.Fib{Register: reg, ResultADDRTYPE: true, FlagDADDR: true}, cmp(reg, native(unix.RTN_LOCAL)...)}
}

func rule(parts ...any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		switch p := p.(type) {
		case expr.Any:
			all = append(all, p)
		case []expr.Any:
			all = append(all, p...)
		}
	}
	return all
}

// dnat looks a key up that lies in reg0 and follows it.
func dnat(id setID, fam, width uint32, key ...expr.Any) []expr.Any {
	const to = unix.NFT_REG32_08
	return rule(key, mapTo(id, reg0, to), local(reg0),
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: fam, RegAddrMin: to, RegProtoMin: to + width, Specified: true})
}

func name16(s string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, s)
	return b
}

// chain is a chain and its rules. A chain with a type is called by the kernel.
type chain struct {
	name  string
	kind  nftables.ChainType
	hook  *nftables.ChainHook
	prio  nftables.ChainPriority
	rules [][]expr.Any
}

// chains gives the table's chains, those that are jumped to first. marking tells whether there is
// somebody to mark connections for.
func chains(marking bool) []chain {
	const r1, r2, r4 = reg0 + 1, reg0 + 2, reg0 + 4
	v4, v6 := family(unix.NFPROTO_IPV4), family(unix.NFPROTO_IPV6)
	iif, oif, proto := meta(expr.MetaKeyIIFNAME, reg0), meta(expr.MetaKeyOIFNAME, reg0), meta(expr.MetaKeyL4PROTO, reg0)

	pass := [][]expr.Any{{verdict(expr.VerdictAccept)}}
	admit := pass
	begin := [][]expr.Any{rule(answering(), verdict(expr.VerdictAccept))}
	if marking {
		pass, admit, begin = passMarking(passedMark|ownMark), admitMarking(), beginMarking()
	}
	publish := [][]expr.Any{rule(v4, goTo("publish4")), {goTo("publish6")}}
	all := []chain{
		{name: "pass", rules: pass},
		{name: "admit", rules: admit},
		{name: "published", rules: [][]expr.Any{
			rule(translated(), goTo("admit")),
			{verdict(expr.VerdictDrop)},
		}},
		{name: "routed", rules: [][]expr.Any{
			rule(v4, daddr4(reg0), meta(expr.MetaKeyL4PROTO, r1), dportTo(r2), in(open4, reg0), goTo("admit")),
			rule(v6, daddr6(reg0), meta(expr.MetaKeyL4PROTO, r4), dportTo(r4+1), in(open6, reg0), goTo("admit")),
			rule(v4, proto, cmp(reg0, unix.IPPROTO_ICMP), ping(8), goTo("admit")),
			rule(v6, proto, cmp(reg0, unix.IPPROTO_ICMPV6), ping(128), goTo("admit")),
			{goTo("published")},
		}},
		{name: "loopback", rules: [][]expr.Any{
			rule(iif, differs(reg0, name16("lo")), differs(reg0, name16("")), // that is the host's own, in output
				daddr4(reg0), meta(expr.MetaKeyL4PROTO, r1), dportTo(r2), in(loopback, reg0), verdict(expr.VerdictDrop)),
		}},
		{name: "publish4", rules: [][]expr.Any{
			rule(daddr4(reg0), mask(reg0, 255, 0, 0, 0), cmp(reg0, 127, 0, 0, 0), goTo("loopback")),
			rule(iif, meta(expr.MetaKeyL4PROTO, r4), dportTo(r4+1), in(near, reg0), verdict(expr.VerdictReturn)),
			rule(saddr4(reg0), meta(expr.MetaKeyL4PROTO, r1), dportTo(r2), in(self4, reg0), verdict(expr.VerdictReturn)),
			dnat(one4, unix.NFPROTO_IPV4, 1, daddr4(reg0), meta(expr.MetaKeyL4PROTO, r1), dportTo(r2)),
			dnat(any4, unix.NFPROTO_IPV4, 1, proto, dportTo(r1)),
		}},
		{name: "publish6", rules: [][]expr.Any{
			rule(daddr6(reg0), cmp(reg0, append(make([]byte, 15), 1)...), verdict(expr.VerdictReturn)),
			rule(daddr6(reg0), mask(reg0, append([]byte{0xff, 0xc0}, make([]byte, 14)...)...),
				cmp(reg0, append([]byte{0xfe, 0x80}, make([]byte, 14)...)...), verdict(expr.VerdictReturn)),
			rule(iif, meta(expr.MetaKeyL4PROTO, r4), dportTo(r4+1), in(near, reg0), verdict(expr.VerdictReturn)),
			rule(saddr6(reg0), meta(expr.MetaKeyL4PROTO, r4), dportTo(r4+1), in(self6, reg0), verdict(expr.VerdictReturn)),
			dnat(one6, unix.NFPROTO_IPV6, 4, daddr6(reg0), meta(expr.MetaKeyL4PROTO, r4), dportTo(r4+1)),
			dnat(any6, unix.NFPROTO_IPV6, 4, proto, dportTo(r1)),
		}},
		{name: "hairpin", rules: [][]expr.Any{
			rule(v4, iif, daddr4(r4), in(hairpin4, reg0), &expr.Masq{}),
			rule(v6, iif, daddr6(r4), in(hairpin6, reg0), &expr.Masq{}),
		}},
		{name: "masquerade", rules: [][]expr.Any{
			rule(oif, in(bridges, reg0), verdict(expr.VerdictReturn)),
			{&expr.Masq{}},
		}},
		{name: "source", rules: [][]expr.Any{
			rule(oif, in(bridges, reg0), verdict(expr.VerdictReturn)),
			rule(v4, iif, mapTo(source4, reg0, r4), &expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: r4}),
			rule(v6, iif, mapTo(source6, reg0, r4), &expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV6, RegAddrMin: r4}),
		}},
		{name: "forward", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookForward, prio: *nftables.ChainPriorityFilter - 1, rules: slices.Concat(begin, [][]expr.Any{
			rule(iif, meta(expr.MetaKeyOIFNAME, r4), in(pairs, reg0), goTo("pass")),
			rule(iif, in(internal, reg0), verdict(expr.VerdictDrop)),
			rule(meta(expr.MetaKeyNFPROTO, reg0), meta(expr.MetaKeyOIFNAME, r1), mapTo(into, reg0, unix.NFT_REG_VERDICT)),
			rule(iif, in(bridges, reg0), goTo("pass")),
		})},
		{name: "prerouting", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPrerouting, prio: *nftables.ChainPriorityNATDest, rules: publish},
		{name: "output", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookOutput, prio: *nftables.ChainPriorityNATDest, rules: publish},
		{name: "postrouting", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPostrouting, prio: *nftables.ChainPriorityNATSource, rules: [][]expr.Any{
			rule(translated(), jump("hairpin")),
			rule(meta(expr.MetaKeyNFPROTO, reg0), meta(expr.MetaKeyIIFNAME, r1), mapTo(leave, reg0, unix.NFT_REG_VERDICT)),
		}},
	}
	if marking {
		all = append(all, answeringMarking)
	}
	return all
}

// ping matches an ICMP type.
func ping(kind byte) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg0, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1}, cmp(reg0, kind)}
}

// describe queues the messages that make table t with all its chains and elements.
func describe(c *nftables.Conn, t *nftables.Table, marking bool, elements map[elementKey]entry) error {
	c.AddTable(t)
	bySet := [setCount][]nftables.SetElement{}
	for k, e := range elements {
		bySet[k.set] = append(bySet[k.set], k.element(e.value))
	}
	all := chains(marking)
	for _, ch := range all { // first of all the chains that elements lead to
		c.AddChain(ch.describe(t))
	}
	for id := range setCount {
		if err := c.AddSet(id.set(t), nil); err != nil {
			return err
		}
	}
	for _, ch := range all {
		for _, r := range ch.rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: &nftables.Chain{Name: ch.name, Table: t}, Exprs: r})
		}
	}
	for id, list := range bySet {
		if err := addElements(c, setID(id).set(t), list); err != nil {
			return err
		}
	}
	return nil
}

func (ch chain) describe(t *nftables.Table) *nftables.Chain {
	d := &nftables.Chain{Name: ch.name, Table: t}
	if ch.kind != "" {
		accept := nftables.ChainPolicyAccept
		d.Type, d.Hooknum, d.Priority, d.Policy = ch.kind, ch.hook, nftables.ChainPriorityRef(ch.prio), &accept
	}
	return d
}

// addElements queues elements, so many in a message that its length fits in 16 bits.
func addElements(c *nftables.Conn, s *nftables.Set, list []nftables.SetElement) error {
	for part := range slices.Chunk(list, 400) {
		if err := c.SetAddElements(s, part); err != nil {
			return err
		}
	}
	return nil
}

func deleteElements(c *nftables.Conn, s *nftables.Set, list []nftables.SetElement) error {
	for part := range slices.Chunk(list, 400) {
		if err := c.SetDeleteElements(s, part); err != nil {
			return err
		}
	}
	return nil
}
