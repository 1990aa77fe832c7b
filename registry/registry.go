// Package registry speaks the OCI distribution protocol with registries: resolve,
// fetch, push, log in.
//
// A Client keeps connections, schemes and tokens for all registries; a Repository is
// one name on one of them, with the configured mirrors in front if it is on docker.io.
// Challenges, tokens and their cache are oras-go's (registry/remote/auth). The
// requests themselves are ours, because Berth needs what its Repository does not have:
// mirrors, resuming, watchdogs on stalled transfers, and errors in the words that
// users of Docker know.
//
// Every failure has a class: NotFound (manifest, repository or blob unknown),
// Unauthorized, Forbidden, Invalid (content that is not what its digest says, or a
// request the registry calls wrong), Unavailable (no connection, 429, 5xx, a stalled
// transfer, after a few tries with growing pauses).
package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Config is the engine's registry configuration.
type Config struct {
	Insecure  []string // hosts or CIDRs for which http and unverified TLS are allowed; loopback always is
	Mirrors   []string // base URLs tried before docker.io
	UserAgent string
	Log       *slog.Logger

	// CertsDir holds one directory per registry host with *.crt (authorities) and
	// *.cert + *.key (client certificates), as Docker lays it out. Empty:
	// /etc/docker/certs.d.
	CertsDir string
}

// Client holds connections and tokens for all registries. It is safe for concurrent use.
type Client struct {
	cfg   Config
	trust trust
	pause pause

	mu        sync.Mutex // guards the maps
	endpoints map[string]*endpoint
	tokens    map[string]auth.Cache // by host and credentials
}

// New makes a Client.
func New(cfg Config) *Client {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "berth"
	}
	if cfg.CertsDir == "" {
		cfg.CertsDir = "/etc/docker/certs.d"
	}
	return &Client{
		cfg:       cfg,
		trust:     newTrust(cfg.Insecure),
		pause:     pause{first: 500 * time.Millisecond, longest: 30 * time.Second},
		endpoints: map[string]*endpoint{},
		tokens:    map[string]auth.Cache{},
	}
}

// hubHost is where the images of docker.io are served.
const hubHost = "registry-1.docker.io"

// hostOf maps a reference's domain to the host that serves it.
func hostOf(domain string) string {
	switch domain {
	case "", "docker.io", "index.docker.io":
		return hubHost
	}
	return domain
}

// Repository is one repository on one registry, with its mirrors before it.
type Repository struct {
	client *Client
	name   reference.Named
	path   string // name without the domain
	remote *access
	// readers are where content is asked for, in order: mirrors, then remote.
	readers []*access
}

// Repository prepares access to the repository of ref. A nil auth is anonymous.
// Mirrors are always asked without credentials.
func (c *Client) Repository(ref reference.Named, a *Auth) *Repository {
	name := reference.TrimNamed(ref)
	path := reference.Path(name)
	domain := reference.Domain(name)
	r := &Repository{client: c, name: name, path: path, remote: c.access(c.endpoint(hostOf(domain)), a)}
	if hostOf(domain) == hubHost {
		for _, m := range c.cfg.Mirrors {
			r.readers = append(r.readers, c.access(c.mirror(m), nil))
		}
	}
	r.readers = append(r.readers, r.remote)
	return r
}

// maxTokenCaches bounds what many different credentials can make us remember.
const maxTokenCaches = 256

// tokenCache returns the cache for one host and one set of credentials, so that
// tokens of different users are never mixed up.
func (c *Client) tokenCache(host string, a *Auth) auth.Cache {
	key := host
	if a != nil {
		sum := sha256.Sum256([]byte(strings.Join([]string{
			a.Username, a.Password, a.Auth, a.IdentityToken, a.RegistryToken}, "\x00")))
		key += " " + hex.EncodeToString(sum[:])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	cache, ok := c.tokens[key]
	if !ok {
		if len(c.tokens) >= maxTokenCaches {
			clear(c.tokens)
		}
		cache = auth.NewCache()
		c.tokens[key] = cache
	}
	return cache
}
