package images

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"berth/oci"
)

func TestTheOldestOfTheCacheMakesRoom(t *testing.T) {
	s := newStore(t)
	id, err := s.Import(t.Context(), bytes.NewReader(layerTar("f", "kept")), ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var blobs []oci.Digest
	for n := range 4 { // what nobody needs, the oldest first
		d, err := s.blobs.Put(t.Context(), bytes.Repeat([]byte{byte(n)}, 1000))
		if err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(time.Duration(n-10) * time.Minute)
		if err := os.Chtimes(filepath.Join(s.root, "content/blobs/sha256", d.Encoded()), at, at); err != nil {
			t.Fatal(err)
		}
		blobs = append(blobs, d)
	}
	w, err := s.blobs.Ingest(t.Context(), oci.Digest("sha256:"+string(bytes.Repeat([]byte("a"), 64))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	use := func() DiskUse {
		t.Helper()
		u, err := s.DiskUse(func(oci.Digest) bool { return false })
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	before := use()
	if before.Cache != 4000 || before.Layers == 0 || before.Content == 0 || before.Held != 0 {
		t.Errorf("%+v", before) // what is being written is nobody's cache yet
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ max, cache int64 }{{0, 5000}, {5000, 5000}, {2500, 2000}, {1000, 1000}, {999, 0}} {
		s.cacheMax = c.max
		s.trimCache()
		if u := use(); u.Cache != c.cache || u.Layers != before.Layers || u.Content != before.Content {
			t.Errorf("bound %d: %+v, want a cache of %d", c.max, u, c.cache)
		}
		if c.max == 2500 {
			for n, d := range blobs {
				if s.blobs.Has(d) != (n == 3) {
					t.Errorf("bound %d: blob %d is here: %v", c.max, n, s.blobs.Has(d))
				}
			}
		}
	}
	if got := read(t, s, id, "f"); got != "kept" {
		t.Errorf("the image's file holds %q", got)
	}
}
