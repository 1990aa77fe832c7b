package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"berth/testkit"
)

// file writes a file below a directory of its own.
func file(t *testing.T, text string, path ...string) {
	t.Helper()
	name := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, name, text)
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Certificates come, change and go while the engine runs.
func TestRegistriesWithCertificates(t *testing.T) {
	hosts := t.TempDir()
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--registry-hosts-dir=" + hosts, "--max-download-attempts=1"}})
	e.Busybox()
	ca := testkit.NewAuthority(t)
	server, client, old := ca.Issue(time.Hour, "127.0.0.1"), ca.Issue(time.Hour), ca.Issue(-time.Hour, "127.0.0.1")
	reg := testkit.Registry(t, testkit.RegistryOptions{TLS: &server, ClientCA: ca.Cert})
	ref := reg.Addr + "/box:1"
	e.Must("tag", "busybox", ref)
	refused(t, e.Berth("push", ref), 1, `the registry asks for a client certificate`)
	file(t, content(t, testkit.NewAuthority(t).Cert), hosts, reg.Addr, "ca.crt")
	file(t, content(t, client.Cert), hosts, reg.Addr, "client.cert")
	file(t, content(t, client.Key), hosts, reg.Addr, "client.key")
	refused(t, e.Berth("push", ref), 1, `signed by unknown authority.*insecure-registries`)
	file(t, content(t, ca.Cert), hosts, reg.Addr, "ca.crt")
	e.Must("push", ref)
	e.Must("rmi", ref)
	e.Must("pull", ref)
	file(t, content(t, old.Cert), hosts, reg.Addr, "client.cert")
	refused(t, e.Berth("pull", ref), 1, `client certificate for .*private key does not match public key`)
	file(t, content(t, old.Key), hosts, reg.Addr, "client.key")
	refused(t, e.Berth("pull", ref), 1, `certificate`)

	expired := testkit.Registry(t, testkit.RegistryOptions{TLS: &old})
	file(t, content(t, ca.Cert), hosts, expired.Addr, "ca.crt")
	refused(t, e.Berth("pull", expired.Addr+"/box:1"), 1, `certificate has expired or is not yet valid`)
	file(t, "skip_verify = true\n", hosts, expired.Addr, "hosts.toml")
	refused(t, e.Berth("pull", expired.Addr+"/box:1"), 1, `not found`)
	file(t, "skip_verify = maybe\n", hosts, expired.Addr, "hosts.toml")
	refused(t, e.Berth("pull", expired.Addr+"/box:1"), 1, `hosts.toml: line 1: `)
}

// Names of registries that nobody could reach are served by mirrors, of a hosts.toml or of
// daemon.json.
func TestMirrorsStandInForTheirRegistries(t *testing.T) {
	reg, img := layeredImage(t)
	reg.PushImage("library/hub:1", noisyTar(t, "h", 5, 1000))
	gone := testkit.Registry(t, testkit.RegistryOptions{})
	gone.Stop()
	hosts := t.TempDir()
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--registry-hosts-dir=" + hosts, "--max-download-attempts=1"}})
	refused(t, e.Berth("pull", "127.0.0.1:1/box:1"), 1, `connection refused`)
	file(t, fmt.Sprintf("[host.'http://%s']\n[host.'http://%s']\ncapabilities = ['pull', 'resolve']\n", gone.Addr, reg.Addr), hosts, "127.0.0.1:1", "hosts.toml")
	e.Must("pull", "127.0.0.1:1/box:1")
	if got := e.Must("image", "inspect", "-f", "{{.Id}} {{.RepoDigests}}", "127.0.0.1:1/box:1"); got != img.ID+" [127.0.0.1:1/box@"+img.Digest+"]" {
		t.Errorf("got %s", got)
	}

	write(t, filepath.Join(e.Dir, "daemon.json"), fmt.Sprintf(`{"registry-mirrors":["http://%s","http://%s"]}`, gone.Addr, reg.Addr))
	if err := syscall.Kill(e.Pid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the mirrors are told", func() bool { return strings.Contains(e.Berth("info").Stdout, reg.Addr) })
	e.Must("pull", "hub:1")
	if got := e.Must("image", "inspect", "-f", "{{.RepoTags}}", "hub:1"); got != "[hub:1]" {
		t.Errorf("got %s", got)
	}
}

// tokens is a registry behind a token server that gives identity tokens.
type tokens struct {
	*httptest.Server
	upstream string
	mu       sync.Mutex
	grants   []string
}

func newTokens(t *testing.T, upstream string) *tokens {
	s := &tokens{upstream: upstream}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *tokens) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		_ = r.ParseForm()
		user, password, basic := r.BasicAuth()
		grant := "anonymous"
		switch {
		case r.Form.Get("refresh_token") == "identity-of-ann":
			grant = "refresh"
		case basic && user == "ann" && password == "s3cret":
			grant = "password"
		case basic || r.Form.Get("refresh_token") != "":
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"details":"incorrect username or password"}`)
			return
		}
		s.mu.Lock()
		s.grants = append(s.grants, r.Method+" "+grant)
		s.mu.Unlock()
		answer := map[string]any{"token": grant, "access_token": grant, "expires_in": 300}
		if r.Form.Get("offline_token") == "true" && grant == "password" {
			answer["refresh_token"] = "identity-of-ann"
		}
		_ = json.NewEncoder(w).Encode(answer)
		return
	}
	if token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "); token != "password" && token != "refresh" {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test",scope="repository:box:pull"`, r.Host))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	out := r.Clone(r.Context())
	out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", s.upstream
	out.Header.Del("Authorization")
	resp, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

func TestLoginKeepsAnIdentityTokenInAHelper(t *testing.T) {
	reg, _ := layeredImage(t)
	s := newTokens(t, reg.Addr)
	host := s.Listener.Addr().String()
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	// A helper that keeps what it is given in a file.
	store := filepath.Join(e.Dir, "kept")
	file(t, fmt.Sprintf("#!/bin/sh\ncase $1 in\nstore) cat > %s;;\nget) cat %s 2>/dev/null || { echo credentials not found in native keychain; exit 1; };;\nerase) rm -f %s;;\nesac\n", store, store, store),
		e.Bin, "docker-credential-test")
	if err := os.Chmod(filepath.Join(e.Bin, "docker-credential-test"), 0o755); err != nil {
		t.Fatal(err)
	}
	file(t, fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, host), e.Dir, "home", ".docker", "config.json")
	ref := host + "/box:1"
	refused(t, e.Berth("pull", ref), 1, `unauthorized: authentication required|pull access denied`)
	refused(t, e.Run("wrong\n", filepath.Join(e.Bin, "berth"), "login", "-u", "ann", "--password-stdin", host), 1, `unauthorized: incorrect username or password`)
	r := e.Run("s3cret\n", filepath.Join(e.Bin, "berth"), "login", "-u", "ann", "--password-stdin", host)
	if r.Code != 0 || r.Stdout != "Login Succeeded\n" || strings.Contains(r.Stderr, "unencrypted") {
		t.Fatalf("login: %+v", r)
	}
	kept := content(t, store)
	if !strings.Contains(kept, `token\u003e"`) || !strings.Contains(kept, `"Secret":"identity-of-ann"`) || strings.Contains(kept, "s3cret") {
		t.Errorf("the helper keeps %s", kept)
	}
	if config := content(t, filepath.Join(e.Dir, "home", ".docker", "config.json")); strings.Contains(config, "s3cret") || strings.Contains(config, "identity-of-ann") {
		t.Errorf("config.json has %s", config)
	}
	e.Must("pull", ref)
	s.mu.Lock()
	last := s.grants[len(s.grants)-1]
	s.mu.Unlock()
	if last != "POST refresh" {
		t.Errorf("the pull's token came by %s", last)
	}
	if got := e.Must("login", host); !strings.Contains(got, "Login Succeeded") {
		t.Errorf("login with what is kept: %q", got)
	}
	e.Must("logout", host)
	e.Must("rmi", ref)
	refused(t, e.Berth("pull", ref), 1, `unauthorized: authentication required|pull access denied`)
	if _, err := os.Stat(store); err == nil {
		t.Error("logout left the credentials in the helper")
	}
}

func TestLoginFailuresAreOneLine(t *testing.T) {
	hosts := t.TempDir()
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--registry-hosts-dir=" + hosts, "--max-download-attempts=1"}})
	ca := testkit.NewAuthority(t)
	old := ca.Issue(-time.Hour, "127.0.0.1")
	expired := testkit.Registry(t, testkit.RegistryOptions{TLS: &old})
	file(t, content(t, ca.Cert), hosts, expired.Addr, "ca.crt")
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	t.Cleanup(busy.Close)
	locked := testkit.Registry(t, testkit.RegistryOptions{Auth: true})
	for host, want := range map[string]string{
		"127.0.0.1:1":                `connection refused`,
		"exa mple":                   `invalid|not a`,
		"127.0.0.1:port":             `invalid|not a`,
		expired.Addr:                 `certificate has expired or is not yet valid`,
		web.Listener.Addr().String(): `is not a registry`,
		busy.URL:                     `503 Service Unavailable`,
		locked.Addr:                  `(?i)unauthorized`,
	} {
		t.Run(want, func(t *testing.T) {
			r := e.Run("guess\n", filepath.Join(e.Bin, "berth"), "login", "-u", "ann", "--password-stdin", host)
			refused(t, r, 1, want)
			if strings.Contains(r.Stderr, "guess") {
				t.Error("the password is told")
			}
		})
	}
	if _, err := os.Stat(filepath.Join(e.Dir, "home", ".docker", "config.json")); err == nil {
		t.Error("a login that failed was stored")
	}
}

func TestRegistriesAreReachedThroughAProxy(t *testing.T) {
	reg, img := layeredImage(t)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect || r.URL.Host != "registry.invalid:5000" {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		out := r.Clone(r.Context())
		out.RequestURI, out.URL.Host = "", reg.Addr
		resp, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	t.Cleanup(proxy.Close)
	e := testkit.StartEngine(t, testkit.EngineOptions{Lazy: true})
	write(t, filepath.Join(e.Dir, "daemon.json"), fmt.Sprintf(`{"proxies":{"http-proxy":%q,"https-proxy":%q,"no-proxy":"else.test"},"insecure-registries":["registry.invalid:5000"],"max-download-attempts":1}`, proxy.URL, proxy.URL))
	e.Start()
	e.Must("pull", "registry.invalid:5000/box:1")
	if got := e.Must("image", "inspect", "-f", "{{.Id}}", "registry.invalid:5000/box:1"); got != img.ID {
		t.Errorf("got %s, want %s", got, img.ID)
	}
	if got := e.Must("info", "-f", "{{.HTTPProxy}} {{.NoProxy}}"); got != proxy.URL+" else.test" {
		t.Errorf("info: %s", got)
	}
	refused(t, e.Berth("pull", "other.invalid:5000/box:1"), 1, `Bad Gateway`)
}
