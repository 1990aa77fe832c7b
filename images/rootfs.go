package images

import (
	"context"
	"fmt"
	"io"

	"berth/fail"
	"berth/images/layer"
	"berth/oci"
)

// The writable layer of a container is what is in the directory dir that it was given to
// Rootfs with, on top of the image id. What it is on disk is the layer store's business.
// It can be read at any time, also while the container changes it.

// Change is one path that a writable layer changes.
type Change = layer.Change

// What can become of a path. The numbers are the Docker Engine API's.
const (
	Modified = layer.Modified
	Added    = layer.Added
	Deleted  = layer.Deleted
)

// Rootfs describes the root file system of image id with a writable layer in dir, which
// is made if it is missing.
func (s *Store) Rootfs(ctx context.Context, id oci.Digest, dir string) (oci.Rootfs, error) {
	chains, err := s.stackOf(id)
	if err != nil {
		return oci.Rootfs{}, err
	}
	root, err := s.layers.Rootfs(ctx, chains, dir)
	if err != nil {
		return oci.Rootfs{}, fmt.Errorf("root file system of image %s: %w", id, err)
	}
	return root, nil
}

// Changes lists what the writable layer changes of the image, sorted by path. The
// directories that lead to a change count as modified. Without a writable layer the
// error is NotFound. What mounting on targets (absolute paths) leaves is no change.
func (s *Store) Changes(ctx context.Context, id oci.Digest, dir string, targets []string) ([]Change, error) {
	chains, err := s.stackOf(id)
	if err != nil {
		return nil, err
	}
	return s.layers.Changes(ctx, chains, dir, targets)
}

// Diff writes what the writable layer changes as a layer's tar: uncompressed, the same
// bytes for the same changes, with whiteouts. Its digest is a diff ID.
func (s *Store) Diff(ctx context.Context, id oci.Digest, dir string, w io.Writer) error {
	chains, err := s.stackOf(id)
	if err != nil {
		return err
	}
	return s.layers.Diff(ctx, chains, dir, w)
}

// Export writes all files of the image and the writable layer together as one tar. An
// empty dir stands for an untouched image.
func (s *Store) Export(ctx context.Context, id oci.Digest, dir string, w io.Writer) error {
	chains, err := s.stackOf(id)
	if err != nil {
		return err
	}
	return s.layers.Export(ctx, chains, dir, w)
}

// WritableSize is the sum of the sizes of the files that the writable layer adds or changes,
// zero if it was not made yet.
func (s *Store) WritableSize(ctx context.Context, id oci.Digest, dir string) (int64, error) {
	chains, err := s.stackOf(id)
	if err != nil {
		return 0, err
	}
	return s.layers.Usage(ctx, chains, dir)
}

func (s *Store) stackOf(id oci.Digest) ([]oci.Digest, error) {
	e := s.entry(id)
	if e == nil {
		return nil, fail.New(fail.NotFound, "No such image: %s", id)
	}
	return e.Chains, nil
}
