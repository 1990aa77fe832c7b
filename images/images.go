// Package images keeps images: their names, manifests, configurations and layers.
// It pulls, pushes, loads, saves, imports and commits them, and collects what nobody needs.
//
// # What is where
//
// Blobs lie in the content store (room blob) exactly as they came, so that an image is
// pushed back with the digests it was pulled with. Layers lie unpacked in the layer
// store (room layer). What an image is made of, and what it is called, is its record in
// the database, under its ID (bucket "images"); bucket "layers" remembers of blobs where
// they are known to be and what they were compressed to; bucket "leases" tells what work
// was under way.
//
// # Life of an image
//
// Pull, Load, Import and Commit bring blobs and layers in under a lease, and write the record
// last: an image is there wholly or not at all. Remove takes the record away first, then
// what no other record or lease needs. What a crash leaves between is neither visible
// nor in the way, serves the next try of the same pull, and goes with Collect.
//
// An image that is removed by force while containers use it keeps a hidden record, and
// with it its layers, until Release tells that the last of them is gone, or a Collect
// finds it unused.
package images

import (
	"cmp"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"berth/durable"
	"berth/events"
	"berth/images/blob"
	"berth/images/layer"
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
	// PushForeign lists registries (hosts or CIDRs) to which non-distributable layers are
	// pushed too.
	PushForeign []string
	// Driver is how root file systems are made of layers: "overlay", "copy", or empty for
	// what the file system of Root can.
	Driver string
	// Downloads and Uploads bound how many layers of one image are on their way at the same
	// time. 0: 4 and 5.
	Downloads, Uploads int
	// CacheMax bounds in bytes what is kept that no image needs (see cache.go). 0: no bound.
	CacheMax int64
}

// Store is the engine's image store. It is safe for concurrent use.
type Store struct {
	root     string
	db       *durable.DB
	registry *registry.Client
	events   *events.Bus
	log      *slog.Logger
	blobs    *blob.Store
	layers   *layer.Store

	pushForeign        []string
	downloads, uploads int
	cacheMax           int64

	// Locks are taken in the order of these fields.
	removal sync.RWMutex // Use holds it shared, the deciding part of Remove alone
	sweep   sync.RWMutex // deleting content holds it alone, beginning to need some shared
	write   sync.Mutex   // serialises changes of records
	mu      sync.Mutex   // guards the rest
	index   index
	leases  map[*lease]struct{}
	flights map[course]*flight
	damaged map[string]error // images whose records cannot be read, and why
}

// Open opens the store, finishes or undoes what a crash interrupted, and drops leases
// of processes that are gone.
func Open(cfg Config) (*Store, error) {
	s := &Store{
		root: cfg.Root, db: cfg.DB, registry: cfg.Registry, events: cfg.Events, log: cfg.Log,
		pushForeign: cfg.PushForeign, downloads: cmp.Or(cfg.Downloads, defaultDownloads), uploads: cmp.Or(cfg.Uploads, defaultUploads), cacheMax: cfg.CacheMax, leases: map[*lease]struct{}{}, flights: map[course]*flight{}, damaged: map[string]error{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.events == nil {
		s.events = events.NewBus()
	}
	if s.registry == nil {
		s.registry = registry.New(registry.Config{Log: s.log})
	}
	var err error
	if s.blobs, err = blob.Open(filepath.Join(cfg.Root, "content")); err != nil {
		return nil, err
	}
	if s.layers, err = layer.Open(filepath.Join(cfg.Root, "layers"), cfg.Driver); err != nil {
		return nil, err
	}
	if why := s.layers.WhyCopy(); why != nil {
		s.log.Warn("each container gets a copy of its image's files, which takes time and space (driver copy)", "reason", why)
	}
	if s.index, err = s.loadIndex(); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	if err := s.dropOldLeases(); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	s.publishLayout()
	s.trimCache()
	return s, nil
}

// Close ends deletions under way; the next Open goes on with them.
func (s *Store) Close() error { return s.layers.Close() }

// Image is an image that is here, complete for one platform, or an artifact. Values are
// immutable.
type Image struct {
	ID          oci.Digest     // digest of the configuration
	Target      oci.Descriptor // what the reference resolved to: a manifest, or an index
	Manifest    oci.Descriptor // of this platform
	Artifact    string         // the type of what is no image to run; then Config is empty
	Config      oci.Image
	RawConfig   []byte   // the configuration's bytes (fields that oci.Image lacks, e.g. Healthcheck)
	RepoTags    []string // familiar: "debian:12"
	RepoDigests []string // familiar: "debian@sha256:…"
	Size        int64    // unpacked bytes of all layers
	LastTagged  time.Time
}

// Created is when the image was built; the zero time if it does not tell.
func (img Image) Created() time.Time {
	if img.Config.Created == nil {
		return time.Time{}
	}
	return *img.Config.Created
}

// GraphDriver names the layer driver, for info and inspect.
func (s *Store) GraphDriver() string { return s.layers.Driver() }

// DriverFacts are names and values that tell of the layer driver, for info.
func (s *Store) DriverFacts() [][2]string { return s.layers.Facts() }

// LayersSize is the sum of the unpacked layers' sizes, shared ones counted once.
func (s *Store) LayersSize() (int64, error) {
	chains, err := s.layers.List()
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, c := range chains {
		if n, err := s.layers.Size(c); err == nil { // else it went meanwhile
			sum += n
		}
	}
	return sum, nil
}
