package logs

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// format is how entries lie in a file.
type format interface {
	// encode appends an entry.
	encode(dst []byte, m *message) []byte
	// decode reads one entry as next returned it. Line may point into data or *scratch.
	decode(data []byte, scratch *[]byte) (Entry, error)
	// next returns the next whole entry of r, valid until the next call; io.EOF if none is
	// left, io.ErrUnexpectedEOF if only a part of one is.
	next(r *bufio.Reader, long *[]byte) ([]byte, error)
	// tail finds the last n entries among the first size bytes of f, reading backwards. An
	// unfinished last one does not count.
	tail(f io.ReaderAt, size int64, n int) (found int, offset int64, err error)
	// whole is the offset after the last whole entry among the first size bytes.
	whole(f io.ReaderAt, size int64) (int64, error)
}

func (o Options) format() (format, error) {
	if o.Driver != "" && o.Driver != DriverJSONFile {
		return frames{}, nil
	}
	f := &jsonLines{}
	if len(o.Attrs) > 0 {
		attrs, err := json.Marshal(o.Attrs)
		if err != nil {
			return nil, fmt.Errorf("log attributes: %w", err)
		}
		f.attrs = append([]byte(`,"attrs":`), attrs...)
	}
	return f, nil
}

// jsonLines is json-file's format.
type jsonLines struct {
	attrs []byte // `,"attrs":{…}`, or nothing

	// What comes behind the text of messages with this stream and time.
	stream string
	time   time.Time
	after  []byte
}

func (f *jsonLines) encode(dst []byte, m *message) []byte {
	if f.stream != m.Stream || f.time != m.Time {
		f.stream, f.time = m.Stream, m.Time
		f.after = append(append(append(f.after[:0], `,"stream":"`...), m.Stream...), '"')
		f.after = append(append(f.after, f.attrs...), `,"time":"`...)
		f.after = m.Time.UTC().AppendFormat(f.after, time.RFC3339Nano)
		f.after = append(f.after, "\"}\n"...)
	}
	dst = append(dst, `{"log":"`...)
	dst = appendText(dst, m.Text)
	if !m.Open {
		dst = append(dst, `\n`...)
	}
	dst = append(dst, '"')
	return append(dst, f.after...)
}

func (*jsonLines) decode(data []byte, scratch *[]byte) (Entry, error) { return decode(data, scratch) }

// maxEntry bounds the memory that a broken file can make us use. Other writers of the
// format do not split lines at 16 KiB, so it is far above what ours needs.
const maxEntry = 64 << 20

func (*jsonLines) next(r *bufio.Reader, long *[]byte) ([]byte, error) {
	*long = (*long)[:0]
	for {
		line, err := r.ReadSlice('\n')
		switch {
		case err == bufio.ErrBufferFull:
			if *long = append(*long, line...); len(*long) > maxEntry {
				return nil, fmt.Errorf("a line of more than %d bytes is no log entry", maxEntry)
			}
			continue
		case err == io.EOF && len(*long)+len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		case len(*long) > 0:
			*long = append(*long, line...)
			return *long, nil
		}
		return line, nil
	}
}

func (*jsonLines) tail(f io.ReaderAt, size int64, n int) (found int, offset int64, err error) {
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

func (*jsonLines) whole(f io.ReaderAt, size int64) (int64, error) {
	chunk := make([]byte, 4096)
	for end := size; end > 0; {
		part := chunk[:min(int64(len(chunk)), end)]
		if _, err := f.ReadAt(part, end-int64(len(part))); err != nil {
			return 0, err
		}
		end -= int64(len(part))
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			return end + int64(i) + 1, nil
		}
	}
	return 0, nil
}
