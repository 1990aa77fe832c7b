package vm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/testkit"
)

func TestAHostThatCannotRunAMachineSaysWhy(t *testing.T) {
	for _, tt := range []struct {
		name, path, want string
		c                Config
	}{
		{"no QEMU", t.TempDir(), "qemu-system-x86_64, qemu-img, ssh is not installed (apt-get install", Config{}},
		{"too little memory", os.Getenv("PATH"), "the machine needs 1048832 MiB of memory and", Config{Memory: 1 << 20}},
		{"an unknown profile", os.Getenv("PATH"), `no profile "slackware": there are bookworm`, Config{Profile: "slackware"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if strings.Contains(tt.name, "memory") {
				testkit.NeedTool(t, "qemu-system-x86_64")
			}
			t.Setenv("PATH", tt.path)
			_, err := Start(context.Background(), t.TempDir(), tt.c)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v; want one line with %q", err, tt.want)
			}
		})
	}
}

// A kernel that finds no init panics and boots again, for ever.
func TestAGuestThatDoesNotComeUpIsEndedWithItsConsoleShown(t *testing.T) {
	testkit.Integration(t)
	if os.Getenv("BERTH_VM") == "" {
		t.Skip("boots a virtual machine: set BERTH_VM=1 (make test-vm does)")
	}
	dir, err := os.MkdirTemp("", "berth-vm-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	_, err = Start(context.Background(), dir, Config{Memory: 512, Append: "rdinit=/nowhere root=/dev/none ignore_loglevel", Within: 30 * time.Second})
	if err == nil || !strings.Contains(err.Error(), "did not come up: not within 30s") || strings.Count(err.Error(), "\n") < 5 {
		t.Errorf("%v", err)
	}
	left, _ := exec.Command("pgrep", "-f", dir).Output()
	if len(left) > 0 {
		t.Errorf("processes are left: %s", left)
	}
}

func TestStartHasABoundOnThePathOfItsSockets(t *testing.T) {
	testkit.NeedTool(t, "qemu-system-x86_64")
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if _, err := Start(context.Background(), dir, Config{Memory: 1}); err == nil || errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "too long") {
		t.Error(err)
	}
}

func TestModulesAreLoadedAfterWhatTheyNeed(t *testing.T) {
	dir := t.TempDir()
	text := `kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_ring.ko.xz: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio.ko:
kernel/fs/xfs/xfs.ko: kernel/lib/crc.ko
`
	if err := os.WriteFile(filepath.Join(dir, "modules.dep"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := modulesFor(dir, "virtio_blk", "built_in")
	if err != nil {
		t.Fatal(err)
	}
	for n := range got {
		got[n] = filepath.Base(got[n])
	}
	if all := strings.Join(got, " "); all != "virtio.ko virtio_ring.ko virtio_blk.ko" {
		t.Error(all)
	}
}
