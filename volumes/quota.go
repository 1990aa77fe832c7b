package volumes

import (
	"errors"
	"os"

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

// limit makes the empty directory dir a project that may hold size bytes, and returns its
// number.
func limit(dir string, size int64) (project uint32, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	project, err = kernel.MakeProject(size, f)
	return project, asNoQuota(err)
}

func asNoQuota(err error) error {
	if errors.Is(err, kernel.ErrNoQuota) {
		return fail.New(fail.Invalid, "quota size requested but no quota support: it takes XFS or ext4, mounted with prjquota (a tmpfs needs none: -o type=tmpfs -o device=tmpfs -o o=size=...)")
	}
	return err
}

// unlimit forgets the limit of a volume that is gone.
func (s *Store) unlimit(v Volume) {
	if v.project == 0 {
		return
	}
	f, err := os.Open(s.dir)
	if err == nil {
		defer f.Close()
		err = kernel.LimitProject(f, v.project, 0)
	}
	if err != nil {
		s.log.Warn("the quota of a removed volume stays", "volume", v.Name, "project", v.project, "error", err)
	}
}
