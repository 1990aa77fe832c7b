package images

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/durable"
	"berth/events"
	"berth/fail"
	"berth/oci"
	"berth/registry"
)

// Pull fetches the image ref (tag or digest) for platform (nil: this machine's).
//
// Layers are downloaded, verified and unpacked at the same time; what is here already
// is not fetched. Pulls of the same image share the work. A pull that fails or is
// cancelled leaves no image, and what it brought in serves the next try.
func (s *Store) Pull(ctx context.Context, ref reference.Named, platform *oci.Platform, auth *registry.Auth, report Progress) (Image, error) {
	report = serial(report)
	ref = reference.TagNameOnly(ref)
	repo := s.registry.Repository(ref, auth)
	name, asked := ref.String(), ""
	switch r := ref.(type) {
	case reference.Canonical:
		name, asked = "", r.Digest().String() // a digest names what a tag beside it cannot
	case reference.Tagged:
		asked = r.Tag()
	}
	target, err := repo.Resolve(ctx, asked)
	if err != nil {
		return Image{}, err
	}
	report(Step{ID: asked, Status: "Pulling from " + reference.Path(ref)})
	durable.Failpoint("images.pull.resolved")

	src := source{store: s, repo: repo, ref: ref, platform: platform}
	manifest, index, err := src.choose(ctx, target)
	if err != nil {
		return Image{}, pulling(ref, err)
	}
	promise := ref.Name() + "@" + target.Digest.String()
	before := s.named(name)
	if name == "" {
		before = s.named(promise)
	}
	got, leave, err := s.board(ctx, manifest.Digest, report, func(ctx context.Context, report Progress, l *lease) (arrived, error) {
		return src.fetch(ctx, l, target, index, manifest, report)
	})
	defer leave()
	if err != nil {
		return Image{}, pulling(ref, err)
	}
	if target.Digest != got.v.Target.Digest {
		// Whoever was at it came to the same manifest by another index.
		got.v.Target = manifest
	}
	durable.Failpoint("images.pull.fetched")
	if err := s.record(got, name, promise); err != nil {
		return Image{}, pulling(ref, err)
	}
	durable.Failpoint("images.pull.recorded")
	if err := s.sawBlobs(ref.Name(), got.v); err != nil {
		s.log.Warn("not remembered where blobs are", "repository", ref.Name(), "error", err)
	}
	report(Step{Status: "Digest: " + target.Digest.String()})
	if before == got.id {
		report(Step{Status: "Status: Image is up to date for " + reference.FamiliarString(ref)})
	} else {
		report(Step{Status: "Status: Downloaded newer image for " + reference.FamiliarString(ref)})
	}
	s.tell("pull", got.id, reference.FamiliarString(ref), reference.FamiliarName(ref))
	e := s.entry(got.id)
	if e == nil {
		return Image{}, fail.New(fail.Conflict, "%s was removed while it was pulled", reference.FamiliarString(ref))
	}
	return e.image()
}

// pulling names the image that an error is about, if the error does not.
func pulling(ref reference.Named, err error) error {
	if strings.Contains(err.Error(), reference.FamiliarName(ref)) {
		return err
	}
	return fmt.Errorf("pull %s: %w", reference.FamiliarString(ref), err)
}

// named is the image of a full tag or digest reference, empty if there is none.
func (s *Store) named(full string) oci.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.Contains(full, "@") {
		return s.index.digests[full]
	}
	return s.index.names[full]
}

// tell publishes an event about an image. actor is what Docker gives as its id, name
// the attribute of that name; the image's labels come along.
func (s *Store) tell(action string, id oci.Digest, actor, name string) {
	attrs := map[string]string{}
	if e := s.entry(id); e != nil {
		if c, err := e.config(); err == nil {
			for k, v := range c.image.Config.Labels {
				attrs[k] = v
			}
		}
	}
	attrs["name"] = name
	s.events.Publish(events.Event{Type: "image", Action: action, ID: actor, Attrs: attrs})
}

// source is where one pull gets its content from.
type source struct {
	store    *Store
	repo     *registry.Repository
	ref      reference.Named
	platform *oci.Platform
}

// document returns a manifest or index, from here or from the registry.
func (src source) document(ctx context.Context, d oci.Descriptor) ([]byte, error) {
	if src.store.blobs.Has(d.Digest) {
		return src.store.blobs.Read(d.Digest)
	}
	return src.repo.Manifest(ctx, d)
}

// choose returns the manifest for the wanted platform, and the index that target is, if
// it is one.
func (src source) choose(ctx context.Context, target oci.Descriptor) (manifest oci.Descriptor, index []byte, err error) {
	if !oci.IsIndex(target.MediaType) {
		return target, nil, checkManifestType(target.MediaType)
	}
	if index, err = src.document(ctx, target); err != nil {
		return manifest, nil, err
	}
	var ix oci.Index
	if err := json.Unmarshal(index, &ix); err != nil {
		return manifest, nil, fail.New(fail.Invalid, "index %s: %w", target.Digest, err)
	}
	manifest, err = chooseManifest(ix.Manifests, src.platform)
	if err != nil {
		return manifest, nil, fail.New(fail.Of(err), "%s: %w", reference.FamiliarString(src.ref), err)
	}
	return manifest, index, nil
}

func checkManifestType(t string) error {
	switch {
	case oci.IsManifest(t):
		return nil
	case strings.HasPrefix(t, "application/vnd.docker.distribution.manifest.v1"):
		return fail.New(fail.Invalid, "the image has the old manifest format schema 1, which no current tool supports: it must be pushed anew")
	}
	return fail.New(fail.Invalid, "unsupported manifest media type %q", t)
}

// chooseManifest picks the manifest that suits platform best (nil: this machine).
func chooseManifest(all []oci.Descriptor, platform *oci.Platform) (oci.Descriptor, error) {
	want := platforms.DefaultSpec()
	if platform != nil {
		want = *platform
	}
	match := platforms.Only(want)
	var fit []oci.Descriptor
	for _, d := range all {
		if d.Platform != nil && match.Match(*d.Platform) && oci.IsManifest(d.MediaType) {
			fit = append(fit, d)
		}
	}
	if len(fit) == 0 && len(all) == 1 && all[0].Platform == nil && oci.IsManifest(all[0].MediaType) {
		fit = all // an index of one manifest that says nothing about its platform
	}
	if len(fit) == 0 {
		return oci.Descriptor{}, fail.New(fail.NotFound, "no matching manifest for %s in the manifest list entries", platforms.Format(want))
	}
	slices.SortStableFunc(fit, func(a, b oci.Descriptor) int {
		switch {
		case a.Platform == nil || b.Platform == nil:
			return 0
		case match.Less(*a.Platform, *b.Platform):
			return -1
		case match.Less(*b.Platform, *a.Platform):
			return 1
		}
		return 0
	})
	d := fit[0]
	if err := d.Digest.Validate(); err != nil {
		return d, fail.New(fail.Invalid, "manifest list entry: %w", err)
	}
	return d, nil
}

// plan is a manifest and its configuration, read and checked against each other.
type plan struct {
	arrived
	diffs []oci.Digest
	image oci.Image
}

// parseManifest reads an image manifest and checks what everything else relies on.
func parseManifest(d oci.Descriptor, data []byte) (variant, error) {
	var m oci.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return variant{}, fail.New(fail.Invalid, "manifest %s: %w", d.Digest, err)
	}
	switch m.Config.MediaType {
	case ocispec.MediaTypeImageConfig, oci.DockerConfig, "":
	default:
		return variant{}, fail.New(fail.Invalid, "manifest %s is no container image: its configuration is %q", d.Digest, m.Config.MediaType)
	}
	for _, b := range append([]oci.Descriptor{m.Config}, m.Layers...) {
		if err := b.Digest.Validate(); err != nil {
			return variant{}, fail.New(fail.Invalid, "manifest %s names the blob %q: %w", d.Digest, b.Digest, err)
		}
		if b.Size < 0 {
			return variant{}, fail.New(fail.Invalid, "manifest %s: blob %s has the size %d", d.Digest, b.Digest, b.Size)
		}
	}
	if m.Config.Size > maxConfig {
		return variant{}, fail.New(fail.Invalid, "manifest %s: a configuration of %d bytes is too large", d.Digest, m.Config.Size)
	}
	return variant{Target: d, Manifest: d, Config: m.Config, Layers: m.Layers}, nil
}

// maxConfig bounds a configuration, which is read into memory.
const maxConfig = 16 << 20

// newPlan joins a manifest and the configuration it names.
func newPlan(v variant, raw []byte) (plan, error) {
	p := plan{arrived: arrived{id: v.Config.Digest, v: v}}
	if err := json.Unmarshal(raw, &p.image); err != nil {
		return p, fail.New(fail.Invalid, "image configuration %s: %w", v.Config.Digest, err)
	}
	p.diffs = p.image.RootFS.DiffIDs
	if len(p.diffs) != len(v.Layers) {
		return p, fail.New(fail.Invalid, "manifest %s has %d layers, its configuration %d", v.Manifest.Digest, len(v.Layers), len(p.diffs))
	}
	var chain oci.Digest
	for _, d := range p.diffs {
		if err := d.Validate(); err != nil {
			return p, fail.New(fail.Invalid, "image configuration %s names the layer %q: %w", v.Config.Digest, d, err)
		}
		chain = oci.NextChainID(chain, d)
		p.chains = append(p.chains, chain)
	}
	return p, nil
}

// checkPlatform refuses an image that is for another platform than was asked for.
func (p plan) checkPlatform(ref reference.Named, want *oci.Platform) error {
	if want == nil || platforms.Only(*want).Match(p.image.Platform) {
		return nil
	}
	return fail.New(fail.NotFound, "image with reference %s was found but its platform (%s) does not match the specified platform (%s)",
		reference.FamiliarString(ref), platforms.Format(p.image.Platform), platforms.Format(*want))
}
