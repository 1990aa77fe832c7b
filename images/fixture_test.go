package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/durable"
	"berth/events"
	"berth/oci"
	"berth/registry"
	"berth/testkit"
)

// newStore opens a store in a directory of its own. Unpacking sets owners: it needs root.
func newStore(t testing.TB) *Store {
	t.Helper()
	testkit.NeedRoot(t)
	return reopen(t, t.TempDir())
}

func reopen(t testing.TB, root string) *Store {
	t.Helper()
	db, err := durable.OpenDB(filepath.Join(root, "berth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s, err := Open(Config{Registry: registry.New(registry.Config{Pause: time.Millisecond}), Root: root, DB: db, Events: events.NewBus()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func named(t testing.TB, s string) reference.Named {
	t.Helper()
	n, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// layerTar makes a layer of files with the given contents.
func layerTar(files ...string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: files[i], Size: int64(len(files[i+1])), Mode: 0o644, ModTime: time.Unix(1e9, 0)})
		_, _ = io.WriteString(w, files[i+1])
	}
	_ = w.Close()
	return b.Bytes()
}

func gz(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

func zst(data []byte) []byte {
	var b bytes.Buffer
	w, _ := zstd.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

// testImage is an image made by hand.
type testImage struct {
	blobs    map[oci.Digest][]byte // with the manifest
	manifest oci.Descriptor
	config   oci.Descriptor
	layers   []oci.Descriptor
	diffs    []oci.Digest
}

// makeImage packs layer tars by pack. seed makes images of the same layers differ.
func makeImage(seed string, mediaType string, pack func([]byte) []byte, tars ...[]byte) testImage {
	img := testImage{blobs: map[oci.Digest][]byte{}}
	add := func(mediaType string, data []byte) oci.Descriptor {
		d := oci.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		img.blobs[d.Digest] = data
		return d
	}
	var history []ocispec.History
	for i, t := range tars {
		img.diffs = append(img.diffs, digest.FromBytes(t))
		img.layers = append(img.layers, add(mediaType, pack(t)))
		history = append(history, ocispec.History{CreatedBy: fmt.Sprintf("layer %d", i)}, ocispec.History{CreatedBy: "ENV", EmptyLayer: true})
	}
	created := time.Unix(1e9+int64(len(seed)), 0).UTC()
	config, _ := json.Marshal(oci.Image{
		Created: &created, Author: seed, Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"},
		Config: ocispec.ImageConfig{Cmd: []string{"/bin/true"}, Labels: map[string]string{"seed": seed}},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: img.diffs}, History: history,
	})
	img.config = add(ocispec.MediaTypeImageConfig, config)
	manifest, _ := json.Marshal(oci.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: img.config, Layers: img.layers})
	img.manifest = add(ocispec.MediaTypeImageManifest, manifest)
	return img
}

func gzipImage(seed string, tars ...[]byte) testImage {
	return makeImage(seed, ocispec.MediaTypeImageLayerGzip, gz, tars...)
}

// layout writes img as an OCI layout under the name ref, as skopeo reads it.
func (img testImage) layout(t testing.TB, ref string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for d, data := range img.blobs {
		write("blobs/sha256/"+d.Encoded(), data)
	}
	m := img.manifest
	m.Annotations = map[string]string{ocispec.AnnotationRefName: ref}
	index, _ := json.Marshal(oci.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []oci.Descriptor{m}})
	write("index.json", index)
	write("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return dir
}

// skopeo runs the real one.
func skopeo(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command(testkit.NeedTool(t, "skopeo"), append([]string{"--insecure-policy"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("skopeo %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// steps collects progress.
type steps struct {
	mu  sync.Mutex
	all []Step
}

func (s *steps) report(p Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, p)
}

// of lists the statuses of one ID, each once in a row.
func (s *steps) of(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, p := range s.all {
		if p.ID == id && p.Aux == nil && (len(out) == 0 || out[len(out)-1] != p.Status) {
			out = append(out, p.Status)
		}
	}
	return strings.Join(out, ", ")
}

// fakeRegistry serves images of repository "app" on loopback, with faults on demand.
type fakeRegistry struct {
	*httptest.Server
	mu    sync.Mutex
	tags  map[string]oci.Descriptor
	blobs map[oci.Digest][]byte
	hits  map[oci.Digest]int
	// fault may answer a request for content in another way.
	fault func(w http.ResponseWriter, r *http.Request, d oci.Digest) bool
}

func newFakeRegistry(t testing.TB) *fakeRegistry {
	f := &fakeRegistry{tags: map[string]oci.Descriptor{}, blobs: map[oci.Digest][]byte{}, hits: map[oci.Digest]int{}}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeRegistry) add(tag string, img testImage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for d, data := range img.blobs {
		f.blobs[d] = data
	}
	f.tags[tag] = img.manifest
}

func (f *fakeRegistry) ref(t testing.TB, rest string) reference.Named {
	return named(t, f.Listener.Addr().String()+"/app"+rest)
}

func (f *fakeRegistry) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v2/" {
		return
	}
	last := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	f.mu.Lock()
	d := oci.Digest(last)
	mediaType := "application/octet-stream"
	for tag, m := range f.tags {
		if tag == last || m.Digest == d {
			d, mediaType = m.Digest, m.MediaType
		}
	}
	data, ok := f.blobs[d]
	if r.Method == http.MethodGet {
		f.hits[d]++
	}
	fault := f.fault
	f.mu.Unlock()
	if fault != nil && fault(w, r, d) {
		return
	}
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if oci.IsIndex(mediaType) || oci.IsManifest(mediaType) || strings.Contains(r.URL.Path, "/manifests/") {
		if mediaType == "application/octet-stream" {
			mediaType = ocispec.MediaTypeImageManifest
		}
		w.Header().Set("Docker-Content-Digest", d.String())
	}
	w.Header().Set("Content-Type", mediaType)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// read returns a file of an image's root, lower layers first wins last.
func read(t testing.TB, s *Store, id oci.Digest, name string) string {
	t.Helper()
	root, err := s.Rootfs(t.Context(), id, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range root.Lower {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			return string(data)
		}
	}
	return ""
}

// inventory counts what lies in the stores: blobs, layers, staged layers, partial blobs,
// leases.
func inventory(t testing.TB, s *Store) map[string]int {
	t.Helper()
	if err := s.layers.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	_ = s.blobs.Walk(func(oci.Digest, int64) error { n["blobs"]++; return nil })
	chains, err := s.layers.List()
	if err != nil {
		t.Fatal(err)
	}
	n["layers"] = len(chains)
	for _, dir := range []string{"content/ingest", "layers/staging", "layers/trash"} {
		entries, err := os.ReadDir(filepath.Join(s.root, dir))
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) > 0 {
			n[dir] = len(entries)
		}
	}
	_ = s.db.View(func(tx *durable.Tx) error {
		return tx.ForEach(leasesBucket, func(string, []byte) error { n["leases"]++; return nil })
	})
	return n
}
