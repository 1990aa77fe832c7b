package archive

import (
	"archive/tar"
	"bytes"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"berth/fail"
)

// FuzzUnpack unpacks whatever comes: it may fail, but what is beside the directory stays as it was.
func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(f, entry{"d/", dir, ""}, entry{"d/f", file, ""}, entry{"d/l", hard, "d/f"}, entry{"d/s", sym, "../../x"}, entry{"d/s/y", file, ""}).Bytes(), true)
	f.Add(tarOf(f, entry{"../x", file, ""}).Bytes(), false)
	f.Add(tarOf(f, entry{"s", sym, "/"}, entry{"s/beside", file, ""}, entry{"p", tar.TypeFifo, ""}).Bytes(), false)
	f.Add([]byte("no tar"), false)
	f.Fuzz(func(t *testing.T, data []byte, keep bool) {
		for r := tar.NewReader(bytes.NewReader(data)); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			if h.Size > 1<<20 {
				return // huge holes are slow to make; what they may cost is a matter of the layers' tests
			}
		}
		top := t.TempDir()
		root := filepath.Join(top, "root")
		must(t, os.MkdirAll(filepath.Join(root, "in"), 0o755), os.WriteFile(filepath.Join(top, "beside"), []byte("b"), 0o644))
		at, err := os.Open(root)
		must(t, err)
		defer at.Close()
		err = Unpack(t.Context(), at, "/in", bytes.NewReader(data), UnpackOptions{KeepKinds: keep, Unprivileged: true, Owner: &Owner{uint32(os.Getuid()), uint32(os.Getgid())}})
		if err != nil && fail.Of(err) == fail.NotFound {
			t.Errorf("the client would take it for a missing container: %v", err)
		}
		names, err := os.ReadDir(top)
		must(t, err)
		data, err = os.ReadFile(filepath.Join(top, "beside"))
		if len(names) != 2 || err != nil || string(data) != "b" {
			t.Errorf("beside the root: %v, %q, %v", names, data, err)
		}
	})
}

// FuzzResolvable looks that a path stays one of the container's and keeps its meaning.
func FuzzResolvable(f *testing.F) {
	for _, p := range []string{"/", ".", "/.", "a/..", "../../x", "/a/./", "a//b/", "", "\x00", "/a/.."} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		clean, name := Resolvable(p)
		if !strings.HasPrefix(clean, "/") || strings.Contains(clean, "/../") || strings.HasSuffix(clean, "/..") || name == "" || name == ".." || name != "/" && strings.Contains(name, "/") {
			t.Errorf("%q: %q, %q", p, clean, name)
		}
		if again, same := Resolvable(clean); again != clean || name != "." && same != name {
			t.Errorf("%q: %q, %q and then %q, %q", p, clean, name, again, same)
		}
		if strings.TrimSuffix(clean, "/") != strings.TrimSuffix(path.Join("/", p), "/") {
			t.Errorf("%q is not %q", clean, p)
		}
	})
}
