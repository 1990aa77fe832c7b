package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
)

func TestASecondEngineDoesNotSpendTheReserveOfTheFirst(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a tmpfs")
	}
	data := t.TempDir()
	if err := unix.Mount("tmpfs", data, "tmpfs", 0, "size=40m"); err != nil {
		t.Skipf("a tmpfs cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(data, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	l, err := durable.Acquire(filepath.Join(data, "lock"), "the first")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	durable.OpenReserve(data)
	reserve := func() int {
		parts, err := os.ReadDir(filepath.Join(data, "reserve"))
		if err != nil {
			t.Fatal(err)
		}
		return len(parts)
	}
	whole := reserve()
	filler, err := os.Create(filepath.Join(data, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	d := &daemon{set: &Settings{DataRoot: data, ExecRoot: t.TempDir(), ContainerSettings: ContainerSettings{LogDriver: "json-file"}}, log: slog.New(slog.DiscardHandler), manager: &manager{}}
	err = d.run(t.Context())
	for _, f := range d.cleanup {
		f()
	}
	if !fail.Is(err, fail.Conflict) {
		t.Errorf("the second engine: %v", err)
	}
	if got := reserve(); got != whole || whole == 0 {
		t.Errorf("%d of %d parts are left", got, whole)
	}
}
