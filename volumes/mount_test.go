package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
)

func TestAServerThatDoesNotAnswerKeepsNobodyWaiting(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	h := newHouse(t)
	options := map[string]string{"type": "nfs", "device": ":/x", "o": "addr=192.0.2.1,rw"}
	for _, name := range []string{"silent", "other"} {
		if _, err := h.Create(CreateRequest{Name: name, Options: options}); err != nil {
			t.Fatal(err)
		}
	}
	calls, answer := make(chan string, 3), make(chan struct{})
	h.mount = func(_, target, _ string, _ uintptr, _ string) error {
		calls <- target
		if strings.Contains(target, "silent") {
			<-answer
		}
		return unix.Mount("tmpfs", target, "tmpfs", 0, "size=1m")
	}
	h.patience = 50 * time.Millisecond
	for range 2 { // the second one finds the first one's call under way
		err := h.Mount(t.Context(), "silent", "c1")
		if !fail.Is(err, fail.Unavailable) || !strings.Contains(err.Error(), "192.0.2.1 does not answer") {
			t.Fatal(err)
		}
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Mount(canceled, "silent", "c1"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	h.patience = mountPatience
	if err := h.Mount(t.Context(), "other", "c1"); err != nil {
		t.Fatal("a volume of another server:", err)
	}
	if !h.mounted("other") || len(calls) != 2 {
		t.Fatalf("mounted %v, %d calls", h.mounted("other"), len(calls))
	}
	// What comes too late is taken back.
	close(answer)
	end, err := h.turn(t.Context(), "silent")
	if err != nil {
		t.Fatal(err)
	}
	end()
	if h.mounted("silent") || h.isUsed("silent") {
		t.Error("a volume that nobody waited for is mounted")
	}
	if err := h.Mount(t.Context(), "silent", "c2"); err != nil || !h.mounted("silent") {
		t.Error("the server is back:", err)
	}
	for name, container := range map[string]string{"silent": "c2", "other": "c1"} {
		if err := errors.Join(h.Unmount(name, container), h.Remove(t.Context(), name)); err != nil {
			t.Error(err)
		}
	}
	if left := h.files(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestOneThreadAtMostWaitsForADeadServer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	h := newHouse(t)
	if _, err := h.Create(CreateRequest{Name: "data", Options: map[string]string{"type": "nfs", "device": ":/x", "o": "addr=192.0.2.1,rw"}}); err != nil {
		t.Fatal(err)
	}
	h.mount = func(_, target, _ string, _ uintptr, _ string) error {
		return unix.Mount("tmpfs", target, "tmpfs", 0, "size=1m")
	}
	looks, back := make(chan string, 10), make(chan struct{})
	h.statfs = func(path string) {
		looks <- path
		<-back
	}
	if err := h.Mount(t.Context(), "data", "c1"); err != nil || len(looks) != 0 {
		t.Fatalf("the mount: %v, %d looks", err, len(looks))
	}
	h.patience = 20 * time.Millisecond
	for range 5 {
		if err := h.Mount(t.Context(), "data", "c2"); !fail.Is(err, fail.Unavailable) || !strings.Contains(err.Error(), "192.0.2.1 does not answer") {
			t.Fatal(err)
		}
	}
	if <-looks; len(looks) != 0 {
		t.Errorf("%d more looks are under way", len(looks))
	}
	// A mount that was made since is looked at by itself.
	h.patience = mountPatience
	if err := h.Unmount("data", "c1"); err != nil {
		t.Fatal(err)
	}
	if err := h.Mount(t.Context(), "data", "c1"); err != nil {
		t.Fatal(err)
	}
	result := make(chan error)
	go func() { result <- h.Mount(t.Context(), "data", "c2") }()
	<-looks
	close(back)
	if err := <-result; err != nil {
		t.Error("the server is back:", err)
	}
	if err := h.Mount(t.Context(), "data", "c3"); err != nil || len(looks) != 1 {
		t.Errorf("the next start: %v, %d looks", err, len(looks))
	}
	err := errors.Join(h.Unmount("data", "c1"), h.Unmount("data", "c2"), h.Unmount("data", "c3"), h.Remove(t.Context(), "data"))
	if left := h.files(); err != nil || len(left) > 0 {
		t.Errorf("%v; left: %v", err, left)
	}
}

func TestWhatIsMountedInAVolumeIsNotDeletedWithIt(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	h := newHouse(t)
	v := h.create("data")
	sub := filepath.Join(v.Mountpoint, "a b")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", sub, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(sub, unix.MNT_DETACH)
	file := filepath.Join(sub, "precious")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Remove(t.Context(), "data"); !fail.Is(err, fail.Conflict) || !strings.Contains(err.Error(), "unmount that first") {
		t.Error(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(sub, 0); err != nil {
		t.Fatal(err)
	}
	if err := h.Remove(t.Context(), "data"); err != nil {
		t.Error(err)
	}
}

func TestWhatIsAtAVolumesDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	h := newHouse(t)
	v := h.create("data")
	if got := h.what("data"); got != directory {
		t.Error(got)
	}
	if err := unix.Mount("tmpfs", v.Mountpoint, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if got := h.what("data"); got != mount {
		t.Error(got)
	}
	if err := h.unmount("data"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(v.Mountpoint); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"data", "never"} {
		if got := h.what(name); got != nothing {
			t.Error(name, got)
		}
	}
}

func TestAContainerCannotLeadTheMeasuringOutOfItsVolume(t *testing.T) {
	h := newHouse(t)
	v := h.create("data")
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "huge"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dir, link := filepath.Join(v.Mountpoint, "dir"), filepath.Join(v.Mountpoint, "link")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Symlink(outside, link)); err != nil {
		t.Fatal(err)
	}
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 2000 {
		if n, err := h.Size(t.Context(), "data"); err != nil || n >= 1<<20 {
			t.Errorf("%d bytes, %v", n, err)
			break
		}
	}
	close(done)
	<-stopped
}
