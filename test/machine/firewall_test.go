package machine

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/testkit"
	"berth/testkit/vm"
)

// firewalled is a machine with an engine on its ordinary paths, two containers, and another
// machine beside it: a network namespace at the end of a cable.
//
//	outside 192.0.2.2 ---- up0 192.0.2.1 the machine berth0 ---- web, publishes 80 as 8000
//	                                                 br-pair ---- one, two
type firewalled struct {
	t *testing.T
	m *vm.Machine
}

// outside serves HTTP, telling the client's address, and DNS, where every name is 192.0.2.99.
const outside = `
import http.server, socket, threading
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(("outside sees " + self.client_address[0]).encode())
    def log_message(self, *a): pass
def dns():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("192.0.2.2", 53))
    while True:
        q, a = s.recvfrom(4096); n = 12
        while q[n]: n += q[n] + 1
        known = q[n+2] == 1 and q[n+1] == 0
        s.sendto(q[:2] + b"\x81\x80\0\1\0" + (b"\1" if known else b"\0") + b"\0\0\0\0" + q[12:n+5] +
            (b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\xc0\0\2\x63" if known else b""), a)
threading.Thread(target=dns, daemon=True).start()
http.server.ThreadingHTTPServer(("192.0.2.2", 80), H).serve_forever()
`

// look prints what reaches what, a line each.
const look = `
get() { "$@" 2>/dev/null | tail -1 | sed "s/\[::ffff:\(.*\)\]/\1/"; }
web=$(berth inspect -f '{{.NetworkSettings.IPAddress}}' web)
ip netns exec outside curl -sm 2 http://$web/ >/dev/null && echo "a direct way to the container is open"
echo "loopback: $(get curl -sm 3 http://127.0.0.1:8000/cgi-bin/who)"
echo "host: $(get curl -sm 3 http://192.0.2.1:8000/cgi-bin/who)"
echo "published: $(get ip netns exec outside curl -sm 3 http://192.0.2.1:8000/cgi-bin/who)"
echo "egress: $(get berth exec web timeout 5 wget -qO- http://192.0.2.2/)"
echo "dns: $(berth exec web timeout 6 nslookup -type=a some.example 2>&1 | grep -o 192.0.2.99 | tail -1)"
echo "pair: $(get berth exec one sh -c 'timeout 5 wget -qO- http://$(nslookup -type=a two | sed -n "s/^Address: *//p" | tail -1)/cgi-bin/who' | sed 's/[0-9]*$/N/')"
`

func newFirewalled(t *testing.T) *firewalled {
	m := vm.Boot(t, vm.Config{})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := m.InstallPrograms(ctx); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"outside.py": outside, "look": "export PATH=" + vm.GuestBin + ":$PATH\n" + look} {
		if err := os.WriteFile(filepath.Join(m.Share(), name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f := &firewalled{t, m}
	f.run(`
		ip netns delete outside 2>/dev/null && systemctl stop fw-outside || true
		ip netns add outside
		ip link add up0 type veth peer name eth0 netns outside
		ip address add 192.0.2.1/24 dev up0 && ip link set up0 up
		ip -n outside link set lo up && ip -n outside address add 192.0.2.2/24 dev eth0 && ip -n outside link set eth0 up
		ip -n outside route add 172.16.0.0/12 via 192.0.2.1
		systemd-run -q --unit fw-outside ip netns exec outside python3 /share/outside.py`)
	return f
}

// run runs a script in the guest, with Berth's programs at hand.
func (f *firewalled) run(script string) string {
	f.t.Helper()
	return f.m.Run(f.t, "set -e; export PATH="+vm.GuestBin+":$PATH; "+script)
}

// start starts the engine and the containers, and returns what berth run wrote about the port.
func (f *firewalled) start() (warnings string) {
	f.t.Helper()
	return f.run(`
		systemd-run -q --unit fw-berthd -p KillMode=process ` + vm.GuestBin + `/berthd --dns 192.0.2.2
		for n in $(seq 200); do test -S /run/berth/berth.sock && break; sleep 0.1; done
		berth import ` + testkit.BusyboxTar(f.t) + ` busybox >/dev/null
		serve='mkdir -p /www/cgi-bin && printf "#!/bin/sh\necho; echo sees \$REMOTE_ADDR\n" > /www/cgi-bin/who && chmod +x /www/cgi-bin/who && exec httpd -f -p 80 -h /www'
		berth network create -o com.docker.network.bridge.name=br-pair pair >/dev/null
		berth run -d --name one --network pair busybox sleep inf >/dev/null
		berth run -d --name two --network pair busybox sh -c "$serve" >/dev/null
		berth run -d --name web -p 8000:80 busybox sh -c "$serve" 2>&1 >/dev/null`)
}

// stop ends everything of Berth's, and compares the rules with those that were there before.
func (f *firewalled) stop(before string) {
	f.t.Helper()
	f.run(`berth rm -f web one two >/dev/null; berth network rm pair >/dev/null; systemctl stop fw-berthd`)
	if after := f.ruleset(); after != before {
		f.t.Errorf("the rules are not as before:\n%s\nbefore:\n%s", after, before)
	}
}

func (f *firewalled) ruleset() string {
	return f.run(`nft -s list ruleset 2>/dev/null | sed 's/counter packets [0-9]* bytes [0-9]*/counter/'`)
}

// want looks until it sees what should be.
func (f *firewalled) want(what, published, egress string) {
	f.t.Helper()
	name := ""
	if egress != "" {
		name = "192.0.2.99"
	}
	want := "loopback: sees 172.17.0.1\nhost: sees 192.0.2.1\npublished: " + published + "\negress: " + egress + "\ndns: " + name + "\npair: sees 172.18.0.N"
	var got string
	for range 3 { // rules are put back a moment after the kernel has told that they went
		if got = strings.ReplaceAll(f.run("sh /share/look"), ": \n", ":\n"); got == strings.ReplaceAll(want, ": \n", ":\n") {
			return
		}
	}
	f.t.Errorf("%s:\n%s\nwant:\n%s\nrules:\n%s", what, got, want, f.run("nft list ruleset; iptables-legacy-save 2>/dev/null"))
}

const (
	publishedOpen = "sees 192.0.2.2"
	egressOpen    = "outside sees 192.0.2.1"
)

// hostRules is what a host's own table has that is closed but for ssh.
const hostRules = `table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		iifname "lo" accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept
		tcp dport 22 accept
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		FORWARD
	}
}
`

func TestContainersBesideTheHostsFirewall(t *testing.T) {
	f := newFirewalled(t)
	iptables := func(program string) string {
		s := ""
		for _, p := range []string{program, strings.Replace(program, "ip", "ip6", 1)} {
			s += p + " -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT; " + p + " -A INPUT -i lo -j ACCEPT; " +
				p + " -A INPUT -p tcp --dport 22 -j ACCEPT; " + p + " -A INPUT -p ipv6-icmp -j ACCEPT; " + p + " -P INPUT DROP; " + p + " -P FORWARD DROP; "
		}
		return s
	}
	opened := func(program string) string {
		return "for p in " + program + " " + strings.Replace(program, "ip", "ip6", 1) + "; do $p -P INPUT ACCEPT; $p -P FORWARD ACCEPT; $p -F; $p -X; done; "
	}
	for _, c := range []struct {
		name          string
		before, after string // the host's firewall comes, and goes
		egress        bool   // … lets containers out without an allowance
		hint          string // what berth run -p says of it; empty: nothing is closed
		allow         string
		again         []string // what the host may do with its firewall while containers run
	}{
		{name: "none", again: []string{"nft delete table inet berth"}},
		{name: "nftables", before: "cat > /etc/nftables.conf <<'E'\n#!/usr/sbin/nft -f\nflush ruleset\n" + strings.Replace(hostRules, "FORWARD", "", 1) + "E\nsystemctl restart nftables",
			hint:  "nft insert rule inet filter forward iifname berth0 accept && nft insert rule inet filter forward oifname berth0 accept",
			allow: "nft insert rule inet filter forward iifname berth0 accept && nft insert rule inet filter forward oifname berth0 accept",
			after: "systemctl stop nftables"},
		{name: "nftables with the rules of docs/firewalls.md", before: "cat > /etc/nftables.conf <<'E'\n#!/usr/sbin/nft -f\nflush ruleset\n" +
			strings.Replace(hostRules, "FORWARD", documented(t), 1) + "E\nsystemctl restart nftables",
			again: []string{"systemctl restart nftables"}, after: "systemctl stop nftables"},
		{name: "iptables", before: iptables("iptables"), after: opened("iptables"), egress: true,
			hint: "iptables -I FORWARD -o berth0 -j ACCEPT", allow: "iptables -I FORWARD -o berth0 -j ACCEPT"},
		{name: "iptables-legacy", before: iptables("iptables-legacy"), after: opened("iptables-legacy") + "modprobe -r iptable_filter ip6table_filter || true",
			hint:  "iptables-legacy -I FORWARD -i berth0 -j ACCEPT && iptables-legacy -I FORWARD -o berth0 -j ACCEPT",
			allow: "iptables-legacy -I FORWARD -i berth0 -j ACCEPT && iptables-legacy -I FORWARD -o berth0 -j ACCEPT"},
		{name: "ufw", before: "ufw allow 22/tcp >/dev/null; ufw --force enable >/dev/null", after: "ufw --force disable >/dev/null; nft flush ruleset", egress: true,
			hint: "ufw route allow out on berth0", allow: "ufw route allow out on berth0 to any port 80 proto tcp >/dev/null",
			again: []string{"nft delete table inet berth; ufw reload >/dev/null", "ufw --force disable >/dev/null; ufw --force enable >/dev/null"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &firewalled{t, f.m}
			if c.before != "" {
				f.run(c.before)
			}
			if c.hint != "" {
				rules := f.ruleset()
				if warnings := f.start(); !strings.Contains(warnings, c.hint) {
					t.Errorf("run -p does not tell of %q: %s", c.hint, warnings)
				}
				egress := ""
				if c.egress {
					egress = egressOpen
				}
				f.want("before anything is allowed", "", egress)
				f.stop(rules)
				f.run(c.allow)
			}
			rules := f.ruleset()
			if warnings := f.start(); warnings != "" {
				t.Errorf("run -p warns: %s", warnings)
			}
			f.want("when it is allowed", publishedOpen, egressOpen)
			if info := f.run("berth info 2>&1 | grep -i 'warning.*berth0' || true"); info != "" {
				t.Errorf("berth info warns: %s", info)
			}
			for _, change := range c.again {
				f.run(change)
				f.want("after "+change, publishedOpen, egressOpen)
			}
			f.stop(rules)
			if c.after != "" {
				f.run(c.after)
			}
		})
	}
}

// documented are the rules that docs/firewalls.md has for a forward chain.
func documented(t *testing.T) string {
	text, err := os.ReadFile(filepath.Join(testkit.Root(), "docs", "firewalls.md"))
	if err != nil {
		t.Fatal(err)
	}
	var rules []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "    ") && strings.Contains(line, "fname { \"berth0\"") {
			rules = append(rules, strings.TrimSpace(line))
		}
	}
	if len(rules) != 2 {
		t.Fatalf("docs/firewalls.md has %d rules for a forward chain, want 2", len(rules))
	}
	return strings.Join(rules, "\n\t\t")
}
