package images

import (
	"context"
	"maps"

	"berth/durable"
	"berth/fail"
	"berth/oci"
)

// needed marks the blobs and layers that records and leases need. Of hidden images only
// those count that inUse names. The caller holds Store.sweep alone.
func (s *Store) needed(inUse func(oci.Digest) bool) (blobs, layers map[oci.Digest]bool) {
	blobs, layers = map[oci.Digest]bool{}, map[oci.Digest]bool{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, e := range s.index.images {
		if e.Hidden && !inUse(id) {
			continue
		}
		for _, v := range e.Variants {
			for _, d := range v.blobs() {
				blobs[d] = true
			}
		}
		for _, c := range e.Chains {
			layers[c] = true
		}
	}
	for l := range s.leases {
		maps.Copy(blobs, l.blobs)
		maps.Copy(layers, l.layers)
	}
	return blobs, layers
}

// Collect deletes blobs and layers that no image, container or lease needs, and tells
// how many bytes that freed. inUse names images that containers hold.
func (s *Store) Collect(ctx context.Context, inUse func(oci.Digest) bool) (int64, error) {
	if inUse == nil {
		inUse = func(oci.Digest) bool { return false }
	}
	if s.isDamaged() {
		return 0, fail.New(fail.Conflict, "records of images are damaged, so nobody knows what they need: repair them first (berth system check --repair)")
	}
	if err := s.purgeHidden(inUse); err != nil {
		return 0, err
	}
	durable.Failpoint("images.collect.purged")
	s.sweep.Lock()
	defer s.sweep.Unlock()
	blobs, layers := s.needed(inUse)
	var freed int64
	chains, err := s.layers.List()
	if err != nil {
		return 0, err
	}
	for _, c := range chains {
		if layers[c] {
			continue
		}
		if err := ctx.Err(); err != nil {
			return freed, context.Cause(ctx)
		}
		n, _ := s.layers.Size(c)
		if err := s.layers.Remove(c); err != nil {
			return freed, err
		}
		durable.Failpoint("images.collect.layer")
		freed += n
	}
	var gone []oci.Digest
	err = s.blobs.Walk(func(d oci.Digest, size int64) error {
		if blobs[d] {
			return ctx.Err()
		}
		if err := s.blobs.Delete(d); err != nil {
			return err
		}
		gone, freed = append(gone, d), freed+size
		return ctx.Err()
	})
	if err != nil {
		return freed, err
	}
	if err := s.forgetBlobs(gone); err != nil {
		return freed, err
	}
	n, err := s.blobs.DropPartials()
	if err != nil {
		return freed + n, err
	}
	return freed + n, s.layers.Settle(ctx)
}

// purgeHidden forgets images that were removed under containers which are gone by now.
func (s *Store) purgeHidden(inUse func(oci.Digest) bool) error {
	return s.change(func(d *draft) error {
		for id, e := range d.index.images {
			if e.Hidden && !inUse(id) {
				d.delete(id)
			}
		}
		return nil
	})
}

// Release deletes image id if it was removed by force under containers the last of which
// is gone now.
func (s *Store) Release(id oci.Digest) error {
	if e := s.entry(id); e == nil || !e.Hidden {
		return nil
	}
	var gone *record
	err := s.change(func(d *draft) error {
		if r, ok := d.get(id); ok && r.Hidden {
			gone = &r
			d.delete(id)
		}
		return nil
	})
	if err != nil || gone == nil {
		return err
	}
	_, _, err = s.discard(gone.Chains, gone.blobs())
	return err
}
