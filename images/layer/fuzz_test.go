package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
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
	s, err := Open(filepath.Join(base, "layers"))
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
