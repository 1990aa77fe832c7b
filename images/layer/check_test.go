package layer

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/oci"
)

func TestCheckTellsAndRepairsWhatBecameOfALayer(t *testing.T) {
	base := []entry{mode(dirE("d"), 0o700), fileE("x/base", "")}
	data := tarOf(t, fileE("d/f", "content"), linkE("d/g", "d/f"), symlinkE("s", "f"), mode(dirE("own"), 0o750), xattrE(fileE("a", "x"), "user.k", "v"),
		fileE("own/.wh..wh..opq", ""), fileE(".wh.x", ""), fileE("large", strings.Repeat("large", 100<<10)), dirE("dated"))
	flip := func(path string) error {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		fi, err := f.Stat()
		must(t, err)
		_, err = f.WriteAt([]byte{0}, fi.Size()/2)
		must(t, err, f.Close())
		return os.Chtimes(path, fi.ModTime(), fi.ModTime())
	}
	eachDriver(t, func(t *testing.T, s *Store) {
		parent := commit(t, s, "", base...)
		for name, c := range map[string]struct {
			spoil func(dir string) error
			want  string // the first problem, nothing: none
		}{
			"nothing happened": {func(string) error { return nil }, ""},
			"it was used":      {func(d string) error { _, err := os.ReadFile(filepath.Join(d, "diff/large")); return err }, ""},
			"a byte in a file": {func(d string) error { return flip(filepath.Join(d, "diff/large")) }, "/large has another content or other attributes"},
			"a file gone":      {func(d string) error { return os.Remove(filepath.Join(d, "diff/s")) }, "/s is missing"},
			"a file too many":  {func(d string) error { return os.WriteFile(filepath.Join(d, "diff/d/new"), nil, 0o600) }, "/d/new does not belong to it"},
			"a file cut off":   {func(d string) error { return os.Truncate(filepath.Join(d, "diff/large"), 100) }, "/large has 100 bytes, not 512000"},
			"a mode":           {func(d string) error { return os.Chmod(filepath.Join(d, "diff/own"), 0o777) }, "/own has the mode 0777, not 0750"},
			"an owner":         {func(d string) error { return os.Lchown(filepath.Join(d, "diff/s"), 7, 7) }, "/s has the owner 7:7, not 0:0"},
			"a time": {func(d string) error {
				return os.Chtimes(filepath.Join(d, "diff/dated"), time.Unix(9, 9), time.Unix(9, 9))
			}, "/dated has another modification time"},
			"an attribute": {func(d string) error { return unix.Setxattr(filepath.Join(d, "diff/a"), "user.k", []byte("w"), 0) }, "/a has another content or other attributes"},
			"a link made a file": {func(d string) error {
				p := filepath.Join(d, "diff/d/g")
				must(t, os.Remove(p))
				must(t, os.WriteFile(p, []byte("content"), 0o644))
				return os.Chtimes(p, time.Unix(1, 0), time.Unix(1, 0))
			}, "/d/f has other hard links"},
			"a file for a symlink": {func(d string) error {
				p := filepath.Join(d, "diff/s")
				must(t, os.Remove(p))
				return os.WriteFile(p, []byte("f"), 0o600)
			}, "/s is of another type"},
			"no description":     {func(d string) error { return os.Remove(filepath.Join(d, "meta.json")) }, "its description is damaged: meta.json is missing"},
			"half a description": {func(d string) error { return os.Truncate(filepath.Join(d, "meta.json"), 9) }, "its description is damaged"},
			"another description": {func(d string) error {
				return os.WriteFile(filepath.Join(d, "meta.json"), []byte(`{"version":1}`), 0o600)
			}, "its description does not fit its tar"},
			"no files":       {func(d string) error { return os.RemoveAll(filepath.Join(d, "diff")) }, "its files cannot be opened"},
			"nothing at all": {os.RemoveAll, "it is missing"},
		} {
			chain := commitTar(t, s, parent, data)
			dir, err := s.dir(chain)
			must(t, err)
			before := listing(t, s, filepath.Join(dir, "diff"))
			must(t, c.spoil(dir))
			check := func() *Checked {
				t.Helper()
				got, err := s.Check(t.Context(), parent, digest.FromBytes(data), bytes.NewReader(data))
				if err != nil {
					t.Fatal(name, err)
				}
				return got
			}
			got := check()
			if c.want == "" && got.Problems != nil || c.want != "" && (len(got.Problems) == 0 || !strings.HasPrefix(got.Problems[0], c.want)) {
				t.Fatalf("%s: %q, want %q", name, got.Problems, c.want)
			}
			if c.want == "" {
				must(t, got.Close())
			} else {
				must(t, got.Repair())
			}
			if got := check(); got.Problems != nil || got.Close() != nil {
				t.Fatalf("%s: after the repair: %q", name, got.Problems)
			}
			if d := cmp.Diff(before, listing(t, s, filepath.Join(dir, "diff"))); d != "" {
				t.Fatal(name, d)
			}
			if left := leftovers(t, s); left != nil {
				t.Fatal(name, left)
			}
			must(t, s.Remove(chain))
		}
		if _, err := s.Check(t.Context(), parent, digest.FromString("another"), bytes.NewReader(data)); !fail.Is(err, fail.Invalid) {
			t.Fatal(err)
		}
	})
}

func TestARepairThatIsKilledLeavesTheOldLayerOrTheNew(t *testing.T) {
	data := tarOf(t, fileE("a/f", "x"))
	chain := digest.FromBytes(data)
	if root := os.Getenv("LAYER_REPAIR_ROOT"); root != "" {
		s, err := Open(root, "")
		must(t, err)
		commitTar(t, s, "", data)
		must(t, os.Remove(filepath.Join(diffDir(t, s, chain), "a/f")))
		c, err := s.Check(t.Context(), "", chain, bytes.NewReader(data))
		must(t, err, c.Repair())
		os.Exit(3)
	}
	for point, want := range map[string][]string{"layer.repair.staged": {`"a" dir 0755`}, "layer.repair.exchanged": {`"a" dir 0755`, `"a/f" file 0644 x`}} {
		root := filepath.Join(t.TempDir(), "layers")
		cmd := exec.Command(os.Args[0], "-test.run=^TestARepairThatIsKilledLeavesTheOldLayerOrTheNew$")
		cmd.Env = append(os.Environ(), "LAYER_REPAIR_ROOT="+root, "BERTH_FAILPOINT="+point)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("%s: %v %s", point, err, out)
		}
		s, err := Open(root, "")
		must(t, err, s.Settle(t.Context()), s.Close())
		if got := listing(t, s, diffDir(t, s, oci.Digest(chain))); !slices.Equal(got, want) {
			t.Fatalf("%s: %v", point, got)
		}
		if left := leftovers(t, s); left != nil {
			t.Fatalf("%s: left %v", point, left)
		}
	}
}
