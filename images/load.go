package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"berth/durable"
	"berth/fail"
	"berth/images/layer"
	"berth/oci"
)

// LoadOptions guide Load.
type LoadOptions struct {
	// Platforms narrows what is loaded of multi-platform images. Empty: all there is.
	Platforms []oci.Platform
}

// Load takes in an archive of Docker's form or an OCI layout, compressed or not, and
// returns a familiar reference or an ID for each image in it. Either all of its images
// are there at the end, or none is.
//
// The archive is read once, as a stream. Its files become blobs; the names they have in
// it are keys of a table and never paths of the host. What looks like a layer is unpacked
// while it is read: which image it belongs to, and where in it, shows later.
func (s *Store) Load(ctx context.Context, r io.Reader, o LoadOptions, report Progress) (names []string, err error) {
	l, err := s.newLease("load", "archive")
	if err != nil {
		return nil, err
	}
	// The archive's own files that no image needs go in any case.
	defer l.abort()
	report = serial(report)
	a := &shelf{store: s, lease: l, report: report, files: map[string]oci.Descriptor{}, links: map[string]string{},
		ready: &unpackedLayers{all: map[oci.Digest]unpackedLayer{}}}
	defer func() {
		if err := a.ready.discard(); err != nil {
			s.log.Warn("a staged layer stays until the next start", "error", err)
		}
	}()
	if err := a.fill(ctx, r); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	durable.Failpoint("images.load.read")
	all, err := a.images(ctx, o.Platforms)
	if err != nil && a.unended {
		err = fail.New(fail.Of(err), "the archive is cut off: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	arrivals := make([]arrival, len(all))
	for i, img := range all {
		if arrivals[i].arrived, err = s.take(ctx, l, img, report); err != nil {
			return nil, fmt.Errorf("load image %s: %w", short(img.id), err)
		}
		arrivals[i].names = img.names
	}
	durable.Failpoint("images.load.unpacked")
	if err := s.record(arrivals...); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	for _, img := range all {
		called := []string{img.id.String()}
		if len(img.names) > 0 {
			called = nil
		}
		for _, n := range img.names {
			called = append(called, familiar(n))
		}
		for _, n := range called {
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
		s.tell("load", img.id, img.id.String(), img.id.String())
	}
	return names, nil
}

// take gets one image into the layer store.
func (s *Store) take(ctx context.Context, l *lease, img loadable, report Progress) (arrived, error) {
	l.keepLayers(img.chains...)
	if old := s.entry(img.id); old != nil && s.complete(plan{arrived: arrived{id: old.ID, v: old.current(), chains: old.Chains, artifact: old.Artifact}}) {
		// Here already, perhaps with the manifest of a registry, which is worth more.
		if !oci.IsIndex(img.v.Target.MediaType) {
			img.v = old.current()
			return img.arrived, nil
		}
	}
	return img.arrived, s.bring(ctx, img.plan, img.missing, loading(img.plan, report))
}

// loading turns the steps of bring into Docker's words for a load.
func loading(p plan, report Progress) Progress {
	ids := map[string]string{}
	for i, d := range p.diffs {
		ids[short(p.v.Layers[i].Digest)] = short(d)
	}
	return func(s Step) {
		if s.Status == "Extracting" && ids[s.ID] != "" {
			report(Step{ID: ids[s.ID], Status: "Loading layer", Current: s.Current, Total: s.Total})
		}
	}
}

// unpackedLayers are layers that were unpacked before it was known what for, by the
// digests of their blobs.
type unpackedLayers struct {
	mu  sync.Mutex
	all map[oci.Digest]unpackedLayer
}

type unpackedLayer struct {
	staged *layer.Staged
	diff   oci.Digest
}

// put adds a layer. Of two the first stays.
func (u *unpackedLayers) put(blob oci.Digest, l unpackedLayer) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.all[blob]; ok {
		return l.staged.Discard()
	}
	u.all[blob] = l
	return nil
}

// take hands a layer over, nil if it is not here (any more).
func (u *unpackedLayers) take(blob, diff oci.Digest) (*layer.Staged, error) {
	if u == nil {
		return nil, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	l, ok := u.all[blob]
	if !ok {
		return nil, nil
	}
	if l.diff != diff {
		return nil, wrongDiff(l.diff, diff)
	}
	delete(u.all, blob)
	return l.staged, nil
}

// discard drops what nobody took.
func (u *unpackedLayers) discard() (err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for d, l := range u.all {
		err = errors.Join(err, l.staged.Discard())
		delete(u.all, d)
	}
	return err
}

// loadable is an image found in an archive.
type loadable struct {
	plan
	names []string // full
}

// missing is the opener of blobs that should have been in the archive.
func (loadable) missing(ctx context.Context, d oci.Descriptor, offset int64) (io.ReadCloser, error) {
	if isForeign(d) && len(d.URLs) > 0 {
		return openForeign(ctx, d, offset)
	}
	return nil, fail.New(fail.Invalid, "the archive lacks blob %s", d.Digest)
}
