package images

import (
	"context"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"berth/durable"
	"berth/fail"
	"berth/images/blob"
	"berth/images/layer"
	"berth/oci"
)

// How many layers of one image are on their way at the same time, unless Config says
// otherwise (dockerd: 3 and 5).
const (
	defaultDownloads = 4
	defaultUploads   = 5
)

// fetch brings manifest and all it names into the stores.
func (src source) fetch(ctx context.Context, l *lease, target oci.Descriptor, index []byte, manifest oci.Descriptor, report Progress) (arrived, error) {
	s := src.store
	data, err := src.document(ctx, manifest)
	if err != nil {
		return arrived{}, err
	}
	v, artifact, err := parseManifest(manifest, data)
	if err != nil {
		return arrived{}, err
	}
	v.Target = target
	l.keepBlobs(v.blobs()...)
	var p plan
	if artifact != "" {
		p = newArtifact(v, artifact)
	} else {
		raw, err := src.config(ctx, v.Config)
		if err != nil {
			return arrived{}, err
		}
		if p, err = newPlan(v, raw); err != nil {
			return arrived{}, err
		}
	}
	if err := p.checkPlatform(src.ref, src.platform); err != nil {
		return arrived{}, err
	}
	l.keepLayers(p.chains...)
	if !s.complete(p) {
		if err := s.bring(ctx, p, src.blob, report); err != nil {
			return arrived{}, err
		}
	}
	// Also for an image that is here: the index may be a new one.
	for _, doc := range [][]byte{index, data} {
		if doc == nil {
			continue
		}
		if _, err := s.blobs.Put(ctx, doc); err != nil {
			return arrived{}, err
		}
	}
	return p.arrived, nil
}

// complete reports whether the image is here already, with all that p says.
func (s *Store) complete(p plan) bool {
	e := s.entry(p.id)
	if e == nil || e.Hidden {
		return false
	}
	for i, d := range p.v.Layers {
		if p.artifact == "" && !s.layers.Has(p.chains[i]) || !s.blobs.Has(d.Digest) {
			return false
		}
	}
	return s.blobs.Has(p.v.Manifest.Digest) && s.blobs.Has(p.v.Config.Digest)
}

// blob opens a blob. One that is kept elsewhere is asked for there first.
func (src source) blob(ctx context.Context, d oci.Descriptor, offset int64) (io.ReadCloser, error) {
	var foreign error
	if isForeign(d) && len(d.URLs) > 0 {
		body, err := openForeign(ctx, d, offset)
		if err == nil || ctx.Err() != nil {
			return body, err
		}
		foreign = err
	}
	body, err := src.repo.Blob(ctx, d, offset)
	if err != nil && foreign != nil {
		err = fail.New(fail.Of(foreign), "%w (nor does the registry have it)", foreign)
	}
	return body, err
}

// config brings the configuration into the content store and returns it.
func (src source) config(ctx context.Context, d oci.Descriptor) ([]byte, error) {
	s := src.store
	if !s.blobs.Has(d.Digest) {
		if err := again(func() error { return s.download(ctx, d, src.blob, nil) }); err != nil {
			return nil, err
		}
	}
	return s.blobs.Read(d.Digest)
}

// opener is where a blob can be had from, from offset on.
type opener func(ctx context.Context, d oci.Descriptor, offset int64) (io.ReadCloser, error)

// bringArtifact gets an artifact's blobs into the content store.
func (s *Store) bringArtifact(ctx context.Context, p plan, open opener, report Progress) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(s.downloads)
	for _, d := range append([]oci.Descriptor{p.v.Config}, p.v.Layers...) {
		g.Go(func() error {
			t := transfer{store: s, d: d, open: open, report: report}
			if _, err := t.run(ctx); err != nil {
				return fmt.Errorf("blob %s: %w", short(d.Digest), err)
			}
			t.step("Pull complete")
			return nil
		})
	}
	return g.Wait()
}

// bring gets the layers of p into both stores: all at once, put upon each other in order.
func (s *Store) bring(ctx context.Context, p plan, open opener, report Progress) error {
	if p.artifact != "" {
		return s.bringArtifact(ctx, p, open, report)
	}
	type result struct{ staged *layer.Staged }
	ready := make([]chan result, len(p.diffs))
	for i := range ready {
		ready[i] = make(chan result, 1)
	}
	defer func() { // what was unpacked and not put into the store
		for _, r := range ready {
			select {
			case done := <-r:
				if done.staged != nil {
					if err := done.staged.Discard(); err != nil {
						s.log.Warn("a staged layer stays until the next start", "error", err)
					}
				}
			default:
			}
		}
	}()
	here := make([]bool, len(p.diffs))
	for i, d := range p.v.Layers {
		here[i] = s.layers.Has(p.chains[i]) && s.blobs.Has(d.Digest)
		status := "Pulling fs layer"
		if here[i] {
			status = "Already exists"
		}
		report(Step{ID: short(d.Digest), Status: status})
	}
	g, ctx := errgroup.WithContext(ctx)
	slots := make(chan struct{}, s.downloads)
	for i, d := range p.v.Layers {
		if here[i] {
			ready[i] <- result{}
			continue
		}
		g.Go(func() error {
			select {
			case slots <- struct{}{}:
			default:
				report(Step{ID: short(d.Digest), Status: "Waiting"})
				select {
				case slots <- struct{}{}:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			defer func() { <-slots }()
			t := transfer{store: s, d: d, diff: p.diffs[i], unpack: !s.layers.Has(p.chains[i]), open: open, report: report}
			staged, err := p.ready.take(d.Digest, p.diffs[i])
			if staged == nil && err == nil {
				staged, err = t.run(ctx)
			}
			if err != nil {
				return fmt.Errorf("layer %s: %w", short(d.Digest), err)
			}
			ready[i] <- result{staged}
			return nil
		})
	}
	g.Go(func() error {
		var parent oci.Digest
		for i := range ready {
			var done result
			select {
			case done = <-ready[i]:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if done.staged != nil {
				if _, err := done.staged.Commit(parent, p.diffs[i]); err != nil {
					return also(fmt.Errorf("layer %s: %w", short(p.v.Layers[i].Digest), err), done.staged.Discard())
				}
				durable.Failpoint("images.bring.layer")
			}
			if !here[i] {
				report(Step{ID: short(p.v.Layers[i].Digest), Status: "Pull complete"})
			}
			parent = p.chains[i]
		}
		return nil
	})
	return g.Wait()
}

// transfer is one layer on its way.
type transfer struct {
	store  *Store
	d      oci.Descriptor
	diff   oci.Digest
	unpack bool // the layer is not in the layer store yet
	open   opener
	report Progress
}

func (t transfer) step(status string) { t.report(Step{ID: short(t.d.Digest), Status: status}) }

// run gets the blob into the content store and, if needed, the layer into staging. A
// blob that comes whole is unpacked while it comes; one that is here, or was begun by an
// earlier try, is completed first.
func (t transfer) run(ctx context.Context) (staged *layer.Staged, err error) {
	err = again(func() error { staged, err = t.once(ctx); return err })
	return staged, err
}

func (t transfer) once(ctx context.Context) (*layer.Staged, error) {
	s := t.store
	w, err := s.blobs.Ingest(ctx, t.d.Digest)
	if err != nil && !fail.Is(err, fail.NotModified) {
		return nil, err
	}
	if err == nil {
		defer w.Close()
		if t.unpack && w.Offset() == 0 {
			return t.stream(ctx, w)
		}
		if err := s.fill(ctx, w, t.d, t.open, t.meter("Downloading")); err != nil {
			return nil, err
		}
		t.step("Download complete")
	}
	if !t.unpack {
		return nil, nil
	}
	f, err := s.blobs.Open(t.d.Digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return s.unpack(ctx, metered{f, t.meter("Extracting")}, t.diff)
}

func (t transfer) meter(status string) *meter {
	return &meter{report: t.report, id: short(t.d.Digest), status: status, total: t.d.Size}
}

// stream unpacks the blob while it comes in. Both digests are proven before it returns.
func (t transfer) stream(ctx context.Context, w *blob.Writer) (*layer.Staged, error) {
	s := t.store
	body, err := t.open(ctx, t.d, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	src := &remembering{r: metered{bounded(body, t.d.Size), t.meter("Downloading")}}
	in := io.TeeReader(src, w)
	staged, unpackErr := s.unpack(ctx, in, t.diff)
	if src.err == nil && ctx.Err() == nil {
		// What the unpacking did not need belongs to the blob too. If the unpacking
		// failed, the blob may be what is wrong: its digest tells.
		_, _ = io.Copy(io.Discard, in)
	}
	err = src.err
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil && unpackErr != nil && w.Offset() != t.d.Size {
		err = unpackErr // such as a full disk: the blob could not be taken in
	}
	if err == nil {
		t.step("Verifying Checksum")
		if _, err = w.Commit(t.d.Size); err == nil {
			t.step("Download complete")
			err = unpackErr
		} else {
			err = blame(body, err)
		}
	}
	if err != nil {
		if staged != nil {
			err = also(err, staged.Discard())
		}
		return nil, err
	}
	t.report(Step{ID: short(t.d.Digest), Status: "Extracting", Current: t.d.Size, Total: t.d.Size})
	return staged, nil
}

// unpack stages the layer that r holds and checks its diff ID.
func (s *Store) unpack(ctx context.Context, r io.Reader, diff oci.Digest) (*layer.Staged, error) {
	staged, got, err := s.stage(ctx, r)
	if err == nil && got != diff {
		err = also(wrongDiff(got, diff), staged.Discard())
	}
	if err != nil {
		return nil, err
	}
	return staged, nil
}

func wrongDiff(got, want oci.Digest) error {
	return fail.New(fail.Invalid, "the content is %s, but the image's configuration says %s", got, want)
}

// stage unpacks the layer that r holds into staging, and tells its diff ID.
func (s *Store) stage(ctx context.Context, r io.Reader) (*layer.Staged, oci.Digest, error) {
	tar, _, err := decompress(r)
	if err != nil {
		return nil, "", err
	}
	defer tar.Close()
	staged, err := s.layers.Stage(ctx)
	if err != nil {
		return nil, "", err
	}
	diff, _, err := staged.Apply(ctx, tar)
	if err != nil {
		return nil, "", also(err, staged.Discard())
	}
	return staged, diff, nil
}

// download brings one blob into the content store.
func (s *Store) download(ctx context.Context, d oci.Descriptor, open opener, m *meter) error {
	w, err := s.blobs.Ingest(ctx, d.Digest)
	if fail.Is(err, fail.NotModified) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close()
	return s.fill(ctx, w, d, open, m)
}

// fill completes a blob from where an earlier try left it. If the whole turns out wrong,
// that try may be to blame: it is fetched once from its beginning.
func (s *Store) fill(ctx context.Context, w *blob.Writer, d oci.Descriptor, open opener, m *meter) error {
	if w.Offset() > d.Size {
		if err := w.Restart(); err != nil {
			return err
		}
	}
	resumed := w.Offset() > 0
	if m == nil {
		m = &meter{report: func(Step) {}}
	}
	m.at = w.Offset()
	body, err := open(ctx, d, w.Offset())
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.Copy(w, metered{bounded(body, d.Size-w.Offset()), m}); err != nil {
		return err
	}
	_, err = w.Commit(d.Size)
	if !resumed || !fail.Is(err, fail.Invalid) {
		return blame(body, err)
	}
	s.log.Info("a resumed download was damaged, fetching it anew", "blob", d.Digest)
	return s.download(ctx, d, open, m)
}

// bounded is a body of which left bytes are to come, and at most one more, which shows that it
// is another one.
func bounded(body io.Reader, left int64) io.Reader { return io.LimitReader(body, left+1) }
