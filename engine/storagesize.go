package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/docker/go-units"

	"berth/fail"
	"berth/kernel"
)

// storageSize is how many bytes --storage-opt size lets a container write to its root; 0: as
// many as there are.
func storageSize(opts map[string]string) (size int64, err error) {
	for key, value := range opts {
		if !strings.EqualFold(key, "size") {
			return 0, fail.New(fail.Invalid, "unknown storage option %q: there is only size", key)
		}
		if size, err = units.RAMInBytes(value); err != nil || size < 0 {
			return 0, fail.New(fail.Invalid, "invalid storage option size: %q", value)
		}
	}
	return size, nil
}

// limitStorage makes the writable layer of a new container, and a project with a quota of it.
// What else is in the container's directory, its log above all, does not count.
func (k *creator) limitStorage(ctx context.Context, c Container, dir string) error {
	size, err := storageSize(c.HostConfig.StorageOpt)
	if err != nil || size == 0 {
		return err
	}
	if k.images.GraphDriver() != "overlay" {
		return fail.New(fail.Invalid, "--storage-opt size is supported by the storage driver overlay only")
	}
	root, err := k.images.Rootfs(ctx, c.Image, dir)
	if err != nil {
		return err
	}
	// The work directory is what files are moved from into the upper one: that takes one project.
	upper, err := os.Open(root.Upper)
	if err != nil {
		return err
	}
	defer upper.Close()
	work, err := os.Open(root.Work)
	if err != nil {
		return err
	}
	defer work.Close()
	home, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer home.Close()
	err = kernel.MakeProject(home, size, upper, work)
	if errors.Is(err, kernel.ErrNoQuota) {
		return fail.New(fail.Invalid, "--storage-opt size is supported only where the data root is on XFS or ext4, mounted with prjquota (Linux 5.14 or later)")
	}
	return err
}

// forgetStorage forgets the quota of a container that is gone, or was never made, before the files
// in its directory are.
func forgetStorage(dir string) error {
	home, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer home.Close()
	return kernel.ForgetProject(home)
}
