package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	mobyclient "github.com/moby/moby/client"

	"berth/fail"
)

// TestMain lets this binary play berthd: with BERTHD_PLAYS set it does what that says.
func TestMain(m *testing.M) {
	if role := os.Getenv("BERTHD_PLAYS"); role != "" {
		playEngine(role)
		return
	}
	os.Exit(m.Run())
}

// playEngine is a berthd of few words: it notes that it was started, and serves, fails
// or ends.
func playEngine(role string) {
	ready := os.NewFile(3, "ready")
	if f, err := os.OpenFile(os.Getenv("BERTHD_NOTES"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
		fmt.Fprintln(f, os.Getpid(), strings.Join(os.Args[1:], " "))
		f.Close()
	}
	switch role {
	case "fails":
		fmt.Fprintln(ready, "the disk is full")
		os.Exit(1)
	case "dies":
		os.Exit(1)
	}
	l, err := net.Listen("unix", os.Getenv("BERTHD_SOCKET"))
	if err != nil {
		fmt.Fprintln(ready, err)
		os.Exit(1)
	}
	fmt.Fprint(ready, Ready)
	ready.Close()
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Api-Version", "1.50")
			fmt.Fprint(w, "OK")
		}))
	}()
	// It ends with the test, whose directory it watches by this pipe.
	f, err := os.Open(os.Getenv("BERTHD_LIFE"))
	if err == nil {
		_, _ = io.Copy(io.Discard, f)
	}
	os.Exit(0)
}

// stage prepares a starter whose berthd plays role; notes tells who was started.
func stage(t *testing.T, role string) (s *starter, notes func() []string) {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	life := filepath.Join(dir, "life")
	if err := syscall.Mkfifo(life, 0o600); err != nil {
		t.Fatal(err)
	}
	hold, err := os.OpenFile(life, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hold.Close() })
	noteFile := filepath.Join(dir, "notes")
	s = &starter{socket: filepath.Join(dir, "run", "s"), execRoot: filepath.Join(dir, "run"), command: func() (string, error) { return self, nil }}
	for k, v := range map[string]string{"BERTHD_PLAYS": role, "BERTHD_NOTES": noteFile, "BERTHD_SOCKET": s.socket, "BERTHD_LIFE": life} {
		t.Setenv(k, v)
	}
	return s, func() []string {
		data, _ := os.ReadFile(noteFile)
		return strings.Split(strings.TrimSpace(string(data)), "\n")
	}
}

func TestOfManyClientsOneStartsTheEngine(t *testing.T) {
	s, notes := stage(t, "serves")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			c, err := mobyclient.New(mobyclient.WithHost("unix://"+s.socket), mobyclient.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) }))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if p, err := c.Ping(t.Context(), mobyclient.PingOptions{}); err != nil || p.APIVersion != "1.50" {
				t.Errorf("%+v %v", p, err)
			}
		})
	}
	wg.Wait()
	if n := notes(); len(n) != 1 || !strings.Contains(n[0], "--on-demand --ready-fd 3") {
		t.Fatalf("started: %q", n)
	}
}

func TestAFailedStartIsOneClearLine(t *testing.T) {
	s, _ := stage(t, "fails")
	if _, err := s.dial(t.Context()); !fail.Is(err, fail.Unavailable) || err.Error() != "the disk is full" {
		t.Fatal(err)
	}
	s, _ = stage(t, "dies")
	if _, err := s.dial(t.Context()); !fail.Is(err, fail.Unavailable) || !strings.Contains(err.Error(), "berthd ended before it was ready") {
		t.Fatal(err)
	}
	s.command = nil
	t.Setenv("PATH", "")
	if _, err := s.dial(t.Context()); !fail.Is(err, fail.Unavailable) || !strings.Contains(err.Error(), "berthd is neither") {
		t.Fatal(err)
	}
}

func TestAStartWaitsNoLongerThanItsCaller(t *testing.T) {
	s, _ := stage(t, "serves")
	if err := os.MkdirAll(s.execRoot, 0o700); err != nil {
		t.Fatal(err)
	}
	held, err := lockFile(t.Context(), filepath.Join(s.execRoot, "berthd.start.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.dial(ctx); err == nil {
		t.Fatal("started although another one holds the lock")
	}
}

func environment(t *testing.T, pairs ...string) func(string) string {
	t.Helper()
	m := map[string]string{"DOCKER_CONFIG": t.TempDir(), "XDG_RUNTIME_DIR": "/run/user/1000"}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(k string) string { return m[k] }
}

func TestTheEngineIsChosen(t *testing.T) {
	def := "unix://" + DefaultSocket(environment(t))
	for _, c := range []struct {
		name      string
		o         Options
		env       []string
		host      string
		autostart bool
	}{
		{"by default this user's own", Options{}, nil, def, true},
		{"the flag wins", Options{Host: "unix:///a"}, []string{"BERTH_HOST", "unix:///b", "DOCKER_HOST", "unix:///c"}, "unix:///a", false},
		{"then BERTH_HOST", Options{}, []string{"BERTH_HOST", "unix:///b", "DOCKER_HOST", "unix:///c"}, "unix:///b", false},
		{"then DOCKER_HOST", Options{}, []string{"DOCKER_HOST", "unix:///c"}, "unix:///c", false},
		{"the default socket by name", Options{Host: def}, nil, def, true},
		{"a path", Options{Host: "/x.sock"}, nil, "unix:///x.sock", false},
		{"a host without scheme", Options{Host: "box:1234"}, nil, "tcp://box:1234", false},
		{"tcp gets a port", Options{Host: "tcp://box"}, nil, "tcp://box:2375", false},
		{"tcp with TLS another one", Options{Host: "tcp://box", TLS: true}, nil, "tcp://box:2376", false},
		{"tcp on IPv6", Options{Host: "tcp://[::1]"}, nil, "tcp://[::1]:2375", false},
		{"ssh", Options{Host: "ssh://me@box"}, nil, "ssh://me@box", false},
		{"the default context", Options{Context: "default"}, nil, def, true},
		{"the default context is what the environment says", Options{Context: "default"}, []string{"DOCKER_HOST", "unix:///c"}, "unix:///c", false},
		{"a host beats DOCKER_CONTEXT", Options{}, []string{"DOCKER_HOST", "unix:///c", "DOCKER_CONTEXT", "nowhere"}, "unix:///c", false},
		{"TLS without a host is about the machine's TLS port", Options{}, []string{"DOCKER_TLS_VERIFY", "1"}, "tcp://localhost:2376", false},
		{"https is TLS", Options{Host: "https://box"}, nil, "tcp://box:2376", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := resolve(c.o, environment(t, c.env...))
			if err != nil || e.host != c.host || e.autostart != c.autostart {
				t.Errorf("%+v %v", e, err)
			}
		})
	}
	for _, o := range []Options{{Host: "gopher://x"}, {Host: "npipe:////./pipe/docker_engine"}, {Host: "fd://"}, {Host: "unix:///a", Context: "b"}, {Context: "nowhere"}} {
		if _, err := resolve(o, environment(t)); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

func TestContextsOfDockersStoreAreRead(t *testing.T) {
	env := environment(t)
	dir := env("DOCKER_CONFIG")
	sum := sha256.Sum256([]byte("far"))
	meta := filepath.Join(dir, "contexts", "meta", hex.EncodeToString(sum[:]))
	if err := os.MkdirAll(meta, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(meta, "meta.json"), `{"Name":"far","Metadata":{},"Endpoints":{"docker":{"Host":"tcp://far:1","SkipTLSVerify":false}}}`)
	if e, err := resolve(Options{Context: "far"}, env); err != nil || e.host != "tcp://far:1" || e.tls != nil {
		t.Fatalf("%+v %v", e, err)
	}
	write(filepath.Join(dir, "config.json"), `{"currentContext":"far","auths":{}}`)
	if e, err := resolve(Options{}, env); err != nil || e.host != "tcp://far:1" {
		t.Fatalf("current context: %+v %v", e, err)
	}
	write(filepath.Join(dir, "config.json"), `{`)
	if _, err := resolve(Options{}, env); !fail.Is(err, fail.Invalid) {
		t.Fatalf("a broken config.json: %v", err)
	}
}

func TestRootlessSocketsAreInTheUsersRuntimeDirectory(t *testing.T) {
	env := func(k string) string { return map[string]string{"XDG_RUNTIME_DIR": "/run/user/7"}[k] }
	for uid, want := range map[int]string{0: "/run/berth", 7: "/run/user/7/berth"} {
		if got := defaultExecRoot(env, uid); got != want {
			t.Errorf("%d: %s", uid, got)
		}
	}
	if got := defaultExecRoot(func(string) string { return "" }, 7); !strings.HasSuffix(got, "berth-"+strconv.Itoa(7)) {
		t.Error(got)
	}
}

func TestAUserWithoutAnEngineUsesTheMachines(t *testing.T) {
	env := environment(t, "XDG_RUNTIME_DIR", "/run/user/1000")
	const own = "/run/user/1000/berth/berth.sock"
	for name, c := range map[string]struct {
		uid     int
		there   []string
		foreign bool // the directory is somebody else's
		want    string
	}{
		"root":                           {0, nil, false, machineSocket},
		"nobody has an engine":           {1000, nil, false, own},
		"the machine has one":            {1000, []string{machineSocket}, false, machineSocket},
		"the user's own comes before it": {1000, []string{machineSocket, own}, false, own},
		"a stranger's does not":          {1000, []string{machineSocket, own}, true, machineSocket},
		"not even where it is the only":  {1000, []string{own}, true, machineSocket},
	} {
		if got := defaultSocket(env, c.uid, func(path string) bool { return slices.Contains(c.there, path) }, func(string) bool { return !c.foreign }); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestWhereSystemdHasOurUnitsItAloneStartsTheEngine(t *testing.T) {
	for name, c := range map[string]struct {
		dirs, files []string
		link        string
		want        bool
	}{
		"no systemd, but the unit": {[]string{"usr/lib/systemd/system"}, []string{"usr/lib/systemd/system/berthd.service"}, "", false},
		"systemd without the unit": {[]string{"run/systemd/system"}, nil, "", false},
		"both":                     {[]string{"run/systemd/system", "usr/lib/systemd/system"}, []string{"usr/lib/systemd/system/berthd.service"}, "", true},
		"what removal leaves":      {[]string{"run/systemd/system", "etc/systemd/system"}, nil, "etc/systemd/system/berthd.service", false},
		"masked":                   {[]string{"run/systemd/system", "etc/systemd/system", "lib/systemd/system"}, []string{"lib/systemd/system/berthd.service"}, "etc/systemd/system/berthd.service", true},
	} {
		root := t.TempDir()
		for _, d := range c.dirs {
			if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range c.files {
			if err := os.WriteFile(filepath.Join(root, f), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if c.link != "" {
			if err := os.Symlink("/dev/null", filepath.Join(root, c.link)); err != nil {
				t.Fatal(err)
			}
		}
		if got := systemdsOwn(root); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
