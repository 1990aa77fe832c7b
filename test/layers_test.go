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
