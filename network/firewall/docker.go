package firewall

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// A Docker daemon on the same machine sets the policy of the host's forward chain to drop, and
// leaves the chain DOCKER-USER to others. Our accept goes there: one rule, for connections with a
// mark, because a rule for each bridge would cost every packet. Our own forward chain runs
// before and marks what it let pass:
//
//	chain forward {
//	  ct state established,related ct mark & passedMark != 0 accept
//	  ct state established,related goto answering
//	  … as ever
//	}
//	chain answering {                     # older than Docker, or not ours
//	  iifname @bridges goto pass
//	  oifname @bridges goto pass
//	  accept
//	}
//	chain pass {
//	  iifname @dockers accept             # about the way into its own bridges, and out of them,
//	  oifname @dockers accept             # Docker decides
//	  ct mark set ct mark | passedMark
//	  accept
//	}
//
// The rule is written as iptables-nft would write it, which else refuses to touch the table any
// more. It stands behind the administrator's own rules in that chain.

// passedMark is the bit of a connection's mark that says that our table let it pass. It is
// set only where a Docker daemon is.
const passedMark = 0x02000000

func passBesideDocker() [][]expr.Any {
	load := &expr.Ct{Key: expr.CtKeyMARK, Register: reg0}
	set := &expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: native(^uint32(passedMark)), Xor: native(passedMark)}
	accept := verdict(expr.VerdictAccept)
	return [][]expr.Any{
		rule(meta(expr.MetaKeyIIFNAME, reg0), in(dockers, reg0), accept),
		rule(meta(expr.MetaKeyOIFNAME, reg0), in(dockers, reg0), accept),
		rule(load, set, &expr.Ct{Key: expr.CtKeyMARK, Register: reg0, SourceRegister: true}, accept),
	}
}

func beginBesideDocker() [][]expr.Any {
	return [][]expr.Any{
		rule(answering(), &expr.Ct{Key: expr.CtKeyMARK, Register: reg0}, mask(reg0, native(passedMark)...), nonzero(reg0), verdict(expr.VerdictAccept)),
		rule(answering(), goTo("answering")),
	}
}

var answeringBesideDocker = chain{name: "answering", rules: [][]expr.Any{
	rule(meta(expr.MetaKeyIIFNAME, reg0), in(bridges, reg0), goTo("pass")),
	rule(meta(expr.MetaKeyOIFNAME, reg0), in(bridges, reg0), goTo("pass")),
	{verdict(expr.VerdictAccept)},
}}

// dockerOwner owns the elements of dockers.
const dockerOwner = "docker"

// neighbour is what a Docker daemon has in the kernel.
type neighbour struct {
	tables  []*nftables.Table // that have a chain DOCKER-USER
	bridges map[string]bool
}

// findDocker looks for one that uses nftables, by way of iptables-nft. With the older kernel
// interface, or Docker's own nftables tables, there is nothing we could add to (see Hints), or
// that would be in our way.
func findDocker(c *nftables.Conn) (neighbour, error) {
	n := neighbour{bridges: map[string]bool{}}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		chains, err := c.ListChainsOfTableFamily(family)
		if err != nil {
			return n, err
		}
		table := &nftables.Table{Name: "filter", Family: family}
		isUser := func(ch *nftables.Chain) bool { return ch.Table.Name == "filter" && ch.Name == "DOCKER-USER" }
		if !slices.ContainsFunc(chains, isUser) {
			continue
		}
		n.tables = append(n.tables, table)
		for _, ch := range chains {
			if ch.Table.Name != "filter" || ch.Name != "FORWARD" && !strings.HasPrefix(ch.Name, "DOCKER") {
				continue
			}
			rules, err := c.GetRules(table, ch)
			if err != nil {
				return n, err
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

// lookBeside makes the state fit to the Docker daemon beside us. It is called with the lock held.
func (t *Table) lookBeside() (neighbour, change) {
	found, err := findDocker(t.conn)
	if err != nil {
		t.log.Warn("cannot see whether there is a Docker daemon whose rules stop our traffic", "error", err)
	}
	t.docker = t.needed() && len(found.tables) > 0
	names := map[elementKey]value{}
	if t.docker {
		for name := range found.bridges {
			names[elementKey{dockers, nameField(name)}] = value{}
		}
	}
	return found, t.state.set(dockerOwner, names)
}

// acceptBeside makes our accept be in every DOCKER-USER, or in none if the table is not there.
func (t *Table) acceptBeside(found neighbour) {
	for _, table := range found.tables {
		if err := t.acceptIn(table, t.present); err != nil {
			t.log.Warn("no accept rule for a Docker daemon's chain DOCKER-USER", "error", err)
		}
	}
}

// besideDocker makes table and accept rules fit to what a Docker daemon has changed. It is called
// with the lock held.
func (t *Table) besideDocker() error {
	had := t.docker
	found, c := t.lookBeside()
	if t.docker != had {
		return t.replace()
	}
	if err := t.commit(c); err != nil {
		return err
	}
	t.acceptBeside(found)
	return nil
}

// acceptIn makes our rule be in a table's DOCKER-USER once, or not at all.
func (t *Table) acceptIn(table *nftables.Table, wanted bool) error {
	ch := &nftables.Chain{Name: "DOCKER-USER", Table: table}
	rules, err := t.conn.GetRules(table, ch)
	if err != nil {
		return err
	}
	comment := userdata.AppendString(nil, userdata.TypeComment, t.table.Name)
	var before uint64 // the RETURN that Docker puts at the end
	for i, r := range rules {
		switch {
		case bytes.Equal(r.UserData, comment) && wanted:
			return nil
		case bytes.Equal(r.UserData, comment):
			r.Table, r.Chain = table, ch
			if err := t.conn.DelRule(r); err != nil {
				return err
			}
		case i == len(rules)-1 && returnsAlways(r):
			before = r.Handle
		}
	}
	if wanted {
		// struct xt_connmark_mtinfo1: mark, mask, invert, padded to 64 bits
		info := binary.NativeEndian.AppendUint32(native(passedMark), passedMark)
		raw := xt.Unknown(append(info, make([]byte, 8)...))
		r := &nftables.Rule{Table: table, Chain: ch, UserData: comment, Position: before, Exprs: []expr.Any{
			&expr.Match{Name: "connmark", Rev: 1, Info: &raw}, &expr.Counter{}, verdict(expr.VerdictAccept)}}
		if before != 0 {
			t.conn.InsertRule(r)
		} else {
			t.conn.AddRule(r)
		}
	}
	return t.flush()
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

// isDockers tells whether news about a table may be about a Docker daemon.
func isDockers(family byte, table string) bool {
	return table == "filter" && (family == unix.NFPROTO_IPV4 || family == unix.NFPROTO_IPV6)
}
