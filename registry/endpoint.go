package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"berth/fail"
)

// trust decides which hosts may be talked to without verified TLS.
type trust struct {
	hosts map[string]bool
	nets  []netip.Prefix
}

func newTrust(insecure []string) trust {
	t := trust{hosts: map[string]bool{}}
	for _, e := range insecure {
		if p, err := netip.ParsePrefix(e); err == nil {
			t.nets = append(t.nets, p.Masked())
			continue
		}
		e = strings.TrimPrefix(strings.TrimPrefix(e, "https://"), "http://")
		t.hosts[strings.ToLower(strings.TrimSuffix(e, "/"))] = true
	}
	return t
}

// insecure reports whether host ("name[:port]") is loopback or configured so. Names
// are looked up only if there are networks to compare with.
func (t trust) insecure(ctx context.Context, host string) bool {
	host = strings.ToLower(host)
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.Trim(name, "[]")
	if name == "localhost" || t.hosts[host] || t.hosts[name] {
		return true
	}
	if a, err := netip.ParseAddr(name); err == nil {
		return a.IsLoopback() || t.contains(a)
	}
	if len(t.nets) == 0 {
		return false
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if t.contains(a) {
			return true
		}
	}
	return false
}

func (t trust) contains(a netip.Addr) bool {
	for _, p := range t.nets {
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}

// endpoint is one server: a registry or a mirror. Its scheme, and whether its
// certificate is verified, are found out when it is first used.
type endpoint struct {
	client *Client
	host   string // name[:port], as credentials and certificates are filed
	fixed  string // the base URL, if the configuration gave one with its scheme

	mu   sync.Mutex // serialises finding out; guards the rest
	base string     // scheme://host[/prefix], empty: not known yet
	http *http.Client
	// probed: the scheme was tried out, and may change.
	probed bool
}

func (c *Client) endpoint(host string) *endpoint { return c.intern(host, "") }

// mirror is the endpoint of a base URL of the configuration.
func (c *Client) mirror(base string) *endpoint {
	base = strings.TrimSuffix(base, "/")
	u, err := url.Parse(base)
	if err != nil || u.Host == "" {
		return c.intern(base, "")
	}
	return c.intern(u.Host, base)
}

func (c *Client) intern(host, fixed string) *endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := host + " " + fixed
	e, ok := c.endpoints[key]
	if !ok {
		e = &endpoint{client: c, host: host, fixed: fixed}
		c.endpoints[key] = e
	}
	return e
}

// connect returns the base URL and the HTTP client of the endpoint. Hosts that need
// not be secure are asked by https first (without verification) and by http then, as
// Docker does; the answer is remembered.
func (e *endpoint) connect(ctx context.Context) (string, *http.Client, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.base != "" {
		return e.base, e.http, nil
	}
	insecure := e.client.trust.insecure(ctx, e.host)
	tlsConfig, err := e.client.tlsConfig(e.host)
	if err != nil {
		return "", nil, err
	}
	tlsConfig.InsecureSkipVerify = insecure
	hc := e.client.httpClient(tlsConfig)
	switch {
	case e.fixed != "":
		e.base, e.http = e.fixed, hc
		return e.base, e.http, nil
	case !insecure:
		e.base, e.http = "https://"+e.host, hc
		return e.base, e.http, nil
	}
	for _, scheme := range []string{"https://", "http://"} {
		if err = e.answers(ctx, hc, scheme+e.host); err == nil {
			e.base, e.http, e.probed = scheme+e.host, hc, true
			return e.base, e.http, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	hc.CloseIdleConnections()
	return "", nil, err
}

// reconsider forgets what was found out about an insecure host, after a failure that a
// registry which changed between http and https would cause.
func (e *endpoint) reconsider() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.probed && e.base != "" {
		e.http.CloseIdleConnections()
		e.base = ""
	}
}

// answers asks whether any HTTP server answers at base; what it says does not matter.
func (e *endpoint) answers(ctx context.Context, hc *http.Client, base string) error {
	ctx, cancel := context.WithTimeoutCause(withoutRetry(ctx), 10*time.Second, errStalled)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v2/", nil)
	if err != nil {
		return fail.Mark(fail.Invalid, err)
	}
	req.Header.Set("User-Agent", e.client.cfg.UserAgent)
	resp, err := hc.Do(req)
	if err != nil {
		if context.Cause(ctx) == errStalled {
			return fail.New(fail.Unavailable, "Get %q: %w", base+"/v2/", errStalled)
		}
		return connectionError(base, err)
	}
	drain(resp)
	return nil
}

// httpClient makes the stack of transports: retries over watchdogs over net/http.
func (c *Client) httpClient(config *tls.Config) *http.Client {
	dialer := &net.Dialer{Timeout: 20 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Client{Transport: &retrying{pause: c.pause, log: c.cfg.Log, next: &watched{
		headers: headerTimeout, idle: idleTimeout,
		next: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           dialer.DialContext,
			TLSClientConfig:       config,
			TLSHandshakeTimeout:   10 * time.Second,
			ForceAttemptHTTP2:     true,
			MaxIdleConnsPerHost:   8,
			IdleConnTimeout:       60 * time.Second,
			ExpectContinueTimeout: time.Second,
			DisableCompression:    true, // blobs and manifests are compared byte for byte
			WriteBufferSize:       64 << 10,
			ReadBufferSize:        64 << 10,
		}}}}
}

// tlsConfig reads the host's certificates from the configured directory, if any.
func (c *Client) tlsConfig(host string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	// A host is a file name here; one that could leave the directory has no certificates.
	if strings.ContainsAny(host, "/\x00") || host == ".." || host == "." {
		return config, nil
	}
	dir := filepath.Join(c.cfg.CertsDir, host)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return config, nil // none: the usual case
	}
	for _, entry := range entries {
		file := filepath.Join(dir, entry.Name())
		switch filepath.Ext(file) {
		case ".crt":
			pem, err := os.ReadFile(file)
			if err != nil {
				return nil, fmt.Errorf("certificates of %s: %w", host, err)
			}
			if config.RootCAs == nil {
				if config.RootCAs, err = x509.SystemCertPool(); err != nil {
					config.RootCAs = x509.NewCertPool()
				}
			}
			if !config.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fail.New(fail.Invalid, "%s holds no certificate in PEM form", file)
			}
		case ".cert":
			pair, err := tls.LoadX509KeyPair(file, strings.TrimSuffix(file, ".cert")+".key")
			if err != nil {
				return nil, fail.New(fail.Invalid, "client certificate of %s: %w", host, err)
			}
			config.Certificates = append(config.Certificates, pair)
		}
	}
	return config, nil
}
