package images

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/durable"
	"berth/fail"
	"berth/oci"
)

// ImportOptions describe the image that Import makes.
type ImportOptions struct {
	Ref      reference.Named // nil: untagged
	Message  string          // empty: "Imported from -"
	Changes  []string        // Dockerfile lines: CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR
	Platform *oci.Platform
}

// imageFile is an image configuration as Docker writes it.
type imageFile struct {
	ocispec.Platform
	Created *time.Time        `json:"created,omitempty"`
	Author  string            `json:"author,omitempty"`
	Comment string            `json:"comment,omitempty"`
	Config  *containerConfig  `json:"config"`
	RootFS  ocispec.RootFS    `json:"rootfs"`
	History []ocispec.History `json:"history,omitempty"`
}

// Import makes an image of one layer from a tar of a root file system, compressed or
// not.
func (s *Store) Import(ctx context.Context, r io.Reader, o ImportOptions) (oci.Digest, error) {
	cfg := &containerConfig{}
	if err := applyChanges(cfg, o.Changes); err != nil {
		return "", err
	}
	what := "untagged"
	if o.Ref != nil {
		if _, digested := o.Ref.(reference.Digested); digested {
			return "", fail.New(fail.Invalid, "cannot import digest reference")
		}
		o.Ref = reference.TagNameOnly(o.Ref)
		what = o.Ref.String()
	}
	l, err := s.newLease("import", what)
	if err != nil {
		return "", err
	}
	defer l.abort() // what the image needs is its own by then
	img, err := s.importImage(ctx, l, r, o, cfg)
	if err != nil {
		return "", fmt.Errorf("import: %w", err)
	}
	durable.Failpoint("images.import.unpacked")
	a := arrival{arrived: img}
	if o.Ref != nil {
		a.names = []string{o.Ref.String()}
	}
	if err := s.record(a); err != nil {
		return "", fmt.Errorf("import: %w", err)
	}
	if o.Ref != nil {
		s.tell("tag", img.id, img.id.String(), reference.FamiliarString(o.Ref))
	}
	s.tell("import", img.id, img.id.String(), img.id.String())
	return img.id, nil
}

func (s *Store) importImage(ctx context.Context, l *lease, r io.Reader, o ImportOptions, cfg *containerConfig) (arrived, error) {
	d, diff, err := s.importLayer(ctx, l, r)
	if err != nil {
		return arrived{}, err
	}
	comment := o.Message
	if comment == "" {
		comment = "Imported from -"
	}
	platform := platforms.DefaultSpec()
	if o.Platform != nil {
		platform = platforms.Normalize(*o.Platform)
	}
	now := time.Now().UTC()
	file := imageFile{
		Platform: ocispec.Platform{OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant},
		Created:  &now, Comment: comment, Config: cfg,
		RootFS:  ocispec.RootFS{Type: "layers", DiffIDs: []oci.Digest{diff}},
		History: []ocispec.History{{Created: &now, Comment: comment}},
	}
	m := oci.Manifest{MediaType: oci.DockerManifest, Config: oci.Descriptor{MediaType: oci.DockerConfig}, Layers: []oci.Descriptor{d}}
	v, err := l.describe(ctx, file, m)
	if err != nil {
		return arrived{}, err
	}
	return arrived{id: v.Config.Digest, v: v, chains: []oci.Digest{diff}, platform: platform}, nil
}

// describe puts the documents of an image of ours into the content store: its
// configuration, and its manifest m, which lacks only that.
func (l *lease) describe(ctx context.Context, file imageFile, m oci.Manifest) (variant, error) {
	raw, err := json.Marshal(file)
	if err != nil {
		return variant{}, err
	}
	m.Versioned = specs.Versioned{SchemaVersion: 2}
	m.Config.Size = int64(len(raw))
	if m.Config.Digest, err = l.put(ctx, raw); err != nil {
		return variant{}, err
	}
	md, data, err := describeManifest(m)
	if err != nil {
		return variant{}, err
	}
	if _, err := l.put(ctx, data); err != nil {
		return variant{}, err
	}
	return variant{Target: md, Manifest: md, Config: m.Config, Layers: m.Layers}, nil
}

// importLayer unpacks the tar while it takes it in as a blob: as it came if it is plain
// or gzip, else plain, since images know no other compression that all tools read.
func (s *Store) importLayer(ctx context.Context, l *lease, r io.Reader) (d oci.Descriptor, diff oci.Digest, err error) {
	b := bufio.NewReaderSize(untilDone{ctx, r}, 64<<10)
	if _, err := b.Peek(1); err == io.EOF {
		return d, "", fail.New(fail.Invalid, "the archive is empty")
	}
	w, err := s.blobs.Ingest(ctx, "")
	if err != nil {
		return d, "", err
	}
	defer w.Close()
	head, _ := b.Peek(6)
	var in io.Reader
	d.MediaType = oci.DockerLayer
	if compressionOf(head) == gzipped {
		d.MediaType = oci.DockerLayerGzip
		in = io.TeeReader(b, w)
	} else {
		dec, _, err := decompress(b)
		if err != nil {
			return d, "", err
		}
		defer dec.Close()
		in = io.TeeReader(dec, w)
	}
	tar, _, err := decompress(in)
	if err != nil {
		return d, "", err
	}
	defer tar.Close()
	staged, err := s.layers.Stage(ctx)
	if err != nil {
		return d, "", err
	}
	defer func() {
		if err != nil {
			err = also(err, staged.Discard())
		}
	}()
	if diff, _, err = staged.Apply(ctx, tar); err != nil {
		return d, "", err
	}
	if _, err = io.Copy(io.Discard, in); err != nil { // what follows the compressed tar
		return d, "", err
	}
	d.Size = w.Offset()
	if d.Digest, err = l.commit(w, -1); err != nil {
		return d, "", err
	}
	l.keepLayers(diff)
	_, err = staged.Commit("", diff)
	return d, diff, err
}
