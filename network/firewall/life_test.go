package firewall

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"berth/fail"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// tables lists the tables of the namespace.
func tables(t testing.TB) map[string]bool {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	all, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, table := range all {
		names[table.Name] = true
	}
	return names
}

// count tells how many elements the table's sets have together.
func count(t testing.TB, name string) int {
	t.Helper()
	c, _ := nftables.New()
	table := &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
	sum := 0
	for id := range setCount {
		list, err := c.GetSetElements(id.set(table))
		if err != nil {
			t.Fatal(err)
		}
		sum += len(list)
	}
	return sum
}

// eventually polls: the kernel does not tell when another process has seen its news.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in 10 s: %s", what)
		}
	}
}

func TestAMachineWithoutBridgesHasNoTable(t *testing.T) {
	newHost(t)
	table := openTable(t, Config{Table: "berth_idle"})
	if tables(t)["berth_idle"] {
		t.Error("a table without a bridge")
	}
	if err := table.Bridge(bridgeA); err != nil {
		t.Fatal(err)
	}
	empty := count(t, "berth_idle")
	if err := table.Publish(publishA1("0.0.0.0:8000", "[::]:8000", "127.0.0.1:8001", "192.0.2.1:8002")); err != nil {
		t.Fatal(err)
	}
	if n := count(t, "berth_idle"); n <= empty {
		t.Errorf("%d elements with ports, %d without", n, empty)
	}
	if err := table.Unpublish("a1"); err != nil {
		t.Fatal(err)
	}
	if n := count(t, "berth_idle"); n != empty {
		t.Errorf("%d elements after the ports have gone, %d before they came", n, empty)
	}
	for range 2 { // both are idempotent
		if err := table.Unpublish("a1"); err != nil {
			t.Error(err)
		}
		if err := table.RemoveBridge("br-a"); err != nil {
			t.Error(err)
		}
	}
	if tables(t)["berth_idle"] {
		t.Error("the table stays when the last bridge has gone")
	}
	if err := table.Bridge(bridgeA); err != nil {
		t.Fatal(err)
	}
	if err := table.Close(true); err != nil {
		t.Fatal(err)
	}
	if tables(t)["berth_idle"] {
		t.Error("the table stays when it is closed for good")
	}
	if err := table.Bridge(bridgeA); !fail.Is(err, fail.Unavailable) {
		t.Errorf("a bridge after Close: %v", err)
	}
}

func TestPortsAreReplacedTakenOverAndKeptApart(t *testing.T) {
	w := newTown(t)
	table := openTable(t, Config{Bridges: []Bridge{bridgeA, bridgeB}})
	b1 := Publication{Container: "b1", Bridges: []string{"br-b"}, Ports: ports("172.21.0.2", "", "0.0.0.0:8000")}
	publish := func(p Publication) {
		t.Helper()
		if err := table.Publish(p); err != nil {
			t.Fatal(err)
		}
	}
	publish(publishA1("0.0.0.0:8000", "0.0.0.0:8001"))
	publish(publishA1("0.0.0.0:8000", "0.0.0.0:8002"))
	w.other.expect("192.0.2.1:8000", "a1 192.0.2.2")
	w.other.expect("192.0.2.1:8001", "")
	w.other.expect("192.0.2.1:8002", "a1 192.0.2.2")
	publish(b1) // who comes later has the port
	w.other.expect("192.0.2.1:8000", "b1 192.0.2.2")
	if err := table.Unpublish("a1"); err != nil {
		t.Fatal(err)
	}
	w.other.expect("192.0.2.1:8000", "b1 192.0.2.2")
	w.other.expect("192.0.2.1:8002", "")
}

func TestAFlushedRuleSetIsMadeAgain(t *testing.T) {
	w := newTown(t)
	table := openTable(t, Config{Bridges: []Bridge{bridgeA, bridgeB}, Published: []Publication{publishA1("0.0.0.0:8000")}})
	full := count(t, "berth_test")
	nft, _ := nftables.New()
	ours := &nftables.Table{Name: "berth_test", Family: nftables.TableFamilyINet}
	every := chains(false)
	forward := every[slices.IndexFunc(every, func(c chain) bool { return c.name == "forward" })]
	whole := func() bool {
		c, _ := nftables.New()
		if !tables(t)["berth_test"] {
			return false
		}
		sum := 0
		for id := range setCount {
			list, err := c.GetSetElements(id.set(ours))
			if err != nil {
				return false
			}
			sum += len(list)
		}
		rules, err := c.GetRules(ours, &nftables.Chain{Name: "forward", Table: ours})
		return err == nil && sum == full && len(rules) == len(forward.rules)
	}
	for what, destroy := range map[string]func(){
		"everything is flushed": func() { nft.FlushRuleset() },
		"the table is deleted":  func() { nft.DelTable(ours) },
		"the rules are flushed": func() { nft.FlushTable(ours) },
		"a map is flushed":      func() { nft.FlushSet(any4.set(ours)) },
		"a chain is flushed":    func() { nft.FlushChain(&nftables.Chain{Name: "forward", Table: ours}) },
	} {
		destroy()
		if err := nft.Flush(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		eventually(t, "the table is whole after "+what, whole)
		w.other.expect("192.0.2.1:8000", "a1 192.0.2.2")
		w.other.expect("172.20.0.2:80", "")
	}

	// changes that meet a missing table make it whole as well
	nft.FlushRuleset()
	if err := nft.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := table.Publish(publishA1("0.0.0.0:8001")); err != nil {
		t.Fatal(err)
	}
	w.other.expect("192.0.2.1:8001", "a1 192.0.2.2")
}

func TestWhoFightsTheTableIsNotAnsweredInABusyLoop(t *testing.T) {
	newHost(t)
	openTable(t, Config{Bridges: []Bridge{bridgeA}})
	nft, _ := nftables.New()
	ours := &nftables.Table{Name: "berth_test", Family: nftables.TableFamilyINet}
	removed, begun := 0, time.Now()
	for time.Since(begun) < time.Second || removed < 2 && time.Since(begun) < time.Minute {
		nft.DelTable(ours)
		if nft.Flush() == nil {
			removed++
		}
		time.Sleep(time.Millisecond)
	}
	if took := time.Since(begun); removed < 2 || removed > 10*(1+int(took/time.Second)) {
		t.Errorf("the table was made again %d times in %v; want a few times a second", removed, took)
	}
}

func TestTheNextEngineReplacesTheTableWhileConnectionsFlow(t *testing.T) {
	w := newTown(t)
	cfg := Config{Table: "berth_test", Bridges: []Bridge{bridgeA, bridgeB}, Published: []Publication{publishA1("0.0.0.0:8000")}}
	left, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	left.Close(false)
	conn, err := w.other.connect("192.0.2.1:8000")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	rounds := func() (failures int) {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { // new connections all the time
			for {
				select {
				case <-stop:
					return
				default:
				}
				w.other.do(func() {
					if ask("tcp", "192.0.2.1:8000", 900*time.Millisecond) == "" { // a lost SYN is sent again after a second
						failures++
					}
				})
			}
		})
		for i := range 20 {
			next, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if line := fmt.Sprint("line ", i); echo(conn, line) != line {
				t.Fatalf("round %d: the open connection is cut", i)
			}
			next.Close(false)
		}
		close(stop)
		wg.Wait()
		return failures
	}
	// A busy machine may stand still for a second, but not each time.
	failures := rounds()
	for again := 0; failures > 0 && again < 2; again++ {
		failures = rounds()
	}
	if failures > 0 {
		t.Errorf("%d new connections failed", failures)
	}
	// an engine whose containers ended meanwhile takes the table away
	openTable(t, Config{})
	if tables(t)["berth_test"] {
		t.Error("a table that was left stays though nothing needs it")
	}
}

func TestSwitchedOffNothingIsMade(t *testing.T) {
	newHost(t)
	table := openTable(t, Config{Off: true, Bridges: []Bridge{bridgeA}})
	if err := table.Publish(publishA1("0.0.0.0:8000")); err != nil {
		t.Error(err)
	}
	if err := table.Publish(Publication{Container: "x", Ports: []Port{{Proto: "icmp"}}}); !fail.Is(err, fail.Invalid) {
		t.Errorf("nonsense is told all the same, got %v", err)
	}
	if len(tables(t)) > 0 {
		t.Errorf("there are tables: %v", tables(t))
	}
	if err := table.Close(true); err != nil {
		t.Error(err)
	}
}

func TestNonsenseIsRefusedAndChangesNothing(t *testing.T) {
	newHost(t)
	table := openTable(t, Config{Bridges: []Bridge{bridgeA}})
	before := count(t, "berth_test")
	at := netip.MustParseAddrPort
	for what, p := range map[string]Port{
		"protocol":          {"icmp", at("0.0.0.0:1"), at("172.20.0.2:1")},
		"families":          {"tcp", at("[::]:1"), at("172.20.0.2:1")},
		"no target":         {"tcp", at("0.0.0.0:1"), netip.AddrPort{}},
		"no host port":      {"tcp", at("0.0.0.0:0"), at("172.20.0.2:1")},
		"no container port": {"tcp", at("0.0.0.0:1"), at("172.20.0.2:0")},
	} {
		if err := table.Publish(Publication{Container: "x", Ports: []Port{p}}); !fail.Is(err, fail.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, b := range []Bridge{{}, {Name: "a-name-of-16-long"}, {Name: "b", Trusted: []string{""}},
		{Name: "b", IPv4: Gateway{Masquerade: true, Source: netip.MustParseAddr("::1")}}} {
		if err := table.Bridge(b); !fail.Is(err, fail.Invalid) {
			t.Errorf("bridge %+v: %v", b, err)
		}
	}
	if n := count(t, "berth_test"); n != before {
		t.Errorf("%d elements instead of %d", n, before)
	}
}

func TestOneMorePortTakesNoLongerThanTheFirst(t *testing.T) {
	newHost(t)
	table := openTable(t, Config{Bridges: []Bridge{bridgeA}})
	one := func(i int) Publication {
		addr := netip.AddrFrom4([4]byte{172, 20, byte(i / 200), byte(2 + i%200)})
		p := Publication{Container: fmt.Sprint("c", i), Bridges: []string{"br-a"}}
		for j := range 5 {
			p.Ports = append(p.Ports, Port{"tcp", netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(10000+5*i+j)), netip.AddrPortFrom(addr, uint16(80+j))})
		}
		return p
	}
	measure := func(first int) time.Duration {
		best := time.Hour
		for i := range 30 {
			begin := time.Now()
			if err := table.Publish(one(first)); err != nil {
				t.Fatal(err)
			}
			best = min(best, time.Since(begin))
			if i < 29 {
				if err := table.Unpublish(fmt.Sprint("c", first)); err != nil {
					t.Fatal(err)
				}
			}
		}
		return best
	}
	first := measure(0)
	var all []Publication
	for i := 1; i < 200; i++ {
		all = append(all, one(i))
		if err := table.Publish(one(i)); err != nil {
			t.Fatal(err)
		}
	}
	last := measure(200)
	t.Logf("publishing 5 ports: the first time %v, after 1,000 ports %v: ratio %.2f", first, last, float64(last)/float64(first))
	if n := count(t, "berth_test"); n < 1000 {
		t.Errorf("%d elements in the table", n)
	}
	table.Close(false)
	begin := time.Now()
	table = openTable(t, Config{Bridges: []Bridge{bridgeA}, Published: append(all, one(0), one(200))})
	t.Logf("replacing the whole table: %v", time.Since(begin))
	for i := range 201 {
		if err := table.Unpublish(fmt.Sprint("c", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(t, "berth_test"); n != 6 { // of the bridge
		t.Errorf("%d elements when all ports have gone", n)
	}
}

func TestManyContainersComeAndGoAtTheSameTime(t *testing.T) {
	newHost(t)
	table := openTable(t, Config{Bridges: []Bridge{bridgeA}})
	before := count(t, "berth_test")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			p := Publication{Container: fmt.Sprint(i), Bridges: []string{"br-a"}, Ports: []Port{
				{"tcp", netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(8000+i)), netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 20, 0, byte(10 + i)}), 80)}}}
			for range 50 {
				if err := table.Publish(p); err != nil {
					t.Error(err)
				}
				if err := table.Unpublish(p.Container); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := count(t, "berth_test"); n != before {
		t.Errorf("%d elements instead of %d", n, before)
	}
}

func TestAUDPClientThatNeverPausesFollowsThePort(t *testing.T) {
	w := newTown(t)
	w.host.serve(":8000") // the shim's socket, until there is a translation
	table := openTable(t, Config{Bridges: []Bridge{bridgeA, bridgeB}})
	var client, client6 net.Conn
	w.other.must(func() (err error) {
		if client, err = net.Dial("udp", "192.0.2.1:8000"); err == nil {
			client6, err = net.Dial("udp", "[2001:db8::1]:8000")
		}
		return err
	})
	defer client.Close()
	defer client6.Close()
	says := func(c net.Conn) string {
		c.Write([]byte("?"))
		return answer(c, patience)
	}
	eventually(t, "the host answers", func() bool { return says(client) == "host 192.0.2.2" && says(client6) == "host 2001:db8::2" })
	if err := table.Publish(publishA1("0.0.0.0:8000", "[::]:8000")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a1 answers", func() bool { return says(client) == "a1 192.0.2.2" && says(client6) == "a1 2001:db8::2" })
	b1 := Publication{Container: "b1", Bridges: []string{"br-b"}, Ports: ports("172.21.0.2", "fd00:b::2", "192.0.2.1:8000", "[2001:db8::1]:8000")}
	if err := table.Unpublish("a1"); err != nil {
		t.Fatal(err)
	}
	if err := table.Publish(b1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b1 answers", func() bool { return says(client) == "b1 192.0.2.2" && says(client6) == "b1 2001:db8::2" })
}

func TestWithoutTheRightToChangeTablesOnlyBridgesFail(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root has it")
	}
	table, err := Open(Config{Table: "berth_nobody"})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close(true)
	if err := table.Bridge(bridgeA); !errors.Is(err, unix.EPERM) {
		t.Errorf("a bridge: %v", err)
	}
}
