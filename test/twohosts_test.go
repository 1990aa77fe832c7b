package test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"berth/testkit"
)

// pair is a machine with an engine and another one on a cable with it.
type pair struct {
	t           *testing.T
	host, other *testkit.Host
	*testkit.Engine
}

// Their addresses (RFC 5737, RFC 3849).
const (
	host4, host6   = "192.0.2.1", "2001:db8:1::1"
	other4, other6 = "192.0.2.2", "2001:db8:1::2"
)

// newPair starts an engine on the first machine, after prepare.
func newPair(t *testing.T, prepare func(p *pair)) *pair {
	t.Helper()
	p := &pair{t: t, host: testkit.NewHost(t), other: testkit.NewHost(t)}
	testkit.Cable(t, "wire", p.host, []string{host4 + "/24", host6 + "/64"}, p.other, []string{other4 + "/24", other6 + "/64"})
	p.host.Must("ip", "route", "add", "default", "via", other4)
	p.host.Must("ip", "route", "add", "default", "via", other6)
	if prepare != nil {
		prepare(p)
	}
	p.Engine = testkit.StartEngine(t, testkit.EngineOptions{Host: p.host})
	p.Busybox()
	return p
}

// web is a container's command that serves on port 80 who asks.
const web = `mkdir -p /www/cgi-bin; printf '#!/bin/sh\nprintf "\\n"; echo "$REMOTE_ADDR"\n' > /www/cgi-bin/who; chmod +x /www/cgi-bin/who; exec httpd -f -p 80 -h /www`

// serve runs a container that serves web.
func (p *pair) serve(name string, flags ...string) {
	p.t.Helper()
	p.Must(append(append([]string{"run", "-d", "--name", name}, flags...), "busybox", "sh", "-c", web)...)
}

// who asks a server of web from a machine, and tells as whom it saw that; "" if nobody answers.
func who(h *testkit.Host, address, port string) string {
	r := h.Run("curl", "-gs", "--noproxy", "*", "--max-time", "1", "http://"+net.JoinHostPort(address, port)+"/cgi-bin/who")
	return client4(r.Stdout)
}

// client4 is the address in REMOTE_ADDR: [::ffff:192.0.2.2] of an IPv4 client.
func client4(s string) string {
	return strings.TrimPrefix(strings.Trim(strings.TrimSpace(s), "[]"), "::ffff:")
}

// whoFrom is who from inside a container.
func (p *pair) whoFrom(container, address, port string) string {
	r := p.Berth("exec", container, "timeout", "1", "wget", "-q", "-O", "-", "http://"+net.JoinHostPort(address, port)+"/cgi-bin/who")
	return client4(r.Stdout)
}

// expect asks until the answer is want, for the machine may be busy. What is not to be is asked for once:
// it would be there.
func (p *pair) expect(what string, ask func() string, want string) {
	p.t.Helper()
	got := ask()
	for end := time.Now().Add(30 * time.Second); got != want && want != "" && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		got = ask()
	}
	if got != want {
		p.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// address is a container's on a network.
func (p *pair) address(container, network, field string) string {
	p.t.Helper()
	return p.Must("inspect", "-f", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).%s}}", network, field), container)
}

func (p *pair) awaitWeb(address, port string) {
	p.t.Helper()
	testkit.Eventually(p.t, "the server answers", func() bool { return who(p.host, address, port) != "" })
}

func TestWhatAnotherHostCanReach(t *testing.T) {
	p := newPair(t, nil)
	p.Must("network", "create", "--ipv6", "one")
	p.Must("network", "create", "--ipv6", "two")
	p.serve("web", "--network", "one", "-p", "8080:80", "-p", "127.0.0.1:8081:80", "-p", "[::1]:8081:80", "-p", host4+":8082:80")
	p.serve("plain", "--network", "two")
	p.awaitWeb("127.0.0.1", "8080")

	t.Run("published ports, with the client's address", func(t *testing.T) {
		p.expect("IPv4", func() string { return who(p.other, host4, "8080") }, other4)
		p.expect("IPv6", func() string { return who(p.other, host6, "8080") }, other6)
		p.expect("a port on one address", func() string { return who(p.other, host4, "8082") }, other4)
		p.expect("a port on another address", func() string { return who(p.other, host6, "8082") }, "")
	})
	t.Run("nothing published on loopback", func(t *testing.T) {
		p.expect("by the host", func() string { return fmt.Sprint(who(p.host, "127.0.0.1", "8081") != "") }, "true")
		p.expect("by the host, IPv6", func() string { return fmt.Sprint(who(p.host, "::1", "8081") != "") }, "true")
		p.expect("IPv4", func() string { return who(p.other, host4, "8081") }, "")
		p.expect("IPv6", func() string { return who(p.other, host6, "8081") }, "")
		// Not even where the kernel would take packets for 127.0.0.1 from outside.
		for _, h := range []*testkit.Host{p.host, p.other} {
			h.Sysctl("net/ipv4/conf/all/route_localnet", "1")
		}
		p.other.Must("ip", "address", "flush", "dev", "lo")
		p.other.Must("ip", "route", "add", "127.0.0.1/32", "via", host4)
		p.expect("127.0.0.1 by the wire", func() string { return who(p.other, "127.0.0.1", "8081") }, "")
		p.host.Sysctl("net/ipv4/conf/all/route_localnet", "0")
	})
	t.Run("no container directly", func(t *testing.T) {
		for _, c := range [][2]string{{"web", "one"}, {"plain", "two"}} {
			for _, field := range []string{"IPAddress", "GlobalIPv6Address"} {
				address := p.address(c[0], c[1], field)
				via := host4
				if strings.Contains(address, ":") {
					via = host6
				}
				p.other.Must("ip", "route", "add", address, "via", via)
				p.expect(c[0]+" at "+address, func() string { return who(p.other, address, "80") }, "")
				p.expect(c[0]+" at "+address+" from its own host", func() string { return fmt.Sprint(who(p.host, address, "80") != "") }, "true")
			}
		}
	})
	t.Run("networks are apart", func(t *testing.T) {
		for _, field := range []string{"IPAddress", "GlobalIPv6Address"} {
			p.expect("two to one", func() string { return p.whoFrom("plain", p.address("web", "one", field), "80") }, "")
			p.expect("one to two", func() string { return p.whoFrom("web", p.address("plain", "two", field), "80") }, "")
		}
		p.expect("a name of another network", func() string { return p.whoFrom("plain", "web", "80") }, "")
		// What is published is for all, and tells them apart.
		p.expect("published, from the other network", func() string { return p.whoFrom("plain", host4, "8080") }, p.address("plain", "two", "IPAddress"))
		p.expect("published, from its own network", func() string { return fmt.Sprint(p.whoFrom("web", host4, "8080") != "") }, "true")
		p.expect("published on loopback, from a container", func() string { return p.whoFrom("plain", host4, "8081") }, "")
	})
	t.Run("the way out", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "cgi-bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "cgi-bin/who"), "#!/bin/sh\necho; echo $REMOTE_ADDR\n")
		if err := os.Chmod(filepath.Join(dir, "cgi-bin/who"), 0o755); err != nil {
			t.Fatal(err)
		}
		p.other.Start("busybox", "httpd", "-f", "-p", "80", "-h", dir)
		testkit.Eventually(t, "the other host serves", func() bool { return who(p.host, other4, "80") != "" })
		p.expect("as the host, IPv4", func() string { return p.whoFrom("plain", other4, "80") }, host4)
		p.expect("as the host, IPv6", func() string { return p.whoFrom("plain", other6, "80") }, host6)
		p.Must("network", "create", "--internal", "--ipv6", "closed")
		p.serve("in", "--network", "closed")
		p.serve("in2", "--network", "closed")
		p.expect("out of an internal network", func() string { return p.whoFrom("in", other4, "80") }, "")
		p.expect("out of an internal network, IPv6", func() string { return p.whoFrom("in", other6, "80") }, "")
		p.expect("from an internal network to another", func() string { return p.whoFrom("in", p.address("web", "one", "IPAddress"), "80") }, "")
		p.expect("from an internal network to what is published", func() string { return p.whoFrom("in", host4, "8080") }, "")
		testkit.Eventually(t, "a name within an internal network", func() bool { return p.whoFrom("in", "in2", "80") != "" })
		p.expect("within an internal network", func() string { return p.whoFrom("in", p.address("in2", "closed", "IPAddress"), "80") }, p.address("in", "closed", "IPAddress"))
	})
	t.Run("what is gone is closed", func(t *testing.T) {
		p.Must("rm", "-f", "web")
		p.expect("after rm", func() string { return who(p.other, host4, "8080") }, "")
		p.expect("after rm, by the host", func() string { return who(p.host, "127.0.0.1", "8080") }, "")
	})
}

// talk is a connection to a container's echo server that is tried again and again.
type talk struct {
	net.Conn
	n int
}

func (c *talk) echo() error {
	c.n++
	line := fmt.Sprintf("line %d\n", c.n)
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.Write([]byte(line)); err != nil {
		return err
	}
	got := make([]byte, len(line))
	for at := 0; at < len(got); {
		n, err := c.Read(got[at:])
		if err != nil {
			return err
		}
		at += n
	}
	if string(got) != line {
		return fmt.Errorf("echo of %q is %q", line, got)
	}
	return nil
}

// dialEcho connects as soon as the server listens.
func dialEcho(t *testing.T, h *testkit.Host, network, address string) *talk {
	t.Helper()
	c := &talk{}
	testkit.Eventually(t, "an echo at "+address, func() bool {
		conn, err := h.Dial(network, address, time.Second)
		if err != nil {
			return false
		}
		c.Conn = conn
		if c.echo() == nil {
			return true
		}
		conn.Close()
		return false
	})
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAFlushedRulesetComesBackAndNobodyNotices(t *testing.T) {
	testkit.NeedTool(t, "nft")
	p := newPair(t, nil)
	p.Must("run", "-d", "--name", "echo", "-p", "7000:7", "busybox", "nc", "-ll", "-p", "7", "-e", "cat")
	far := dialEcho(t, p.other, "tcp", host4+":7000")
	near := dialEcho(t, p.host, "tcp", "127.0.0.1:7000")
	inside := "--net=/proc/" + p.Must("inspect", "-f", "{{.State.Pid}}", "echo") + "/ns/net"
	for range 2 {
		// Whoever sends while there are no rules speaks to the host itself, which knows nothing
		// of the connection. So the last acknowledgement is waited for.
		testkit.Eventually(t, "all is acknowledged", func() bool {
			sockets := p.host.Must("nsenter", inside, "ss", "-Htn")
			return len(regexp.MustCompile(`(?m)^ESTAB +0 +0 `).FindAllString(sockets, -1)) == strings.Count(sockets, "ESTAB")
		})
		p.host.Must("nft", "flush", "ruleset")
		testkit.Eventually(t, "the rules are back", func() bool {
			return strings.Contains(p.host.Must("nft", "list", "ruleset"), "tcp . 7000 : ")
		})
		dialEcho(t, p.other, "tcp", host4+":7000")
		for what, c := range map[string]*talk{"from the other host": far, "by loopback": near} {
			if err := c.echo(); err != nil {
				t.Errorf("a connection %s: %v", what, err)
			}
		}
	}
}

func TestAHostThatDropsIsRespectedAndInfoTellsWhatToAllow(t *testing.T) {
	testkit.NeedTool(t, "nft")
	p := newPair(t, func(p *pair) {
		p.host.Must("nft", "add table inet filter; add chain inet filter forward { type filter hook forward priority filter; policy drop; }")
	})
	p.serve("web", "-p", "8080:80")
	p.awaitWeb("127.0.0.1", "8080") // the host's own way is not forwarded
	p.expect("through a policy of drop", func() string { return who(p.other, host4, "8080") }, "")
	var info struct{ Warnings []string }
	if err := json.Unmarshal([]byte(p.Must("info", "--format", "{{json .}}")), &info); err != nil {
		t.Fatal(err)
	}
	hints := strings.Join(info.Warnings, "\n")
	if !regexp.MustCompile(`inet filter.* forward.*drop`).MatchString(hints) {
		t.Fatalf("info does not tell of the chain: %q", hints)
	}
	command := regexp.MustCompile(`nft (?:add|insert) rule inet filter forward [^\n;'"&]*accept`).FindAllString(hints, -1)
	if len(command) == 0 {
		t.Fatalf("info does not tell what to allow: %q", hints)
	}
	for _, c := range command {
		p.host.Must(strings.Fields(c)...)
	}
	p.expect("with what info told", func() string { return who(p.other, host4, "8080") }, other4)
	if warnings := p.Must("info", "--format", "{{json .Warnings}}"); strings.Contains(warnings, "inet filter") {
		t.Errorf("info still warns: %s", warnings)
	}
}

func TestBesideADockerDaemonThatDrops(t *testing.T) {
	for _, first := range []string{"berth", "dockerd"} {
		t.Run(first+" first", func(t *testing.T) {
			var d *testkit.Peer
			p := newPair(t, func(p *pair) {
				if first == "dockerd" { // which drops where it was the one to allow forwarding
					p.host.Sysctl("net/ipv4/ip_forward", "0")
					d = testkit.DockerdOn(t, p.host)
				}
			})
			p.serve("web", "-p", "8080:80")
			p.awaitWeb("127.0.0.1", "8080")
			if d == nil {
				d = testkit.DockerdOn(t, p.host)
				p.host.Must("iptables", "-P", "FORWARD", "DROP") // as after a restart of both
			}
			if chain := p.host.Must("iptables", "-S", "FORWARD"); !strings.Contains(chain, "-P FORWARD DROP") {
				t.Fatalf("dockerd did not drop: %s", chain)
			}
			testkit.Eventually(t, "Berth's port beside dockerd", func() bool { return who(p.other, host4, "8080") == other4 })
			d.Must("import", testkit.BusyboxTar(t), "busybox")
			d.Must("run", "-d", "--name", "theirs", "-p", "8090:80", "busybox", "sh", "-c", web)
			testkit.Eventually(t, "dockerd's port beside Berth", func() bool { return who(p.other, host4, "8090") == other4 })
			d.Must("run", "-d", "--name", "closed", "busybox", "sh", "-c", web)
			closed := d.Must("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "closed")
			testkit.Eventually(t, "dockerd's container by its own host", func() bool { return who(p.host, closed, "80") != "" })
			p.expect("from our container to theirs", func() string { return p.whoFrom("web", closed, "80") }, "")
			fromTheirs := func(address string) string {
				return d.Do("exec", "closed", "timeout", "1", "wget", "-qO-", "http://"+address+"/cgi-bin/who").Stdout
			}
			p.expect("from theirs to ours", func() string { return fromTheirs(p.address("web", "bridge", "IPAddress")) }, "")
			p.expect("from theirs to what ours publishes", func() string { return fmt.Sprint(fromTheirs(host4+":8080") != "") }, "true")
			d.Must("rm", "-f", "theirs", "closed")
		})
	}
}
