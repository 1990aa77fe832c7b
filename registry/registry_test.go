package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/fail"
	"berth/oci"
	"berth/testkit"
)

// impatient makes a client whose pauses a test can sit through.
func impatient(cfg Config) *Client {
	c := New(cfg)
	c.pause = pause{first: time.Millisecond, longest: 2 * time.Second}
	return c
}

func named(t *testing.T, s string) reference.Named {
	t.Helper()
	n, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func describe(data []byte, mediaType string) oci.Descriptor {
	return oci.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func opener(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

// fake serves handler and returns a repository "app" on it.
func fake(t *testing.T, handler http.HandlerFunc) *Repository {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return impatient(Config{}).Repository(named(t, s.Listener.Addr().String()+"/app"), nil)
}

func randomBytes(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.Read(data)
	return data
}

func TestWhatIsPushedToARealRegistryComesBack(t *testing.T) {
	for _, withAuth := range []bool{false, true} {
		t.Run(fmt.Sprintf("auth %v", withAuth), func(t *testing.T) {
			server := testkit.Registry(t, testkit.RegistryOptions{Auth: withAuth})
			c := New(Config{})
			var a *Auth
			if withAuth {
				a = &Auth{Username: testkit.RegistryUser, Password: testkit.RegistryPassword}
			}
			ctx := t.Context()
			repo := c.Repository(named(t, server.Addr+"/team/app"), a)

			config := []byte(`{"architecture":"amd64","os":"linux"}`)
			layer := randomBytes(3 << 20)
			cd, ld := describe(config, ocispec.MediaTypeImageConfig), describe(layer, ocispec.MediaTypeImageLayerGzip)
			var last int64
			for _, b := range []struct {
				d    oci.Descriptor
				data []byte
			}{{cd, config}, {ld, layer}} {
				if has, err := repo.HasBlob(ctx, b.d); err != nil || has {
					t.Fatalf("HasBlob before = %v, %v", has, err)
				}
				if err := repo.PushBlob(ctx, b.d, opener(b.data), func(n int64) { last = n }); err != nil {
					t.Fatal(err)
				}
				if has, err := repo.HasBlob(ctx, b.d); err != nil || !has {
					t.Fatalf("HasBlob after = %v, %v", has, err)
				}
			}
			if last != ld.Size {
				t.Errorf("progress ended at %d of %d", last, ld.Size)
			}
			manifest, _ := json.Marshal(oci.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
				Config: cd, Layers: []oci.Descriptor{ld}})
			md := describe(manifest, ocispec.MediaTypeImageManifest)
			for _, tag := range []string{"1", "2"} {
				if err := repo.PushManifest(ctx, md, manifest, tag); err != nil {
					t.Fatal(err)
				}
			}
			got, err := repo.Resolve(ctx, "1", nil)
			if err != nil || got.Digest != md.Digest || got.Size != md.Size || got.MediaType != md.MediaType {
				t.Fatalf("Resolve = %+v, %v", got, err)
			}
			if got, err = repo.Resolve(ctx, md.Digest.String(), nil); err != nil || got.Digest != md.Digest {
				t.Fatalf("Resolve by digest = %+v, %v", got, err)
			}
			if data, err := repo.Manifest(ctx, got); err != nil || !bytes.Equal(data, manifest) {
				t.Fatalf("Manifest = %q, %v", data, err)
			}
			for _, offset := range []int64{0, 1 << 20, ld.Size} {
				rc, err := repo.Blob(ctx, ld, offset)
				if err != nil {
					t.Fatal(err)
				}
				data, err := io.ReadAll(rc)
				rc.Close()
				if err != nil || !bytes.Equal(data, layer[offset:]) {
					t.Fatalf("Blob from %d: %d bytes, %v", offset, len(data), err)
				}
			}
			if tags, err := repo.Tags(ctx); err != nil || strings.Join(tags, " ") != "1 2" {
				t.Fatalf("Tags = %v, %v", tags, err)
			}
			other := c.Repository(named(t, server.Addr+"/other"), a)
			if ok, err := other.MountBlob(ctx, ld, "team/app"); err != nil || !ok {
				t.Fatalf("MountBlob = %v, %v", ok, err)
			}
			if ok, err := other.MountBlob(ctx, describe([]byte("none"), ""), "team/app"); err != nil || ok {
				t.Fatalf("MountBlob of nothing = %v, %v", ok, err)
			}
			_, err = repo.Resolve(ctx, "3", nil)
			want := "manifest for " + server.Addr + "/team/app:3 not found: manifest unknown: manifest unknown"
			if !fail.Is(err, fail.NotFound) || err.Error() != want {
				t.Errorf("unknown tag: %v (%v), want %s", err, fail.Of(err), want)
			}
			if _, err := repo.Blob(ctx, describe([]byte("none"), ""), 0); !fail.Is(err, fail.NotFound) {
				t.Errorf("unknown blob: %v (%v)", err, fail.Of(err))
			}
		})
	}
}

func TestBasicCredentialsAreChecked(t *testing.T) {
	server := testkit.Registry(t, testkit.RegistryOptions{Auth: true})
	c := New(Config{})
	right := Auth{Username: testkit.RegistryUser, Password: testkit.RegistryPassword, ServerAddress: server.Addr}
	wrong := right
	wrong.Password = "guess"
	if token, err := c.Login(t.Context(), right); err != nil || token != "" {
		t.Errorf("Login = %q, %v", token, err)
	}
	older := Auth{Auth: "YmVydGg6c2VjcmV0", ServerAddress: "http://" + server.Addr + "/v2/"}
	if _, err := c.Login(t.Context(), older); err != nil {
		t.Errorf("Login with the older form: %v", err)
	}
	if _, err := c.Login(t.Context(), wrong); !fail.Is(err, fail.Unauthorized) {
		t.Errorf("Login with a wrong password: %v (%v)", err, fail.Of(err))
	}
	for _, a := range []*Auth{nil, {}, &wrong} {
		_, err := c.Repository(named(t, server.Addr+"/app"), a).Resolve(t.Context(), "1", nil)
		if !fail.Is(err, fail.Unauthorized) || !strings.HasPrefix(err.Error(), "unauthorized: ") {
			t.Errorf("Resolve with %v: %v (%v)", a, err, fail.Of(err))
		}
	}
}

func TestUnknownServerIsUnavailableAndToldAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, err = impatient(Config{}).Repository(named(t, addr+"/app"), nil).Resolve(t.Context(), "1", nil)
	want := fmt.Sprintf("Get \"http://%s/v2/\": dial tcp %s: connect: connection refused", addr, addr)
	if !fail.Is(err, fail.Unavailable) || err.Error() != want {
		t.Errorf("got %v (%v), want %s", err, fail.Of(err), want)
	}
}

func TestRefusalsHaveDockersWordsAndAClass(t *testing.T) {
	tests := []struct {
		name, body, challenge, want string
		status                      int
		class                       fail.Class
	}{
		{"unknown manifest", `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`, "",
			"manifest for HOST/app:1 not found: manifest unknown: manifest unknown", 404, fail.NotFound},
		{"bare 404", "", "", "manifest for HOST/app:1 not found: manifest unknown: manifest unknown", 404, fail.NotFound},
		{"unknown repository", `{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}`, "",
			"repository HOST/app not found: name unknown: repository name not known to registry", 404, fail.NotFound},
		{"denied", `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`, "",
			"pull access denied for HOST/app, repository does not exist or may require 'docker login': denied: requested access to the resource is denied", 403, fail.NotFound},
		{"scope refused", "", `Bearer realm="x",error="insufficient_scope"`,
			"pull access denied for HOST/app, repository does not exist or may require 'docker login': denied: requested access to the resource is denied", 403, fail.NotFound},
		{"plain 403", "", "", "HOST/app:1: denied: the registry forbids it", 403, fail.Forbidden},
		{"plain 401", "", "", "unauthorized: authentication required", 401, fail.Unauthorized},
		{"rate limit", `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow\ndown"}]}`, "", "HOST/app:1: toomanyrequests: slow down", 429, fail.Unavailable},
		{"bad gateway", "<html>", "", "HOST/app:1: received unexpected HTTP status: 502 Bad Gateway", 502, fail.Unavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var host string
			repo := fake(t, func(w http.ResponseWriter, r *http.Request) {
				host = r.Host
				if tt.challenge != "" {
					w.Header().Set("WWW-Authenticate", tt.challenge)
				}
				w.WriteHeader(tt.status)
				if r.Method != http.MethodHead {
					_, _ = io.WriteString(w, tt.body)
				}
			})
			_, err := repo.Resolve(t.Context(), "1", nil)
			if err == nil {
				t.Fatal("no error")
			}
			got := strings.ReplaceAll(err.Error(), host, "HOST")
			// HEAD has no body: a repeated 429 or 5xx is told without the words.
			if tt.name == "rate limit" {
				got = strings.ReplaceAll(got, "the registry limits the rate of requests", "slow down")
			}
			if got != tt.want || !fail.Is(err, tt.class) {
				t.Errorf("got  %s (%v)\nwant %s (%v)", got, fail.Of(err), tt.want, tt.class)
			}
		})
	}
}

func TestServerErrorsAreRetriedAndRetryAfterIsHonoured(t *testing.T) {
	data := []byte(`{"schemaVersion":2,"layers":[]}`)
	var asked atomic.Int32
	var first, second time.Time
	repo := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		switch asked.Add(1) {
		case 1:
			first = time.Now()
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			second = time.Now()
			w.WriteHeader(http.StatusBadGateway)
		default:
			_, _ = w.Write(data)
		}
	})
	got, err := repo.Manifest(t.Context(), describe(data, ocispec.MediaTypeImageManifest))
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("Manifest = %q, %v", got, err)
	}
	if second.Sub(first) < time.Second {
		t.Errorf("asked again after %v, the server wanted 1s", second.Sub(first))
	}
}

func TestRetryAfterIsReadAndBounded(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-7": 0, "soon": 0, "99999999999999999999": 0, "9999999999": (1 << 20) * time.Second,
		time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(&http.Response{Header: http.Header{"Retry-After": {value}}}); got != want {
			t.Errorf("%q is %v, want %v", value, got, want)
		}
	}
	date := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
	if got := retryAfter(&http.Response{Header: http.Header{"Retry-After": {date}}}); got < 50*time.Minute || got > time.Hour {
		t.Errorf("%q is %v", date, got)
	}
	// A server that wants us to wait for an hour is told of instead.
	var asked atomic.Int32
	repo := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			asked.Add(1)
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	if _, err := repo.Resolve(t.Context(), "1", nil); !fail.Is(err, fail.Unavailable) || asked.Load() != 1 {
		t.Errorf("asked %d times: %v", asked.Load(), err)
	}
}

func TestCancelEndsARetryAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	repo := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusServiceUnavailable)
			cancel()
		}
	})
	if _, err := repo.Resolve(ctx, "1", nil); !errors.Is(err, context.Canceled) || fail.Of(err) != fail.Canceled {
		t.Errorf("got %v (%v)", err, fail.Of(err))
	}
}

func TestWrongManifestIsInvalid(t *testing.T) {
	repo := fake(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, `{"layers":[ ]}`) })
	want := describe([]byte(`{"layers":[]} `), ocispec.MediaTypeImageManifest)
	_, err := repo.Manifest(t.Context(), want)
	if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), want.Digest.String()) {
		t.Errorf("Manifest: %v (%v)", err, fail.Of(err))
	}
	if _, err = repo.Resolve(t.Context(), want.Digest.String(), nil); !fail.Is(err, fail.Invalid) {
		t.Errorf("Resolve: %v (%v)", err, fail.Of(err))
	}
}

// cutting serves data, at most piece bytes for each answer, as a connection that
// breaks would.
func cutting(data []byte, piece int, ranges bool, answers *atomic.Int32) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		answers.Add(1)
		from := 0
		if h := r.Header.Get("Range"); h != "" && ranges {
			from, _ = strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(h, "bytes="), "-"))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
		}
		rest := data[from:]
		w.Header().Set("Content-Length", strconv.Itoa(len(rest)))
		if from > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(rest[:min(piece, len(rest))])
		if piece < len(rest) {
			panic(http.ErrAbortHandler)
		}
	}
}

func TestCutBlobIsResumed(t *testing.T) {
	data := randomBytes(1 << 20)
	for _, tt := range []struct {
		name    string
		ranges  bool
		piece   int
		offset  int64
		answers int32
	}{
		{"by range", true, 300 << 10, 0, 4},
		{"by range from an offset", true, 300 << 10, 500 << 10, 2},
		{"whole", true, 1 << 20, 0, 1},
		{"offset at a server without ranges", false, 1 << 20, 1000, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var answers atomic.Int32
			repo := fake(t, cutting(data, tt.piece, tt.ranges, &answers))
			rc, err := repo.Blob(t.Context(), describe(data, ""), tt.offset)
			if err != nil {
				t.Fatal(err)
			}
			defer rc.Close()
			got, err := io.ReadAll(rc)
			if err != nil || !bytes.Equal(got, data[tt.offset:]) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if answers.Load() != tt.answers {
				t.Errorf("%d answers, want %d", answers.Load(), tt.answers)
			}
		})
	}
}

func TestBlobThatStaysShortIsInvalidAndNamed(t *testing.T) {
	data := randomBytes(1000)
	d := describe(data, "")
	for name, handler := range map[string]http.HandlerFunc{
		"range not satisfiable": func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			_, _ = w.Write(data[:600])
		},
		"ranges ignored": func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(data[:600]) },
	} {
		t.Run(name, func(t *testing.T) {
			rc, err := fake(t, handler).Blob(t.Context(), d, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer rc.Close()
			_, err = io.ReadAll(rc)
			if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), d.Digest.String()) ||
				!strings.Contains(err.Error(), "only 600 of 1000 bytes") {
				t.Errorf("got %v (%v)", err, fail.Of(err))
			}
		})
	}
}

func TestRedirectsAreFollowedWithoutCredentials(t *testing.T) {
	data := randomBytes(1000)
	var leaked atomic.Bool
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaked.Store(leaked.Load() || r.Header.Get("Authorization") != "")
		_, _ = w.Write(data)
	}))
	t.Cleanup(storage.Close)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, _, _ := r.BasicAuth(); user != "u" {
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, storage.URL+"/blob", http.StatusTemporaryRedirect)
	}))
	t.Cleanup(s.Close)
	repo := impatient(Config{}).Repository(named(t, s.Listener.Addr().String()+"/app"), &Auth{Username: "u", Password: "p"})
	rc, err := repo.Blob(t.Context(), describe(data, ""), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if got, err := io.ReadAll(rc); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if leaked.Load() {
		t.Error("the credentials went to the storage server")
	}
}

// bearer is a registry with a token server beside it.
type bearer struct {
	*httptest.Server
	tokens  atomic.Int32
	refresh string // issued to offline clients, accepted for a token
}

func newBearer(t *testing.T) *bearer {
	b := &bearer{refresh: "refresh-1"}
	b.Server = httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(b.Close)
	return b
}

func (b *bearer) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		b.tokens.Add(1)
		_ = r.ParseForm()
		user, password, _ := r.BasicAuth()
		switch {
		case r.Form.Get("grant_type") == "refresh_token" && r.Form.Get("refresh_token") == b.refresh:
		case user == "u" && password == "p":
		case user != "":
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"details":"incorrect username or password"}`)
			return
		}
		access := "anonymous"
		if user != "" || r.Form.Get("grant_type") != "" {
			access = "user"
		}
		answer := map[string]string{tokenField(r): access + " " + strings.Join(r.Form["scope"], " ")}
		if r.Form.Get("offline_token") == "true" {
			answer["refresh_token"] = b.refresh
		}
		_ = json.NewEncoder(w).Encode(answer)
		return
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	scope := ""
	if strings.HasPrefix(r.URL.Path, "/v2/app/") {
		scope = "repository:app:pull"
	}
	switch {
	case strings.HasPrefix(token, "user") && strings.Contains(token, scope):
	case strings.HasPrefix(token, "anonymous"):
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="s",scope=%q,error="insufficient_scope"`, r.Host, scope))
		w.WriteHeader(http.StatusUnauthorized)
		return
	default:
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="s",scope=%q`, r.Host, scope))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.URL.Path != "/v2/" {
		_, _ = io.WriteString(w, `{"schemaVersion":2,"layers":[]}`)
	}
}

// tokenField is where the two token specifications have the token.
func tokenField(r *http.Request) string {
	if r.Method == http.MethodPost {
		return "access_token"
	}
	return "token"
}

func TestBearerTokensAreFetchedCachedAndRefused(t *testing.T) {
	b := newBearer(t)
	host := b.Listener.Addr().String()
	c := impatient(Config{})
	user := Auth{Username: "u", Password: "p", ServerAddress: host}
	for _, a := range []*Auth{&user, {IdentityToken: "refresh-1"}, {RegistryToken: "user repository:app:pull"}} {
		before := b.tokens.Load()
		for range 3 {
			if _, err := c.Repository(named(t, host+"/app"), a).Resolve(t.Context(), "1", nil); err != nil {
				t.Fatalf("Resolve with %+v: %v", a, err)
			}
		}
		if n := b.tokens.Load() - before; n > 1 {
			t.Errorf("%+v: asked for %d tokens", a, n)
		}
	}
	_, err := c.Repository(named(t, host+"/app"), nil).Resolve(t.Context(), "1", nil)
	if !fail.Is(err, fail.NotFound) || !strings.HasPrefix(err.Error(), "pull access denied for "+host+"/app, ") {
		t.Errorf("anonymous: %v (%v)", err, fail.Of(err))
	}
	_, err = c.Repository(named(t, host+"/app"), &Auth{Username: "u", Password: "x"}).Resolve(t.Context(), "1", nil)
	if !fail.Is(err, fail.Unauthorized) || err.Error() != "unauthorized: incorrect username or password" {
		t.Errorf("wrong password: %v (%v)", err, fail.Of(err))
	}

	if token, err := c.Login(t.Context(), user); err != nil || token != "refresh-1" {
		t.Errorf("Login = %q, %v", token, err)
	}
	if _, err := c.Login(t.Context(), Auth{IdentityToken: "refresh-1", ServerAddress: host}); err != nil {
		t.Errorf("Login with an identity token: %v", err)
	}
	user.Password = "x"
	want := fmt.Sprintf("Get \"http://%s/v2/\": unauthorized: incorrect username or password", host)
	if _, err := c.Login(t.Context(), user); !fail.Is(err, fail.Unauthorized) || err.Error() != want {
		t.Errorf("Login with a wrong password: %v (%v), want %s", err, fail.Of(err), want)
	}
}

func TestMirrorsAreAskedFirstAndTheRegistryAfterThem(t *testing.T) {
	data := []byte(`{"schemaVersion":2,"layers":[]}`)
	d := describe(data, ocispec.MediaTypeImageManifest)
	var asked []string
	server := func(name string, has bool) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, name+" "+r.Method+" "+r.URL.Path)
			if !has {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			w.Header().Set("Content-Type", d.MediaType)
			w.Header().Set("Docker-Content-Digest", d.Digest.String())
			w.Header().Set("Content-Length", strconv.FormatInt(d.Size, 10))
			if r.Method != http.MethodHead {
				_, _ = w.Write(data)
			}
		}))
		t.Cleanup(s.Close)
		return s
	}
	empty, full := server("empty", false), server("full", true)
	c := impatient(Config{Mirrors: []string{empty.URL, full.URL + "/"}})
	got, err := c.Repository(named(t, "debian"), nil).Resolve(t.Context(), "12", nil)
	if err != nil || got.Digest != d.Digest {
		t.Fatalf("Resolve = %+v, %v", got, err)
	}
	want := "empty HEAD /v2/library/debian/manifests/12, empty GET /v2/library/debian/manifests/12, full HEAD /v2/library/debian/manifests/12"
	if strings.Join(asked, ", ") != want {
		t.Errorf("asked %s", strings.Join(asked, ", "))
	}
	if r := c.Repository(named(t, "localhost:5000/debian"), nil); len(r.readers) != 1 {
		t.Error("mirrors of docker.io stand before another registry")
	}
}

func TestPushIsRepeatedAfterAServerErrorAndNotAfterItsSourceFailed(t *testing.T) {
	data := randomBytes(200 << 10)
	d := describe(data, "")
	var puts atomic.Int32
	repo := fake(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodHead:
			w.WriteHeader(http.StatusNotFound)
		case http.MethodPost:
			w.Header().Set("Location", "/upload?state=a%2Bb")
			w.WriteHeader(http.StatusAccepted)
		case http.MethodPut:
			got, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			if puts.Add(1) == 1 {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			if !bytes.Equal(got, data) || r.URL.Query().Get("digest") != d.Digest.String() || r.URL.Query().Get("state") != "a+b" {
				t.Errorf("PUT %s with %d bytes", r.URL, len(got))
			}
			w.WriteHeader(http.StatusCreated)
		}
	})
	if err := repo.PushBlob(t.Context(), d, opener(data), nil); err != nil || puts.Load() != 2 {
		t.Fatalf("%d uploads, %v", puts.Load(), err)
	}
	boom := errors.New("input/output error")
	tries := 0
	err := repo.PushBlob(t.Context(), d, func() (io.ReadCloser, error) {
		tries++
		return io.NopCloser(io.MultiReader(bytes.NewReader(data[:100]), failing{boom})), nil
	}, nil)
	if !errors.Is(err, boom) || !strings.Contains(err.Error(), d.Digest.String()) || tries != 1 {
		t.Errorf("%d tries, %v", tries, err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestUploadElsewhereGetsNoCredentials(t *testing.T) {
	var leaked atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaked.Store(leaked.Load() || r.Header.Get("Authorization") != "")
		w.Header().Set("WWW-Authenticate", `Basic realm="trap"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(elsewhere.Close)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", elsewhere.URL+"/upload")
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(s.Close)
	repo := impatient(Config{}).Repository(named(t, s.Listener.Addr().String()+"/app"), &Auth{Username: "u", Password: "p"})
	if err := repo.PushBlob(t.Context(), describe([]byte("x"), ""), opener([]byte("x")), nil); !fail.Is(err, fail.Unauthorized) {
		t.Errorf("got %v (%v)", err, fail.Of(err))
	}
	if leaked.Load() {
		t.Error("the credentials went elsewhere")
	}
}

func TestTagListIsReadToItsEnd(t *testing.T) {
	repo := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("last") == "" {
			w.Header().Set("Link", `</v2/app/tags/list?last=b&n=2>; rel="next"`)
			_, _ = io.WriteString(w, `{"tags":["a","b"]}`)
			return
		}
		_, _ = io.WriteString(w, `{"tags":["c"]}`)
	})
	if tags, err := repo.Tags(t.Context()); err != nil || strings.Join(tags, "") != "abc" {
		t.Errorf("Tags = %v, %v", tags, err)
	}
}

func TestTagListWithoutEndIsRefused(t *testing.T) {
	long := strings.Repeat("x", 100)
	page := []byte(`{"tags":["` + strings.Repeat(long+`","`, 50_000) + `z"]}`)
	asked := 0
	repo := fake(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		w.Header().Set("Link", fmt.Sprintf(`</v2/app/tags/list?last=%d>; rel="next"`, asked))
		_, _ = w.Write(page)
	})
	if _, err := repo.Tags(t.Context()); !fail.Is(err, fail.Invalid) || asked > 10 {
		t.Errorf("after %d pages: %v", asked, err)
	}
}

func TestWhatAServerSaysCannotSpoilATerminal(t *testing.T) {
	for said, want := range map[string]string{
		"two\nlines \x1b[31m":                       "two lines  [31m",
		"one character for ESC [: \u009b31m":        "one character for ESC [:  31m",
		strings.Repeat("é", 300):                    strings.Repeat("é", 250),
		"a" + strings.Repeat("é", 300):              "a" + strings.Repeat("é", 249),
		"no UTF-8 \x9b[31m, and what a name can be": "no UTF-8 \ufffd[31m, and what a name can be",
	} {
		if got := oneLine(said); got != want {
			t.Errorf("%q: %q", said, got)
		}
	}
}

func TestNobodyWaitsForAnotherWhoFindsOutHowToReachARegistry(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // who takes connections and says nothing
		for first := true; ; first = false {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if first {
				close(asked)
			}
			go func() { <-release; c.Close() }()
		}
	}()
	c := impatient(Config{})
	tags := func(ctx context.Context) error {
		_, err := c.Repository(named(t, l.Addr().String()+"/app"), nil).Tags(ctx)
		return err
	}
	patient := make(chan error)
	go func() { patient <- tags(t.Context()) }()
	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ended := make(chan error)
	go func() { ended <- tags(ctx) }()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(8 * time.Second): // the other gives up a way after 10
		t.Error("who gave up waits for who did not")
	}
	close(release)
	if err := <-patient; !fail.Is(err, fail.Unavailable) {
		t.Error(err)
	}
}

func TestTransferThatStandsStillEnds(t *testing.T) {
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10")
		if r.URL.Path == "/body" {
			_, _ = io.WriteString(w, "12345")
			w.(http.Flusher).Flush()
		}
		<-release
	}))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(release) })
	hc := http.Client{Transport: &watched{headers: 50 * time.Millisecond, idle: 50 * time.Millisecond, next: http.DefaultTransport}}
	if _, err := hc.Get(s.URL + "/headers"); !errors.Is(err, errStalled) {
		t.Errorf("headers: %v", err)
	}
	resp, err := hc.Get(s.URL + "/body")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); !errors.Is(err, errStalled) || string(got) != "12345" {
		t.Errorf("body: %q, %v", got, err)
	}
}

func TestWhoReadsSlowlyFromAURLIsNotTakenForAServerThatStandsStill(t *testing.T) {
	defer func(c *http.Client) { urlClient = c }(urlClient)
	const stall = time.Second
	urlClient = &http.Client{Transport: &watched{headers: time.Minute, idle: stall, next: http.DefaultTransport}}
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10")
		_, _ = io.WriteString(w, "12345")
		w.(http.Flusher).Flush()
		if r.URL.Path != "/stands-still" {
			_, _ = io.WriteString(w, "67890")
			return
		}
		<-release
	}))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(release) })
	body, err := OpenURL(t.Context(), s.URL, 0)
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 3)
	if _, err := io.ReadFull(body, first); err != nil {
		t.Fatal(err)
	}
	time.Sleep(stall + stall/2) // as the disk may take
	if rest, err := io.ReadAll(body); err != nil || string(rest) != "4567890" {
		t.Errorf("%q, %v", rest, err)
	}
	if body, err = OpenURL(t.Context(), s.URL+"/stands-still", 0); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(body); !fail.Is(err, fail.Unavailable) || !strings.Contains(err.Error(), "nothing came") || string(got) != "12345" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestInsecureHostsAreLoopbackAndTheConfiguredOnes(t *testing.T) {
	tr := newTrust([]string{"registry.test:5000", "http://plain.test/", "10.0.0.0/8"})
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.5:80": true, "[::1]:5000": true, "::1": true,
		"registry.test:5000": true, "plain.test:123": true, "10.1.2.3:5000": true,
		"11.1.2.3:5000": false,
	} {
		if got := tr.insecure(t.Context(), host); got != want {
			t.Errorf("insecure(%q) = %v", host, got)
		}
	}
	if newTrust(nil).insecure(t.Context(), "registry-1.docker.io") {
		t.Error("docker.io is insecure")
	}
}

func TestTLSRegistryOnLoopbackNeedsNoCertificate(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"tags":["a"]}`)
	}))
	t.Cleanup(s.Close)
	repo := impatient(Config{}).Repository(named(t, s.Listener.Addr().String()+"/app"), nil)
	if tags, err := repo.Tags(t.Context()); err != nil || len(tags) != 1 {
		t.Errorf("Tags = %v, %v", tags, err)
	}
}

func TestRegistryThatTurnsToTLSIsFoundAgain(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, `{"tags":["a"]}`) })
	s := httptest.NewServer(handler)
	addr := s.Listener.Addr().String()
	repo := impatient(Config{}).Repository(named(t, addr+"/app"), nil)
	if _, err := repo.Tags(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Close()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("the port was taken: %v", err)
	}
	tls := httptest.NewUnstartedServer(handler)
	tls.Listener.Close()
	tls.Listener = l
	tls.StartTLS()
	t.Cleanup(tls.Close)
	_, _ = repo.Tags(t.Context()) // may meet the old ways
	if _, err := repo.Tags(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestChallengesAreParsed(t *testing.T) {
	h := http.Header{}
	h.Add("WWW-Authenticate", `Bearer realm="https://a.test/t?x=1,2",service="s \"q\"" , scope=plain`)
	h.Add("WWW-Authenticate", `Basic realm="b", Digest x=y`)
	got := challenges(h)
	if got["bearer"]["realm"] != "https://a.test/t?x=1,2" || got["bearer"]["service"] != `s "q"` || got["bearer"]["scope"] != "plain" ||
		got["basic"]["realm"] != "b" || got["digest"]["x"] != "y" {
		t.Errorf("got %v", got)
	}
}

func FuzzChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://a.test/t",service="s"`)
	f.Add(`Basic realm="\`)
	f.Add(`=,=`)
	f.Fuzz(func(t *testing.T, s string) { challenges(http.Header{"Www-Authenticate": {s}}) })
}
