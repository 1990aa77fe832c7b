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
	"github.com/klauspost/pgzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"berth/durable"
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

// Push sends ref to its registry; nothing that is there already is sent. An image that
// was pulled is pushed with its very manifest. One that was loaded or imported with
// plain layers gets compressed ones first, once: later pushes send the same bytes.
func (s *Store) Push(ctx context.Context, ref reference.Named, auth *registry.Auth, report Progress) error {
	report = serial(report)
	ref = reference.TagNameOnly(ref)
	tagged, ok := ref.(reference.Tagged)
	if _, digested := ref.(reference.Digested); digested || !ok {
		return fail.New(fail.Invalid, "cannot push a digest reference")
	}
	id := s.named(ref.String())
	if id == "" {
		return fail.New(fail.NotFound, "An image does not exist locally with the tag: %s", reference.FamiliarName(ref))
	}
	report(Step{Status: "The push refers to repository [" + ref.Name() + "]"})
	l, err := s.newLease("push", ref.String())
	if err != nil {
		return err
	}
	defer l.release()
	e := s.entry(id)
	if e == nil {
		return fail.New(fail.NotFound, "No such image: %s", reference.FamiliarString(ref))
	}
	p := push{store: s, ref: ref, repo: s.registry.Repository(ref, auth), lease: l, report: report}
	v, data, err := p.run(ctx, e, tagged.Tag())
	if err != nil {
		return fmt.Errorf("push %s: %w", reference.FamiliarString(ref), err)
	}
	err = s.recordPush(id, v, ref.Name()+"@"+v.Manifest.Digest.String())
	if err == nil {
		err = s.sawBlobs(ref.Name(), v)
	}
	if err != nil {
		return fmt.Errorf("push %s: pushed, but not recorded: %w", reference.FamiliarString(ref), err)
	}
	l.release()
	// Plain layers that were compressed are not needed any more.
	if err := s.discardBlobs(e.current().blobs()); err != nil {
		s.log.Warn("replaced blobs are left", "image", id, "error", err)
	}
	size := int64(len(data))
	report(Step{Status: fmt.Sprintf("%s: digest: %s size: %d", tagged.Tag(), v.Manifest.Digest, size)})
	report(Step{Aux: Pushed{Tag: tagged.Tag(), Digest: v.Manifest.Digest.String(), Size: size}})
	s.tell("push", id, reference.FamiliarString(ref), reference.FamiliarName(ref))
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
		r.addVariant(v)
		d.put(r)
		return nil
	})
}

// push is one push under way.
type push struct {
	store  *Store
	ref    reference.Named
	repo   *registry.Repository
	lease  *lease
	report Progress
}

func (p push) run(ctx context.Context, e *entry, tag string) (variant, []byte, error) {
	s := p.store
	for _, v := range e.Variants {
		p.lease.keepBlobs(v.blobs()...)
	}
	p.lease.keepLayers(e.Chains...)
	if now := s.entry(e.ID); now == nil || now.Hidden {
		return variant{}, nil, fail.New(fail.NotFound, "No such image: %s", reference.FamiliarString(p.ref))
	}
	c, err := e.config()
	if err != nil {
		return variant{}, nil, err
	}
	ids := make([]string, len(e.Chains))
	for i, d := range c.image.RootFS.DiffIDs {
		ids[i] = short(d)
		p.report(Step{ID: ids[i], Status: "Preparing"})
	}
	v, data, err := p.compressed(ctx, e.current(), ids)
	if err != nil {
		return variant{}, nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	slots := make(chan struct{}, maxTransfers)
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
	if err := g.Wait(); err != nil {
		return variant{}, nil, err
	}
	return v, data, p.repo.PushManifest(ctx, v.Manifest, data, tag)
}

func (s *Store) source(d oci.Digest) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return s.blobs.Open(d) }
}

// layer sends one layer, unless the registry has it or can take it over from another
// repository.
func (p push) layer(ctx context.Context, id string, d oci.Descriptor) error {
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

// compressed returns v as it is, or with its plain layers compressed, and the bytes of
// its manifest.
func (p push) compressed(ctx context.Context, v variant, ids []string) (variant, []byte, error) {
	s := p.store
	data, err := s.blobs.Read(v.Manifest.Digest)
	if err != nil {
		return v, nil, err
	}
	if !slices.ContainsFunc(v.Layers, isPlain) {
		return v, data, nil
	}
	layers := slices.Clone(v.Layers)
	for i, d := range layers {
		if !isPlain(d) {
			continue
		}
		if layers[i], err = s.compress(ctx, p.lease, d, ids[i], p.report); err != nil {
			return v, nil, fmt.Errorf("compress layer %s: %w", ids[i], err)
		}
	}
	var m oci.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return v, nil, fmt.Errorf("manifest %s: %w", v.Manifest.Digest, err)
	}
	m.Layers = layers
	v.Layers = layers
	v.Manifest, data, err = describeManifest(m)
	if err != nil {
		return v, nil, err
	}
	v.Target = v.Manifest
	p.lease.keepBlobs(v.Manifest.Digest)
	_, err = s.blobs.Put(ctx, data)
	return v, data, err
}

// describeManifest returns the bytes of m and their descriptor.
func describeManifest(m oci.Manifest) (oci.Descriptor, []byte, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return oci.Descriptor{}, nil, err
	}
	return oci.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}, data, nil
}

// gzipTypes maps the media types of plain layers to those of compressed ones.
var gzipTypes = map[string]string{
	oci.DockerLayer:                            oci.DockerLayerGzip,
	ocispec.MediaTypeImageLayer:                ocispec.MediaTypeImageLayerGzip,
	"application/vnd.docker.image.rootfs.diff": oci.DockerLayerGzip,
}

func isPlain(d oci.Descriptor) bool { return gzipTypes[d.MediaType] != "" }

// compress makes the compressed form of a plain layer, or finds the one made before.
func (s *Store) compress(ctx context.Context, l *lease, d oci.Descriptor, id string, report Progress) (oci.Descriptor, error) {
	info, err := s.blobInfo(d.Digest)
	if err != nil {
		return d, err
	}
	if z := info.Gzip; z != nil {
		l.keepBlobs(z.Digest)
		if s.blobs.Has(z.Digest) {
			return oci.Descriptor{MediaType: gzipTypes[d.MediaType], Digest: z.Digest, Size: z.Size}, nil
		}
	}
	f, err := s.blobs.Open(d.Digest)
	if err != nil {
		return d, err
	}
	defer f.Close()
	w, err := s.blobs.Ingest(ctx, "")
	if err != nil {
		return d, err
	}
	defer w.Close()
	z := pgzip.NewWriter(w)
	in := metered{untilDone{ctx, f}, &meter{report: report, id: id, status: "Preparing", total: d.Size}}
	if _, err := io.Copy(z, in); err != nil {
		return d, also(err, z.Close())
	}
	if err := z.Close(); err != nil {
		return d, err
	}
	out := oci.Descriptor{MediaType: gzipTypes[d.MediaType], Size: w.Offset()}
	if out.Digest, err = l.commit(w, -1); err != nil {
		return d, err
	}
	durable.Failpoint("images.push.compressed")
	return out, s.change(func(c *draft) error {
		if info, err = s.blobInfo(d.Digest); err == nil {
			info.Gzip = &out
			c.blobs[d.Digest] = info
		}
		return err
	})
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
