package durable

import (
	"fmt"
	"os"
	"path/filepath"
)

// PublishDir renames from, whose content is durable already, to path and makes the
// name durable. Directories may be renamed as well as files.
func PublishDir(from, path string) error {
	if err := os.Rename(from, path); err != nil {
		return fmt.Errorf("publish %s: %w", path, err)
	}
	return SyncDir(filepath.Dir(path))
}
