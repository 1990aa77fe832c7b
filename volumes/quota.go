package volumes

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/docker/go-units"

	"berth/fail"
	"berth/kernel"
)

// sizeOf reads the option size; 0: no limit.
func sizeOf(o map[string]string) (int64, error) {
	text, given := o[optSize]
	if !given {
		return 0, nil
	}
	n, err := units.RAMInBytes(text)
	switch {
	case err != nil || n <= 0:
		return 0, fail.New(fail.Invalid, "invalid size: %q", text)
	case o[optType] != "":
		return 0, fail.New(fail.Invalid, "size limits a directory: how large what is mounted may become, its own options say (-o o=size=... for a tmpfs)")
	}
	return n, nil
}

// limit makes the empty directory of the volume whose home is dir a project that may hold size bytes.
func limit(dir string, size int64) error {
	home, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer home.Close()
	data, err := os.Open(filepath.Join(dir, dataName))
	if err != nil {
		return err
	}
	defer data.Close()
	err = kernel.MakeProject(home, size, data)
	if errors.Is(err, kernel.ErrNoQuota) {
		return fail.New(fail.Invalid, "quota size requested but no quota support: it takes XFS or ext4 (made with -O quota,project), mounted with prjquota, and Linux 5.14 or later (a tmpfs needs none: -o type=tmpfs -o device=tmpfs -o o=size=...)")
	}
	return err
}

// unlimit forgets the limit of a volume whose home is now dir, and goes.
func (s *Store) unlimit(dir string) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		defer f.Close()
		err = kernel.ForgetProject(f)
	}
	if err != nil {
		s.log.Warn("the quota of a removed volume stays", "directory", dir, "error", err)
	}
}
