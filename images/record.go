package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/durable"
	"berth/oci"
)

const (
	imagesBucket = "images" // image ID → record
	blobsBucket  = "layers" // blob digest → blobInfo
	leasesBucket = "leases" // lease id → lease
)

// record is what the database keeps of an image. Records are not changed but replaced.
type record struct {
	ID oci.Digest `json:"id"`
	// Variants are the manifests by which the image is known, the current one last.
	// They differ in how layers are compressed; the configuration is the same.
	Variants []variant    `json:"variants"`
	Chains   []oci.Digest `json:"chains"` // of the layers, lowest first
	Size     int64        `json:"size"`
	Names    []string     `json:"names,omitempty"`   // "docker.io/library/debian:12"
	Digests  []string     `json:"digests,omitempty"` // "docker.io/library/debian@sha256:…"
	Stored   time.Time    `json:"stored"`
	Platform oci.Platform `json:"platform,omitzero"`
	// Artifact is the type of what is no image to run: no layers are unpacked of it, and
	// its ID is its manifest's digest.
	Artifact string    `json:"artifact,omitempty"`
	Tagged   time.Time `json:"tagged,omitzero"`
	// Hidden: removed, but containers still stand on the layers.
	Hidden bool `json:"hidden,omitempty"`
}

// variant is one manifest of an image, with all that is needed to push it.
type variant struct {
	Target   oci.Descriptor   `json:"target"` // the manifest, or the index it was chosen from
	Manifest oci.Descriptor   `json:"manifest"`
	Config   oci.Descriptor   `json:"config"`
	Layers   []oci.Descriptor `json:"layers"`
	// Extra are blobs of the index that belong to no image: attestations, indexes within.
	Extra []oci.Digest `json:"extra,omitempty"`
}

// blobs lists what the variant needs of the content store. The index is kept if it is
// there: it is small, and tells where the manifest came from.
func (v variant) blobs() []oci.Digest {
	all := append([]oci.Digest{v.Target.Digest, v.Manifest.Digest, v.Config.Digest}, v.Extra...)
	for _, l := range v.Layers {
		all = append(all, l.Digest)
	}
	return all
}

func (r record) current() variant { return r.Variants[len(r.Variants)-1] }

// blobs lists what all variants need.
func (r record) blobs() []oci.Digest {
	var all []oci.Digest
	for _, v := range r.Variants {
		all = append(all, v.blobs()...)
	}
	return all
}

func (r record) clone() record {
	r.Variants, r.Chains = slices.Clone(r.Variants), slices.Clone(r.Chains)
	r.Names, r.Digests = slices.Clone(r.Names), slices.Clone(r.Digests)
	return r
}

// addVariant makes v the current one. Others stay only while a repository digest
// promises their manifest.
func (r *record) addVariant(v variant) {
	r.Variants = append(slices.DeleteFunc(r.Variants, func(o variant) bool {
		return o.Manifest.Digest == v.Manifest.Digest && o.Target.Digest == v.Target.Digest || !r.promises(o)
	}), v)
}

func (r *record) promises(v variant) bool {
	return slices.ContainsFunc(r.Digests, func(d string) bool {
		_, dgst := cutDigest(d)
		return dgst == v.Target.Digest || dgst == v.Manifest.Digest
	})
}

// entry is a record with its configuration, which is read when first asked for.
type entry struct {
	record
	config func() (*config, error)
}

type config struct {
	raw   []byte
	image oci.Image
}

func (s *Store) newEntry(r record) *entry {
	return &entry{record: r, config: sync.OnceValues(func() (*config, error) {
		if r.Artifact != "" {
			return &config{raw: []byte("{}")}, nil
		}
		raw, err := s.blobs.Read(r.ID)
		if err != nil {
			return nil, fmt.Errorf("configuration of image %s: %w", r.ID, err)
		}
		c := &config{raw: raw}
		if err := json.Unmarshal(raw, &c.image); err != nil {
			return nil, fmt.Errorf("configuration of image %s: %w", r.ID, err)
		}
		return c, nil
	})}
}

// image is what the world sees of an entry.
func (e *entry) image() (Image, error) {
	c, err := e.config()
	if err != nil {
		return Image{}, err
	}
	v := e.current()
	img := Image{ID: e.ID, Target: v.Target, Manifest: v.Manifest, Config: c.image, RawConfig: c.raw,
		Artifact: e.Artifact, Size: e.Size, LastTagged: e.Tagged}
	for _, n := range e.Names {
		img.RepoTags = append(img.RepoTags, familiar(n))
	}
	for _, d := range e.Digests {
		img.RepoDigests = append(img.RepoDigests, familiar(d))
	}
	return img, nil
}

// index is the records by all they are called. A tag or digest of a multi-platform image
// names a record for each of its platforms that is here, the one that suits this machine
// best first. Its maps are only changed under both Store.write and Store.mu.
type index struct {
	images  map[oci.Digest]*entry
	names   map[string][]*entry
	digests map[string][]*entry
}

func newIndex() index {
	return index{images: map[oci.Digest]*entry{}, names: map[string][]*entry{}, digests: map[string][]*entry{}}
}

func (x *index) set(e *entry) {
	x.images[e.ID] = e
	if e.Hidden {
		return
	}
	join := func(m map[string][]*entry, key string) {
		all := append(slices.Clone(m[key]), e)
		slices.SortFunc(all, bySuitability)
		m[key] = all
	}
	for _, n := range e.Names {
		join(x.names, n)
	}
	for _, d := range e.Digests {
		join(x.digests, d)
	}
}

func (x *index) drop(id oci.Digest) {
	e := x.images[id]
	if e == nil {
		return
	}
	delete(x.images, id)
	leave := func(m map[string][]*entry, key string) {
		if m[key] = slices.DeleteFunc(slices.Clone(m[key]), func(o *entry) bool { return o == e }); len(m[key]) == 0 {
			delete(m, key)
		}
	}
	for _, n := range e.Names {
		leave(x.names, n)
	}
	for _, d := range e.Digests {
		leave(x.digests, d)
	}
}

// all are the records of a full tag or digest reference.
func (x *index) all(ref string) []*entry {
	if strings.Contains(ref, "@") {
		return x.digests[ref]
	}
	return x.names[ref]
}

func (s *Store) loadIndex() (index, error) {
	x := newIndex()
	err := s.db.View(func(tx *durable.Tx) error {
		return tx.ForEach(imagesBucket, func(key string, data []byte) error {
			r, err := readRecord(key, data)
			if err != nil {
				s.log.Error("the record of an image is unreadable: berth system check --repair", "image", key, "error", err)
				s.damaged[key] = err
				return nil
			}
			x.set(s.newEntry(r))
			return nil
		})
	})
	return x, err
}

// readRecord reads the database's value for an image.
func readRecord(key string, data []byte) (record, error) {
	var r record
	switch err := json.Unmarshal(data, &r); {
	case err != nil:
		return r, err
	case r.ID.String() != key:
		return r, fmt.Errorf("it is that of %q", r.ID)
	case len(r.Variants) == 0:
		return r, errors.New("it names no manifest")
	}
	return r, nil
}

// draft is a set of changes to records, seen and written as one.
type draft struct {
	index   *index
	changed map[oci.Digest]*record // nil: deleted
	blobs   map[oci.Digest]blobInfo
}

func (d *draft) get(id oci.Digest) (record, bool) {
	if r, ok := d.changed[id]; ok {
		if r == nil {
			return record{}, false
		}
		return *r, true
	}
	if e := d.index.images[id]; e != nil {
		return e.clone(), true
	}
	return record{}, false
}

func (d *draft) put(r record)         { d.changed[r.ID] = &r }
func (d *draft) delete(id oci.Digest) { d.changed[id] = nil }

// name gives r the name, which another image loses unless it is another platform of the
// same index.
func (d *draft) name(r *record, name string) {
	owners := slices.Collect(maps.Keys(d.changed))
	for _, e := range d.index.names[name] {
		owners = append(owners, e.ID)
	}
	for _, id := range owners {
		if o, ok := d.get(id); ok && id != r.ID && !o.sibling(*r) {
			o.Names = slices.DeleteFunc(o.Names, func(n string) bool { return n == name })
			d.put(o)
		}
	}
	if !slices.Contains(r.Names, name) {
		r.Names = append(r.Names, name)
		slices.Sort(r.Names)
	}
	r.Tagged = time.Now().UTC()
}

// sibling reports whether r and o are known by the same index.
func (r record) sibling(o record) bool {
	a, b := r.current().Target, o.current().Target
	return a.Digest == b.Digest && oci.IsIndex(a.MediaType)
}

// change runs fn on a draft of the records, and makes what it did durable and visible.
func (s *Store) change(fn func(*draft) error) error {
	s.write.Lock()
	defer s.write.Unlock()
	d := &draft{index: &s.index, changed: map[oci.Digest]*record{}, blobs: map[oci.Digest]blobInfo{}}
	if err := fn(d); err != nil {
		return err
	}
	if len(d.changed) == 0 && len(d.blobs) == 0 {
		return nil
	}
	err := s.db.Update(func(tx *durable.Tx) error {
		for id, r := range d.changed {
			var err error
			if r == nil {
				err = tx.Delete(imagesBucket, id.String())
			} else {
				err = tx.Put(imagesBucket, id.String(), r)
			}
			if err != nil {
				return err
			}
		}
		for digest, info := range d.blobs {
			if err := tx.Put(blobsBucket, digest.String(), info); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write image records: %w", err)
	}
	if len(d.changed) == 0 {
		return nil
	}
	s.mu.Lock()
	for id := range d.changed {
		delete(s.damaged, id.String())
		s.index.drop(id)
	}
	for _, r := range d.changed {
		if r != nil {
			s.index.set(s.newEntry(*r))
		}
	}
	s.mu.Unlock()
	s.publishLayout()
	return nil
}

// arrived is an image whose content is here and not yet recorded.
type arrived struct {
	id       oci.Digest
	v        variant
	chains   []oci.Digest
	platform oci.Platform
	artifact string
}

// arrival is an image to record under names and a digest reference, of which there may
// be none.
type arrival struct {
	arrived
	names  []string
	digest string
}

// record makes images visible that have wholly arrived, all at once. The caller holds a
// lease on their content.
func (s *Store) record(all ...arrival) error {
	sizes := make([]int64, len(all))
	for i, a := range all {
		for _, c := range a.chains {
			n, err := s.layers.Size(c)
			if err != nil {
				return err
			}
			sizes[i] += n
		}
		if a.artifact != "" {
			for _, d := range append([]oci.Descriptor{a.v.Manifest, a.v.Config}, a.v.Layers...) {
				sizes[i] += d.Size
			}
		}
	}
	// Part of the content may be somebody else's work, who is just at giving it its names.
	s.blobs.Published()
	s.layers.Published()
	return s.change(func(d *draft) error {
		for i, a := range all {
			r, ok := d.get(a.id)
			if !ok {
				r = record{ID: a.id, Stored: time.Now().UTC()}
			}
			r.Chains, r.Size, r.Hidden = a.chains, sizes[i], false
			r.Platform, r.Artifact = a.platform, a.artifact
			if a.digest != "" && !slices.Contains(r.Digests, a.digest) {
				r.Digests = append(r.Digests, a.digest)
				slices.Sort(r.Digests)
			}
			r.addVariant(a.v)
			for _, n := range a.names {
				d.name(&r, n)
			}
			d.put(r)
		}
		return nil
	})
}

// publishLayout writes the content store's index.json, by which other tools find the
// images. Nothing of ours depends on it.
func (s *Store) publishLayout() {
	if s.isDamaged() { // by what is published the record may be mended
		return
	}
	var ix oci.Index
	s.mu.Lock()
	ids := slices.Sorted(maps.Keys(s.index.images))
	for _, id := range ids {
		e := s.index.images[id]
		if e.Hidden {
			continue
		}
		d := e.current().Manifest
		if len(e.Names) == 0 {
			ix.Manifests = append(ix.Manifests, d)
		}
		for _, n := range e.Names {
			named := d
			named.Annotations = map[string]string{ocispec.AnnotationRefName: n}
			ix.Manifests = append(ix.Manifests, named)
		}
	}
	s.mu.Unlock()
	if old, err := s.blobs.Index(); err == nil && sameIndex(old, ix) {
		return
	}
	if err := s.blobs.SetIndex(ix); err != nil {
		s.log.Warn("the content store's index.json is not up to date", "error", err)
	}
}

func sameIndex(a, b oci.Index) bool {
	return slices.EqualFunc(a.Manifests, b.Manifests, func(x, y oci.Descriptor) bool {
		return x.Digest == y.Digest && x.MediaType == y.MediaType && maps.Equal(x.Annotations, y.Annotations)
	})
}

// blobInfo is what we know of a blob beside its content.
type blobInfo struct {
	Repos []string                  `json:"repos,omitempty"` // "localhost:5000/app": repositories that have it, latest first
	Forms map[string]oci.Descriptor `json:"forms,omitempty"` // what a layer was packed to: "gzip", "zstd:3", "plain"
}

// maxRepos bounds how many places we remember of a blob.
const maxRepos = 8

func (s *Store) blobInfo(d oci.Digest) (info blobInfo, err error) {
	err = s.db.View(func(tx *durable.Tx) error {
		_, err := tx.Get(blobsBucket, d.String(), &info)
		return err
	})
	return info, err
}

// sawBlobs remembers that repo has the blobs of v.
func (s *Store) sawBlobs(repo string, v variant) error {
	return s.change(func(d *draft) error {
		for _, l := range v.Layers {
			info, err := s.blobInfo(l.Digest)
			if err != nil {
				return err
			}
			if len(info.Repos) > 0 && info.Repos[0] == repo {
				continue
			}
			info.Repos = slices.DeleteFunc(info.Repos, func(r string) bool { return r == repo })
			info.Repos = append([]string{repo}, info.Repos...)
			info.Repos = info.Repos[:min(len(info.Repos), maxRepos)]
			d.blobs[l.Digest] = info
		}
		return nil
	})
}

// entry returns the record of id, also a hidden one; nil if there is none.
func (s *Store) entry(id oci.Digest) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.index.images[id]
}
