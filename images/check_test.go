package images

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"berth/durable"
	"berth/fail"
	"berth/oci"
)

func findings(t *testing.T, s *Store, repair bool) (lines []string) {
	t.Helper()
	_, err := s.Check(t.Context(), CheckOptions{Repair: repair, Progress: func(Step) {}, Found: func(d Damage) {
		line := d.Kind + " " + d.ID + ": " + d.Problem
		if d.Repaired {
			line += " → " + d.Hint
		}
		lines = append(lines, line)
	}})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// spoilRow puts data into the place of a row while no store is open.
func spoilRow(t *testing.T, root, bucket, key string, data []byte) {
	t.Helper()
	db, err := durable.OpenDB(filepath.Join(root, "berth.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(func(tx *durable.Tx) error { return tx.PutRaw(bucket, key, data) }); err != nil {
		t.Fatal(err)
	}
}

func TestUnreadableRecordsDoNotStopTheOthersAndAreMended(t *testing.T) {
	s := newStore(t)
	root := s.root
	id, err := s.Import(t.Context(), bytes.NewReader(layerTar("f", "x")), ImportOptions{Ref: named(t, "one:1")})
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.Import(t.Context(), bytes.NewReader(layerTar("g", "y")), ImportOptions{Ref: named(t, "two:1")})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	s.db.Close()
	lost := digest.FromString("lost")
	spoilRow(t, root, "images", id.String(), []byte(`{"id":"`+id.String()[:20]))
	spoilRow(t, root, "images", lost.String(), []byte(`{}`))
	spoilRow(t, root, "layers", lost.String(), []byte(`{"repos`))

	s = reopen(t, root)
	if _, err := s.Get("one:1"); !fail.Is(err, fail.NotFound) {
		t.Fatal(err)
	}
	if img, err := s.Get("two:1"); err != nil || img.ID != other {
		t.Fatal(err)
	}
	if _, err := s.Collect(t.Context(), nil); !fail.Is(err, fail.Conflict) {
		t.Fatal("content of an unreadable record is collected:", err)
	}
	err = s.db.Update(func(tx *durable.Tx) error { return tx.PutRaw("leases", "ghost", []byte("{")) })
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"blob " + lost.String() + ": where it came from cannot be read", "lease ghost: it belongs to no work under way",
		"image " + id.String() + ": its record cannot be read: ", "image " + lost.String() + ": its record cannot be read: "}
	asWanted := func(got []string) bool {
		if len(got) != len(want) {
			return false
		}
		for _, w := range want {
			if !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, w) }) {
				return false
			}
		}
		return true
	}
	if got := findings(t, s, false); !asWanted(got) {
		t.Fatal(got)
	}
	got := findings(t, s, true)
	if !asWanted(got) || strings.Count(strings.Join(got, "\n"), " → ") != 4 {
		t.Fatal(got)
	}
	if got := findings(t, s, false); got != nil {
		t.Fatal("left:", got)
	}
	for _, again := range []bool{false, true} {
		if again {
			s.Close()
			s.db.Close()
			s = reopen(t, root)
		}
		img, err := s.Get("one:1")
		if err != nil || img.ID != id || img.Size != 1 {
			t.Fatal(img, err)
		}
		if _, err := s.Rootfs(t.Context(), oci.Digest(id), t.TempDir()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Collect(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}
