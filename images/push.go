package images

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/auxprogress"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"berth/fail"
	"berth/oci"
	"berth/registry"
)

// Pushed is the result that Push reports at its end.
type Pushed struct {
	Tag    string
	Digest string
	Size   int64 // of the manifest
}

// PushOptions guide Push.
type PushOptions struct {
	// Platform pushes this one of a multi-platform image, as an image of its own.
	Platform *oci.Platform
	// Compression is what layers are compressed with on their way: see ParseCompression.
	// The zero value sends compressed layers as they are and plain ones with gzip.
	Compression Compression
}

// Push sends ref to its registry; nothing that is there already is sent. An image that
// was pulled is pushed with its very manifest, a multi-platform one with its index. One
// that was loaded or imported with plain layers gets compressed ones first, once: later
// pushes send the same bytes.
func (s *Store) Push(ctx context.Context, ref reference.Named, o PushOptions, auth *registry.Auth, report Progress) error {
	report = serial(report)
	ref = reference.TagNameOnly(ref)
	tagged, ok := ref.(reference.Tagged)
	if _, digested := ref.(reference.Digested); digested || !ok {
		return fail.New(fail.Invalid, "cannot push a digest reference")
	}
	f := found{ref: ref.String(), all: s.named(ref.String())}
	if len(f.all) == 0 {
		return fail.New(fail.NotFound, "An image does not exist locally with the tag: %s", reference.FamiliarName(ref))
	}
	f.entry = f.all[0]
	if o.Platform != nil {
		var err error
		if f, err = f.exact(reference.FamiliarString(ref), *o.Platform); err != nil {
			return err
		}
	}
	report(Step{Status: "The push refers to repository [" + ref.Name() + "]"})
	l, err := s.newLease("push", ref.String())
	if err != nil {
		return err
	}
	defer l.release()
	for _, e := range f.all {
		for _, v := range e.Variants {
			l.keepBlobs(v.blobs()...)
		}
		l.keepLayers(e.Chains...)
		if now := s.entry(e.ID); now == nil || now.Hidden {
			return fail.New(fail.NotFound, "No such image: %s", reference.FamiliarString(ref))
		}
	}
	p := push{store: s, ref: ref, repo: s.registry.Repository(ref, auth), lease: l, report: report, compression: o.Compression}
	sent, err := p.run(ctx, f, o.Platform != nil, tagged.Tag())
	if err != nil {
		return fmt.Errorf("push %s: %w", reference.FamiliarString(ref), err)
	}
	var replaced []oci.Digest
	for _, e := range f.all {
		replaced = append(replaced, e.current().blobs()...)
	}
	for id, v := range sent.images {
		if err = s.recordPush(id, v, ref.Name()+"@"+sent.target.Digest.String()); err == nil {
			err = s.sawBlobs(ref.Name(), v)
		}
		if err != nil {
			return fmt.Errorf("push %s: pushed, but not recorded: %w", reference.FamiliarString(ref), err)
		}
	}
	l.release()
	// Plain layers that were compressed are not needed any more.
	if err := s.discardBlobs(replaced); err != nil {
		s.log.Warn("replaced blobs are left", "image", f.ID, "error", err)
	}
	report(Step{Status: fmt.Sprintf("%s: digest: %s size: %d", tagged.Tag(), sent.target.Digest, sent.target.Size)})
	report(Step{Aux: Pushed{Tag: tagged.Tag(), Digest: sent.target.Digest.String(), Size: sent.target.Size}})
	s.tell("push", f.ID, reference.FamiliarString(ref), reference.FamiliarName(ref))
	return nil
}

// recordPush notes that the image is known in a repository by v. The image may be gone
// by now, and then stays gone.
func (s *Store) recordPush(id oci.Digest, v variant, digest string) error {
	return s.change(func(d *draft) error {
		r, ok := d.get(id)
		if !ok || r.Hidden {
			return nil
		}
		if !slices.Contains(r.Digests, digest) {
			r.Digests = append(r.Digests, digest)
			slices.Sort(r.Digests)
		}
		// A manifest that went alone is still of the index that it came with.
		if o := r.current(); o.Manifest.Digest != v.Manifest.Digest {
			r.addVariant(v)
		}
		d.put(r)
		return nil
	})
}

// push is one push under way.
type push struct {
	store       *Store
	ref         reference.Named
	repo        *registry.Repository
	lease       *lease
	report      Progress
	compression Compression
}

// pushed is what a push came to.
type pushed struct {
	target oci.Descriptor // what the tag names now
	images map[oci.Digest]variant
}

// run pushes an index if f has one and alone is not set, else the one image.
func (p push) run(ctx context.Context, f found, alone bool, tag string) (pushed, error) {
	s := p.store
	target := f.current().Target
	if !alone && oci.IsIndex(target.MediaType) && s.blobs.Has(target.Digest) && p.compression.keepsAll(f.all) {
		whole, err := p.index(ctx, f, target)
		if err != nil {
			return pushed{}, err
		}
		if whole != nil {
			data, err := s.blobs.Read(target.Digest)
			if err != nil {
				return pushed{}, err
			}
			whole.target.Size = int64(len(data))
			return *whole, p.repo.PushManifest(ctx, target, data, tag)
		}
	}
	if len(f.all) > 1 {
		return pushed{}, fail.New(fail.Invalid, "%s are here, which is not all that the index %s names, or is to be compressed anew: push one of them with --platform",
			f.platforms(), short(target.Digest))
	}
	v, data, err := p.image(ctx, f.entry)
	if err != nil {
		return pushed{}, err
	}
	if err := p.repo.PushManifest(ctx, v.Manifest, data, tag); err != nil {
		return pushed{}, err
	}
	if !alone && oci.IsIndex(target.MediaType) {
		p.report(Step{Aux: auxprogress.ManifestPushedInsteadOfIndex{ManifestPushedInsteadOfIndex: true, OriginalIndex: target, SelectedManifest: v.Manifest}})
	}
	v.Manifest.Size = int64(len(data))
	return pushed{v.Manifest, map[oci.Digest]variant{f.ID: v}}, nil
}

// index sends all that target names but itself. The result is nil if something is neither
// here nor in the registry.
func (p push) index(ctx context.Context, f found, target oci.Descriptor) (*pushed, error) {
	s := p.store
	out := &pushed{target: target, images: map[oci.Digest]variant{}}
	data, err := s.blobs.Read(target.Digest)
	if err != nil {
		return nil, err
	}
	var ix oci.Index
	if err := json.Unmarshal(data, &ix); err != nil {
		return nil, fail.New(fail.Invalid, "index %s: %w", target.Digest, err)
	}
	type child struct {
		oci.Descriptor
		image *entry // nil: a document with what it names
	}
	var send []child
	for _, d := range ix.Manifests {
		i := slices.IndexFunc(f.all, func(e *entry) bool { return e.current().Manifest.Digest == d.Digest })
		switch {
		case i >= 0:
			send = append(send, child{d, f.all[i]})
		case s.blobs.Has(d.Digest) && slices.Contains(f.current().Extra, d.Digest):
			send = append(send, child{d, nil})
		default:
			if _, err := p.repo.Resolve(ctx, d.Digest.String(), nil); err != nil {
				return nil, ctx.Err()
			}
		}
	}
	for _, c := range send {
		if c.image == nil {
			if err := p.document(ctx, c.Descriptor, 0); err != nil {
				return nil, err
			}
			continue
		}
		v, data, err := p.image(ctx, c.image)
		if err == nil {
			err = p.repo.PushManifest(ctx, v.Manifest, data, "")
		}
		if err != nil {
			return nil, err
		}
		out.images[c.image.ID] = v
	}
	return out, nil
}

// document sends a manifest or index that is no image here, and the blobs it names.
func (p push) document(ctx context.Context, d oci.Descriptor, depth int) error {
	data, err := p.store.blobs.Read(d.Digest)
	if err != nil {
		return err
	}
	var m struct {
		Config    *oci.Descriptor  `json:"config"`
		Layers    []oci.Descriptor `json:"layers"`
		Manifests []oci.Descriptor `json:"manifests"`
	}
	if err := oci.Decode(data, &m); err != nil {
		return fail.New(fail.Invalid, "manifest %s: %w", d.Digest, err)
	}
	if len(m.Manifests) > 0 && depth == maxNesting {
		return fail.New(fail.Invalid, "index %s is nested too deep", d.Digest)
	}
	for _, c := range m.Manifests {
		if err := p.document(ctx, c, depth+1); err != nil {
			return err
		}
	}
	blobs := m.Layers
	if m.Config != nil {
		blobs = append(blobs, *m.Config)
	}
	for _, b := range blobs {
		if err := p.layer(ctx, short(b.Digest), b); err != nil {
			return err
		}
	}
	return p.repo.PushManifest(ctx, d, data, "")
}

// image sends the blobs of one image or artifact, and returns what its manifest is then.
func (p push) image(ctx context.Context, e *entry) (variant, []byte, error) {
	s := p.store
	c, err := e.config()
	if err != nil {
		return variant{}, nil, err
	}
	ids := make([]string, len(e.current().Layers))
	for i, d := range e.current().Layers {
		ids[i] = short(d.Digest)
		if i < len(c.image.RootFS.DiffIDs) {
			ids[i] = short(c.image.RootFS.DiffIDs[i])
		}
		p.report(Step{ID: ids[i], Status: "Preparing"})
	}
	v, data, err := p.compressed(ctx, e, ids)
	if err != nil {
		return variant{}, nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	slots := make(chan struct{}, p.store.uploads)
	var sent sync.Map // a layer that occurs twice is sent once
	for i, d := range v.Layers {
		g.Go(func() error {
			select {
			case slots <- struct{}{}:
			default:
				p.report(Step{ID: ids[i], Status: "Waiting"})
				select {
				case slots <- struct{}{}:
				case <-gctx.Done():
					return context.Cause(gctx)
				}
			}
			defer func() { <-slots }()
			if _, again := sent.LoadOrStore(d.Digest, true); again {
				p.report(Step{ID: ids[i], Status: "Layer already exists"})
				return nil
			}
			return p.layer(gctx, ids[i], d)
		})
	}
	g.Go(func() error {
		if has, err := p.repo.HasBlob(gctx, v.Config); err != nil || has {
			return err
		}
		return p.repo.PushBlob(gctx, v.Config, s.source(v.Config.Digest), nil)
	})
	return v, data, g.Wait()
}

func (s *Store) source(d oci.Digest) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return s.blobs.Open(d) }
}

// layer sends one layer, unless the registry has it or can take it over from another
// repository, or it is a foreign one that stays where its URLs say.
func (p push) layer(ctx context.Context, id string, d oci.Descriptor) error {
	if isForeign(d) && !p.store.mayPushForeign(ctx, reference.Domain(p.ref)) {
		p.report(Step{ID: id, Status: "Skipped foreign layer"})
		return nil
	}
	has, err := p.repo.HasBlob(ctx, d)
	if err != nil {
		return err
	}
	if has {
		p.report(Step{ID: id, Status: "Layer already exists"})
		return nil
	}
	info, err := p.store.blobInfo(d.Digest)
	if err != nil {
		return err
	}
	for _, repo := range info.Repos {
		from, err := reference.WithName(repo)
		if err != nil || reference.Domain(from) != reference.Domain(p.ref) || repo == p.ref.Name() {
			continue
		}
		// A refusal is no failure: the layer can still be sent.
		if ok, err := p.repo.MountBlob(ctx, d, reference.Path(from)); err == nil && ok {
			p.report(Step{ID: id, Status: "Mounted from " + reference.Path(from)})
			return nil
		}
	}
	m := meter{report: p.report, id: id, status: "Pushing", total: d.Size}
	if err := p.repo.PushBlob(ctx, d, p.store.source(d.Digest), m.set); err != nil {
		return err
	}
	p.report(Step{ID: id, Status: "Pushed"})
	return nil
}

// describeManifest returns the bytes of m and their descriptor.
func describeManifest(m oci.Manifest) (oci.Descriptor, []byte, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return oci.Descriptor{}, nil, err
	}
	return oci.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}, data, nil
}

// untilDone ends reading when ctx does.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.Read(p)
}

// repositoryTags are the full names of a repository, in order.
func (s *Store) repositoryTags(repo string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for n := range s.index.names {
		if strings.HasPrefix(n, repo+":") && repoOf(n) == repo {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all
}
