// Package layer keeps unpacked layers by chain ID and makes root file systems and
// diffs of them. Nothing outside knows what a layer is on disk.
package layer

import (
	"context"
	"io"

	"berth/oci"
)

// Store keeps layers at one directory, all with one driver.
type Store struct{ _ int }

// Open opens or creates the store at root and collects what crashes left in staging.
// It chooses the driver: "overlay" where the file system can, else it fails.
func Open(root string) (*Store, error) { panic("contract") }

// Driver names the driver ("overlay").
func (s *Store) Driver() string { panic("contract") }

// Staged is a layer that is unpacked but not yet in the store.
type Staged struct{ _ int }

// Stage begins a layer in a private directory. Layers of one image may be staged at
// the same time, before their parents are in the store.
func (s *Store) Stage(ctx context.Context) (*Staged, error) { panic("contract") }

// Apply unpacks an uncompressed layer tar into the staging directory. Entries never
// reach outside it, whatever their names and links say; an attempt is class Invalid.
// It returns the digest of the tar (the diff ID) and the sum of the file sizes.
func (st *Staged) Apply(ctx context.Context, tar io.Reader) (diffID oci.Digest, size int64, err error) {
	panic("contract")
}

// Commit puts the layer into the store on top of parent (empty for the lowest), whose
// attributes directories take that the tar only implied. A layer that is there already
// stays, and the staged one goes.
func (st *Staged) Commit(parent, diffID oci.Digest) (chain oci.Digest, err error) {
	panic("contract")
}

// Discard drops a layer that was not committed. After Commit it does nothing.
func (st *Staged) Discard() error { panic("contract") }

// Has reports whether the chain is in the store.
func (s *Store) Has(chain oci.Digest) bool { panic("contract") }

// Remove deletes one layer, atomically as seen from Has; a missing one is no error.
func (s *Store) Remove(chain oci.Digest) error { panic("contract") }

// List names all chains in the store.
func (s *Store) List() ([]oci.Digest, error) { panic("contract") }

// Rootfs describes the overlay of a stack (its chain IDs, lowest first) with a writable
// layer in dir/upper and dir/work, which are created if missing. An empty dir gives a
// read-only root.
func (s *Store) Rootfs(chains []oci.Digest, dir string) (oci.Rootfs, error) { panic("contract") }

// Diff writes the tar of what a writable layer (dir as given to Rootfs) changes,
// reproducibly ordered.
func (s *Store) Diff(ctx context.Context, dir string, w io.Writer) error { panic("contract") }
