package testkit

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// program runs a server until the test ends, or it is stopped.
type program struct {
	t    testing.TB
	cmd  *exec.Cmd
	said *lockedBuffer
}

func startProgram(t testing.TB, argv ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command(argv[0], argv[1:]...), said: &lockedBuffer{}}
	p.cmd.Stdout, p.cmd.Stderr = p.said, p.said
	p.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := startBound(t, p.cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(argv[0]), lastLines([]byte(p.said.String()), 20))
		}
	})
	return p
}

// Stop kills the server.
func (p *program) Stop() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		p.cmd = nil
	}
}

// Signal sends the server a signal.
func (p *program) Signal(s unix.Signal) {
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// SyslogMessage is a message as rsyslog understood it.
type SyslogMessage struct {
	Pri, Host, Tag, App, Proc, MsgID, Time, Msg, Raw string
	Input                                            string // imuxsock, imtcp, imudp
}

// Rsyslog is Debian's rsyslogd with a configuration of the test's own.
type Rsyslog struct {
	*program
	Socket         string // a datagram socket
	TCP, UDP, TLS  string // 127.0.0.1:port; TLS only with an authority
	dir, out, conf string
}

// NewRsyslog starts rsyslogd. With an authority it also speaks TLS, and asks for certificates
// of the same authority.
func NewRsyslog(t testing.TB, a *Authority) *Rsyslog {
	t.Helper()
	NeedTool(t, "rsyslogd")
	dir := shortDir(t)
	r := &Rsyslog{dir: dir, Socket: filepath.Join(dir, "log"), out: filepath.Join(dir, "out"), conf: filepath.Join(dir, "conf")}
	tcp, udp := FreePort(t), FreePort(t)
	r.TCP, r.UDP = "127.0.0.1:"+tcp, "127.0.0.1:"+udp
	var b strings.Builder
	fmt.Fprintf(&b, `global(workDirectory=%q maxMessageSize="64k")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket=%q)
module(load="imudp")
input(type="imudp" port=%q address="127.0.0.1")
module(load="imtcp")
input(type="imtcp" port=%q address="127.0.0.1")
`, dir, r.Socket, udp, tcp)
	if a != nil {
		c := a.Issue(time.Hour, "127.0.0.1")
		port := FreePort(t)
		r.TLS = "127.0.0.1:" + port
		fmt.Fprintf(&b, `input(type="imtcp" port=%q address="127.0.0.1" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/certvalid"
 streamDriver.caFile=%q streamDriver.certFile=%q streamDriver.keyFile=%q)
`, port, a.Cert, c.Cert, c.Key)
	}
	b.WriteString(`template(name="all" type="list" option.jsonf="on") {
 property(outname="Pri" name="pri" format="jsonf") property(outname="Host" name="hostname" format="jsonf")
 property(outname="Tag" name="syslogtag" format="jsonf") property(outname="App" name="app-name" format="jsonf")
 property(outname="Proc" name="procid" format="jsonf") property(outname="MsgID" name="msgid" format="jsonf")
 property(outname="Time" name="timereported" dateFormat="rfc3339" format="jsonf") property(outname="Msg" name="msg" format="jsonf")
 property(outname="Raw" name="rawmsg" format="jsonf") property(outname="Input" name="inputname" format="jsonf") }
`)
	fmt.Fprintf(&b, "action(type=\"omfile\" file=%q template=\"all\")\n", r.out)
	if err := os.WriteFile(r.conf, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	r.program = &program{t: t}
	r.Start()
	return r
}

// Start starts the server again after a Stop.
func (r *Rsyslog) Start() {
	r.t.Helper()
	os.Remove(r.Socket)
	r.program = startProgram(r.t, "rsyslogd", "-n", "-f", r.conf, "-i", filepath.Join(r.dir, "pid"))
	Eventually(r.t, "rsyslogd listens", func() bool {
		c, err := net.Dial("tcp", r.TCP)
		if err == nil {
			c.Close()
			_, err = os.Stat(r.Socket)
		}
		return err == nil
	})
}

// Messages are all that came so far.
func (r *Rsyslog) Messages() (all []SyslogMessage) {
	r.t.Helper()
	data, _ := os.ReadFile(r.out)
	for line := range strings.Lines(string(data)) {
		var m SyslogMessage
		if err := json.Unmarshal([]byte(line), &m); err == nil { // the last one may be under way
			all = append(all, m)
		}
	}
	return all
}

// Await waits until a message has text in it.
func (r *Rsyslog) Await(text string) (found SyslogMessage) {
	r.t.Helper()
	Eventually(r.t, "rsyslogd gets "+text, func() bool {
		for _, m := range r.Messages() {
			if strings.Contains(m.Msg, text) {
				found = m
				return true
			}
		}
		return false
	})
	return found
}

// Journald is systemd's journal in a mount namespace of its own.
type Journald struct{ *program }

// journalScript hides what journald would use of the machine, and becomes journald.
const journalScript = `set -e
mount -t tmpfs tmpfs /run/systemd; mkdir /run/systemd/journal
mount -t tmpfs tmpfs /run/log; mount -t tmpfs tmpfs /var/log
[ -s /etc/machine-id ] || { echo 0123456789abcdef0123456789abcdef >/run/systemd/id; mount --bind /run/systemd/id /etc/machine-id; }
exec /lib/systemd/systemd-journald`

// NewJournald starts systemd-journald.
func NewJournald(t testing.TB) *Journald {
	t.Helper()
	NeedRoot(t)
	NeedTool(t, "journalctl")
	if _, err := os.Stat("/lib/systemd/systemd-journald"); err != nil {
		skip(t, "systemd-journald is missing (Debian package systemd)")
	}
	j := &Journald{startProgram(t, "unshare", "-m", "--propagation", "private", "sh", "-c", journalScript)}
	Eventually(t, "journald listens", func() bool {
		_, err := os.Stat("/proc/" + strconv.Itoa(j.cmd.Process.Pid) + "/root/run/systemd/journal/socket")
		name, _ := os.ReadFile("/proc/" + strconv.Itoa(j.cmd.Process.Pid) + "/comm")
		return err == nil && strings.HasPrefix(string(name), "systemd-journal")
	})
	return j
}

// Args is the command line that runs a command where the journal is the machine's.
func (j *Journald) Args(command ...string) []string {
	return append([]string{"nsenter", "--mount=/proc/" + strconv.Itoa(j.cmd.Process.Pid) + "/ns/mnt", "--"}, command...)
}

// Entries are those that match, as journalctl's fields.
func (j *Journald) Entries(matches ...string) (all []map[string]any) {
	j.t.Helper()
	argv := j.Args(append([]string{"journalctl", "-a", "--no-pager", "-o", "json", "-D", "/run/log/journal"}, matches...)...)
	out, err := exec.Command(argv[0], argv[1:]...).Output()
	if err != nil && len(out) > 0 {
		j.t.Fatalf("journalctl: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			j.t.Fatalf("%v: %q", err, line)
		}
		all = append(all, e)
	}
	return all
}

// Forward is a stand-in for fluentd, which Debian does not have: it takes the forward
// protocol, decoded by Python's msgpack, and acknowledges chunks.
type Forward struct {
	*program
	Address string // of TCP; empty: at Socket
	Socket  string
	args    []string
}

// ForwardRecord is one event.
type ForwardRecord struct {
	Tag    string
	Time   any // a number, or [seconds, nanoseconds]
	Record map[string]any
	Chunk  string
}

const forwardScript = `
import json, os, socket, ssl, struct, sys, threading, msgpack
address, cert, key = sys.argv[1:4]
if address.startswith("/"):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
else:
    host, port = address.rsplit(":", 1)
    listener = socket.create_server((host, int(port)))
listener.listen()
context = None
if cert:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
lock = threading.Lock()
def hook(code, data):
    assert code == 0 and len(data) == 8, (code, data)
    return list(struct.unpack(">II", data))
def serve(conn):
    if context: conn = context.wrap_socket(conn, server_side=True)
    unpacker = msgpack.Unpacker(raw=False, ext_hook=hook, strict_map_key=True)
    while True:
        data = conn.recv(65536)
        if not data: return
        unpacker.feed(data)
        for event in unpacker:
            tag, time, record = event[:3]
            option = event[3] if len(event) > 3 else {}
            with lock:
                print(json.dumps({"Tag": tag, "Time": time, "Record": record, "Chunk": option.get("chunk", "")}), flush=True)
            if "chunk" in option: conn.sendall(msgpack.packb({"ack": option["chunk"]}))
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
`

// NewForward starts the stand-in on a port, with TLS if there is a certificate, or on a
// unix socket.
func NewForward(t testing.TB, onSocket bool, c *Certificate) *Forward {
	t.Helper()
	const python = "/usr/bin/python3" // Debian's, whatever else is first in PATH
	NeedTool(t, python)
	if exec.Command(python, "-c", "import msgpack").Run() != nil {
		skip(t, "python3's msgpack is missing (Debian package python3-msgpack)")
	}
	f := &Forward{Address: "127.0.0.1:" + FreePort(t), program: &program{t: t}}
	at := f.Address
	if onSocket {
		f.Socket = filepath.Join(shortDir(t), "s")
		f.Address, at = "", f.Socket
	}
	f.args = []string{python, "-c", forwardScript, at, "", ""}
	if c != nil {
		f.args[4], f.args[5] = c.Cert, c.Key
	}
	f.Start()
	return f
}

// Start starts it again after a Stop; what came before is forgotten.
func (f *Forward) Start() {
	f.t.Helper()
	if f.Socket != "" {
		os.Remove(f.Socket)
	}
	f.program = startProgram(f.t, f.args...)
	Eventually(f.t, "the fluentd stand-in listens", func() bool { return strings.HasPrefix(f.said.String(), "ready") })
}

// Records are those that came so far.
func (f *Forward) Records() (all []ForwardRecord) {
	f.t.Helper()
	lines := bufio.NewScanner(strings.NewReader(f.said.String()))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r ForwardRecord
		if json.Unmarshal(lines.Bytes(), &r) == nil && r.Tag != "" {
			all = append(all, r)
		}
	}
	return all
}

// shortDir is a directory whose path is short enough for sockets.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
