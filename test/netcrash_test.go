package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"berth/testkit"
)

// crashRounds is how often the engine is killed; BERTH_CRASH_ROUNDS says otherwise.
const crashRounds = 5

// passing are what goes on, over and over, while the engine is killed.
var passing = [][]string{
	{"run -d --name passing-1 --network small -p 7101:80 busybox sleep 100000", "restart -t 0 passing-1", "rm -f passing-1"},
	{"run -d --rm --name passing-2 --network small -p 7102:80/udp -v /anonymous busybox sleep 100000", "rm -f -v passing-2"},
	{"network create --ipv6 passing", "network connect passing asks", "network disconnect passing asks", "network rm passing"},
}

// TestKilledEnginesCutNoConnectionAndLeakNothing kills the engine while containers start and
// stop, connections flow through published ports and names are asked for.
func TestKilledEnginesCutNoConnectionAndLeakNothing(t *testing.T) {
	rounds := crashRounds
	if s := os.Getenv("BERTH_CRASH_ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	p := newPair(t, nil)
	// A small subnet: an address that leaks each round is soon missed.
	p.Must("network", "create", "--subnet", "10.211.55.0/28", "small")
	p.Must("run", "-d", "--name", "echo", "--network", "small", "-p", "7000:7", "-p", "7001:7/udp", "busybox", "nc", "-ll", "-p", "7", "-e", "cat")
	begun := time.Now()
	p.Must("run", "-d", "--name", "asks", "--network", "small", "busybox", "sleep", "100000")
	pace := max(300*time.Millisecond, 6*time.Since(begun)) // time for some of the commands below, on a slow machine too
	address := p.address("echo", "small", "IPAddress")
	asker := "/proc/" + p.Must("inspect", "-f", "{{.State.Pid}}", "asks") + "/ns/net"

	flows := map[string]*talk{
		"from another host": dialEcho(t, p.other, "tcp", host4+":7000"),
		"by loopback":       dialEcho(t, p.host, "tcp", "127.0.0.1:7000"),
		"by IPv6 loopback":  dialEcho(t, p.host, "tcp", "[::1]:7000"),
	}
	before := p.inventory(2)

	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	told := make(chan error, 1000)
	count := map[string]*int{}
	repeat := func(what string, each func() error) {
		n := new(int)
		count[what] = n
		work.Go(func() {
			for ctx.Err() == nil {
				*n++
				if err := each(); err != nil {
					select {
					case told <- fmt.Errorf("%s: %w", what, err):
					default:
					}
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	for what, c := range flows {
		repeat("the connection "+what, c.echo)
	}
	repeat("a new connection from another host", func() error {
		conn, err := p.other.Dial("tcp", host4+":7000", 30*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		return (&talk{Conn: conn}).echo()
	})
	repeat("a query", func() error { return lookUp(asker, "udp", "echo.", address) })
	repeat("a query by TCP", func() error { return lookUp(asker, "tcp", "echo.", address) })

	var done, cut atomic.Int64
	for round := range rounds {
		var verbs sync.WaitGroup
		for _, commands := range passing { // they may end anyhow: their engine is killed under them
			verbs.Go(func() {
				for n := 0; ; n++ { // until one is cut off
					if p.Berth(strings.Fields(commands[n%len(commands)])...).Code != 0 {
						cut.Add(1)
						return
					}
					done.Add(1)
				}
			})
		}
		if round == 0 {
			testkit.Eventually(t, "something is done", func() bool { return done.Load() > 0 })
		}
		time.Sleep(rand.N(pace)) // chaos, not a wait
		p.Kill()
		verbs.Wait()
		p.Start()
		for _, id := range strings.Fields(p.Must("ps", "-aq", "--filter", "name=passing")) {
			p.Berth("rm", "-f", "-v", id) // one with --rm may be going by itself
		}
		if p.Berth("network", "inspect", "passing").Code == 0 {
			p.Berth("network", "disconnect", "passing", "asks") // if it is on it
			p.Must("network", "rm", "passing")
		}
		if t.Failed() {
			t.Fatalf("in round %d", round+1)
		}
	}
	stop()
	work.Wait()
	close(told)
	for err := range told {
		t.Error(err)
	}
	for what, n := range count {
		t.Logf("%s: %d times in %d rounds", what, *n, rounds)
		if *n < rounds {
			t.Errorf("%s: only %d times", what, *n)
		}
	}
	t.Logf("%d commands were done, %d cut off", done.Load(), cut.Load())
	if done.Load() == 0 || cut.Load() == 0 {
		t.Error("the engine is killed too early or too late")
	}
	testkit.Eventually(t, "what removes itself is gone", func() bool { return len(strings.Fields(p.Must("ps", "-aq"))) == 2 })
	testkit.Eventually(t, "no volumes are left", func() bool { return p.Must("volume", "ls", "-q") == "" })
	if after := p.inventory(2); !maps.Equal(before, after) {
		t.Errorf("before %v\nafter  %v", before, after)
	}
	// All of the small subnet is to be had: 16 less network, broadcast, gateway and our two.
	for n := range 11 {
		p.Must("run", "-d", "--name", fmt.Sprintf("all-%d", n), "--network", "small", "busybox", "sleep", "1000")
	}
	if r := p.Berth("run", "--rm", "--network", "small", "busybox", "true"); r.Code != 125 {
		t.Errorf("one too many: exit %d, %s", r.Code, r.Stderr)
	}
	if now := p.Must("inspect", "-f", "{{.NetworkSettings.Networks.small.IPAddress}}", "echo"); now != address {
		t.Errorf("the address is %s, was %s", now, address)
	}
}

// TestEngineKilledAtEveryFailpointOfNetworks kills it at each instant between two steps that a
// crash may come between.
func TestEngineKilledAtEveryFailpointOfNetworks(t *testing.T) {
	points := failpoints(t, "network.")
	p := newPair(t, nil)
	p.Must("network", "create", "--subnet", "10.211.55.0/28", "small")
	before := p.inventory(0) // nothing of Berth's, as nobody runs
	var never []string
	for _, point := range points {
		p.Stop()
		p.Start("BERTH_FAILPOINT=" + point)
		for _, c := range []string{"network create --ipv6 passing", "run -d --name passing-1 --network small -p 7101:80 busybox sleep 100000",
			"network connect passing passing-1", "network disconnect passing passing-1", "rm -f passing-1", "network rm passing"} {
			if p.Berth(strings.Fields(c)...).Code != 0 {
				break
			}
		}
		if p.Berth("version").Code == 0 {
			never = append(never, point)
			p.Stop()
		} else {
			p.Await()
		}
		p.Start()
		if p.Berth("inspect", "passing-1").Code == 0 {
			p.Must("rm", "-f", "passing-1")
		}
		if p.Berth("network", "inspect", "passing").Code == 0 {
			p.Must("network", "rm", "passing")
		}
	}
	if len(never) > len(points)/2 {
		t.Errorf("most failpoints were never reached: %v", never)
	}
	t.Logf("%d failpoints, not on this path: %v", len(points), never)
	if after := p.inventory(0); !maps.Equal(before, after) {
		t.Errorf("before %v\nafter  %v", before, after)
	}
	for n := range 13 { // no address is lost
		p.Must("run", "-d", "--name", fmt.Sprintf("all-%d", n), "--network", "small", "busybox", "sleep", "1000")
	}
}

// inventory stops the engine, which takes the namespaces with it that wait for containers,
// and counts what is left of networks: just that of so many running containers, of one endpoint
// each, if nothing leaks.
func (p *pair) inventory(running int) map[string]int {
	p.t.Helper()
	if code := p.Stop(); code != 0 {
		p.t.Fatalf("the engine ended with %d", code)
	}
	defer p.Start()
	count := func(pattern string) int {
		files, _ := filepath.Glob(pattern)
		return len(files)
	}
	n, names := map[string]int{}, []string{}
	defer func() {
		if p.t.Failed() {
			p.t.Logf("interfaces: %v", names)
		}
	}()
	testkit.Eventually(p.t, fmt.Sprintf("the interfaces and shims of %d containers, and no more, are left", running), func() bool {
		var links []struct{ Ifname string }
		if err := json.Unmarshal([]byte(p.host.Must("ip", "-j", "link")), &links); err != nil {
			p.t.Fatal(err)
		}
		n["interfaces"], n["ends of containers"], names = len(links), 0, nil
		for _, l := range links {
			names = append(names, l.Ifname)
			if strings.HasPrefix(l.Ifname, "veth") {
				n["ends of containers"]++
			}
		}
		n["shims and guardians"] = len(p.Shims())
		return n["ends of containers"] == running && n["shims and guardians"] == 2*running
	})
	rules := p.host.Must("nft", "list", "ruleset")
	n["lines of rules"] = strings.Count(rules, "\n")
	n["mentions of published ports"] = len(regexp.MustCompile(`\b7[01]\d\d\b`).FindAllString(rules, -1))
	n["files of networks"] = count(filepath.Join(p.ExecRoot, "networks", "*"))
	n["containers"] = count(filepath.Join(p.DataRoot, "containers", "*"))
	n["running containers"] = count(filepath.Join(p.ExecRoot, "containers", "*"))
	return n
}

// lookUp resolves name in the network namespace at path by the container's resolver, as libc
// does: a query that stays without an answer is sent again. More often than libc would, for the
// machine may be busy.
func lookUp(path, network, name, want string) error {
	var err error
	for range 6 {
		if err = lookUpOnce(path, network, name, want); err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return fmt.Errorf("not answered at any try: %w", err)
}

func lookUpOnce(path, network, name, want string) error {
	conn, err := testkit.DialFrom(path, network, "127.0.0.11:53", 30*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second)) // resolv.conf(5): RES_TIMEOUT
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(rand.IntN(1 << 16)), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	packed, err := query.Pack()
	if err != nil {
		return err
	}
	if network == "tcp" {
		packed = append([]byte{byte(len(packed) >> 8), byte(len(packed))}, packed...)
	}
	if _, err := conn.Write(packed); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	got, err := conn.Read(buf)
	if err != nil {
		return err
	}
	data := buf[:got]
	if network == "tcp" {
		for len(data) < 2 || len(data) < 2+int(data[0])<<8+int(data[1]) {
			more, err := conn.Read(buf[got:])
			if err != nil {
				return err
			}
			got += more
			data = buf[:got]
		}
		data = data[2:]
	}
	var answer dnsmessage.Message
	if err := answer.Unpack(data); err != nil {
		return err
	}
	var all []string
	for _, r := range answer.Answers {
		if a, ok := r.Body.(*dnsmessage.AResource); ok {
			all = append(all, net.IP(a.A[:]).String())
		}
	}
	if answer.ID != query.ID || answer.RCode != dnsmessage.RCodeSuccess || !slices.Equal(all, []string{want}) {
		return fmt.Errorf("answer %v %v, want %s", answer.RCode, all, want)
	}
	return nil
}
