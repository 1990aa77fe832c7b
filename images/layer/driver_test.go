package layer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"berth/archive"
	"berth/fail"
	"berth/kernel"
	"berth/oci"
)

// eachDriver runs the suite that every driver has to pass, and overlay once more by the
// calls of older kernels.
func eachDriver(t *testing.T, suite func(t *testing.T, s *Store)) {
	needRoot(t)
	t.Run("overlay", func(t *testing.T) { suite(t, openDriver(t, "overlay")) })
	t.Run("copy", func(t *testing.T) { suite(t, openDriver(t, "copy")) })
	for name, mount := range map[string]func(*kernel.Overlay) (*os.File, error){"text": kernel.MountOverlayByText, "numbers": kernel.MountOverlayByNumbers} {
		t.Run("overlay mounted by "+name, func(t *testing.T) {
			mountOverlay = mount
			defer func() { mountOverlay = kernel.MountOverlay }()
			suite(t, openDriver(t, "overlay"))
		})
	}
}

func TestEveryDriverShowsTheStackAsTheImageMeantIt(t *testing.T) {
	eachDriver(t, func(t *testing.T, s *Store) {
		old := func(e entry) entry { e.ModTime = time.Unix(-77, 7); return e }
		a := commit(t, s, "", mode(dirE("./"), 0o711), fileE("keep", "1"), fileE("gone", "1"), fileE("changed", "1"),
			fileE("opaque/old", "1"), fileE("dir/old", "1"), fileE("replaced/old", "1"), fileE("merged/old", "1"), old(mode(dirE("merged"), 0o750)),
			fileE("linked", "1"), linkE("other", "linked"), fifoE("p"), symlinkE("s", "keep"), mode(fileE("suid", "x"), 0o4755), mode(dirE("secret"), 0o40000), fileE("secret/f", "1"),
			xattrE(fileE("cap", "x"), "security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
		b := commit(t, s, a, fileE(".wh.gone", ""), fileE("changed", "2"), fileE("opaque/.wh..wh..opq", ""), fileE("opaque/new", "2"),
			fileE(".wh.dir", ""), fileE("dir/new", "2"), fileE("replaced", "2"), fileE("merged/new", "2"), fileE(".wh.linked", ""), fileE(".wh.never", ""))
		c := commit(t, s, b, dirE("gone"), fileE("gone/back", "3"), fileE("dir/newer", "3"))
		want := []string{
			`"cap" file 0644 x`, `"changed" file 0644 2`, `"dir" dir 0755`, `"dir/new" file 0644 2`, `"dir/newer" file 0644 3`, `"gone" dir 0755`, `"gone/back" file 0644 3`,
			`"keep" file 0644 1`, `"merged" dir 0750`, `"merged/new" file 0644 2`, `"merged/old" file 0644 1`, `"opaque" dir 0755`, `"opaque/new" file 0644 2`,
			`"other" file 0644 1`, `"p" fifo 0644`, `"replaced" file 0644 2`, `"s" -> keep`, `"secret" dir 0000`, `"secret/f" file 0644 1`, `"suid" file 4755 x`,
		}
		chains := []oci.Digest{a, b, c}
		for _, dir := range []string{"", filepath.Join(t.TempDir(), "c")} {
			r, err := s.Rootfs(t.Context(), chains, dir)
			must(t, err)
			root := mountRoot(t, r)
			got := listing(t, s, root)
			for i, l := range got { // the layer's own count of links, which overlayfs shows
				got[i] = strings.Replace(l, " links=2", "", 1)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatal(d)
			}
			if got, _ := describe(s, root); !strings.HasPrefix(got, "dir 0711") {
				t.Fatal("root:", got)
			}
			fi, err := os.Stat(root + "merged")
			if err != nil || !fi.ModTime().Equal(time.Unix(-77, 7)) {
				t.Fatal(fi, err)
			}
			if n := getxattr(t, root+"cap", "security.capability"); len(n) != 20 {
				t.Fatalf("capability %q", n)
			}
		}
		top := commit(t, s, c, fileE(".wh..wh..opq", ""), fileE("only", "3"))
		r, err := s.Rootfs(t.Context(), append(chains, top), filepath.Join(t.TempDir(), "c"))
		must(t, err)
		if d := cmp.Diff([]string{`"only" file 0644 3`}, listing(t, s, mountRoot(t, r))); d != "" {
			t.Fatal(d)
		}
		for _, dir := range []string{"", filepath.Join(t.TempDir(), "empty")} {
			r, err = s.Rootfs(t.Context(), nil, dir)
			must(t, err)
			if got := listing(t, s, mountRoot(t, r)); got != nil {
				t.Fatal(got)
			}
		}
	})
}

func TestEveryDriverTellsWhatAContainerChanged(t *testing.T) {
	eachDriver(t, func(t *testing.T, s *Store) {
		base := commit(t, s, "", fileE("gone", "1"), fileE("kept", "1"), fileE("changed", "1"), fileE("old/f", "1"), fileE("again/f", "1"), fileE("deep/er/f", "1"),
			fileE("moved", "1"), fileE("file", "1"), fileE("dir/x", "1"), fileE("same size", "1"), fileE("touched/inside", "1"), symlinkE("link", "kept"))
		second := commit(t, s, base, fileE("second", "2"), fileE(".wh.file", ""), fileE("file", "2"))
		c := run(t, s, base, second)
		must(t,
			os.Remove(c.path("gone")), os.WriteFile(c.path("changed"), []byte("22"), 0), os.RemoveAll(c.path("old")),
			os.RemoveAll(c.path("again")), os.Mkdir(c.path("again"), 0o700), os.WriteFile(c.path("again/g"), nil, 0o600),
			os.Remove(c.path("deep/er/f")), os.Rename(c.path("moved"), c.path("new name")),
			os.Remove(c.path("link")), os.Symlink("gone", c.path("link")),
			os.Remove(c.path("file")), os.Mkdir(c.path("file"), 0o755), os.WriteFile(c.path("file/f"), []byte("x"), 0o600),
			os.RemoveAll(c.path("dir")), os.WriteFile(c.path("dir"), []byte("x"), 0o600),
			os.WriteFile(c.path("same size"), []byte("2"), 0o600), os.Chtimes(c.path("same size"), time.Unix(1, 0), time.Unix(1, 0)),
			os.WriteFile(c.path("a"), []byte("x"), 0o600), os.Link(c.path("a"), c.path("z")), os.Chmod(c.path("second"), 0o4755),
			unix.Mkfifo(c.path("fifo"), 0o600), unix.Mknod(c.path("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		)
		changes, err := s.Changes(t.Context(), c.chains, c.dir, nil)
		must(t, err)
		var got []string
		for _, ch := range changes {
			got = append(got, "CAD"[ch.Kind:ch.Kind+1]+" "+ch.Path)
		}
		want := []string{"A /a", "C /again", "A /again/g", "C /changed", "C /deep", "C /deep/er", "D /deep/er/f", "C /dir", "A /fifo", "C /file", "A /file/f", "D /gone",
			"C /link", "D /moved", "A /new name", "A /null", "D /old", "C /same size", "C /second", "A /z"}
		// A directory made anew hides what was in it: whether that is told one by one is
		// the driver's affair.
		got = slices.DeleteFunc(got, func(l string) bool { return l == "D /again/f" })
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
		var data, again bytes.Buffer
		must(t, s.Diff(t.Context(), c.chains, c.dir, &data), s.Diff(t.Context(), c.chains, c.dir, &again))
		if !bytes.Equal(data.Bytes(), again.Bytes()) {
			t.Fatal("two diffs of the same differ")
		}
		top := commitTar(t, s, second, data.Bytes())
		seen := listing(t, s, c.root)
		if d := cmp.Diff(seen, listing(t, s, run(t, s, append(c.chains, top)...).root)); d != "" {
			t.Fatalf("the committed image differs from the container: %s", d)
		}
		if n, err := s.Usage(t.Context(), c.chains, c.dir); err != nil || n != int64(len("22"+"1"+"x"+"x"+"2"+"2"+"x")) { // the symbolic link takes no block
			t.Fatalf("usage %d, %v", n, err)
		}
		var whole bytes.Buffer
		must(t, s.Export(t.Context(), c.chains, c.dir, &whole))
		flat := commitTar(t, s, "", whole.Bytes())
		if d := cmp.Diff(seen, listing(t, s, run(t, s, flat).root)); d != "" {
			t.Fatalf("the export differs from the container: %s", d)
		}
		if changes, err := s.Changes(t.Context(), []oci.Digest{flat}, run(t, s, flat).dir, nil); err != nil || len(changes) != 0 {
			t.Fatal("a fresh container has changes:", changes, err)
		}
		for _, missing := range []error{
			s.Diff(t.Context(), c.chains, t.TempDir(), io.Discard), s.Export(t.Context(), c.chains, t.TempDir(), io.Discard),
		} {
			if !fail.Is(missing, fail.NotFound) {
				t.Error(missing)
			}
		}
		if n, err := s.Usage(t.Context(), c.chains, t.TempDir()); n != 0 || err != nil {
			t.Error("usage of what is not there:", n, err)
		}
	})
}

// wholeEntries describes all of a tar's entries.
func wholeEntries(t *testing.T, data []byte) (all []string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		must(t, err)
		content, err := io.ReadAll(r)
		must(t, err)
		var attrs []string
		for k, v := range h.PAXRecords {
			if strings.HasPrefix(k, archive.PAXXattr) {
				attrs = append(attrs, fmt.Sprintf("%s=%q", k, v))
			}
		}
		slices.Sort(attrs)
		if h.Typeflag == tar.TypeLink { // the rest is the target's
			all = append(all, fmt.Sprintf("%q => %q", h.Name, h.Linkname))
			continue
		}
		all = append(all, fmt.Sprintf("%q %c %04o %d:%d %d.%09d %d %q %d:%d %s %.40q", h.Name, h.Typeflag, h.Mode, h.Uid, h.Gid,
			h.ModTime.Unix(), h.ModTime.Nanosecond(), h.Size, h.Linkname, h.Devmajor, h.Devminor, attrs, content))
	}
}

func TestATarComesBackEntryForEntry(t *testing.T) {
	at := func(e entry, sec, nsec int64) entry { e.ModTime = time.Unix(sec, nsec); return e }
	mark := func(name string) entry {
		e := at(fileE(name, ""), 0, 0)
		return e
	}
	device := func(name string, kind byte, major, minor int64) entry {
		return entry{Typeflag: kind, Name: name, Devmajor: major, Devminor: minor}
	}
	long := strings.Repeat("n", 251)
	entries := []entry{
		dirE("./"),
		at(dirE("d/"), -1, 999999999), mark("d/.wh..wh..opq"), at(fileE("d/f", "content"), 1e9, 123456789), linkE("d/g", "d/f"), at(mode(symlinkE("d/l", "f"), 0o777), -1e9, 5),
		mode(fileE("d/none", "x"), 0o001), mode(fileE("d/s", "suid"), 0o6711), mode(dirE("d/t/"), 0o1777), mode(dirE("d/u/"), 0o2001),
		mark("e.wh"), mark(".wh.f"), mark(".wh." + long),
		fifoE("p"), fileE("q\xff\xfe\n", "name of bytes"), fileE(strings.Repeat("q/", 1)+long, "long"), mode(symlinkE("r", strings.Repeat("t/", 1500)), 0o777),
		device("u", tar.TypeChar, 4095, 1<<20-1), device("v", tar.TypeBlock, 8, 0),
		xattrE(fileE("x", strings.Repeat("big", 100<<10)), "user.k", "v\x00w"), xattrE(fileE("y", ""), "user.overlay.opaque", "y"),
		xattrE(fileE("z", "x"), "security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
	}
	entries = slices.Insert(entries, slices.IndexFunc(entries, func(e entry) bool { return strings.HasPrefix(e.Name, "q/") }), dirE("q/"))
	slices.SortStableFunc(entries, func(a, b entry) int {
		if a.Name == "./" || b.Name == "./" {
			return strings.Compare(b.Name, a.Name) * -1
		}
		key := func(n string) string {
			i := strings.LastIndex(strings.TrimSuffix(n, "/"), "/") + 1
			return strings.ReplaceAll(strings.TrimSuffix(n[:i]+strings.TrimPrefix(n[i:], whiteoutPrefix), "/"), "/", "\x00")
		}
		return strings.Compare(key(a.Name), key(b.Name))
	})
	for i := range entries {
		if strings.Contains(entries[i].Name, whiteoutPrefix) {
			entries[i].Uid, entries[i].Gid, entries[i].Mode = 0, 0, 0o600
		}
	}
	eachDriver(t, func(t *testing.T, s *Store) {
		entries := entries
		if s.Driver() == copyDriver { // its marks need four bytes more
			entries = slices.DeleteFunc(slices.Clone(entries), func(e entry) bool { return e.Name == ".wh."+long })
		}
		data := tarOf(t, entries...)
		chain := commitTar(t, s, "", data)
		var out bytes.Buffer
		must(t, s.Tar(t.Context(), chain, &out))
		fix := func(all []string) []string { // marks have no attributes of their own
			for i, l := range all {
				if strings.Contains(l, whiteoutPrefix) {
					all[i], _, _ = strings.Cut(l, " ")
				}
			}
			slices.Sort(all)
			return all
		}
		if d := cmp.Diff(fix(wholeEntries(t, data)), fix(wholeEntries(t, out.Bytes()))); d != "" {
			t.Fatal(d)
		}
		second := commitTar(t, s, "", out.Bytes())
		var again bytes.Buffer
		must(t, s.Tar(t.Context(), second, &again))
		if !bytes.Equal(out.Bytes(), again.Bytes()) {
			t.Fatal("what was written and unpacked again is written differently")
		}
	})
}

func TestAStoreKeepsTheDriverOfItsLayers(t *testing.T) {
	needRoot(t)
	root := filepath.Join(t.TempDir(), "layers")
	reopen := func(driver string) (*Store, error) {
		s, err := Open(root, driver)
		if err == nil {
			t.Cleanup(func() { s.Close() })
		}
		return s, err
	}
	_, err := reopen("copy")
	must(t, err)
	_, err = reopen("overlay") // nothing is in it yet
	must(t, err)
	s, err := reopen("copy")
	must(t, err)
	a := commit(t, s, "", fileE("f", "x"))
	if s, err = reopen(""); err != nil || s.Driver() != "copy" || s.WhyCopy() != nil {
		t.Fatal(s, err)
	}
	if _, err := reopen("overlay"); !fail.Is(err, fail.Conflict) || !strings.Contains(err.Error(), "--storage-driver copy") {
		t.Fatal(err)
	}
	if _, err := reopen("zfs"); !fail.Is(err, fail.Invalid) {
		t.Fatal(err)
	}
	must(t, s.Remove(a))
	if s, err = reopen("overlay"); err != nil || s.Driver() != "overlay" {
		t.Fatal(s, err)
	}
	must(t, os.Remove(filepath.Join(root, "driver"))) // from before there was a choice
	commit(t, s, "", fileE("f", "x"))
	if s, err = reopen(""); err != nil || s.Driver() != "overlay" {
		t.Fatal(s, err)
	}
}

func TestMoreLayersThanOverlayTakes(t *testing.T) {
	needRoot(t)
	// In memory where there is such a file system: each layer is flushed on its own.
	root, err := os.MkdirTemp("/dev/shm", "layers-")
	if err != nil {
		root = t.TempDir()
	}
	defer os.RemoveAll(root)
	s, err := Open(root, "overlay")
	if fail.Is(err, fail.Unavailable) {
		s = openDriver(t, "overlay")
	} else {
		must(t, err)
		defer s.Close()
	}
	defer func() { mountOverlay = kernel.MountOverlay }()
	var chains []oci.Digest
	var parent oci.Digest
	const n = 503
	for i := range n {
		entries := []entry{fileE(fmt.Sprintf("d/%d", i), ""), fileE("last", fmt.Sprint(i))}
		if i > 0 && i%2 == 0 {
			entries = append(entries, fileE(fmt.Sprintf("d/.wh.%d", i-1), ""))
		}
		parent = commit(t, s, parent, entries...)
		chains = append(chains, parent)
	}
	for _, mountOverlay = range []func(*kernel.Overlay) (*os.File, error){kernel.MountOverlay, kernel.MountOverlayByText} {
		r, err := s.Rootfs(t.Context(), chains, filepath.Join(t.TempDir(), "c"))
		must(t, err)
		root := mountRoot(t, r)
		names, err := os.ReadDir(root + "d")
		must(t, err)
		last, err := os.ReadFile(root + "last")
		if len(names) != n/2+1 || string(last) != fmt.Sprint(n-1) || err != nil {
			t.Fatal(len(names), string(last), err)
		}
	}
}

func TestACopyCutShortIsMadeAgain(t *testing.T) {
	needRoot(t)
	s := openDriver(t, "copy")
	a := commit(t, s, "", fileE("f", "x"))
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, preparedRoot, "half"), 0o755), os.MkdirAll(filepath.Join(dir, "copy-1", "x"), 0o755))
	r, err := s.Rootfs(t.Context(), []oci.Digest{a}, dir)
	must(t, err)
	if got := listing(t, s, r.Path); !slices.Equal(got, []string{`"f" file 0644 x`}) {
		t.Fatal(got)
	}
	must(t, os.WriteFile(filepath.Join(r.Path, "g"), nil, 0o600))
	r, err = s.Rootfs(t.Context(), []oci.Digest{a}, dir)
	if got := listing(t, s, r.Path); err != nil || len(got) != 2 {
		t.Fatal("a root that is there is not made again:", got, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "copy-*")); left != nil {
		t.Fatal(left)
	}
}
