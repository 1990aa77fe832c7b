// Package client connects to the engine: which one (host flag, DOCKER_HOST, context),
// how (unix, tcp with TLS, ssh), and starting it if the default one is not running.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/go-connections/tlsconfig"
	mobyclient "github.com/moby/moby/client"

	"berth/api/client/contexts"
	"berth/fail"
)

// Options choose the engine. Zero values mean the environment and the defaults.
type Options struct {
	Host    string // -H; empty: BERTH_HOST, DOCKER_HOST, the current context, the default socket
	Context string // --context
	// TLS files of a tcp host; empty with TLSVerify: DOCKER_CERT_PATH or ~/.docker.
	TLS, TLSVerify            bool
	CAFile, CertFile, KeyFile string
	ConfigDir                 string // empty: DOCKER_CONFIG, else ~/.docker
	UserAgent                 string
	// PushCompression is what pushes ask of Berth beyond Docker's API.
	PushCompression string

	onlyGiven bool // no TLS files but those that are named
}

// New returns a client of the engine. Nothing is dialled yet. Only for the default unix
// socket: when the first dial finds nobody behind it, berthd (beside this binary, else in
// PATH) is started in the background by one winner under a lock, and the dial goes on
// when it is ready.
func New(o Options) (*mobyclient.Client, error) {
	e, err := resolve(o, os.Getenv)
	if err != nil {
		return nil, err
	}
	opts := []mobyclient.Opt{mobyclient.WithAPIVersionFromEnv()}
	if o.UserAgent != "" {
		opts = append(opts, mobyclient.WithUserAgent(o.UserAgent))
	}
	if o.PushCompression != "" {
		opts = append(opts, mobyclient.WithHTTPHeaders(map[string]string{"X-Berth-Push-Compression": o.PushCompression}))
	}
	more, err := connector(e)
	if err != nil {
		return nil, err
	}
	return mobyclient.New(append(opts, more...)...)
}

// connector says how the endpoint is reached.
func connector(e endpoint) ([]mobyclient.Opt, error) {
	if strings.HasPrefix(e.host, "ssh://") {
		f, err := parseSSH(e.host)
		if err != nil {
			return nil, err
		}
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return f.dial(ctx) }
		// After the host, which would bring the proxies of the environment with it.
		own := &http.Client{Transport: &http.Transport{DialContext: dial}, CheckRedirect: mobyclient.CheckRedirect}
		return []mobyclient.Opt{mobyclient.WithHost("http://" + mobyclient.DummyHost), mobyclient.WithHTTPClient(own)}, nil
	}
	var opts []mobyclient.Opt
	if e.tls != nil {
		transport := &http.Transport{TLSClientConfig: e.tls}
		opts = append(opts, mobyclient.WithHTTPClient(&http.Client{Transport: transport, CheckRedirect: mobyclient.CheckRedirect}))
	}
	opts = append(opts, mobyclient.WithHost(e.host))
	if e.autostart {
		s := &starter{socket: DefaultSocket(os.Getenv), execRoot: filepath.Dir(DefaultSocket(os.Getenv))}
		opts = append(opts, mobyclient.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) }))
	}
	return opts, nil
}

// wantsTLS tells whether a tcp host is spoken to by TLS.
func wantsTLS(o Options, env func(string) string) bool {
	return o.TLS || o.TLSVerify || env("DOCKER_TLS_VERIFY") != "" || env("DOCKER_TLS") != ""
}

// tlsConfig builds what a tcp host needs; nil for plain tcp.
func tlsConfig(o Options, env func(string) string) (*tls.Config, error) {
	if !wantsTLS(o, env) {
		return nil, nil
	}
	t, err := tlsFiles(o, env)
	if err != nil {
		return nil, err
	}
	t.InsecureSkipVerify = !o.TLSVerify && env("DOCKER_TLS_VERIFY") == ""
	t.ExclusiveRootPools = t.CAFile != ""
	t.MinVersion = tls.VersionTLS12
	c, err := tlsconfig.Client(t)
	if err != nil {
		return nil, fail.New(fail.Invalid, "TLS configuration: %w", err)
	}
	return c, nil
}

// tlsFiles finds the files: those that were named, else those of DOCKER_CERT_PATH or of the
// configuration directory that exist.
func tlsFiles(o Options, env func(string) string) (t tlsconfig.Options, err error) {
	dir := env("DOCKER_CERT_PATH")
	if dir == "" {
		dir = configDir(o, env)
	}
	for _, f := range []struct {
		to          *string
		given, name string
	}{{&t.CAFile, o.CAFile, contexts.CAFile}, {&t.CertFile, o.CertFile, contexts.CertFile}, {&t.KeyFile, o.KeyFile, contexts.KeyFile}} {
		if *f.to = f.given; f.given != "" || o.onlyGiven {
			continue
		}
		path := filepath.Join(dir, f.name)
		switch _, err := os.Stat(path); {
		case err == nil:
			*f.to = path
		case !errors.Is(err, os.ErrNotExist):
			return t, err
		}
	}
	return t, nil
}
