package logs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const (
	readSize = 64 << 10 // a pipe's capacity
	// flushSize bounds the encoded bytes that wait in memory: short lines grow a lot.
	flushSize = 64 << 10
)

// Writer appends entries to a log. It is safe for concurrent use.
type Writer struct {
	path string
	o    Options

	attrs []byte // `,"attrs":{…}`, or nothing

	mu     sync.Mutex // guards all below
	f      *os.File
	size   int64
	out    []byte // encoded, not yet written
	middle []byte
	err    error // the first failure; the log goes on after it if it can

	compressing sync.WaitGroup // at most one gzip at a time, see rotate
}

// OpenWriter opens the log at path for appending; earlier entries stay. What a crash
// left unfinished (half a line, half a rotation) is set right.
func OpenWriter(path string, o Options) (*Writer, error) {
	w := &Writer{path: path, o: o.withDefaults()}
	if len(o.Attrs) > 0 {
		attrs, err := json.Marshal(o.Attrs)
		if err != nil {
			return nil, fmt.Errorf("log attributes: %w", err)
		}
		w.attrs = append([]byte(`,"attrs":`), attrs...)
	}
	if err := repairRotation(path); err != nil {
		return nil, fmt.Errorf("repair log: %w", err)
	}
	f, err := openLog(path)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	w.f = f
	if w.size, err = dropHalfLine(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("open log: %w", err)
	}
	return w, nil
}

func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
}

// dropHalfLine cuts f after its last newline and returns its size.
func dropHalfLine(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size := info.Size()
	end := size
	chunk := make([]byte, 4096)
	for end > 0 {
		n := min(int64(len(chunk)), end)
		if _, err := f.ReadAt(chunk[:n], end-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(chunk[:n], '\n'); i >= 0 {
			end = end - n + int64(i) + 1
			break
		}
		end -= n
	}
	if end != size {
		return end, f.Truncate(end)
	}
	return end, nil
}

// Copy reads r to its end and logs what comes as entries of stream, line by line, a
// line longer than 16 KiB in parts. tee, if not nil, sees every chunk as it was read,
// before it is logged, and must not keep it.
//
// Lines that came with one read are written by one write(2), before the next read: a
// killed writer loses nothing it has read but an unfinished line. When the log cannot
// be written (a full disk), Copy goes on reading, so that the container is not blocked,
// and returns the first failure at the end.
func (w *Writer) Copy(stream string, r interface{ Read([]byte) (int, error) }, tee func([]byte)) error {
	head := append([]byte(`,"stream":"`+stream+`"`), w.attrs...)
	head = append(head, `,"time":"`...)
	buf := make([]byte, readSize)
	kept := 0 // bytes of an unfinished line at the start of buf
	for {
		n, err := r.Read(buf[kept:])
		if n > 0 {
			if tee != nil {
				tee(buf[kept : kept+n])
			}
			rest := w.log(head, buf[:kept+n], kept, false)
			kept = copy(buf, rest)
		}
		if err != nil {
			if kept > 0 {
				w.log(head, buf[:kept], 0, true)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if !errors.Is(err, io.EOF) {
				return err
			}
			return w.err
		}
	}
}

// log writes the whole lines in data and returns the rest. In the first seen bytes
// there is no newline. last: the rest is written too.
func (w *Writer) log(head, data []byte, seen int, last bool) (rest []byte) {
	if seen > 0 && !last && len(data) < maxLine && bytes.IndexByte(data[seen:], '\n') < 0 {
		return data
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.middle = append(w.middle[:0], head...)
	w.middle = time.Now().UTC().AppendFormat(w.middle, time.RFC3339Nano)
	w.middle = append(w.middle, "\"}\n"...)
	for len(data) > 0 {
		n := bytes.IndexByte(data[seen:min(len(data), max(seen, maxLine))], '\n') + 1
		switch {
		case n > 0:
			n += seen
		case len(data) >= maxLine:
			n = maxLine
		case last:
			n = len(data)
		default:
			w.flush()
			return data
		}
		w.add(data[:n])
		data, seen = data[n:], 0
	}
	w.flush()
	return nil
}

// add encodes one line behind those that wait, rotating before it if it does not fit.
func (w *Writer) add(line []byte) {
	start := len(w.out)
	w.out = appendEntry(w.out, line, w.middle)
	if w.o.MaxSize > 0 && w.size+int64(len(w.out)) > w.o.MaxSize && w.size+int64(start) > 0 {
		entry := w.out[start:]
		w.out = w.out[:start]
		w.flush()
		w.rotate()
		w.out = append(w.out[:0], entry...)
	}
	if len(w.out) >= flushSize {
		w.flush()
	}
}

func (w *Writer) flush() {
	if len(w.out) == 0 {
		return
	}
	n, err := w.f.Write(w.out)
	if err != nil && n > 0 {
		// No half line may stay: the next entry would be glued to it.
		err = errors.Join(err, w.f.Truncate(w.size))
	}
	if err != nil {
		w.note(fmt.Errorf("write log: %w", err))
	} else {
		w.size += int64(n)
	}
	w.out = w.out[:0]
	if cap(w.out) > 4*flushSize {
		w.out = nil
	}
}

func (w *Writer) note(err error) {
	if w.err == nil {
		w.err = err
	}
}

// Close flushes and closes the file.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.compressing.Wait()
	w.flush()
	if err := w.f.Close(); err != nil {
		w.note(err)
	}
	return w.err
}
