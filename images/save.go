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

// Save writes the named images as one archive that is both Docker's (manifest.json)
// and an OCI layout (index.json). A tag is saved under its name, a repository's name
// alone stands for all its tags, an ID is saved without names. Layers go as they are in
// the content store, compressed or not.
func (s *Store) Save(ctx context.Context, names []string, w io.Writer) error {
	l, err := s.newLease("save", fmt.Sprint(names))
	if err != nil {
		return err
	}
	defer l.release()
	all, err := s.selection(names)
	if err != nil {
		return err
	}
	a := archive{ctx: ctx, store: s, tar: tar.NewWriter(w), written: map[oci.Digest]bool{}}
	for _, img := range all {
		l.keepBlobs(img.current().blobs()...)
		if s.entry(img.ID) == nil {
			return fail.New(fail.NotFound, "No such image: %s", img.ID)
		}
		if err := a.image(img); err != nil {
			return fmt.Errorf("save image %s: %w", short(img.ID), err)
		}
	}
	if err := a.finish(); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	for _, img := range all {
		s.tell("save", img.ID, img.ID.String(), img.ID.String())
	}
	return nil
}

// selected is an image to save, with the names to save it by.
type selected struct {
	*entry
	names []string // full
}

func (s *Store) selection(names []string) ([]*selected, error) {
	var all []*selected
	add := func(f found, name string) {
		i := slices.IndexFunc(all, func(x *selected) bool { return x.ID == f.ID })
		if i < 0 {
			i = len(all)
			all = append(all, &selected{entry: f.entry})
		}
		if name != "" && !slices.Contains(all[i].names, name) {
			all[i].names = append(all[i].names, name)
		}
	}
	for _, name := range names {
		if named, err := reference.ParseNormalizedNamed(name); err == nil && reference.IsNameOnly(named) {
			if tags := s.repositoryTags(named.Name()); len(tags) > 0 {
				for _, t := range tags {
					f, err := s.find(t)
					if err != nil {
						return nil, err
					}
					add(f, t)
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
		if _, d := cutDigest(f.ref); d != "" {
			add(f, "") // a digest is no name in an archive
		} else {
			add(f, f.ref)
		}
	}
	return all, nil
}

// archive is an archive being written.
type archive struct {
	ctx     context.Context
	store   *Store
	tar     *tar.Writer
	written map[oci.Digest]bool
	dirs    bool
	docker  []dockerManifest
	index   oci.Index
}

func blobPath(d oci.Digest) string {
	return path.Join(ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func (a *archive) image(img *selected) error {
	if err := a.directories(); err != nil {
		return err
	}
	v := img.current()
	m := dockerManifest{Config: blobPath(v.Config.Digest), Layers: []string{}}
	for _, d := range append([]oci.Descriptor{v.Config}, v.Layers...) {
		if err := a.blob(d.Digest); err != nil {
			return err
		}
	}
	for _, d := range v.Layers {
		m.Layers = append(m.Layers, blobPath(d.Digest))
	}
	if err := a.blob(v.Manifest.Digest); err != nil {
		return err
	}
	// Without the annotations of the index it was chosen from.
	d := oci.Descriptor{MediaType: v.Manifest.MediaType, Digest: v.Manifest.Digest, Size: v.Manifest.Size, Platform: v.Manifest.Platform}
	if len(img.names) == 0 {
		a.index.Manifests = append(a.index.Manifests, d)
	}
	for _, n := range img.names {
		m.RepoTags = append(m.RepoTags, familiar(n))
		named := d
		named.Annotations = map[string]string{annotationImageName: n, ocispec.AnnotationRefName: tagOf(n)}
		a.index.Manifests = append(a.index.Manifests, named)
	}
	a.docker = append(a.docker, m)
	return nil
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
	if _, err := io.Copy(a.tar, untilDone{a.ctx, f}); err != nil {
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
	for _, f := range []struct {
		name string
		v    any
	}{
		{ocispec.ImageIndexFile, a.index},
		{"manifest.json", a.docker},
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
	} {
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
