package logs

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Watches tells followers of logs that something was written. All of one process share it,
// because inotify instances are counted per user, and there are few. The zero value works.
type Watches struct {
	mu   sync.Mutex // guards all below
	in   *os.File   // nil while nobody watches
	dirs map[int32]*watchedDir
}

type watchedDir struct {
	path     string
	watchers map[*watcher]struct{}
}

// watcher waits for changes of a log. Without inotify it looks every pollEvery instead.
type watcher struct {
	changed chan struct{}
	polls   bool
	all     *Watches
	wd      int32
}

const pollEvery = 100 * time.Millisecond

// watch begins to watch the log at path: its directory, which is one watch for all its
// files, present and to come.
func (s *Watches) watch(path string) *watcher {
	w := &watcher{changed: make(chan struct{}, 1), all: s, polls: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return w
		}
		s.in, s.dirs = os.NewFile(uintptr(fd), "inotify"), map[int32]*watchedDir{}
		go s.run(s.in) // ends when the last watcher closes s.in
	}
	raw, err := s.in.SyscallConn()
	if err != nil {
		return w
	}
	dir, wd := filepath.Dir(path), -1
	if e := raw.Control(func(fd uintptr) {
		wd, err = unix.InotifyAddWatch(int(fd), dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	}); e != nil || err != nil {
		s.rest()
		return w
	}
	w.polls, w.wd = false, int32(wd)
	d := s.dirs[w.wd]
	if d == nil {
		d = &watchedDir{dir, map[*watcher]struct{}{}}
		s.dirs[w.wd] = d
	}
	d.watchers[w] = struct{}{}
	return w
}

// rest closes the instance that nobody needs. The caller holds mu.
func (s *Watches) rest() {
	if s.in != nil && len(s.dirs) == 0 {
		s.in.Close()
		s.in = nil
	}
}

func (s *Watches) run(in *os.File) {
	buf := make([]byte, 4096)
	for {
		n, err := in.Read(buf)
		if err != nil {
			return
		}
		s.mu.Lock()
		last := int32(-2)
		for rest := buf[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(rest))
			mask := binary.NativeEndian.Uint32(rest[4:])
			size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(rest[12:]))
			rest = rest[min(size, len(rest)):]
			if wd != last {
				s.notify(wd, mask)
				last = wd
			}
		}
		s.mu.Unlock()
	}
}

// notify wakes those who watch wd; all if events were lost. Which file of a directory it was
// does not matter. The caller holds mu.
func (s *Watches) notify(wd int32, mask uint32) {
	for n, d := range s.dirs {
		if n != wd && mask&unix.IN_Q_OVERFLOW == 0 {
			continue
		}
		for w := range d.watchers {
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
	}
}

func (w *watcher) close() {
	if w.polls {
		return
	}
	s := w.all
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dirs[w.wd]
	delete(d.watchers, w)
	if len(d.watchers) > 0 {
		return
	}
	delete(s.dirs, w.wd)
	if raw, err := s.in.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(w.wd)) }) // gone with its directory, perhaps
	}
	s.rest()
}

// wait returns nil when the log may have changed, done is closed, or until has passed.
func (w *watcher) wait(ctx context.Context, done <-chan struct{}, until time.Time) error {
	timeout := time.Duration(1<<63 - 1)
	if w.polls {
		timeout = pollEvery
	}
	if !until.IsZero() {
		timeout = min(timeout, time.Until(until)+time.Nanosecond)
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-w.changed:
	case <-done:
	case <-timer.C:
	}
	return nil
}
