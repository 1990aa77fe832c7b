// Package registry speaks the OCI distribution protocol with registries: resolve,
// fetch, push, log in.
package registry

import (
	"context"
	"io"
	"log/slog"

	"github.com/distribution/reference"

	"berth/oci"
)

// Config is the engine's registry configuration.
type Config struct {
	Insecure  []string // hosts or CIDRs for which http and unverified TLS are allowed; loopback always is
	Mirrors   []string // base URLs tried before docker.io
	UserAgent string
	Log       *slog.Logger
}

// Auth is what a client sends in X-Registry-Auth.
type Auth struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	Auth          string `json:"auth,omitempty"` // base64 user:password, an older form
	ServerAddress string `json:"serveraddress,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

// Client holds connections and tokens for all registries.
type Client struct{ _ int }

// New makes a Client.
func New(cfg Config) *Client { panic("contract") }

// Login checks credentials against a registry. It returns the identity token that
// shall replace the password, if the registry issues one.
// Wrong credentials are class Unauthorized.
func (c *Client) Login(ctx context.Context, a Auth) (identityToken string, err error) {
	panic("contract")
}

// Repository is one repository on one registry, with its mirrors behind it.
type Repository struct{ _ int }

// Repository prepares access to the repository of ref. A nil auth is anonymous.
func (c *Client) Repository(ref reference.Named, auth *Auth) *Repository { panic("contract") }

// Resolve asks what ref (a tag, or a digest string) stands for. An unknown one is
// class NotFound, refused access Unauthorized or Forbidden, no answer Unavailable.
func (r *Repository) Resolve(ctx context.Context, ref string) (oci.Descriptor, error) {
	panic("contract")
}

// Manifest fetches a manifest or index and verifies size and digest.
func (r *Repository) Manifest(ctx context.Context, d oci.Descriptor) ([]byte, error) {
	panic("contract")
}

// Blob streams a blob from offset. It retries and resumes by itself what can be
// resumed. The caller verifies the digest and closes.
func (r *Repository) Blob(ctx context.Context, d oci.Descriptor, offset int64) (io.ReadCloser, error) {
	panic("contract")
}

// HasBlob reports whether the repository holds the blob already.
func (r *Repository) HasBlob(ctx context.Context, d oci.Descriptor) (bool, error) {
	panic("contract")
}

// MountBlob asks the registry to take the blob over from another repository of it,
// and reports whether it did.
func (r *Repository) MountBlob(ctx context.Context, d oci.Descriptor, from string) (bool, error) {
	panic("contract")
}

// PushBlob uploads a blob. open is called for each try; progress sees the bytes sent
// so far of the current one and may be nil.
func (r *Repository) PushBlob(ctx context.Context, d oci.Descriptor, open func() (io.ReadCloser, error), progress func(sent int64)) error {
	panic("contract")
}

// PushManifest uploads a manifest or index and, if tag is not empty, tags it.
func (r *Repository) PushManifest(ctx context.Context, d oci.Descriptor, data []byte, tag string) error {
	panic("contract")
}

// Tags lists the repository's tags.
func (r *Repository) Tags(ctx context.Context) ([]string, error) { panic("contract") }
