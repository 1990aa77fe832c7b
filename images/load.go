package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/durable"
	"berth/fail"
	"berth/oci"
)

// Load takes in an archive of Docker's form or an OCI layout, compressed or not, and
// returns a familiar reference or an ID for each image in it.
//
// The archive is read once, as a stream. Its files become blobs; the names they have in
// it are keys of a table and never paths of the host.
func (s *Store) Load(ctx context.Context, r io.Reader, report Progress) (names []string, err error) {
	l, err := s.newLease("load", "archive")
	if err != nil {
		return nil, err
	}
	// The archive's own files that no image needs go in any case.
	defer l.abort()
	a := shelf{store: s, lease: l, files: map[string]oci.Descriptor{}, links: map[string]string{}}
	if err := a.fill(ctx, r); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	durable.Failpoint("images.load.read")
	all, err := a.images(ctx)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	for _, img := range all {
		loaded, err := s.take(ctx, l, img, serial(report))
		if err != nil {
			return names, fmt.Errorf("load image %s: %w", short(img.id), err)
		}
		names = append(names, loaded...)
	}
	return names, nil
}

// take unpacks and records one image, and returns what it is called now.
func (s *Store) take(ctx context.Context, l *lease, img loadable, report Progress) (names []string, err error) {
	l.keepLayers(img.chains...)
	if old := s.entry(img.id); old != nil && s.complete(plan{arrived: arrived{old.ID, old.current(), old.Chains}}) {
		// Here already, perhaps with the manifest of a registry, which is worth more.
		img.v = old.current()
	} else if err := s.bring(ctx, img.plan, img.missing, loading(img.plan, report)); err != nil {
		return nil, err
	}
	durable.Failpoint("images.load.unpacked")
	if len(img.names) == 0 {
		if err := s.record(img.arrived, "", ""); err != nil {
			return nil, err
		}
		names = append(names, img.id.String())
	}
	for _, n := range img.names {
		if err := s.record(img.arrived, n, ""); err != nil {
			return nil, err
		}
		names = append(names, familiar(n))
	}
	s.tell("load", img.id, img.id.String(), img.id.String())
	return names, nil
}

// loading turns the steps of bring into Docker's words for a load.
func loading(p plan, report Progress) Progress {
	ids := map[string]string{}
	for i, d := range p.v.Layers {
		ids[short(d.Digest)] = short(p.diffs[i])
	}
	return func(s Step) {
		if s.Status == "Extracting" {
			report(Step{ID: ids[s.ID], Status: "Loading layer", Current: s.Current, Total: s.Total})
		}
	}
}

// loadable is an image found in an archive.
type loadable struct {
	plan
	names []string // full
}

// missing is the opener of blobs that should have been in the archive.
func (loadable) missing(_ context.Context, d oci.Descriptor, _ int64) (io.ReadCloser, error) {
	return nil, fail.New(fail.Invalid, "the archive lacks blob %s", d.Digest)
}

// shelf is an archive's content by name.
type shelf struct {
	store *Store
	lease *lease
	files map[string]oci.Descriptor // digest and size
	links map[string]string
}

// maxEntries bounds the table of names.
const maxEntries = 200_000

// fill reads the archive.
func (a *shelf) fill(ctx context.Context, r io.Reader) error {
	in, _, err := decompress(untilDone{ctx, r})
	if err != nil {
		return err
	}
	defer in.Close()
	t := tar.NewReader(in)
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF && n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // names are only keys
			return archiveError(err)
		}
		if n == maxEntries {
			return fail.New(fail.Invalid, "the archive has more than %d entries", maxEntries)
		}
		name := key(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			if a.files[name], err = a.file(ctx, name, h.Size, t); err != nil {
				return fmt.Errorf("%s: %w", h.Name, err)
			}
		case tar.TypeSymlink:
			a.links[name] = key(path.Join(path.Dir("/"+name), h.Linkname))
		case tar.TypeLink:
			a.links[name] = key(h.Linkname)
		}
	}
}

// key is the one spelling of a name in the archive.
func key(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func archiveError(err error) error {
	switch {
	case err == io.EOF:
		return fail.New(fail.Invalid, "the archive is empty")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fail.New(fail.Invalid, "the archive is cut off")
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return fail.New(fail.Invalid, "not an image archive: %w", err)
	}
	return err
}

// file takes one file in as a blob. A name of an OCI layout promises the digest.
func (a *shelf) file(ctx context.Context, name string, size int64, r io.Reader) (oci.Descriptor, error) {
	want := layoutDigest(name)
	if want != "" {
		a.lease.keepBlobs(want)
	}
	w, err := a.store.blobs.Ingest(ctx, want)
	if fail.Is(err, fail.NotModified) {
		return oci.Descriptor{Digest: want, Size: size}, nil
	}
	if err != nil {
		return oci.Descriptor{}, err
	}
	defer w.Close()
	if err := w.Restart(); err != nil {
		return oci.Descriptor{}, err
	}
	src := &remembering{r: r}
	if _, err := io.Copy(w, src); err != nil {
		if src.err != nil {
			err = archiveError(src.err)
		}
		return oci.Descriptor{}, err
	}
	d, err := a.lease.commit(w, size)
	return oci.Descriptor{Digest: d, Size: size}, err
}

// layoutDigest is the digest that a name blobs/<algorithm>/<hex> stands for, or empty.
func layoutDigest(name string) oci.Digest {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || parts[0] != ocispec.ImageBlobsDir {
		return ""
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[2])
	if d.Validate() != nil {
		return ""
	}
	return d
}

// find returns the file of a name, through links.
func (a *shelf) find(name string) (oci.Descriptor, bool) {
	name = key(name)
	for range 16 {
		if d, ok := a.files[name]; ok {
			return d, true
		}
		to, ok := a.links[name]
		if !ok {
			break
		}
		name = to
	}
	return oci.Descriptor{}, false
}

func (a *shelf) json(name string, v any) (found bool, err error) {
	d, ok := a.find(name)
	if !ok {
		return false, nil
	}
	data, err := a.store.blobs.Read(d.Digest)
	if err != nil {
		return true, err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return true, fail.New(fail.Invalid, "%s: %w", name, err)
	}
	return true, nil
}

// images finds what is in the archive. If it has both forms, the OCI layout tells the
// manifests, and Docker's form adds names.
func (a *shelf) images(ctx context.Context) ([]loadable, error) {
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
	if !hasIndex && !hasDocker {
		return nil, fail.New(fail.Invalid, "not an image archive: it has neither manifest.json nor index.json")
	}
	var all []loadable
	for _, d := range ix.Manifests {
		img, ok, err := a.ociImage(d, 0)
		if err != nil {
			return nil, err
		}
		if ok {
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
	if len(all) == 0 {
		return nil, fail.New(fail.Invalid, "the archive holds no image")
	}
	return all, nil
}

// merge adds img to all, or its names to the same image there.
func merge(all []loadable, img loadable) []loadable {
	for i, x := range all {
		if x.id == img.id {
			for _, n := range img.names {
				if !slices.Contains(x.names, n) {
					all[i].names = append(all[i].names, n)
				}
			}
			return all
		}
	}
	return append(all, img)
}

// maxNesting bounds indexes within indexes.
const maxNesting = 4

// ociImage reads the image that an index names. What is not complete in the archive, or
// is no image, is left out.
func (a *shelf) ociImage(d oci.Descriptor, depth int) (img loadable, ok bool, err error) {
	if d.Digest.Validate() != nil || !a.store.blobs.Has(d.Digest) {
		return img, false, nil
	}
	a.lease.keepBlobs(d.Digest)
	data, err := a.store.blobs.Read(d.Digest)
	if err != nil {
		return img, false, err
	}
	name := indexName(d)
	if oci.IsIndex(d.MediaType) {
		if depth == maxNesting {
			return img, false, fail.New(fail.Invalid, "index %s is nested too deep", d.Digest)
		}
		var ix oci.Index
		if err := json.Unmarshal(data, &ix); err != nil {
			return img, false, fail.New(fail.Invalid, "index %s: %w", d.Digest, err)
		}
		for _, c := range byPlatform(ix.Manifests) {
			if img, ok, err = a.ociImage(c, depth+1); ok || err != nil {
				break
			}
		}
		if ok {
			img.v.Target = bare(d)
		}
	} else if oci.IsManifest(d.MediaType) {
		img, ok, err = a.ociManifest(bare(d), data)
	}
	if ok && name != "" {
		img.names = append(img.names, name)
	}
	return img, ok, err
}

func bare(d oci.Descriptor) oci.Descriptor {
	return oci.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Platform: d.Platform}
}

func (a *shelf) ociManifest(d oci.Descriptor, data []byte) (img loadable, ok bool, err error) {
	d.Size = int64(len(data))
	v, err := parseManifest(d, data)
	if err != nil {
		return img, false, err
	}
	a.lease.keepBlobs(v.blobs()...)
	if !a.store.blobs.Has(v.Config.Digest) {
		return img, false, nil
	}
	raw, err := a.store.blobs.Read(v.Config.Digest)
	if err != nil {
		return img, false, err
	}
	p, err := newPlan(v, raw)
	return loadable{plan: p}, err == nil, err
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

// byPlatform puts what suits this machine first, and attestations last.
func byPlatform(all []oci.Descriptor) []oci.Descriptor {
	match := platforms.Default()
	rank := func(d oci.Descriptor) int {
		switch {
		case d.Platform == nil:
			return 1
		case d.Platform.OS == "unknown":
			return 3
		case match.Match(*d.Platform):
			return 0
		}
		return 2
	}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(x, y oci.Descriptor) int { return rank(x) - rank(y) })
	return all
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
	raw, err := a.store.blobs.Read(c.Digest)
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
