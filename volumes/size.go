package volumes

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"

	"berth/fail"
)

// Size is the sum of the sizes of a volume's files in bytes, each counted once. Of a
// volume with options, whose files are elsewhere, it is not known: -1.
func (s *Store) Size(ctx context.Context, name string) (int64, error) {
	v, err := s.Get(name)
	if err != nil {
		return 0, err
	}
	if v.Mounts() {
		return -1, nil
	}
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var total int64
	err = filepath.WalkDir(v.Mountpoint, func(path string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist): // changed meanwhile
			return nil
		case err != nil:
			return err
		case d.IsDir():
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil // deleted meanwhile
		}
		size := info.Size()
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			id := inode{st.Dev, st.Ino}
			if st.Nlink > 1 && seen[id] {
				return nil
			}
			if st.Nlink > 1 {
				seen[id] = true
			}
			size = min(size, st.Blocks*512) // holes take nothing
		}
		total += size
		return nil
	})
	if err != nil && ctx.Err() == nil {
		return 0, fail.New(fail.Internal, "measure volume %s: %w", name, err)
	}
	return total, err
}
