package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// fakeEngine serves the Docker Engine API on a unix socket with answers of the test's making
// and keeps what it was asked.
type fakeEngine struct {
	socket   string
	mu       sync.Mutex
	requests []recorded
	routes   map[string]http.HandlerFunc // "GET /containers/json", version stripped
	version  string
}

type recorded struct {
	Method, Path, Query string
	Header              http.Header
	Body                []byte
}

var versionPrefix = regexp.MustCompile(`^/v\d+\.\d+`)

func newFakeEngine(t testing.TB, routes map[string]http.HandlerFunc) *fakeEngine {
	t.Helper()
	dir, err := os.MkdirTemp("", "bcli")
	if err != nil {
		t.Fatal(err)
	}
	e := &fakeEngine{socket: filepath.Join(dir, "s"), routes: routes, version: "1.50"}
	listener, err := net.Listen("unix", e.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: e}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		_ = os.RemoveAll(dir)
	})
	return e
}

func (e *fakeEngine) host() string { return "unix://" + e.socket }

func (e *fakeEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", e.version)
	w.Header().Set("Ostype", "linux")
	path := versionPrefix.ReplaceAllString(r.URL.Path, "")
	if path == "/_ping" {
		_, _ = io.WriteString(w, "OK")
		return
	}
	var body []byte
	if r.Header.Get("Upgrade") == "" || strings.HasPrefix(path, "/exec/") {
		body, _ = io.ReadAll(r.Body)
	}
	e.mu.Lock()
	e.requests = append(e.requests, recorded{r.Method, path, r.URL.RawQuery, r.Header.Clone(), body})
	e.mu.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	if handle, ok := e.routes[r.Method+" "+path]; ok {
		handle(w, r)
		return
	}
	for pattern, handle := range e.routes {
		if prefix, wild := strings.CutSuffix(pattern, "*"); wild && strings.HasPrefix(r.Method+" "+path, prefix) {
			handle(w, r)
			return
		}
	}
	refuse(404, "No such thing: "+path)(w, r)
}

// asked returns the requests whose method and path start with prefix, in order.
func (e *fakeEngine) asked(prefix string) []recorded {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []recorded
	for _, r := range e.requests {
		if strings.HasPrefix(r.Method+" "+r.Path, prefix) {
			found = append(found, r)
		}
	}
	return found
}

func answer(v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if text, ok := v.(string); ok {
			_, _ = io.WriteString(w, text)
			return
		}
		_ = json.NewEncoder(w).Encode(v)
	}
}

func refuse(code int, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// hijack upgrades the connection as the engine's attach and exec do, and gives it to talk.
func hijack(contentType string, talk func(conn net.Conn, in io.Reader)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 UPGRADED\r\nContent-Type: %s\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", contentType)
		talk(conn, buffered)
	}
}

// frame is one frame of the multiplexed stream: 1 is stdout, 2 is stderr.
func frame(stream byte, text string) []byte {
	n := len(text)
	return append([]byte{stream, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, text...)
}

// result is what one command line did.
type result struct {
	code     int
	out, err string
}

// berth runs a command line in this process against the fake engine.
func (e *fakeEngine) berth(t testing.TB, stdin string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	argv := append([]string{"berth", "-H", e.host()}, args...)
	code := run(argv, Streams{In: strings.NewReader(stdin), Out: &out, Err: &errs}, connectForTest)
	return result{code, out.String(), errs.String()}
}

// hang answers nothing until the client goes away.
func hang(asked chan<- struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		close(asked)
		<-r.Context().Done()
	}
}
