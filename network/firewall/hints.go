package firewall

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Hints tells, a sentence each, what on this host drops the traffic of the table's bridges, and
// what to do about it: a packet that one table drops no other can save. It looks at the kernel
// anew with each call. What is looked for are forward chains that drop by policy, and firewalld,
// and no rule that names the bridge; what a rule does beyond that is not understood. Where our own
// accept is in such a chain (beside.go), only published ports are left to be told of.
func (t *Table) Hints() []string {
	if t.off {
		return nil
	}
	t.mu.Lock()
	var names []string
	var publish []string
	for k, e := range t.state.elements {
		switch {
		case k.set == bridges:
			names = append(names, nameOf(k.key))
		case k.set == hairpin4, k.set == hairpin6, k.set == near:
			publish = append(publish, nameOf(k.key))
		case k.set == into && e.value.chain == "routed": // what is open there has no bridge's name
			publish = append(publish, nameOf(k.key[4:]))
		}
	}
	t.mu.Unlock()
	slices.Sort(names)
	slices.Sort(publish)
	return append(t.nftHints(names, slices.Compact(publish)), legacyHints(names)...)
}

// nameOf reads the name of an interface that a key begins with.
func nameOf(key string) string {
	name, _, _ := strings.Cut(key[:unix.IFNAMSIZ], "\x00")
	return name
}

// PublishHints tells the same for ports that will be published on one bridge, which need not exist yet. What
// it found in nftables it remembers until somebody else has changed anything there.
func (t *Table) PublishHints(bridge string) []string {
	if t.off {
		return nil
	}
	t.remembered.mu.Lock()
	defer t.remembered.mu.Unlock()
	if now := t.news.Load(); t.remembered.hints == nil || t.remembered.at != now {
		t.remembered.at, t.remembered.hints = now, map[string][]string{}
	}
	hints, ok := t.remembered.hints[bridge]
	if !ok {
		hints = t.nftHints([]string{bridge}, []string{bridge})
		t.remembered.hints[bridge] = hints
	}
	return append(slices.Clone(hints), legacyHints([]string{bridge})...)
}

// remembered are the answers of PublishHints.
type remembered struct {
	mu    sync.Mutex
	at    uint64 // how many news there were
	hints map[string][]string
}

// nftHints tells what drops the traffic of some bridges, and what is sent to published ports on
// some of them.
func (t *Table) nftHints(names, published []string) []string {
	var hints []string
	c, err := nftables.New(nftables.AsLasting()) // it asks much
	if err != nil {
		return nil
	}
	defer c.CloseLasting()
	chains, err := c.ListChains()
	if err != nil {
		t.log.Warn("the host's own filter rules cannot be looked at", "error", err)
		return nil
	}
	for _, ch := range chains {
		o := obstacle{chain: ch, names: names}
		switch {
		case ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || ch.Table.Family == nftables.TableFamilyINet && ch.Table.Name == t.table.Name:
			continue
		case ch.Table.Family == nftables.TableFamilyIPv4, ch.Table.Family == nftables.TableFamilyINet:
		case ch.Table.Family == nftables.TableFamilyIPv6:
		default:
			continue
		}
		if ch.Table.Name != "firewalld" && (ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop) {
			continue
		}
		switch {
		case o.shared():
			o.names = published
		case len(names) == 0:
			o.names = []string{"berth0"} // the bridge that the first container will be on
		}
		if ch.Table.Family == nftables.TableFamilyIPv6 {
			o.names = slices.DeleteFunc(slices.Clone(o.names), func(name string) bool { return !hasIPv6(name) })
		}
		o.look(c, chains)
		if hint := o.hint(); hint != "" && !slices.Contains(hints, hint) { // ufw has both families
			hints = append(hints, hint)
		}
	}
	return hints
}

// legacyHints are those about iptables' older interface.
func legacyHints(names []string) (hints []string) {
	for _, legacy := range []legacyTables{legacyIPv4, legacyIPv6} {
		usable := names
		if legacy.program == legacyIPv6.program {
			usable = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !hasIPv6(name) })
		} else if len(names) == 0 {
			usable = []string{"berth0"}
		}
		if hint := legacy.hint(usable); hint != "" {
			hints = append(hints, hint)
		}
	}
	return hints
}

// hasIPv6 tells whether an interface has an IPv6 address that others can use.
func hasIPv6(name string) bool {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return false
	}
	addrs, _ := i.Addrs()
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().Is6() && !p.Addr().IsLinkLocalUnicast()
	})
}

// obstacle is somebody's forward chain that may drop our traffic.
type obstacle struct {
	chain  *nftables.Chain
	names  []string // our bridges; look leaves those that no rule names
	ufw    bool
	docker bool // it has a DOCKER-USER, and there is our accept
}

// program is the one that makes rules of a family.
func (o *obstacle) program() string {
	return map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "iptables", nftables.TableFamilyIPv6: "ip6tables"}[o.chain.Table.Family]
}

// shared tells the chain that our accept for what containers begin is in.
func (o *obstacle) shared() bool {
	return o.program() != "" && o.chain.Table.Name == "filter" && o.chain.Name == forward
}

// look reads the table of the chain.
func (o *obstacle) look(c *nftables.Conn, chains []*nftables.Chain) {
	table := o.chain.Table
	named := map[string]bool{}
	for _, ch := range chains {
		if ch.Table.Name != table.Name || ch.Table.Family != table.Family {
			continue
		}
		o.ufw = o.ufw || strings.HasPrefix(ch.Name, "ufw")
		o.docker = o.docker || ch.Name == dockerUser
		rules, err := c.GetRules(table, ch)
		if err != nil {
			continue // an extension that the library cannot read
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if e, ok := e.(*expr.Cmp); ok {
					named[string(bytes.TrimRight(e.Data, "\x00"))] = true
				}
			}
		}
	}
	sets, _ := c.GetSets(table)
	for _, s := range sets {
		if s.KeyType.Name != nftables.TypeIFName.Name {
			continue
		}
		list, _ := c.GetSetElements(s)
		for _, e := range list {
			named[string(bytes.TrimRight(e.Key, "\x00"))] = true
		}
	}
	o.names = slices.DeleteFunc(slices.Clone(o.names), func(name string) bool { return named[name] })
}

func (o *obstacle) hint() string {
	table, chain := o.chain.Table, o.chain.Name
	switch {
	case len(o.names) == 0 || o.docker:
		return ""
	case o.shared() && o.ufw:
		return advice("ufw drops what other hosts send to ports that are published on", o.names, "ufw route allow out on %[1]s")
	case o.shared():
		return advice("the policy of the chain "+chain+" ("+o.program()+") drops what other hosts send to ports that are published on", o.names,
			o.program()+" -I "+chain+" -o %[1]s -j ACCEPT")
	case table.Name == "firewalld":
		return advice("firewalld rejects what is forwarded from and to", o.names, "firewall-cmd --permanent --zone=trusted --add-interface=%[1]s && firewall-cmd --reload")
	default:
		family := map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6"}[table.Family]
		rule := fmt.Sprintf("nft insert rule %s %s %s", family, table.Name, chain)
		return advice(fmt.Sprintf("the policy of the chain %s %s %s of nftables drops what is forwarded from and to", family, table.Name, chain), o.names,
			rule+" iifname %[1]s accept && "+rule+" oifname %[1]s accept")
	}
}

// advice words a hint. The command has the bridge's name for its argument.
func advice(what string, names []string, command string) string {
	text := what + " " + strings.Join(names, ", ") + "; allow it with: " + fmt.Sprintf(command, names[0])
	if len(names) > 1 {
		text += "; and likewise for the others"
	}
	return text + " (what may enter a network is still decided by Berth's own rules)"
}
