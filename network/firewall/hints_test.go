package firewall

import (
	"os/exec"
	"strings"
	"testing"
)

func TestHintsSayWhatToAllowAndFollowingThemHelps(t *testing.T) {
	for name, c := range map[string]struct {
		program    string // that is needed
		setup      []string
		cleanup    []string
		hint       string // the beginning
		noCommands bool   // those of the hint cannot be run here
	}{
		"iptables over nftables": {"iptables", []string{"iptables -w -P FORWARD DROP"}, nil,
			"the policy of the chain FORWARD (iptables) drops what other hosts send to ports that are published on br-a; allow it with: iptables -I FORWARD -o br-a -j ACCEPT (", false},
		"ip6tables over nftables": {"ip6tables", []string{"ip6tables -w -P FORWARD DROP"}, nil,
			"the policy of the chain FORWARD (ip6tables) drops what other hosts send to ports", false},
		"iptables of old": {"iptables-legacy", []string{"iptables-legacy -w -P FORWARD DROP"}, []string{"iptables-legacy -P FORWARD ACCEPT", "iptables-legacy -F FORWARD"},
			"the policy of the chain FORWARD (iptables-legacy) drops", false},
		"ip6tables of old": {"ip6tables-legacy", []string{"ip6tables-legacy -w -P FORWARD DROP"}, []string{"ip6tables-legacy -P FORWARD ACCEPT", "ip6tables-legacy -F FORWARD"},
			"the policy of the chain FORWARD (ip6tables-legacy) drops", false},
		"nftables": {"nft", []string{"nft add table inet mine", "nft add chain inet mine through { type filter hook forward priority 0 ; policy drop ; }"}, nil,
			"the policy of the chain inet mine through of nftables drops what is forwarded from and to br-a, br-b; allow it with: nft insert rule inet mine through iifname br-a accept && ", false},
		"ufw": {"iptables", []string{"iptables -w -P FORWARD DROP", "iptables -w -N ufw-before-forward"}, nil,
			"ufw drops what other hosts send to ports that are published on br-a; allow it with: ufw route allow out on br-a (what", true},
		"firewalld": {"nft", []string{"nft add table inet firewalld", "nft add chain inet firewalld filter_FORWARD { type filter hook forward priority 10 ; policy accept ; }",
			"nft add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited"}, nil,
			"firewalld rejects what is forwarded from and to br-a, br-b; allow it with: firewall-cmd --permanent --zone=trusted --add-interface=br-a", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTown(t)
			if _, err := exec.LookPath(c.program); err != nil {
				t.Skip("no " + c.program)
			}
			if c.program == "iptables" || c.program == "ip6tables" {
				needIptables(t)
			}
			table := openTable(t, Config{Bridges: []Bridge{bridgeA, bridgeB}, Published: []Publication{publishA1("0.0.0.0:8000", "[::]:8000")}})
			if hints := table.Hints(); len(hints) > 0 {
				t.Fatalf("hints without an obstacle: %q", hints)
			}
			t.Cleanup(func() {
				for _, line := range c.cleanup {
					run(t, line)
				}
			})
			for _, line := range c.setup {
				run(t, line)
			}
			hints := table.Hints()
			if len(hints) != 1 || !strings.HasPrefix(hints[0], c.hint) {
				t.Fatalf("hints: %q\nwant one that begins with: %s", hints, c.hint)
			}
			t.Log(hints[0])
			address, want := "192.0.2.1:8000", "a1 192.0.2.2"
			if strings.HasPrefix(name, "ip6") {
				address, want = "[2001:db8::1]:8000", "a1 2001:db8::2"
			}
			w.other.expect(address, "")
			if c.noCommands {
				return
			}
			_, command, _ := strings.Cut(hints[0], "allow it with: ")
			command, _, _ = strings.Cut(command, ";")
			command, _, _ = strings.Cut(command, " (")
			for _, bridge := range []string{"br-a", "br-b"} {
				for _, line := range strings.Split(strings.ReplaceAll(command, "br-a", bridge), " && ") {
					run(t, line)
				}
			}
			w.other.expect(address, want)
			if hints := table.Hints(); len(hints) > 0 {
				t.Errorf("hints after they were followed: %q", hints)
			}
		})
	}
}

func TestWhoPublishesIsToldOfWhatIsInTheWayAndOfChanges(t *testing.T) {
	needIptables(t)
	newTown(t)
	table := openTable(t, Config{Bridges: []Bridge{bridgeA}})
	if hints := table.PublishHints("br-a"); len(hints) > 0 {
		t.Errorf("hints without an obstacle: %q", hints)
	}
	run(t, "iptables -w -P FORWARD DROP")
	eventually(t, "the closed chain is told of", func() bool { return len(table.PublishHints("br-a")) == 1 })
	if hints := table.Hints(); len(hints) > 0 { // nothing is published, and what containers begin passes
		t.Errorf("hints: %q", hints)
	}
	if hints := table.PublishHints("br-x"); len(hints) != 1 || !strings.Contains(hints[0], "-o br-x") {
		t.Errorf("hints for a bridge that is not there yet: %q", hints)
	}
	run(t, "iptables -w -I FORWARD -o br-a -j ACCEPT")
	eventually(t, "the opened chain is not told of", func() bool { return len(table.PublishHints("br-a")) == 0 })
}

func TestOwnChangesAreNoNews(t *testing.T) {
	newTown(t)
	table := openTable(t, Config{Bridges: []Bridge{bridgeA, bridgeB}})
	foreign := func(name string) {
		t.Helper()
		before := table.news.Load()
		run(t, "nft add table inet "+name)
		eventually(t, "what others change is news", func() bool { return table.news.Load() > before })
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("no nft")
	}
	foreign("first")
	before := table.news.Load()
	for range 20 {
		if err := table.Publish(publishA1("0.0.0.0:8000")); err != nil {
			t.Fatal(err)
		}
		if err := table.Unpublish("a1"); err != nil {
			t.Fatal(err)
		}
	}
	foreign("second") // news come in order
	if more := table.news.Load() - before; more > 4 {
		t.Errorf("40 changes of our own and one of others made %d news", more)
	}
}
