package selinux

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	lib "github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
)

func TestTheMachinesOwnDirectoriesAreSpared(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	os.Symlink("/usr", link)
	t.Setenv("HOME", dir)
	for _, path := range []string{"/", "/etc", "/etc/../usr", "/usr/", link, dir} {
		err := relabel(t.Context(), path, "u:r:t:s0")
		if err == nil || !strings.Contains(err.Error(), "is not allowed") {
			t.Fatalf("%s: %v", path, err)
		}
	}
	if err := relabel(t.Context(), filepath.Join(dir, "missing"), "u:r:t:s0"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("what does not exist: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: the attributes are of the namespace security")
	}
	below := filepath.Join(dir, "data")
	os.Mkdir(below, 0o755)
	if err := relabel(t.Context(), below, "u:r:t:s0"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if n, err := unix.Getxattr(below, "security.selinux", b); err != nil || strings.TrimRight(string(b[:n]), "\x00") != "u:r:t:s0" {
		t.Errorf("label %q, %v", b[:max(n, 0)], err)
	}
}

func TestWithoutSELinuxThereIsNoHost(t *testing.T) {
	if lib.GetEnabled() {
		t.Skip("this machine has SELinux")
	}
	if Open(true) != nil || Open(false) != nil {
		t.Error("a host without SELinux")
	}
}

// The library's own bookkeeping works without a policy.
func TestCategoriesAreKept(t *testing.T) {
	h := new(Host)
	const label = "system_u:system_r:container_t:s0:c7,c9"
	h.Reserve(label)
	if err := lib.CheckLabel(label); err == nil {
		t.Error("reserved categories are free")
	}
	h.Release(label)
	if err := lib.CheckLabel(label); err != nil {
		t.Errorf("released categories are not free: %v", err)
	}
	opts, err := h.Options(label)
	if err != nil || strings.Join(opts, " ") != "user:system_u role:system_r type:container_t level:s0:c7,c9" {
		t.Errorf("%v, %v", opts, err)
	}
	if opts, err := h.Options(""); err != nil || len(opts) != 0 {
		t.Errorf("no label: %v, %v", opts, err)
	}
}
