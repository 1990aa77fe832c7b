package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"berth/archive"
	"berth/fail"
	"berth/oci"
)

// The entries of a test's tar. They belong to whoever runs the test, so that applying
// them needs no privileges.
type entry = tar.Header

func entryOf(e entry) entry {
	if e.Uid == 0 && e.Gid == 0 {
		e.Uid, e.Gid = os.Getuid(), os.Getgid()
	}
	if e.Mode == 0 {
		e.Mode = 0o644
		if e.Typeflag == tar.TypeDir {
			e.Mode = 0o755
		}
	}
	if e.ModTime.IsZero() {
		e.ModTime = time.Unix(1, 0)
	}
	return e
}

func dirE(name string) entry { return entry{Typeflag: tar.TypeDir, Name: name} }
func fileE(name, content string) entry {
	return entry{Typeflag: tar.TypeReg, Name: name, Linkname: content}
} // see tarOf
func symlinkE(name, target string) entry {
	return entry{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}
func linkE(name, target string) entry {
	return entry{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}
func fifoE(name string) entry { return entry{Typeflag: tar.TypeFifo, Name: name} }

func mode(e entry, m int64) entry { e.Mode = m; return e }

func xattrE(e entry, name, value string) entry {
	e.PAXRecords = map[string]string{archive.PAXXattr + name: value}
	return e
}

// tarOf writes a tar; a regular file's content is in Linkname.
func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e = entryOf(e)
		content := ""
		if e.Typeflag == tar.TypeReg {
			content, e.Linkname = e.Linkname, ""
			e.Size = int64(len(content))
		}
		e.Format = tar.FormatPAX
		if err := w.WriteHeader(&e); err != nil {
			t.Fatal(e.Name, err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func open(t testing.TB) *Store {
	t.Helper()
	return openDriver(t, "")
}

func openDriver(t testing.TB, driver string) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "layers"), driver)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func stage(t testing.TB, s *Store) *Staged {
	t.Helper()
	st, err := s.Stage(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Discard() })
	return st
}

// apply unpacks data and returns the staged layer's directory.
func apply(t testing.TB, s *Store, data []byte) (string, error) {
	t.Helper()
	st := stage(t, s)
	d, _, err := st.Apply(t.Context(), bytes.NewReader(data))
	if err == nil && d != digest.FromBytes(data) {
		t.Fatalf("diff ID %s, the tar is %s", d, digest.FromBytes(data))
	}
	return filepath.Join(st.dir, "diff"), err
}

// listing describes every file below dir in a line, sorted by path.
func listing(t testing.TB, s *Store, dir string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if rel == "." {
			return nil
		}
		line, err := describe(s, p)
		lines = append(lines, fmt.Sprintf("%q %s", rel, line))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

func describe(s *Store, p string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return "", err
	}
	perm := fmt.Sprintf("%04o", st.Mode&0o7777)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		b := make([]byte, 8)
		if n, err := unix.Getxattr(p, overlayMarksFor(os.Geteuid()).opaque(), b); err == nil && string(b[:n]) == "y" {
			return "dir " + perm + " opaque", nil
		}
		return "dir " + perm, nil
	case unix.S_IFREG:
		data, err := os.ReadFile(p)
		links := ""
		if st.Nlink > 1 {
			links = fmt.Sprintf(" links=%d", st.Nlink)
		}
		return fmt.Sprintf("file %s%s %s", perm, links, data), err
	case unix.S_IFLNK:
		to, err := os.Readlink(p)
		return "-> " + to, err
	case unix.S_IFIFO:
		return "fifo " + perm, nil
	}
	if isWhiteout(&st) {
		return "whiteout", nil
	}
	return fmt.Sprintf("device %o %d:%d", st.Mode, unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
}

func TestApply(t *testing.T) {
	long := strings.Repeat("n", 255)
	deep := strings.Repeat("d/", 200) + "f"
	for name, c := range map[string]struct {
		tar  []entry
		want []string
	}{
		"files, directories and links of every kind": {
			[]entry{dirE("./"), dirE("./d/"), fileE("./d/f", "x"), symlinkE("d/s", "../nowhere"), linkE("d/h", "./d/f"), fifoE("p")},
			[]string{`"d" dir 0755`, `"d/f" file 0644 links=2 x`, `"d/h" file 0644 links=2 x`, `"d/s" -> ../nowhere`, `"p" fifo 0644`},
		},
		"absolute names are the layer's own": {
			[]entry{dirE("/d/"), fileE("/d/f", "x"), fileE("//g", "y"), linkE("/h", "/g")},
			[]string{`"d" dir 0755`, `"d/f" file 0644 x`, `"g" file 0644 links=2 y`, `"h" file 0644 links=2 y`},
		},
		"names with detours": {
			[]entry{fileE("a/./b//c", "1"), fileE("x/../y", "2"), fileE(".hidden", "3"), fileE("..a/...", "4")},
			[]string{`"..a" dir 0755`, `"..a/..." file 0644 4`, `".hidden" file 0644 3`, `"a" dir 0755`, `"a/b" dir 0755`, `"a/b/c" file 0644 1`, `"y" file 0644 2`},
		},
		"parents that no entry names": {
			[]entry{fileE("a/b/f", "x")},
			[]string{`"a" dir 0755`, `"a/b" dir 0755`, `"a/b/f" file 0644 x`},
		},
		"a directory's entry after its content": {
			[]entry{fileE("a/f", "x"), mode(dirE("a"), 0o711)},
			[]string{`"a" dir 0711`, `"a/f" file 0644 x`},
		},
		"modes with setuid, setgid and sticky, and against the umask": {
			[]entry{mode(fileE("u", ""), 0o4755), mode(fileE("g", ""), 0o2711), mode(dirE("t"), 0o1777), mode(fileE("w", ""), 0o666), mode(dirE("s"), 0o2775), fileE("s/f", "")},
			[]string{`"g" file 2711 `, `"s" dir 2775`, `"s/f" file 0644 `, `"t" dir 1777`, `"u" file 4755 `, `"w" file 0666 `},
		},
		"long and strange names": {
			[]entry{fileE(long, "1"), fileE("\xff\xfe", "2"), fileE("new\nline", "3"), fileE(deep, "4"), symlinkE("l", strings.Repeat("x", 3000))},
			append(func() (w []string) {
				for i := 1; i <= 200; i++ {
					w = append(w, fmt.Sprintf("%q dir 0755", strings.TrimSuffix(strings.Repeat("d/", i), "/")))
				}
				return append(w, fmt.Sprintf("%q file 0644 4", deep))
			}(), fmt.Sprintf("%q -> %s", "l", strings.Repeat("x", 3000)), fmt.Sprintf("%q file 0644 1", long), `"new\nline" file 0644 3`, `"\xff\xfe" file 0644 2`),
		},
		"a later entry replaces an earlier one": {
			[]entry{
				fileE("a", "1"), fileE("a", "2"),
				fileE("b", "1"), symlinkE("b", "a"),
				symlinkE("c", "a"), fileE("c", "3"),
				dirE("d"), fileE("d/f", "x"), dirE("d/e"), fileE("d/e/g", "x"), fileE("d", "now a file"),
				mode(dirE("e"), 0o700), mode(dirE("e"), 0o711),
				fileE("h", "1"), linkE("i", "h"), fileE("h", "2"),
			},
			[]string{`"a" file 0644 2`, `"b" -> a`, `"c" file 0644 3`, `"d" file 0644 now a file`, `"e" dir 0711`, `"h" file 0644 2`, `"i" file 0644 1`},
		},
		"a directory in the place of a file hides what is below": {
			[]entry{fileE("a", "1"), dirE("a"), fileE("a/f", "2"), symlinkE("b", "a"), dirE("b")},
			[]string{`"a" dir 0755 opaque`, `"a/f" file 0644 2`, `"b" dir 0755 opaque`},
		},
		"a directory that comes back after a file": {
			[]entry{dirE("a"), fileE("a/f", "1"), fileE("a", "2"), fileE("x", ""), dirE("a"), fileE("a/g", "3")},
			[]string{`"a" dir 0755 opaque`, `"a/g" file 0644 3`, `"x" file 0644 `},
		},
		"whiteouts": {
			[]entry{fileE(".wh.a", ""), fileE("d/.wh.b", ""), fileE("d/.wh.b", "")},
			[]string{`"a" whiteout`, `"d" dir 0755`, `"d/b" whiteout`},
		},
		"a whiteout deletes nothing of its own layer": {
			[]entry{fileE("a", "1"), fileE(".wh.a", ""), fileE(".wh.b", ""), fileE("b", "2"), symlinkE("s", "x"), fileE(".wh.s", "")},
			[]string{`"a" file 0644 1`, `"b" file 0644 2`, `"s" -> x`},
		},
		"a whiteout before or after a directory makes it opaque": {
			[]entry{fileE(".wh.a", ""), fileE("a/f", "1"), dirE("b"), fileE("b/f", "2"), fileE(".wh.b", ""), fileE(".wh.c", ""), dirE("c")},
			[]string{`"a" dir 0755 opaque`, `"a/f" file 0644 1`, `"b" dir 0755 opaque`, `"b/f" file 0644 2`, `"c" dir 0755 opaque`},
		},
		"opaque directories": {
			[]entry{fileE("a/.wh..wh..opq", ""), fileE("a/f", "1"), fileE("b/f", "2"), dirE("b"), fileE("b/.wh..wh..opq", "")},
			[]string{`"a" dir 0755 opaque`, `"a/f" file 0644 1`, `"b" dir 0755 opaque`, `"b/f" file 0644 2`},
		},
		"records of AUFS are left out": {
			[]entry{dirE(".wh..wh.plnk"), fileE(".wh..wh.plnk/1.2", "x"), fileE(".wh..wh.aufs", ""), dirE("d/.wh..wh.orph"), fileE("f", "")},
			[]string{`"f" file 0644 `},
		},
		"symlinks on the way stay within the layer": {
			[]entry{
				dirE("real"), symlinkE("abs", "/real"), symlinkE("up", "../../../real"), symlinkE("chain", "abs"),
				fileE("abs/1", "a"), fileE("up/2", "b"), fileE("chain/3", "c"), fileE("chain/sub/4", "d"),
				symlinkE("dangling", "/made/here"), fileE("dangling/5", "e"),
				linkE("linked", "abs/1"),
			},
			[]string{
				`"abs" -> /real`, `"chain" -> abs`, `"dangling" -> /made/here`, `"linked" file 0644 links=2 a`,
				`"made" dir 0755`, `"made/here" dir 0755`, `"made/here/5" file 0644 e`,
				`"real" dir 0755`, `"real/1" file 0644 links=2 a`, `"real/2" file 0644 b`, `"real/3" file 0644 c`, `"real/sub" dir 0755`, `"real/sub/4" file 0644 d`,
				`"up" -> ../../../real`,
			},
		},
		"a symlink that changes its target between two files": {
			[]entry{dirE("x"), dirE("y"), symlinkE("s", "x"), fileE("s/1", ""), symlinkE("s", "y"), fileE("s/2", "")},
			[]string{`"s" -> y`, `"x" dir 0755`, `"x/1" file 0644 `, `"y" dir 0755`, `"y/2" file 0644 `},
		},
		"hard links to symlinks and to themselves": {
			[]entry{symlinkE("s", "/etc/passwd"), linkE("h", "s"), fileE("f", "x"), linkE("f", "f"), fileE("o", "old"), linkE("o", "f")},
			[]string{`"f" file 0644 links=2 x`, `"h" -> /etc/passwd`, `"o" file 0644 links=2 x`, `"s" -> /etc/passwd`},
		},
		"nothing at all": {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			dir, err := apply(t, s, tarOf(t, c.tar...))
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(c.want)
			if d := cmp.Diff(c.want, listing(t, s, dir)); d != "" {
				t.Fatal(d)
			}
		})
	}
}

func TestApplyRefusesWhatLeavesTheLayer(t *testing.T) {
	for name, c := range map[string][]entry{
		"a name that climbs out":                  {fileE("../f", "x")},
		"a name that climbs out after going down": {fileE("a/../../f", "x")},
		"an absolute name that climbs out":        {fileE("/../f", "x")},
		"a directory above":                       {dirE("..")},
		"a whiteout above":                        {fileE("../.wh.f", "")},
		"a whiteout of the parent":                {fileE("a/.wh...", "")},
		"a whiteout of the directory itself":      {fileE("a/.wh..", "")},
		"a whiteout of nothing":                   {fileE("a/.wh.", "")},
		"an opaque mark above":                    {fileE("../.wh..wh..opq", "")},
		"a hard link out of the layer":            {linkE("h", "../../../../etc/passwd")},
		"a hard link to a file of the host":       {linkE("h", "/etc/passwd")},
		"a hard link through a symlink":           {symlinkE("s", "/etc"), linkE("h", "s/passwd")},
		"a hard link to a directory":              {dirE("d"), linkE("h", "d")},
		"a hard link to the root":                 {linkE("h", "/")},
		"a hard link to what is not there":        {linkE("h", "nope")},
		"a hard link into what is not there":      {linkE("h", "no/pe")},
		"a hard link to a whiteout's directory":   {fileE(".wh.d", ""), linkE("h", "d/f")},
		"a symlink to itself on the way":          {symlinkE("s", "s"), fileE("s/f", "x")},
		"symlinks in a circle":                    {symlinkE("a", "b"), symlinkE("b", "a"), fileE("a/f", "x")},
		"a file on the way":                       {fileE("a", "x"), fileE("a/f", "x")},
		"a FIFO on the way":                       {fifoE("a"), fileE("a/f", "x")},
		"a root that is a file":                   {fileE(".", "x")},
		"a name component that is too long":       {fileE(strings.Repeat("n", 256), "x")},
		"a directory name that is too long":       {dirE(strings.Repeat("n", 256))},
		"a parent name that is too long":          {fileE(strings.Repeat("n", 256)+"/f", "x")},
		"a path that is too long":                 {fileE(strings.Repeat("d/", 2048)+"f", "x")},
		"a path that symlinks make too long": {
			dirE(strings.Repeat("d/", 1500)), symlinkE("s", strings.Repeat("d/", 1500)), fileE("s/"+strings.Repeat("e/", 1500)+"f", "x"),
		},
		"a symlink target that is too long": {symlinkE("s", strings.Repeat("x", 5000))},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			before := listing(t, s, filepath.Dir(s.root))
			dir, err := apply(t, s, tarOf(t, c...))
			if !fail.Is(err, fail.Invalid) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("class %v: %v", fail.Of(err), err)
			}
			os.RemoveAll(filepath.Dir(dir))
			if d := cmp.Diff(before, listing(t, s, filepath.Dir(s.root))); d != "" {
				t.Fatalf("something was written outside: %s", d)
			}
		})
	}
}

// rawEntry is a header that archive/tar's writer would not write.
func rawEntry(t *testing.T, e entry, change func(block []byte)) []byte {
	t.Helper()
	data := tarOf(t, e)
	i := 0
	if data[156] == 'x' { // behind a PAX header
		i = 1024
	}
	block := data[i : i+512]
	change(block)
	copy(block[148:156], "        ")
	sum := 0
	for _, b := range block {
		sum += int(b)
	}
	copy(block[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return data
}

func TestApplyRefusesBrokenTars(t *testing.T) {
	good := tarOf(t, fileE("f", strings.Repeat("x", 3000)), fileE("big", strings.Repeat("y", 300<<10)))
	for name, data := range map[string][]byte{
		"cut in a small file":      good[:2000],
		"cut in a large file":      good[:100<<10],
		"cut in a header":          good[:4000],
		"a wrong checksum":         append([]byte("x"), good[1:]...),
		"no tar":                   bytes.Repeat([]byte("no tar "), 1000),
		"an unknown type":          rawEntry(t, fileE("f", ""), func(b []byte) { b[156] = 'Z' }),
		"a symlink without target": rawEntry(t, symlinkE("s", "x"), func(b []byte) { b[157] = 0 }),
		"a huge attribute":         tarOf(t, xattrE(fileE("f", ""), "user.x", strings.Repeat("x", archive.MaxXattr+1))),
		"an owner out of range":    tarOf(t, entry{Typeflag: tar.TypeReg, Name: "f", Uid: 1<<32 - 1, Gid: 1}),
		"a negative owner":         rawEntry(t, fileE("f", ""), func(b []byte) { copy(b[108:116], "\xff\xff\xff\xff\xff\xff\xff\xfe") }),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := apply(t, open(t), data); !fail.Is(err, fail.Invalid) {
				t.Fatalf("class %v: %v", fail.Of(err), err)
			}
		})
	}
}

func TestApplyHashesThePaddingToo(t *testing.T) {
	data := append(tarOf(t, fileE("f", "x")), make([]byte, 1<<20)...)
	if _, err := apply(t, open(t), append(data, "trailing"...)); err != nil {
		t.Fatal(err)
	}
}

func TestApplyTakesAnyReader(t *testing.T) {
	data := tarOf(t, fileE("f", strings.Repeat("x", 300<<10)))
	for name, r := range map[string]io.Reader{
		"a byte at a time":  iotest.OneByteReader(bytes.NewReader(data)),
		"data with the end": iotest.DataErrReader(bytes.NewReader(data)),
	} {
		st := stage(t, open(t))
		if d, size, err := st.Apply(t.Context(), r); err != nil || d != digest.FromBytes(data) || size != 300<<10 {
			t.Errorf("%s: %v, %d, %v", name, d, size, err)
		}
	}
}

func TestErrorsOfTheReaderKeepTheirClass(t *testing.T) {
	data := tarOf(t, fileE("f", strings.Repeat("x", 300<<10)))
	for _, cut := range []int{0, 100, 1 << 10, 200 << 10, len(data)} {
		cause := fail.New(fail.Unavailable, "the registry hung up")
		r := io.MultiReader(bytes.NewReader(data[:cut]), iotest.ErrReader(cause))
		if _, _, err := stage(t, open(t)).Apply(t.Context(), r); !errors.Is(err, cause) || !fail.Is(err, fail.Unavailable) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
}

func TestApplyEndsWithTheContext(t *testing.T) {
	data := tarOf(t, fileE("f", strings.Repeat("x", 3<<20)))
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the user gave up")
	n := 0
	r := readerFunc(func(p []byte) (int, error) {
		if n++; n == 3 {
			cancel(why)
		}
		return copy(p, data[min((n-1)*len(p), len(data)):]), nil
	})
	if _, _, err := stage(t, open(t)).Apply(ctx, r); !errors.Is(err, why) {
		t.Fatal(err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestTimesAreKeptToTheNanosecond(t *testing.T) {
	at := func(s, ns int64) time.Time { return time.Unix(s, ns) }
	d, f, l := dirE("d"), fileE("d/f", "x"), symlinkE("d/l", "f")
	big := fileE("d/big", strings.Repeat("x", smallFile+1))
	d.ModTime, f.ModTime, l.ModTime, big.ModTime = at(1000, 1), at(1e9, 999999999), at(-5, 0), at(7, 7)
	s := open(t)
	dir, err := apply(t, s, tarOf(t, d, f, l, big))
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]time.Time{"d": d.ModTime, "d/f": f.ModTime, "d/l": l.ModTime, "d/big": big.ModTime} {
		fi, err := os.Lstat(filepath.Join(dir, p))
		if err != nil || !fi.ModTime().Equal(want) {
			t.Errorf("%s: %v, %v, want %v", p, fi.ModTime(), err, want)
		}
	}
}

func TestRootAttributesComeFromItsEntry(t *testing.T) {
	s := open(t)
	dir, err := apply(t, s, tarOf(t, mode(dirE("./"), 0o1711)))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := describe(s, dir); got != "dir 1711" {
		t.Fatal(got)
	}
}

func getxattr(t *testing.T, p, name string) string {
	t.Helper()
	b := make([]byte, 256)
	n, err := unix.Lgetxattr(p, name, b)
	if err != nil {
		return err.Error()
	}
	return string(b[:n])
}

func TestXattrsAreKeptAndOverlayMarksAreNot(t *testing.T) {
	s := open(t)
	dir, err := apply(t, s, tarOf(t,
		xattrE(fileE("f", "x"), "user.colour", "red\x00green"),
		xattrE(dirE("d"), "user.size", "7"),
		xattrE(dirE("evil"), "user.overlay.opaque", "y"),
		xattrE(symlinkE("l", "f"), "user.impossible", "on a symlink"),
	))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ file, name, want string }{
		{"f", "user.colour", "red\x00green"},
		{"d", "user.size", "7"},
		{"evil", "user.overlay.opaque", unix.ENODATA.Error()},
		{"evil", "user.overlay.overlay.opaque", "y"},
	} {
		if got := getxattr(t, filepath.Join(dir, c.file), c.name); got != c.want {
			t.Errorf("%s %s: %q", c.file, c.name, got)
		}
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func TestPrivilegedAttributes(t *testing.T) {
	needRoot(t)
	// Revision 2 of vfs_cap_data with cap_net_bind_service permitted (capabilities(7)).
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	owned := xattrE(mode(fileE("ping", "x"), 0o4755), "security.capability", capability)
	owned.Uid, owned.Gid = 1000, 4294967294
	link := symlinkE("l", "ping")
	link.Uid, link.Gid = 12, 34
	dir := dirE("d")
	dir.Uid, dir.Gid = 56, 78
	char := entry{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3, Mode: 0o666}
	block := entry{Typeflag: tar.TypeBlock, Name: "blk", Devmajor: 259, Devminor: 70000, Mode: 0o600}
	s := open(t)
	at, err := apply(t, s, tarOf(t, owned, link, dir, char, block,
		xattrE(dirE("evil"), "trusted.overlay.opaque", "y"), xattrE(fileE("redirected", ""), "trusted.overlay.redirect", "/etc"), xattrE(fileE("t", ""), "trusted.mine", "1")))
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{
		"ping": "file 4755 x", "null": "device 20666 1:3", "blk": "device 60600 259:70000", "evil": "dir 0755",
	} {
		if got, _ := describe(s, filepath.Join(at, p)); got != want {
			t.Errorf("%s: %s", p, got)
		}
	}
	for p, want := range map[string][2]uint32{"ping": {1000, 4294967294}, "l": {12, 34}, "d": {56, 78}} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(at, p), &st); err != nil || [2]uint32{st.Uid, st.Gid} != want {
			t.Errorf("%s: %d:%d, %v", p, st.Uid, st.Gid, err)
		}
	}
	for _, c := range []struct{ file, name, want string }{
		{"ping", "security.capability", capability},
		{"t", "trusted.mine", "1"},
		{"evil", "trusted.overlay.opaque", unix.ENODATA.Error()},
		{"evil", "trusted.overlay.overlay.opaque", "y"},
		{"redirected", "trusted.overlay.redirect", unix.ENODATA.Error()},
	} {
		if got := getxattr(t, filepath.Join(at, c.file), c.name); got != c.want {
			t.Errorf("%s %s: %q", c.file, c.name, got)
		}
	}
}

func TestWhiteoutsAreNotWrittenThroughSymlinks(t *testing.T) {
	s := open(t)
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("safe"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := apply(t, s, tarOf(t,
		symlinkE("out", filepath.Dir(victim)), fileE("out/.wh.victim", ""), fileE("out/victim2", "x"), fileE("out/.wh..wh..opq", ""),
		symlinkE("direct", victim), fileE("direct", "overwritten")))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(victim); string(got) != "safe" {
		t.Fatalf("the host's file is %q", got)
	}
	if names, _ := os.ReadDir(filepath.Dir(victim)); len(names) != 1 {
		t.Fatalf("the host's directory has %v", names)
	}
	if got, _ := describe(s, filepath.Join(dir, victim)); got != "whiteout" {
		t.Fatalf("within the layer: %s", got)
	}
}

func TestDirectoriesBeyondTheOpenOnes(t *testing.T) {
	var entries []entry
	for i := range 3 * maxOpen {
		entries = append(entries, dirE(fmt.Sprintf("d%d/e/f", i)))
	}
	for i := range 3 * maxOpen {
		entries = append(entries, fileE(fmt.Sprintf("d%d/e/f/g", i*7%(3*maxOpen)), "x"), linkE(fmt.Sprintf("d%d/h", i*5%(3*maxOpen)), fmt.Sprintf("d%d/e/f/g", i*7%(3*maxOpen))))
	}
	s := open(t)
	dir, err := apply(t, s, tarOf(t, entries...))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(listing(t, s, dir)); got != 3*maxOpen*5 {
		t.Fatalf("%d files", got)
	}
}

func TestNoDescriptorsAreLeft(t *testing.T) {
	s := open(t)
	count := func() int { e, _ := os.ReadDir("/proc/self/fd"); return len(e) }
	before := count()
	for _, data := range [][]byte{tarOf(t, fileE("a/b/c", "x")), tarOf(t, fileE("a/b/c", "x"), fileE("../x", "")), nil} {
		apply(t, s, data)
	}
	if after := count(); after != before {
		t.Fatalf("%d descriptors before, %d after", before, after)
	}
}

func TestStagedTakesOneApply(t *testing.T) {
	st := stage(t, open(t))
	if _, err := st.Commit("", "sha256:"+oci.Digest(strings.Repeat("0", 64))); !fail.Is(err, fail.Conflict) {
		t.Fatal(err)
	}
	if _, _, err := st.Apply(t.Context(), bytes.NewReader(tarOf(t))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := st.Apply(t.Context(), bytes.NewReader(tarOf(t))); !fail.Is(err, fail.Conflict) {
		t.Fatal(err)
	}
}

func TestAttributesOfDirectoriesDoNotFillTheMemory(t *testing.T) {
	var entries []entry
	for i := range maxDirXattrs/archive.MaxXattr + 1 {
		entries = append(entries, xattrE(dirE(fmt.Sprint(i)), "user.x", strings.Repeat("x", archive.MaxXattr)))
	}
	if _, err := apply(t, open(t), tarOf(t, entries...)); !fail.Is(err, fail.Invalid) {
		t.Fatal(err)
	}
}
