package server

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/engine"
	"berth/fail"
	"berth/images"
)

// serveUnix serves b on a real unix socket and returns its path.
func serveUnix(t *testing.T, b *bench) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: b}
	done := make(chan struct{})
	go func() { _ = srv.Serve(l); close(done) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return path
}

// raw sends a request by hand and returns the connection and a reader behind the head.
func raw(t *testing.T, path, request string) (net.Conn, *bufio.Reader, string) {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	var head strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("head %q: %v", head.String(), err)
		}
		if line == "\r\n" {
			return conn, r, head.String()
		}
		head.WriteString(line)
	}
}

// echo is an engine that gives a container's output and repeats its input, as a shim
// would on the connection it was handed.
func echo(greeting string) func(engine.AttachOptions, engine.Hijack) error {
	return func(_ engine.AttachOptions, hijack engine.Hijack) error {
		conn, prefix, err := hijack()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_, _ = io.WriteString(conn, greeting)
			_, _ = io.Copy(conn, io.MultiReader(bytes.NewReader(prefix), conn))
			_, _ = io.WriteString(conn, "end")
		}()
		return nil
	}
}

func TestAttachTakesTheConnectionOver(t *testing.T) {
	b := newBench(t)
	b.eng.attach = echo("hello ")
	path := serveUnix(t, b)
	for _, c := range []struct{ upgrade, container, version, status, ctype string }{
		{"Connection: Upgrade\nUpgrade: tcp\n", "web", "1.47", "HTTP/1.1 101 UPGRADED", "application/vnd.docker.multiplexed-stream"},
		{"Connection: Upgrade\nUpgrade: tcp\n", "web", "1.41", "HTTP/1.1 101 UPGRADED", "application/vnd.docker.raw-stream"},
		{"Connection: Upgrade\nUpgrade: tcp\n", "job", "1.47", "HTTP/1.1 101 UPGRADED", "application/vnd.docker.raw-stream"},
		{"", "web", "1.47", "HTTP/1.1 200 OK", "application/vnd.docker.multiplexed-stream"},
	} {
		// Input that is sent with the head must not be lost.
		conn, r, head := raw(t, path, fmt.Sprintf("POST /v%s/containers/%s/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\nHost: x\n%s\nearly ", c.version, c.container, c.upgrade))
		if !strings.HasPrefix(head, c.status+"\r\n") || !strings.Contains(head, "Content-Type: "+c.ctype+"\r\n") || !strings.Contains(head, "Api-Version: 1.55") {
			t.Errorf("head %q", head)
		}
		if _, err := io.WriteString(conn, "late "); err != nil {
			t.Fatal(err)
		}
		// The end of the client's input leaves the way back open.
		if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || string(got) != "hello early late end" {
			t.Errorf("%q %v", got, err)
		}
	}
}

func TestAttachErrorsBeforeTheTakeoverHaveAStatus(t *testing.T) {
	b := newBench(t)
	b.eng.attach = func(engine.AttachOptions, engine.Hijack) error {
		return fail.New(fail.Conflict, "You cannot attach to a paused container")
	}
	_, _, head := raw(t, serveUnix(t, b), "POST /containers/web/attach?stream=1 HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: tcp\n\n")
	if !strings.HasPrefix(head, "HTTP/1.1 409") {
		t.Errorf("head %q", head)
	}
}

func TestAttachOptionsAreRead(t *testing.T) {
	b := newBench(t)
	var got engine.AttachOptions
	b.eng.attach = func(o engine.AttachOptions, _ engine.Hijack) error {
		got = o
		return fail.New(fail.Conflict, "no")
	}
	b.ask("POST", "/containers/web/attach?stream=1&logs=1&stdin=0&stdout=true&stderr=1&detachKeys=ctrl-a", "")
	if got != (engine.AttachOptions{Stdout: true, Stderr: true, Stream: true, Replay: true, DetachKeys: "ctrl-a"}) {
		t.Errorf("%+v", got)
	}
}

func TestExecRuns(t *testing.T) {
	b := newBench(t)
	path := serveUnix(t, b)
	w := b.ask("POST", "/v1.47/containers/web/exec", `{"Cmd":["ls","-l"],"Env":["A=1"],"AttachStdout":true,"Tty":true,"ConsoleSize":[24,80],"User":"u","WorkingDir":"/w"}`)
	id := b.eng.exec.ID
	if w.Code != 201 || strings.TrimSpace(w.Body.String()) != `{"Id":"`+id+`"}` {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if r := b.eng.exec.Request; r.Rows != 24 || r.Cols != 80 || r.User != "u" || r.WorkingDir != "/w" || len(r.Cmd) != 2 || !r.Tty {
		t.Errorf("%+v", r)
	}
	body := `{"Detach":false,"Tty":true}`
	_, r, head := raw(t, path, fmt.Sprintf("POST /v1.47/exec/%s/start HTTP/1.1\nHost: x\nContent-Type: application/json\nConnection: Upgrade\nUpgrade: tcp\nContent-Length: %d\n\n%s", id, len(body), body))
	got, _ := io.ReadAll(r)
	if !strings.HasPrefix(head, "HTTP/1.1 101 UPGRADED\r\n") || string(got) != "out" {
		t.Errorf("%q %q", head, got)
	}
	if w := b.ask("POST", "/exec/"+id+"/start", `{"Detach":true}`); w.Code != 200 {
		t.Errorf("detached: %d %s", w.Code, w.Body)
	}
	w = b.ask("GET", "/exec/"+id+"/json", "")
	want := `{"ID":"` + id + `","Running":false,"ExitCode":null,"ProcessConfig":{"tty":true,"entrypoint":"ls","arguments":["-l"],"privileged":false,"user":"u"},"OpenStdin":false,"OpenStderr":false,"OpenStdout":true,"CanRemove":false,"ContainerID":"web","DetachKeys":"","Pid":0}`
	if strings.TrimSpace(w.Body.String()) != want {
		t.Errorf("inspect %s", w.Body)
	}
	for _, c := range []struct {
		path, body string
		status     int
	}{
		{"/containers/web/exec", `{"Cmd":[]}`, 400},
		{"/exec/none/start", `{}`, 404},
		{"/exec/" + id + "/start", `{"ConsoleSize":[1,1]}`, 400},
		{"/exec/" + id + "/resize?h=x&w=1", ``, 400},
		{"/exec/" + id + "/resize?h=24&w=80", ``, 200},
	} {
		if w := b.ask("POST", c.path, c.body); w.Code != c.status {
			t.Errorf("%s %s: %d %s", c.path, c.body, w.Code, w.Body)
		}
	}
}

func TestWebSocketAttach(t *testing.T) {
	b := newBench(t)
	b.eng.attach = echo("hi")
	path := serveUnix(t, b)
	// The handshake of RFC 6455, 1.3.
	conn, r, head := raw(t, path, "GET /containers/job/attach/ws?stream=1 HTTP/1.1\nHost: x\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n")
	if !strings.Contains(head, "101") || !strings.Contains(head, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n") {
		t.Fatalf("head %q", head)
	}
	if got := readMessage(t, r); got != "hi" {
		t.Fatalf("first %q", got)
	}
	mask := []byte{1, 2, 3, 4}
	frame := append([]byte{0x82, 0x80 | 3}, mask...)
	for i, c := range []byte("abc") {
		frame = append(frame, c^mask[i%4])
	}
	if _, err := conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	if got := readMessage(t, r); got != "abc" {
		t.Fatalf("echo %q", got)
	}
	if _, err := conn.Write([]byte{0x88, 0x80, 0, 0, 0, 0}); err != nil { // close
		t.Fatal(err)
	}
	if got := readMessage(t, r); got != "end" {
		t.Fatalf("after close %q", got)
	}
	if w := b.ask("GET", "/containers/job/attach/ws", ""); w.Code != 400 {
		t.Errorf("without handshake: %d", w.Code)
	}
}

// readMessage reads one short unmasked frame.
func readMessage(t *testing.T, r io.Reader) string {
	t.Helper()
	var h [2]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, h[1])
	if _, err := io.ReadFull(r, p); err != nil {
		t.Fatal(err)
	}
	return string(p)
}

func TestProgressIsToldWhileTheBodyIsComing(t *testing.T) {
	b := newBench(t)
	b.img.steps = []images.Step{{ID: "0123", Status: "Loading layer", Current: 1, Total: 2}}
	path := serveUnix(t, b)
	c := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}}
	body := strings.Repeat("x", 4<<20)
	resp, err := c.Post("http://x/images/load?quiet=0", "application/x-tar", io.MultiReader(strings.NewReader(body))) // chunked, as docker load sends it
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(got), "Loaded image") || b.img.loaded != body {
		t.Fatalf("%q %v, %d bytes came", got, err, len(b.img.loaded))
	}
	c.CloseIdleConnections()
}

func TestRelayPassesBothEnds(t *testing.T) {
	client, outer := net.Pipe()
	inner, err := relay(outer)
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	go func() { _, _ = io.WriteString(client, "in") }()
	buf := make([]byte, 2)
	if _, err := io.ReadFull(inner, buf); err != nil || string(buf) != "in" {
		t.Fatal(string(buf), err)
	}
	go func() { _, _ = io.WriteString(inner, "out"); inner.Close() }()
	if got, err := io.ReadAll(client); err != nil || string(got) != "out" {
		t.Fatal(string(got), err)
	}
}

// plain hides that a connection is a TCP socket, as TLS does.
type plain struct{ net.Conn }

func (p plain) CloseWrite() error { return p.Conn.(*net.TCPConn).CloseWrite() }

func TestRelayDeliversAllOutputToAClientThatStillSpeaks(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	outer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	inner, err := relay(plain{outer})
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan struct{})
	go func() { // a client that never stops
		defer close(said)
		for some := make([]byte, 64<<10); ; {
			if _, err := client.Write(some); err != nil {
				return
			}
		}
	}()
	const size = 8 << 20 // more than the sockets hold
	go func() {
		_, _ = inner.Write(make([]byte, size))
		inner.Close()
	}()
	time.Sleep(50 * time.Millisecond) // it is slow: what the relay has to say waits in sockets
	got, err := io.Copy(io.Discard, client)
	if err != nil || got != size {
		t.Errorf("%d bytes of %d came (%v)", got, size, err)
	}
	client.Close()
	<-said
}
