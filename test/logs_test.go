package test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/logs"
	"berth/testkit"
)

// twoLines writes one line to each stream. Which of them is read first is not said.
var twoLines = []string{"busybox", "sh", "-c", "echo out; echo err >&2"}

func TestLogsAreReadWhateverDriverKeepsThem(t *testing.T) {
	syslog := testkit.NewRsyslog(t, nil)
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	for _, test := range []struct{ driver, path, file string }{
		{"json-file", "", "-json.log"},
		{"local", "", "local-logs/container.log"},
		{"syslog", "unixgram://" + syslog.Socket, "container-cached.log"},
	} {
		args := []string{"run", "--name", test.driver, "--network", "none", "--log-driver", test.driver}
		if test.path != "" {
			args = append(args, "--log-opt", "syslog-address="+test.path)
		}
		if out := e.Must(append(args, twoLines...)...); out != "out" {
			t.Errorf("%s: run printed %q", test.driver, out)
		}
		r := e.Berth("logs", test.driver)
		if r.Stdout != "out\n" || r.Stderr != "err\n" || r.Code != 0 {
			t.Errorf("%s: logs: %+v", test.driver, r)
		}
		e.Must("start", "-a", test.driver)
		if r := e.Berth("logs", "-n", "3", test.driver); r.Stdout+r.Stderr != "out\nerr\nerr\n" && r.Stdout+r.Stderr != "out\nout\nerr\n" {
			t.Errorf("%s: the last three lines of two runs: %+v", test.driver, r)
		}
		path := e.Must("inspect", "-f", "{{.LogPath}}", test.driver)
		if (path != "") != (test.driver == "json-file") {
			t.Errorf("%s: LogPath %q", test.driver, path)
		}
		id := e.Must("inspect", "-f", "{{.Id}}", test.driver)
		if test.driver == "json-file" {
			test.file = id + test.file
		}
		if _, err := os.Stat(filepath.Join(e.DataRoot, "containers", id, test.file)); err != nil {
			t.Error(err)
		}
	}
	if m := syslog.Await("err"); !strings.HasPrefix(m.Tag, e.Must("inspect", "-f", "{{slice .Id 0 12}}", "syslog")+"[") || m.Pri != "27" {
		t.Errorf("syslog got %+v", m)
	}

	e.Must("run", "--name", "none", "--network", "none", "--log-driver", "none", "busybox", "echo", "hidden")
	if r := e.Berth("logs", "none"); r.Code != 1 || !strings.Contains(r.Stderr, "configured logging driver does not support reading") {
		t.Errorf("logs of none: %+v", r)
	}
	e.Must(append([]string{"run", "--name", "uncached", "--network", "none", "--log-driver", "syslog", "--log-opt", "cache-disabled=true", "--log-opt", "syslog-address=tcp://" + syslog.TCP}, twoLines...)...)
	if r := e.Berth("logs", "uncached"); r.Code != 1 || !strings.Contains(r.Stderr, "configured logging driver does not support reading") {
		t.Errorf("logs without a cache: %+v", r)
	}
}

func TestSyslogGetsEveryFormatOverEveryTransport(t *testing.T) {
	a := testkit.NewAuthority(t)
	syslog := testkit.NewRsyslog(t, a)
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	client := a.Issue(time.Hour, "client")
	secure := []string{"syslog-tls-ca-cert=" + a.Cert, "syslog-tls-cert=" + client.Cert, "syslog-tls-key=" + client.Key}
	host, _ := os.Hostname()
	for i, test := range []struct {
		address string
		opts    []string
		pri     string
		tag     string
	}{
		{"unixgram://" + syslog.Socket, []string{"syslog-facility=local7", "tag={{.Name}}/{{.ImageName}}"}, "190", "c0/busybox["},
		{"unix://" + syslog.Socket, nil, "30", ""}, // it is a datagram socket nonetheless
		{"udp://" + syslog.UDP, []string{"syslog-format=rfc3164", "syslog-facility=1", "tag=it"}, "14", "it["},
		{"tcp://" + syslog.TCP, []string{"syslog-format=rfc5424", "tag=it"}, "30", "it["},
		{"tcp://" + syslog.TCP, []string{"syslog-format=rfc5424micro", "tag=a b"}, "30", "a_b["},
		{"tcp+tls://" + syslog.TLS, append([]string{"syslog-format=rfc5424micro"}, secure...), "30", ""},
		{"tcp+tls://" + syslog.TLS, append([]string{"tag=old"}, secure...), "30", "old["},
	} {
		name := fmt.Sprint("c", i)
		args := []string{"run", "--name", name, "--network", "none", "--log-driver", "syslog", "--log-opt", "syslog-address=" + test.address}
		for _, o := range test.opts {
			args = append(args, "--log-opt", o)
		}
		e.Must(append(args, "busybox", "echo", "message "+name+" of "+strings.Repeat("x", 200))...)
		m := syslog.Await("message " + name)
		if test.tag == "" {
			test.tag = e.Must("inspect", "-f", "{{slice .Id 0 12}}", name) + "["
		}
		if m.Pri != test.pri || !strings.HasPrefix(m.Tag, test.tag) || m.Host != host && test.tag != "old[" || strings.TrimSpace(m.Msg) != "message "+name+" of "+strings.Repeat("x", 200) {
			t.Errorf("%s %v: got %+v", test.address, test.opts, m)
		}
	}
	r := e.Berth("run", "--network", "none", "--log-driver", "syslog", "--log-opt", "syslog-address=tcp+tls://"+syslog.TLS, "busybox", "true")
	if r.Code == 0 || !strings.Contains(r.Stderr, "failed to initialize logging driver") || !strings.Contains(r.Stderr, "certificate") {
		t.Errorf("a server that nobody trusts: %+v", r)
	}
}

func TestJournaldGetsFieldsAndParts(t *testing.T) {
	journal := testkit.NewJournald(t)
	e := testkit.StartEngine(t, testkit.EngineOptions{Within: journal.Args})
	e.Busybox()
	e.Must("run", "--name", "web", "--network", "none", "--label", "com.example.role=front", "-e", "STAGE=test", "--log-driver", "journald",
		"--log-opt", "labels=com.example.role", "--log-opt", "env-regex=^STAGE$", "--log-opt", "tag={{.DaemonName}}/{{.ID}}",
		"busybox", "sh", "-c", `echo out; echo err >&2; head -c 40000 /dev/zero | tr "\0" y; echo`)
	id := e.Must("inspect", "-f", "{{.Id}}", "web")
	var entries []map[string]any
	testkit.Eventually(t, "the journal has all entries", func() bool {
		entries = journal.Entries("CONTAINER_NAME=web")
		return len(entries) >= 5
	})
	long := ""
	for _, m := range entries {
		for field, want := range map[string]string{"CONTAINER_ID": id[:12], "CONTAINER_ID_FULL": id, "CONTAINER_TAG": "berth/" + id[:12], "SYSLOG_IDENTIFIER": "berth/" + id[:12],
			"IMAGE_NAME": "busybox", "COM_EXAMPLE_ROLE": "front", "STAGE": "test", "_TRANSPORT": "journal"} {
			if m[field] != want {
				t.Errorf("%s is %v, want %s", field, m[field], want)
			}
		}
		switch text, _ := m["MESSAGE"].(string); {
		case text == "out" && m["PRIORITY"] == "6" && m["CONTAINER_PARTIAL_MESSAGE"] == nil, text == "err" && m["PRIORITY"] == "3":
		case strings.HasPrefix(text, "y"):
			long += text
			if last := m["CONTAINER_PARTIAL_LAST"]; (last == "true") != (m["CONTAINER_PARTIAL_ORDINAL"] == "3") || (last == "true") == (m["CONTAINER_PARTIAL_MESSAGE"] == "true") {
				t.Errorf("part %v: last %v, partial %v", m["CONTAINER_PARTIAL_ORDINAL"], last, m["CONTAINER_PARTIAL_MESSAGE"])
			}
		default:
			t.Errorf("unexpected entry %v", m)
		}
	}
	if long != strings.Repeat("y", 40000) {
		t.Errorf("the long line came as %d bytes", len(long))
	}
	if r := e.Berth("logs", "web"); len(r.Stdout) != len("out\n")+40001 || r.Stderr != "err\n" {
		t.Errorf("logs: %d bytes, %q", len(r.Stdout), r.Stderr)
	}
	// Which of the two streams ended last is not said.
	if details := e.Must("logs", "--details", "web"); !strings.Contains(details, "STAGE=test,com.example.role=front yy") {
		t.Errorf("details: %.60q", details)
	}
}

func TestFluentdGetsRecords(t *testing.T) {
	a := testkit.NewAuthority(t)
	cert := a.Issue(time.Hour, "127.0.0.1")
	tcp, socket, secure := testkit.NewForward(t, false, nil), testkit.NewForward(t, true, nil), testkit.NewForward(t, false, &cert)
	e := testkit.StartEngine(t, testkit.EngineOptions{Env: []string{"SSL_CERT_FILE=" + a.Cert}})
	e.Busybox()
	for i, test := range []struct {
		to      *testkit.Forward
		address string
		opts    []string
		check   func(r testkit.ForwardRecord) bool
	}{
		{tcp, tcp.Address, nil, func(r testkit.ForwardRecord) bool { n, ok := r.Time.(float64); return ok && n > 1.7e9 && r.Chunk == "" }},
		{socket, "unix://" + socket.Socket, []string{"tag=docker.{{.Name}}", "fluentd-sub-second-precision=true"}, func(r testkit.ForwardRecord) bool {
			at, ok := r.Time.([]any)
			return ok && len(at) == 2 && r.Tag == "docker.f1"
		}},
		{tcp, "tcp://" + tcp.Address, []string{"fluentd-request-ack=true", "labels=role", "env=STAGE"}, func(r testkit.ForwardRecord) bool {
			return r.Chunk != "" && r.Record["role"] == "front" && r.Record["STAGE"] == "test"
		}},
		{secure, "tls://" + secure.Address, []string{"fluentd-async=true"}, func(r testkit.ForwardRecord) bool { return true }},
	} {
		name := fmt.Sprint("f", i)
		args := []string{"run", "--name", name, "--network", "none", "--label", "role=front", "-e", "STAGE=test", "--log-driver", "fluentd", "--log-opt", "fluentd-address=" + test.address}
		for _, o := range test.opts {
			args = append(args, "--log-opt", o)
		}
		e.Must(append(args, "busybox", "sh", "-c", `echo out; echo err >&2; head -c 20000 /dev/zero | tr "\0" y`)...)
		id := e.Must("inspect", "-f", "{{.Id}}", name)
		var mine []testkit.ForwardRecord
		testkit.Eventually(t, "all records of "+name, func() bool {
			mine = mine[:0]
			for _, r := range test.to.Records() {
				if r.Record["container_id"] == id {
					mine = append(mine, r)
				}
			}
			return len(mine) >= 4
		})
		for _, r := range mine {
			text, _ := r.Record["log"].(string)
			partial := r.Record["partial_message"] == "true" && r.Record["partial_last"] == "false"
			if r.Record["container_name"] != "/"+name || (r.Record["source"] == "stderr") != (text == "err") || strings.HasPrefix(text, "y") != partial || !test.check(r) {
				t.Errorf("%s: got %.300v", name, fmt.Sprint(r))
			}
		}
	}
}

func TestGELFGetsMessagesByUDPAndTCP(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	deadline := time.Now().Add(2 * time.Minute)
	for _, test := range []struct {
		address string
		receive func() (io.Reader, error)
	}{
		{"udp://" + udp.LocalAddr().String(), func() (io.Reader, error) {
			buf := make([]byte, 64<<10)
			_ = udp.SetReadDeadline(deadline)
			n, _, err := udp.ReadFrom(buf)
			if err != nil {
				return nil, err
			}
			return gzip.NewReader(bytes.NewReader(buf[:n]))
		}},
		{"tcp://" + tcp.Addr().String(), func() (io.Reader, error) {
			c, err := tcp.Accept()
			if err != nil {
				return nil, err
			}
			_ = c.SetReadDeadline(deadline)
			data, err := bufio.NewReader(c).ReadBytes(0)
			return bytes.NewReader(bytes.TrimSuffix(data, []byte{0})), err
		}},
	} {
		e.Must("run", "--name", "web", "--network", "none", "--label", "role=front", "--log-driver", "gelf", "--log-opt", "gelf-address="+test.address, "--log-opt", "labels-regex=ro", "busybox", "echo", "hello")
		in, err := test.receive()
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.NewDecoder(in).Decode(&m); err != nil {
			t.Fatal(err)
		}
		if m["short_message"] != "hello" || m["level"] != 6.0 || m["_container_name"] != "web" || m["_image_name"] != "busybox" || m["_command"] != "echo hello" || m["_role"] != "front" {
			t.Errorf("%s: got %v", test.address, m)
		}
		if got := e.Must("logs", "web"); got != "hello" {
			t.Errorf("logs: %q", got)
		}
		e.Must("rm", "web")
	}
}

func TestALogServerThatIsNotThereFailsTheStart(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	nobody := "127.0.0.1:" + testkit.FreePort(t)
	for _, opts := range [][]string{
		{"syslog", "syslog-address=tcp://" + nobody},
		{"fluentd", "fluentd-address=" + nobody},
		{"gelf", "gelf-address=tcp://" + nobody},
	} {
		r := e.Berth("run", "--name", "nobody", "--network", "none", "--log-driver", opts[0], "--log-opt", opts[1], "busybox", "true")
		if r.Code != 125 && r.Code != 128 || !strings.Contains(r.Stderr, "failed to initialize logging driver: dial tcp "+nobody+": connect: connection refused") {
			t.Errorf("%s: %+v", opts[0], r)
		}
		e.Must("rm", "nobody")
	}
	if r := e.Berth("create", "--log-driver", "syslog", "--log-opt", "syslog-address=unix:///nowhere/at/all", "busybox"); r.Code == 0 || !strings.Contains(r.Stderr, "syslog-address: stat /nowhere/at/all: no such file or directory") {
		t.Errorf("a socket that is not there: %+v", r)
	}
	if r := e.Berth("run", "--rm", "--network", "none", "--log-driver", "fluentd", "--log-opt", "fluentd-address="+nobody, "--log-opt", "fluentd-async=true", "busybox", "echo", "hello"); r.Stdout != "hello\n" || r.Code != 0 {
		t.Errorf("asynchronously: %+v", r)
	}
}

func TestALogServerThatComesBackGetsWhatWasWrittenMeanwhile(t *testing.T) {
	syslog := testkit.NewRsyslog(t, nil)
	forward := testkit.NewForward(t, false, nil)
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	loop := []string{"busybox", "cat"}
	e.Must(append([]string{"run", "-di", "--name", "sys", "--network", "none", "--log-driver", "syslog", "--log-opt", "syslog-address=tcp://" + syslog.TCP}, loop...)...)
	e.Must(append([]string{"run", "-di", "--name", "flu", "--network", "none", "--log-driver", "fluentd", "--log-opt", "fluentd-retry-wait=50ms", "--log-opt", "fluentd-address=" + forward.Address}, loop...)...)
	for _, c := range []string{"sys", "flu"} {
		e.Must("exec", c, "sh", "-c", "echo before >/proc/1/fd/1")
	}
	syslog.Await("before")
	testkit.Eventually(t, "fluentd has the first one", func() bool { return len(forward.Records()) == 1 })
	syslog.Stop()
	forward.Stop()
	for _, c := range []string{"sys", "flu"} {
		e.Must("exec", c, "sh", "-c", "for i in 1 2 3; do echo during $i >/proc/1/fd/1; sleep 0.05; done")
		testkit.Eventually(t, "the cache of "+c+" ends with what came last", func() bool { return e.Must("logs", "-n", "1", c) == "during 3" })
	}
	syslog.Start()
	forward.Start()
	for i := range 3 {
		syslog.Await(fmt.Sprint("during ", i+1))
	}
	testkit.Eventually(t, "fluentd has all", func() bool { return len(forward.Records()) >= 3 })
	var got []string
	for _, r := range forward.Records() {
		got = append(got, fmt.Sprint(r.Record["log"]))
	}
	if strings.Join(got, ",") != "during 1,during 2,during 3" {
		t.Errorf("fluentd got %v", got)
	}
	e.Must("rm", "-f", "sys", "flu")
}

func TestALogServerThatHangsStopsAContainerForSecondsOnly(t *testing.T) {
	syslog := testkit.NewRsyslog(t, nil)
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	syslog.Signal(unix.SIGSTOP) // it accepts connections still, the kernel does, and reads nothing
	defer syslog.Signal(unix.SIGCONT)
	begun := time.Now()
	e.Must("run", "--name", "one", "--network", "none", "--log-driver", "syslog", "--log-opt", "syslog-address=tcp://"+syslog.TCP, "busybox", "sh", "-c",
		`head -c 30000000 /dev/zero | tr "\0" x | fold -w 1000; echo; echo end`)
	t.Logf("ended after %v", time.Since(begun))
	if got := e.Must("logs", "-n", "1", "one"); got != "end" {
		t.Errorf("the cache ends with %q", got)
	}
	begun = time.Now()
	e.Must("run", "--name", "two", "--network", "none", "--log-driver", "syslog", "--log-opt", "syslog-address=tcp://"+syslog.TCP, "--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=64k", "busybox", "sh", "-c",
		`head -c 1000000 /dev/zero | tr "\0" "\n"; echo end`)
	t.Logf("not blocking: ended after %v", time.Since(begun))
}

func TestLogFilesAreAsDockerWritesThem(t *testing.T) {
	docker := testkit.Dockerd(t)
	docker.Must("import", testkit.BusyboxTar(t), "busybox")
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	command := []string{"busybox", "sh", "-c", `printf 'a\t<b> & "c"\r\n\377\303\251\342\200\250\0\n\n'; head -c LONG /dev/zero | tr "\0" y; echo; printf last`}
	stamp := regexp.MustCompile(`"time":"[^"]*Z"`)
	for _, test := range []struct {
		driver  []string
		long    string
		entries int
	}{
		{[]string{"json-file", "--log-opt", "tag={{.Name}}", "--log-opt", "labels=role", "--log-opt", "env-regex=^ST"}, "40000", 7},
		{[]string{"local"}, "10000", 5}, // of a line that is cut, Docker 20.10 loses the newline here
	} {
		driver := test.driver
		args := append([]string{"run", "--name", "web", "--network", "none", "--label", "role=front", "-e", "STAGE=test", "--log-driver"}, driver...)
		args = append(append(args, command[:3]...), strings.ReplaceAll(command[3], "LONG", test.long))
		file := func(root string, must func(...string) string) string {
			if driver[0] == "json-file" {
				return must("inspect", "-f", "{{.LogPath}}", "web")
			}
			return filepath.Join(root, "containers", must("inspect", "-f", "{{.Id}}", "web"), "local-logs", "container.log")
		}
		docker.Must(args...)
		e.Must(args...)
		theirs, ours := file(filepath.Join(docker.Dir, "d"), docker.Must), file(e.DataRoot, e.Must)
		if driver[0] == "json-file" {
			var text [2]string
			for i, path := range []string{theirs, ours} {
				data, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				text[i] = stamp.ReplaceAllString(string(data), "TIME")
			}
			if text[0] != text[1] {
				t.Errorf("Docker wrote\n%.2000s\nwe wrote\n%.2000s", text[0], text[1])
			}
		}
		var entries [2][]string
		for i, path := range []string{theirs, ours} {
			err := logs.Read(t.Context(), path, logs.Options{Driver: driver[0]}, logs.ReadOptions{Stdout: true, Stderr: true, Tail: -1}, func(entry logs.Entry) error {
				entries[i] = append(entries[i], fmt.Sprintf("%s %v %q", entry.Stream, entry.Attrs, entry.Line))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if len(entries[0]) != test.entries || !slices.Equal(entries[0], entries[1]) {
			t.Errorf("%s: of Docker's file we read\n%.300q\nof ours\n%.300q", driver[0], entries[0], entries[1])
		}
		if d, o := docker.Must("logs", "web"), e.Must("logs", "web"); d != o {
			t.Errorf("%s: docker logs prints %d bytes, berth logs %d", driver[0], len(d), len(o))
		}
		docker.Must("rm", "web")
		e.Must("rm", "web")
	}
}

func TestDefaultLogOptionsFillInWhatAContainerDoesNotSay(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--log-opt", "labels=role"}})
	e.Busybox()
	e.Must("run", "--name", "one", "--network", "none", "--label", "role=front", "--log-opt", "tag={{.Name}}", "busybox", "sh", "-c", `printf 'a\t<b>\r\nlast'`)
	data, err := os.ReadFile(e.Must("inspect", "-f", "{{.LogPath}}", "one"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	for i, want := range []string{`{"log":"a\u0009\u003cb\u003e\r\n","stream":"stdout","attrs":{"role":"front","tag":"one"},"time":"`, `{"log":"last","stream":"stdout","attrs":{"role":"front","tag":"one"},"time":"`} {
		if len(lines) != 2 || !strings.HasPrefix(lines[i], want) || !json.Valid([]byte(lines[i])) {
			t.Errorf("line %d of %q", i, lines)
		}
	}
	if got := e.Must("inspect", "-f", "{{json .HostConfig.LogConfig}}", "one"); got != `{"Type":"json-file","Config":{"labels":"role","tag":"{{.Name}}"}}` {
		t.Errorf("LogConfig is %s", got)
	}
	if got := e.Must("logs", "--details", "-t", "-n", "1", "one"); !strings.HasSuffix(got, "Z role=front,tag=one last") {
		t.Errorf("details: %q", got)
	}
}

func TestLogsOfSeveralContainersAreShownTogether(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	for _, c := range [][]string{{"front"}, {"back"}, {"shell", "-t"}} {
		e.Must(append(append([]string{"create", "--name", c[0], "--network", "none"}, c[1:]...), "busybox", "sh", "-c", "echo run of "+c[0]+"; [ -t 1 ] && echo end || printf end >&2")...)
	}
	for range 2 {
		for _, c := range []string{"front", "back", "shell"} {
			e.Must("start", c)
			e.Must("wait", c)
		}
	}
	r := e.Berth("logs", "--names", "back", "shell", "front")
	if want := "front run of front\nback run of back\nshell run of shell\r\nshell end\r\nfront run of front\nback run of back\nshell run of shell\r\nshell end\r\n"; sorted(r.Stdout) != sorted(want) || !strings.HasPrefix(r.Stdout, "front run of front\nback run of back\nshell run of shell\r\n") {
		t.Errorf("standard output: %q", r.Stdout)
	}
	if want := "front endend\nback endend\n"; sorted(r.Stderr) != sorted(want) {
		t.Errorf("standard error: %q", r.Stderr)
	}
	id := e.Must("inspect", "-f", "{{slice .Id 0 12}}", "front")
	if got := e.Must("logs", "-f", "-n", "2", "front", "back"); !strings.Contains(got, id+" run of front") {
		t.Errorf("with ids: %q", got)
	}
	if r := e.Berth("logs", "front", "nobody"); r.Code != 1 || !strings.Contains(r.Stderr, "No such container: nobody") {
		t.Errorf("one that is not there: %+v", r)
	}
}

// sorted are the lines of text in alphabetical order.
func sorted(text string) string {
	lines := slices.Sorted(strings.Lines(text))
	return strings.Join(lines, "")
}

func TestLogsSinceUntilInAllForms(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	e.Must("run", "--name", "web", "--network", "none", "-e", "TZ=UTC", "busybox", "sh", "-c", "echo one; sleep 1.1; echo two")
	var at []time.Time
	for line := range strings.Lines(e.Must("logs", "-t", "web")) {
		stamp, err := time.Parse(time.RFC3339Nano, strings.Fields(line)[0])
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, stamp)
	}
	second := at[1].Add(-time.Millisecond)
	for _, test := range []struct{ flag, value, want string }{
		{"--since", second.Format(time.RFC3339Nano), "two"},
		{"--since", second.In(time.FixedZone("", 3600)).Format(time.RFC3339Nano), "two"},
		{"--since", fmt.Sprintf("%d.%09d", second.Unix(), second.Nanosecond()), "two"},
		{"--since", fmt.Sprint(at[1].Unix() + 60), ""},
		{"--since", "42m", "one\ntwo"},
		{"--since", at[0].AddDate(0, 0, -1).Format("2006-01-02"), "one\ntwo"},
		{"--since", at[0].AddDate(0, 0, -1).Format("2006-01-02T15:04:05"), "one\ntwo"},
		{"--until", second.Format(time.RFC3339Nano), "one"},
		{"--until", "42m", ""},
		{"--until", fmt.Sprintf("%d.%09d", second.Unix(), second.Nanosecond()), "one"},
	} {
		if got := e.Must("logs", test.flag, test.value, "web"); got != test.want {
			t.Errorf("%s %s: %q, want %q", test.flag, test.value, got, test.want)
		}
		if got := e.MustDocker("logs", test.flag, test.value, "web"); got != test.want {
			t.Errorf("docker logs %s %s: %q, want %q", test.flag, test.value, got, test.want)
		}
	}
	if r := e.Berth("logs", "--since", "yesterday", "web"); r.Code == 0 || !strings.Contains(r.Stderr, "yesterday") {
		t.Errorf("--since yesterday: %+v", r)
	}
}
