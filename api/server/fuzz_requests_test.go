package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// blame checks what a request was answered: never with an error of ours, and every refusal
// is one JSON object with a message of one line.
func blame(t *testing.T, what string, w *httptest.ResponseRecorder) {
	t.Helper()
	if w.Code == http.StatusInternalServerError {
		t.Errorf("%s: %d %s", what, w.Code, w.Body)
	}
	if w.Code < 400 {
		return
	}
	var problem struct{ Message string }
	if err := json.Unmarshal(w.Body.Bytes(), &problem); err != nil || problem.Message == "" || strings.ContainsAny(problem.Message, "\r\n") {
		t.Errorf("%s: %d %q", what, w.Code, w.Body)
	}
}

// FuzzRequests asks any route anything.
func FuzzRequests(f *testing.F) {
	for i := range routes {
		f.Add(uint8(i), "web", "all=1&filters=%7B%22label%22%3A%5B%22a%22%5D%7D", `{}`, "e30=", uint8(15))
	}
	f.Add(uint8(10), "a/b", "t=x&signal=9&h=1&w=2&since=1.5&tail=-1&platform=linux", `{"Image":"x","HostConfig":null}`, "%%%", uint8(0))
	f.Fuzz(func(t *testing.T, row uint8, name, query, body, auth string, minor uint8) {
		e := routes[int(row)%len(routes)]
		for _, prefix := range []string{"/debug", "/distribution", "/berth/df"} {
			if strings.HasPrefix(e.pattern, prefix) || strings.Contains(query, "fromSrc") || name == "" {
				return // what profiles itself, asks the network, or needs a disk
			}
		}
		b := newBench(t)
		b.eng.attach = echo("")
		path := e.pattern
		for _, wild := range []string{"{id...}", "{name...}", "{id}", "{name}", "{verb}", "{checkpoint}"} {
			path = strings.ReplaceAll(path, wild, url.PathEscape(name))
		}
		version := "/v" + (oldest + minorOf(minor)).String()
		target, err := url.ParseRequestURI(version + path)
		if err != nil {
			return
		}
		target.RawQuery = query
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond) // some answers have no end of their own
		defer cancel()
		r := httptest.NewRequest(e.method, "/", strings.NewReader(body)).WithContext(ctx)
		r.URL = target
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Registry-Auth", auth)
		w := httptest.NewRecorder()
		func() {
			defer func() {
				if p := recover(); p != nil && p != http.ErrAbortHandler {
					panic(p)
				}
			}()
			b.ServeHTTP(w, r)
		}()
		if strings.Contains(w.Body.String(), "take over the connection") {
			return // a recorder has none
		}
		if e.method != "HEAD" {
			blame(t, e.method+" "+target.String(), w)
		}
	})
}

func minorOf(n uint8) version { return version(n) % (newest - oldest + 1) }

// FuzzCreateBody decodes the largest of all bodies.
func FuzzCreateBody(f *testing.F) {
	for _, s := range []string{
		`{"Image":"busybox","Cmd":["a"],"Env":["A=b"],"ExposedPorts":{"80/tcp":{}},"Healthcheck":{"Test":["NONE"]},"HostConfig":{"PortBindings":{"80/tcp":[{"HostIp":"::","HostPort":"1-2"}]},"Mounts":[{"Type":"tmpfs","Target":"/a"}],"Devices":[{"PathOnHost":"/dev/null"}],"Ulimits":[{"Name":"nofile"}],"LogConfig":{"Type":"x"}},"NetworkingConfig":{"EndpointsConfig":{"a":{"IPAMConfig":{"IPv4Address":"1.2.3.4"}}}}}`,
		`{"Image":1}`, `{"HostConfig":{"Binds":[null]}}`, `null`, `{"Entrypoint":"sh -c x","Cmd":"x"}`, `{"MacAddress":"zz","NetworkingConfig":{"EndpointsConfig":{"a":null}}}`,
	} {
		f.Add(s, uint8(1))
	}
	f.Fuzz(func(t *testing.T, body string, minor uint8) {
		b := newBench(t)
		blame(t, body, b.ask("POST", "/v"+(oldest+minorOf(minor)).String()+"/containers/create?name=x1", body))
	})
}

// FuzzVeil hides secrets in any answer and loses nothing else.
func FuzzVeil(f *testing.F) {
	f.Add(`{"Env":["A=b",1,null],"a":{"Options":{"o":"x"}}}`)
	f.Add(`[{"Env":{"Env":["SECRET=hunter2"]}}]`)
	f.Fuzz(func(t *testing.T, text string) {
		if !json.Valid([]byte(text)) {
			return
		}
		got, err := veil(json.RawMessage(text))
		if err != nil {
			return // an exponent that is too large, say
		}
		if data, err := json.Marshal(got); err != nil || len(data) == 0 {
			t.Errorf("%q: %s %v", text, data, err)
		}
	})
}

// FuzzWebSocketSession reads whatever a client sends after the handshake.
func FuzzWebSocketSession(f *testing.F) {
	f.Add([]byte{0x82, 0x83, 1, 2, 3, 4, 'a', 'b', 'c', 0x89, 0x80, 0, 0, 0, 0, 0x88, 0x80, 0, 0, 0, 0})
	f.Add([]byte{0x01, 0x81, 0, 0, 0, 0, 'x', 0x80, 0x81, 0, 0, 0, 0, 'y'})
	f.Fuzz(func(t *testing.T, data []byte) {
		client, server := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, client) }() // pongs
		defer client.Close()
		defer server.Close()
		var input bytes.Buffer
		ws := &webSocket{conn: server, r: bufio.NewReader(bytes.NewReader(data))}
		_ = ws.receive(&input)
		if input.Len() > len(data) {
			t.Errorf("%d bytes came out of %d", input.Len(), len(data))
		}
	})
}

// FuzzHijackHead sends any head of an upgrade to a real HTTP server, which must answer or hang up.
func FuzzHijackHead(f *testing.F) {
	f.Add("Connection: Upgrade\r\nUpgrade: tcp\r\n\r\ninput")
	f.Add("Content-Length: 3\r\n\r\nabcdef")
	f.Add("Transfer-Encoding: chunked\r\nUpgrade: tcp\r\n\r\n0\r\n\r\nx")
	f.Add("Upgrade: h2c\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
	f.Fuzz(func(t *testing.T, rest string) {
		b := newBench(t)
		b.eng.attach = echo("hello ")
		client, server := net.Pipe()
		l := &oneConn{conn: server, ended: make(chan struct{})}
		srv := &http.Server{Handler: b, ReadHeaderTimeout: time.Second}
		done := make(chan struct{})
		go func() { _ = srv.Serve(l); close(done) }()
		_ = client.SetDeadline(time.Now().Add(time.Second))
		go func() {
			_, _ = io.WriteString(client, "POST /v1.41/containers/web/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n"+rest)
		}()
		answer := make([]byte, 12)
		if n, err := io.ReadFull(client, answer); err == nil && !strings.HasPrefix(string(answer), "HTTP/1.") {
			t.Errorf("%q answered %q", rest, answer[:n])
		}
		client.Close()
		close(l.ended)
		<-done
		srv.Close()
	})
}

// oneConn is a listener of one connection.
type oneConn struct {
	conn  net.Conn
	ended chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.ended
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }
