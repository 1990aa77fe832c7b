package logs

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"time"
)

// frames is the format of the driver local and of caches, the same as Docker's: a message in
// protocol buffers between two copies of its length, 4 bytes in big endian, so that it can
// be read backwards. Its fields: 1 source (text), 2 time (nanoseconds since 1970, varint),
// 3 line without newline (bytes), 4 partial (varint; no newline follows).
type frames struct{}

// frameEnds is what the two lengths take.
const frameEnds = 8

// maxFrame bounds the memory that a broken file can make us use. Docker's messages are
// shorter too.
const maxFrame = 1 << 20

// Keys of the fields: number and wire type, which is 0 for a number.
const (
	keySource  = 1<<3 | 2
	keyTime    = 2 << 3
	keyLine    = 3<<3 | 2
	keyPartial = 4 << 3
)

var errNoFrame = errors.New("not a log entry")

func (frames) encode(dst []byte, m *message) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, keySource, byte(len(m.Stream)))
	dst = append(dst, m.Stream...)
	dst = binary.AppendUvarint(append(dst, keyTime), uint64(m.Time.UnixNano()))
	dst = binary.AppendUvarint(append(dst, keyLine), uint64(len(m.Text)))
	dst = append(dst, m.Text...)
	if m.Open {
		dst = append(dst, keyPartial, 1)
	}
	n := uint32(len(dst) - start - 4)
	binary.BigEndian.PutUint32(dst[start:], n)
	return binary.BigEndian.AppendUint32(dst, n)
}

func (frames) decode(data []byte, scratch *[]byte) (Entry, error) {
	var e Entry
	if len(data) < frameEnds {
		return e, errNoFrame
	}
	rest := data[4 : len(data)-4]
	number := func() (v uint64, ok bool) {
		v, n := binary.Uvarint(rest)
		if n <= 0 {
			return 0, false
		}
		rest = rest[n:]
		return v, true
	}
	partial := false
	for len(rest) > 0 {
		key, ok := number()
		if !ok {
			return e, errNoFrame
		}
		var v uint64
		var text []byte
		switch key & 7 {
		case 0:
			v, ok = number()
		case 2:
			if v, ok = number(); ok && v <= uint64(len(rest)) {
				text, rest = rest[:v], rest[v:]
			} else {
				ok = false
			}
		default:
			ok = false
		}
		if !ok {
			return e, errNoFrame
		}
		switch key {
		case keySource:
			switch string(text) {
			case Stdout:
				e.Stream = Stdout
			case Stderr:
				e.Stream = Stderr
			default:
				return e, errNoFrame
			}
		case keyTime:
			e.Time = time.Unix(0, int64(v)).UTC()
		case keyLine:
			e.Line = text
		case keyPartial:
			partial = v != 0
		}
	}
	if e.Stream == "" {
		return e, errNoFrame
	}
	if !partial {
		*scratch = append(append((*scratch)[:0], e.Line...), '\n')
		e.Line = *scratch
	}
	return e, nil
}

func (frames) next(r *bufio.Reader, long *[]byte) ([]byte, error) {
	head, err := r.Peek(4)
	if err != nil {
		if err == io.EOF && len(head) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head))
	if n > maxFrame {
		return nil, errNoFrame
	}
	n += frameEnds
	if cap(*long) < n {
		*long = make([]byte, 0, n)
	}
	frame := (*long)[:n]
	if _, err := io.ReadFull(r, frame); err != nil {
		return nil, err
	}
	if string(frame[:4]) != string(frame[n-4:]) {
		return nil, errNoFrame
	}
	return frame, nil
}

// before is the offset of the frame that ends at end.
func (frames) before(f io.ReaderAt, end int64) (int64, error) {
	var tail, head [4]byte
	if end < frameEnds {
		return 0, errNoFrame
	}
	if _, err := f.ReadAt(tail[:], end-4); err != nil {
		return 0, err
	}
	start := end - int64(binary.BigEndian.Uint32(tail[:])) - frameEnds
	if start < 0 {
		return 0, errNoFrame
	}
	if _, err := f.ReadAt(head[:], start); err != nil {
		return 0, err
	}
	if head != tail {
		return 0, errNoFrame
	}
	return start, nil
}

func (l frames) tail(f io.ReaderAt, size int64, n int) (found int, offset int64, err error) {
	end, err := l.whole(f, size)
	if err != nil {
		return 0, 0, err
	}
	for found < n && end > 0 {
		start, err := l.before(f, end)
		if err == errNoFrame {
			return found, end, nil // what lies before cannot be read
		}
		if err != nil {
			return found, end, err
		}
		end = start
		found++
	}
	return found, end, nil
}

// whole trusts an end that looks like one, and otherwise reads from the beginning.
func (l frames) whole(f io.ReaderAt, size int64) (int64, error) {
	if size == 0 {
		return 0, nil
	}
	if _, err := l.before(f, size); err == nil {
		return size, nil
	}
	r := bufio.NewReaderSize(io.NewSectionReader(f, 0, size), 64<<10)
	var long []byte
	end := int64(0)
	for {
		frame, err := l.next(r, &long)
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF || err == errNoFrame:
			return end, nil
		case err != nil:
			return 0, err
		}
		end += int64(len(frame))
	}
}
