package images

import (
	"cmp"
	"context"
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
	target, err := repo.Resolve(ctx, asked, s.blobs.Has)
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
	known := name
	if name == "" {
		known = promise
	}
	before := s.named(known)
	c := course{target: target.Digest, manifest: manifest.Digest}
	if platform != nil {
		c.platform = platforms.FormatAll(*platform)
	}
	got, leave, err := s.board(ctx, c, report, func(ctx context.Context, report Progress, l *lease) (arrived, error) {
		return src.fetch(ctx, l, target, index, manifest, report)
	})
	defer leave()
	if err != nil {
		return Image{}, pulling(ref, err)
	}
	durable.Failpoint("images.pull.fetched")
	arrival := arrival{arrived: got, digest: promise}
	if name != "" {
		arrival.names = []string{name}
	}
	if err := s.record(arrival); err != nil {
		return Image{}, pulling(ref, err)
	}
	durable.Failpoint("images.pull.recorded")
	if err := s.sawBlobs(ref.Name(), got.v); err != nil {
		s.log.Warn("not remembered where blobs are", "repository", ref.Name(), "error", err)
	}
	report(Step{Status: "Digest: " + target.Digest.String()})
	if slices.ContainsFunc(before, func(e *entry) bool { return e.ID == got.id }) {
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

// named are the platforms of a full tag or digest reference that are here.
func (s *Store) named(full string) []*entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.index.all(full)
}

// tell publishes an event about an image. actor is what Docker gives as its id, name
// the attribute of that name; the image's labels come along.
func (s *Store) tell(action string, id oci.Digest, actor, name string) {
	s.tellOf(s.entry(id), action, actor, name)
}

// tellOf is tell about an image that may be gone from the index, nil if nothing is known of it.
func (s *Store) tellOf(e *entry, action, actor, name string) {
	attrs := map[string]string{}
	if e != nil {
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
	if err := oci.Decode(index, &ix); err != nil {
		return manifest, nil, fail.New(fail.Invalid, "index %s: %w", target.Digest, err)
	}
	if manifest, err = src.chooseManifest(ctx, ix.Manifests); err != nil {
		return manifest, nil, fail.New(fail.Of(err), "%s: %w", reference.FamiliarString(src.ref), err)
	}
	return manifest, index, nil
}

var errSchema1 = fail.New(fail.Invalid, "the image has the old manifest format schema 1, which no current tool supports: it must be pushed anew")

func checkManifestType(t string) error {
	switch {
	case oci.IsManifest(t):
		return nil
	case strings.HasPrefix(t, "application/vnd.docker.distribution.manifest.v1"):
		return errSchema1
	}
	return fail.New(fail.Invalid, "unsupported manifest media type %q", t)
}

// How many manifests of an index are asked for their platform, and how many platforms an error lists.
const (
	maxUndescribed = 16
	maxListed      = 20
)

// chooseManifest picks the manifest that suits the wanted platform best (nil: this
// machine's). Of entries that do not tell their platform, the configuration does.
func (src source) chooseManifest(ctx context.Context, all []oci.Descriptor) (oci.Descriptor, error) {
	want := platforms.DefaultSpec()
	if src.platform != nil {
		want = *src.platform
	}
	match := platforms.Only(want)
	nested := slices.ContainsFunc(all, func(d oci.Descriptor) bool { return oci.IsIndex(d.MediaType) })
	all = slices.DeleteFunc(slices.Clone(all), func(d oci.Descriptor) bool { return !oci.IsManifest(d.MediaType) })
	if len(all) == 0 && nested {
		// Also what keeps one that names itself from leading anywhere.
		return oci.Descriptor{}, fail.New(fail.Invalid, "an index of further indexes is not supported: pull one of those by its digest")
	}
	if len(all) == 1 && all[0].Platform == nil && src.platform == nil {
		return all[0], checkEntry(all[0])
	}
	var best oci.Descriptor
	var there []string
	for i, d := range all {
		if err := checkEntry(d); err != nil {
			return d, err
		}
		p := d.Platform
		if p == nil && i < maxUndescribed {
			var err error
			if p, err = src.askPlatform(ctx, d); err != nil {
				return d, err
			}
		}
		if p == nil || p.OS == "unknown" { // an artifact or an attestation
			continue
		}
		if text := platformText(*p); len(there) < maxListed && !slices.Contains(there, text) {
			there = append(there, text)
		}
		if match.Match(*p) && (best.Digest == "" || match.Less(*p, *best.Platform)) {
			best = d
			best.Platform = p
		}
	}
	if best.Digest == "" {
		list := "; there is none for any platform"
		if len(there) > 0 {
			list = "; there are: " + strings.Join(there, ", ")
		}
		if len(there) == maxListed {
			list += ", …"
		}
		return best, fail.New(fail.NotFound, "no matching manifest for %s in the manifest list entries%s", platforms.Format(want), list)
	}
	return best, nil
}

func checkEntry(d oci.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fail.New(fail.Invalid, "manifest list entry %q: %w", d.Digest, err)
	}
	return nil
}

// askPlatform reads the platform of a manifest from its configuration; nil: it has none.
func (src source) askPlatform(ctx context.Context, d oci.Descriptor) (*oci.Platform, error) {
	data, err := src.document(ctx, d)
	if err != nil {
		return nil, err
	}
	v, artifact, err := parseManifest(d, data)
	if err != nil || artifact != "" {
		return nil, err
	}
	raw, err := src.config(ctx, v.Config)
	if err != nil {
		return nil, err
	}
	var img oci.Image
	if err := oci.Decode(raw, &img); err != nil {
		return nil, fail.New(fail.Invalid, "image configuration %s: %w", v.Config.Digest, err)
	}
	if img.OS == "" {
		return nil, nil
	}
	return &img.Platform, nil
}

// plan is a manifest and its configuration, read and checked against each other.
type plan struct {
	arrived
	diffs []oci.Digest
	ready *unpackedLayers // nil: none
}

// layerTypes are the media types of what can be unpacked. What Docker calls foreign and
// OCI non-distributable is among them.
var layerTypes = map[string]bool{
	oci.DockerLayer: true, oci.DockerLayerGzip: true, dockerLayerZstd: true, "application/vnd.docker.image.rootfs.diff": true,
	ocispec.MediaTypeImageLayer: true, ocispec.MediaTypeImageLayerGzip: true, ocispec.MediaTypeImageLayerZstd: true,
	dockerForeignLayer: true, dockerForeignLayer + ".gzip": true,
	foreignLayer: true, foreignLayer + "+gzip": true, foreignLayer + "+zstd": true,
}

const (
	dockerLayerZstd    = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	dockerForeignLayer = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	foreignLayer       = "application/vnd.oci.image.layer.nondistributable.v1.tar"
)

// isForeign reports whether a layer is to be had from its URLs and not to be pushed.
func isForeign(d oci.Descriptor) bool {
	return strings.HasPrefix(d.MediaType, dockerForeignLayer) || strings.HasPrefix(d.MediaType, foreignLayer)
}

// parseManifest reads a manifest and checks what everything else relies on. artifact is
// the type of what cannot be unpacked and run, and empty for an image.
func parseManifest(d oci.Descriptor, data []byte) (v variant, artifact string, err error) {
	var m oci.Manifest
	if err := oci.Decode(data, &m); err != nil {
		return v, "", fail.New(fail.Invalid, "manifest %s: %w", d.Digest, err)
	}
	if m.SchemaVersion == 1 {
		return v, "", errSchema1
	}
	for _, b := range append([]oci.Descriptor{m.Config}, m.Layers...) {
		if b.Digest == "" && b.Size == 0 && b.MediaType == "" {
			return v, "", fail.New(fail.Invalid, "manifest %s lacks a configuration", d.Digest)
		}
		if err := b.Digest.Validate(); err != nil {
			return v, "", fail.New(fail.Invalid, "manifest %s names the blob %q: %w", d.Digest, b.Digest, err)
		}
		if b.Size < 0 {
			return v, "", fail.New(fail.Invalid, "manifest %s: blob %s has the size %d", d.Digest, b.Digest, b.Size)
		}
	}
	v = variant{Target: d, Manifest: d, Config: m.Config, Layers: m.Layers}
	switch m.Config.MediaType {
	case ocispec.MediaTypeImageConfig, oci.DockerConfig, "":
		for _, l := range m.Layers {
			if !layerTypes[l.MediaType] {
				return v, cmp.Or(m.ArtifactType, l.MediaType, "unknown"), nil
			}
		}
	default:
		return v, cmp.Or(m.ArtifactType, m.Config.MediaType), nil
	}
	if m.Config.Size > maxConfig {
		return v, "", fail.New(fail.Invalid, "manifest %s: a configuration of %d bytes is too large", d.Digest, m.Config.Size)
	}
	return v, "", nil
}

// maxConfig bounds a configuration, which is read into memory.
const maxConfig = 16 << 20

// maxLayers is more than other tools can use: the same small layer a hundred thousand times would take
// hours, and an inode or more each.
const maxLayers = 4096

// newPlan joins a manifest and the configuration it names.
func newPlan(v variant, raw []byte) (plan, error) {
	p := plan{arrived: arrived{id: v.Config.Digest, v: v}}
	var img oci.Image
	if err := oci.Decode(raw, &img); err != nil {
		return p, fail.New(fail.Invalid, "image configuration %s: %w", v.Config.Digest, err)
	}
	p.diffs = img.RootFS.DiffIDs
	if len(p.diffs) != len(v.Layers) {
		return p, fail.New(fail.Invalid, "manifest %s has %d layers, its configuration %d", v.Manifest.Digest, len(v.Layers), len(p.diffs))
	}
	if len(p.diffs) > maxLayers {
		return p, fail.New(fail.Invalid, "manifest %s has %d layers, more than the %d that an image may have", v.Manifest.Digest, len(p.diffs), maxLayers)
	}
	var chain oci.Digest
	for _, d := range p.diffs {
		if err := d.Validate(); err != nil {
			return p, fail.New(fail.Invalid, "image configuration %s names the layer %q: %w", v.Config.Digest, d, err)
		}
		chain = oci.NextChainID(chain, d)
		p.chains = append(p.chains, chain)
	}
	p.platform = img.Platform
	if said := v.Manifest.Platform; said != nil && p.platform.Variant == "" && said.Architecture == p.platform.Architecture {
		p.platform.Variant = said.Variant // which old configurations do not tell
	}
	return p, nil
}

// newArtifact is the plan of what is no image.
func newArtifact(v variant, kind string) plan {
	return plan{arrived: arrived{id: v.Manifest.Digest, v: v, artifact: kind}}
}

// checkPlatform refuses an image that is for another platform than was asked for.
func (p plan) checkPlatform(ref reference.Named, want *oci.Platform) error {
	if want == nil || p.artifact != "" || platforms.Only(*want).Match(p.platform) {
		return nil
	}
	return fail.New(fail.NotFound, "image with reference %s was found but its platform (%s) does not match the specified platform (%s)",
		reference.FamiliarString(ref), platformText(p.platform), platforms.Format(*want))
}
