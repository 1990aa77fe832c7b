package runtime

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// vessel is a container's root and a volume.
type vessel struct {
	t                *testing.T
	root, home, data string
}

func newVessel(t *testing.T) *vessel {
	t.Helper()
	dir := t.TempDir()
	v := &vessel{t, filepath.Join(dir, "root"), filepath.Join(dir, "volume"), filepath.Join(dir, "volume", "_data")}
	for _, d := range []string{v.root + "/data/sub", v.data} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"data/f": "hello", "data/sub/g": "deep", "file": ""} {
		if err := os.WriteFile(filepath.Join(v.root, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(v.root+"/data/f", v.root+"/data/sub/same"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(v.root+"/data", 0o711); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *vessel) fill(ctx context.Context, dest string, staged bool) error {
	v.t.Helper()
	var files [3]*os.File
	for i, path := range []string{v.root, v.data, v.home} {
		f, err := os.Open(path)
		if err != nil {
			v.t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	return Fill(ctx, files[0], dest, files[1], files[2], Filling{Staged: staged, Flushed: true})
}

func (v *vessel) check(what string) {
	v.t.Helper()
	for name, want := range map[string]string{"f": "hello", "sub/g": "deep", "sub/same": "hello"} {
		if got, err := os.ReadFile(filepath.Join(v.data, name)); err != nil || string(got) != want {
			v.t.Errorf("%s: %s holds %q, %v", what, name, got, err)
		}
	}
	if info, err := os.Stat(v.data); err != nil || info.Mode().Perm() != 0o711 {
		v.t.Errorf("%s: mode %v, %v", what, info.Mode(), err)
	}
	var a, b unix.Stat_t
	if unix.Stat(v.data+"/f", &a) != nil || unix.Stat(v.data+"/sub/same", &b) != nil || a.Ino != b.Ino {
		v.t.Errorf("%s: a hard link became two files", what)
	}
	if got := entries(v.t, v.home); !slices.Equal(got, []string{"_data"}) {
		v.t.Errorf("%s: beside the data: %v", what, got)
	}
}

func entries(t *testing.T, dir string) (out []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}

func TestAnEmptyVolumeIsFilled(t *testing.T) {
	for _, staged := range []bool{true, false} {
		v := newVessel(t)
		if err := v.fill(t.Context(), "/data", staged); err != nil {
			t.Fatal(err)
		}
		v.check("filled")
	}
}

func TestAVolumeWithSomethingInItIsLeftAlone(t *testing.T) {
	v := newVessel(t)
	if err := os.WriteFile(v.data+"/own", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := v.fill(t.Context(), "/data", true); err != nil {
		t.Fatal(err)
	}
	if got := entries(t, v.data); !slices.Equal(got, []string{"own"}) {
		t.Errorf("it holds %v", got)
	}
}

func TestACutOffFillIsDoneAnewOrFinished(t *testing.T) {
	v := newVessel(t)
	if err := os.MkdirAll(v.home+"/filling/half", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := v.fill(t.Context(), "/data", true); err != nil {
		t.Fatal(err)
	}
	v.check("done anew")

	// One that was moving its entries; somebody has written one of them meanwhile.
	v = newVessel(t)
	if err := os.MkdirAll(v.home+"/filled/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"filled/sub/g": "deep", "filled/f": "old", "_data/f": "new"} {
		if err := os.WriteFile(filepath.Join(v.home, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.fill(t.Context(), "/nothing", true); err != nil {
		t.Fatal(err)
	}
	f, _ := os.ReadFile(v.data + "/f")
	g, _ := os.ReadFile(v.data + "/sub/g")
	if string(f) != "new" || string(g) != "deep" || len(entries(t, v.home)) != 1 {
		t.Errorf("f %q, g %q, beside %v", f, g, entries(t, v.home))
	}
}

func TestLinksOfTheRootDoNotLeadAFillOut(t *testing.T) {
	v := newVessel(t)
	outside := filepath.Join(filepath.Dir(v.root), "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(outside+"/secret", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"abs": outside, "up": "../outside", "in": "/data"} {
		if err := os.Symlink(to, filepath.Join(v.root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, dest := range []string{"/abs", "/up", "/abs/x"} {
		if err := v.fill(t.Context(), dest, true); err != nil || len(entries(t, v.data)) != 0 {
			t.Errorf("%s: %v, the volume holds %v", dest, err, entries(t, v.data))
		}
	}
	if err := v.fill(t.Context(), "/in", true); err != nil {
		t.Fatal(err)
	}
	v.check("through a link that stays inside")
}

func TestAVolumeDoesNotCoverAFile(t *testing.T) {
	v := newVessel(t)
	if err := v.fill(t.Context(), "/file", true); !fail.Is(err, fail.Invalid) {
		t.Errorf("%v", err)
	}
}

func TestAFillWaitsForAnotherOneUntilItsContextEnds(t *testing.T) {
	v := newVessel(t)
	home, err := os.Open(v.home)
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	if err := unix.Flock(int(home.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- v.fill(ctx, "/data", true) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := unix.Flock(int(home.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := v.fill(t.Context(), "/data", true); err != nil {
		t.Fatal(err)
	}
	v.check("afterwards")
}
