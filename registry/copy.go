package registry

import (
	"context"
	"fmt"
	"io"

	"github.com/distribution/reference"
	"golang.org/x/sync/errgroup"

	"berth/fail"
	"berth/oci"
)

// Copy brings a manifest, and what it names, from another repository into r without
// unpacking anything: what r has is left alone, what is on the same registry is mounted,
// the rest goes through us. It is not tagged.
func (r *Repository) Copy(ctx context.Context, from *Repository, d oci.Descriptor) error {
	data, err := from.Manifest(ctx, d)
	if err != nil {
		return err
	}
	var m struct {
		Config *oci.Descriptor  `json:"config"`
		Layers []oci.Descriptor `json:"layers"`
	}
	if oci.IsIndex(d.MediaType) {
		return fail.New(fail.Invalid, "%s is an index, not a manifest", d.Digest)
	}
	if err := oci.Decode(data, &m); err != nil {
		return fail.New(fail.Invalid, "manifest %s: %w", d.Digest, err)
	}
	blobs := m.Layers
	if m.Config != nil {
		blobs = append(blobs, *m.Config)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, b := range blobs {
		if err := b.Digest.Validate(); err != nil {
			return fail.New(fail.Invalid, "manifest %s names the blob %q: %w", d.Digest, b.Digest, err)
		}
		g.Go(func() error { return r.copyBlob(gctx, from, b) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("copy %s@%s: %w", reference.FamiliarName(from.name), d.Digest, err)
	}
	return r.PushManifest(ctx, oci.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: int64(len(data))}, data, "")
}

func (r *Repository) copyBlob(ctx context.Context, from *Repository, d oci.Descriptor) error {
	if has, err := r.HasBlob(ctx, d); err != nil || has {
		return err
	}
	if reference.Domain(from.name) == reference.Domain(r.name) {
		// A refusal is no failure: the blob can still be sent.
		if ok, err := r.MountBlob(ctx, d, from.path); err == nil && ok {
			return nil
		}
	}
	return r.PushBlob(ctx, d, func() (io.ReadCloser, error) { return from.Blob(ctx, d, 0) }, nil)
}
