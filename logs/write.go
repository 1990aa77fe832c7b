package logs

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"sync"
	"time"

	"berth/logs/remote"
)

// readSize is a pipe's capacity.
const readSize = 64 << 10

// message is one line on its way to a log.
type message = remote.Message

// output is where messages go. Its methods are called by one goroutine at a time.
type output interface {
	Add(m *message)
	Flush() // after what came with one read
	Close() error
}

// Writer writes a container's log. It is safe for concurrent use.
type Writer struct {
	mu      sync.Mutex // held while outputs are used
	outputs []output
}

// Open opens the log at path for appending; earlier entries stay. What a crash left
// unfinished (half a line, half a rotation) is set right. For a remote driver path is the
// cache that it is read from; a server that has to be there and is not is an error.
func Open(ctx context.Context, path string, o Options) (*Writer, error) {
	w := &Writer{}
	if path != "" {
		f, err := openFile(path, o)
		if err != nil {
			return nil, err
		}
		out := output(f)
		if o.Buffer > 0 && o.Remote == nil {
			out = newRing(f, o.Buffer)
		}
		w.outputs = append(w.outputs, out)
	}
	if o.Remote != nil {
		sender, err := remote.Open(ctx, *o.Remote)
		if err != nil {
			return nil, errors.Join(err, w.Close())
		}
		w.outputs = append(w.outputs, sender)
	}
	return w, nil
}

// Copy reads r to its end and logs what comes as entries of stream, line by line, a
// line longer than 16 KiB in parts. tee, if not nil, sees every chunk as it was read,
// before it is logged, and must not keep it.
//
// Lines that came with one read are written by one write(2), before the next read: a
// killed writer loses nothing it has read but an unfinished line. When the log cannot
// be written (a full disk, a server that is gone for long), Copy goes on reading, so that
// the container is not blocked, and Close tells the first failure.
func (w *Writer) Copy(stream string, r interface{ Read([]byte) (int, error) }, tee func([]byte)) error {
	s := splitter{w: w, m: message{Stream: stream}}
	buf := make([]byte, readSize)
	kept := 0 // bytes of an unfinished line at the start of buf
	for {
		n, err := r.Read(buf[kept:])
		if n > 0 {
			if tee != nil {
				tee(buf[kept : kept+n])
			}
			rest := s.log(buf[:kept+n], kept, false)
			kept = copy(buf, rest)
		}
		if err != nil {
			if kept > 0 {
				s.log(buf[:kept], 0, true)
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// splitter makes messages of one stream.
type splitter struct {
	w *Writer
	m message // its part, line and time go from one call to the next
}

// log hands out the whole lines in data and returns the rest. In the first seen bytes
// there is no newline. last: the rest is handed out too. Each output gets all of it before
// the next one does: files first, for a server may keep us waiting.
func (s *splitter) log(data []byte, seen int, last bool) (rest []byte) {
	if seen > 0 && !last && len(data) < maxLine && bytes.IndexByte(data[seen:], '\n') < 0 {
		return data
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	now, begin := time.Now(), s.m
	for _, out := range s.w.outputs {
		s.m = begin
		rest = s.split(out, data, seen, last, now)
		out.Flush()
	}
	return rest
}

func (s *splitter) split(out output, data []byte, seen int, last bool, now time.Time) (rest []byte) {
	for len(data) > 0 {
		n := bytes.IndexByte(data[seen:min(len(data), max(seen, maxLine))], '\n')
		switch {
		case n >= 0:
			n += seen
			s.add(out, data[:n], now, false)
			n++ // the newline
		case len(data) >= maxLine:
			n = maxLine
			s.add(out, data[:n], now, true)
		case last:
			n = len(data)
			s.add(out, data, now, true)
		default:
			return data
		}
		data, seen = data[n:], 0
	}
	return nil
}

// add hands out one message. Parts of a line have its first part's time.
func (s *splitter) add(out output, text []byte, now time.Time, open bool) {
	m := &s.m
	m.Text, m.Open = text, open
	switch {
	case m.Part > 0:
		m.Part++
	case open:
		var id [32]byte
		_, _ = rand.Read(id[:]) // never fails, see there
		m.Part, m.Line, m.Time = 1, hex.EncodeToString(id[:]), now
	default:
		m.Time = now
	}
	out.Add(m)
	if !open {
		m.Part, m.Line = 0, ""
	}
}

// Close writes what is left and closes the outputs. It returns what went wrong since Open.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []error
	for _, out := range w.outputs {
		all = append(all, out.Close())
	}
	return errors.Join(all...)
}
