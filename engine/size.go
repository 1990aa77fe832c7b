package engine

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"berth/fail"
)

// Size measures the writable layer (rw) and the whole root file system.
func (c *Containers) Size(ctx context.Context, ref string) (rw, rootfs int64, err error) {
	i, err := c.idx.find(ref)
	if err != nil {
		return 0, 0, err
	}
	if rw, err = c.writableSize(ctx, i); err != nil {
		return 0, 0, err
	}
	img, err := c.images.GetFor(i.now().Image.String(), nil)
	if err != nil {
		return rw, rw, nil // the image was removed by force; what is left is ours
	}
	return rw, rw + img.Size, nil
}

// LogSize is the space that a container's log takes, with what was rotated.
func (c *Containers) LogSize(ref string) (sum int64) {
	i, err := c.idx.find(ref)
	if err != nil {
		return 0
	}
	o, err := logOptions(i.now())
	if err != nil {
		return 0
	}
	path := i.logFile(o)
	if path == "" {
		return 0
	}
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return 0
	}
	for _, n := range names {
		if info, err := n.Info(); err == nil && info.Mode().IsRegular() && strings.HasPrefix(n.Name(), filepath.Base(path)) {
			sum += info.Size()
		}
	}
	return sum
}

// writableSize is the space that a container's own files take. Without its image, which
// never happens while records are whole, it is not known.
func (c *Containers) writableSize(ctx context.Context, i *instance) (int64, error) {
	n, err := c.images.WritableSize(ctx, i.now().Image, i.dir)
	if fail.Is(err, fail.NotFound) {
		return 0, nil
	}
	return n, err
}
