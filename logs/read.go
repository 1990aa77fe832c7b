package logs

import (
	"bufio"
	"bytes"
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
func Read(ctx context.Context, path string, o ReadOptions, fn func(Entry) error) error {
	r := &reader{ctx: ctx, path: path, o: o, fn: fn, lines: bufio.NewReaderSize(nil, 64<<10)}
	err := r.read()
	if err == errEnough {
		return nil
	}
	return err
}

type reader struct {
	ctx     context.Context
	path    string
	o       ReadOptions
	fn      func(Entry) error
	scratch []byte
	lines   *bufio.Reader
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
		watch = newWatcher(r.path)
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
				found, offset, err = tailGzip(files[first].f, need)
			} else {
				found, offset, err = tailPlain(files[first].f, files[first].info.Size(), need)
			}
			if err != nil {
				return nil, files, err
			}
			need -= found
		}
		if first == len(files) && first > 0 { // none asked for, but the last is where following begins
			first--
			offset = wholeLines(files[first].f, files[first].info.Size())
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

// tailPlain finds the last n lines among the first size bytes of f, reading backwards.
// An unfinished last line does not count.
func tailPlain(f io.ReaderAt, size int64, n int) (found int, offset int64, err error) {
	chunk := make([]byte, 64<<10)
	newlines := 0
	for end := size; end > 0; {
		part := chunk[:min(int64(len(chunk)), end)]
		if _, err := f.ReadAt(part, end-int64(len(part))); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		end -= int64(len(part))
		for i := len(part); i > 0; {
			if i = bytes.LastIndexByte(part[:i], '\n'); i < 0 {
				break
			}
			if newlines == n {
				return n, end + int64(i) + 1, nil
			}
			newlines++
		}
	}
	return newlines, 0, nil
}

// wholeLines is the offset after the last newline among the first size bytes.
func wholeLines(f io.ReaderAt, size int64) int64 {
	chunk := make([]byte, 4096)
	for end := size; end > 0; {
		part := chunk[:min(int64(len(chunk)), end)]
		if _, err := f.ReadAt(part, end-int64(len(part))); err != nil {
			return 0
		}
		end -= int64(len(part))
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			return end + int64(i) + 1
		}
	}
	return 0
}

// tailGzip is tailPlain for a compressed file, which can only be read forwards: it
// keeps the offsets of the last n lines in a ring.
func tailGzip(f *os.File, n int) (found int, offset int64, err error) {
	lines, err := countGzip(f, nil)
	if err != nil {
		return 0, 0, err
	}
	if lines <= n {
		return lines, 0, nil
	}
	skip := lines - n
	_, err = countGzip(f, func(end int64) bool {
		skip--
		offset = end
		return skip > 0
	})
	return n, offset, err
}

// countGzip calls each with the offset after every newline until it returns false.
func countGzip(f *os.File, each func(end int64) bool) (lines int, err error) {
	z, err := gunzip(f)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	at := int64(0)
	for {
		n, err := z.Read(buf)
		for i := 0; i < n; {
			j := bytes.IndexByte(buf[i:n], '\n')
			if j < 0 {
				break
			}
			i += j + 1
			lines++
			if each != nil && !each(at+int64(i)) {
				return lines, nil
			}
		}
		at += int64(n)
		if err == io.EOF {
			return lines, nil
		}
		if err != nil {
			return lines, fmt.Errorf("%s: %w", f.Name(), err)
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
	var long []byte
	for {
		if err := r.ctx.Err(); err != nil {
			return offset, err
		}
		line, err := r.lines.ReadSlice('\n')
		if err == bufio.ErrBufferFull {
			long = append(long, line...)
			if len(long) > maxEntry {
				return offset, fmt.Errorf("%s: a line of more than %d bytes is no log entry", s.f.Name(), maxEntry)
			}
			continue
		}
		if err == io.EOF {
			if len(long)+len(line) > 0 && s.gz {
				return offset, io.ErrUnexpectedEOF
			}
			return offset, nil
		}
		if err != nil {
			return offset, err
		}
		offset += int64(len(long) + len(line))
		if len(long) > 0 {
			line = append(long, line...)
			long = long[:0]
		}
		if err := r.one(line); err != nil {
			return offset, err
		}
	}
}

// maxEntry bounds the memory that a broken file can make us use. Other writers of the
// format do not split lines at 16 KiB, so it is far above what ours needs.
const maxEntry = 64 << 20

func (r *reader) one(line []byte) error {
	e, err := decode(line, &r.scratch)
	if err != nil {
		return nil
	}
	if !r.o.Until.IsZero() && e.Time.After(r.o.Until) {
		return errEnough
	}
	if e.Time.Before(r.o.Since) || e.Stream == Stdout && !r.o.Stdout || e.Stream == Stderr && !r.o.Stderr {
		return nil
	}
	return r.fn(e)
}
