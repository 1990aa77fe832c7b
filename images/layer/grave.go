package layer

import (
	"context"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"berth/kernel"
)

// grave deletes directories in the background, two at a time. What it does not get done
// stays in trash, where the next Open finds it.
type grave struct {
	slots   chan struct{}
	closing chan struct{}
	once    sync.Once

	mu   sync.Mutex
	left int
	done chan struct{} // closed when left is zero
}

func newGrave() *grave {
	done := make(chan struct{})
	close(done)
	return &grave{slots: make(chan struct{}, 2), closing: make(chan struct{}), done: done}
}

// bury has path deleted.
func (g *grave) bury(path string) {
	g.mu.Lock()
	if g.left == 0 {
		g.done = make(chan struct{})
	}
	g.left++
	g.mu.Unlock()
	go func() {
		defer g.buried()
		select {
		case g.slots <- struct{}{}:
			g.delete(path)
			<-g.slots
		case <-g.closing:
		}
	}()
}

func (g *grave) buried() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left--; g.left == 0 {
		close(g.done)
	}
}

// settle waits until everything that was buried is gone, or for ctx.
func (g *grave) settle(ctx context.Context) error {
	g.mu.Lock()
	done := g.done
	g.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// close stops deleting, and waits for what is under way to heed that.
func (g *grave) close() {
	g.once.Do(func() { close(g.closing) })
	_ = g.settle(context.Background())
}

// delete removes a directory. Errors are left to the next try.
func (g *grave) delete(path string) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	if g.empty(fd) {
		_ = unix.Rmdir(path)
	}
}

// empty deletes what is in the directory fd, which it closes, and reports whether
// nothing is left.
func (g *grave) empty(fd int) (all bool) {
	d := os.NewFile(uintptr(fd), "trash")
	defer d.Close()
	all = true
	for {
		names, err := d.Readdirnames(1024)
		for _, name := range names {
			select {
			case <-g.closing:
				return false
			default:
			}
			all = g.remove(fd, name) && all
		}
		if err != nil || len(names) == 0 {
			return all
		}
	}
}

func (g *grave) remove(dirfd int, name string) bool {
	err := unix.Unlinkat(dirfd, name, 0)
	if err != unix.EISDIR && err != unix.EPERM {
		return err == nil || err == unix.ENOENT
	}
	for range 3 { // a directory may list less than it has while it is being emptied
		sub, err := kernel.OpenAt(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err == unix.EACCES { // a mode that shuts out a store without root
			_ = unix.Fchmodat(dirfd, name, 0o700, 0)
			sub, err = kernel.OpenAt(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		}
		if err != nil || !g.empty(sub) {
			return false
		}
		if unix.Unlinkat(dirfd, name, unix.AT_REMOVEDIR) == nil {
			return true
		}
	}
	return false
}

// Space is short below these, of bytes, and of a part of the file system.
const (
	shortBytes = 4 << 30
	shortPart  = 10
)

// spaceIsShort reports whether deletions under way may be needed for what is to come.
func (s *Store) spaceIsShort() bool {
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Join(s.root, "staging"), &st); err != nil {
		return true
	}
	free := st.Bavail * uint64(st.Bsize)
	return free < shortBytes || st.Bavail < st.Blocks/shortPart || st.Files > 0 && st.Ffree < st.Files/shortPart
}
