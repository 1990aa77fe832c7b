package testkit

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Fault is one way in which a registry fails.
type Fault string

// The faults of FaultyRegistry. Those of the first group hit any request, those of the
// second answers with a body, those of the third uploads.
const (
	FaultReset        Fault = "connection reset before an answer"
	FaultStall        Fault = "no answer"
	FaultTooMany      Fault = "429 with Retry-After"
	FaultUnavailable  Fault = "503 with a date in Retry-After"
	FaultInternal     Fault = "500"
	FaultBadGateway   Fault = "502"
	FaultRedirectLoop Fault = "redirects without end"

	FaultResetInBody    Fault = "connection reset in the body"
	FaultStallInBody    Fault = "body stands still"
	FaultTruncated      Fault = "body ends early"
	FaultCorrupted      Fault = "body with wrong bytes"
	FaultLengthTooShort Fault = "Content-Length too small"
	FaultLengthTooLong  Fault = "Content-Length too large"
	FaultDrip           Fault = "body in drips"
	FaultWrongDigest    Fault = "wrong Docker-Content-Digest"
	FaultRangeIgnored   Fault = "range ignored"
	FaultRange416       Fault = "416 for a range"

	FaultUploadReset      Fault = "connection reset in an upload"
	FaultUploadStall      Fault = "upload stands still"
	FaultUploadAnswerLost Fault = "upload taken, answer lost"
)

// DownloadFaults and UploadFaults are all that can hit a pull, and a push.
var (
	DownloadFaults = []Fault{FaultReset, FaultStall, FaultTooMany, FaultUnavailable, FaultInternal, FaultBadGateway, FaultRedirectLoop,
		FaultResetInBody, FaultStallInBody, FaultTruncated, FaultCorrupted, FaultLengthTooShort, FaultLengthTooLong, FaultDrip,
		FaultWrongDigest, FaultRangeIgnored, FaultRange416}
	UploadFaults = []Fault{FaultReset, FaultStall, FaultTooMany, FaultUnavailable, FaultInternal, FaultBadGateway,
		FaultUploadReset, FaultUploadStall, FaultUploadAnswerLost}
)

// FaultyRegistry stands in front of a registry and lets requests fail. What befalls the
// n-th request for a path follows from the seed alone.
type FaultyRegistry struct {
	Addr     string
	upstream string
	seed     uint64

	mu     sync.Mutex // guards what follows
	faults []Fault
	times  int // how many requests for one path fail; -1: all
	hits   map[string]int
	log    []string
	ended  chan struct{}
}

// NewFaultyRegistry serves on loopback until the test ends.
func NewFaultyRegistry(t testing.TB, upstream string, seed uint64) *FaultyRegistry {
	t.Helper()
	f := &FaultyRegistry{upstream: upstream, seed: seed, hits: map[string]int{}, ended: make(chan struct{})}
	s := httptest.NewServer(f)
	t.Cleanup(func() {
		close(f.ended)
		s.CloseClientConnections()
		s.Close()
		if t.Failed() {
			t.Logf("seed %d, requests:\n%s", seed, strings.Join(f.Log(), "\n"))
		}
	})
	f.Addr = s.Listener.Addr().String()
	return f
}

// Fail has the first times requests for each path fail (-1: all) in one of these ways.
func (f *FaultyRegistry) Fail(times int, faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.times, f.faults, f.hits, f.log = times, faults, map[string]int{}, nil
}

// Log are the requests since Fail, with what befell them.
func (f *FaultyRegistry) Log() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.log...)
}

var session = regexp.MustCompile(`/uploads/[0-9a-f-]{36}`)

// choose decides what befalls a request. GET /v2/ is left alone: it tells nothing.
func (f *FaultyRegistry) choose(r *http.Request) (Fault, *rand.Rand) {
	path := r.Method + " " + session.ReplaceAllString(r.URL.Path, "/uploads/SESSION") + " " + r.URL.Query().Get("digest")
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.hits[path]
	f.hits[path]++
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d", strings.ReplaceAll(path, f.Addr, ""), n)
	random := rand.New(rand.NewPCG(f.seed, h.Sum64()))
	fault := Fault("")
	if r.URL.Path != "/v2/" && len(f.faults) > 0 && (f.times < 0 || n < f.times) {
		fault = f.faults[random.IntN(len(f.faults))]
	}
	f.log = append(f.log, fmt.Sprintf("%s range=%q %d bytes: %s", path, r.Header.Get("Range")+r.Header.Get("Content-Range"), r.ContentLength, fault))
	return fault, random
}

func (f *FaultyRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fault, random := f.choose(r)
	if r.URL.Query().Get("loop") != "" {
		fault = FaultRedirectLoop
	}
	upload := r.Method == http.MethodPut || r.Method == http.MethodPatch
	switch fault {
	case FaultReset:
		f.reset(w)
		return
	case FaultStall:
		f.stall(r)
		return
	case FaultTooMany:
		w.Header().Set("Retry-After", "0")
		http.Error(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}`, http.StatusTooManyRequests)
		return
	case FaultUnavailable:
		w.Header().Set("Retry-After", time.Now().UTC().Format(http.TimeFormat))
		http.Error(w, "later", http.StatusServiceUnavailable)
		return
	case FaultInternal:
		if upload && random.IntN(2) == 0 {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		http.Error(w, `{"errors":[{"code":"UNKNOWN","message":"unknown error"}]}`, http.StatusInternalServerError)
		return
	case FaultBadGateway:
		http.Error(w, "<html>bad\ngateway</html>", http.StatusBadGateway)
		return
	case FaultRedirectLoop:
		if !upload && r.Method != http.MethodPost {
			http.Redirect(w, r, r.URL.Path+"?loop=1", http.StatusTemporaryRedirect)
			return
		}
	case FaultRange416:
		if r.Header.Get("Range") != "" {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
	case FaultRangeIgnored:
		r.Header.Del("Range")
	case FaultUploadReset:
		if upload && r.ContentLength > 0 {
			_, _ = io.CopyN(io.Discard, r.Body, random.Int64N(r.ContentLength))
			f.reset(w)
			return
		}
	case FaultUploadStall:
		if upload && r.ContentLength > 0 {
			_, _ = io.CopyN(io.Discard, r.Body, random.Int64N(r.ContentLength))
			f.stall(r)
			return
		}
	}
	resp, err := f.forward(r)
	if err != nil {
		f.reset(w)
		return
	}
	defer resp.Body.Close()
	if upload && fault == FaultUploadAnswerLost {
		_, _ = io.Copy(io.Discard, resp.Body)
		f.reset(w)
		return
	}
	f.answer(w, r, resp, fault, random)
}

// forward asks the registry itself, in the client's name.
func (f *FaultyRegistry) forward(r *http.Request) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", f.upstream
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	}
	return http.DefaultTransport.RoundTrip(out)
}

// answer hands on what the registry said, damaged.
func (f *FaultyRegistry) answer(w http.ResponseWriter, r *http.Request, resp *http.Response, fault Fault, random *rand.Rand) {
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	if fault == FaultWrongDigest && resp.Header.Get("Docker-Content-Digest") != "" {
		w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("0f", 32))
	}
	var body []byte
	if r.Method == http.MethodGet {
		body, _ = io.ReadAll(resp.Body)
	}
	length := len(body)
	if length == 0 {
		w.WriteHeader(resp.StatusCode)
		return
	}
	at := random.IntN(length)
	switch fault {
	case FaultCorrupted:
		body[at] ^= byte(1 + random.IntN(255))
	case FaultLengthTooShort:
		length, body = at, body[:at]
	case FaultLengthTooLong:
		length += 1 + random.IntN(1000)
	case FaultResetInBody, FaultStallInBody, FaultTruncated:
		body = body[:at]
	case FaultDrip:
		f.drip(w, resp.StatusCode, body)
		return
	}
	conn, err := hijack(w)
	if err != nil {
		return
	}
	defer conn.Close()
	var head bytes.Buffer
	fmt.Fprintf(&head, "HTTP/1.1 %s\r\n", resp.Status)
	w.Header().Set("Content-Length", strconv.Itoa(length))
	w.Header().Set("Connection", "close")
	_ = w.Header().Write(&head)
	head.WriteString("\r\n")
	if _, err := conn.Write(append(head.Bytes(), body...)); err != nil {
		return
	}
	switch fault {
	case FaultResetInBody:
		_ = conn.(*net.TCPConn).SetLinger(0)
	case FaultStallInBody:
		f.hangOn(conn)
	}
}

// drip sends the beginning of a body byte by byte.
func (f *FaultyRegistry) drip(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	for i := range min(20, len(body)) {
		_, _ = w.Write(body[i : i+1])
		_ = http.NewResponseController(w).Flush()
		time.Sleep(time.Millisecond)
	}
	_, _ = w.Write(body[min(20, len(body)):])
}

func hijack(w http.ResponseWriter) (net.Conn, error) {
	conn, _, err := http.NewResponseController(w).Hijack()
	return conn, err
}

func (f *FaultyRegistry) reset(w http.ResponseWriter) {
	if conn, err := hijack(w); err == nil {
		_ = conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
}

// stall does nothing until the client has enough of it.
func (f *FaultyRegistry) stall(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-f.ended:
	}
	panic(http.ErrAbortHandler)
}

// hangOn keeps a connection until the other side closes it.
func (f *FaultyRegistry) hangOn(conn net.Conn) {
	closed := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, conn)
		close(closed)
	}()
	select {
	case <-closed:
	case <-f.ended:
		conn.Close()
		<-closed
	}
}
