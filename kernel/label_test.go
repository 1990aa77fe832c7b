package kernel

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/fail"
)

func TestLabelsReachAllFilesAndLeaveNone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the attributes are of the namespace security")
	}
	dir := t.TempDir()
	label := func(path string) string {
		b := make([]byte, 200)
		n, err := unix.Lgetxattr(path, labelXattr, b)
		if err != nil {
			return ""
		}
		return string(b[:n])
	}
	outside := filepath.Join(dir, "outside")
	top := filepath.Join(dir, "top")
	os.WriteFile(outside, nil, 0o644)
	os.MkdirAll(filepath.Join(top, "a/b"), 0o755)
	os.WriteFile(filepath.Join(top, "a/b/file"), nil, 0o400)
	os.Symlink(outside, filepath.Join(top, "link"))
	os.Symlink(dir, filepath.Join(top, "a/up"))
	unix.Mkfifo(filepath.Join(top, "fifo"), 0o600) // to open it would wait
	if err := unix.Lsetxattr(top, labelXattr, []byte("u:r:t:s9"), 0); err != nil {
		t.Skipf("the file system keeps no such attributes: %v", err)
	}
	f, err := os.Open(top)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := []string{top, top + "/a", top + "/a/b", top + "/a/b/file", top + "/link", top + "/a/up", top + "/fifo"}
	check := func(want string) {
		t.Helper()
		for _, path := range all {
			if got := label(path); got != want {
				t.Errorf("%s has %q, not %q", path, got, want)
			}
		}
		if label(outside) != "" || label(dir) != "" {
			t.Error("what links lead to was labelled")
		}
	}
	if err := Label(t.Context(), f, "u:r:t:s0:c1,c2"); err != nil {
		t.Fatal(err)
	}
	check("u:r:t:s0:c1,c2")

	// The second time only what differs is set; the kernel's labels end with a NUL.
	unix.Lsetxattr(top, labelXattr, []byte("u:r:t:s0:c1,c2\x00"), 0)
	unix.Lsetxattr(top+"/a/b/file", labelXattr, []byte("u:r:t:s0:c1,c2,c3"), 0)
	if err := Label(t.Context(), f, "u:r:t:s0:c1,c2"); err != nil {
		t.Fatal(err)
	}
	if got := label(top); got != "u:r:t:s0:c1,c2\x00" {
		t.Errorf("a label that was right was set: %q", got)
	}
	unix.Lsetxattr(top, labelXattr, []byte("u:r:t:s0:c1,c2"), 0)
	check("u:r:t:s0:c1,c2")

	// A single file, by a descriptor that cannot be read.
	fd, err := unix.Open(outside, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	single := os.NewFile(uintptr(fd), outside)
	defer single.Close()
	if err := Label(t.Context(), single, "u:r:t:s0"); err != nil || label(outside) != "u:r:t:s0" {
		t.Errorf("%v, %q", err, label(outside))
	}
	if proc, err := os.Open("/proc/self/attr"); err == nil { // has no room for labels
		defer proc.Close()
		if err := Label(t.Context(), proc, "u:r:t:s0"); err != nil && !strings.Contains(err.Error(), "permitted") {
			t.Errorf("a file system without labels: %v", err)
		}
	}
}

func TestAnOverlaysContextIsQuoted(t *testing.T) {
	text := (&Overlay{Lower: []string{"/", "/"}, Context: "u:r:t:s0:c1,c2"}).text()
	if !strings.Contains(text, `,context="u:r:t:s0:c1,c2"`) {
		t.Error(text)
	}
}

func TestADeepTreeIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the attributes are of the namespace security")
	}
	dir := t.TempDir()
	deepest := filepath.Join(dir, strings.Repeat("a/", 20))
	if err := os.MkdirAll(deepest, 0o755); err != nil {
		t.Fatal(err)
	}
	top, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Label(ctx, top, "u:r:t:s0"); !errors.Is(err, context.Canceled) {
		t.Error("canceled:", err)
	}
	l := labeler{ctx: t.Context(), label: []byte("u:r:t:s0"), deepest: 20}
	if err := l.tree(top); !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "nested deeper than 20") {
		t.Error("21 directories:", err)
	}
	if err := os.Remove(deepest); err != nil {
		t.Fatal(err)
	}
	if err := l.tree(top); err != nil {
		t.Error("20 directories:", err)
	}
}

func TestTheMessageOfADeepPlaceIsShort(t *testing.T) {
	p := &place{name: "/top"}
	if got := p.in("a").in("b").String(); got != "/top/a/b" {
		t.Error(got)
	}
	for range 1000 {
		p = p.in("a")
	}
	if got, want := p.String(), "/top/.../"+strings.Repeat("a/", 31)+"a"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
