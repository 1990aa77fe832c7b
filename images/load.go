package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
	"berth/images/blob"
	"berth/images/layer"
	"berth/oci"
)

// LoadOptions guide Load.
type LoadOptions struct {
	// Platforms narrows what is loaded of multi-platform images. Empty: all there is.
	Platforms []oci.Platform
}

// Load takes in an archive of Docker's form or an OCI layout, compressed or not, and
// returns a familiar reference or an ID for each image in it. Either all of its images
// are there at the end, or none is.
//
// The archive is read once, as a stream. Its files become blobs; the names they have in
// it are keys of a table and never paths of the host. What looks like a layer is unpacked
// while it is read: which image it belongs to, and where in it, shows later.
func (s *Store) Load(ctx context.Context, r io.Reader, o LoadOptions, report Progress) (names []string, err error) {
	l, err := s.newLease("load", "archive")
	if err != nil {
		return nil, err
	}
	// The archive's own files that no image needs go in any case.
	defer l.abort()
	report = serial(report)
	a := &shelf{store: s, lease: l, report: report, files: map[string]oci.Descriptor{}, links: map[string]string{},
		ready: &unpackedLayers{all: map[oci.Digest]unpackedLayer{}}}
	defer func() {
		if err := a.ready.discard(); err != nil {
			s.log.Warn("a staged layer stays until the next start", "error", err)
		}
	}()
	if err := a.fill(ctx, r); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	durable.Failpoint("images.load.read")
	all, err := a.images(ctx, o.Platforms)
	if err != nil && a.unended {
		err = fail.New(fail.Of(err), "the archive is cut off: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	arrivals := make([]arrival, len(all))
	for i, img := range all {
		if arrivals[i].arrived, err = s.take(ctx, l, img, report); err != nil {
			return nil, fmt.Errorf("load image %s: %w", short(img.id), err)
		}
		arrivals[i].names = img.names
	}
	durable.Failpoint("images.load.unpacked")
	if err := s.record(arrivals...); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	for _, img := range all {
		called := []string{img.id.String()}
		if len(img.names) > 0 {
			called = nil
		}
		for _, n := range img.names {
			called = append(called, familiar(n))
		}
		for _, n := range called {
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
		s.tell("load", img.id, img.id.String(), img.id.String())
	}
	return names, nil
}

// take gets one image into the layer store.
func (s *Store) take(ctx context.Context, l *lease, img loadable, report Progress) (arrived, error) {
	l.keepLayers(img.chains...)
	if old := s.entry(img.id); old != nil && s.complete(plan{arrived: arrived{id: old.ID, v: old.current(), chains: old.Chains, artifact: old.Artifact}}) {
		// Here already, perhaps with the manifest of a registry, which is worth more.
		if !oci.IsIndex(img.v.Target.MediaType) {
			img.v = old.current()
			return img.arrived, nil
		}
	}
	return img.arrived, s.bring(ctx, img.plan, img.missing, loading(img.plan, report))
}

// loading turns the steps of bring into Docker's words for a load.
func loading(p plan, report Progress) Progress {
	ids := map[string]string{}
	for i, d := range p.diffs {
		ids[short(p.v.Layers[i].Digest)] = short(d)
	}
	return func(s Step) {
		if s.Status == "Extracting" && ids[s.ID] != "" {
			report(Step{ID: ids[s.ID], Status: "Loading layer", Current: s.Current, Total: s.Total})
		}
	}
}

// unpackedLayers are layers that were unpacked before it was known what for, by the
// digests of their blobs.
type unpackedLayers struct {
	mu  sync.Mutex
	all map[oci.Digest]unpackedLayer
}

type unpackedLayer struct {
	staged *layer.Staged
	diff   oci.Digest
}

// put adds a layer. Of two the first stays.
func (u *unpackedLayers) put(blob oci.Digest, l unpackedLayer) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.all[blob]; ok {
		return l.staged.Discard()
	}
	u.all[blob] = l
	return nil
}

// take hands a layer over, nil if it is not here (any more).
func (u *unpackedLayers) take(blob, diff oci.Digest) (*layer.Staged, error) {
	if u == nil {
		return nil, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	l, ok := u.all[blob]
	if !ok {
		return nil, nil
	}
	if l.diff != diff {
		return nil, wrongDiff(l.diff, diff)
	}
	delete(u.all, blob)
	return l.staged, nil
}

// discard drops what nobody took.
func (u *unpackedLayers) discard() (err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for d, l := range u.all {
		err = errors.Join(err, l.staged.Discard())
		delete(u.all, d)
	}
	return err
}

// loadable is an image found in an archive.
type loadable struct {
	plan
	names []string // full
}

// missing is the opener of blobs that should have been in the archive.
func (loadable) missing(ctx context.Context, d oci.Descriptor, offset int64) (io.ReadCloser, error) {
	if isForeign(d) && len(d.URLs) > 0 {
		return openForeign(ctx, d, offset)
	}
	return nil, fail.New(fail.Invalid, "the archive lacks blob %s", d.Digest)
}

// shelf is an archive's content by name.
type shelf struct {
	store  *Store
	lease  *lease
	report Progress
	ready  *unpackedLayers
	links  map[string]string
	// unended: the archive has no mark of its end, which some writers leave out.
	unended bool

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
	data, err := w.store.blobs.Read(d.Digest)
	if err != nil {
		return err
	}
	switch {
	case oci.IsIndex(d.MediaType):
		if depth == maxNesting {
			return fail.New(fail.Invalid, "index %s is nested too deep", d.Digest)
		}
		var ix oci.Index
		if err := json.Unmarshal(data, &ix); err != nil {
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
	raw, err := w.store.blobs.Read(v.Config.Digest)
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
