// Package registry speaks the OCI distribution protocol with registries: resolve,
// fetch, push, log in.
//
// A Client keeps connections, schemes and tokens for all registries; a Repository is
// one name on one of them, with the mirrors that are configured for it in front.
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
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"oras.land/oras-go/v2/registry/remote/auth"

	"berth/fail"
	"berth/oci"
)

// Config is the engine's registry configuration.
type Config struct {
	Insecure  []string // hosts or CIDRs for which http and unverified TLS are allowed; loopback always is
	Mirrors   []string // base URLs tried before docker.io
	UserAgent string
	Log       *slog.Logger

	// HostDirs are looked through for a directory named as a registry, which holds a
	// hosts.toml (containerd's form: mirrors, certificates, headers) or else *.crt
	// (authorities) and *.cert + *.key (client certificates), as Docker lays it out. They
	// are read when they are needed and when they have changed. Nil: DefaultHostDirs.
	HostDirs []string

	// Stall is how long a transfer may stand still before it is begun anew; 0: a minute.
	Stall time.Duration
	// Tries is how often something that may succeed is asked for; 0: 5, as dockerd does.
	Tries int
	// Pause is the first pause between tries; it doubles with each. 0: 200 ms.
	Pause time.Duration
}

// Client holds connections and tokens for all registries. It is safe for concurrent use.
type Client struct {
	cfg   Config
	pause pause

	mu        sync.Mutex // guards what follows
	trust     trust
	mirrors   []string
	ways      map[string]ways // by domain of a reference
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
	if cfg.HostDirs == nil {
		cfg.HostDirs = DefaultHostDirs
	}
	if cfg.Stall == 0 {
		cfg.Stall = time.Minute
	}
	if cfg.Tries == 0 {
		cfg.Tries = 5
	}
	if cfg.Pause == 0 {
		cfg.Pause = 200 * time.Millisecond
	}
	c := &Client{
		cfg:    cfg,
		pause:  pause{first: cfg.Pause, longest: 30 * time.Second},
		tokens: map[string]auth.Cache{},
	}
	c.Configure(cfg.Insecure, cfg.Mirrors)
	return c
}

// Configure sets the insecure registries and the mirrors of docker.io anew. What is
// under way ends as it began.
func (c *Client) Configure(insecure, mirrors []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trust = newTrust(insecure)
	c.mirrors = slices.Clone(mirrors)
	c.ways = map[string]ways{}
	c.endpoints = map[string]*endpoint{}
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
	err    error // the registry's configuration is wrong: each request ends with it
	// readers are where content is asked for, in order: mirrors, then the registry.
	readers []reader

	mu        sync.Mutex // guards what follows
	served    map[oci.Digest]*access
	wrong     map[*access]int       // how often content was not what its digest said
	documents map[oci.Digest][]byte // that came with resolving
}

type reader struct {
	*access
	can capability
}

// Repository prepares access to the repository of ref. A nil auth is anonymous.
// Mirrors are always asked without credentials.
func (c *Client) Repository(ref reference.Named, a *Auth) *Repository {
	name := reference.TrimNamed(ref)
	r := &Repository{client: c, name: name, path: reference.Path(name),
		served: map[oci.Digest]*access{}, wrong: map[*access]int{}, documents: map[oci.Digest][]byte{}}
	w, err := c.waysTo(reference.Domain(name))
	if err != nil {
		r.err = err
		return r
	}
	for _, one := range w.list {
		credentials := a
		if !one.own {
			credentials = nil
		}
		acc := c.access(c.endpoint(one, w.print), credentials)
		if one.can&(canPull|canResolve) != 0 {
			r.readers = append(r.readers, reader{acc, one.can})
		}
		if one.can&canPush != 0 && r.remote == nil {
			r.remote = acc
		}
	}
	return r
}

// writer is where content is pushed to.
func (r *Repository) writer() (*access, error) {
	switch {
	case r.err != nil:
		return nil, r.err
	case r.remote == nil:
		return nil, fail.New(fail.Forbidden, "no server is configured to push %s to", reference.FamiliarName(r.name))
	}
	return r.remote, nil
}

// Reject tells that the content which Blob gave for d is not d. Its server is asked last
// from now on.
func (r *Repository) Reject(d oci.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.served[d]; a != nil {
		r.wrong[a]++
		r.client.cfg.Log.Warn("a server sent wrong content", "server", a.endpoint.way.host, "digest", d)
	}
}

// order are the servers that can serve need, those first that never sent wrong content.
// Mirrors that did not answer lately are left out, if others are there.
func (r *Repository) order(need capability) []*access {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all, awake []*access
	for _, one := range r.readers {
		if one.can&need == 0 {
			continue
		}
		all = append(all, one.access)
		if one.endpoint.way.own || !one.endpoint.resting() {
			awake = append(awake, one.access)
		}
	}
	if len(awake) > 0 {
		all = awake
	}
	slices.SortStableFunc(all, func(a, b *access) int { return r.wrong[a] - r.wrong[b] })
	return all
}

// read asks the mirrors and then the registry itself until one has it, and begins again
// after a pause if one of them may have it the next time. The last answer counts.
func (r *Repository) read(ctx context.Context, need capability, ask func(context.Context, *access) error) error {
	if r.err != nil {
		return r.err
	}
	for round := 0; ; round++ {
		var err error
		var asked time.Duration
		again := false
		servers := r.order(need)
		if len(servers) == 0 {
			return fail.New(fail.Forbidden, "no server is configured to pull %s from", reference.FamiliarName(r.name))
		}
		for i, a := range servers {
			// The repeating is done here, where there are others to ask meanwhile.
			if err = ask(withoutRetry(ctx), a); err == nil || ctx.Err() != nil {
				return err
			}
			worth, after := worthAnother(err)
			again, asked = again || worth, max(asked, after)
			if i < len(servers)-1 {
				r.client.cfg.Log.Info("a mirror does not have it", "mirror", a.endpoint.way.host, "repository", r.path, "error", err)
			}
			if !a.endpoint.way.own && unreachable(err) {
				a.endpoint.rest()
			}
		}
		// A server that wants a longer pause than we are willing to make gets none.
		if !again || round >= r.client.cfg.Tries-1 || asked > r.client.pause.longest {
			return err
		}
		r.client.cfg.Log.Debug("registry is asked again", "repository", r.name, "error", err)
		if err := r.client.pause.wait(ctx, round, asked); err != nil {
			return err
		}
	}
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
