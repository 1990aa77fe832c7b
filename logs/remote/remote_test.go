package remote

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)

func msg(text string) *Message { return &Message{Stream: "stdout", Time: at, Text: []byte(text)} }

func TestSyslogFormats(t *testing.T) {
	time.Local = time.UTC
	host, _ := os.Hostname()
	for _, test := range []struct {
		cfg  Config
		m    *Message
		want string
	}{
		{Config{Facility: 3}, msg("hi"), "<30>Jan  2 03:04:05 tag[PID]: hi\n"},
		{Config{Facility: 3, Network: "unixgram"}, &Message{Stream: "stderr", Time: at, Text: []byte("hi")}, "<27>Jan  2 03:04:05 tag[PID]: hi"},
		{Config{Format: "rfc3164", Network: "tcp"}, msg("hi"), "<6>Jan  2 03:04:05 HOST tag[PID]: hi\n"},
		{Config{Format: "rfc5424", Network: "udp", Tag: "a b\xff"}, msg("hi"), "<6>1 2026-01-02T03:04:05Z HOST a_b_ PID a_b_ - hi"},
		{Config{Format: "rfc5424micro", Network: "tcp", Facility: 23, Tag: strings.Repeat("t", 60)}, msg(""), "<190>1 2026-01-02T03:04:05.678901Z HOST " + strings.Repeat("t", 60) + " PID " + strings.Repeat("t", 60) + " - \n"},
		{Config{Format: "rfc5424", Network: "tls", Tag: "x"}, msg("hi"), "LEN <6>1 2026-01-02T03:04:05Z HOST x PID x - hi"},
	} {
		if test.cfg.Tag == "" {
			test.cfg.Tag = "tag"
		}
		got := string(newSyslog(test.cfg).encode([]byte("before "), test.m))
		want := strings.NewReplacer("HOST", host, "PID", fmt.Sprint(os.Getpid())).Replace(test.want)
		if rest, counted := strings.CutPrefix(want, "LEN "); counted {
			want = fmt.Sprintf("%d %s", len(rest), rest)
		}
		if got != "before "+want {
			t.Errorf("%+v:\ngot  %q\nwant %q", test.cfg, got, want)
		}
	}
}

func TestNamesOfJournalFields(t *testing.T) {
	for name, want := range map[string]string{"com.example/role": "COM_EXAMPLE_ROLE", "_x": "X", "A1": "A1", "...": "", "é": "", "1a": "1A"} {
		if got := fieldName(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

// receive is a datagram socket of the test's own.
func receive(t *testing.T) (path string, next func() string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return path, func() string {
		buf, oob := make([]byte, 1<<20), make([]byte, 100)
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		n, m, _, _, err := c.ReadMsgUnix(buf, oob)
		if err != nil {
			t.Fatal(err)
		}
		if m == 0 {
			return string(buf[:n])
		}
		parsed, err := unix.ParseSocketControlMessage(oob[:m])
		if err != nil {
			t.Fatal(err)
		}
		fds, err := unix.ParseUnixRights(&parsed[0])
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fds[0]), "entry")
		defer f.Close()
		if seals, _ := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); seals != unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE {
			t.Errorf("seals %x", seals)
		}
		_, _ = f.Seek(0, io.SeekStart)
		all, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		return "memory:" + string(all)
	}
}

func TestJournaldEntries(t *testing.T) {
	path, next := receive(t)
	s, err := Open(t.Context(), Config{Driver: "journald", Address: path, ContainerID: "0123456789abcdef", ContainerName: "web", Tag: "t", ImageName: "i",
		Fields: map[string]string{"role": "a\nb", "container.id": "not twice", "huge": strings.Repeat("h", 300_000)}})
	if err != nil {
		t.Fatal(err)
	}
	s.Add(&Message{Stream: "stderr", Time: at, Text: []byte("text"), Part: 2, Line: "id", Open: true})
	s.Flush()
	want := "memory:CONTAINER_ID=not twice\nCONTAINER_ID_FULL=0123456789abcdef\nCONTAINER_NAME=web\nCONTAINER_TAG=t\nHUGE=" + strings.Repeat("h", 300_000) +
		"\nIMAGE_NAME=i\nROLE\n\x03\x00\x00\x00\x00\x00\x00\x00a\nb\nSYSLOG_IDENTIFIER=t\nPRIORITY=3\nSYSLOG_TIMESTAMP=2026-01-02T03:04:05.678901Z\n" +
		"CONTAINER_PARTIAL_ID=id\nCONTAINER_PARTIAL_ORDINAL=2\nCONTAINER_PARTIAL_LAST=false\nCONTAINER_PARTIAL_MESSAGE=true\nMESSAGE=text\n"
	if got := next(); got != want {
		t.Errorf("got %.200q…%.300q", got, got[max(0, len(got)-300):])
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Open(t.Context(), Config{Driver: "journald", Address: path + ".none"}); err == nil || !strings.HasPrefix(err.Error(), "journald is not enabled on this host") {
		t.Errorf("without a journal: %v", err)
	}
}

func TestFluentdRecords(t *testing.T) {
	f := newFluentd(Config{Tag: "t", ContainerID: "i", ContainerName: "n"})
	want := "\x93\xa1t\xce\x69\x57\x35\xa5\x84\xaccontainer_id\xa1i\xaecontainer_name\xa2/n\xa6source\xa6stdout\xa3log\xa2hi"
	if got := string(f.encode(nil, msg("hi"))); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	f = newFluentd(Config{Tag: "t", SubSecond: true})
	if got := string(f.encode(nil, msg(""))); !strings.HasPrefix(got, "\x93\xa1t\xd7\x00\x69\x57\x35\xa5\x28\x77\x35\x08") {
		t.Errorf("with nanoseconds: %q", got)
	}
	for _, n := range []int{31, 32, 255, 256, 65535, 65536} {
		text := strings.Repeat("x", n)
		if got := string(appendText(nil, text)); !strings.HasSuffix(got, text) || !strings.Contains("\xbf\xd9\xda\xdb", got[:1]) {
			t.Errorf("a text of %d bytes begins with %x", n, got[0])
		}
	}
}

func TestGELFMessages(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	noise := make([]byte, 12_000)
	rnd := rand.New(rand.NewSource(1))
	for i := range noise {
		noise[i] = "0123456789abcdef"[rnd.Intn(16)]
	}
	for _, compress := range []string{"", "zlib", "none"} {
		s, err := Open(t.Context(), Config{Driver: "gelf", Network: "udp", Address: server.LocalAddr().String(), Compress: compress, Level: 1, ContainerName: "web", Tag: "t", Fields: map[string]string{"role": "front"}})
		if err != nil {
			t.Fatal(err)
		}
		s.Add(&Message{Stream: "stderr", Time: at, Text: noise})
		s.Flush()
		var packed []byte
		buf := make([]byte, 64<<10)
		for i := 0; ; i++ {
			_ = server.SetReadDeadline(time.Now().Add(time.Minute))
			n, _, err := server.ReadFrom(buf)
			if err != nil {
				t.Fatal(err)
			}
			if n > chunkSize || buf[0] != 0x1e || buf[1] != 0x0f || int(buf[10]) != i {
				t.Fatalf("%q: chunk %d of %d bytes begins with % x", compress, i, n, buf[:12])
			}
			packed = append(packed, buf[12:n]...)
			if i+1 == int(buf[11]) {
				break
			}
		}
		var z io.Reader = bytes.NewReader(packed)
		switch compress {
		case "":
			z, err = gzip.NewReader(z)
		case "zlib":
			z, err = zlib.NewReader(z)
		}
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.NewDecoder(z).Decode(&m); err != nil {
			t.Fatalf("%q: %v", compress, err)
		}
		if m["version"] != "1.1" || m["short_message"] != string(noise) || m["level"] != 3.0 || m["timestamp"] != 1767323045.678 || m["_role"] != "front" || m["_container_name"] != "web" || m["_tag"] != "t" {
			t.Errorf("%q: got %.300v", compress, m)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := newGELF(Config{Network: "tcp"}).encode(nil, msg("x")); got[len(got)-1] != 0 || !json.Valid(got[:len(got)-1]) {
		t.Errorf("over TCP: %q", got)
	}
}

// server accepts connections one after the other; lines of each go to the channel.
type server struct {
	net.Listener
	lines chan string
	conns chan net.Conn
}

func listen(t *testing.T, address string) *server {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{l, make(chan string, 100_000), make(chan net.Conn, 100)}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.conns <- c
			go func() {
				lines := bufio.NewScanner(c)
				for lines.Scan() {
					s.lines <- lines.Text()
				}
			}()
		}
	}()
	return s
}

func (s *server) expect(t *testing.T, text string) {
	t.Helper()
	select {
	case got := <-s.lines:
		if !strings.HasSuffix(got, text) {
			t.Fatalf("got %q, want %q", got, text)
		}
	case <-time.After(time.Minute):
		t.Fatalf("%q does not come", text)
	}
}

func TestASenderFindsItsServerAgain(t *testing.T) {
	first := listen(t, "127.0.0.1:0")
	s, err := Open(t.Context(), Config{Driver: "syslog", Network: "tcp", Address: first.Addr().String(), RetryWait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	s.Add(msg("one"))
	s.Flush()
	first.expect(t, "one")
	first.Close()
	(<-first.conns).Close()
	for i := range 3 { // the first of them would be lost if nobody looked at the connection
		s.Add(msg(fmt.Sprint("while away ", i)))
		s.Flush()
	}
	second := listen(t, first.Addr().String())
	for i := range 3 {
		second.expect(t, fmt.Sprint("while away ", i))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestASenderThatMustNotWaitDropsAndCounts(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	l.Close()
	s, err := Open(t.Context(), Config{Driver: "syslog", Network: "tcp", Address: l.Addr().String(), Async: true, NonBlock: true, Buffer: 1000, MaxRetries: 2, RetryWait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		s.Add(msg(strings.Repeat("x", 90)))
		s.Flush()
	}
	err = s.Close()
	if err == nil || !strings.HasPrefix(err.Error(), "1000 log lines did not reach the syslog server: dial tcp") || !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("error %v", err)
	}
}

func TestFluentdSendsAgainWhatWasNotAcknowledged(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := Open(t.Context(), Config{Driver: "fluentd", Network: "tcp", Address: l.Addr().String(), Ack: true, RetryWait: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	s.Add(msg("once"))
	s.Flush()
	var chunks []string
	for _, answer := range []string{"\x81\xa3ack\xa5wrong", "", "ack"} {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		chunk := string(buf[n-chunkLength : n])
		chunks = append(chunks, chunk)
		if answer == "ack" {
			answer = "\x81\xa3ack" + string(appendText(nil, chunk))
		}
		_, _ = io.WriteString(c, answer)
		c.Close()
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if chunks[0] != chunks[1] || chunks[1] != chunks[2] {
		t.Errorf("the same record as chunks %q", chunks)
	}
}

func TestAServerThatTakesNothingHoldsNobodyUpForLong(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts, nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := Open(t.Context(), Config{Driver: "syslog", Network: "tcp", Address: l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	s.patience, s.farewell = 100*time.Millisecond, 100*time.Millisecond
	const lines = 2000
	text := strings.Repeat("x", 16<<10)
	for range lines { // 32 MB
		s.Add(msg(text))
		s.Flush()
	}
	s.mu.Lock()
	stuck, lost := s.stuck, s.lost
	s.mu.Unlock()
	if !stuck || lost == 0 {
		t.Errorf("after %d lines: stuck %v, lost %d", lines, stuck, lost)
	}
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "log lines did not reach the syslog server") {
		t.Errorf("error %v", err)
	}
}

// FuzzAcks: whatever a server answers is an acknowledgement or an error.
func FuzzAcks(f *testing.F) {
	f.Add([]byte("\x81\xa3ack\xa3abc"))
	f.Add([]byte("\x81\xd9\x03ack\xc4\x03abc"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		r := bytes.NewReader(answer)
		got, err := readAck(bufio.NewReader(r))
		if err == nil && len(got) > len(answer) {
			t.Fatalf("%q became %q", answer, got)
		}
	})
}

// FuzzMessages: whatever a container writes, and is called, is one message of each driver.
func FuzzMessages(f *testing.F) {
	f.Add("tag", "label", "value", []byte("text"), true)
	f.Add("a b", "_x.y", "1\n2", []byte("\x00\xff\r"), false)
	f.Fuzz(func(t *testing.T, tag, name, value string, text []byte, open bool) {
		text = bytes.ReplaceAll(text, []byte("\n"), nil)
		cfg := Config{Tag: tag, ContainerID: "i", Network: "tcp", Fields: map[string]string{name: value}}
		m := &Message{Stream: "stderr", Time: at, Text: text, Open: open, Part: 1, Line: "l"}
		if g := newGELF(cfg).encode(nil, m); !json.Valid(g[:len(g)-1]) || bytes.IndexByte(g, 0) != len(g)-1 {
			t.Fatalf("GELF: %q", g)
		}
		cfg.Format = "rfc5424"
		if s := newSyslog(cfg).encode(nil, m); bytes.Count(s, []byte("\n")) != 1 || len(bytes.Fields(s)) < 7 {
			t.Fatalf("syslog: %q", s)
		}
		if n := newJournald(cfg).encode(nil, m); !bytes.HasSuffix(n, append(append([]byte("\nMESSAGE="), text...), '\n')) {
			t.Fatalf("journald: %q", n)
		}
		if r := newFluentd(cfg).encode(nil, m); r[0] != 0x93 || !bytes.Contains(r, text) {
			t.Fatalf("fluentd: %q", r)
		}
	})
}
