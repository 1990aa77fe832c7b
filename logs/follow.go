package logs

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// follow delivers what is written behind the offset at of s, in it and in the files
// that come after it. Without s.f the log does not exist yet.
func (r *reader) follow(w *watcher, s source, at int64) error {
	defer func() {
		if s.f != nil {
			s.f.Close()
		}
	}()
	for {
		ended := r.done()
		// A rotation is looked for before the rest is read: what a file gets after it
		// was replaced is nothing, so the rest read after that look is all of it.
		newer, err := r.newer(s)
		if err != nil {
			return err
		}
		if s.f != nil {
			info, err := s.f.Stat()
			if err != nil {
				closeAll(newer)
				return err
			}
			if info.Size() < at {
				at = 0 // cut by someone else
			}
			if info.Size() > at {
				if at, err = r.deliver(s, at, info.Size()); err != nil {
					closeAll(newer)
					return err
				}
			}
		}
		for i, n := range newer {
			if s.f != nil {
				s.f.Close()
			}
			s = n
			if at, err = r.deliver(s, 0, s.info.Size()); err != nil {
				closeAll(newer[i+1:])
				return err
			}
		}
		if ended && len(newer) == 0 {
			return nil
		}
		if len(newer) > 0 {
			continue
		}
		if r.o.Idle != nil {
			if err := r.o.Idle(); err != nil {
				return err
			}
		}
		if err := w.wait(r.ctx, r.o.Done, r.o.Until); err != nil {
			return err
		}
	}
}

func closeAll(files []source) {
	for _, s := range files {
		s.f.Close()
	}
}

// done tells that nothing selected will be written any more.
func (r *reader) done() bool {
	if !r.o.Until.IsZero() && time.Now().After(r.o.Until) {
		return true
	}
	select {
	case <-r.o.Done: // a nil one never is
		return true
	default:
		return false
	}
}

// newer opens the files that came after s, the oldest first; usually none.
func (r *reader) newer(s source) ([]source, error) {
	now, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var old os.FileInfo
	if s.f != nil {
		if old, err = s.f.Stat(); err != nil {
			return nil, err
		}
		if os.SameFile(now, old) {
			return nil, nil
		}
	}
	files, err := r.open()
	if err != nil || old == nil {
		return files, err
	}
	for i := len(files) - 1; i >= 0; i-- {
		info := files[i].info
		if os.SameFile(info, old) || files[i].gz && info.ModTime().Equal(old.ModTime()) {
			closeAll(files[:i+1])
			return files[i+1:], nil
		}
	}
	return files, nil // it was rotated away while we were slow: all there is came later
}
