package test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/testkit"
)

// A semantic is something that Docker does, that its users rely on, and that no
// documentation of its API tells. Each has one test.
type semantic struct {
	name string
	// holds is the whole of it.
	holds string
	// differs says what Berth does instead on purpose, and why: the test asserts that.
	differs string
	test    func(*subject)
}

// TestSemantics asserts every line of what Docker does silently. With BERTH_TEST_AGAINST=docker
// the same sub-tests use the official client on Berth's engine, with BERTH_TEST_AGAINST=dockerd
// on Debian's dockerd, which proves the tests themselves.
func TestSemantics(t *testing.T) {
	s := newSubject(t)
	for _, group := range [][]semantic{volumeSemantics, processSemantics, lifeSemantics, streamSemantics, networkSemantics, imageSemantics, apiSemantics} {
		for _, line := range group {
			t.Run(line.name, func(t *testing.T) {
				if line.differs != "" && s.dockerd() {
					t.Skip("Berth differs: " + line.differs)
				}
				t.Parallel()
				line.test(s.in(t))
			})
		}
	}
}

// subject is an engine and a client that are asked.
type subject struct {
	*testing.T
	e *testkit.Engine // nil: it is d
	d *testkit.Peer   // Debian's dockerd
	h *testkit.Host   // the machine that d is on

	official bool // the client is docker's
}

func newSubject(t *testing.T) *subject {
	s := &subject{T: t}
	switch against := os.Getenv("BERTH_TEST_AGAINST"); against {
	case "", "docker":
		s.official = against != ""
		s.e = testkit.StartEngine(t, testkit.EngineOptions{})
	case "dockerd":
		s.official = true
		s.h = testkit.NewHost(t)
		s.d = testkit.DockerdOn(t, s.h)
		t.Cleanup(func() { // its containers would outlive it otherwise
			for _, id := range strings.Fields(s.d.Do("ps", "-aq").Stdout) {
				s.d.Do("rm", "-f", id)
			}
		})
	default:
		t.Fatalf("BERTH_TEST_AGAINST=%s: docker or dockerd is needed", against)
	}
	s.must("import", "--change", `CMD ["sh"]`, testkit.BusyboxTar(t), "busybox:latest")
	return s
}

// in is the same engine for a sub-test.
func (s *subject) in(t *testing.T) *subject {
	of := *s
	of.T = t
	if s.e != nil {
		of.e = s.e.For(t)
	} else {
		of.d = s.d.For(t)
	}
	return &of
}

func (s *subject) dockerd() bool { return s.d != nil }

// do runs a command line to its end.
func (s *subject) do(args ...string) testkit.Result {
	s.Helper()
	switch {
	case s.d != nil:
		return s.d.Do(args...)
	case s.official:
		return s.e.Docker(args...)
	}
	return s.e.Berth(args...)
}

// must is do that has to succeed; it returns standard output without its last newline.
func (s *subject) must(args ...string) string {
	s.Helper()
	r := s.do(args...)
	if r.Code != 0 {
		s.Fatalf("%s: exit %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// ends asserts how a command line ends: its exit code, and what it says on standard error.
func (s *subject) ends(code int, says string, args ...string) testkit.Result {
	s.Helper()
	r := s.do(args...)
	if r.Code != code || !regexp.MustCompile(says).MatchString(r.Stderr) {
		s.Errorf("%s: exit %d, want %d\nstdout: %s\nstderr: %s\nwant: %s", strings.Join(args, " "), r.Code, code, r.Stdout, r.Stderr, says)
	}
	return r
}

// says asserts the whole standard output of a command line that succeeds, but for its last newline.
func (s *subject) says(want string, args ...string) {
	s.Helper()
	if got := s.must(args...); got != want {
		s.Errorf("%s\n got: %q\nwant: %q", strings.Join(args, " "), got, want)
	}
}

// looks is says for a pattern.
func (s *subject) looks(pattern string, args ...string) {
	s.Helper()
	if got := s.must(args...); !regexp.MustCompile(pattern).MatchString(got) {
		s.Errorf("%s\n got: %q\nwant: %s", strings.Join(args, " "), got, pattern)
	}
}

func (s *subject) eventually(what string, ok func() bool) {
	s.Helper()
	testkit.Eventually(s.T, what, ok)
}

// command is a command line that has not been started.
func (s *subject) command(args ...string) *exec.Cmd {
	s.Helper()
	if s.d != nil {
		return s.d.Command(args...)
	}
	program := filepath.Join(s.e.Bin, "berth")
	if s.official {
		program = testkit.DockerCLI(s.T)
	}
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Dir = s.e.Env(), s.e.Dir
	return cmd
}

// running is a client that has been started.
type running struct {
	*subject
	cmd       *exec.Cmd
	line      *testkit.Line
	in        io.WriteCloser
	out, errs lockedText
	ended     chan struct{}
}

// begin starts a command line whose input stays open.
func (s *subject) begin(args ...string) *running {
	s.Helper()
	r := &running{subject: s, cmd: s.command(args...), ended: make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.errs
	var err error
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		s.Fatal(err)
	}
	r.line = testkit.NoteLine(s.T, r.cmd.Path, args)
	if err := r.cmd.Start(); err != nil {
		s.Fatal(err)
	}
	go func() { _ = r.cmd.Wait(); close(r.ended) }()
	s.Cleanup(func() { _ = r.cmd.Process.Kill(); <-r.ended })
	return r
}

// end waits for the end and returns the exit code.
func (r *running) end() int {
	r.Helper()
	select {
	case <-r.ended:
	case <-time.After(60 * time.Second):
		r.Fatalf("%s does not end\nstdout: %s\nstderr: %s", strings.Join(r.cmd.Args, " "), r.out.String(), r.errs.String())
	}
	r.line.Code = r.cmd.ProcessState.ExitCode()
	return r.line.Code
}

// terminal runs a command line on a terminal.
func (s *subject) terminal(args ...string) *testkit.Terminal {
	s.Helper()
	cmd := s.command(args...)
	return testkit.OnTerminal(s.T, append(slices.Clone(cmd.Env), "TERM=xterm"), cmd.Args[0], cmd.Args[1:]...)
}

func (s *subject) socket() string {
	if s.d != nil {
		return strings.TrimPrefix(s.d.Host, "unix://")
	}
	return strings.TrimPrefix(s.e.Host, "unix://")
}

// dial connects to an address of the machine that the engine is on.
func (s *subject) dial(network, address string) (net.Conn, error) {
	if s.h != nil {
		return s.h.Dial(network, address, 5*time.Second)
	}
	return net.DialTimeout(network, address, 5*time.Second)
}

// answer is what the API says.
type answer struct {
	status  int
	header  http.Header
	body    string
	message string // of an error
}

// api makes a request; a body without another type is JSON.
func (s *subject) api(method, path, body string, header ...string) answer {
	s.Helper()
	resp := s.open(s.Context(), method, path, body, header...)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(data)}
	var said struct{ Message string }
	if json.Unmarshal(data, &said) == nil {
		a.message = said.Message
	}
	return a
}

// open is api whose answer is still to be read.
func (s *subject) open(ctx context.Context, method, path, body string, header ...string) *http.Response {
	s.Helper()
	web := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.socket())
	}}}
	req, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Del(name)
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	resp, err := web.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	return resp
}

// file writes a file of the host's and returns its path.
func (s *subject) file(name, text string) string {
	s.Helper()
	path := filepath.Join(s.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.Fatal(err)
	}
	return path
}

// image makes an image: busybox with what a script has changed, and with Dockerfile
// instructions on top.
func (s *subject) image(name, script string, changes ...string) {
	s.Helper()
	id := s.must("run", "-d", "--network", "none", "busybox", "sh", "-c", script)
	s.says("0", "wait", id)
	args := []string{"commit", "-c", `CMD ["sh"]`}
	for _, c := range changes {
		args = append(args, "-c", c)
	}
	s.must(append(args, id, name)...)
	s.must("rm", id)
}

// inspect is one field of an object.
func (s *subject) inspect(name, format string) string {
	s.Helper()
	return s.must("inspect", "-f", format, name)
}

// lockedText is what a child has written so far.
type lockedText struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *lockedText) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedText) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// shortDir is a directory whose path is short enough for a socket's.
func (s *subject) shortDir() string {
	s.Helper()
	dir, err := os.MkdirTemp("", "bs")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// event is one of the engine's.
type event struct {
	Type, Action string
	Actor        struct {
		ID         string
		Attributes map[string]string
	}
	TimeNano int64
}

// listener hears the events of one container.
type listener struct {
	*subject
	mu   sync.Mutex
	seen []event // guarded by mu
}

// events begins to listen to what is told of a container.
func (s *subject) events(container string) *listener {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Context())
	filters, err := json.Marshal(map[string][]string{"container": {container}, "type": {"container"}})
	if err != nil {
		s.Fatal(err)
	}
	resp := s.open(ctx, "GET", "/events?filters="+url.QueryEscape(string(filters)), "")
	all, over := &listener{subject: s}, make(chan struct{})
	go func() {
		defer close(over)
		defer resp.Body.Close()
		for d := json.NewDecoder(resp.Body); ; {
			var e event
			if d.Decode(&e) != nil {
				return
			}
			all.mu.Lock()
			all.seen = append(all.seen, e)
			all.mu.Unlock()
		}
	}()
	s.Cleanup(func() { cancel(); <-over })
	return all
}

func (e *listener) all() []event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.seen)
}

func (e *listener) actions() (names []string) {
	for _, one := range e.all() {
		names = append(names, one.Action)
	}
	return names
}

// await waits until an action has been told.
func (e *listener) await(action string) {
	e.Helper()
	e.eventually(action+" is told", func() bool { return slices.Contains(e.actions(), action) })
}
