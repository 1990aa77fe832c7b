package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDetachedMountsCanBeChangedWithoutMountSetattr(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, dir + "/file"} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			f, err := CloneTree(path, true)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			change := func(recursive bool, attr unix.MountAttr) {
				t.Helper()
				if err := setOldMount(f, recursive, attr); err != nil {
					t.Fatal(err)
				}
			}
			change(false, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOEXEC})
			change(true, unix.MountAttr{Propagation: unix.MS_SLAVE})
			change(false, unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_NOEXEC, Attr_set: unix.MOUNT_ATTR_NODEV})
			var st unix.Statfs_t
			if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || st.Flags&(unix.ST_RDONLY|unix.ST_NODEV|unix.ST_NOEXEC) != unix.ST_RDONLY|unix.ST_NODEV {
				t.Errorf("flags %#x, %v", st.Flags, err)
			}
			for what, attr := range map[string]unix.MountAttr{"recursive": {Attr_set: unix.MOUNT_ATTR_RDONLY}, "mapped": {Attr_set: unix.MOUNT_ATTR_IDMAP}} {
				if err := setOldMount(f, true, attr); err != unix.ENOSYS {
					t.Errorf("%s: %v", what, err)
				}
			}
			flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
			if err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("the descriptor is inherited: %#x, %v", flags, err)
			}
		})
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("the host has a mount of it: %v\n%s", err, mounts)
	}
}

// The three ways to mount an overlay have to show the same.
func TestOverlaysOfManyLayersByEveryWay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	base, err := os.MkdirTemp("/dev/shm", "overlay") // where an upper directory can be
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(base)
	var layers []string
	for i := range 100 {
		l := fmt.Sprintf("%s/a:b,c\\d %d", base, i) // mount(2) would stumble over these characters
		layers = append(layers, l)
		if err := os.MkdirAll(fmt.Sprintf("%s/%d", l, i), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, way := range []struct {
		name  string
		mount func(*Overlay) (*os.File, error)
		most  int
	}{{"as the kernel likes it", MountOverlay, 100}, {"by numbers", MountOverlayByNumbers, 40}, {"by text", MountOverlayByText, 100}} {
		t.Run(way.name, func(t *testing.T) {
			for _, n := range []int{1, 2, way.most} {
				o := Overlay{Lower: layers[:n], Upper: fmt.Sprintf("%s/u,%s%d", base, way.name, n), Work: fmt.Sprintf("%s/w,%s%d", base, way.name, n), Volatile: n == 2}
				for _, d := range []string{o.Upper, o.Work} {
					if err := os.Mkdir(d, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				f, err := way.mount(&o)
				if err != nil {
					t.Fatalf("%d layers: %v", n, err)
				}
				inside, err := OpenIn(f, ".", unix.O_RDONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				names, err := inside.Readdirnames(-1)
				inside.Close()
				if len(names) != n || err != nil {
					t.Errorf("%d layers: %d names, %v", n, len(names), err)
				}
				if err := unix.Mkdirat(int(f.Fd()), "new", 0o755); err != nil {
					t.Error(err)
				}
				f.Close()
				if _, err := os.Stat(o.Upper + "/new"); err != nil {
					t.Error(err)
				}
			}
			for _, lost := range []*Overlay{{Lower: []string{layers[0], base + "/no/such"}}, {Lower: layers[:1], Upper: base + "/no/such", Work: base + "/no"}} {
				if f, err := way.mount(lost); err == nil {
					f.Close()
					t.Error("mounted without a layer")
				} else if !strings.Contains(err.Error(), "no such file or directory") {
					t.Errorf("a missing layer: %v", err)
				}
			}
		})
	}
}

// A thread that has mounts of its own asks for an overlay like any other.
func TestOverlaysByNumbersFromAPrivateMountNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	lower := []string{t.TempDir(), t.TempDir()}
	f, err := InPrivateMounts(func() (*os.File, error) { return MountOverlayByNumbers(&Overlay{Lower: lower}) })
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}
