package images

import (
	"encoding/json"
	"fmt"
	"slices"

	"berth/fail"
	"berth/oci"
)

// Part is one manifest of an image: a platform, or what comes along with one.
type Part struct {
	Descriptor oci.Descriptor
	Available  bool         // all that it names is here
	Image      oci.Digest   // its image's ID, empty if it is not one that is here
	Platform   oci.Platform // of an image
	// Attests is the manifest that this one is an attestation of.
	Attests  oci.Digest
	Artifact string // the type of what is no image
	Content  int64  // bytes of its blobs that are here
	Unpacked int64  // bytes of its layers
}

// The annotations by which BuildKit marks the manifests of attestations.
const (
	annotationReferenceType   = "vnd.docker.reference.type"
	annotationReferenceDigest = "vnd.docker.reference.digest"
)

// Manifests lists the parts of image id: its index's manifests, here or not, or its one.
func (s *Store) Manifests(id oci.Digest) ([]Part, error) {
	e := s.entry(id)
	if e == nil {
		return nil, fail.New(fail.NotFound, "No such image: %s", id)
	}
	target := e.current().Target
	if !oci.IsIndex(target.MediaType) || !s.blobs.Has(target.Digest) {
		return []Part{s.part(e, e.current().Manifest)}, nil
	}
	data, err := s.blobs.Read(target.Digest)
	if err != nil {
		return nil, err
	}
	var ix oci.Index
	if err := json.Unmarshal(data, &ix); err != nil {
		return nil, fmt.Errorf("index %s: %w", target.Digest, err)
	}
	var parts []Part
	for _, d := range ix.Manifests {
		if o := s.bySibling(e, d.Digest); o != nil {
			parts = append(parts, s.part(o, d))
			continue
		}
		p := Part{Descriptor: d}
		if d.Platform != nil {
			p.Platform = *d.Platform
		}
		if d.Annotations[annotationReferenceType] == "attestation-manifest" {
			p.Attests = oci.Digest(d.Annotations[annotationReferenceDigest])
		}
		if slices.Contains(e.current().Extra, d.Digest) {
			p.Available = true
			p.Content = s.contentOf(d)
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// bySibling is the image of a manifest that is of the same index as e.
func (s *Store) bySibling(e *entry, manifest oci.Digest) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.index.images {
		if !o.Hidden && o.current().Manifest.Digest == manifest && (o == e || o.sibling(e.record)) {
			return o
		}
	}
	return nil
}

func (s *Store) part(e *entry, d oci.Descriptor) Part {
	v := e.current()
	p := Part{Descriptor: d, Available: true, Image: e.ID, Platform: e.platform(), Artifact: e.Artifact}
	if e.Artifact == "" {
		p.Unpacked = e.Size
	}
	for _, b := range append([]oci.Digest{v.Manifest.Digest, v.Config.Digest}, layerDigests(v)...) {
		n, err := s.blobs.Size(b)
		p.Available = p.Available && err == nil
		p.Content += n
	}
	return p
}

func layerDigests(v variant) (all []oci.Digest) {
	for _, l := range v.Layers {
		all = append(all, l.Digest)
	}
	return all
}

// contentOf sums up a manifest that is no image and its blobs.
func (s *Store) contentOf(d oci.Descriptor) int64 {
	data, err := s.blobs.Read(d.Digest)
	if err != nil {
		return 0
	}
	sum := int64(len(data))
	if v, _, err := parseManifest(d, data); err == nil {
		for _, b := range append(layerDigests(v), v.Config.Digest) {
			n, _ := s.blobs.Size(b)
			sum += n
		}
	}
	return sum
}

// Usage is how many bytes images take on disk, as blobs and as layers.
func (s *Store) Usage() (int64, error) {
	sum, err := s.LayersSize()
	if err != nil {
		return 0, err
	}
	err = s.blobs.Walk(func(_ oci.Digest, n int64) error { sum += n; return nil })
	return sum, err
}
