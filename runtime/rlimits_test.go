package runtime

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/fail"
)

func TestALimitOfOpenFilesAboveTheHostsIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "nr_open")
	if err := os.WriteFile(file, []byte("1048576\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[uint64]string{
		1024: "", 1048576: "", 1048577: "RLIMIT_NOFILE: 1048577 is more than this host lets any process open, which is 1048576",
		math.MaxUint64: "RLIMIT_NOFILE: unlimited is more",
	} {
		err := checkOpenFiles(limit, file)
		if want == "" && err != nil || want != "" && (!fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%d: got %v", limit, err)
		}
	}
	if err := checkOpenFiles(math.MaxUint64, file+"x"); err != nil {
		t.Errorf("where the kernel does not tell: %v", err)
	}
}
