package durable

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestPublishGivesTheFileItsName(t *testing.T) {
	dir := t.TempDir()
	f, err := os.CreateTemp(dir, "in-*")
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("content")
	path := filepath.Join(dir, "out")
	if err := Publish(f, path, nil); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "content" {
		t.Fatalf("got %q", got)
	}
	if _, err := os.Stat(f.Name()); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the temporary name is left: %v", err)
	}
}

func TestPublishKeepsWhatWasThereWhenVerifyFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp(dir, "in-*")
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("new")
	bad := errors.New("bad")
	if err := Publish(f, path, func() error { return bad }); !errors.Is(err, bad) {
		t.Fatalf("got %v", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Fatalf("got %q", got)
	}
	if _, err := f.Write([]byte("x")); err == nil {
		t.Fatal("the file is still open")
	}
}
