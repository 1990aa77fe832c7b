package layer

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/fail"
)

func TestAFileSystemThatKeepsNotAllOfAFileIsRefused(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("ramfs", dir, "ramfs", 0, ""); err != nil { // it has no attributes
		t.Skipf("a ramfs cannot be mounted here: %v", err)
	}
	defer func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) }()
	for driver, says := range map[string]string{"": "does not take file capabilities", "copy": "choose a --data-root on ext4", "overlay": "a directory on ext4"} {
		s, err := Open(filepath.Join(dir, "layers"), driver)
		if !fail.Is(err, fail.Unavailable) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("driver %q: %v", driver, err)
		}
		if err == nil {
			s.Close()
		}
	}
}
