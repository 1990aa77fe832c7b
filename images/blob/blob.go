// Package blob is the content store: an OCI image layout whose blobs are found by
// digest. What is in it was verified when it came in.
//
//	oci-layout, index.json    as in image-spec, "Image Layout"
//	blobs/<algorithm>/<hex>   the blobs
//	ingest/<algorithm>-<hex>  partial content of a known digest, kept for a later try
//	ingest/new-<random>       content whose digest shows at its end
//
// One process uses a store at a time; within it a Store is safe for concurrent use.
package blob

import (
	"context"
	_ "crypto/sha512" // a digest algorithm works only when it is linked
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/durable"
	"berth/fail"
	"berth/oci"
)

// maxRead bounds Read: manifests are limited to 4 MiB by registries, and no
// configuration comes near this.
const maxRead = 32 << 20

// Store is a content store at one directory.
type Store struct {
	root string

	// Held shared while a blob has its name, and that is not durable yet.
	publishing sync.RWMutex

	mu   sync.Mutex
	busy map[oci.Digest]chan struct{} // closed when the digest's writer ends
}

// Open opens or creates the layout at root (oci-layout, index.json, blobs/sha256)
// and collects what crashes left in its ingest area.
func Open(root string) (*Store, error) {
	s := &Store{root: root, busy: map[oci.Digest]chan struct{}{}}
	for _, dir := range []string{s.blobDir(digest.Canonical), s.ingestDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open content store: %w", err)
		}
	}
	if err := durable.RemoveDebris(root); err != nil {
		return nil, fmt.Errorf("open content store: %w", err)
	}
	layout := filepath.Join(root, ocispec.ImageLayoutFile)
	if _, err := os.Stat(layout); errors.Is(err, fs.ErrNotExist) {
		v := ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}
		if err := durable.WriteJSON(layout, v, 0o600); err != nil {
			return nil, fmt.Errorf("open content store: %w", err)
		}
	}
	if _, err := os.Stat(s.indexPath()); errors.Is(err, fs.ErrNotExist) {
		if err := s.SetIndex(oci.Index{}); err != nil {
			return nil, fmt.Errorf("open content store: %w", err)
		}
	}
	if err := s.collectDebris(); err != nil {
		return nil, fmt.Errorf("open content store: %w", err)
	}
	return s, nil
}

func (s *Store) indexPath() string { return filepath.Join(s.root, ocispec.ImageIndexFile) }

func (s *Store) ingestDir() string { return filepath.Join(s.root, "ingest") }

func (s *Store) blobDir(a digest.Algorithm) string {
	return filepath.Join(s.root, ocispec.ImageBlobsDir, a.String())
}

// blobPath and ingestPath are the only ways from a digest to a file name: no
// unchecked string becomes a path.
func (s *Store) blobPath(d oci.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fail.New(fail.Invalid, "digest %q: %w", d, err)
	}
	return filepath.Join(s.blobDir(d.Algorithm()), d.Encoded()), nil
}

func (s *Store) ingestPath(d oci.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fail.New(fail.Invalid, "digest %q: %w", d, err)
	}
	return filepath.Join(s.ingestDir(), d.Algorithm().String()+"-"+d.Encoded()), nil
}

// Put takes in a small blob.
func (s *Store) Put(ctx context.Context, data []byte) (oci.Digest, error) {
	d := digest.FromBytes(data)
	w, err := s.Ingest(ctx, d)
	if fail.Is(err, fail.NotModified) {
		return d, nil
	}
	if err != nil {
		return "", err
	}
	defer w.Close()
	if err := w.Restart(); err != nil {
		return "", err
	}
	if _, err := w.Write(data); err != nil {
		return "", err
	}
	return w.Commit(int64(len(data)))
}

// Has reports whether the blob is here.
func (s *Store) Has(d oci.Digest) bool {
	_, err := s.Size(d)
	return err == nil
}

// Published waits until what Has reports survives a power failure: a blob is seen a moment
// before its name is durable.
func (s *Store) Published() {
	s.publishing.Lock()
	//lint:ignore SA2001 waiting was all
	s.publishing.Unlock()
}

// Open opens a blob for reading; a missing one is class NotFound.
func (s *Store) Open(d oci.Digest) (*os.File, error) {
	path, err := s.blobPath(d)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, missing(d, err)
	}
	return f, nil
}

// Read returns a small blob, verified.
func (s *Store) Read(d oci.Digest) ([]byte, error) {
	f, err := s.Open(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRead+1))
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", d, err)
	}
	if len(data) > maxRead {
		return nil, fail.New(fail.Invalid, "blob %s is larger than %d MiB, too large for a manifest or configuration", d, maxRead>>20)
	}
	if d.Algorithm().FromBytes(data) != d {
		return nil, fmt.Errorf("blob %s is damaged on disk: remove the image and pull it again", d)
	}
	return data, nil
}

// Verify reads a blob and tells what is wrong with it: class NotFound if it is missing,
// Invalid if the content is another. progress, which may be nil, gets what was read.
func (s *Store) Verify(ctx context.Context, d oci.Digest, progress func(n int)) error {
	f, err := s.Open(d)
	if err != nil {
		return err
	}
	defer f.Close()
	h, b := d.Algorithm().Hash(), make([]byte, 1<<20)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := f.Read(b)
		h.Write(b[:n])
		if progress != nil {
			progress(n)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("blob %s cannot be read: %w", d, err)
		}
	}
	if got := digest.NewDigest(d.Algorithm(), h); got != d {
		return fail.New(fail.Invalid, "blob %s is damaged: its content is %s", d, got)
	}
	return nil
}

// Size returns the size of a blob; a missing one is class NotFound.
func (s *Store) Size(d oci.Digest) (int64, error) {
	path, err := s.blobPath(d)
	if err != nil {
		return 0, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return 0, missing(d, err)
	}
	return fi.Size(), nil
}

func missing(d oci.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fail.New(fail.NotFound, "blob %s is not in the content store", d)
	}
	return fmt.Errorf("blob %s: %w", d, err)
}

// Delete removes a blob; a missing one is no error. A blob that a power loss brings
// back is whole, and found again by the next collection.
func (s *Store) Delete(d oci.Digest) error {
	path, err := s.blobPath(d)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete blob %s: %w", d, err)
	}
	return nil
}

// Walk calls fn for every blob. Blobs that come or go meanwhile may be missed.
func (s *Store) Walk(fn func(d oci.Digest, size int64) error) error {
	return s.WalkTimes(func(d oci.Digest, size int64, _ time.Time) error { return fn(d, size) })
}

// WalkTimes is Walk, and tells when each came.
func (s *Store) WalkTimes(fn func(d oci.Digest, size int64, at time.Time) error) error {
	algorithms, err := os.ReadDir(filepath.Join(s.root, ocispec.ImageBlobsDir))
	if err != nil {
		return fmt.Errorf("list blobs: %w", err)
	}
	for _, a := range algorithms {
		names, err := os.ReadDir(s.blobDir(digest.Algorithm(a.Name())))
		if err != nil {
			return fmt.Errorf("list blobs: %w", err)
		}
		for _, n := range names {
			d := digest.NewDigestFromEncoded(digest.Algorithm(a.Name()), n.Name())
			if d.Validate() != nil {
				continue
			}
			fi, err := n.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("list blobs: %w", err)
			}
			if err := fn(d, fi.Size(), fi.ModTime()); err != nil {
				return err
			}
		}
	}
	return nil
}

// Index returns the layout's index.json: what SetIndex last published.
func (s *Store) Index() (oci.Index, error) {
	var ix oci.Index
	err := durable.ReadJSON(s.indexPath(), &ix)
	return ix, err
}

// SetIndex publishes index.json, by which other OCI tools find images in the store
// (descriptors with the annotation org.opencontainers.image.ref.name). Version and
// media type are filled in.
func (s *Store) SetIndex(ix oci.Index) error {
	ix.Versioned = specs.Versioned{SchemaVersion: 2}
	ix.MediaType = ocispec.MediaTypeImageIndex
	if ix.Manifests == nil {
		ix.Manifests = []oci.Descriptor{}
	}
	data, err := json.MarshalIndent(ix, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(s.indexPath(), append(data, '\n'), 0o600)
}
