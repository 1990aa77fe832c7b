package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestDiskUsedIsWhatDuCounts(t *testing.T) {
	du, err := exec.LookPath("du")
	if err != nil {
		t.Skip("no du program")
	}
	dir := t.TempDir()
	for n := range 30 {
		sub := filepath.Join(dir, fmt.Sprint(n%7), fmt.Sprint(n%3), fmt.Sprint(n))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(sub, "f")
		if err := errors.Join(os.WriteFile(name, make([]byte, n*3000), 0o600), os.Link(name, filepath.Join(dir, fmt.Sprint(n%7), fmt.Sprint("link", n)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "sparse"), nil, 0o600), os.Truncate(filepath.Join(dir, "sparse"), 1<<30), os.Symlink("/usr", filepath.Join(dir, "usr"))); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(du, "-sx", "--block-size=1", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	want, _ := strconv.ParseInt(strings.Fields(string(out))[0], 10, 64)
	learnt := map[string]int64{}
	keep := filepath.Join(dir, "3")
	learn := func(path string, n int64) {
		if path == keep {
			learnt[path] = n
		}
	}
	known := func(path string) (int64, bool) { n, ok := learnt[path]; return n, ok }
	for range 2 {
		if got, err := DiskUsed(t.Context(), dir, known, learn); err != nil || got != want {
			t.Errorf("%d, %v; du says %d", got, err, want)
		}
	}
	learnt[keep] += 1 << 20
	if got, _ := DiskUsed(t.Context(), dir, known, nil); got != want+1<<20 {
		t.Errorf("what is known is counted anew: %d", got)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := DiskUsed(ended, dir, nil, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
