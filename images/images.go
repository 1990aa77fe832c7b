// Package images keeps images: their names, manifests, configurations and layers.
// It pulls, pushes, loads, saves and imports them, and collects what nobody needs.
package images

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/distribution/reference"

	"berth/durable"
	"berth/events"
	"berth/oci"
	"berth/registry"
)

// Config says where a Store lives and what it uses.
type Config struct {
	Root     string // the data root: content/ and layers/ are made in it
	DB       *durable.DB
	Registry *registry.Client
	Events   *events.Bus
	Log      *slog.Logger
}

// Store is the engine's image store. It is safe for concurrent use.
type Store struct{ _ int }

// Open opens the store, finishes or undoes what a crash interrupted, and drops leases
// of processes that are gone.
func Open(cfg Config) (*Store, error) { panic("contract") }

// Image is an image that is here, complete for one platform. Values are immutable.
type Image struct {
	ID          oci.Digest     // digest of the configuration
	Target      oci.Descriptor // what the reference resolved to: a manifest, or an index
	Manifest    oci.Descriptor // of this platform
	Config      oci.Image
	RawConfig   []byte   // the configuration's bytes (fields that oci.Image lacks, e.g. Healthcheck)
	RepoTags    []string // familiar: "debian:12"
	RepoDigests []string // familiar: "debian@sha256:…"
	Size        int64    // unpacked bytes of all layers
	LastTagged  time.Time
}

// Progress is told what a pull, push or load does. ID is a short layer ID or empty;
// Current and Total are bytes, zero when they do not apply. It is called from several
// goroutines, one call at a time.
type Progress func(p Step)

// Step is one progress message, in Docker's own words ("Pulling fs layer",
// "Downloading", "Verifying Checksum", "Download complete", "Extracting",
// "Pull complete", "Already exists", "Pushing", "Pushed", …).
type Step struct {
	ID, Status     string
	Current, Total int64
	// Aux carries a result for API clients (push: Tag, Digest, Size).
	Aux any
}

// Pull fetches the image ref (tag or digest) for platform (nil: this machine's).
func (s *Store) Pull(ctx context.Context, ref reference.Named, platform *oci.Platform, auth *registry.Auth, report Progress) (Image, error) {
	panic("contract")
}

// Push sends ref to its registry; nothing that is there already is sent.
func (s *Store) Push(ctx context.Context, ref reference.Named, auth *registry.Auth, report Progress) error {
	panic("contract")
}

// Get finds an image by familiar or full reference, digest reference, ID or unique ID
// prefix (with or without "sha256:"). A missing one is class NotFound with Docker's
// text "No such image: REF"; an ambiguous prefix is Invalid.
func (s *Store) Get(name string) (Image, error) { panic("contract") }

// List returns all images, newest first.
func (s *Store) List() ([]Image, error) { panic("contract") }

// Tag gives the image source the further name target, taking the name away from
// another image if need be.
func (s *Store) Tag(source string, target reference.Named) error { panic("contract") }

// Removal is one line of what Remove did: one of the two is set.
type Removal struct{ Untagged, Deleted string }

// RemoveOptions guide Remove.
type RemoveOptions struct {
	Force   bool
	NoPrune bool
	// Users names the containers that use an image, and those among them that run.
	Users func(id oci.Digest) (all, running []string)
}

// Remove removes a name and, with the last name, the image, by Docker's rules
// (reference/semantics: rmi). A refusal is class Conflict in Docker's words.
func (s *Store) Remove(ctx context.Context, name string, o RemoveOptions) ([]Removal, error) {
	panic("contract")
}

// HistoryEntry is one row of history, newest first.
type HistoryEntry struct {
	ID        string // the image's ID for the newest, "<missing>" for others
	Created   time.Time
	CreatedBy string
	Comment   string
	Tags      []string
	Size      int64
}

// History tells how the image came about.
func (s *Store) History(name string) ([]HistoryEntry, error) { panic("contract") }

// Save writes the named images as one archive that is both Docker's and an OCI layout.
func (s *Store) Save(ctx context.Context, names []string, w io.Writer) error { panic("contract") }

// Load takes in an archive of Docker's form or an OCI layout, compressed or not, and
// returns a familiar reference or an ID for each image in it.
func (s *Store) Load(ctx context.Context, r io.Reader, report Progress) ([]string, error) {
	panic("contract")
}

// ImportOptions describe the image that Import makes.
type ImportOptions struct {
	Ref      reference.Named // nil: untagged
	Message  string
	Changes  []string // Dockerfile lines: CMD ENTRYPOINT ENV EXPOSE LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR
	Platform *oci.Platform
}

// Import makes an image of one layer from a tar of a root file system, compressed or
// not.
func (s *Store) Import(ctx context.Context, r io.Reader, o ImportOptions) (oci.Digest, error) {
	panic("contract")
}

// Rootfs describes the root file system of image id with a writable layer in dir.
func (s *Store) Rootfs(id oci.Digest, dir string) (oci.Rootfs, error) { panic("contract") }

// GraphDriver names the layer driver, for info and inspect.
func (s *Store) GraphDriver() string { panic("contract") }

// LayersSize is the sum of the unpacked layers' sizes, shared ones counted once.
func (s *Store) LayersSize() (int64, error) { panic("contract") }

// Use runs fn while image id cannot be removed (a lease): create holds it between
// resolving an image and recording the container that uses it.
func (s *Store) Use(ctx context.Context, id oci.Digest, fn func() error) error { panic("contract") }

// Collect deletes blobs and layers that no image, container or lease needs, and tells
// how many bytes that freed. inUse names images that containers hold.
func (s *Store) Collect(ctx context.Context, inUse func(oci.Digest) bool) (int64, error) {
	panic("contract")
}
