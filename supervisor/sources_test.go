package supervisor

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/fail"
)

func TestExchangedOwnersLeaveAllOthersWhatTheyAre(t *testing.T) {
	seen := func(list []specs.LinuxIDMapping, id uint32) uint32 {
		for _, m := range list {
			if id >= m.ContainerID && id-m.ContainerID < m.Size {
				return m.HostID + id - m.ContainerID
			}
		}
		t.Fatalf("%d is nobody", id)
		return 0
	}
	const last = 1<<32 - 2
	for _, c := range [][2]uint32{{0, 1000}, {1000, 0}, {0, 1}, {7, 8}, {5, last}, {0, last}} {
		list := exchange(c[0], c[1])
		for _, id := range []uint32{0, 1, 5, 6, 7, 8, 9, 999, 1000, 1001, last - 1, last} {
			want := id
			switch id {
			case c[0]:
				want = c[1]
			case c[1]:
				want = c[0]
			}
			if got := seen(list, id); got != want {
				t.Errorf("%v: %d is seen as %d, want %d", c, id, got, want)
			}
		}
	}
	if exchange(7, 7) != nil {
		t.Error("nothing is to be exchanged")
	}
}

func TestSubpathsStayInside(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in")
	for _, d := range []string{in + "/a/b", dir + "/out"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"good": "a/b", "up": "../out", "abs": dir + "/out", "deep": "a/../../out", "loop": "loop", "proc": "/proc/self/cwd"} {
		if err := os.Symlink(to, filepath.Join(in, link)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.Open(in)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for path, ok := range map[string]bool{"a": true, "a/b": true, "good": true, ".": true, "a/../good": true,
		"up": false, "abs": false, "deep": false, "loop": false, "proc": false, "no": false, "../in": false, "a/b/../../../out": false} {
		f, err := below(root, path)
		if (err == nil) != ok || err != nil && !fail.Is(err, fail.Invalid) {
			t.Errorf("%s: %v", path, err)
		}
		if f != nil {
			f.Close()
		}
	}
}
