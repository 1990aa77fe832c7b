package volumes

import (
	"context"
	"errors"
	"io/fs"
	"os"
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
	root, err := os.OpenRoot(v.Mountpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fail.New(fail.Internal, "measure volume %s: %w", name, err)
	}
	defer root.Close()
	m := measuring{seen: map[inode]bool{}}
	// Containers may change it meanwhile, and lead nobody out of it.
	for dirs := []string{"."}; len(dirs) > 0; {
		if ctx.Err() != nil {
			return m.total, ctx.Err()
		}
		dir := dirs[len(dirs)-1]
		entries, err := readDir(root, dir)
		if err != nil && dir == "." {
			return 0, fail.New(fail.Internal, "measure volume %s: %w", name, err)
		}
		dirs = dirs[:len(dirs)-1]
		for _, e := range entries {
			if e.IsDir() {
				dirs = append(dirs, filepath.Join(dir, e.Name()))
			} else if info, err := e.Info(); err == nil {
				m.add(info)
			}
		}
	}
	return m.total, nil
}

// readDir lists a directory of root, which could be another kind of file by now.
func readDir(root *os.Root, dir string) ([]fs.DirEntry, error) {
	f, err := root.OpenFile(dir, syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir(-1)
}

type inode struct{ dev, ino uint64 }

// measuring sums up sizes.
type measuring struct {
	total int64
	seen  map[inode]bool // files with several links
}

func (m *measuring) add(info fs.FileInfo) {
	size := info.Size()
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id := inode{st.Dev, st.Ino}
		if st.Nlink > 1 && m.seen[id] {
			return
		}
		if st.Nlink > 1 {
			m.seen[id] = true
		}
		size = min(size, st.Blocks*512) // holes take nothing
	}
	m.total += size
}
