package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
)

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func open(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// entry is one of a tar; regular ones hold their own name.
type entry struct {
	name string
	kind byte
	link string
}

func tarOf(t testing.TB, entries ...entry) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: 0o755, Uid: os.Getuid(), Gid: os.Getgid(), ModTime: time.Unix(1e9, 5)}
		if e.kind == tar.TypeReg {
			h.Size = int64(len(e.name))
		}
		must(t, w.WriteHeader(h))
		if e.kind == tar.TypeReg {
			_, err := io.WriteString(w, e.name)
			must(t, err)
		}
	}
	must(t, w.Close())
	return &b
}

const (
	file = tar.TypeReg
	dir  = tar.TypeDir
	sym  = tar.TypeSymlink
	hard = tar.TypeLink
)

// listing names what is below a directory; of files it shows the content.
func listing(t testing.TB, root string) string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, _ := filepath.Rel(root, path)
		switch {
		case d.IsDir():
			name += "/"
		case d.Type()&os.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			name += "->" + to
		case d.Type().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name += "=" + string(data)
		}
		out = append(out, name)
		return nil
	}))
	return strings.Join(out, " ")
}

func TestUnpackIntoATreeThatIsThere(t *testing.T) {
	for name, c := range map[string]struct {
		entries []entry
		options UnpackOptions
		want    string // within root/in; what is beside stays
		class   fail.Class
		fails   bool
	}{
		"files and directories":                     {entries: []entry{{"d/", dir, ""}, {"d/f", file, ""}}, want: "d/ d/f=d/f old/ old/f=x way->/other"},
		"parents that no entry tells of":            {entries: []entry{{"a/b/c", file, ""}}, want: "a/ a/b/ a/b/c=a/b/c old/ old/f=x way->/other"},
		"a directory is merged":                     {entries: []entry{{"old/", dir, ""}, {"old/g", file, ""}}, want: "old/ old/f=x old/g=old/g way->/other"},
		"a file replaces a directory":               {entries: []entry{{"old", file, ""}}, want: "old=old way->/other"},
		"but not if kinds are kept":                 {entries: []entry{{"old", file, ""}}, options: UnpackOptions{KeepKinds: true}, fails: true, class: fail.Invalid},
		"nor a directory a file":                    {entries: []entry{{"old/f/", dir, ""}}, options: UnpackOptions{KeepKinds: true}, fails: true, class: fail.Invalid},
		"a way through a link stays in the root":    {entries: []entry{{"way/f", file, ""}}, want: "old/ old/f=x way->/other"},
		"but not if confined":                       {entries: []entry{{"way/f", file, ""}}, options: UnpackOptions{Confined: true}, fails: true, class: fail.Invalid},
		"a link that replaces a link":               {entries: []entry{{"way", sym, "/etc"}}, want: "old/ old/f=x way->/etc"},
		"a name that climbs":                        {entries: []entry{{"../x", file, ""}}, fails: true, class: fail.Invalid},
		"a name that climbs and comes back":         {entries: []entry{{"a/../../in/x", file, ""}}, fails: true, class: fail.Invalid},
		"dots within":                               {entries: []entry{{"./old/../new", file, ""}}, want: "new=./old/../new old/ old/f=x way->/other"},
		"an absolute name":                          {entries: []entry{{"/abs", file, ""}}, want: "abs=/abs old/ old/f=x way->/other"},
		"names like whiteouts are names":            {entries: []entry{{".wh.old", file, ""}, {".wh..wh..opq", file, ""}}, want: ".wh..wh..opq=.wh..wh..opq .wh.old=.wh.old old/ old/f=x way->/other"},
		"a hard link":                               {entries: []entry{{"f", file, ""}, {"g", hard, "f"}}, want: "f=f g=f old/ old/f=x way->/other"},
		"a hard link over itself":                   {entries: []entry{{"f", file, ""}, {"g", hard, "f"}, {"g", hard, "f"}, {"f", hard, "g"}}, want: "f=f g=f old/ old/f=x way->/other"},
		"a hard link that climbs":                   {entries: []entry{{"g", hard, "../beside"}}, fails: true, class: fail.Invalid},
		"a hard link to nothing":                    {entries: []entry{{"g", hard, "nothing"}}, fails: true, class: fail.Invalid},
		"a file in the place of the directory":      {entries: []entry{{".", file, ""}}, fails: true, class: fail.Invalid},
		"the directory itself":                      {entries: []entry{{"./", dir, ""}}, want: "old/ old/f=x way->/other"},
		"a file on the way":                         {entries: []entry{{"old/f/x", file, ""}}, fails: true, class: fail.Invalid},
		"a symlink without a target":                {entries: []entry{{"s", sym, ""}}, fails: true, class: fail.Invalid},
		"a FIFO":                                    {entries: []entry{{"p", tar.TypeFifo, ""}}, want: "old/ old/f=x p way->/other"},
		"another name for the top":                  {entries: []entry{{"d/", dir, ""}, {"d/f", file, ""}, {"d/g", hard, "d/f"}}, options: UnpackOptions{Top: "d", As: "e"}, want: "e/ e/f=d/f e/g=d/f old/ old/f=x way->/other"},
		"a name for what has none":                  {entries: []entry{{"./", dir, ""}, {"./f", file, ""}}, options: UnpackOptions{Top: ".", As: "e"}, want: "e/ e/f=./f old/ old/f=x way->/other"},
		"a name that only begins like the top one":  {entries: []entry{{"dd", file, ""}}, options: UnpackOptions{Top: "d", As: "e"}, want: "dd=dd old/ old/f=x way->/other"},
		"a stranger's file beside the top":          {entries: []entry{{"d", file, ""}, {".bashrc", file, ""}}, options: UnpackOptions{Confined: true, Top: "d"}, fails: true, class: fail.Invalid},
		"a stranger's file beside the renamed top":  {entries: []entry{{"dd", file, ""}}, options: UnpackOptions{Confined: true, Top: "d", As: "e"}, fails: true, class: fail.Invalid},
		"a stranger's file in the new name's place": {entries: []entry{{"e/f", file, ""}}, options: UnpackOptions{Confined: true, Top: "d", As: "e"}, fails: true, class: fail.Invalid},
		"a stranger's word on what is above":        {entries: []entry{{"./", dir, ""}}, options: UnpackOptions{Confined: true, Top: "d"}, fails: true, class: fail.Invalid},
		"a stranger's link to what is beside":       {entries: []entry{{"d/", dir, ""}, {"d/f", hard, "old/f"}}, options: UnpackOptions{Confined: true, Top: "d"}, fails: true, class: fail.Invalid},
		"a stranger's top that climbs":              {entries: []entry{{"d", file, ""}}, options: UnpackOptions{Confined: true, Top: "../in"}, fails: true, class: fail.Invalid},
		"a stranger's top, and what is below":       {entries: []entry{{"d/", dir, ""}, {"d/f", file, ""}, {"d/g", hard, "d/f"}}, options: UnpackOptions{Confined: true, Top: "d"}, want: "d/ d/f=d/f d/g=d/f old/ old/f=x way->/other"},
		"a stranger's content of a directory":       {entries: []entry{{"./", dir, ""}, {"f", file, ""}}, options: UnpackOptions{Confined: true, Top: "."}, want: "f=f old/ old/f=x way->/other"},
		"a long name":                               {entries: []entry{{strings.Repeat("n", 256), file, ""}}, fails: true, class: fail.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			root := filepath.Join(top, "root")
			must(t, os.MkdirAll(filepath.Join(root, "in/old"), 0o755), os.MkdirAll(filepath.Join(root, "other"), 0o755),
				os.WriteFile(filepath.Join(root, "in/old/f"), []byte("x"), 0o644), os.WriteFile(filepath.Join(root, "beside"), []byte("b"), 0o644),
				os.Symlink("/other", filepath.Join(root, "in/way")))
			err := Unpack(t.Context(), open(t, root), "/in", tarOf(t, c.entries...), c.options)
			if c.fails {
				if !fail.Is(err, c.class) {
					t.Errorf("error %v, want class %v", err, c.class)
				}
			} else if err != nil {
				t.Fatal(err)
			} else if got := listing(t, filepath.Join(root, "in")); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if name == "a way through a link stays in the root" {
				if got := listing(t, filepath.Join(root, "other")); got != "f=way/f" {
					t.Error(got)
				}
			}
			if got := listing(t, top); strings.Contains(got, "escape") || !strings.Contains(got, "root/beside=b") || strings.Count(got, "root/") < 3 {
				t.Error(got)
			}
		})
	}
}

func TestWhatIsPackedComesBackAsItWas(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("owners, devices and capabilities need root")
	}
	from, to := t.TempDir(), t.TempDir()
	deep := filepath.Join(from, "d", strings.Repeat("n", 200), strings.Repeat("m", 255))
	must(t, os.MkdirAll(deep, 0o755))
	sparse, err := os.Create(filepath.Join(from, "sparse"))
	must(t, err)
	_, err = sparse.WriteAt([]byte("end"), 40<<20)
	must(t, err, sparse.Close())
	plain := filepath.Join(from, "d/plain")
	must(t, os.WriteFile(plain, []byte("content"), 0o600), os.Link(plain, filepath.Join(deep, "hard")),
		unix.Chown(plain, 100000, 4000000000), unix.Chmod(plain, 0o6751),
		unix.Setxattr(plain, "user.note", []byte("a\x00b"), 0), unix.Setxattr(plain, "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0),
		os.Symlink("../nowhere\xff", filepath.Join(from, "d/link")), os.Lchown(filepath.Join(from, "d/link"), 7, 8),
		unix.Mkfifo(filepath.Join(from, "d/fifo"), 0o640), unix.Mknod(filepath.Join(from, "d/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(filepath.Join(from, "d/block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer unix.Close(socket)
	must(t, os.Chdir(from))
	must(t, unix.Bind(socket, &unix.SockaddrUnix{Name: "sock"}), os.Chdir("/"))
	for n, p := range []string{plain, filepath.Join(from, "d/link"), filepath.Join(from, "d/fifo"), filepath.Join(from, "d"), deep} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 1}, {Sec: int64(1e9 * (n - 1)), Nsec: 123456789}}, unix.AT_SYMLINK_NOFOLLOW))
	}
	var packed bytes.Buffer
	must(t, Pack(t.Context(), open(t, from), "top", &packed))
	if packed.Len() < 40<<20 || packed.Len() > 41<<20 {
		t.Errorf("the tar has %d bytes", packed.Len())
	}
	must(t, Unpack(t.Context(), open(t, to), "/", &packed, UnpackOptions{}))
	describe := func(root string) (out []string) {
		must(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.Name() == "sock" {
				return err
			}
			var st unix.Stat_t
			must(t, unix.Lstat(path, &st))
			f := open(t, path)
			attrs, err := ReadXattrs(int(f.Fd()))
			must(t, err)
			slices.SortFunc(attrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
			name, _ := filepath.Rel(root, path)
			if d.IsDir() {
				st.Size = 0
			}
			line := fmt.Sprintf("%s %o %d:%d %d %d %v %x", name, st.Mode, st.Uid, st.Gid, st.Size, st.Rdev, attrs, st.Nlink)
			if name != "." {
				line += fmt.Sprint(st.Mtim)
			}
			out = append(out, line)
			return nil
		}))
		return out
	}
	want, got := describe(from), describe(filepath.Join(to, "top"))
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i] != got[i] {
			t.Fatalf("got  %v\nwant %v", got[min(i, len(got)-1)], want[min(i, len(want)-1)])
		}
	}
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(to, "top/sparse"), &st))
	if st.Blocks*512 > 1<<20 {
		t.Errorf("the sparse file takes %d bytes", st.Blocks*512)
	}
}

func TestPathsAreResolvedAsDockerDoes(t *testing.T) {
	root := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(root, "d/e"), 0o755), os.WriteFile(filepath.Join(root, "d/f"), nil, 0o644),
		os.Symlink("/d", filepath.Join(root, "abs")), os.Symlink("../../../../etc", filepath.Join(root, "up")), os.Symlink("nothing", filepath.Join(root, "dangling")),
		os.Symlink("loop", filepath.Join(root, "loop")), os.Symlink("/proc/self/root/etc", filepath.Join(root, "magic")))
	at := open(t, root)
	for _, c := range []struct {
		path, name, kind string // kind: of the file that is found; empty: nothing is
	}{
		{"/", "/", "d"}, {".", ".", "d"}, {"/.", ".", "d"}, {"d", "d", "d"}, {"/d/", "d", "d"}, {"/d/.", ".", "d"}, {"/d/./", ".", "d"}, {"/d//", "d", "d"},
		{"/d/f", "f", "-"}, {"/d/f/", "f", ""}, {"/d/f/.", ".", ""}, {"/abs", "abs", "L"}, {"/abs/", "abs", "d"}, {"/abs/f", "f", "-"}, {"/abs/.", ".", "d"},
		{"/up", "up", "L"}, {"/up/", "up", ""}, {"/up/passwd", "passwd", ""}, {"/../../d", "d", "d"}, {"/d/..", "/", "d"}, {"/abs/../d/f", "f", "-"},
		{"/loop", "loop", "L"}, {"/loop/", "loop", ""}, {"/magic/passwd", "passwd", ""}, {"/dangling", "dangling", "L"}, {"/none", "none", ""},
	} {
		f, name, err := Open(at, c.path)
		kind := ""
		if err == nil {
			info, err := f.Stat()
			must(t, err, f.Close())
			kind = info.Mode().String()[:1]
		}
		if name != c.name || kind != c.kind {
			t.Errorf("%q: %q of kind %q (%v), want %q of kind %q", c.path, name, kind, err, c.name, c.kind)
		}
	}
	for path, want := range map[string]string{
		"/abs": "/d", "/abs/e": "/d/e", "/up": "/etc", "/dangling": "/nothing", "/none/x": "/none/x", "/abs/../abs/f": "/d/f", "/../..": "/", "/loop": "", "/magic": "/proc/self/root/etc",
	} {
		got, err := Target(at, path)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%s leads to %q (%v), want %q", path, got, err, want)
		}
	}
}

func TestAClientThatLeavesEndsPackingAndUnpacking(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), make([]byte, 8<<20), 0o600))
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the client has left")
	cancel(why)
	if err := Pack(ctx, open(t, dir), "x", io.Discard); !errors.Is(err, why) {
		t.Error(err)
	}
	if err := Unpack(ctx, open(t, dir), "/", tarOf(t, entry{"a", file, ""}), UnpackOptions{}); !errors.Is(err, why) {
		t.Error(err)
	}
}

func TestFilesThatTheKernelMakesUpHaveTheirContent(t *testing.T) {
	var b bytes.Buffer
	must(t, Pack(t.Context(), open(t, "/proc/version"), "version", &b))
	r := tar.NewReader(&b)
	h, err := r.Next()
	must(t, err)
	data, err := io.ReadAll(r)
	must(t, err)
	want, err := os.ReadFile("/proc/version")
	must(t, err)
	if h.Name != "version" || !bytes.Equal(data, want) {
		t.Errorf("%s: %q", h.Name, data)
	}
	// A process that ends meanwhile, and files that refuse, break nothing.
	must(t, Pack(t.Context(), open(t, fmt.Sprint("/proc/", os.Getpid())), "self", &limited{n: 1 << 30}))
}

// limited fails if somebody writes without end.
type limited struct{ n int }

func (l *limited) Write(p []byte) (int, error) {
	if l.n -= len(p); l.n < 0 {
		return 0, errors.New("too much")
	}
	return len(p), nil
}

func TestAPlainCopyLendsNobodysPower(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "d/", Typeflag: dir, Mode: 0o7755},
		{Name: "d/evil", Typeflag: file, Mode: 0o6755, PAXRecords: map[string]string{PAXXattr + "user.note": "kept", PAXXattr + "trusted.x": "gone",
			PAXXattr + "security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}},
		{Name: "d/fifo", Typeflag: tar.TypeFifo, Mode: 0o6600},
		{Name: "d/disk", Typeflag: tar.TypeBlock, Mode: 0o666, Devmajor: 8},
		{Name: "d/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
	} {
		h.ModTime = time.Unix(1e9, 0)
		must(t, w.WriteHeader(h))
	}
	must(t, w.Close())
	to := t.TempDir()
	var skipped []string
	must(t, Unpack(t.Context(), open(t, to), "/", &b, UnpackOptions{Plain: true, Top: "d", As: "e", Owner: &Owner{uint32(os.Getuid()), uint32(os.Getgid())},
		Skipped: func(name string) { skipped = append(skipped, name) }}))
	if got := listing(t, to); got != "e/ e/evil= e/fifo" || fmt.Sprint(skipped) != "[e/disk e/null]" {
		t.Errorf("made %s, skipped %s", got, skipped)
	}
	for name, want := range map[string]uint32{"e": 0o3755, "e/evil": 0o755, "e/fifo": 0o600} {
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(to, name), &st))
		if st.Mode&0o7777 != want {
			t.Errorf("%s has mode %o, want %o", name, st.Mode&0o7777, want)
		}
	}
	attrs, err := ReadXattrs(int(open(t, filepath.Join(to, "e/evil")).Fd()))
	must(t, err)
	for _, x := range attrs {
		if x.Name == "security.capability" || x.Name == "trusted.x" {
			t.Error("the file has", x.Name)
		}
	}
}

// nest makes directories called name in one another.
func nest(t *testing.T, top, name string, depth int) {
	t.Helper()
	at, err := unix.Open(top, unix.O_PATH|unix.O_CLOEXEC, 0)
	must(t, err)
	for range depth {
		must(t, unix.Mkdirat(at, name, 0o755))
		next, err := unix.Openat(at, name, unix.O_PATH|unix.O_CLOEXEC, 0)
		must(t, err, unix.Close(at))
		at = next
	}
	must(t, unix.Close(at))
}

func TestDeepDirectoriesAreReplacedWithFewDescriptors(t *testing.T) {
	root := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(root, "old/x/y"), 0o755), os.WriteFile(filepath.Join(root, "old/x/f"), nil, 0o644), os.Symlink("/", filepath.Join(root, "old/x/y/s")))
	nest(t, filepath.Join(root, "old"), "n", 1000)
	at := open(t, root)
	var was unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &was))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 200, Max: was.Max}))
	err := Unpack(t.Context(), at, "/", tarOf(t, entry{"old", file, ""}), UnpackOptions{})
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &was), err)
	if got := listing(t, root); got != "old=old" {
		t.Error(got)
	}
}

func TestWhatIsNestedBeyondAnyPathIsNotReplaced(t *testing.T) {
	root := t.TempDir()
	must(t, os.Mkdir(filepath.Join(root, "old"), 0o755))
	nest(t, filepath.Join(root, "old"), strings.Repeat("n", 255), 20)
	if err := Unpack(t.Context(), open(t, root), "/", tarOf(t, entry{"old", file, ""}), UnpackOptions{}); !fail.Is(err, fail.Invalid) {
		t.Error(err)
	}
}

func TestTheNamesOfManyDirectoriesHaveABound(t *testing.T) {
	top := t.TempDir()
	u := &unpacker{ctx: t.Context(), root: open(t, top), dir: "/", named: maxDatedNames - len("first/second/")}
	defer u.close()
	err := u.entries(tarOf(t, entry{"first/", dir, ""}, entry{"first/second/third/", dir, ""}))
	if got := listing(t, top); !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "third") || got[:6] != "first/" {
		t.Error(err, got)
	}
}

func TestAFileThatHasNoMoreToTellIsNotWaitedFor(t *testing.T) {
	ends := make([]int, 2)
	must(t, unix.Pipe2(ends, unix.O_CLOEXEC|unix.O_NONBLOCK))
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	_, err := unix.Write(ends[1], []byte("so far"))
	must(t, err)
	var b bytes.Buffer
	must(t, NewWriter(t.Context(), &b).unsized(plainReader(ends[0]), &tar.Header{Name: "f", Typeflag: file}))
	if !strings.Contains(b.String(), "so far") {
		t.Errorf("%q", b.String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := NewWriter(ctx, io.Discard).unsized(plainReader(ends[0]), &tar.Header{Name: "f", Typeflag: file}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestTheKernelsLogIsNotRead(t *testing.T) {
	log := open(t, "/proc/kmsg")
	fd, err := unix.Open("/proc/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("needs CAP_SYSLOG:", err)
	}
	defer unix.Close(fd)
	for _, name := range []string{"kmsg", "under-another-name"} {
		var b bytes.Buffer
		must(t, Pack(t.Context(), log, name, &b))
		h, err := tar.NewReader(&b).Next()
		must(t, err)
		if h.Name != name || h.Size != 0 {
			t.Errorf("%s has %d bytes", h.Name, h.Size)
		}
	}
}

func TestAPipeOfTheKernelIsNotRead(t *testing.T) {
	ends := make([]int, 2)
	must(t, unix.Pipe2(ends, unix.O_CLOEXEC))
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	version, err := os.Open("/proc/version")
	must(t, err)
	defer version.Close()
	if !consumed(ends[0], unix.TRACEFS_MAGIC, &File{Path: "trace_pipe"}) || consumed(int(version.Fd()), unix.PROC_SUPER_MAGIC, &File{Path: "version"}) {
		t.Error("what can seek is read, and what cannot is not")
	}
}
