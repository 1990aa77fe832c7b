// Package client connects to the engine: which one (host flag, DOCKER_HOST, context),
// how (unix, tcp with TLS, ssh), and starting it if the default one is not running.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/docker/cli/cli/connhelper"
	"github.com/docker/go-connections/tlsconfig"
	mobyclient "github.com/moby/moby/client"
)

// Options choose the engine. Zero values mean the environment and the defaults.
type Options struct {
	Host    string // -H; empty: BERTH_HOST, DOCKER_HOST, the current context, the default socket
	Context string
	// TLS files of a tcp host; empty with TLSVerify: DOCKER_CERT_PATH or ~/.docker.
	TLS, TLSVerify            bool
	CAFile, CertFile, KeyFile string
	UserAgent                 string
	// PushCompression is what pushes ask of Berth beyond Docker's API.
	PushCompression string
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
	if helper, err := connhelper.GetConnectionHelper(e.host); err != nil {
		return nil, err
	} else if helper != nil {
		// ssh://: the far end runs "docker system dial-stdio" for us.
		transport := &http.Transport{DialContext: helper.Dialer}
		opts = append(opts, mobyclient.WithHTTPClient(&http.Client{Transport: transport, CheckRedirect: mobyclient.CheckRedirect}),
			mobyclient.WithHost(helper.Host), mobyclient.WithDialContext(helper.Dialer))
		return mobyclient.New(opts...)
	}
	if e.tls != nil {
		transport := &http.Transport{TLSClientConfig: e.tls}
		opts = append(opts, mobyclient.WithHTTPClient(&http.Client{Transport: transport, CheckRedirect: mobyclient.CheckRedirect}))
	}
	opts = append(opts, mobyclient.WithHost(e.host))
	if e.autostart {
		s := &starter{socket: DefaultSocket(os.Getenv), execRoot: filepath.Dir(DefaultSocket(os.Getenv))}
		opts = append(opts, mobyclient.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) }))
	}
	return mobyclient.New(opts...)
}

// tlsConfig builds what a tcp host needs; nil for plain tcp.
func tlsConfig(o Options, env func(string) string) (*tls.Config, error) {
	verify := o.TLSVerify || env("DOCKER_TLS_VERIFY") != ""
	dir := env("DOCKER_CERT_PATH")
	if !verify && !o.TLS && dir == "" {
		return nil, nil
	}
	if dir == "" {
		dir = configDir(env)
	}
	file := func(given, name string) (string, error) {
		if given != "" {
			return given, nil
		}
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return "", nil
		} else if err != nil {
			return "", err
		}
		return path, nil
	}
	var t tlsconfig.Options
	var err error
	for _, f := range []struct {
		to          *string
		given, name string
	}{{&t.CAFile, o.CAFile, "ca.pem"}, {&t.CertFile, o.CertFile, "cert.pem"}, {&t.KeyFile, o.KeyFile, "key.pem"}} {
		if *f.to, err = file(f.given, f.name); err != nil {
			return nil, err
		}
	}
	t.InsecureSkipVerify = !verify
	t.ExclusiveRootPools = t.CAFile != ""
	t.MinVersion = tls.VersionTLS12
	c, err := tlsconfig.Client(t)
	if err != nil {
		return nil, fmt.Errorf("TLS configuration: %w", err)
	}
	return c, nil
}
