package registry

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/fail"
	"berth/testkit"
)

// put writes files below dir: name, text, name, text, …
func put(t *testing.T, dir string, files ...string) {
	t.Helper()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func text(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// tagServer answers tag lists and, being asked, keeps the last request.
type tagServer struct {
	*httptest.Server
	addr string
	mu   sync.Mutex
	last *http.Request
}

func newTagServer(t *testing.T, config *tls.Config) *tagServer {
	s := &tagServer{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.last = r
		s.mu.Unlock()
		_, _ = io.WriteString(w, `{"tags":["a"]}`)
	}))
	if config == nil {
		s.Start()
	} else {
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.TLS = config
		s.StartTLS()
	}
	t.Cleanup(s.Close)
	s.addr = s.Listener.Addr().String()
	return s
}

func (s *tagServer) asked() *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func tagsOf(t *testing.T, c *Client, ref string) error {
	t.Helper()
	_, err := c.Repository(named(t, ref), nil).Tags(t.Context())
	return err
}

func TestCertificatesOfAHostAreUsedAndReadAgainWhenTheyChange(t *testing.T) {
	ca := testkit.NewAuthority(t)
	server, client := ca.Issue(time.Hour, "127.0.0.1"), ca.Issue(time.Hour)
	s := newTagServer(t, &tls.Config{Certificates: []tls.Certificate{server.Pair}, ClientCAs: ca.Pool, ClientAuth: tls.RequireAndVerifyClientCert})
	dir := t.TempDir()
	c := impatient(Config{HostDirs: []string{filepath.Join(dir, "none"), dir}})
	other := testkit.NewAuthority(t)
	put(t, dir, s.addr+"/ca.crt", text(t, other.Cert))
	want := func(what string) {
		t.Helper()
		err := tagsOf(t, c, s.addr+"/app")
		if what == "" && err != nil || what != "" && (err == nil || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("got %v, want %q", err, what)
		}
	}
	want("put the certificate of its authority into /etc/berth/certs.d/" + s.addr + "/ca.crt, or list it in insecure-registries")
	put(t, dir, s.addr+"/ca.crt", text(t, ca.Cert))
	want("the registry asks for a client certificate that it accepts")
	put(t, dir, s.addr+"/client.key", text(t, client.Key))
	want("client.key has no certificate client.cert beside it")
	put(t, dir, s.addr+"/client.cert", text(t, client.Cert))
	want("")
	put(t, dir, s.addr+"/hosts.toml", fmt.Sprintf("server = 'https://%s'\nca = %q\nclient = [[%q, 'client.key']]\n", s.addr, ca.Cert, client.Cert))
	want("")
	put(t, dir, s.addr+"/hosts.toml", "ca = 'absent.pem'\n")
	want("absent.pem: no such file")
	put(t, dir, s.addr+"/hosts.toml", "ca = [\n")
	want("hosts.toml: line 1: ")
	put(t, dir, s.addr+"/hosts.toml", "skip_verify = true\nclient = [['client.cert', 'client.key']]\n")
	want("")
	put(t, dir, s.addr+"/hosts.toml", "skip_verify = false\n")
	want("certificate signed by unknown authority")
	c.Configure([]string{s.addr}, nil)
	want("the registry asks for a client certificate that it accepts")
}

func TestExpiredAndMisnamedCertificatesAreOneClearLine(t *testing.T) {
	ca := testkit.NewAuthority(t)
	for _, tt := range []struct {
		name, want string
		cert       testkit.Certificate
	}{
		{"expired", "certificate has expired or is not yet valid", ca.Issue(-time.Hour, "127.0.0.1")},
		{"for another host", "certificate is valid for other.test, not 127.0.0.1", ca.Issue(time.Hour, "127.0.0.9", "other.test")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newTagServer(t, &tls.Config{Certificates: []tls.Certificate{tt.cert.Pair}})
			dir := t.TempDir()
			put(t, dir, s.addr+"/ca.crt", text(t, ca.Cert))
			err := tagsOf(t, impatient(Config{HostDirs: []string{dir}}), s.addr+"/app")
			if tt.name == "for another host" {
				tt.want = "127.0.0.1"
			}
			if !fail.Is(err, fail.Unavailable) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v (%v)", err, fail.Of(err))
			}
		})
	}
}

func TestMirrorsOfAHostsFileAreAskedInTheirOrderWithTheirHeaders(t *testing.T) {
	registry, first, second := newTagServer(t, nil), newTagServer(t, nil), newTagServer(t, nil)
	dir := t.TempDir()
	put(t, dir, "example.test/hosts.toml", fmt.Sprintf(`
server = "http://%s"
[host."http://%s"]
  capabilities = ["pull"]
[host."http://%s/v2/cache"]
  capabilities = ["pull", "resolve"]
  override_path = true
  [host."http://%s/v2/cache".header]
    X-Team = ["a", "b"]
    Authorization = "Bearer of-the-mirror"
`, registry.addr, first.addr, second.addr, second.addr))
	c := impatient(Config{HostDirs: []string{dir}})
	if _, err := c.Repository(named(t, "example.test/app"), &Auth{Username: "u", Password: "p"}).Tags(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := second.asked()
	if r == nil || first.asked() != nil || registry.asked() != nil {
		t.Fatal("not the mirror that can resolve was asked")
	}
	if r.URL.Path != "/v2/cache/app/tags/list" || r.URL.Query().Get("ns") != "example.test" ||
		strings.Join(r.Header["X-Team"], "") != "ab" || r.Header.Get("Authorization") != "Bearer of-the-mirror" {
		t.Errorf("asked %s with %v", r.URL, r.Header)
	}
	second.Close()
	if err := tagsOf(t, c, "example.test/app"); err != nil || registry.asked() == nil {
		t.Errorf("without its mirror: %v", err)
	}
	if r := registry.asked(); r.Header.Get("X-Team") != "" || r.URL.Query().Get("ns") != "" {
		t.Errorf("the registry was asked %s with %v", r.URL, r.Header)
	}
}

func TestWrongHostsFilesNameTheirMistake(t *testing.T) {
	for file, want := range map[string]string{
		"server = 5":                             "server",
		"server = 'ftp://x'":                     "a registry is reached by http or https",
		"server = 'https://u:p@x'":               "only scheme, host and path are allowed here",
		"[host.'https://']":                      "names no host",
		"[host.x]\ncapabilities = ['fly']":       `unknown capability "fly": there are pull, resolve and push`,
		"[host.x]\nca = 5":                       "ca must be a file or a list of files",
		"[host.x]\nclient = [['a','b','c']]":     "client must be",
		"[host.x]\nclient = { a = 1 }":           "client must be",
		"[host.x]\ndial_timeout = 'soon'":        "dial_timeout",
		"[host.x]\n[host.x.header]\na = 5":       `header "a"`,
		"[host.x]\n[host.x.header]\na = \"\\n\"": `header "a"`,
		"[host.x":                                "line 1",
	} {
		_, _, err := parseHosts([]byte(file), "d", "d", "/dir")
		if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %q", file, err, want)
		}
	}
	list, unknown, err := parseHosts([]byte("colour = 1\n[host.'m:5000']\nclient = 'x.pem'\nca = ['/a', 'b']\nrewrite = {}"), "docker.io", hubHost, "/dir")
	if err != nil || len(list) != 2 || list[0].ca[1] != "/dir/b" || list[0].client[0] != [2]string{"/dir/x.pem", "/dir/x.pem"} ||
		list[0].ns != "docker.io" || list[1].host != hubHost || !list[1].own || strings.Join(unknown, " ") != `colour host."m:5000".rewrite` {
		t.Errorf("got %+v, %v, %v", list, unknown, err)
	}
}

func TestAHostDirectoryMayBeNamedInThreeWays(t *testing.T) {
	for _, name := range []string{"127.0.0.1:5000", "127.0.0.1_5000_", "_default"} {
		dir := t.TempDir()
		put(t, dir, name+"/hosts.toml", "server = 'http://elsewhere.test'")
		w, err := New(Config{HostDirs: []string{dir}}).waysTo("127.0.0.1:5000")
		if err != nil || w.list[0].host != "elsewhere.test" {
			t.Errorf("%s: %+v, %v", name, w.list, err)
		}
	}
	dir := t.TempDir()
	put(t, dir, "docker.io/hosts.toml", "[host.'http://m.test']", "_default/hosts.toml", "[host.'http://wrong.test']")
	w, err := New(Config{HostDirs: []string{dir}, Mirrors: []string{"http://other.test"}}).waysTo("docker.io")
	if err != nil || len(w.list) != 2 || w.list[0].host != "m.test" || w.list[1].host != hubHost {
		t.Errorf("docker.io: %+v, %v", w.list, err)
	}
}

func TestAMirrorThatServesDamageIsAskedLast(t *testing.T) {
	data := []byte("the right content")
	d := describe(data, ocispec.MediaTypeImageLayerGzip)
	serve := func(content string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, content) }))
		t.Cleanup(s.Close)
		return s.URL
	}
	dir := t.TempDir()
	put(t, dir, "example.test/hosts.toml", fmt.Sprintf("server = %q\n[host.%q]\n", serve(string(data)), serve("the wrong content")))
	repo := impatient(Config{HostDirs: []string{dir}}).Repository(named(t, "example.test/app"), nil)
	read := func() string {
		rc, err := repo.Blob(t.Context(), d, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer rc.Close()
		got, err := io.ReadAll(rc)
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	if got := read(); got != "the wrong content" {
		t.Fatalf("first %q", got)
	}
	repo.Reject(d.Digest)
	if got := read(); got != string(data) {
		t.Errorf("after the complaint %q", got)
	}
}

func FuzzHostsFile(f *testing.F) {
	f.Add([]byte("server = 'https://x'\n[host.'https://m']\ncapabilities = ['pull']\nca = ['a']\nclient = [['a','b']]\n[host.'https://m'.header]\na = 'b'\n"))
	f.Add([]byte("[host]\n[[host.x]]\nca = [1]\n"))
	f.Add([]byte("host.x.client = 'a'\nhost.y = 1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, _, err := parseHosts(data, "d.test", "d.test", "/dir")
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("more than one line: %q", err)
			}
			return
		}
		if len(list) == 0 || !list[len(list)-1].own {
			t.Errorf("the registry itself is missing: %+v", list)
		}
		for _, w := range list {
			if w.host == "" || w.ns != "" && w.own {
				t.Errorf("got %+v", w)
			}
		}
	})
}
