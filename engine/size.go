package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Size measures the writable layer (rw) and the whole root file system.
func (c *Containers) Size(ctx context.Context, ref string) (rw, rootfs int64, err error) {
	i, err := c.idx.find(ref)
	if err != nil {
		return 0, 0, err
	}
	if rw, err = writableSize(ctx, i.dir); err != nil {
		return 0, 0, err
	}
	img, err := c.images.GetFor(i.now().Image.String(), nil)
	if err != nil {
		return rw, rw, nil // the image was removed by force; what is left is ours
	}
	return rw, rw + img.Size, nil
}

// writableSize sums up the files of a container's writable layer, hard links once. It
// walks by descriptors, beneath the layer: the container may change it meanwhile.
func writableSize(ctx context.Context, dir string) (int64, error) {
	root, err := os.OpenRoot(filepath.Join(dir, "upper"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // never started
	}
	if err != nil {
		return 0, err
	}
	defer root.Close()
	var sum int64
	linked := map[[2]uint64]bool{}
	err = fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return nil // vanished meanwhile
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
			key := [2]uint64{uint64(st.Dev), st.Ino}
			if linked[key] {
				return nil
			}
			linked[key] = true
		}
		sum += info.Size()
		return nil
	})
	return sum, err
}
