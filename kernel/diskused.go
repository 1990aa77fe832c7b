package kernel

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// DiskUsed is the space that the files below a directory take on its file system, with the
// directories themselves, as du(1) -x counts: allocated blocks in bytes, files with several
// links once (twice where one is in a directory that is known and one outside). known may give the answer of a directory from before (nil: none), and learn is told those
// that it was asked of. What vanishes meanwhile does not count.
func DiskUsed(ctx context.Context, dir string, known func(path string) (n int64, ok bool), learn func(path string, n int64)) (int64, error) {
	f, err := os.OpenFile(dir, unix.O_DIRECTORY, 0)
	if err != nil {
		return 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return 0, &os.PathError{Op: "fstat", Path: dir, Err: err}
	}
	d := &diskUse{ctx: ctx, dev: st.Dev, links: map[uint64]bool{}, known: known, learn: learn}
	d.free.SetLimit(2 * runtime.NumCPU())
	n, err := d.dir(f, dir, &st)
	return n, errors.Join(err, d.free.Wait())
}

type diskUse struct {
	ctx   context.Context
	dev   uint64
	known func(string) (int64, bool)
	learn func(string, int64)
	free  errgroup.Group

	mu    sync.Mutex
	links map[uint64]bool // inodes of files with several links that were counted
}

const blockUnit = 512 // of st_blocks, stat(2)

// dir counts an open directory, and closes it; what is below goes to others while there are some.
func (d *diskUse) dir(f *os.File, path string, st *unix.Stat_t) (int64, error) {
	defer f.Close()
	if d.ctx.Err() != nil {
		return 0, context.Cause(d.ctx)
	}
	sum := st.Blocks * blockUnit
	if d.known != nil {
		if n, ok := d.known(path); ok {
			return n, nil
		}
	}
	names, err := f.Readdirnames(-1)
	if errors.Is(err, unix.ENOENT) { // removed meanwhile
		return sum, nil
	}
	if err != nil {
		return sum, err
	}
	var wait sync.WaitGroup
	var mu sync.Mutex // guards sum and failed
	var failed error
	add := func(n int64, err error) {
		mu.Lock()
		sum += n
		failed = errors.Join(failed, err)
		mu.Unlock()
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(int(f.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Dev != d.dev {
			continue
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if st.Nlink < 2 || d.first(st.Ino) {
				add(st.Blocks*blockUnit, nil)
			}
			continue
		}
		fd, err := unix.Openat(int(f.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			if err != unix.ENOENT && err != unix.ENOTDIR {
				add(0, &os.PathError{Op: "open", Path: filepath.Join(path, name), Err: err})
			}
			continue
		}
		sub := os.NewFile(uintptr(fd), name)
		wait.Add(1)
		task := func() error {
			defer wait.Done()
			add(d.dir(sub, filepath.Join(path, name), &st))
			return nil
		}
		if !d.free.TryGo(task) {
			_ = task()
		}
	}
	wait.Wait()
	if failed == nil && d.learn != nil && d.known != nil {
		d.learn(path, sum)
	}
	return sum, failed
}

func (d *diskUse) first(ino uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.links[ino]
	d.links[ino] = true
	return !before
}
