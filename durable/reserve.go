package durable

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Reserve is made of this many parts, of so many bytes each.
const (
	reserveParts = 4
	reservePart  = 256 << 10
)

// A Reserve is set aside only where this many times its size is free.
const reserveShare = 32

// Reserve is room on a disk that is kept for the time when nothing else is left: an
// engine has to start on a full disk, and to record what is removed, for else nobody could
// make space by it. It is a directory of files that are deleted one by one. A nil Reserve
// has nothing. It is safe for concurrent use.
type Reserve struct {
	mu      sync.Mutex
	dir     string
	missing int    // parts
	lent    string // the part that was given up to start by
}

// OpenReserve returns the reserve in the directory dir/reserve, for whoever has dir to himself. If
// there is no other room on the disk a part of it is given up at once. It cannot fail: where nothing
// can be set aside, there is just no reserve.
func OpenReserve(dir string) *Reserve {
	r := &Reserve{dir: filepath.Join(dir, "reserve")}
	for i := range reserveParts {
		if _, err := os.Lstat(r.part(i)); err != nil {
			r.missing++
		}
	}
	if free, err := freeIn(dir); err == nil && free < reservePart {
		r.lent = r.release()
	}
	r.Refill()
	return r
}

// Close takes back what OpenReserve gave up, if there is still room: engines that do not start, or
// are started often, shall not use up by that what is kept for deleting.
func (r *Reserve) Close() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lent != "" && setAside(r.lent) == nil {
		r.missing--
	}
	r.lent = ""
}

func (r *Reserve) part(i int) string { return filepath.Join(r.dir, strconv.Itoa(i)) }

// freeIn is how many bytes may be written to the file system of dir.
func freeIn(dir string) (uint64, error) {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	return st.Bavail * uint64(st.Bsize), err
}

// Release gives up a part of the reserve, and reports whether there was one.
func (r *Reserve) Release() bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.release() != ""
}

// release returns the part that it gave up.
func (r *Reserve) release() string {
	for i := range reserveParts {
		// Some file systems free the blocks of a deleted file later, but those of one that is cut at once.
		if os.Truncate(r.part(i), 0) != nil || os.Remove(r.part(i)) != nil {
			continue
		}
		r.missing++
		if d, err := os.Open(r.dir); err == nil {
			_ = unix.Syncfs(int(d.Fd())) // what is freed can be used when that is committed
			d.Close()
		}
		return r.part(i)
	}
	return ""
}

// Refill sets aside again what was given up, if there is plenty of room.
func (r *Reserve) Refill() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.missing == 0 {
		return
	}
	if free, err := freeIn(filepath.Dir(r.dir)); err != nil || free < reserveShare*reserveParts*reservePart {
		return
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return
	}
	for i := range reserveParts {
		if _, err := os.Lstat(r.part(i)); err == nil {
			continue
		}
		if setAside(r.part(i)) != nil {
			return
		}
		r.missing--
		if r.lent == r.part(i) {
			r.lent = ""
		}
	}
}

func setAside(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, reservePart)
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, err = f.Write(make([]byte, reservePart))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
	}
	return err
}

// IsFull reports whether err says that a disk, or somebody's part of it, is full.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
