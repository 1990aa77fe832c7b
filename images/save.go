package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/fail"
	"berth/oci"
)

// annotationImageName is where containerd and Docker keep the full reference in an
// index.
const annotationImageName = "io.containerd.image.name"

// dockerManifest is one image in manifest.json of Docker's archive form.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// SaveOptions guide Save.
type SaveOptions struct {
	// Platforms narrows what is saved of multi-platform images. Empty: all that are here.
	Platforms []oci.Platform
}

// Save writes the named images as one archive that is both Docker's (manifest.json)
// and an OCI layout (index.json). A tag is saved under its name, a repository's name
// alone stands for all its tags, an ID is saved without names. Layers go as they are in
// the content store, compressed or not.
//
// Of a multi-platform image the index goes whole, and the content of the platforms that
// are here. Docker's form knows one platform: the first of them.
func (s *Store) Save(ctx context.Context, names []string, o SaveOptions, w io.Writer) error {
	l, err := s.newLease("save", fmt.Sprint(names))
	if err != nil {
		return err
	}
	defer l.release()
	all, err := s.selection(names, o)
	if err != nil {
		return err
	}
	for _, img := range all {
		for _, e := range img.platforms {
			l.keepBlobs(e.current().blobs()...)
			if s.entry(e.ID) == nil {
				return fail.New(fail.NotFound, "No such image: %s", e.ID)
			}
		}
	}
	a := archive{ctx: ctx, store: s, tar: tar.NewWriter(w), written: map[oci.Digest]bool{},
		repositories: map[string]map[string]string{}, buf: make([]byte, 1<<20)}
	for _, img := range all {
		if err := a.image(img); err != nil {
			return fmt.Errorf("save image %s: %w", short(img.platforms[0].ID), err)
		}
	}
	if err := a.finish(); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	for _, img := range all {
		id := img.platforms[0].ID
		s.tell("save", id, id.String(), id.String())
	}
	return nil
}

// CanSave tells whether Save would find what it is asked for.
func (s *Store) CanSave(names []string, o SaveOptions) error {
	_, err := s.selection(names, o)
	return err
}

// selected is an image to save, with the names to save it by.
type selected struct {
	platforms []*entry
	names     []string // full
}

func (s *Store) selection(names []string, o SaveOptions) ([]*selected, error) {
	var all []*selected
	add := func(f found, asked, name string) error {
		these := f.all
		if len(o.Platforms) > 0 {
			var err error
			if these, err = f.exactly(asked, o.Platforms); err != nil {
				return err
			}
		}
		i := slices.IndexFunc(all, func(x *selected) bool { return x.platforms[0].ID == these[0].ID })
		if i < 0 {
			i = len(all)
			all = append(all, &selected{})
		}
		for _, e := range these {
			if !slices.ContainsFunc(all[i].platforms, func(x *entry) bool { return x.ID == e.ID }) {
				all[i].platforms = append(all[i].platforms, e)
			}
		}
		if name != "" && !slices.Contains(all[i].names, name) {
			all[i].names = append(all[i].names, name)
		}
		return nil
	}
	for _, name := range names {
		if named, err := reference.ParseNormalizedNamed(name); err == nil && reference.IsNameOnly(named) {
			if tags := s.repositoryTags(named.Name()); len(tags) > 0 {
				for _, t := range tags {
					f, err := s.find(t)
					if err == nil {
						err = add(f, familiar(t), t)
					}
					if err != nil {
						return nil, err
					}
				}
				continue
			}
		}
		f, err := s.find(name)
		if err != nil {
			return nil, err
		}
		if f.Hidden {
			return nil, fail.New(fail.NotFound, "No such image: %s", name)
		}
		as := f.ref
		if _, d := cutDigest(f.ref); d != "" {
			as = "" // a digest is no name in an archive
		}
		if err := add(f, name, as); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// archive is an archive being written.
type archive struct {
	ctx          context.Context
	store        *Store
	tar          *tar.Writer
	buf          []byte
	written      map[oci.Digest]bool
	dirs         bool
	docker       []dockerManifest
	repositories map[string]map[string]string // name → tag → top-most layer
	index        oci.Index
}

func blobPath(d oci.Digest) string {
	return path.Join(ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func (a *archive) image(img *selected) error {
	if err := a.directories(); err != nil {
		return err
	}
	var entries []oci.Descriptor
	for _, e := range img.platforms {
		v := e.current()
		for _, d := range append([]oci.Descriptor{v.Config}, v.Layers...) {
			if isForeign(d) && !a.store.blobs.Has(d.Digest) {
				continue
			}
			if err := a.blob(d.Digest); err != nil {
				return err
			}
		}
		if err := a.blob(v.Manifest.Digest); err != nil {
			return err
		}
		d := v.Manifest
		if oci.IsIndex(v.Target.MediaType) && a.store.blobs.Has(v.Target.Digest) {
			d = v.Target
			for _, x := range append(slices.Clone(v.Extra), d.Digest) {
				if err := a.blob(x); err != nil {
					return err
				}
			}
		}
		if !slices.ContainsFunc(entries, func(x oci.Descriptor) bool { return x.Digest == d.Digest }) {
			// Without the annotations of the index it was chosen from.
			entries = append(entries, bare(d))
		}
	}
	for _, d := range entries {
		if len(img.names) == 0 {
			a.index.Manifests = append(a.index.Manifests, d)
		}
		for _, n := range img.names {
			named := d
			named.Annotations = map[string]string{annotationImageName: n, ocispec.AnnotationRefName: tagOf(n)}
			a.index.Manifests = append(a.index.Manifests, named)
		}
	}
	if lead := img.platforms[0]; lead.Artifact == "" {
		a.dockerForm(lead.current(), img.names)
	}
	return nil
}

// dockerForm describes an image whose content is written in manifest.json.
func (a *archive) dockerForm(v variant, names []string) {
	m := dockerManifest{Config: blobPath(v.Config.Digest), Layers: []string{}}
	for _, d := range v.Layers {
		if !a.written[d.Digest] {
			return // this form has no word for layers that are elsewhere
		}
		m.Layers = append(m.Layers, blobPath(d.Digest))
	}
	for _, n := range names {
		m.RepoTags = append(m.RepoTags, familiar(n))
		if len(v.Layers) > 0 {
			repo := familiar(repoOf(n))
			if a.repositories[repo] == nil {
				a.repositories[repo] = map[string]string{}
			}
			a.repositories[repo][tagOf(n)] = v.Layers[len(v.Layers)-1].Digest.Encoded()
		}
	}
	a.docker = append(a.docker, m)
}

func tagOf(full string) string {
	if named, err := reference.ParseNormalizedNamed(full); err == nil {
		if t, ok := named.(reference.Tagged); ok {
			return t.Tag()
		}
	}
	return ""
}

func (a *archive) directories() error {
	if a.dirs {
		return nil
	}
	a.dirs = true
	for _, d := range []string{"blobs/", "blobs/sha256/"} {
		if err := a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	return nil
}

func (a *archive) blob(d oci.Digest) error {
	if a.written[d] {
		return nil
	}
	a.written[d] = true
	f, err := a.store.blobs.Open(d)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if err := a.header(blobPath(d), fi.Size()); err != nil {
		return err
	}
	if _, err := io.CopyBuffer(a.tar, untilDone{a.ctx, f}, a.buf); err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	return nil
}

func (a *archive) header(name string, size int64) error {
	return a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)})
}

func (a *archive) finish() error {
	a.index.Versioned = specs.Versioned{SchemaVersion: 2}
	a.index.MediaType = ocispec.MediaTypeImageIndex
	type file struct {
		name string
		v    any
	}
	files := []file{{ocispec.ImageIndexFile, a.index}}
	if len(a.docker) > 0 {
		files = append(files, file{"manifest.json", a.docker})
	}
	files = append(files, file{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}})
	if len(a.repositories) > 0 {
		files = append(files, file{"repositories", a.repositories})
	}
	for _, f := range files {
		data, err := json.Marshal(f.v)
		if err != nil {
			return err
		}
		if err := a.header(f.name, int64(len(data))); err != nil {
			return err
		}
		if _, err := a.tar.Write(data); err != nil {
			return err
		}
	}
	return a.tar.Close()
}
