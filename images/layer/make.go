package layer

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"berth/archive"
	"berth/kernel"
)

const (
	smallFile  = 64 << 10 // files up to this size are read whole and made by a worker
	maxPending = 128      // of them at once
	makerCount = 4        // more than a small machine's processors: they wait for the disk too
)

var bodyPool = sync.Pool{New: func() any { return new([smallFile]byte) }}

// file is a file to make that is not a directory.
type file struct {
	place
	archive.Attributes
	label string // for errors: the entry's own name

	kind   uint32           // S_IFREG, S_IFLNK, S_IFCHR …
	body   *[smallFile]byte // of a small regular file, from bodyPool
	size   int
	target string // of a symlink
	dev    uint64
}

// entryError names the entry that an error belongs to.
type entryError struct {
	name string
	err  error
}

func (e entryError) Error() string { return fmt.Sprintf("layer entry %q: %v", e.name, e.err) }
func (e entryError) Unwrap() error { return e.err }

// place is where a file is: no two files are made at one place at once.
type place struct {
	in   *dir
	name string
}

// makers make files in several goroutines, each as it comes, while the next entries are
// read. Whoever needs the outcome of an earlier entry waits for its place to settle.
type makers struct {
	born  archive.Creation
	tasks chan file
	wg    sync.WaitGroup

	mu      sync.Mutex
	changed sync.Cond
	pending map[place]struct{}
	err     error // the first one
}

func startMakers(born archive.Creation) *makers {
	m := &makers{born: born, tasks: make(chan file, maxPending), pending: map[place]struct{}{}}
	m.changed.L = &m.mu
	for range makerCount {
		m.wg.Go(m.work)
	}
	return m
}

func (m *makers) work() {
	for f := range m.tasks {
		err := f.make(m.born)
		if f.body != nil {
			bodyPool.Put(f.body)
		}
		if err != nil {
			err = entryError{f.label, archive.InvalidEntry(err)}
		}
		f.in.pins.Add(-1)
		m.mu.Lock()
		delete(m.pending, f.place)
		if m.err == nil {
			m.err = err
		}
		m.changed.Broadcast()
		m.mu.Unlock()
	}
}

// submit has f made. Its directory is open, and stays so until then.
func (m *makers) submit(f file) error {
	f.in.pins.Add(1)
	m.mu.Lock()
	for m.err == nil && (len(m.pending) >= maxPending || m.has(f.place)) {
		m.changed.Wait()
	}
	if err := m.err; err != nil {
		m.mu.Unlock()
		return err
	}
	m.pending[f.place] = struct{}{}
	m.mu.Unlock()
	m.tasks <- f
	return nil
}

func (m *makers) has(p place) bool { _, ok := m.pending[p]; return ok }

// settle waits until nothing is being made at p.
func (m *makers) settle(p place) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.has(p) {
		m.changed.Wait()
	}
	return m.err
}

// drain waits until everything submitted is made.
func (m *makers) drain() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.pending) > 0 {
		m.changed.Wait()
	}
	return m.err
}

// stop ends the goroutines; the rest of what was submitted is still made.
func (m *makers) stop() {
	close(m.tasks)
	m.wg.Wait()
}

// make puts the file at its place. What is there already is never a directory: the
// unpacker has seen to that.
func (f *file) make(born archive.Creation) error {
	dirfd := f.in.fd
	switch f.kind {
	case unix.S_IFREG:
		fd, final, err := createFile(f.place, &f.Attributes, born)
		if err != nil {
			return err
		}
		err = writeAll(fd, f.body[:f.size])
		if err == nil {
			err = f.SetFile(fd, born, final)
		}
		return errors.Join(err, unix.Close(fd))
	case unix.S_IFLNK:
		err := replacing(dirfd, f.name, func() error { return unix.Symlinkat(f.target, dirfd, f.name) })
		if err != nil {
			return fmt.Errorf("make symlink: %w", err)
		}
	default:
		err := replacing(dirfd, f.name, func() error { return unix.Mknodat(dirfd, f.name, f.kind|0o600, int(f.dev)) })
		if err != nil {
			return fmt.Errorf("make special file: %w", err)
		}
	}
	return f.SetNode(dirfd, f.name, born, f.kind == unix.S_IFLNK)
}

// createFile creates a regular file for writing. modeIsFinal tells setFile that the mode
// needs no further call.
func createFile(p place, a *archive.Attributes, born archive.Creation) (fd int, modeIsFinal bool, err error) {
	mode, final := a.OpenMode(born)
	err = replacing(p.in.fd, p.name, func() (err error) {
		fd, err = kernel.OpenAt(p.in.fd, p.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, mode)
		return err
	})
	if err != nil {
		return -1, false, fmt.Errorf("create file: %w", err)
	}
	return fd, final, nil
}

// replacing calls create, again after unlinking what is in its place: overwriting it
// would change its other links.
func replacing(dirfd int, name string, create func() error) error {
	err := create()
	if err != unix.EEXIST {
		return err
	}
	if err := unix.Unlinkat(dirfd, name, 0); err != nil {
		return err
	}
	return create()
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		b = b[n:]
	}
	return nil
}
