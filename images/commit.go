package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/durable"
	"berth/fail"
	"berth/images/layer"
	"berth/oci"
)

// CommitOptions describe the image that Commit makes of a container.
type CommitOptions struct {
	Ref             reference.Named // nil: untagged
	Author, Comment string
	CreatedBy       string          // what the container ran, for the history
	Config          json.RawMessage // its configuration; what images do not have is left out
	Changes         []string        // as of ImportOptions
	// Targets are paths on which the engine mounted files of its own: that they are there
	// is no change.
	Targets []string
	// Hold keeps the container from changing its files until release is called, which is
	// once, and as soon as they have been read. It is not called for options that are wrong.
	Hold func(ctx context.Context) (release func(), err error)
}

// emptyTar is the diff ID of a layer without entries.
var emptyTar = digest.FromBytes(make([]byte, 1024))

// Commit makes an image of image id and the writable layer in dir: its layers, shared,
// and one more, unless nothing was changed.
func (s *Store) Commit(ctx context.Context, id oci.Digest, dir string, o CommitOptions) (oci.Digest, error) {
	cfg := &containerConfig{}
	if err := json.Unmarshal(o.Config, cfg); err != nil {
		return "", fail.New(fail.Invalid, "the container's configuration: %w", err)
	}
	if err := applyChanges(cfg, o.Changes); err != nil {
		return "", err
	}
	what := "untagged"
	if o.Ref != nil {
		if _, digested := o.Ref.(reference.Digested); digested {
			return "", fail.New(fail.Invalid, "refusing to create a tag with a digest reference")
		}
		o.Ref = reference.TagNameOnly(o.Ref)
		what = o.Ref.String()
	}
	l, err := s.newLease("commit", what)
	if err != nil {
		return "", err
	}
	defer l.abort() // what the image needs is its own by then
	img, err := s.commitImage(ctx, l, id, dir, o, cfg)
	if err != nil {
		return "", fmt.Errorf("commit: %w", err)
	}
	durable.Failpoint("images.commit.read")
	a := arrival{arrived: img}
	if o.Ref != nil {
		a.names = []string{o.Ref.String()}
	}
	if err := s.record(a); err != nil {
		return "", fmt.Errorf("commit: %w", err)
	}
	s.tell("create", img.id, img.id.String(), img.id.String())
	if o.Ref != nil {
		s.tell("tag", img.id, img.id.String(), reference.FamiliarString(o.Ref))
	}
	return img.id, nil
}

func (s *Store) commitImage(ctx context.Context, l *lease, id oci.Digest, dir string, o CommitOptions, cfg *containerConfig) (arrived, error) {
	parent := s.entry(id)
	if parent == nil {
		return arrived{}, fail.New(fail.NotFound, "No such image: %s", id)
	}
	base := parent.current()
	l.keepBlobs(base.blobs()...)
	l.keepLayers(parent.Chains...)
	c, err := parent.config()
	if err != nil {
		return arrived{}, err
	}
	var file imageFile
	if err := json.Unmarshal(c.raw, &file); err != nil {
		return arrived{}, fmt.Errorf("configuration of image %s: %w", id, err)
	}
	d, err := s.commitLayer(ctx, l, parent.Chains, dir, o)
	if err != nil {
		return arrived{}, err
	}
	now := time.Now().UTC()
	empty := d.Digest == emptyTar
	file.Created, file.Author, file.Comment, file.Config = &now, o.Author, o.Comment, cfg
	file.History = append(file.History, ocispec.History{Created: &now, Author: o.Author, CreatedBy: o.CreatedBy, Comment: o.Comment, EmptyLayer: empty})
	chains, layers := slices.Clone(parent.Chains), slices.Clone(base.Layers)
	if !empty {
		file.RootFS.DiffIDs = append(file.RootFS.DiffIDs, d.Digest)
		chains = append(chains, oci.NextChainID(top(chains), d.Digest))
		d.MediaType = Compression{plain: true}.mediaType(base.Manifest.MediaType != oci.DockerManifest)
		layers = append(layers, d)
	}
	m := oci.Manifest{MediaType: base.Manifest.MediaType, Config: oci.Descriptor{MediaType: base.Config.MediaType}, Layers: layers}
	v, err := l.describe(ctx, file, m)
	if err != nil {
		return arrived{}, err
	}
	return arrived{id: v.Config.Digest, v: v, chains: chains, platform: parent.platform()}, nil
}

// top is the chain ID of a whole stack; empty of one without layers.
func top(chains []oci.Digest) oci.Digest {
	if len(chains) == 0 {
		return ""
	}
	return chains[len(chains)-1]
}

// commitLayer takes the writable layer into both stores, as a blob and unpacked, unless it
// is empty. The blob is the plain tar: its digest is its diff ID.
func (s *Store) commitLayer(ctx context.Context, l *lease, chains []oci.Digest, dir string, o CommitOptions) (d oci.Descriptor, err error) {
	w, err := s.blobs.Ingest(ctx, "")
	if err != nil {
		return d, err
	}
	defer w.Close()
	staged, err := s.layers.Stage(ctx)
	if err != nil {
		return d, err
	}
	defer func() {
		if err != nil {
			err = also(err, staged.Discard())
		}
	}()
	diff, err := s.readWritable(ctx, staged, chains, dir, o, w)
	if err != nil {
		return d, err
	}
	if diff == emptyTar {
		return oci.Descriptor{Digest: diff}, staged.Discard()
	}
	d.Size = w.Offset()
	if d.Digest, err = l.commit(w, -1); err != nil {
		return d, err
	}
	if d.Digest != diff {
		return d, wrongDiff(d.Digest, diff)
	}
	l.keepLayers(oci.NextChainID(top(chains), diff))
	_, err = staged.Commit(top(chains), diff)
	return d, err
}

// readWritable reads the held container's layer into staged and blob, and tells its diff ID.
func (s *Store) readWritable(ctx context.Context, staged *layer.Staged, chains []oci.Digest, dir string, o CommitOptions, blob io.Writer) (oci.Digest, error) {
	release, err := o.Hold(ctx)
	if err != nil {
		return "", err
	}
	r, w := io.Pipe()
	read := make(chan error, 1)
	go func() {
		err := s.layers.DiffWithout(ctx, chains, dir, o.Targets, w)
		if fail.Is(err, fail.NotFound) { // it was never started
			err = tar.NewWriter(w).Close()
		}
		release()
		w.CloseWithError(err)
		read <- err
	}()
	diff, _, err := staged.Apply(ctx, io.TeeReader(r, blob))
	r.CloseWithError(err)
	if readErr := <-read; readErr != nil && !errors.Is(readErr, io.ErrClosedPipe) && (err == nil || !errors.Is(readErr, err)) {
		return "", readErr
	}
	return diff, err
}
