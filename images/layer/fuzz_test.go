package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"berth/archive"
	"berth/fail"
)

// FuzzApply unpacks anything, and looks for what came out of the staging directory.
func FuzzApply(f *testing.F) {
	for _, entries := range [][]entry{
		{dirE("d"), fileE("d/f", "x"), linkE("h", "d/f"), symlinkE("s", "../../.."), fileE("s/f", "x")},
		{symlinkE("a", "/"), symlinkE("a/b", "a"), fileE("a/b/../../c", "x"), fileE("../x", "x")},
		{fileE(".wh.a", ""), dirE("a"), fileE("a/.wh..wh..opq", ""), fileE("a", "x"), fifoE("a"), linkE("a", "a")},
		{xattrE(fileE("f", "x"), "user.overlay.redirect", "/"), fileE(strings.Repeat("d/", 120), "")},
		{symlinkE("out", "/tmp"), linkE("x", "out/victim"), fileE("out/victim", "x"), fileE("out", "x"), dirE("out")},
	} {
		for i := range entries {
			if entries[i].Typeflag == tar.TypeReg {
				entries[i].Name = strings.TrimSuffix(entries[i].Name, "/")
			}
		}
		f.Add(tarOf(f, entries...))
	}
	base := f.TempDir()
	s, err := Open(filepath.Join(base, "layers"), "")
	if err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(base, "victim"), []byte("safe"), 0o600); err != nil {
		f.Fatal(err)
	}
	outside := func() (names []string) {
		_ = filepath.WalkDir(base, func(p string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if filepath.Dir(p) == filepath.Join(s.root, "staging") {
				return fs.SkipDir
			}
			fi, err := os.Lstat(p)
			if err == nil {
				names = append(names, p+fi.Mode().String())
			}
			return err
		})
		return names
	}
	before := outside()
	f.Fuzz(func(t *testing.T, data []byte) {
		st, err := s.Stage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, _ = st.Apply(ctx, bytes.NewReader(data))
		inside, err := os.ReadDir(st.dir)
		if err != nil || len(inside) != 1 || inside[0].Name() != "diff" {
			t.Errorf("beside diff: %v, %v", inside, err)
		}
		if after := outside(); !slices.Equal(before, after) {
			t.Errorf("outside: %v, before %v", after, before)
		}
		if got, _ := os.ReadFile(filepath.Join(base, "victim")); string(got) != "safe" {
			t.Errorf("the victim is %q", got)
		}
		if os.Geteuid() != 0 {
			_ = filepath.WalkDir(st.dir, func(p string, e fs.DirEntry, _ error) error {
				if e.IsDir() {
					_ = os.Chmod(p, 0o700)
				}
				return nil
			})
		}
		if err := st.Discard(); err != nil {
			t.Fatal(err)
		}
	})
}

// entriesFrom makes entries of few names from any bytes, so that they meet each other.
func entriesFrom(data []byte) []entry {
	names := []string{"a", "b", "c", "a/b", "b/a", "c/a/b", "a/../b", "../a", "/a/c", ".wh.a", "a/.wh.b", "b/.wh..wh..opq", "a/b/c", "b/c", ".", "c/.wh.a"}
	var entries []entry
	for ; len(data) >= 3; data = data[3:] {
		name, other := names[data[1]%16], names[data[2]%16]
		switch data[0] % 8 {
		case 0, 1:
			entries = append(entries, fileE(name, other))
		case 2:
			entries = append(entries, dirE(name))
		case 3:
			entries = append(entries, mode(dirE(name), 0o700|int64(data[2])&0o77))
		case 4, 5:
			entries = append(entries, symlinkE(name, other))
		case 6:
			entries = append(entries, linkE(name, other))
		case 7:
			entries = append(entries, fifoE(name))
		}
	}
	return entries
}

// inOrder unpacks a tar one entry after the other: what Apply must come to as well,
// whatever its goroutines do.
func inOrder(t *testing.T, s *Store, data []byte) (string, error) {
	st := stage(t, s)
	root, err := os.Open(filepath.Join(st.dir, "diff"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	born, err := prepareRoot(int(root.Fd()), s.umask)
	if err != nil {
		t.Fatal(err)
	}
	u := &unpacker{tree: newTree(int(root.Fd())), ctx: t.Context(), makers: startMakers(born), born: born, marks: s.marks}
	u.root.UID, u.root.GID = born.UID, born.GID
	defer u.closeAll()
	defer u.makers.stop()
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			_, _, err = u.finish()
			return root.Name(), err
		}
		u.last = nil
		if err := u.entry(h, r); err != nil {
			return root.Name(), archive.InvalidEntry(err)
		}
		if err := u.makers.drain(); err != nil {
			return root.Name(), err
		}
	}
}

func checkOrder(t *testing.T, s *Store, entries []entry) {
	data := tarOf(t, entries...)
	got, err := apply(t, s, data)
	want, wantErr := inOrder(t, s, data)
	if fail.Of(err) != fail.Of(wantErr) || (err == nil) != (wantErr == nil) {
		t.Fatalf("%v: %v, in order: %v", entries, err, wantErr)
	}
	if err == nil {
		if d := cmp.Diff(listing(t, s, want), listing(t, s, got)); d != "" {
			t.Fatalf("%v: %s", entries, d)
		}
	}
}

func TestConcurrencyDoesNotShow(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	s := open(t)
	for range 500 {
		data := make([]byte, 3*(1+r.IntN(12)))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		checkOrder(t, s, slices.DeleteFunc(entriesFrom(data), func(e entry) bool {
			return strings.Contains(e.Name, "..") && e.Name[0] != 'a' && e.Name[0] != 'b' || e.Name == "."
		}))
	}
}

func FuzzApplyEntries(f *testing.F) {
	f.Add([]byte("\x04\x00\x01\x00\x03\x00\x02\x01\x00\x06\x04\x03"))
	s := open(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 120 {
			return
		}
		checkOrder(t, s, entriesFrom(data))
	})
}
