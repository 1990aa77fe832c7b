package images

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/fail"
	"berth/oci"
)

// images finds what is in the archive and wanted. If it has both forms, the OCI layout
// tells the manifests, and Docker's form adds names.
func (a *shelf) images(ctx context.Context, want []oci.Platform) ([]loadable, error) {
	var ix oci.Index
	hasIndex, err := a.json(ocispec.ImageIndexFile, &ix)
	if err != nil {
		return nil, err
	}
	var docker []dockerManifest
	hasDocker, err := a.json("manifest.json", &docker)
	if err != nil {
		return nil, err
	}
	switch _, old := a.find("repositories"); {
	case hasIndex || hasDocker:
	case old:
		return nil, fail.New(fail.Invalid, "the archive has the form of Docker before 1.10, without manifest.json: save it anew with a later Docker")
	default:
		return nil, fail.New(fail.Invalid, "not an image archive: it has neither manifest.json nor index.json")
	}
	w := walk{shelf: a, seen: map[oci.Digest]bool{}}
	var all []loadable
	for _, d := range ix.Manifests {
		found, err := w.entry(d)
		if err != nil {
			return nil, err
		}
		for _, img := range found {
			all = merge(all, img)
		}
	}
	for _, m := range docker {
		img, err := a.dockerImage(ctx, m, all)
		if err != nil {
			return nil, err
		}
		all = merge(all, img)
	}
	switch {
	case len(all) == 0 && w.missing != "":
		return nil, fail.New(fail.Invalid, "the archive lacks the manifest %s", w.missing)
	case len(all) == 0:
		return nil, fail.New(fail.Invalid, "the archive holds no image")
	}
	return narrow(all, want)
}

// narrow keeps what is for one of the wanted platforms, each of which has to be there.
func narrow(all []loadable, want []oci.Platform) ([]loadable, error) {
	if len(want) == 0 {
		return all, nil
	}
	var kept []loadable
	for _, p := range want {
		match := platforms.OnlyStrict(p)
		before := len(kept)
		for _, img := range all {
			if img.artifact == "" && match.Match(img.platform) {
				kept = append(kept, img)
			}
		}
		if len(kept) == before {
			var there []string
			for _, img := range all {
				if t := platformText(img.platform); !slices.Contains(there, t) {
					there = append(there, t)
				}
			}
			return nil, fail.New(fail.NotFound, "the archive holds no image for %s; there are: %s", platforms.Format(p), strings.Join(there, ", "))
		}
	}
	return kept, nil
}

// merge adds img to all, or its names to the same image there and its other platforms.
func merge(all []loadable, img loadable) []loadable {
	i := slices.IndexFunc(all, func(x loadable) bool { return x.id == img.id })
	if i < 0 {
		return append(all, img)
	}
	for j, x := range all {
		if x.id != img.id && (x.v.Target.Digest != all[i].v.Target.Digest || !oci.IsIndex(x.v.Target.MediaType)) {
			continue
		}
		for _, n := range img.names {
			if !slices.Contains(x.names, n) {
				all[j].names = append(slices.Clip(all[j].names), n)
			}
		}
	}
	return all
}

// maxNesting bounds indexes within indexes, maxManifests what they name together.
const (
	maxNesting   = 4
	maxManifests = 10_000
)

// walk goes through an archive's index.json.
type walk struct {
	*shelf
	seen    map[oci.Digest]bool // within one entry of index.json
	visits  int
	missing oci.Digest // a manifest that is not in the archive
}

// contents is what one entry of index.json holds.
type contents struct {
	images, artifacts []loadable
	extra             []oci.Digest // blobs of nothing that can be run
}

// entry reads what an entry of index.json names: an image, or one for each platform.
func (w *walk) entry(d oci.Descriptor) ([]loadable, error) {
	clear(w.seen)
	var c contents
	if err := w.visit(d, 0, &c); err != nil {
		return nil, err
	}
	found := c.images
	if len(found) == 0 {
		found = c.artifacts
	} else {
		for _, x := range c.artifacts {
			c.extra = append(c.extra, x.v.blobs()...)
		}
	}
	name := indexName(d)
	for i := range found {
		if oci.IsIndex(d.MediaType) {
			found[i].v.Target, found[i].v.Extra = bare(d), c.extra
		}
		if name != "" {
			found[i].names = []string{name}
		}
	}
	return found, nil
}

// visit adds what d names to c. What is not in the archive is left out.
func (w *walk) visit(d oci.Descriptor, depth int, c *contents) error {
	if w.seen[d.Digest] {
		return nil
	}
	w.seen[d.Digest] = true
	if w.visits++; w.visits > maxManifests {
		return fail.New(fail.Invalid, "the archive's indexes name more than %d manifests", maxManifests)
	}
	if err := d.Digest.Validate(); err != nil {
		return fail.New(fail.Invalid, "an index names the manifest %q: %w", d.Digest, err)
	}
	if !w.store.blobs.Has(d.Digest) {
		w.missing = d.Digest
		return nil
	}
	w.lease.keepBlobs(d.Digest)
	data, err := w.document(d.Digest)
	if err != nil {
		return err
	}
	switch {
	case oci.IsIndex(d.MediaType):
		if depth == maxNesting {
			return fail.New(fail.Invalid, "index %s is nested too deep", d.Digest)
		}
		var ix oci.Index
		if err := oci.Decode(data, &ix); err != nil {
			return fail.New(fail.Invalid, "index %s: %w", d.Digest, err)
		}
		if depth > 0 {
			c.extra = append(c.extra, d.Digest)
		}
		for _, child := range ix.Manifests {
			if err := w.visit(child, depth+1, c); err != nil {
				return err
			}
		}
		return nil
	case oci.IsManifest(d.MediaType):
		return w.manifest(bare(d), data, depth, c)
	case depth == 0:
		return fail.New(fail.Invalid, "unsupported manifest media type %q", d.MediaType)
	}
	c.extra = append(c.extra, d.Digest)
	return nil
}

func (w *walk) manifest(d oci.Descriptor, data []byte, depth int, c *contents) error {
	d.Size = int64(len(data))
	v, artifact, err := parseManifest(d, data)
	if err != nil {
		return err
	}
	w.lease.keepBlobs(v.blobs()...)
	if artifact != "" || d.Platform != nil && d.Platform.OS == "unknown" {
		x := loadable{plan: newArtifact(v, cmp.Or(artifact, "attestation"))}
		if depth > 0 && slices.ContainsFunc(v.blobs(), func(b oci.Digest) bool { return !w.store.blobs.Has(b) }) {
			return nil // one that is not whole belongs to a platform that is not here
		}
		c.artifacts = append(c.artifacts, x)
		return nil
	}
	if !w.store.blobs.Has(v.Config.Digest) {
		return fail.New(fail.Invalid, "the archive lacks the configuration %s of manifest %s", v.Config.Digest, d.Digest)
	}
	raw, err := w.document(v.Config.Digest)
	if err != nil {
		return err
	}
	p, err := newPlan(v, raw)
	if err != nil {
		return err
	}
	p.ready = w.ready
	c.images = append(c.images, loadable{plan: p})
	return nil
}

func bare(d oci.Descriptor) oci.Descriptor {
	return oci.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Platform: d.Platform}
}

// indexName is the full reference that an index entry's annotations give it, if any.
// A bare tag is none.
func indexName(d oci.Descriptor) string {
	for _, s := range []string{d.Annotations[annotationImageName], d.Annotations[ocispec.AnnotationRefName]} {
		if !strings.ContainsAny(s, ":/") {
			continue
		}
		if full, err := tagged(s); err == nil {
			return full
		}
	}
	return ""
}

func tagged(s string) (string, error) {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return "", err
	}
	if _, digested := named.(reference.Digested); digested {
		return "", fail.New(fail.Invalid, "a digest is no name")
	}
	return reference.TagNameOnly(named).String(), nil
}

// dockerImage makes a manifest for an image of Docker's form, unless known holds it.
func (a *shelf) dockerImage(ctx context.Context, m dockerManifest, known []loadable) (loadable, error) {
	var img loadable
	for _, t := range m.RepoTags {
		full, err := tagged(t)
		if err != nil {
			return img, fail.New(fail.Invalid, "manifest.json: invalid tag %q: %w", t, err)
		}
		img.names = append(img.names, full)
	}
	c, ok := a.find(m.Config)
	if !ok {
		return img, fail.New(fail.Invalid, "the archive lacks the configuration %q", m.Config)
	}
	img.id = c.Digest
	if slices.ContainsFunc(known, func(x loadable) bool { return x.id == img.id }) {
		return img, nil
	}
	if c.Size > maxConfig {
		return img, fail.New(fail.Invalid, "a configuration of %d bytes is too large", c.Size)
	}
	raw, err := a.document(c.Digest)
	if err != nil {
		return img, err
	}
	c.MediaType = oci.DockerConfig
	out := oci.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: oci.DockerManifest, Config: c, Layers: []oci.Descriptor{}}
	for _, name := range m.Layers {
		d, ok := a.find(name)
		if !ok {
			return img, fail.New(fail.Invalid, "the archive lacks the layer %q", name)
		}
		if d.MediaType, err = a.layerType(d.Digest); err != nil {
			return img, fmt.Errorf("layer %q: %w", name, err)
		}
		out.Layers = append(out.Layers, d)
	}
	d, data, err := describeManifest(out)
	if err != nil {
		return img, err
	}
	if _, err := a.lease.put(ctx, data); err != nil {
		return img, err
	}
	img.plan, err = newPlan(variant{Target: d, Manifest: d, Config: c, Layers: out.Layers}, raw)
	img.ready = a.ready
	return img, err
}

// layerType is the media type of a layer, as its first bytes tell.
func (a *shelf) layerType(d oci.Digest) (string, error) {
	f, err := a.store.blobs.Open(d)
	if err != nil {
		return "", err
	}
	defer f.Close()
	in, kind, err := decompress(f)
	if err != nil {
		return "", err
	}
	in.Close()
	switch kind {
	case plain:
		return oci.DockerLayer, nil
	case gzipped:
		return oci.DockerLayerGzip, nil
	case zstdized:
		return ocispec.MediaTypeImageLayerZstd, nil
	}
	return "", fail.New(fail.Invalid, "layers packed with %s are not supported", kind)
}
