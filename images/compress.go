package images

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/durable"
	"berth/fail"
	"berth/oci"
)

// Compression is how layers are packed when they are pushed. The zero value keeps what
// is compressed and packs plain layers with gzip.
type Compression struct {
	kind  compression
	plain bool // uncompressed, on request
	level int  // 0: the default
}

// ParseCompression reads "gzip", "zstd" or "uncompressed", the first two with an optional
// ":LEVEL" (gzip 1 to 9, zstd 1 to 22). Empty is the zero value.
func ParseCompression(s string) (c Compression, err error) {
	name, level, has := strings.Cut(s, ":")
	most := 0
	switch name {
	case "":
		if !has {
			return c, nil
		}
	case "uncompressed":
		c.plain = true
	case "gzip":
		c.kind, most = gzipped, 9
	case "zstd":
		c.kind, most = zstdized, 22
	}
	if c.kind == plain && !c.plain {
		return c, fail.New(fail.Invalid, "unknown compression %q: use gzip, zstd or uncompressed, the first two with :LEVEL if you like", s)
	}
	if has {
		if c.level, err = strconv.Atoi(level); err != nil || c.level < 1 || c.level > most {
			if most == 0 {
				return c, fail.New(fail.Invalid, "compression %q: uncompressed has no level", s)
			}
			return c, fail.New(fail.Invalid, "compression %q: the level of %s is 1 to %d", s, name, most)
		}
	}
	return c, nil
}

// asked reports whether layers shall be of one kind, whatever they are now.
func (c Compression) asked() bool { return c.kind != plain || c.plain }

// form is the key of blobInfo.Forms.
func (c Compression) form() string {
	switch {
	case c.plain:
		return "plain"
	case c.kind == plain:
		return string(gzipped)
	case c.level == 0:
		return string(c.kind)
	}
	return fmt.Sprintf("%s:%d", c.kind, c.level)
}

// applies reports whether a layer has to be packed anew.
func (c Compression) applies(d oci.Descriptor) bool {
	if isForeign(d) || !layerTypes[d.MediaType] {
		return false
	}
	have := kindOf(d.MediaType)
	switch {
	case !c.asked():
		return have == plain
	case c.level != 0:
		return true
	}
	return have != c.kind
}

// keepsAll reports whether no layer of these images has to be packed anew.
func (c Compression) keepsAll(all []*entry) bool {
	return !slices.ContainsFunc(all, func(e *entry) bool { return slices.ContainsFunc(e.current().Layers, c.applies) })
}

// kindOf is the compression that a media type of layers tells.
func kindOf(mediaType string) compression {
	switch {
	case strings.HasSuffix(mediaType, "gzip"):
		return gzipped
	case strings.HasSuffix(mediaType, "zstd"):
		return zstdized
	}
	return plain
}

// mediaType is what a layer is called that is packed by c. Docker's schema has no zstd.
func (c Compression) mediaType(ociForm bool) string {
	switch {
	case c.kind == zstdized:
		return ocispec.MediaTypeImageLayerZstd
	case c.plain && ociForm:
		return ocispec.MediaTypeImageLayer
	case c.plain:
		return oci.DockerLayer
	case ociForm:
		return ocispec.MediaTypeImageLayerGzip
	}
	return oci.DockerLayerGzip
}

// compressed returns the image as it is, or with the layers packed anew that have to be,
// and the bytes of its manifest.
func (p push) compressed(ctx context.Context, e *entry, ids []string) (variant, []byte, error) {
	s, v := p.store, e.current()
	data, err := s.blobs.Read(v.Manifest.Digest)
	if err != nil {
		return v, nil, err
	}
	v.Manifest.Size = int64(len(data))
	if e.Artifact != "" || !slices.ContainsFunc(v.Layers, p.compression.applies) {
		return v, data, nil
	}
	var m oci.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return v, nil, fmt.Errorf("manifest %s: %w", v.Manifest.Digest, err)
	}
	if p.compression.kind == zstdized && m.MediaType == oci.DockerManifest {
		m.MediaType, m.Config.MediaType = ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig
		for i, d := range m.Layers {
			if !isForeign(d) && kindOf(d.MediaType) == zstdized {
				m.Layers[i].MediaType = ocispec.MediaTypeImageLayerZstd
			}
		}
	}
	ociForm := m.MediaType != oci.DockerManifest
	for i, d := range m.Layers {
		if !p.compression.applies(d) {
			continue
		}
		packed, err := s.compress(ctx, p.lease, d, p.compression, ids[i], p.report)
		if err != nil {
			return v, nil, fmt.Errorf("compress layer %s: %w", ids[i], err)
		}
		packed.MediaType, packed.Annotations = p.compression.mediaType(ociForm), d.Annotations
		m.Layers[i] = packed
	}
	v.Layers, v.Config, v.Extra = m.Layers, m.Config, nil
	if v.Manifest, data, err = describeManifest(m); err != nil {
		return v, nil, err
	}
	v.Target = v.Manifest
	p.lease.keepBlobs(v.Manifest.Digest)
	_, err = s.blobs.Put(ctx, data)
	return v, data, err
}

// compress packs a layer by c, or finds what was made before.
func (s *Store) compress(ctx context.Context, l *lease, d oci.Descriptor, c Compression, id string, report Progress) (oci.Descriptor, error) {
	info, err := s.blobInfo(d.Digest)
	if err != nil {
		return d, err
	}
	if z, ok := info.Forms[c.form()]; ok {
		l.keepBlobs(z.Digest)
		if s.blobs.Has(z.Digest) {
			return oci.Descriptor{Digest: z.Digest, Size: z.Size}, nil
		}
	}
	f, err := s.blobs.Open(d.Digest)
	if err != nil {
		return d, err
	}
	defer f.Close()
	in, _, err := decompress(metered{untilDone{ctx, f}, &meter{report: report, id: id, status: "Preparing", total: d.Size}})
	if err != nil {
		return d, err
	}
	defer in.Close()
	w, err := s.blobs.Ingest(ctx, "")
	if err != nil {
		return d, err
	}
	defer w.Close()
	z, err := c.writer(w)
	if err != nil {
		return d, err
	}
	if _, err := io.CopyBuffer(z, struct{ io.Reader }{in}, make([]byte, 1<<20)); err != nil {
		return d, also(err, z.Close())
	}
	if err := z.Close(); err != nil {
		return d, err
	}
	out := oci.Descriptor{Size: w.Offset()}
	if out.Digest, err = l.commit(w, -1); err != nil {
		return d, err
	}
	durable.Failpoint("images.push.compressed")
	return out, s.change(func(dr *draft) error {
		if info, err = s.blobInfo(d.Digest); err == nil {
			if info.Forms == nil {
				info.Forms = map[string]oci.Descriptor{}
			}
			info.Forms[c.form()] = out
			dr.blobs[d.Digest] = info
		}
		return err
	})
}

// writer packs what is written to it, on all cores.
func (c Compression) writer(w io.Writer) (io.WriteCloser, error) {
	switch {
	case c.plain:
		return unpacking{w}, nil
	case c.kind == zstdized:
		level := zstd.SpeedDefault
		if c.level != 0 {
			level = zstd.EncoderLevelFromZstd(c.level)
		}
		return zstd.NewWriter(w, zstd.WithEncoderLevel(level))
	case c.level != 0:
		return pgzip.NewWriterLevel(w, c.level)
	}
	return pgzip.NewWriter(w), nil
}

// unpacking is the writer that packs nothing.
type unpacking struct{ io.Writer }

func (unpacking) Close() error { return nil }
