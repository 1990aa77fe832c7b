package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"berth/archive"
	"berth/fail"
	"berth/oci"
)

// container is a writable layer over chains, mounted.
type container struct {
	dir    string
	root   string // the mount
	chains []oci.Digest
}

func run(t *testing.T, s *Store, chains ...oci.Digest) container {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "c")
	r, err := s.Rootfs(t.Context(), chains, dir)
	if err != nil {
		t.Fatal(err)
	}
	return container{dir, mountRoot(t, r), chains}
}

func (c container) path(p string) string { return c.root + p }

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func diff(t *testing.T, s *Store, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Diff(t.Context(), nil, dir, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// entriesOf lists the names of a tar with the targets of links.
func entriesOf(t *testing.T, data []byte) []string {
	t.Helper()
	var names []string
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		name := h.Name
		if h.Linkname != "" {
			name += " -> " + h.Linkname
		}
		names = append(names, name)
	}
}

func TestDiffTellsWhatAContainerChanged(t *testing.T) {
	needRoot(t)
	s := open(t)
	base := commit(t, s, "", fileE("gone", "1"), fileE("kept", "1"), fileE("changed", "1"), fileE("old/f", "1"), fileE("again/f", "1"), fileE("deep/er/f", "1"), fileE("moved", "1"))
	c := run(t, s, base)
	must(t,
		os.Remove(c.path("gone")), os.WriteFile(c.path("changed"), []byte("2"), 0), os.RemoveAll(c.path("old")),
		os.RemoveAll(c.path("again")), os.Mkdir(c.path("again"), 0o700), os.WriteFile(c.path("again/g"), nil, 0o600),
		os.Remove(c.path("deep/er/f")), os.Rename(c.path("moved"), c.path("new name")),
		os.Symlink("kept", c.path("link")), unix.Mkfifo(c.path("fifo"), 0o600), unix.Mknod(c.path("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		os.WriteFile(c.path("a"), []byte("x"), 0o600), os.Link(c.path("a"), c.path("z")),
	)
	l, err := net.Listen("unix", c.path("socket"))
	must(t, err)
	defer l.Close()
	data := diff(t, s, c.dir)
	want := []string{"a", "again/", "again/.wh..wh..opq", "again/g", "changed", "deep/", "deep/er/", "deep/er/.wh.f", "fifo", ".wh.gone", "link -> kept", ".wh.moved", "new name", "null", ".wh.old", "z -> a"}
	if d := cmp.Diff(want, entriesOf(t, data)); d != "" {
		t.Fatal(d)
	}
	if !bytes.Equal(data, diff(t, s, c.dir)) {
		t.Fatal("two diffs of the same differ")
	}
	seen := listing(t, s, c.root)
	seen = slices.DeleteFunc(seen, func(l string) bool { return strings.HasPrefix(l, `"socket"`) })
	top := commitTar(t, s, base, data)
	if d := cmp.Diff(seen, listing(t, s, run(t, s, base, top).root)); d != "" {
		t.Fatalf("the committed image differs from the container: %s", d)
	}

	changes, err := s.Changes(t.Context(), c.chains, c.dir, nil)
	must(t, err)
	var got []string
	for _, ch := range changes {
		got = append(got, "CAD"[ch.Kind:ch.Kind+1]+" "+ch.Path)
	}
	want = []string{"A /a", "C /again", "A /again/g", "C /changed", "C /deep", "C /deep/er", "D /deep/er/f", "A /fifo", "D /gone", "A /link", "D /moved", "A /new name", "A /null", "D /old", "A /socket", "A /z"}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	if n, err := s.Usage(t.Context(), c.chains, c.dir); err != nil || n != 3 { // the symbolic link takes no block
		t.Fatalf("usage %d, %v", n, err)
	}
}

func commitTar(t *testing.T, s *Store, parent oci.Digest, data []byte) oci.Digest {
	t.Helper()
	st := stage(t, s)
	d, _, err := st.Apply(t.Context(), bytes.NewReader(data))
	must(t, err)
	chain, err := st.Commit(parent, d)
	must(t, err)
	return chain
}

// writable makes a writable layer whose upper directory is what a tar unpacks to, as a
// container with everything in it could have made it.
func writable(t *testing.T, s *Store, data []byte) string {
	t.Helper()
	at, err := apply(t, s, data)
	must(t, err)
	dir := t.TempDir()
	must(t, os.Rename(at, filepath.Join(dir, "upper")))
	return dir
}

func TestDiffOfApplyIsTheSameTar(t *testing.T) {
	first, link := fileE("d/f", "content"), symlinkE("d/l", "f")
	first.ModTime, link.ModTime = time.Unix(1e9, 123456789), time.Unix(5, 5)
	entries := []entry{
		dirE("d/"), fileE("d/.wh..wh..opq", ""), first, linkE("d/g", "d/f"), link, mode(fileE("d/s", "suid"), 0o4711),
		mode(dirE("e/"), 0o1777), fileE("e/.wh.gone", ""), fifoE("p"), fileE("\xff", "name of bytes"), fileE(strings.Repeat("n", 200), ""),
		xattrE(fileE("x", strings.Repeat("big", 100<<10)), "user.k", "v\x00w"), xattrE(fileE("y", ""), "user.overlay.opaque", "y"),
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return strings.Compare(a.Name, b.Name) })
	for i := range entries {
		if strings.Contains(entries[i].Name, whiteoutPrefix) { // marks carry no attributes
			e := &entries[i]
			e.ModTime, e.Uid, e.Gid = time.Unix(0, 0), 0, 0
		}
	}
	s := open(t)
	data := diff(t, s, writable(t, s, tarOf(t, entries...)))
	again := diff(t, s, writable(t, s, data))
	if !bytes.Equal(data, again) {
		t.Fatal("a diff that is applied does not give the same diff")
	}
	var want []string
	for _, e := range entries {
		if e.Linkname != "" && e.Typeflag != tar.TypeReg {
			e.Name += " -> " + e.Linkname
		}
		want = append(want, e.Name)
	}
	if d := cmp.Diff(want, entriesOf(t, data)); d != "" {
		t.Fatal(d)
	}
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		must(t, err)
		if h.Name != "y" {
			continue
		}
		if h.PAXRecords[archive.PAXXattr+"user.overlay.opaque"] != "y" {
			t.Fatalf("attributes %v", h.PAXRecords)
		}
		break
	}
}

func TestDiffRefusesWhatALayerCannotTell(t *testing.T) {
	s := open(t)
	for name, spoil := range map[string]func(upper string) error{
		"a file that looks like a whiteout": func(u string) error { return os.WriteFile(filepath.Join(u, ".wh.x"), nil, 0o600) },
		"a redirected directory": func(u string) error {
			return errors.Join(os.Mkdir(filepath.Join(u, "d"), 0o700), unix.Setxattr(filepath.Join(u, "d"), overlayMarksFor(os.Geteuid()).prefix+"redirect", []byte("/x"), 0))
		},
	} {
		dir := writable(t, s, tarOf(t))
		must(t, spoil(filepath.Join(dir, "upper")))
		if err := s.Diff(t.Context(), nil, dir, io.Discard); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := s.Diff(t.Context(), nil, t.TempDir(), io.Discard); !fail.Is(err, fail.NotFound) {
		t.Error(err)
	}
}

func TestSparseFilesKeepTheirHoles(t *testing.T) {
	gnutar, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("no tar program")
	}
	src := t.TempDir()
	f, err := os.Create(filepath.Join(src, "sparse"))
	must(t, err)
	for _, at := range []int64{0, 5 << 20, 20<<20 + 17} {
		_, err := f.WriteAt([]byte("data"), at)
		must(t, err)
	}
	must(t, f.Truncate(64<<20), f.Close())
	want, err := os.ReadFile(f.Name())
	must(t, err)
	for _, format := range []string{"gnu", "pax"} {
		data, err := exec.Command(gnutar, "-C", src, "--sparse", "--format="+format, "-cf", "-", "sparse").Output()
		must(t, err)
		dir, err := apply(t, open(t), data)
		must(t, err)
		got, err := os.ReadFile(filepath.Join(dir, "sparse"))
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatalf("%s: content differs", format)
		}
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(dir, "sparse"), &st))
		if st.Blocks*512 > 1<<20 {
			t.Fatalf("%s: takes %d bytes on disk", format, st.Blocks*512)
		}
	}
}

// GNU tar judges: the same archive must give the same tree, by its own --compare too.
func TestATreeComesOutAsGNUTarMakesIt(t *testing.T) {
	needRoot(t) // the owners
	gnutar, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("no tar program")
	}
	for _, format := range []string{"gnu", "pax", "ustar"} {
		cmd := exec.Command(gnutar, "-C", "/", "--format="+format, "-cf", "-", "etc", "usr/share/perl5", "usr/share/zoneinfo")
		data, err := cmd.Output()
		if len(data) == 0 {
			t.Skip(err)
		}
		dir, err := apply(t, open(t), data)
		must(t, err)
		cmp := exec.Command(gnutar, "-C", dir, "--compare", "-f", "-")
		cmp.Stdin = bytes.NewReader(data)
		if out, err := cmp.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %.2000s", format, err, out)
		}
	}
}
