package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/images/blob"
	"berth/oci"
)

// shelf is an archive's content by name.
type shelf struct {
	store  *Store
	lease  *lease
	report Progress
	ready  *unpackedLayers
	links  map[string]string
	// unended: the archive has no mark of its end, which some writers leave out.
	unended bool
	told    int // bytes of documents

	mu    sync.Mutex                // guards files while fill runs
	files map[string]oci.Descriptor // digest and size
}

// maxEntries bounds the table of names.
const maxEntries = 200_000

// maxUnpacking is how many layers of an archive are being unpacked or made durable at
// once. Only one of them reads.
const maxUnpacking = 3

// fill reads the archive.
func (a *shelf) fill(ctx context.Context, r io.Reader) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxUnpacking)
	err := a.read(ctx, g, r)
	if e := g.Wait(); e != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = e
	}
	return err
}

func (a *shelf) read(ctx context.Context, g *errgroup.Group, r io.Reader) error {
	in, _, err := decompress(untilDone{ctx, r})
	if err != nil {
		return err
	}
	defer in.Close()
	end := &ending{r: in}
	t := tar.NewReader(end)
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF && n > 0 {
			a.unended = end.zeros < tarBlock
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
			if err := a.file(ctx, g, name, h.Size, t); err != nil {
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

// file takes one file in as a blob. A name of an OCI layout promises the digest. It
// returns when the file is read; a layer may still be on its way to disk then, in g.
func (a *shelf) file(ctx context.Context, g *errgroup.Group, name string, size int64, r io.Reader) error {
	want := layoutDigest(name)
	if want != "" {
		a.lease.keepBlobs(want)
	}
	if err := a.store.room(size); err != nil {
		return err
	}
	w, err := a.store.blobs.Ingest(ctx, want)
	if fail.Is(err, fail.NotModified) {
		a.shelve(name, oci.Descriptor{Digest: want, Size: size})
		return nil
	}
	if err != nil {
		return err
	}
	if err := w.Restart(); err != nil {
		return also(err, w.Close())
	}
	in := &section{r: bufio.NewReaderSize(r, 64<<10), ended: make(chan struct{})}
	head, _ := in.r.Peek(tarBlock)
	if !looksLikeLayer(head) {
		defer abandon(w)
		if _, err := io.Copy(w, in); err != nil {
			if in.err != nil {
				err = archiveError(in.err)
			}
			return err
		}
		return a.commit(w, name, size)
	}
	g.Go(func() error {
		defer abandon(w)
		if err := a.layer(ctx, w, in, name, size); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	<-in.ended
	return nil
}

// abandon ends w. What it took in and was not committed goes: no later load goes on there.
func abandon(w *blob.Writer) {
	_ = w.Restart()
	_ = w.Close()
}

// room refuses what cannot fit: an archive may declare any size.
func (s *Store) room(size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return fmt.Errorf("free space of %s: %w", s.root, err)
	}
	if free := st.Bavail * uint64(st.Bsize); uint64(size) > free {
		return fail.New(fail.Unavailable, "%s are needed and %s are free in %s",
			units.HumanSize(float64(size)), units.HumanSize(float64(free)), s.root)
	}
	return nil
}

func (a *shelf) shelve(name string, d oci.Descriptor) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.files[name] = d
}

func (a *shelf) commit(w *blob.Writer, name string, size int64) error {
	d, err := a.lease.commit(w, size)
	if err == nil {
		a.shelve(name, oci.Descriptor{Digest: d, Size: size})
	}
	return err
}

// layer takes in a file and unpacks it as it comes. If it turns out to be no layer after
// all, it is a blob like others: what needs it as a layer will say what is wrong with it.
func (a *shelf) layer(ctx context.Context, w *blob.Writer, in *section, name string, size int64) error {
	defer in.drain()
	sink := &sink{w: w}
	tee := io.TeeReader(metered{in, &meter{report: a.report, id: label(name), status: "Loading layer", total: size}}, sink)
	staged, diff, unpackErr := a.store.stage(ctx, tee)
	_, err := io.Copy(io.Discard, tee)
	switch {
	case in.err != nil:
		err = archiveError(in.err)
	case sink.err != nil:
		err = sink.err
	case unpackErr != nil && !fail.Is(unpackErr, fail.Invalid):
		err = unpackErr // such as a full disk
	}
	if err == nil {
		err = a.commit(w, name, size)
	}
	if unpackErr != nil {
		return err
	}
	if err != nil {
		return also(err, staged.Discard())
	}
	a.mu.Lock()
	d := a.files[name]
	a.mu.Unlock()
	return a.ready.put(d.Digest, unpackedLayer{staged, diff})
}

// label is how progress calls a file: by the digest or ID in its name.
func label(name string) string {
	dir, base := path.Split(name)
	if base == "layer.tar" { // Docker until 24: ID/layer.tar
		base = path.Base(dir)
	}
	base, _, _ = strings.Cut(base, ".")
	return base[:min(12, len(base))]
}

// section is one file of an archive. It tells when it was read to its end, after which it
// leaves the archive alone.
type section struct {
	r     *bufio.Reader
	ended chan struct{}
	over  bool
	err   error // of the archive, not io.EOF
}

func (s *section) Read(p []byte) (int, error) {
	if s.over {
		if s.err != nil {
			return 0, s.err
		}
		return 0, io.EOF
	}
	n, err := s.r.Read(p)
	if err != nil {
		if err != io.EOF {
			s.err = err
		}
		s.over = true
		close(s.ended)
	}
	return n, err
}

// drain reads what is left.
func (s *section) drain() { _, _ = io.Copy(io.Discard, s) }

// sink remembers why writing failed.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

// ending counts the zeros that its reader has given last.
type ending struct {
	r     io.Reader
	zeros int
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	last := p[max(0, n-2*tarBlock):n]
	zeros := len(last) - len(bytes.TrimRight(last, "\x00"))
	if zeros == n {
		zeros += min(e.zeros, 2*tarBlock)
	}
	e.zeros = zeros
	return n, err
}

// tarBlock is the size of a tar's header (POSIX ustar).
const tarBlock = 512

// looksLikeLayer tells by a file's beginning whether it is worth trying to unpack it.
func looksLikeLayer(head []byte) bool {
	return compressionOf(head) != plain || len(head) == tarBlock && string(head[257:262]) == "ustar"
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

// maxDocuments bounds the indexes, manifests and configurations of one archive, in bytes: what they
// say of its images is in memory until all are there. Tests lower it.
var maxDocuments = 256 << 20

// document reads one of them.
func (a *shelf) document(d oci.Digest) ([]byte, error) {
	data, err := a.store.blobs.Read(d)
	if err != nil {
		return nil, err
	}
	if a.told += len(data); a.told > maxDocuments {
		return nil, fail.New(fail.Invalid, "the archive's manifests and configurations are larger than %d MiB altogether", maxDocuments>>20)
	}
	return data, nil
}

func (a *shelf) json(name string, v any) (found bool, err error) {
	d, ok := a.find(name)
	if !ok {
		return false, nil
	}
	data, err := a.document(d.Digest)
	if err != nil {
		return true, err
	}
	if err := oci.Decode(data, v); err != nil {
		return true, fail.New(fail.Invalid, "%s: %w", name, err)
	}
	return true, nil
}
