package testkit

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// RegistryOptions say what a registry of Registry is like.
type RegistryOptions struct {
	// Auth has it ask for RegistryUser and RegistryPassword (basic authentication).
	Auth bool
	// Mirror makes it a pull-through cache of this base URL.
	Mirror string
	// TLS has it speak TLS with this certificate, and ask for one that ClientCA (a file)
	// has signed, if that is given.
	TLS      *Certificate
	ClientCA string
}

// The credentials of a registry that asks for some.
const (
	RegistryUser     = "berth"
	RegistryPassword = "secret"
	registryHtpasswd = RegistryUser + ":$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n"
)

// RegistryServer is Debian's docker-registry, run for one test.
type RegistryServer struct {
	Addr  string // 127.0.0.1:port
	Root  string // its storage directory
	t     testing.TB
	cmd   *exec.Cmd
	ended <-chan error
	log   *lockedBuffer
	conf  string
}

// Registry starts a docker-registry on a free loopback port and stops it when the
// test ends. It skips the test where the program is missing.
func Registry(t testing.TB, o RegistryOptions) *RegistryServer {
	t.Helper()
	program := NeedTool(t, "docker-registry")
	dir := t.TempDir()
	r := &RegistryServer{Root: filepath.Join(dir, "data"), t: t, conf: filepath.Join(dir, "config.yml")}
	// Between choosing a port and listening on it somebody else may take it.
	for try := 0; ; try++ {
		var err error
		r.Addr = "127.0.0.1:" + FreePort(t)
		conf := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %q}\n  delete: {enabled: true}\nhttp:\n  addr: %q\n", r.Root, r.Addr)
		if o.TLS != nil {
			conf += fmt.Sprintf("  tls:\n    certificate: %q\n    key: %q\n", o.TLS.Cert, o.TLS.Key)
			if o.ClientCA != "" {
				conf += fmt.Sprintf("    clientcas: [%q]\n", o.ClientCA)
			}
		}
		if o.Auth {
			passwords := filepath.Join(dir, "htpasswd")
			r.write(passwords, registryHtpasswd)
			conf += fmt.Sprintf("auth:\n  htpasswd: {realm: test, path: %q}\n", passwords)
		}
		if o.Mirror != "" {
			conf += fmt.Sprintf("proxy: {remoteurl: %q}\n", o.Mirror)
		}
		r.write(r.conf, conf)
		if err = r.start(program); err == nil {
			break
		} else if try == 4 {
			t.Fatalf("docker-registry: %v\n%s", err, r.log)
		}
	}
	t.Cleanup(func() {
		r.Stop()
		if t.Failed() {
			t.Logf("docker-registry said:\n%s", lastLines([]byte(r.log.String()), 10))
		}
	})
	return r
}

func (r *RegistryServer) write(path, text string) {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// start runs the program until it answers or ends.
func (r *RegistryServer) start(program string) error {
	r.log = &lockedBuffer{}
	r.cmd = exec.Command(program, "serve", r.conf)
	r.cmd.Stdout, r.cmd.Stderr = r.log, r.log
	r.cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := startBound(r.t, r.cmd); err != nil {
		return err
	}
	cmd, ended := r.cmd, make(chan error, 1)
	r.ended = ended
	go func() { ended <- cmd.Wait() }()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-ended:
			r.cmd = nil
			return fmt.Errorf("ended early: %w", err)
		default:
		}
		// It answers so to http on a TLS port too.
		if resp, err := client.Get("http://" + r.Addr + "/v2/"); err == nil {
			resp.Body.Close()
			return nil
		}
	}
	r.Stop()
	return fmt.Errorf("does not answer at %s", r.Addr)
}

// PushedImage is what PushImage made.
type PushedImage struct {
	Ref, ID, Digest string
	Layers          []string // digests of the compressed layers
}

// PushImage makes an image of uncompressed layer tars and puts it, by plain HTTP, into the
// registry (one without TLS and passwords) as name, "repository:tag". It runs "true".
func (r *RegistryServer) PushImage(name string, layers ...[]byte) PushedImage {
	r.t.Helper()
	var diffs []string
	for _, l := range layers {
		diffs = append(diffs, fmt.Sprintf("sha256:%x", sha256.Sum256(l)))
	}
	return r.PushConfig(name, map[string]any{"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Cmd": []string{"true"}, "Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs}}, layers...)
}

// PushConfig is PushImage with a configuration of the caller's, which is not checked.
func (r *RegistryServer) PushConfig(name string, config map[string]any, layers ...[]byte) PushedImage {
	r.t.Helper()
	repo, tag, _ := strings.Cut(name, ":")
	out := PushedImage{Ref: r.Addr + "/" + name}
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int    `json:"size"`
	}
	blob := func(mediaType string, data []byte) descriptor {
		d := descriptor{mediaType, fmt.Sprintf("sha256:%x", sha256.Sum256(data)), len(data)}
		resp := r.request(http.MethodPost, "http://"+r.Addr+"/v2/"+repo+"/blobs/uploads/", "", nil, http.StatusAccepted)
		place, err := resp.Location()
		if err != nil {
			r.t.Fatal(err)
		}
		q := place.Query()
		q.Set("digest", d.Digest)
		place.RawQuery = q.Encode()
		r.request(http.MethodPut, place.String(), "application/octet-stream", data, http.StatusCreated)
		return d
	}
	var manifest struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}
	manifest.SchemaVersion, manifest.MediaType = 2, "application/vnd.oci.image.manifest.v1+json"
	for _, l := range layers {
		var zipped bytes.Buffer
		z, _ := gzip.NewWriterLevel(&zipped, gzip.BestSpeed)
		if _, err := z.Write(l); err != nil || z.Close() != nil {
			r.t.Fatal("gzip failed")
		}
		d := blob("application/vnd.oci.image.layer.v1.tar+gzip", zipped.Bytes())
		manifest.Layers = append(manifest.Layers, d)
		out.Layers = append(out.Layers, d.Digest)
	}
	data, err := json.Marshal(config)
	if err != nil {
		r.t.Fatal(err)
	}
	manifest.Config = blob("application/vnd.oci.image.config.v1+json", data)
	if data, err = json.Marshal(manifest); err != nil {
		r.t.Fatal(err)
	}
	r.request(http.MethodPut, "http://"+r.Addr+"/v2/"+repo+"/manifests/"+tag, manifest.MediaType, data, http.StatusCreated)
	out.ID, out.Digest = manifest.Config.Digest, fmt.Sprintf("sha256:%x", sha256.Sum256(data))
	return out
}

func (r *RegistryServer) request(method, target, contentType string, body []byte, want int) *http.Response {
	r.t.Helper()
	req, err := http.NewRequest(method, target, bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != want {
		text, _ := io.ReadAll(resp.Body)
		r.t.Fatalf("%s %s: %s\n%s", method, target, resp.Status, text)
	}
	return resp
}

// Stop ends the registry; its storage stays until the test ends.
func (r *RegistryServer) Stop() {
	if r.cmd != nil {
		_ = r.cmd.Process.Kill()
		<-r.ended
		r.cmd = nil
	}
}

// lockedBuffer collects what a child writes while a test may read it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
