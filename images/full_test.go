package images

import (
	"bytes"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"berth/testkit"
)

func TestFullDiskIsNamedAndLeavesNothing(t *testing.T) {
	testkit.NeedRoot(t)
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=12m,mode=700"); err != nil {
		t.Skipf("tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := reopen(t, root)
	f := newFakeRegistry(t)
	big := layerTar("a", string(noise(8<<20)))
	f.add("1", gzipImage("full", layerTar("b", "small"), big))
	full := func(what string, err error, says string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), syscall.ENOSPC.Error()) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
		if all, err := s.List(); err != nil || len(all) != 0 {
			t.Errorf("%s: visible %v, %v", what, all, err)
		}
		if _, err := s.Collect(t.Context(), nil); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if n := inventory(t, s); n["layers"]+n["blobs"] != 0 || len(n) != 1 {
			t.Errorf("%s left %v", what, n)
		}
	}
	_, err := s.Pull(t.Context(), f.ref(t, ":1"), nil, nil, nil)
	full("pull", err, "layer ")
	_, err = s.Import(t.Context(), bytes.NewReader(big), ImportOptions{})
	full("import", err, "import: ")
	o := newStore(t)
	put(t, o, makeImage("full", "application/vnd.oci.image.layer.v1.tar", bytes.Clone, big), "big:1")
	_, err = s.Load(t.Context(), bytes.NewReader(save(t, o, "big:1")), LoadOptions{}, nil)
	full("load", err, "load")
}
