package blob

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/fail"
	"berth/oci"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "content"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ingest(t *testing.T, s *Store, want oci.Digest) *Writer {
	t.Helper()
	w, err := s.Ingest(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func write(t *testing.T, w *Writer, data string) {
	t.Helper()
	if _, err := w.Write([]byte(data)); err != nil {
		t.Fatal(err)
	}
}

// leftovers names what lies in the ingest area.
func leftovers(t *testing.T, s *Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.ingestDir())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestStoreIsAnOCILayout(t *testing.T) {
	s := open(t)
	d, err := s.Put(t.Context(), []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"oci-layout":                  `"imageLayoutVersion":"1.0.0"`,
		"index.json":                  `"schemaVersion": 2`,
		"blobs/sha256/" + d.Encoded(): "hello",
	} {
		if got, err := os.ReadFile(filepath.Join(s.root, file)); err != nil || !strings.Contains(string(got), want) {
			t.Errorf("%s: %q, %v", file, got, err)
		}
	}
}

func TestCommitVerifiesDigestAndSize(t *testing.T) {
	good := digest.FromString("content")
	for name, c := range map[string]struct {
		want  oci.Digest
		data  string
		size  int64
		class fail.Class
		ok    bool
	}{
		"expected digest":           {good, "content", 7, 0, true},
		"expected digest, any size": {good, "content", -1, 0, true},
		"digest found at the end":   {"", "content", 7, 0, true},
		"sha512":                    {digest.SHA512.FromString("content"), "content", 7, 0, true},
		"another content":           {good, "kontent", 7, fail.Invalid, false},
		"truncated":                 {good, "cont", 7, fail.Invalid, false},
		"longer than announced":     {"", "content!", 7, fail.Invalid, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			w := ingest(t, s, c.want)
			write(t, w, c.data)
			d, err := w.Commit(c.size)
			if c.ok != (err == nil) || err != nil && !fail.Is(err, c.class) {
				t.Fatalf("got %v, %v", d, err)
			}
			if c.ok {
				if got, err := s.Read(d); err != nil || string(got) != c.data {
					t.Fatalf("read back %q, %v", got, err)
				}
			} else if c.want != "" && s.Has(c.want) {
				t.Fatal("a bad blob is visible")
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if left := leftovers(t, s); left != nil {
				t.Fatalf("left %v", left)
			}
		})
	}
}

func TestMalformedDigestsAreRefused(t *testing.T) {
	s := open(t)
	for _, d := range []oci.Digest{"", "sha256", "sha256:../../etc/passwd", "../x:" + oci.Digest(strings.Repeat("a", 64)), "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if _, err := s.Open(d); !fail.Is(err, fail.Invalid) {
			t.Errorf("Open(%q): %v", d, err)
		}
		if err := s.Delete(d); !fail.Is(err, fail.Invalid) {
			t.Errorf("Delete(%q): %v", d, err)
		}
		if d == "" {
			continue // means: not known yet
		}
		if _, err := s.Ingest(t.Context(), d); !fail.Is(err, fail.Invalid) {
			t.Errorf("Ingest(%q): %v", d, err)
		}
	}
}

func TestInterruptedIngestGoesOn(t *testing.T) {
	s := open(t)
	want := digest.FromString("one two")
	w := ingest(t, s, want)
	write(t, w, "one ")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(s.root) // also after a restart
	if err != nil {
		t.Fatal(err)
	}
	w = ingest(t, s, want)
	if w.Offset() != 4 {
		t.Fatalf("offset %d", w.Offset())
	}
	write(t, w, "two")
	if _, err := w.Commit(7); err != nil {
		t.Fatal(err)
	}
}

func TestRestartForgetsPartialContent(t *testing.T) {
	s := open(t)
	want := digest.FromString("right")
	w := ingest(t, s, want)
	write(t, w, "wrong way")
	if err := w.Restart(); err != nil || w.Offset() != 0 {
		t.Fatal(err, w.Offset())
	}
	write(t, w, "right")
	if _, err := w.Commit(5); err != nil {
		t.Fatal(err)
	}
}

func TestPutIsNotConfusedByPartialContent(t *testing.T) {
	s := open(t)
	w := ingest(t, s, digest.FromString("content"))
	write(t, w, "con")
	w.Close()
	if _, err := s.Put(t.Context(), []byte("content")); err != nil {
		t.Fatal(err)
	}
}

func TestSecondWriterWaitsAndFindsTheBlob(t *testing.T) {
	s := open(t)
	want := digest.FromString("shared")
	first := ingest(t, s, want)
	second := make(chan error, 1)
	go func() {
		_, err := s.Ingest(context.Background(), want)
		second <- err
	}()
	write(t, first, "shared")
	select {
	case err := <-second:
		t.Fatalf("two writers at once: %v", err)
	case <-time.After(10 * time.Millisecond):
	}
	if _, err := first.Commit(6); err != nil {
		t.Fatal(err)
	}
	if err := <-second; !fail.Is(err, fail.NotModified) {
		t.Fatalf("got %v", err)
	}
}

func TestSecondWriterGoesOnWhereTheFirstGaveUp(t *testing.T) {
	s := open(t)
	want := digest.FromString("shared")
	first := ingest(t, s, want)
	second := make(chan *Writer, 1)
	go func() {
		w, _ := s.Ingest(context.Background(), want)
		second <- w
	}()
	write(t, first, "sha")
	first.Close()
	w := <-second
	if w == nil || w.Offset() != 3 {
		t.Fatal("the partial content is lost")
	}
	w.Close()
}

func TestWaitingForAWriterEndsWithTheContext(t *testing.T) {
	s := open(t)
	want := digest.FromString("shared")
	ingest(t, s, want)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Ingest(ctx, want); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func TestOpenCollectsDebris(t *testing.T) {
	s := open(t)
	young, old := digest.FromString("young"), digest.FromString("old")
	for _, d := range []oci.Digest{young, old, ""} {
		w := ingest(t, s, d)
		write(t, w, "x")
		// The process dies here: no Close.
	}
	path, _ := s.ingestPath(old)
	long := time.Now().Add(-2 * abandonedAfter)
	if err := os.Chtimes(path, long, long); err != nil {
		t.Fatal(err)
	}
	s2, err := Open(s.root)
	if err != nil {
		t.Fatal(err)
	}
	if left := leftovers(t, s2); len(left) != 1 || left[0] != "sha256-"+young.Encoded() {
		t.Fatalf("left %v", left)
	}
	if n, err := s2.DropPartials(); err != nil || n != 1 {
		t.Fatalf("freed %d, %v", n, err)
	}
}

func TestDropPartialsSparesWriters(t *testing.T) {
	s := open(t)
	want := digest.FromString("x")
	w := ingest(t, s, want)
	write(t, w, "x")
	if n, err := s.DropPartials(); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := w.Commit(1); err != nil {
		t.Fatal(err)
	}
}

func TestMissingAndDamagedBlobs(t *testing.T) {
	s := open(t)
	none := digest.FromString("none")
	if _, err := s.Open(none); !fail.Is(err, fail.NotFound) {
		t.Fatalf("got %v", err)
	}
	if err := s.Delete(none); err != nil {
		t.Fatal(err)
	}
	d, _ := s.Put(t.Context(), []byte("content"))
	path, _ := s.blobPath(d)
	os.WriteFile(path, []byte("CONTENT"), 0o600)
	if _, err := s.Read(d); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Fatalf("got %v", err)
	}
}

func TestWalkSeesBlobsAndDeleteHidesThem(t *testing.T) {
	s := open(t)
	a, _ := s.Put(t.Context(), []byte("a"))
	b, _ := s.Put(t.Context(), []byte("bb"))
	os.WriteFile(filepath.Join(s.blobDir("sha256"), "README"), nil, 0o600)
	if err := s.Delete(a); err != nil {
		t.Fatal(err)
	}
	got := map[oci.Digest]int64{}
	if err := s.Walk(func(d oci.Digest, n int64) error { got[d] = n; return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[b] != 2 {
		t.Fatalf("got %v", got)
	}
	stop := errors.New("stop")
	if err := s.Walk(func(oci.Digest, int64) error { return stop }); err != stop {
		t.Fatalf("got %v", err)
	}
}

// A child dies at each failpoint of Commit; what it leaves must be collectable, and the
// blob either whole or not there.
func TestKilledCommitLeavesAWholeBlobOrNone(t *testing.T) {
	if root := os.Getenv("BLOB_TEST_ROOT"); root != "" {
		s, err := Open(root)
		if err != nil {
			t.Fatal(err)
		}
		s.Put(context.Background(), []byte("content"))
		os.Exit(3)
	}
	for point, visible := range map[string]bool{"blob.commit.verified": false, "blob.commit.published": true} {
		root := t.TempDir()
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledCommitLeavesAWholeBlobOrNone$")
		cmd.Env = append(os.Environ(), "BLOB_TEST_ROOT="+root, "BERTH_FAILPOINT="+point)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("%s: %v %s", point, err, out)
		}
		s, err := Open(root)
		if err != nil {
			t.Fatal(err)
		}
		d := digest.FromString("content")
		if s.Has(d) != visible {
			t.Fatalf("%s: visible %v", point, s.Has(d))
		}
		if _, err := s.Put(t.Context(), []byte("content")); err != nil {
			t.Fatal(err)
		}
		if data, err := s.Read(d); err != nil || string(data) != "content" {
			t.Fatalf("%s: %q, %v", point, data, err)
		}
		if left := leftovers(t, s); left != nil {
			t.Fatalf("%s: left %v", point, left)
		}
	}
}

func TestIndexIsPublishedForOtherTools(t *testing.T) {
	s := open(t)
	d, _ := s.Put(t.Context(), []byte(`{}`))
	ref := "docker.io/library/x:1"
	err := s.SetIndex(oci.Index{Manifests: []oci.Descriptor{{
		MediaType: oci.DockerManifest, Digest: d, Size: 2,
		Annotations: map[string]string{"org.opencontainers.image.ref.name": ref},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	ix, err := s.Index()
	if err != nil || len(ix.Manifests) != 1 || ix.SchemaVersion != 2 {
		t.Fatalf("%+v, %v", ix, err)
	}
}

// skopeo, where it is installed, judges the layout.
func TestSkopeoReadsTheStore(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("skopeo is not installed")
	}
	s := open(t)
	put := func(v any, mediaType string) oci.Descriptor {
		data, _ := json.Marshal(v)
		d, err := s.Put(t.Context(), data)
		if err != nil {
			t.Fatal(err)
		}
		return oci.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	}
	img := oci.Image{Platform: oci.Platform{Architecture: "amd64", OS: "linux"}}
	img.RootFS.Type = "layers"
	m := oci.Manifest{MediaType: "application/vnd.oci.image.manifest.v1+json", Config: put(img, "application/vnd.oci.image.config.v1+json"), Layers: []oci.Descriptor{}}
	m.SchemaVersion = 2
	desc := put(m, m.MediaType)
	desc.Annotations = map[string]string{"org.opencontainers.image.ref.name": "x"}
	if err := s.SetIndex(oci.Index{Manifests: []oci.Descriptor{desc}}); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(skopeo, "inspect", "--raw", "oci:"+s.root+":x")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || digest.FromBytes(out) != desc.Digest {
		t.Fatalf("%s %s %v", out, &stderr, err)
	}
}

func TestWriterAfterItsEndIsClosed(t *testing.T) {
	s := open(t)
	w := ingest(t, s, "")
	w.Close()
	if _, err := w.Write(nil); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	if _, err := w.Commit(-1); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	var _ io.WriteCloser = w
}
