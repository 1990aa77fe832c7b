package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
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

// CheckInsecure reports whether s can be an entry of insecure-registries: a host with an
// optional port, or a CIDR.
func CheckInsecure(s string) error {
	if _, err := netip.ParsePrefix(s); err == nil {
		return nil
	}
	host := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://"), "/")
	if w, err := parseWay(host); err != nil || w.root != "/v2" || strings.Contains(host, "://") {
		return fail.New(fail.Invalid, "%q is neither host[:port] nor a network such as 10.0.0.0/8", s)
	}
	return nil
}

// named reports whether the configuration names host itself.
func (t trust) named(host string) bool {
	host = strings.ToLower(host)
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	return t.hosts[host] || t.hosts[strings.Trim(name, "[]")]
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
	if name == "localhost" || t.named(host) {
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
	way    way

	finding chan struct{} // holds one while somebody finds out

	mu   sync.Mutex // guards the rest
	base string     // scheme://host/root, empty: not known yet
	http *http.Client
	// probed: the scheme was tried out, and may change.
	probed bool
	// until when a mirror that did not answer is spared
	resumes time.Time
}

// endpoint returns the one for w. print tells apart what became of it when files change.
func (c *Client) endpoint(w way, print string) *endpoint {
	key := w.key() + print
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.endpoints[key]
	if !ok {
		e = &endpoint{client: c, way: w, finding: make(chan struct{}, 1)}
		c.endpoints[key] = e
	}
	return e
}

// restTime is how long a mirror that does not answer is not asked.
const restTime = 30 * time.Second

func (e *endpoint) rest() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.resumes = time.Now().Add(restTime)
}

func (e *endpoint) resting() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Now().Before(e.resumes)
}

// insecure reports whether the endpoint needs no verified TLS: because the configuration
// names it, or because it is on loopback and no certificates are configured for it.
func (e *endpoint) insecure(ctx context.Context) bool {
	e.client.mu.Lock()
	t := e.client.trust
	e.client.mu.Unlock()
	if e.way.configured {
		return t.named(e.way.host)
	}
	return t.insecure(ctx, e.way.host)
}

// connect returns the URL of the API and the HTTP client of the endpoint. Hosts that
// need not be secure are asked by https first (without verification) and by http then, as
// Docker does; the answer is remembered.
func (e *endpoint) connect(ctx context.Context) (string, *http.Client, error) {
	if base, hc := e.found(); base != "" {
		return base, hc, nil
	}
	select {
	case e.finding <- struct{}{}:
		defer func() { <-e.finding }()
	case <-ctx.Done():
		return "", nil, context.Cause(ctx)
	}
	if base, hc := e.found(); base != "" {
		return base, hc, nil
	}
	base, hc, probed, err := e.find(ctx)
	if err != nil {
		return "", nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.base, e.http, e.probed = base, hc, probed
	return base, hc, nil
}

// found is what connect has remembered.
func (e *endpoint) found() (base string, hc *http.Client) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.base, e.http
}

// find does what connect is for; probed: the scheme was tried out.
func (e *endpoint) find(ctx context.Context) (base string, hc *http.Client, probed bool, err error) {
	insecure := e.insecure(ctx)
	tlsConfig, err := e.way.tlsConfig(insecure)
	if err != nil {
		return "", nil, false, err
	}
	hc = e.httpClient(tlsConfig)
	rest := e.way.host + e.way.root
	switch {
	case e.way.scheme != "":
		return e.way.scheme + "://" + rest, hc, false, nil
	case !insecure:
		return "https://" + rest, hc, false, nil
	}
	for _, scheme := range []string{"https://", "http://"} {
		if err = e.answers(ctx, hc, scheme+rest); err == nil {
			return scheme + rest, hc, true, nil
		}
		if ctx.Err() != nil || speaksTLS(err) {
			break
		}
	}
	hc.CloseIdleConnections()
	return "", nil, false, err
}

// speaksTLS reports whether err came out of a conversation in TLS.
func speaksTLS(err error) bool {
	var bad *tls.CertificateVerificationError
	var op *net.OpError
	return errors.As(err, &bad) || errors.As(err, &op) && op.Op == "remote error"
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
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/", nil)
	if err != nil {
		return fail.Mark(fail.Invalid, err)
	}
	req.Header.Set("User-Agent", e.client.cfg.UserAgent)
	resp, err := hc.Do(req)
	if err != nil {
		if context.Cause(ctx) == errStalled {
			return fail.New(fail.Unavailable, "Get %q: %w", base+"/", errStalled)
		}
		return connectionError(base, err)
	}
	drain(resp)
	return nil
}

// httpClient makes the stack of transports: retries over watchdogs over net/http.
func (e *endpoint) httpClient(config *tls.Config) *http.Client {
	c := e.client
	dialer := &net.Dialer{Timeout: 20 * time.Second, KeepAlive: 30 * time.Second}
	if e.way.dial > 0 {
		dialer.Timeout = e.way.dial
	}
	var next http.RoundTripper = &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		DialContext:     dialer.DialContext,
		TLSClientConfig: config,
		// HTTP/1.1 only: layers come side by side over connections of their own, with
		// windows and ciphers of their own.
		TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{},
		TLSHandshakeTimeout:   10 * time.Second,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       60 * time.Second,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // blobs and manifests are compared byte for byte
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
	}
	if e.way.header != nil {
		next = &headed{host: e.way.host, header: e.way.header, next: next}
	}
	return &http.Client{CheckRedirect: fewRedirects, Transport: &retrying{tries: c.cfg.Tries, pause: c.pause, log: c.cfg.Log,
		next: &watched{headers: 2 * c.cfg.Stall, idle: c.cfg.Stall, next: next}}}
}

// errRedirects may be gone the next time: storage behind registries is often many servers.
var errRedirects = errors.New("redirected more than 10 times")

func fewRedirects(_ *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errRedirects
	}
	return nil
}

// headed adds the configured headers to what goes to the host itself, not to where it
// redirects.
type headed struct {
	host   string
	header http.Header
	next   http.RoundTripper
}

func (t *headed) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == t.host {
		req = req.Clone(req.Context())
		for name, values := range t.header {
			if req.Header.Get(name) == "" || name != "Authorization" {
				req.Header[name] = values
			}
		}
	}
	return t.next.RoundTrip(req)
}
