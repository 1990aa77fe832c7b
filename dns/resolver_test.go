package dns

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// start serves cfg on loopback.
func start(t *testing.T, cfg Config) (r *Resolver, addr string) {
	t.Helper()
	packets, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	addr = packets.LocalAddr().String()
	streams, err := net.Listen("tcp4", addr)
	if err != nil {
		packets.Close()
		t.Skip("the UDP port is not free for TCP:", err)
	}
	udp, err1 := packets.File()
	tcp, err2 := streams.(*net.TCPListener).File()
	packets.Close()
	streams.Close()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if cfg.Socket == nil {
		cfg.Socket = func(family, kind int) (int, error) {
			return unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		}
	}
	if r, err = Serve(udp, tcp, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r, addr
}

func zoneIn(t *testing.T, z Zone) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "zone")
	if err := z.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func question(name string, kind dnsmessage.Type) dnsmessage.Message {
	return dnsmessage.Message{Header: dnsmessage.Header{ID: 4711, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}}}
}

func withEDNS(m dnsmessage.Message, size int) dnsmessage.Message {
	var h dnsmessage.ResourceHeader
	h.SetEDNS0(size, 0, true)
	m.Additionals = append(m.Additionals, dnsmessage.Resource{Header: h, Body: &dnsmessage.OPTResource{}})
	return m
}

func pack(t *testing.T, m dnsmessage.Message) []byte {
	t.Helper()
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// ask sends a query and returns the answer, over udp or tcp.
func ask(t *testing.T, network, addr string, m dnsmessage.Message) dnsmessage.Message {
	t.Helper()
	var answer dnsmessage.Message
	if err := answer.Unpack(askRaw(t, network, addr, pack(t, m))); err != nil {
		t.Fatalf("%v: %v", m.Questions, err)
	}
	if answer.ID != m.ID || !answer.Response || !answer.RecursionAvailable || len(m.Questions) == 1 && !slices.Equal(answer.Questions, m.Questions) {
		t.Errorf("the answer to %+v is %+v", m, answer)
	}
	return answer
}

func askRaw(t *testing.T, network, addr string, raw []byte) []byte {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if network == "tcp" {
		raw = framed(raw)
	}
	if _, err := c.Write(raw); err != nil {
		t.Fatal(err)
	}
	in := make([]byte, 1<<16)
	if network == "tcp" {
		if _, err := io.ReadFull(c, in[:2]); err != nil {
			t.Fatal(err)
		}
		in = in[:binary.BigEndian.Uint16(in)]
		if _, err := io.ReadFull(c, in); err != nil {
			t.Fatal(err)
		}
		return in
	}
	n, err := c.Read(in)
	if err != nil {
		t.Fatal(err)
	}
	return in[:n]
}

// told is an answer in short: the code, and the records in order.
func told(m dnsmessage.Message) string {
	var list []string
	for _, a := range m.Answers {
		switch b := a.Body.(type) {
		case *dnsmessage.AResource:
			list = append(list, netip.AddrFrom4(b.A).String())
		case *dnsmessage.AAAAResource:
			list = append(list, netip.AddrFrom16(b.AAAA).String())
		case *dnsmessage.PTRResource:
			list = append(list, b.PTR.String())
		case *dnsmessage.TXTResource:
			list = append(list, fmt.Sprint(len(strings.Join(b.TXT, ""))))
		}
	}
	slices.Sort(list)
	return strings.Join(append([]string{strings.TrimPrefix(m.RCode.String(), "RCode")}, list...), " ")
}

func TestKnownNamesAreAnsweredHere(t *testing.T) {
	_, addr := start(t, Config{Zones: []string{zoneIn(t, sample), filepath.Join(t.TempDir(), "missing")}, Internal: true,
		Own: []Own{{"Database", "db.prod"}, {"gone", "nowhere"}, {"host.docker.internal", "172.17.0.1"}}})
	for _, test := range []struct {
		name string
		kind dnsmessage.Type
		want string
	}{
		{"web.", dnsmessage.TypeA, "Success 172.18.0.2"},
		{"WEB.MyNet.", dnsmessage.TypeA, "Success 172.18.0.2"},
		{"web.", dnsmessage.TypeAAAA, "Success fd00::2"},
		{"0123456789ab.", dnsmessage.TypeA, "Success 172.18.0.2"},
		{"www.", dnsmessage.TypeA, "Success 172.18.0.2 172.18.0.21"},
		{"www.", dnsmessage.TypeALL, "Success 172.18.0.2 172.18.0.21 fd00::2"},
		{"web2.", dnsmessage.TypeAAAA, "Success"},
		{"db.prod.", dnsmessage.TypeA, "Success"},
		{"db.prod.", dnsmessage.TypeMX, "Success"},
		{"database.", dnsmessage.TypeAAAA, "Success fd00::21"},
		{"gone.", dnsmessage.TypeA, "NameError"},
		{"host.docker.internal.", dnsmessage.TypeA, "Success 172.17.0.1"},
		{"host.docker.internal.", dnsmessage.TypeAAAA, "Success"},
		{"2.0.18.172.in-addr.arpa.", dnsmessage.TypePTR, "Success web.mynet."},
		{"1.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.D.F.ip6.arpa.", dnsmessage.TypePTR, "Success db.prod.mynet."},
		{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dnsmessage.TypePTR, "Success web.mynet."},
		{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dnsmessage.TypeA, "NameError"},
		{"9.9.9.9.in-addr.arpa.", dnsmessage.TypePTR, "NameError"},
		{"9.9.9.in-addr.arpa.", dnsmessage.TypePTR, "NameError"},
		{"elsewhere.example.", dnsmessage.TypeA, "NameError"},
		{".", dnsmessage.TypeNS, "NameError"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if got := told(ask(t, network, addr, question(test.name, test.kind))); got != test.want {
				t.Errorf("%s %s over %s: %s, not %s", test.name, test.kind, network, got, test.want)
			}
		}
	}
	m := ask(t, "udp", addr, withEDNS(question("web.", dnsmessage.TypeA), 1232))
	if len(m.Additionals) != 1 || m.Additionals[0].Header.Type != dnsmessage.TypeOPT || m.Answers[0].Header.TTL != ttl {
		t.Errorf("%+v", m)
	}
}

func TestIP6PTR(t *testing.T) {
	a := netip.MustParseAddr("fd00:1:2::abcd")
	var name strings.Builder
	b := a.As16()
	for i := 15; i >= 0; i-- {
		fmt.Fprintf(&name, "%x.%x.", b[i]&15, b[i]>>4)
	}
	name.WriteString("ip6.arpa")
	if got, ok := reverse(name.String()); !ok || got != a {
		t.Errorf("%s is %v", name.String(), got)
	}
	_, addr := start(t, Config{Zones: []string{zoneIn(t, Zone{Hosts: []Host{{[]string{"six"}, []netip.Addr{a}}}})}})
	if got := told(ask(t, "udp", addr, question(name.String()+".", dnsmessage.TypePTR))); got != "Success six." {
		t.Error(got)
	}
}

func TestSeveralAddressesComeInChangingOrderAndAsManyAsFit(t *testing.T) {
	z := Zone{}
	for i := range 100 {
		z.Hosts = append(z.Hosts, Host{[]string{"many"}, []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}})
	}
	_, addr := start(t, Config{Zones: []string{zoneIn(t, z)}})
	first := map[[4]byte]bool{}
	for range 50 {
		m := ask(t, "udp", addr, question("many.", dnsmessage.TypeA))
		if !m.Truncated || len(m.Answers) != 30 {
			t.Fatalf("%d answers, truncated: %v", len(m.Answers), m.Truncated)
		}
		first[m.Answers[0].Body.(*dnsmessage.AResource).A] = true
	}
	if len(first) < 10 {
		t.Errorf("only %d of 100 addresses came first in 50 answers", len(first))
	}
	for _, m := range []dnsmessage.Message{ask(t, "tcp", addr, question("many.", dnsmessage.TypeA)),
		ask(t, "udp", addr, withEDNS(question("many.", dnsmessage.TypeA), 4096))} {
		if m.Truncated || len(m.Answers) != 100 {
			t.Errorf("%d answers, truncated: %v", len(m.Answers), m.Truncated)
		}
	}
}

func TestBadQueriesGetShortAnswersOrNone(t *testing.T) {
	r, _ := start(t, Config{Internal: true})
	good := pack(t, question("a.", dnsmessage.TypeA))
	change := func(at int, b byte) []byte {
		raw := slices.Clone(good)
		raw[at] = b
		return raw
	}
	for name, test := range map[string]struct {
		raw  []byte
		code dnsmessage.RCode // -1: none
	}{
		"too short":           {good[:11], 0xffff},
		"an answer":           {change(2, 0x81), 0xffff},
		"another opcode":      {change(2, 0x11), dnsmessage.RCodeNotImplemented},
		"no question":         {change(5, 0), dnsmessage.RCodeFormatError},
		"two questions":       {change(5, 2), dnsmessage.RCodeFormatError},
		"a cut question":      {good[:len(good)-1], dnsmessage.RCodeFormatError},
		"records not there":   {change(7, 1), dnsmessage.RCodeFormatError},
		"a name that points":  {change(12, 0xc0), dnsmessage.RCodeFormatError},
		"an OPT that is none": {change(11, 1), dnsmessage.RCodeFormatError},
	} {
		var s scratch
		answer, up := r.answer(&s, test.raw, false)
		if test.code == 0xffff {
			if answer != nil || up != nil {
				t.Errorf("%s: %x", name, answer)
			}
			continue
		}
		if len(answer) != headerSize || dnsmessage.RCode(flags(answer)&maskCode) != test.code || answer[0] != test.raw[0] {
			t.Errorf("%s: %x", name, answer)
		}
	}
}

// server is a DNS server for tests, over UDP and TCP. reply gets a query's message and may
// answer with several.
type server struct {
	addr netip.AddrPort
	mu   sync.Mutex
	seen []string // network and question
}

func newServer(t *testing.T, reply func(network string, q dnsmessage.Message) [][]byte) *server {
	t.Helper()
	packets, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: packets.LocalAddr().(*net.UDPAddr).AddrPort()}
	streams, err := net.Listen("tcp4", s.addr.String())
	if err != nil {
		packets.Close()
		t.Skip("the UDP port is not free for TCP:", err)
	}
	handle := func(network string, raw []byte) [][]byte {
		var q dnsmessage.Message
		if err := q.Unpack(raw); err != nil {
			t.Error(err)
			return nil
		}
		s.mu.Lock()
		s.seen = append(s.seen, network+" "+q.Questions[0].Name.String())
		s.mu.Unlock()
		return reply(network, q)
	}
	var all sync.WaitGroup
	all.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := packets.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			for _, a := range handle("udp", slices.Clone(buf[:n])) {
				packets.WriteToUDPAddrPort(a, from)
			}
		}
	})
	all.Go(func() {
		for {
			c, err := streams.Accept()
			if err != nil {
				return
			}
			raw, err := func() ([]byte, error) {
				defer func() { recover() }()
				f, err := c.(*net.TCPConn).File()
				if err != nil {
					return nil, err
				}
				defer f.Close()
				return readFramed(f)
			}()
			if err == nil {
				for _, a := range handle("tcp", raw) {
					c.Write(framed(a))
				}
			}
			c.Close()
		}
	})
	t.Cleanup(func() {
		packets.Close()
		streams.Close()
		all.Wait()
	})
	return s
}

func (s *server) asked() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.seen, ", ")
}

// with answers q with n addresses.
func with(t *testing.T, q dnsmessage.Message, code dnsmessage.RCode, n int) []byte {
	q.Response, q.RecursionAvailable, q.RCode, q.Additionals = true, true, code, nil
	for i := range n {
		q.Answers = append(q.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 1},
			Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, byte(i)}}})
	}
	return pack(t, q)
}

func TestTheRestIsAskedElsewhere(t *testing.T) {
	up := newServer(t, func(network string, q dnsmessage.Message) [][]byte {
		if len(q.Additionals) > 0 != strings.HasPrefix(q.Questions[0].Name.String(), "edns") {
			t.Errorf("EDNS: %+v", q.Additionals)
		}
		return [][]byte{with(t, q, 0, 1)}
	})
	_, addr := start(t, Config{Zones: []string{zoneIn(t, sample)}, Servers: []netip.AddrPort{up.addr}, Own: []Own{{"gone", "nowhere"}}})
	for name, want := range map[string]string{"example.com.": "Success 192.0.2.0", "single.": "Success 192.0.2.0", "web2.": "Success", "gone.": "NameError"} {
		kind := dnsmessage.TypeA
		if name == "web2." {
			kind = dnsmessage.TypeAAAA
		}
		if got := told(ask(t, "udp", addr, question(name, kind))); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	ask(t, "tcp", addr, question("tcp.example.", dnsmessage.TypeA))
	ask(t, "udp", addr, withEDNS(question("edns.example.", dnsmessage.TypeA), 1400))
	asked := up.asked()
	for _, want := range []string{"udp example.com.", "udp single.", "tcp tcp.example.", "udp edns.example."} {
		if !strings.Contains(asked, want) {
			t.Errorf("the server was asked %s", asked)
		}
	}
	if strings.Contains(asked, "web2") || strings.Contains(asked, "gone") {
		t.Errorf("known names were asked for: %s", asked)
	}
}

func TestWithNdotsNamesOfOneLabelStayHere(t *testing.T) {
	up := newServer(t, func(_ string, q dnsmessage.Message) [][]byte { return [][]byte{with(t, q, 0, 1)} })
	_, addr := start(t, Config{Servers: []netip.AddrPort{up.addr}, Ndots: true})
	if got := told(ask(t, "udp", addr, question("single.", dnsmessage.TypeA))); got != "Success" {
		t.Error(got)
	}
	if got := told(ask(t, "udp", addr, question("two.labels.", dnsmessage.TypeA))); got != "Success 192.0.2.0" {
		t.Error(got)
	}
}

func TestOnlyAnswersToWhatWasAskedCount(t *testing.T) {
	up := newServer(t, func(network string, q dnsmessage.Message) [][]byte {
		wrongID, wrongName, wrongType, query := q, q, q, q
		wrongID.ID++
		wrongName.Questions = []dnsmessage.Question{{Name: dnsmessage.MustNewName("evil."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}
		wrongType.Questions = []dnsmessage.Question{{Name: q.Questions[0].Name, Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET}}
		right := with(t, q, 0, 2)
		right[headerSize+1] ^= 0x20 // another case
		return [][]byte{with(t, wrongID, 0, 9), with(t, wrongName, 0, 9), with(t, wrongType, 0, 9), pack(t, query), {1, 2, 3}, right}
	})
	_, addr := start(t, Config{Servers: []netip.AddrPort{up.addr}})
	raw := askRaw(t, "udp", addr, pack(t, question("good.example.", dnsmessage.TypeA)))
	var m dnsmessage.Message
	if err := m.Unpack(raw); err != nil || told(m) != "Success 192.0.2.0 192.0.2.1" {
		t.Errorf("%s, %v", told(m), err)
	}
}

func TestFailingServersArePassedOverInOrder(t *testing.T) {
	dead, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	refusing := dead.LocalAddr().(*net.UDPAddr).AddrPort()
	dead.Close()
	answering := func(code dnsmessage.RCode, n int) *server {
		return newServer(t, func(_ string, q dnsmessage.Message) [][]byte { return [][]byte{with(t, q, code, n)} })
	}
	failing, unwilling, none, good := answering(dnsmessage.RCodeServerFailure, 0), answering(dnsmessage.RCodeRefused, 0),
		answering(dnsmessage.RCodeNameError, 0), answering(0, 1)
	silent := newServer(t, func(string, dnsmessage.Message) [][]byte { return nil })
	for _, test := range []struct {
		servers []netip.AddrPort
		want    string
	}{
		{[]netip.AddrPort{refusing, failing.addr, unwilling.addr, silent.addr, good.addr}, "Success 192.0.2.0"},
		{[]netip.AddrPort{none.addr, good.addr}, "NameError"},
		{[]netip.AddrPort{failing.addr, unwilling.addr}, "Refused"},
		{[]netip.AddrPort{refusing}, "ServerFailure"},
		{nil, "ServerFailure"},
	} {
		_, addr := start(t, Config{Servers: test.servers})
		if got := told(ask(t, "udp", addr, question("x.example.", dnsmessage.TypeA))); got != test.want {
			t.Errorf("%v: %s, not %s", test.servers, got, test.want)
		}
	}
}

func TestALongAnswerComesOverTCPIfTheClientCanTakeIt(t *testing.T) {
	up := newServer(t, func(network string, q dnsmessage.Message) [][]byte {
		if network == "tcp" {
			return [][]byte{with(t, q, 0, 60)}
		}
		q.Truncated = true
		return [][]byte{with(t, q, 0, 0)}
	})
	_, addr := start(t, Config{Servers: []netip.AddrPort{up.addr}})
	for _, test := range []struct {
		network   string
		edns      int
		answers   int
		truncated bool
	}{{"udp", 0, 0, true}, {"udp", 600, 0, true}, {"udp", 4096, 60, false}, {"tcp", 0, 60, false}} {
		q := question("long.example.", dnsmessage.TypeA)
		if test.edns > 0 {
			q = withEDNS(q, test.edns)
		}
		if m := ask(t, test.network, addr, q); len(m.Answers) != test.answers || m.Truncated != test.truncated {
			t.Errorf("%+v: %d answers, truncated: %v", test, len(m.Answers), m.Truncated)
		}
	}
}

func TestTooManyQueriesAtOnceFailAtOnce(t *testing.T) {
	r, addr := start(t, Config{Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}})
	r.mu.Lock()
	r.asking = maxAsking
	r.mu.Unlock()
	if got := told(ask(t, "udp", addr, question("x.example.", dnsmessage.TypeA))); got != "ServerFailure" {
		t.Error(got)
	}
}

func TestSetAndCloseActAtOnce(t *testing.T) {
	silent := newServer(t, func(string, dnsmessage.Message) [][]byte { return nil })
	r, addr := start(t, Config{Servers: []netip.AddrPort{silent.addr}})
	c, err := net.Dial("tcp", addr) // a client that says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { // a query that is with the server
		if u, err := net.Dial("udp", addr); err == nil {
			u.Write(pack(t, question("slow.example.", dnsmessage.TypeA)))
			u.Close()
		}
	}()
	for silent.asked() == "" {
		time.Sleep(time.Millisecond)
	}
	r.Set(Config{Zones: []string{zoneIn(t, sample)}})
	if got := told(ask(t, "udp", addr, question("web.", dnsmessage.TypeA))); got != "Success 172.18.0.2" {
		t.Error(got)
	}
	r.Set(Config{Internal: true})
	if got := told(ask(t, "udp", addr, question("web.", dnsmessage.TypeA))); got != "NameError" {
		t.Error(got)
	}
	begun := time.Now()
	r.Close()
	if time.Since(begun) > 2500*time.Millisecond { // in two rounds a query waits for four seconds
		t.Error("Close waits for a server")
	}
}

func TestServersAreParsed(t *testing.T) {
	for text, want := range map[string]string{"1.2.3.4": "1.2.3.4:53", "1.2.3.4:5353": "1.2.3.4:5353", "::1": "[::1]:53", "[::1]": "[::1]:53", "[::1]:54": "[::1]:54",
		"fe80::1%eth0": "[fe80::1%eth0]:53", "::ffff:1.2.3.4": "1.2.3.4:53", "": "", "host": "", "1.2.3.4:0": "", "1.2.3.4:x": ""} {
		got, err := ParseServer(text)
		if want == "" && err == nil || want != "" && got.String() != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func FuzzQuery(f *testing.F) {
	for _, m := range []dnsmessage.Message{question("web.", dnsmessage.TypeA), question("2.0.18.172.in-addr.arpa.", dnsmessage.TypePTR),
		withEDNS(question("www.mynet.", dnsmessage.TypeAAAA), 1400)} {
		raw, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, false)
	}
	path := filepath.Join(f.TempDir(), "zone")
	if err := sample.WriteFile(path); err != nil {
		f.Fatal(err)
	}
	r := &Resolver{cfg: Config{Internal: true}, zones: []zoneFile{newZoneFile(path)}}
	f.Fuzz(func(t *testing.T, raw []byte, overTCP bool) {
		var s scratch
		kept := slices.Clone(raw)
		answer, up := r.answer(&s, raw, overTCP)
		if !slices.Equal(raw, kept) || up != nil {
			t.Fatal("the query was changed, or is to be asked for elsewhere")
		}
		if answer == nil {
			return
		}
		if len(answer) < headerSize || answer[0] != raw[0] || answer[1] != raw[1] || flags(answer)&flagResponse == 0 || len(answer) > s.q.limit {
			t.Fatalf("the answer to %x is %x", raw, answer)
		}
		var m dnsmessage.Message
		if err := m.Unpack(answer); err != nil {
			t.Fatalf("the answer to %x is %x: %v", raw, answer, err)
		}
		if s.q.question != nil && !s.q.answeredBy(answer, binary.BigEndian.Uint16(raw)) {
			t.Fatalf("%x does not answer %x", answer, raw)
		}
	})
}
