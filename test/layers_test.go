package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/testkit"
)

func TestContainersRunOnCopiedLayers(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{Flags: []string{"--storage-driver", "vfs"}})
	image := e.Busybox()
	if r := e.Berth("info", "--format", "{{.Driver}}"); r.Stdout != "copy\n" {
		t.Fatal(r)
	}
	if r := e.Berth("run", "--name", "copied", image, "sh", "-c", "echo hello > /f; rm /bin/true; cat /f"); r.Stdout != "hello\n" || r.Code != 0 {
		t.Fatal(r)
	}
	if r := e.Berth("ps", "-as", "--format", "{{.Size}}"); !strings.HasPrefix(r.Stdout, "6B (virtual ") {
		t.Fatal(r)
	}
	if r := e.Berth("run", "--rm", "--read-only", image, "sh", "-c", "test ! -e /f && test -e /bin/true && ! touch /g"); r.Code != 0 {
		t.Fatal(r)
	}
	e.Stop()
	data, err := os.ReadFile(filepath.Join(e.DataRoot, "layers", "driver"))
	if err != nil || string(data) != "copy\n" {
		t.Fatal(string(data), err)
	}
	e.Start()
	if r := e.Berth("start", "-a", "copied"); r.Stdout != "hello\n" {
		t.Fatal(r)
	}
}

func TestCheckFindsDamageAndRepairsIt(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	reg := testkit.Registry(t, testkit.RegistryOptions{})
	image := reg.Addr + "/app:1"
	e.Must("tag", e.Busybox(), image)
	e.Must("push", image)
	e.Must("rmi", e.Busybox(), image)
	e.Must("pull", image)
	if r := e.Berth("system", "check"); r.Code != 0 || !strings.HasPrefix(r.Stdout, "Checked 1 image, 3 blobs (") || !strings.HasSuffix(r.Stdout, " and 1 layer: no damage found\n") {
		t.Fatal(r)
	}
	glob := func(pattern string) []string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(e.DataRoot, pattern))
		if err != nil || len(found) == 0 {
			t.Fatal(pattern, err)
		}
		return found
	}
	busybox := glob("layers/sha256/*/diff/bin/busybox")[0]
	var layer string // the largest blob
	var size int64
	for _, b := range glob("content/blobs/sha256/*") {
		if fi, err := os.Stat(b); err == nil && fi.Size() > size {
			layer, size = b, fi.Size()
		}
	}
	flip := func(path string, at int64) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := []byte{0}
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		spoil  func()
		wanted string
	}{
		{"a byte of a blob", func() { flip(layer, size/2) }, "is damaged: its content is sha256:"},
		{"a blob gone", func() { os.Remove(layer) }, "it is missing (needed by " + image + ")"},
		{"a byte of a layer's file", func() { flip(busybox, 100) }, "/bin/busybox has another "},
		{"a layer's file gone", func() { os.Remove(busybox) }, "/bin/busybox is missing"},
		{"all at once", func() { flip(layer, 10); os.Remove(busybox) }, "is damaged"},
	} {
		c.spoil()
		if r := e.Berth("system", "check"); r.Code != 1 || !strings.Contains(r.Stdout, c.wanted) || strings.Contains(r.Stdout, "repaired") {
			t.Fatal(c.name, r)
		}
		if r := e.Berth("system", "check", "--repair"); r.Code != 0 || !strings.Contains(r.Stdout, c.wanted) || !strings.Contains(r.Stdout, "  repaired: ") {
			t.Fatal(c.name, r)
		}
		if r := e.Berth("system", "check", "-q"); r.Code != 0 || r.Stdout != "" {
			t.Fatal(c.name, r)
		}
		if r := e.Berth("run", "--rm", "--network", "none", image, "echo", "fine"); r.Stdout != "fine\n" {
			t.Fatal(c.name, r)
		}
	}

	// Running containers keep their layers; without a registry a blob cannot come back.
	e.Must("run", "-d", "--name", "busy", "--network", "none", image, "sleep", "1000")
	if err := os.Chmod(busybox, 0o700); err != nil {
		t.Fatal(err)
	}
	if r := e.Berth("system", "check", "--repair"); r.Code != 1 || !strings.Contains(r.Stdout, "  not repaired: running containers stand on it: stop ") {
		t.Fatal(r)
	}
	e.Must("rm", "-f", "busy")
	reg.Stop()
	os.Remove(layer)
	if r := e.Berth("system", "check", "--repair"); r.Code != 1 || !strings.Contains(r.Stdout, "  not repaired: ") {
		t.Fatal(r)
	}
}
