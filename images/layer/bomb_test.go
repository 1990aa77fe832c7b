package layer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"berth/archive"
	"berth/fail"
)

// tarStream writes a tar while it is read. It never lies in memory.
func tarStream(t *testing.T, write func(w *tar.Writer) error) io.Reader {
	t.Helper()
	r, w := io.Pipe()
	t.Cleanup(func() { r.Close() })
	go func() {
		tw := tar.NewWriter(w)
		err := write(tw)
		if err == nil {
			err = tw.Close()
		}
		w.CloseWithError(err)
	}()
	return r
}

// peakHeap runs f and tells by how much the heap grew, at most.
func peakHeap(f func()) int64 {
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	done, most := make(chan struct{}), make(chan int64)
	go func() {
		peak, next := int64(0), time.NewTimer(0)
		defer next.Stop()
		for {
			select {
			case <-done:
				most <- peak
				return
			case <-next.C:
				begin := time.Now()
				runtime.GC()
				runtime.ReadMemStats(&now)
				peak = max(peak, int64(now.HeapAlloc)-int64(before.HeapAlloc))
				next.Reset(max(100*time.Millisecond, 10*time.Since(begin))) // on slow machines f shall get on too
			}
		}
	}()
	f()
	close(done)
	return <-most
}

func TestManyEntriesDoNotFillTheMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("100,000 files")
	}
	s := open(t)
	const n = 100_000
	st := stage(t, s)
	peak := peakHeap(func() {
		_, _, err := st.Apply(t.Context(), tarStream(t, func(w *tar.Writer) error {
			for i := range n {
				h := entryOf(entry{Typeflag: tar.TypeReg, Name: fmt.Sprintf("one/directory/of/many/files/%d", i)})
				if err := w.WriteHeader(&h); err != nil {
					return err
				}
			}
			return nil
		}))
		must(t, err)
	})
	if peak > 24<<20 {
		t.Errorf("took %d MiB", peak>>20)
	}
	names, err := os.ReadDir(filepath.Join(st.dir, "diff/one/directory/of/many/files"))
	if len(names) != n || err != nil {
		t.Fatal(len(names), err)
	}
}

func TestDirectoriesThatATarOnlyImpliesDoNotFillTheMemory(t *testing.T) {
	defer func(most int) { maxImplied = most }(maxImplied)
	maxImplied = 1 << 20
	s := open(t)
	before := listing(t, s, filepath.Dir(s.root))
	deep := strings.Repeat(strings.Repeat("x", 200)+"/", 17)
	tar := tarStream(t, func(w *tar.Writer) error {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "s", Linkname: deep}); err != nil {
			return err
		}
		for i := range 2 { // each makes 300 directories with a path of some 4,000 bytes
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("s/%d/%sf", i, strings.Repeat("d/", 300))}); err != nil {
				return err
			}
		}
		return nil
	})
	st := stage(t, s)
	_, _, err := st.Apply(t.Context(), tar)
	if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "directories that have no entry") || len(err.Error()) > 600 {
		t.Errorf("%.1000v", err)
	}
	must(t, st.Discard())
	if d := cmp.Diff(before, listing(t, s, filepath.Dir(s.root))); d != "" {
		t.Error(d)
	}
}

func TestAGzipBombOfZerosTakesNeitherMemoryNorDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("half a gibibyte")
	}
	const size = 512 << 20
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	block := make([]byte, 1<<20)
	w := tar.NewWriter(z)
	h := entryOf(entry{Typeflag: tar.TypeReg, Name: "zeros", Size: size})
	must(t, w.WriteHeader(&h))
	for range size / len(block) {
		_, err := w.Write(block)
		must(t, err)
	}
	must(t, w.Close())
	for range 64 { // and behind the tar's end
		_, err := z.Write(block)
		must(t, err)
	}
	must(t, z.Close())
	if packed.Len() > 4<<20 {
		t.Fatal("not much of a bomb:", packed.Len())
	}
	s := open(t)
	st := stage(t, s)
	peak := peakHeap(func() {
		r, err := gzip.NewReader(&packed)
		must(t, err)
		_, n, err := st.Apply(t.Context(), r)
		if err != nil || n != size {
			t.Fatal(n, err)
		}
	})
	if peak > 24<<20 {
		t.Errorf("took %d MiB", peak>>20)
	}
	var stat unix.Stat_t
	must(t, unix.Stat(filepath.Join(st.dir, "diff/zeros"), &stat))
	if stat.Size != size || stat.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes, %d on disk", stat.Size, stat.Blocks*512)
	}
}

func TestLongRunsOfZerosBecomeHolesWithoutChangingTheContent(t *testing.T) {
	s := open(t)
	data, zero := bytes.Repeat([]byte("data"), 50<<10), make([]byte, 300<<10)
	join := func(parts ...[]byte) string { return string(bytes.Join(parts, nil)) }
	for name, content := range map[string]string{
		"between": join(data, zero, data), "at the end": join(data, zero), "at the start": join(zero, data), "nothing else": join(zero, zero, zero, zero, zero),
		"odd": join(data[:70001], zero, data[:3], zero, zero, zero, zero, data[:1]), "one byte more": join(zero, zero, zero, zero, []byte{0}),
	} {
		dir, err := apply(t, s, tarOf(t, fileE("f", content)))
		must(t, err)
		got, err := os.ReadFile(filepath.Join(dir, "f"))
		if err != nil || string(got) != content {
			t.Errorf("%s: %v, %d bytes, want %d", name, err, len(got), len(content))
		}
	}
}

func TestAFileOfEightGibibytes(t *testing.T) {
	gnutar, err := exec.LookPath("tar")
	if err != nil || testing.Short() {
		t.Skip("takes long, or no tar program")
	}
	src := t.TempDir()
	f, err := os.Create(filepath.Join(src, "large"))
	must(t, err)
	_, err = f.WriteAt([]byte("end"), 8<<30)
	must(t, err, f.Close())
	data, err := exec.Command(gnutar, "-C", src, "--sparse", "--format=pax", "-cf", "-", "large").Output()
	must(t, err)
	dir, err := apply(t, open(t), data)
	must(t, err)
	var stat unix.Stat_t
	must(t, unix.Stat(filepath.Join(dir, "large"), &stat))
	end := make([]byte, 3)
	got, err := os.Open(filepath.Join(dir, "large"))
	must(t, err)
	defer got.Close()
	_, err = got.ReadAt(end, 8<<30)
	if err != nil || stat.Size != 8<<30+3 || stat.Blocks*512 > 1<<20 || string(end) != "end" {
		t.Fatal(err, stat.Size, stat.Blocks*512, string(end))
	}
}

func TestADeviceBombIsMadeAndRemoved(t *testing.T) {
	needRoot(t)
	var entries []entry
	for i := range 3000 {
		entries = append(entries, entry{Typeflag: tar.TypeBlock, Name: fmt.Sprintf("dev/%d", i), Devmajor: 8, Devminor: int64(i), Mode: 0o666})
	}
	s := open(t)
	chain := commit(t, s, "", entries...)
	must(t, s.Remove(chain))
	if left := leftovers(t, s); left != nil {
		t.Fatal(left)
	}
}

// rawHeader is a ustar header with a checksum, however wrong the rest is.
func rawHeader(kind byte, name, size string) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00"+size)
	copy(b[136:], "00000000000\x00        ")
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func TestHeaderBombsAreRefused(t *testing.T) {
	huge := 64 << 20
	record := func(key, value string) []byte {
		n := len(key) + len(value) + 3
		for size := len(fmt.Sprint(n)) + n; ; size++ {
			if s := fmt.Sprintf("%d %s=%s\n", size, key, value); len(s) == size {
				return []byte(s)
			}
		}
	}
	pad := func(b []byte) []byte { return append(b, make([]byte, (512-len(b)%512)%512)...) }
	extended := func(body []byte) []byte {
		out := append(rawHeader('x', "x", fmt.Sprintf("%011o\x00", len(body))), pad(body)...)
		return append(append(out, rawHeader('0', "f", "00000000000\x00")...), make([]byte, 1024)...)
	}
	s := open(t)
	before := listing(t, s, filepath.Dir(s.root))
	for name, data := range map[string][]byte{
		"a PAX header of 64 MiB":        extended(record("path", strings.Repeat("a/", huge/2))),
		"a PAX comment of 64 MiB":       extended(record("comment", strings.Repeat("a", huge))),
		"a long name of 64 MiB":         append(rawHeader('L', "x", fmt.Sprintf("%011o\x00", huge)), make([]byte, huge)...),
		"a PAX header without an end":   extended([]byte("99999999999999999999 path=x\n")),
		"a negative record":             extended([]byte("-7 path=x\n")),
		"a name with a NUL":             extended(record("path", "a\x00/../../etc/passwd")),
		"a link with a NUL":             append(append(append(rawHeader('x', "x", fmt.Sprintf("%011o\x00", len(record("linkpath", "a\x00b")))), pad(record("linkpath", "a\x00b"))...), rawHeader('2', "f", "00000000000\x00")...), make([]byte, 1024)...),
		"a size beyond the end":         append(rawHeader('0', "f", "77777777777\x00"), make([]byte, 4096)...),
		"a size of 2^62":                extended(record("size", fmt.Sprint(int64(1)<<62))),
		"a negative size":               extended(record("size", "-1")),
		"a sparse map that is no map":   extended(append(record("GNU.sparse.major", "0"), append(record("GNU.sparse.minor", "1"), append(record("GNU.sparse.map", "9,1,3,7,1"), record("GNU.sparse.size", "12")...)...)...)),
		"a sparse file of exbibytes":    extended(append(record("GNU.sparse.major", "0"), append(record("GNU.sparse.minor", "1"), append(record("GNU.sparse.map", "9223372036854775000,0"), append(record("GNU.sparse.numblocks", "1"), record("GNU.sparse.size", "9223372036854775000")...)...)...)...)),
		"an owner beyond all":           extended(record("uid", "18446744073709551615")),
		"an attribute larger than any":  extended(record("SCHILY.xattr.user.x", strings.Repeat("v", archive.MaxXattr+1))),
		"an attribute without a name":   extended(record("SCHILY.xattr.", "v")),
		"a header of no tar whatsoever": bytes.Repeat([]byte("no tar"), 1000),
	} {
		st := stage(t, s)
		_, _, err := st.Apply(t.Context(), bytes.NewReader(data))
		if err == nil {
			t.Errorf("%s: no error", name)
		} else if !fail.Is(err, fail.Invalid) || strings.Count(err.Error(), "\n") > 0 || len(err.Error()) > 600 {
			t.Errorf("%s: class %v: %.700v", name, fail.Of(err), err)
		}
		must(t, st.Discard())
		if d := cmp.Diff(before, listing(t, s, filepath.Dir(s.root))); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}
