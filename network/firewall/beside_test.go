package firewall

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// run runs a program on the host.
func run(t testing.TB, line string) string {
	t.Helper()
	words := strings.Fields(line)
	var out, errs strings.Builder // a warning is no rule
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", line, err, out.String(), errs.String())
	}
	return out.String()
}

// needIptables skips without an iptables that speaks nftables.
func needIptables(t testing.TB) {
	t.Helper()
	out, err := exec.Command("iptables", "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "nf_tables") {
		t.Skip("no iptables over nftables (Debian: iptables)")
	}
}

// dockersRules are those that a Docker daemon makes for docker0, as far as they matter here.
func dockersRules(t testing.TB) {
	t.Helper()
	for _, line := range []string{
		"-P FORWARD DROP", "-N DOCKER", "-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-A FORWARD -j DOCKER-USER",
		"-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		"-A FORWARD -o docker0 -j DOCKER", "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT", "-A FORWARD -i docker0 -o docker0 -j ACCEPT",
		// an internal network
		"-A FORWARD -o docker1 -j DOCKER", "-A FORWARD -i docker1 ! -o docker1 -j DROP",
		"-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 81 -j ACCEPT",
	} {
		run(t, "iptables -w "+line)
	}
}

func TestOurAcceptIsBeforeAReturnThatDockerPutsThereLater(t *testing.T) {
	needIptables(t)
	newTown(t)
	openTable(t, Config{Bridges: []Bridge{bridgeA}, Published: []Publication{publishA1("0.0.0.0:8000")}})
	dockersRules(t)
	accept := func(before string) func() bool {
		return func() bool {
			rules := run(t, "iptables -w -S DOCKER-USER")
			ours, other := strings.Index(rules, "connmark"), strings.Index(rules, before)
			return ours >= 0 && other > ours && strings.Count(rules, "connmark") == 1
		}
	}
	eventually(t, "our accept is before the return", accept("-j RETURN"))
	run(t, "iptables -w -I DOCKER-USER -j RETURN")
	eventually(t, "our accept is before the first return", accept("-j RETURN"))
}

// besideDocker puts a container of Docker's into the town.
func (w *town) besideDocker() *node {
	d := newNode(w.host.t, "docker")
	if _, err := net.InterfaceByName("docker0"); err != nil {
		w.host.bridge("docker0", "172.17.0.1/16")
	}
	w.host.plug("", "docker0", d, "eth0", "172.17.0.2/16")
	d.route("0.0.0.0/0", "172.17.0.1")
	d.serve(":80", ":81")
	return d
}

func TestBesideADockerDaemonThatDropsWhatItDoesNotKnow(t *testing.T) {
	needIptables(t)
	w := newTown(t)
	w.bridgeNetfilter("1")
	table := openTable(t, Config{Bridges: []Bridge{bridgeA, bridgeB}, Published: []Publication{publishA1("0.0.0.0:8000")}})
	d := w.besideDocker()
	inner := newNode(t, "inner")
	w.host.bridge("docker1", "172.18.0.1/16")
	w.host.plug("", "docker1", inner, "eth0", "172.18.0.2/16")
	inner.route("0.0.0.0/0", "172.18.0.1")
	old, oldErr := w.other.connect("192.0.2.1:8000") // older than Docker
	if oldErr != nil {
		t.Fatal(oldErr)
	}
	defer old.Close()
	oldOut, oldErr := w.a1.connect("192.0.2.2:80")
	if oldErr != nil {
		t.Fatal(oldErr)
	}
	defer oldOut.Close()
	dockersRules(t)
	run(t, "iptables -w -I DOCKER-USER -s 203.0.113.0/24 -j DROP") // the administrator's
	user := func() string { return run(t, "iptables -w -S DOCKER-USER") }
	eventually(t, "our accept is in DOCKER-USER", func() bool { return strings.Contains(user(), "connmark") })
	if got, want := user(), "-N DOCKER-USER\n-A DOCKER-USER -s 203.0.113.0/24 -j DROP\n"+
		"-A DOCKER-USER -m connmark --mark 0x2000000/0x2000000 -m comment --comment berth_test -j ACCEPT\n-A DOCKER-USER -j RETURN\n"; got != want {
		t.Errorf("DOCKER-USER:\n%swant:\n%s", got, want)
	}
	look := func() {
		t.Helper()
		w.other.expect("192.0.2.1:8000", "a1 192.0.2.2")
		w.a1.expect("192.0.2.2:80", "other 192.0.2.1")
		w.a1.expect("172.20.0.3:80", "a2 172.20.0.2") // bridged, yet filtered
		w.b1.expect("192.0.2.1:8000", "a1 172.21.0.2")
		w.other.expect("172.20.0.2:80", "")
		w.b1.expect("172.20.0.2:80", "")
		// between ours and Docker's
		w.a1.expect("172.17.0.2:80", "")
		d.expect("172.20.0.2:80", "")
		d.expect("192.0.2.1:8000", "a1 172.17.0.2")
		inner.expect("192.0.2.1:8000", "")
		if got := w.a1.get("tcp", "172.17.0.2:81"); got != "docker 172.20.0.1" && got != "docker 172.17.0.1" {
			t.Errorf("what Docker publishes is reached from our network: %q", got)
		}
	}
	look()
	for _, c := range []net.Conn{old, oldOut} {
		if got := echo(c, "hello"); got != "hello" {
			t.Errorf("a connection of %v from before Docker's start says %q, want hello", c.LocalAddr(), got)
		}
	}

	// Docker restarts, as after a reload of firewalld: all is gone, and comes again
	run(t, "iptables -w -F")
	run(t, "iptables -w -X")
	dockersRules(t)
	eventually(t, "our accept is in DOCKER-USER again", func() bool { return strings.Contains(user(), "connmark") })
	look()

	// with the last bridge it goes, and comes with the first
	for _, b := range []string{"br-a", "br-b"} {
		if err := table.RemoveBridge(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := table.Unpublish("a1"); err != nil {
		t.Fatal(err)
	}
	if got := user(); strings.Contains(got, "connmark") {
		t.Errorf("without a bridge of ours:\n%s", got)
	}
	if err := table.Bridge(bridgeA); err != nil {
		t.Fatal(err)
	}
	if got := user(); strings.Count(got, "connmark") != 1 {
		t.Errorf("with a bridge of ours:\n%s", got)
	}
	table.Close(false) // as if killed
	next := openTable(t, Config{})
	if got := user(); strings.Contains(got, "connmark") {
		t.Errorf("after an engine that needs nothing has opened:\n%s", got)
	}
	if err := next.Bridge(bridgeA); err != nil {
		t.Fatal(err)
	}
	if err := next.Close(true); err != nil {
		t.Fatal(err)
	}
	if got := user(); strings.Contains(got, "connmark") {
		t.Errorf("after Close:\n%s", got)
	}
}

// TestBesideARealDockerDaemon starts one in the test's network namespace.
func TestBesideARealDockerDaemon(t *testing.T) {
	needIptables(t)
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Skip("no dockerd (Debian: docker.io)")
	}
	w := newTown(t)
	table := openTable(t, Config{Bridges: []Bridge{bridgeA, bridgeB}, Published: []Publication{publishA1("0.0.0.0:8000")}})
	w.other.expect("192.0.2.1:8000", "a1 192.0.2.2")
	dir, err := os.MkdirTemp("", "fw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	write(t, "/proc/sys/net/ipv4/ip_forward", "0") // Docker closes the chain when it is who opens the host
	stop := startDocker(t, dir)
	policy := func() bool { return strings.Contains(run(t, "iptables -w -S FORWARD"), "-P FORWARD DROP") }
	user := func() string { return run(t, "iptables -w -S DOCKER-USER") }
	eventually(t, "Docker drops what it does not know", policy)
	eventually(t, "our accept is in DOCKER-USER", func() bool { return strings.Count(user(), "connmark") == 1 })
	d := w.besideDocker()
	for range 2 {
		w.other.expect("192.0.2.1:8000", "a1 192.0.2.2")
		w.a1.expect("192.0.2.2:80", "other 192.0.2.1")
		w.b1.expect("192.0.2.1:8000", "a1 172.21.0.2")
		eventually(t, "Docker's bridge is left to Docker", func() bool { return w.a1.ask("tcp", "172.17.0.2:80") == "" })
		w.a1.expect("172.17.0.2:80", "")
		d.expect("172.20.0.2:80", "")
		d.expect("192.0.2.1:8000", "a1 172.20.0.1") // Docker masquerades
		stop()
		w.other.expect("192.0.2.1:8000", "a1 192.0.2.2")
		stop = startDocker(t, dir)
		eventually(t, "our accept is in DOCKER-USER once", func() bool { return strings.Count(user(), "connmark") == 1 })
	}
	if err := table.Close(true); err != nil {
		t.Fatal(err)
	}
	if got := user(); strings.Contains(got, "connmark") {
		t.Errorf("after Close:\n%s", got)
	}
	stop()
}

// startDocker starts a daemon and waits until it answers; stop ends it.
func startDocker(t *testing.T, dir string) (stop func()) {
	t.Helper()
	sock := filepath.Join(dir, "d.sock")
	cmd := exec.Command("dockerd", "--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid",
		"-H", "unix://"+sock, "--storage-driver", "vfs", "--config-file", dir+"/none.json")
	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(dir+"/none.json", []byte("{}"), 0o600)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log.Close()
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cmd.Process.Signal(os.Interrupt)
			select {
			case <-ended:
			case <-time.After(time.Minute):
				cmd.Process.Kill()
				<-ended
			}
		}
	}
	t.Cleanup(stop)
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		select {
		case <-ended:
			b, _ := os.ReadFile(dir + "/log")
			t.Skipf("dockerd does not start here:\n%s", b)
		default:
		}
		if out, err := exec.Command("docker", "-H", "unix://"+sock, "version", "-f", "{{.Server.Version}}").Output(); err == nil && len(out) > 0 {
			return stop
		}
		if time.Now().After(deadline) {
			t.Fatal("dockerd does not answer")
		}
	}
}

func TestAHostsForwardPolicyDoesNotStopWhatContainersBegin(t *testing.T) {
	needIptables(t)
	w := newTown(t)
	w.bridgeNetfilter("1")
	table := openTable(t, Config{Bridges: []Bridge{bridgeA, bridgeB}, Published: []Publication{publishA1("0.0.0.0:8000", "[::]:8000")}})
	inbound, err := w.other.connect("192.0.2.1:8000")
	if err != nil {
		t.Fatal(err)
	}
	defer inbound.Close()
	for _, program := range []string{"iptables", "ip6tables"} {
		run(t, program+" -w -P FORWARD DROP")
		// as ufw has them
		for _, chain := range []string{"ufw-before-forward", "ufw-after-forward"} {
			run(t, program+" -w -N "+chain)
			run(t, program+" -w -A FORWARD -j "+chain)
		}
	}
	chain := func() string { return run(t, "iptables -w -S FORWARD") }
	const want = "-P FORWARD DROP\n-A FORWARD -j ufw-before-forward\n" +
		"-A FORWARD -m connmark --mark 0x4000000/0x4000000 -m comment --comment berth_test -j ACCEPT\n-A FORWARD -j ufw-after-forward\n"
	eventually(t, "our accept is behind ufw's rules", func() bool { return chain() == want })
	eventually(t, "and in ip6tables", func() bool { return strings.Contains(run(t, "ip6tables -w -S FORWARD"), "connmark") })
	look := func(published4, published6 string) {
		t.Helper()
		w.a1.expect("192.0.2.2:80", "other 192.0.2.1")
		w.a1.expect("[2001:db8::2]:80", "other 2001:db8::1")
		w.a1.expect("172.20.0.3:80", "a2 172.20.0.2") // bridged, yet filtered
		w.b1.expect("192.0.2.1:8000", "a1 172.21.0.2")
		w.host.expect("192.0.2.1:8000", "a1 192.0.2.1")
		w.b1.expect("172.20.0.2:80", "")
		w.other.expect("172.20.0.2:80", "")
		w.other.expect("192.0.2.1:8000", published4)
		w.other.expect("[2001:db8::1]:8000", published6)
	}
	look("", "")
	if got := echo(inbound, "hello"); got != "hello" {
		t.Errorf("a connection from before says %q, want hello", got)
	}
	// The host decides what comes in, and its rules about what goes out hold.
	run(t, "iptables -w -A ufw-before-forward -o br-a -p tcp --dport 80 -j ACCEPT")
	run(t, "iptables -w -A ufw-before-forward -o br-a -p udp --dport 80 -j ACCEPT")
	run(t, "iptables -w -A ufw-before-forward -s 172.21.0.0/24 -d 192.0.2.2 -j DROP")
	look("a1 192.0.2.2", "")
	w.b1.expect("192.0.2.2:80", "")

	// ufw is switched off and on, an administrator adds a rule at the end, another engine comes
	run(t, "iptables -w -D FORWARD -j ufw-before-forward")
	run(t, "iptables -w -D FORWARD -j ufw-after-forward")
	run(t, "iptables -w -A FORWARD -j ufw-before-forward")
	run(t, "iptables -w -A FORWARD -j ufw-after-forward")
	eventually(t, "our accept is behind ufw's rules again", func() bool { return chain() == want })
	run(t, "iptables -w -F FORWARD")
	run(t, "iptables -w -A FORWARD -d 203.0.113.0/24 -j DROP")
	second := openTable(t, Config{Table: "berth_second", Bridges: []Bridge{{Name: "br-c", IPv4: natBoth}}})
	eventually(t, "both accepts are behind the rule", func() bool {
		lines := strings.Split(chain(), "\n")
		return len(lines) == 5 && strings.Contains(lines[1], "203.0.113") && strings.Contains(lines[2], "connmark") && strings.Contains(lines[3], "connmark")
	})
	w.a1.expect("192.0.2.2:80", "other 192.0.2.1")
	if err := second.Close(true); err != nil {
		t.Fatal(err)
	}

	// Nothing of it is left where nobody asks for it
	run(t, "iptables -w -P FORWARD ACCEPT")
	eventually(t, "our accept goes with the policy", func() bool { return !strings.Contains(chain(), "connmark") })
	run(t, "iptables -w -P FORWARD DROP")
	eventually(t, "our accept comes with the policy", func() bool { return strings.Count(chain(), "connmark") == 1 })
	if err := table.Close(true); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"iptables", "ip6tables"} {
		if got := run(t, program+" -w -S"); strings.Contains(got, "connmark") {
			t.Errorf("after Close:\n%s", got)
		}
	}
}

func TestWhatCannotBeSeenBesideUsStaysAsItWas(t *testing.T) {
	needIptables(t)
	w := newTown(t)
	table := openTable(t, Config{Bridges: []Bridge{bridgeA, bridgeB}})
	run(t, "iptables -w -P FORWARD DROP")
	passes := func() bool { return w.a1.get("tcp", "192.0.2.2:80") != "" }
	eventually(t, "containers find their way out", passes)

	blind, err := nftables.New(nftables.WithTestDial(func([]netlink.Message) ([]netlink.Message, error) { return nil, unix.ENOBUFS }))
	if err != nil {
		t.Fatal(err)
	}
	table.mu.Lock()
	table.conn.CloseLasting()
	table.conn = blind
	if err := table.besideOthers(); err != nil {
		t.Error(err)
	}
	marking := table.marking
	table.mu.Unlock()
	if !marking || !passes() {
		t.Errorf("marking %v", marking)
	}
	eventually(t, "it is looked at again", func() bool {
		table.mu.Lock()
		defer table.mu.Unlock()
		return !table.blind
	})
	if !passes() {
		t.Error("the way out is closed afterwards")
	}
}

func TestAChainThatCannotBeReadHidesNoOther(t *testing.T) {
	needIptables(t)
	newTown(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("no nft")
	}
	dockersRules(t)
	for _, line := range []string{"iptables -w -N DOCKER-A", "nft add rule ip filter DOCKER-A ct original packets > 100",
		"ip6tables -w -P FORWARD DROP", "ip6tables -w -N DOCKER-USER", "ip6tables -w -N DOCKER", "ip6tables -w -A FORWARD -o docker6 -j DOCKER"} {
		run(t, line)
	}
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := &nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4}
	if _, err := c.GetRules(table, &nftables.Chain{Name: "DOCKER-A", Table: table}); err == nil {
		t.Skip("the library can read all rules")
	}
	n, err := findNeighbours(c, neighbours{bridges: map[string]bool{"known": true}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"docker0", "docker1", "docker6", "known"} {
		if !n.bridges[name] {
			t.Errorf("%s is not among %v", name, n.bridges)
		}
	}
	if len(n.seats) != 4 {
		t.Errorf("seats: %+v", n.seats)
	}
}
