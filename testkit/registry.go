package testkit

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
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
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		r.Addr = l.Addr().String()
		l.Close()
		conf := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %q}\n  delete: {enabled: true}\nhttp: {addr: %q}\n", r.Root, r.Addr)
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
	if err := r.cmd.Start(); err != nil {
		return err
	}
	cmd, ended := r.cmd, make(chan error, 1)
	r.ended = ended
	go func() { ended <- cmd.Wait() }()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-ended:
			r.cmd = nil
			return fmt.Errorf("ended early: %w", err)
		default:
		}
		if resp, err := client.Get("http://" + r.Addr + "/v2/"); err == nil {
			resp.Body.Close()
			return nil
		}
	}
	r.Stop()
	return fmt.Errorf("does not answer at %s", r.Addr)
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
