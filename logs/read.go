package logs

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

// ReadOptions selects entries.
type ReadOptions struct {
	Stdout, Stderr bool
	Since, Until   time.Time // zero: no bound
	Tail           int       // last N of both streams together; negative: all
	Follow         bool
	// Done ends a Follow: it is closed when the writer will write no more. What was
	// written before is still delivered.
	Done <-chan struct{}
	// Idle, if not nil, is called when a follower has delivered all there is.
	Idle func() error
	// Watches are shared by the followers of a process; nil: one for this read alone.
	Watches *Watches
}

// errEnough ends a read at the until bound.
var errEnough = errors.New("enough")

// Read calls fn for every selected entry in order, across rotated files, and follows
// if asked. It ends with nil at the end of the log, or with fn's or ctx's error.
// A log that does not exist (yet) has no entries; it is followed when it appears, as
// long as its directory is there.
//
// Tail counts entries before any other selection, as Docker does. Lines that are not
// entries (the rest of a crash) are skipped.
func Read(ctx context.Context, path string, log Options, o ReadOptions, fn func(Entry) error) error {
	format, err := log.format()
	if err != nil {
		return err
	}
	r := &reader{ctx: ctx, path: path, format: format, o: o, fn: fn, lines: bufio.NewReaderSize(nil, 64<<10)}
	if log.Driver != DriverJSONFile {
		r.attrs = log.Attrs
	}
	err = r.read()
	if err == errEnough {
		return nil
	}
	return err
}

type reader struct {
	ctx     context.Context
	path    string
	format  format
	attrs   map[string]string // of entries that do not hold their own
	o       ReadOptions
	fn      func(Entry) error
	scratch []byte
	lines   *bufio.Reader
	long    []byte
}

// source is an opened file of the log.
type source struct {
	f    *os.File
	info os.FileInfo
	gz   bool
}

func (r *reader) read() error {
	var watch *watcher
	if r.o.Follow {
		// Before the first look, so that no change falls between look and watch.
		if r.o.Watches == nil {
			r.o.Watches = &Watches{}
		}
		watch = r.o.Watches.watch(r.path)
		defer watch.close()
	}
	files, err := r.open()
	if err != nil {
		return err
	}
	defer func() {
		for _, s := range files {
			s.f.Close()
		}
	}()
	offsets, files, err := r.tail(files)
	if err != nil {
		return err
	}
	var at int64
	for i, s := range files {
		limit := s.info.Size()
		if at, err = r.deliver(s, offsets[i], limit); err != nil {
			return err
		}
	}
	if !r.o.Follow {
		return nil
	}
	last := source{}
	if n := len(files); n > 0 {
		last, files = files[n-1], files[:n-1]
	}
	return r.follow(watch, last, at)
}

// open opens all files of the log, the oldest first. A rotation in the middle of it
// shows in path naming another file afterwards: then all is done again.
func (r *reader) open() ([]source, error) {
	for {
		files, again, err := r.tryOpen()
		if err != nil || !again {
			return files, err
		}
		for _, s := range files {
			s.f.Close()
		}
		if err := r.ctx.Err(); err != nil {
			return nil, err
		}
	}
}

func (r *reader) tryOpen() (files []source, again bool, err error) {
	defer func() {
		if err != nil {
			for _, s := range files {
				s.f.Close()
			}
			files = nil
		}
	}()
	current, err := openSource(file{path: r.path})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	files = []source{current}
	older, err := rotated(r.path)
	if err != nil {
		return files, false, err
	}
	found := make([]os.FileInfo, 0, len(older))
	for _, f := range older {
		s, err := openSource(f)
		if errors.Is(err, fs.ErrNotExist) {
			return files, true, nil // renamed or compressed since we listed it
		}
		if err != nil {
			return files, false, err
		}
		found = append(found, s.info)
		if f.index == 1 && os.SameFile(s.info, current.info) {
			s.f.Close() // between the two halves of a rotation
			continue
		}
		files = append(files, s)
	}
	now, err := os.Stat(r.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return files, false, err
	}
	if err != nil || !os.SameFile(now, current.info) {
		return files, true, nil
	}
	if same, err := stillThere(r.path, older, found); err != nil || !same {
		return files, true, err
	}
	for i, j := 0, len(files)-1; i < j; i, j = i+1, j-1 {
		files[i], files[j] = files[j], files[i]
	}
	return files, false, nil
}

// stillThere tells that the rotated files have the names by which they were found: a
// rotation renames them one by one, before path names another file.
func stillThere(path string, list []file, found []os.FileInfo) (bool, error) {
	now, err := rotated(path)
	if err != nil || !slices.Equal(now, list) {
		return false, err
	}
	for i, f := range list {
		info, err := os.Stat(f.path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(info, found[i]) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

func openSource(f file) (source, error) {
	opened, err := os.Open(f.path)
	if err != nil {
		return source{}, err
	}
	info, err := opened.Stat()
	if err != nil {
		opened.Close()
		return source{}, err
	}
	return source{opened, info, f.gz}, nil
}

// tail decides where to begin: the files that are needed, and the offset in each (for
// a compressed one, in its uncompressed content). The files left out are closed.
func (r *reader) tail(files []source) (offsets []int64, needed []source, err error) {
	first := 0
	offset := int64(0)
	if r.o.Tail >= 0 {
		need := r.o.Tail
		for first = len(files); first > 0 && need > 0; {
			first--
			var found int
			if files[first].gz {
				found, offset, err = r.tailGzip(files[first].f, need)
			} else {
				found, offset, err = r.format.tail(files[first].f, files[first].info.Size(), need)
			}
			if err != nil {
				return nil, files, err
			}
			need -= found
		}
		if first == len(files) && first > 0 { // none asked for, but the last is where following begins
			first--
			if offset, err = r.format.whole(files[first].f, files[first].info.Size()); err != nil {
				return nil, files, err
			}
		}
	} else if !r.o.Since.IsZero() {
		for first < len(files)-1 && files[first].info.ModTime().Before(r.o.Since) {
			first++
		}
	}
	for _, s := range files[:first] {
		s.f.Close()
	}
	needed = files[first:]
	offsets = make([]int64, len(needed))
	if len(offsets) > 0 {
		offsets[0] = offset
	}
	return offsets, needed, nil
}

// tailGzip is a format's tail for a compressed file, which can only be read forwards.
func (r *reader) tailGzip(f *os.File, n int) (found int, offset int64, err error) {
	entries, err := r.countGzip(f, nil)
	if err != nil {
		return 0, 0, err
	}
	if entries <= n {
		return entries, 0, nil
	}
	skip := entries - n
	_, err = r.countGzip(f, func(end int64) bool {
		skip--
		offset = end
		return skip > 0
	})
	return n, offset, err
}

// countGzip calls each with the offset after every entry until it returns false.
func (r *reader) countGzip(f *os.File, each func(end int64) bool) (entries int, err error) {
	z, err := gunzip(f)
	if err != nil {
		return 0, err
	}
	r.lines.Reset(z)
	at := int64(0)
	for {
		entry, err := r.format.next(r.lines, &r.long)
		if err == io.EOF {
			return entries, nil
		}
		if err != nil {
			return entries, fmt.Errorf("%s: %w", f.Name(), err)
		}
		entries++
		at += int64(len(entry))
		if each != nil && !each(at) {
			return entries, nil
		}
	}
}

func gunzip(f *os.File) (io.Reader, error) {
	z, err := gzip.NewReader(io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return z, nil
}

// deliver hands out the entries of s between offset and limit, and returns where the
// last whole line ended. For a compressed file, limit is ignored.
func (r *reader) deliver(s source, offset, limit int64) (int64, error) {
	var in io.Reader
	if s.gz {
		z, err := gunzip(s.f)
		if err != nil {
			return 0, err
		}
		if _, err := io.CopyN(io.Discard, z, offset); err != nil {
			return 0, fmt.Errorf("%s: %w", s.f.Name(), err)
		}
		in = z
	} else {
		in = io.NewSectionReader(s.f, offset, max(limit-offset, 0))
	}
	r.lines.Reset(in)
	for {
		if err := r.ctx.Err(); err != nil {
			return offset, err
		}
		entry, err := r.format.next(r.lines, &r.long)
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF && !s.gz:
			return offset, nil
		case err != nil:
			return offset, fmt.Errorf("%s: %w", s.f.Name(), err)
		}
		offset += int64(len(entry))
		if err := r.one(entry); err != nil {
			return offset, err
		}
	}
}

func (r *reader) one(line []byte) error {
	e, err := r.format.decode(line, &r.scratch)
	if err != nil {
		return nil
	}
	if e.Attrs == nil {
		e.Attrs = r.attrs
	}
	if !r.o.Until.IsZero() && e.Time.After(r.o.Until) {
		return errEnough
	}
	if e.Time.Before(r.o.Since) || e.Stream == Stdout && !r.o.Stdout || e.Stream == Stderr && !r.o.Stderr {
		return nil
	}
	return r.fn(e)
}
