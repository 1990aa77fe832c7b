package durable

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestPublishDirGivesADirectoryItsName(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "staged"), filepath.Join(dir, "there")
	if err := os.MkdirAll(filepath.Join(from, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := PublishDir(from, to); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(to, "sub")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(from); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old name is left: %v", err)
	}
}

func TestPublishDirReplacesNoDirectoryThatHoldsSomething(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "staged"), filepath.Join(dir, "there")
	for _, d := range []string{from, filepath.Join(to, "theirs")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := PublishDir(from, to); err == nil {
		t.Error("what was there has been replaced")
	}
	if _, err := os.Stat(filepath.Join(to, "theirs")); err != nil {
		t.Error(err)
	}
}
