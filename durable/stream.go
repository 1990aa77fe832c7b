package durable

import (
	"fmt"
	"os"
	"path/filepath"
)

// Publish gives the finished content of f, an open temporary file on the same file
// system, the name path: fsync, verify, rename, fsync of path's directory. It closes f
// in every case. When verify (which may be nil) or a step before the rename fails, the
// temporary file stays under its own name and path is as it was.
func Publish(f *os.File, path string, verify func() error) error {
	err := f.Sync()
	if err == nil && verify != nil {
		err = verify()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return PublishDir(f.Name(), path)
}

// PublishDir renames from, whose content is durable already, to path and makes the
// name durable. Directories may be renamed as well as files.
func PublishDir(from, path string) error {
	if err := os.Rename(from, path); err != nil {
		return fmt.Errorf("publish %s: %w", path, err)
	}
	return SyncDir(filepath.Dir(path))
}
