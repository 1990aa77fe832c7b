// Package durable is the one place that commits state to disk: files by one
// recipe, locks that say who holds them, the state database, and the failpoints
// at which crash tests kill the process.
//
// # Schema of berth.db (bbolt)
//
// Every value is JSON unless said otherwise. Each bucket has one owner package.
//
//	meta        "version" → decimal schema version
//	containers  id → engine's container record                  (engine)
//	names       container name → id (raw string)                (engine)
//	images      image ID → record: names, manifests, layers     (images)
//	layers      blob digest → where a layer's blob is known      (images)
//	leases      lease id → what work is in flight                (images)
//	networks    network ID → record                              (network)
//	volumes     volume name → record                             (volumes)
package durable

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// WriteFile replaces path with data: temporary file in the same directory, fsync,
// rename, fsync of the directory. After it returns the content survives power loss;
// a crash before leaves the old content and at most a ".tmp-" file, which
// RemoveDebris collects.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	return writeFile(path, data, perm, true)
}

// WriteFileVolatile is WriteFile without the fsyncs, for files under the exec root
// that a reboot may forget: a reader sees the old or the new content, never a part.
func WriteFileVolatile(path string, data []byte, perm os.FileMode) error {
	return writeFile(path, data, perm, false)
}

const tmpPrefix = ".tmp-"

func writeFile(path string, data []byte, perm os.FileMode, sync bool) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, tmpPrefix+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err = f.Chmod(perm); err != nil {
		return err
	}
	if _, err = f.Write(data); err != nil {
		return err
	}
	if sync {
		if err = f.Sync(); err != nil {
			return err
		}
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	if sync {
		return SyncDir(dir)
	}
	return nil
}

// WriteJSON is WriteFile of v's JSON.
func WriteJSON(path string, v any, perm os.FileMode) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return WriteFile(path, data, perm)
}

// ReadJSON decodes the file at path into v.
func ReadJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// SyncDir flushes a directory, making renames and removals in it durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// RemoveDebris deletes what interrupted WriteFile calls left in dir.
func RemoveDebris(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, tmpPrefix+"*"))
	for _, f := range left {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}
