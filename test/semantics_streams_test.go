package test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"

	"berth/testkit"
)

var streamSemantics = []semantic{
	{
		name:  "logs of all runs",
		holds: "logs of all runs of a container accumulate (start again => both runs); -n/--tail counts lines over stdout+stderr; invalid or negative tail means all; a last line without newline stays without newline",
		test:  logsOfAllRuns,
	},
	{
		name:  "attach shows what comes, not what was",
		holds: "attach has no replay (only new output); logs=1 API replays; attach to stopped errors; stdout/stderr framing 8-byte header only if Tty=false",
		test:  attaching,
	},
	{
		name:  "-t is one stream of a terminal",
		holds: `-t merges stderr into stdout, turns \n into \r\n and sets TERM=xterm; -it with piped stdin: "the input device is not a TTY", exit 1`,
		test:  terminals,
	},
	{
		name:  "the order of run's requests",
		holds: "docker run order: create, attach (hijack), wait(next-exit | removed), start, resize; registering wait after start loses fast exits",
		test:  orderOfRun,
	},
	{
		name:  "run passes signals on and closes stdin",
		holds: "SIGINT/TERM to docker run client are proxied (sig-proxy) and the client exits with the container status; without -i stdin is closed at once",
		test:  proxiedSignals,
	},
	{
		name:  "detaching by keys",
		holds: "detach ctrl-p ctrl-q only with tty stdin; buffered first key; exit 0 of client and container keeps running",
		test:  detaching,
	},
	{
		name:    "json-file rotates",
		holds:   "json-file never rotates by default; max-size rotates and logs -f follows across files; partial lines >16 KiB are split",
		differs: "logs are rotated by default, so that no container fills the disk",
		test:    rotation,
	},
}

func logsOfAllRuns(s *subject) {
	// Each line waits until the one before it, of the other stream, is in the log.
	const wait = "until [ -e /go ]; do sleep 0.05; done; rm /go; "
	s.must("create", "--name", "runs", "busybox", "sh", "-c", "echo out; "+wait+"echo err >&2; "+wait+"printf end")
	for n := range 2 {
		s.must("start", "runs")
		for _, line := range []string{"out", "err"} {
			s.eventually(line+" is in the log", func() bool { r := s.do("logs", "runs"); return strings.Count(r.Stdout+r.Stderr, line) == n+1 })
			s.must("exec", "runs", "touch", "/go")
		}
		s.must("wait", "runs")
	}
	r := s.do("logs", "runs")
	if r.Stdout != "out\nendout\nend" || r.Stderr != "err\nerr\n" {
		s.Errorf("logs of two runs: %q, %q", r.Stdout, r.Stderr)
	}
	for _, all := range []string{"-5", "nonsense", "all"} {
		if r := s.do("logs", "--tail", all, "runs"); r.Code != 0 || r.Stdout != "out\nendout\nend" || r.Stderr != "err\nerr\n" {
			s.Errorf("logs --tail %s: %d, %q, %q", all, r.Code, r.Stdout, r.Stderr)
		}
	}
	for n, want := range map[string]testkit.Result{"0": {}, "1": {Stdout: "end"}, "2": {Stdout: "end", Stderr: "err\n"}, "3": {Stdout: "out\nend", Stderr: "err\n"}} {
		if r := s.do("logs", "-n", n, "runs"); r != want {
			s.Errorf("logs -n %s: %+v", n, r)
		}
	}
	s.must("rm", "runs")
}

// frames are the parts of a multiplexed stream: its kind and its payload.
func frames(data []byte) (out []string, ok bool) {
	for len(data) > 0 {
		if len(data) < 8 || data[0] > 2 || !bytes.Equal(data[1:4], []byte{0, 0, 0}) {
			return out, false
		}
		size := int(binary.BigEndian.Uint32(data[4:]))
		if len(data) < 8+size {
			return out, false
		}
		out = append(out, fmt.Sprintf("%d:%s", data[0], data[8:8+size]))
		data = data[8+size:]
	}
	return out, true
}

func attaching(s *subject) {
	for _, tty := range []bool{false, true} {
		name := fmt.Sprintf("attach-%v", tty)
		s.must("run", "-d", fmt.Sprintf("--tty=%v", tty), "--name", name, "busybox", "sh", "-c", "echo before; until [ -e /go ]; do sleep 0.05; done; echo after")
		s.awaitLog(name, "before")
		resp := s.open(s.Context(), "POST", "/containers/"+name+"/attach?stream=1&stdout=1&stderr=1", "")
		replay := s.open(s.Context(), "POST", "/containers/"+name+"/attach?stream=1&logs=1&stdout=1&stderr=1", "")
		s.must("exec", name, "touch", "/go")
		for _, a := range []struct {
			resp *http.Response
			want []string
		}{{resp, []string{"1:after\n"}}, {replay, []string{"1:before\n", "1:after\n"}}} {
			got, err := io.ReadAll(a.resp.Body)
			a.resp.Body.Close()
			if err != nil {
				s.Fatal(err)
			}
			if tty {
				if want := strings.ReplaceAll(strings.ReplaceAll(strings.Join(a.want, ""), "1:", ""), "\n", "\r\n"); string(got) != want {
					s.Errorf("attach with a terminal: %q, want %q", got, want)
				}
			} else if parts, ok := frames(got); !ok || !slices.Equal(parts, a.want) {
				s.Errorf("attach: %q, want frames %q", got, a.want)
			}
		}
		s.awaitStatus(name, "exited")
		s.ends(1, `cannot attach to a stopped container, start it first`, "attach", name)
		s.must("rm", name)
	}
}

func terminals(s *subject) {
	r := s.ends(0, "^$", "run", "--rm", "-t", "busybox", "sh", "-c", "echo out; echo err >&2; echo $TERM")
	if r.Stdout != "out\r\nerr\r\nxterm\r\n" {
		s.Errorf("run -t says %q", r.Stdout)
	}
	s.ends(1, `the input device is not a TTY`, "run", "--rm", "-it", "busybox", "true")
	s.must("run", "-d", "--name", "noterminal", "busybox", "sleep", "1000")
	s.ends(1, `the input device is not a TTY`, "exec", "-it", "noterminal", "true")
	s.must("rm", "-f", "noterminal")
}

// wire stands between a client and an engine, and notes the requests in their order.
type wire struct {
	host string

	mu   sync.Mutex
	seen []string // guarded by mu
}

func (s *subject) wire() *wire {
	s.Helper()
	dir := s.shortDir()
	w := &wire{host: "unix://" + filepath.Join(dir, "s")}
	target, socket := &url.URL{Scheme: "http", Host: "engine"}, s.socket()
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	proxy.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		s.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		path := regexp.MustCompile(`^/v1\.\d+`).ReplaceAllString(r.URL.Path, "")
		w.mu.Lock()
		w.seen = append(w.seen, r.Method+" "+regexp.MustCompile(`[0-9a-f]{64}`).ReplaceAllString(path, "ID")+" "+r.URL.RawQuery)
		w.mu.Unlock()
		proxy.ServeHTTP(rw, r)
	})}
	go func() { _ = server.Serve(l) }()
	s.Cleanup(func() { _ = server.Close() })
	return w
}

func (w *wire) requests() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

// by is a client that goes through w.
func (w *wire) by(cmd *exec.Cmd) *exec.Cmd {
	if i := slices.Index(cmd.Args, "-H"); i > 0 {
		cmd.Args[i+1] = w.host
	}
	cmd.Env = append(cmd.Env, "DOCKER_HOST="+w.host)
	return cmd
}

func orderOfRun(s *subject) {
	for _, c := range []struct{ flag, condition string }{{"--rm=false", "next-exit"}, {"--rm", "removed"}} {
		w := s.wire()
		cmd := w.by(s.command("run", c.flag, "-it", "busybox", "sh", "-c", "exit 3"))
		p := testkit.OnTerminal(s.T, append(cmd.Env, "TERM=xterm"), cmd.Args[0], cmd.Args[1:]...)
		if code := p.Exit(); code != 3 {
			s.Errorf("run %s ends with %d", c.flag, code)
		}
		requests := w.requests()
		at := func(request string) int {
			return slices.IndexFunc(requests, func(r string) bool { return strings.HasPrefix(r, request) })
		}
		create, attach, wait, start, resize := at("POST /containers/create "), at("POST /containers/ID/attach "), at("POST /containers/ID/wait condition="+c.condition), at("POST /containers/ID/start "), at("POST /containers/ID/resize ")
		// Attaching and waiting go side by side.
		if create < 0 || attach < create || wait < create || start < attach || start < wait || resize >= 0 && resize < start {
			s.Errorf("run %s:\n%s", c.flag, strings.Join(requests, "\n"))
		}
	}
	for range 10 {
		s.ends(4, "^$", "run", "--network", "none", "--rm", "busybox", "sh", "-c", "exit 4")
	}
}

func proxiedSignals(s *subject) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		r := s.begin("run", "--rm", "busybox", "sh", "-c", `trap "echo INT; exit 8" INT; trap "echo TERM; exit 9" TERM; echo ready; while :; do sleep 0.05; done`)
		s.eventually("it is ready", func() bool { return strings.Contains(r.out.String(), "ready") })
		if err := r.cmd.Process.Signal(sig); err != nil {
			s.Fatal(err)
		}
		want, word := 8, "INT"
		if sig == syscall.SIGTERM {
			want, word = 9, "TERM"
		}
		if code := r.end(); code != want || !strings.Contains(r.out.String(), word) {
			s.Errorf("%v: exit %d, %q %q", sig, code, r.out.String(), r.errs.String())
		}
	}
	r := s.begin("run", "--rm", "busybox", "sh", "-c", "cat; echo end of input")
	if code := r.end(); code != 0 || r.out.String() != "end of input\n" { // r.in is open still
		s.Errorf("without -i: %d, %q", code, r.out.String())
	}
}

func detaching(s *subject) {
	p := s.terminal("run", "-it", "--name", "detached", "busybox", "cat")
	p.Type("hello\r")
	p.Expect("hello\r\nhello")
	p.Type("\x10x\r") // the first key alone is given to the container together with what follows
	p.Expect("x")
	p.Type("\x10")
	p.Type("\x11")
	if code := p.Exit(); code != 0 {
		s.Errorf("detached: exit %d", code)
	}
	s.says("true", "inspect", "-f", "{{.State.Running}}", "detached")
	s.must("rm", "-f", "detached")

	// Without a terminal the keys are bytes like others.
	r := s.begin("run", "-i", "--rm", "busybox", "od", "-An", "-tx1")
	if _, err := r.in.Write([]byte("\x10\x11")); err != nil {
		s.Fatal(err)
	}
	r.in.Close()
	if code := r.end(); code != 0 || strings.TrimSpace(r.out.String()) != "10 11" {
		s.Errorf("keys on a pipe: exit %d, %q", code, r.out.String())
	}
}

func rotation(s *subject) {
	var all []string
	for i := range 600 {
		all = append(all, fmt.Sprintf("line %d\n", i))
	}
	const write = "until [ -e /go ]; do sleep 0.05; done; i=0; while [ $i -lt 600 ]; do echo line $i; usleep 500; i=$((i+1)); done"
	start := func(name, files string) {
		s.must("run", "-d", "--name", name, "--log-opt", "max-size=10k", "--log-opt", "max-file="+files, "busybox", "sh", "-c", write)
	}
	start("rotated", "20") // so many that a slow reader misses none
	follow := s.begin("logs", "-f", "rotated")
	s.must("exec", "rotated", "touch", "/go")
	if code := follow.end(); code != 0 {
		s.Errorf("logs -f ends with %d: %s", code, follow.errs.String())
	}
	if got := follow.out.String(); got != strings.Join(all, "") {
		s.Errorf("logs -f over rotations has %d lines of 600", strings.Count(got, "\n"))
	}
	start("rotatedaway", "2")
	s.must("exec", "rotatedaway", "touch", "/go")
	s.must("wait", "rotatedaway")
	kept := s.do("logs", "rotatedaway").Stdout
	if n := strings.Count(kept, "\n"); n < 50 || n > 400 || kept != strings.Join(all[600-n:], "") {
		s.Errorf("what is kept are %d lines:\n%s", n, kept)
	}
	s.must("rm", "rotated", "rotatedaway")

	s.must("run", "-d", "--name", "big", "busybox", "sh", "-c", "head -c 11000000 /dev/zero | tr '\\0' x | fold -w 999; echo; echo the end")
	s.must("wait", "big")
	if _, err := os.Stat(s.inspect("big", "{{.LogPath}}") + ".1"); err != nil {
		s.Errorf("11 MB without max-size are in one file: %v", err)
	}
	s.says("the end", "logs", "--tail", "1", "big")
	s.must("rm", "big")

	s.must("run", "-d", "--name", "long", "busybox", "sh", "-c", "head -c 40000 /dev/zero | tr '\\0' x; echo")
	s.must("wait", "long")
	resp := s.open(s.Context(), "GET", "/containers/long/logs?stdout=1", "")
	data, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		s.Fatal(err)
	}
	parts, ok := frames(data)
	var sizes []int
	for _, part := range parts {
		sizes = append(sizes, len(part)-2)
	}
	if !ok || !slices.Equal(sizes, []int{16384, 16384, 7233}) {
		s.Errorf("a line of 40,001 bytes comes in frames of %v", sizes)
	}
	s.must("rm", "long")
}
