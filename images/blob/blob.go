// Package blob is the content store: an OCI image layout whose blobs are found by
// digest. What is in it was verified when it came in.
package blob

import (
	"context"
	"os"

	"berth/oci"
)

// Store is a content store at one directory.
type Store struct{ _ int }

// Open opens or creates the layout at root (oci-layout, index.json, blobs/sha256)
// and collects what crashes left in its ingest area.
func Open(root string) (*Store, error) { panic("contract") }

// Writer takes in one blob. It is visible to others only after Commit.
type Writer struct{ _ int }

// Ingest begins or continues taking in a blob. want is the expected digest, or empty if it
// is only known at the end. With want, a partial content that an earlier try left is
// kept: Offset tells where to go on.
func (s *Store) Ingest(ctx context.Context, want oci.Digest) (*Writer, error) { panic("contract") }

func (w *Writer) Offset() int64               { panic("contract") }
func (w *Writer) Write(p []byte) (int, error) { panic("contract") }

// Commit verifies digest and size (size < 0: not known), makes the blob durable and
// visible. A mismatch is class Invalid, and the content is dropped.
func (w *Writer) Commit(size int64) (oci.Digest, error) { panic("contract") }

// Close ends an ingest that was not committed: partial content with an expected digest
// stays for a later try, other content goes. After Commit it does nothing.
func (w *Writer) Close() error { panic("contract") }

// Put takes in a small blob.
func (s *Store) Put(ctx context.Context, data []byte) (oci.Digest, error) { panic("contract") }

// Open opens a blob for reading; a missing one is class NotFound.
func (s *Store) Open(d oci.Digest) (*os.File, error) { panic("contract") }

// Read returns a small blob, verified.
func (s *Store) Read(d oci.Digest) ([]byte, error) { panic("contract") }

// Size returns the size of a blob; a missing one is class NotFound.
func (s *Store) Size(d oci.Digest) (int64, error) { panic("contract") }

// Delete removes a blob; a missing one is no error.
func (s *Store) Delete(d oci.Digest) error { panic("contract") }

// Walk calls fn for every blob.
func (s *Store) Walk(fn func(d oci.Digest, size int64) error) error { panic("contract") }
