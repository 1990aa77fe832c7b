package firewall

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// What one table accepts another one may still drop. Two of those that do are shared by custom,
// and there our accept goes, one rule for connections with a mark, because a rule for each bridge
// would cost every packet:
//
//   - Docker's chain DOCKER-USER. A Docker daemon sets the policy of the host's forward chain to
//     drop, and leaves that chain to others. Everything that our table let pass is accepted.
//   - The chain FORWARD of iptables (over nftables) where its policy is to drop, as ufw has it. Accepted
//     is what our containers begin or answer, but not what others begin: whether they reach
//     published ports is the host firewall's to say. The rule stands behind all others, in front of
//     nothing but the policy (and of what ufw does then), so every rule of the administrator's counts.
//
// Our own forward chain runs before and marks what it let pass:
//
//	chain forward {
//	  ct state established,related ct mark & ownMark != 0 accept
//	  ct state established,related goto answering
//	  … as ever
//	}
//	chain answering {                     # begun by others, older than our marks, or not ours
//	  iifname @bridges goto pass
//	  oifname @bridges goto pass
//	  accept
//	}
//	chain pass {
//	  iifname @dockers accept             # about the way into its own bridges, and out of them,
//	  oifname @dockers accept             # Docker decides
//	  ct mark set ct mark | passedMark | ownMark
//	  accept
//	}
//	chain admit {
//	  iifname @bridges goto pass
//	  iifname @dockers accept
//	  ct mark set ct mark | passedMark
//	  accept
//	}
//
// The rule is written as iptables-nft would write it, which else refuses to touch the table any
// more. In DOCKER-USER it stands behind the administrator's own rules.

// Bits of a connection's mark. They are set only where somebody's chain asks for them.
const (
	passedMark = 0x02000000 // our table let it pass
	ownMark    = 0x04000000 // … and a container began it, or has answered
)

func passMarking(mark uint32) [][]expr.Any {
	load := &expr.Ct{Key: expr.CtKeyMARK, Register: reg0}
	set := &expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: native(^mark), Xor: native(mark)}
	accept := verdict(expr.VerdictAccept)
	return [][]expr.Any{
		rule(meta(expr.MetaKeyIIFNAME, reg0), in(dockers, reg0), accept),
		rule(meta(expr.MetaKeyOIFNAME, reg0), in(dockers, reg0), accept),
		rule(load, set, &expr.Ct{Key: expr.CtKeyMARK, Register: reg0, SourceRegister: true}, accept),
	}
}

func admitMarking() [][]expr.Any {
	return append([][]expr.Any{rule(meta(expr.MetaKeyIIFNAME, reg0), in(bridges, reg0), goTo("pass"))}, passMarking(passedMark)...)
}

func beginMarking() [][]expr.Any {
	return [][]expr.Any{
		rule(answering(), &expr.Ct{Key: expr.CtKeyMARK, Register: reg0}, mask(reg0, native(ownMark)...), nonzero(reg0), verdict(expr.VerdictAccept)),
		rule(answering(), goTo("answering")),
	}
}

var answeringMarking = chain{name: "answering", rules: [][]expr.Any{
	rule(meta(expr.MetaKeyIIFNAME, reg0), in(bridges, reg0), goTo("pass")),
	rule(meta(expr.MetaKeyOIFNAME, reg0), in(bridges, reg0), goTo("pass")),
	{verdict(expr.VerdictAccept)},
}}

// dockerOwner owns the elements of dockers.
const dockerOwner = "docker"

// neighbours are those whose chains ask for our accept.
type neighbours struct {
	seats   []seat
	bridges map[string]bool // Docker's
}

// seat is a chain that our accept may have to be in.
type seat struct {
	table  *nftables.Table
	chain  string
	mark   uint32
	wanted bool
}

const (
	dockerUser = "DOCKER-USER"
	forward    = "FORWARD"
)

// asked tells whether any chain asks for our accept.
func (n *neighbours) asked() bool {
	return slices.ContainsFunc(n.seats, func(s seat) bool { return s.wanted })
}

// findNeighbours looks for those that use nftables by way of iptables-nft. With the older kernel
// interface, or Docker's own nftables tables, there is nothing we could add to (see Hints), or
// that would be in our way. Of a chain that cannot be read (an expression that the library does not
// know) counts what was seen before.
func findNeighbours(c *nftables.Conn, before neighbours) (neighbours, error) {
	n := neighbours{bridges: map[string]bool{}}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		chains, err := c.ListChainsOfTableFamily(family)
		if err != nil {
			return n, err
		}
		table := &nftables.Table{Name: "filter", Family: family}
		docker := false
		closed := false
		for _, ch := range chains {
			switch {
			case ch.Table.Name != table.Name:
			case ch.Name == dockerUser:
				docker = true
				n.seats = append(n.seats, seat{table, dockerUser, passedMark, true})
			case ch.Name == forward && ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward:
				closed = ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop
				n.seats = append(n.seats, seat{table, forward, ownMark, false})
			}
		}
		for i, s := range n.seats {
			if s.table == table && s.chain == forward {
				n.seats[i].wanted = closed && !docker
			}
		}
		if !docker {
			continue
		}
		for _, ch := range chains {
			if ch.Table.Name != table.Name || ch.Name != forward && !strings.HasPrefix(ch.Name, "DOCKER") {
				continue
			}
			rules, err := c.GetRules(table, ch)
			if err != nil {
				maps.Copy(n.bridges, before.bridges)
				continue
			}
			for _, r := range rules {
				if name, ok := dockersBridge(r); ok {
					n.bridges[name] = true
				}
			}
		}
	}
	return n, nil
}

// dockersBridge tells the bridge that a rule sends to the chain DOCKER: -o BRIDGE -j DOCKER.
func dockersBridge(r *nftables.Rule) (name string, ok bool) {
	var reg uint32
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Meta:
			if e.Key == expr.MetaKeyOIFNAME {
				reg = e.Register
			}
		case *expr.Cmp:
			if reg != 0 && e.Register == reg && e.Op == expr.CmpOpEq {
				name = string(bytes.TrimRight(e.Data, "\x00"))
			}
		case *expr.Verdict:
			ok = e.Chain == "DOCKER"
		}
	}
	return name, ok && name != ""
}

// lookBeside makes the state fit to who is beside us. If that cannot be seen, all stays as it was,
// and is looked at again. It is called with the lock held.
func (t *Table) lookBeside() (neighbours, change) {
	found, err := findNeighbours(t.conn, t.beside)
	if err != nil {
		found = t.beside
		if !t.blind {
			t.log.Warn("cannot see whether there is a firewall that stops our traffic; looking again", "error", err)
		}
		t.conn.CloseLasting() // answers may still be on their way
		if err := t.dial(); err != nil {
			t.log.Error("there is no connection to the kernel's firewall", "error", err)
		}
		notify(t.watch.beside)
	}
	t.beside, t.blind = found, err != nil
	t.marking = t.needed() && found.asked()
	names := map[elementKey]value{}
	if t.marking {
		for name := range found.bridges {
			names[elementKey{dockers, nameField(name)}] = value{}
		}
	}
	return found, t.state.set(dockerOwner, names)
}

// acceptBeside makes our accept be in every chain that asks for it, or in none if the table is not there.
func (t *Table) acceptBeside(found neighbours) {
	for _, s := range found.seats {
		if err := t.acceptIn(s, t.present && s.wanted); err != nil {
			t.log.Warn("no accept rule in the host's chain "+s.chain, "error", err)
		}
	}
}

// besideOthers makes table and accept rules fit to what others have changed. It is called
// with the lock held.
func (t *Table) besideOthers() error {
	had := t.marking
	found, c := t.lookBeside()
	if t.marking != had {
		return t.replace()
	}
	if err := t.commit(c); err != nil {
		return err
	}
	t.acceptBeside(found)
	return nil
}

// acceptIn makes our rule be in its place once, or not at all.
func (t *Table) acceptIn(s seat, wanted bool) error {
	ch := &nftables.Chain{Name: s.chain, Table: s.table}
	rules, err := t.conn.GetRules(s.table, ch)
	if err != nil {
		return err
	}
	comment := userdata.AppendString(nil, userdata.TypeComment, t.table.Name)
	least, end, before := s.place(rules)
	there := false
	for i, r := range rules {
		if !bytes.Equal(r.UserData, comment) {
			continue
		}
		if wanted && !there && i >= least && i < end {
			there = true
			continue
		}
		r.Table, r.Chain = s.table, ch
		if err := t.conn.DelRule(r); err != nil {
			return err
		}
	}
	if wanted && !there {
		// struct xt_connmark_mtinfo1: mark, mask, invert, padded to 64 bits
		info := binary.NativeEndian.AppendUint32(native(s.mark), s.mark)
		raw := xt.Unknown(append(info, make([]byte, 8)...))
		r := &nftables.Rule{Table: s.table, Chain: ch, UserData: comment, Position: before, Exprs: []expr.Any{
			&expr.Match{Name: "connmark", Rev: 1, Info: &raw}, &expr.Counter{}, verdict(expr.VerdictAccept)}}
		if before != 0 {
			t.conn.InsertRule(r)
		} else {
			t.conn.AddRule(r)
		}
	}
	return t.flush()
}

// place tells from which index on, and up to which, our rule stands right, and the handle of the rule
// that a new one is inserted before; 0: none, it goes to the end.
func (s seat) place(rules []*nftables.Rule) (least, end int, before uint64) {
	end = len(rules)
	if s.chain == dockerUser {
		// Docker ends the chain by a return, some time after it has made it: we may have been there first.
		if i := slices.IndexFunc(rules, returnsAlways); i >= 0 {
			end, before = i, rules[i].Handle
		}
		return 0, end, before
	}
	if i := slices.IndexFunc(rules, afterUfw); i >= 0 {
		end, before = i, rules[i].Handle
	}
	for least = end; least > 0 && engines(rules[least-1]); least-- {
	}
	return least, len(rules), before
}

// afterUfw tells the rules that lead to what ufw does with packets that none of its rules wanted.
func afterUfw(r *nftables.Rule) bool {
	return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
		v, ok := e.(*expr.Verdict)
		return ok && (strings.HasPrefix(v.Chain, "ufw-after") || strings.HasPrefix(v.Chain, "ufw6-after"))
	})
}

// engines tells the accept of any engine of ours.
func engines(r *nftables.Rule) bool {
	comment, ok := userdata.GetString(r.UserData, userdata.TypeComment)
	return ok && strings.HasPrefix(comment, "berth")
}

func returnsAlways(r *nftables.Rule) bool {
	returns := false
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Counter:
		case *expr.Verdict:
			returns = e.Kind == expr.VerdictReturn
		default:
			return false
		}
	}
	return returns
}

// isShared tells whether news about a table may be about a chain that our accept goes to.
func isShared(family byte, table string) bool {
	return table == "filter" && (family == unix.NFPROTO_IPV4 || family == unix.NFPROTO_IPV6)
}
