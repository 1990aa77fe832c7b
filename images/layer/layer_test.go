package layer

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"berth/archive"
	"berth/fail"
	"berth/kernel"
	"berth/oci"
)

// commit puts a layer of the given entries on parent.
func commit(t testing.TB, s *Store, parent oci.Digest, entries ...entry) oci.Digest {
	t.Helper()
	st := stage(t, s)
	d, _, err := st.Apply(context.Background(), bytes.NewReader(tarOf(t, entries...)))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := st.Commit(parent, d)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

// diffDir is where a layer's files are.
func diffDir(t testing.TB, s *Store, chain oci.Digest) string {
	t.Helper()
	dir, err := s.dir(chain)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "diff")
}

// leftovers names what is in staging and trash.
func leftovers(t testing.TB, s *Store) []string {
	t.Helper()
	if err := s.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, d := range []string{"staging", "trash"} {
		entries, err := os.ReadDir(filepath.Join(s.root, d))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			left = append(left, d+"/"+e.Name())
		}
	}
	return left
}

func TestCommittedLayersAreFoundAgain(t *testing.T) {
	s := open(t)
	base := commit(t, s, "", fileE("f", "base"))
	top := commit(t, s, base, fileE("g", "top!"))
	if again := commit(t, s, base, fileE("g", "top!")); again != top {
		t.Fatal("the same layer has two chain IDs")
	}
	s, err := Open(s.root, "")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	chains, err := s.List()
	slices.Sort(chains)
	want := []oci.Digest{base, top}
	slices.Sort(want)
	if err != nil || !slices.Equal(chains, want) || !s.Has(base) || !s.Has(top) {
		t.Fatal(chains, err)
	}
	if n, err := s.Size(top); n != 4 || err != nil {
		t.Fatal(n, err)
	}
	if left := leftovers(t, s); left != nil {
		t.Fatal(left)
	}
	if err := s.Remove(top); err != nil || s.Has(top) || !s.Has(base) {
		t.Fatal(err)
	}
	if err := s.Remove(top); err != nil {
		t.Fatal("a missing layer is no error:", err)
	}
	if left := leftovers(t, s); left != nil {
		t.Fatal(left)
	}
	if _, err := s.Rootfs(t.Context(), []oci.Digest{base, top}, ""); !fail.Is(err, fail.NotFound) {
		t.Fatal(err)
	}
	for _, bad := range []oci.Digest{"", "x", "sha256:../../x"} {
		if s.Has(bad) || !fail.Is(s.Remove(bad), fail.Invalid) {
			t.Errorf("%q", bad)
		}
	}
}

func TestCommitRefusesAnotherContentAndAMissingParent(t *testing.T) {
	s := open(t)
	st := stage(t, s)
	d, _, err := st.Apply(t.Context(), bytes.NewReader(tarOf(t, fileE("f", "x"))))
	if err != nil {
		t.Fatal(err)
	}
	other := digest.FromString("another")
	if _, err := st.Commit("", other); !fail.Is(err, fail.Invalid) {
		t.Fatal(err)
	}
	if _, err := st.Commit(other, d); !fail.Is(err, fail.NotFound) {
		t.Fatal(err)
	}
	if chains, _ := s.List(); chains != nil {
		t.Fatal(chains)
	}
	if err := st.Discard(); err != nil {
		t.Fatal(err)
	}
	if left := leftovers(t, s); left != nil {
		t.Fatal(left)
	}
}

func TestImpliedDirectoriesTakeTheirAttributesFromBelow(t *testing.T) {
	s := open(t)
	old := func(e entry) entry { e.ModTime = time.Unix(4242, 42); return e }
	base := commit(t, s, "", old(mode(dirE("./"), 0o711)), old(xattrE(mode(dirE("tmp"), 0o1777), "user.x", "1")), mode(dirE("home/joe"), 0o700), mode(dirE("gone"), 0o700), dirE("etc"))
	middle := commit(t, s, base, fileE("tmp/f", ""), mode(dirE("etc"), 0o750), fileE(".wh.gone", ""))
	top := commit(t, s, middle, fileE("tmp/g", ""), fileE("home/joe/f", ""), fileE("etc/f", ""), fileE("gone/f", ""), fileE("new/f", ""),
		fileE("home/.wh..wh..opq", ""))
	for _, c := range []struct {
		chain oci.Digest
		path  string
		want  string
	}{
		{middle, "", "dir 0711"}, {middle, "tmp", "dir 1777"},
		{top, "", "dir 0711"}, {top, "tmp", "dir 1777"}, {top, "etc", "dir 0750"},
		{top, "gone", "dir 0755"},     // whited out below: a new one
		{top, "home/joe", "dir 0755"}, // hidden by this very layer
		{top, "new", "dir 0755"},
	} {
		if got, _ := describe(s, filepath.Join(diffDir(t, s, c.chain), c.path)); got != c.want {
			t.Errorf("%s of %.12s: %s, want %s", c.path, c.chain.Encoded(), got, c.want)
		}
	}
	for _, p := range []string{"", "tmp"} {
		fi, _ := os.Stat(filepath.Join(diffDir(t, s, top), p))
		if !fi.ModTime().Equal(time.Unix(4242, 42)) {
			t.Errorf("%q is from %v", p, fi.ModTime())
		}
	}
	if got := getxattr(t, filepath.Join(diffDir(t, s, top), "tmp"), "user.x"); got != "1" {
		t.Errorf("attribute: %s", got)
	}
}

func TestLayersAreStagedSideBySide(t *testing.T) {
	s := open(t)
	data := tarOf(t, fileE("a/f", "x"), dirE("b"), fileE("b/.wh.x", ""))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			st, err := s.Stage(context.Background())
			if err != nil {
				t.Error(err)
				return
			}
			d, _, err := st.Apply(context.Background(), bytes.NewReader(data))
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := st.Commit("", d); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if chains, err := s.List(); len(chains) != 1 || err != nil {
		t.Fatal(chains, err)
	}
	if left := leftovers(t, s); left != nil {
		t.Fatal(left)
	}
}

func TestStageHeedsTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(t).Stage(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestOpenCollectsDebris(t *testing.T) {
	s := open(t)
	st, err := s.Stage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := st.Apply(t.Context(), bytes.NewReader(tarOf(t, fileE("a/f", "x")))); err != nil {
		t.Fatal(err)
	}
	// The process dies here, and another one died while it deleted.
	if err := os.MkdirAll(filepath.Join(s.root, "trash/1/old/diff"), 0o700); err != nil {
		t.Fatal(err)
	}
	s2, err := Open(s.root, "")
	if err != nil {
		t.Fatal(err)
	}
	s2.Close()
	if left := leftovers(t, s2); left != nil {
		t.Fatal(left)
	}
}

// A child dies at each failpoint; then a layer must be whole or not there, and Open must
// collect the rest.
func TestKilledInBetweenLeavesWholeLayersOrNone(t *testing.T) {
	data := tarOf(t, fileE("a/f", "x"))
	chain := digest.FromBytes(data)
	if root := os.Getenv("LAYER_TEST_ROOT"); root != "" {
		s, err := Open(root, "")
		if err != nil {
			t.Fatal(err)
		}
		commit(t, s, "", fileE("a/f", "x"))
		s.Remove(chain)
		os.Exit(3)
	}
	for point, visible := range map[string]bool{"layer.commit.staged": false, "layer.commit.published": true, "layer.remove.trashed": false} {
		root := filepath.Join(t.TempDir(), "layers")
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledInBetweenLeavesWholeLayersOrNone$")
		cmd.Env = append(os.Environ(), "LAYER_TEST_ROOT="+root, "BERTH_FAILPOINT="+point)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("%s: %v %s", point, err, out)
		}
		s, err := Open(root, "")
		must(t, err, s.Settle(t.Context()), s.Close())
		if s.Has(chain) != visible {
			t.Fatalf("%s: visible %v", point, s.Has(chain))
		}
		if visible {
			if got := listing(t, s, diffDir(t, s, chain)); !slices.Equal(got, []string{`"a" dir 0755`, `"a/f" file 0644 x`}) {
				t.Fatalf("%s: %v", point, got)
			}
		}
		if left := leftovers(t, s); left != nil {
			t.Fatalf("%s: left %v", point, left)
		}
	}
}

func TestRootfs(t *testing.T) {
	s := open(t)
	a := commit(t, s, "", mode(dirE("./"), 0o711), fileE("f", ""))
	b := commit(t, s, a, fileE("g", ""))
	c := commit(t, s, b, fileE(".wh..wh..opq", ""), fileE("h", ""))
	dir := filepath.Join(t.TempDir(), "new", "container")
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	at := func(d oci.Digest) string { return diffDir(t, s, d) }
	empty := func(n string) string { return filepath.Join(s.root, "empty", n) }
	for name, tc := range map[string]struct {
		chains []oci.Digest
		dir    string
		want   oci.Rootfs
	}{
		"the top-most layer comes first":         {[]oci.Digest{a, b}, dir, oci.Rootfs{Lower: []string{at(b), at(a)}, Upper: upper, Work: work}},
		"read-only":                              {[]oci.Digest{a, b}, "", oci.Rootfs{Lower: []string{at(b), at(a)}}},
		"read-only with one layer":               {[]oci.Digest{a}, "", oci.Rootfs{Lower: []string{at(a), empty("0")}}},
		"no layers":                              {nil, dir, oci.Rootfs{Lower: []string{empty("0")}, Upper: upper, Work: work}},
		"read-only without layers":               {nil, "", oci.Rootfs{Lower: []string{empty("0"), empty("1")}}},
		"a layer whose root hides what is below": {[]oci.Digest{a, b, c}, dir, oci.Rootfs{Lower: []string{at(c)}, Upper: upper, Work: work}},
	} {
		got, err := s.Rootfs(t.Context(), tc.chains, tc.dir)
		if d := cmp.Diff(tc.want, got); err != nil || d != "" {
			t.Errorf("%s: %v %s", name, err, d)
		}
	}
}

func TestTheWritableRootLooksLikeTheImagesRoot(t *testing.T) {
	s := open(t)
	root := mode(dirE("./"), 0o1711)
	root.ModTime = time.Unix(4242, 42)
	a := commit(t, s, "", xattrE(root, "user.x", "1"))
	dir := filepath.Join(t.TempDir(), "c")
	for range 2 { // the second call finds it
		r, err := s.Rootfs(t.Context(), []oci.Digest{a}, dir)
		if err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(r.Upper)
		if got, _ := describe(s, r.Upper); got != "dir 1711" || err != nil || !fi.ModTime().Equal(root.ModTime) || getxattr(t, r.Upper, "user.x") != "1" {
			t.Fatal(got, err, fi.ModTime())
		}
		if got, _ := describe(s, dir); got != "dir 0700" {
			t.Fatal(got)
		}
	}
}

// mountOverlay is how tests mount: kernel.MountOverlay, or its way for old kernels.
var mountOverlay = kernel.MountOverlay

// mountRoot mounts a root file system as the runtime would, and returns the path to it.
func mountRoot(t *testing.T, r oci.Rootfs) string {
	t.Helper()
	if r.Path != "" {
		return r.Path + "/"
	}
	if len(r.Lower) == 1 && r.Upper == "" {
		return r.Lower[0] + "/"
	}
	mnt, err := mountOverlay(&kernel.Overlay{Lower: r.Lower, Upper: r.Upper, Work: r.Work})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mnt.Close() })
	return archive.ProcPath(int(mnt.Fd())) + "/"
}

func TestTheKernelShowsTheStackAsTheImageMeantIt(t *testing.T) {
	needRoot(t)
	s := open(t)
	a := commit(t, s, "", fileE("keep", "1"), fileE("gone", "1"), fileE("changed", "1"),
		fileE("opaque/old", "1"), fileE("dir/old", "1"), fileE("replaced/old", "1"), fileE("merged/old", "1"), mode(dirE("merged"), 0o750))
	b := commit(t, s, a, fileE(".wh.gone", ""), fileE("changed", "2"),
		fileE("opaque/.wh..wh..opq", ""), fileE("opaque/new", "2"), fileE(".wh.dir", ""), fileE("dir/new", "2"),
		fileE("replaced", "2"), fileE("merged/new", "2"))
	want := []string{
		`"changed" file 0644 2`, `"dir" dir 0755`, `"dir/new" file 0644 2`, `"keep" file 0644 1`,
		`"merged" dir 0750`, `"merged/new" file 0644 2`, `"merged/old" file 0644 1`,
		`"opaque" dir 0755`, `"opaque/new" file 0644 2`, `"replaced" file 0644 2`,
	}
	for _, dir := range []string{"", filepath.Join(t.TempDir(), "c")} {
		r, err := s.Rootfs(t.Context(), []oci.Digest{a, b}, dir)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, listing(t, s, mountRoot(t, r))); d != "" {
			t.Fatal(d)
		}
	}
	c := commit(t, s, b, fileE(".wh..wh..opq", ""), fileE("only", "3"))
	r, err := s.Rootfs(t.Context(), []oci.Digest{a, b, c}, "")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{`"only" file 0644 3`}, listing(t, s, mountRoot(t, r))); d != "" {
		t.Fatal(d)
	}
	r, err = s.Rootfs(t.Context(), nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := listing(t, s, mountRoot(t, r)); got != nil {
		t.Fatal(got)
	}
}

func TestEscapedMarksShowUnderTheirOwnNames(t *testing.T) {
	needRoot(t)
	s := open(t)
	a := commit(t, s, "", xattrE(dirE("nested"), "trusted.overlay.opaque", "y"))
	r, err := s.Rootfs(t.Context(), []oci.Digest{a}, "")
	if err != nil {
		t.Fatal(err)
	}
	got := getxattr(t, mountRoot(t, r)+"nested", "trusted.overlay.opaque")
	if got == unix.ENODATA.Error() || got == unix.EOPNOTSUPP.Error() {
		t.Skip("this kernel knows no nested marks (before 6.7)")
	}
	if got != "y" {
		t.Fatal(got)
	}
}

func TestWhereOverlayCannotBeUpperLayersAreCopied(t *testing.T) {
	needRoot(t)
	s := open(t)
	r, err := s.Rootfs(t.Context(), nil, filepath.Join(t.TempDir(), "c"))
	if err != nil {
		t.Fatal(err)
	}
	root := mountRoot(t, r) // an overlay takes no upper on an overlay
	_, err = Open(filepath.Join(root, "asked"), "overlay")
	if !fail.Is(err, fail.Unavailable) || !strings.Contains(err.Error(), "overlay") {
		t.Fatalf("class %v: %v", fail.Of(err), err)
	}
	s, err = Open(filepath.Join(root, "layers"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Driver() != "copy" || s.WhyCopy() == nil {
		t.Fatal(s.Driver(), s.WhyCopy())
	}
	a := commit(t, s, "", fileE("f", "1"), fileE("g", "1"))
	b := commit(t, s, a, fileE(".wh.f", ""))
	r, err = s.Rootfs(t.Context(), []oci.Digest{a, b}, filepath.Join(root, "c"))
	if got := listing(t, s, r.Path); err != nil || !slices.Equal(got, []string{`"g" file 0644 1`}) {
		t.Fatal(got, err)
	}
}
