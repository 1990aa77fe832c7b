package logs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// flushSize bounds the encoded bytes that wait in memory: short lines grow a lot.
const flushSize = 64 << 10

// fileLog is a log in files, rotated.
type fileLog struct {
	path   string
	o      Options
	format format

	f    *os.File
	size int64
	out  []byte // encoded, not yet written
	err  error  // the first failure

	compressing sync.WaitGroup // at most one gzip at a time, see rotate
}

func openFile(path string, o Options) (*fileLog, error) {
	l := &fileLog{path: path, o: o.withDefaults()}
	var err error
	if l.format, err = o.format(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if err := repairRotation(path); err != nil {
		return nil, fmt.Errorf("repair log: %w", err)
	}
	if l.f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if l.size, err = l.dropHalf(); err != nil {
		l.f.Close()
		return nil, fmt.Errorf("open log: %w", err)
	}
	return l, nil
}

// dropHalf cuts the file after its last whole entry and returns its size.
func (l *fileLog) dropHalf() (int64, error) {
	info, err := l.f.Stat()
	if err != nil {
		return 0, err
	}
	end, err := l.format.whole(l.f, info.Size())
	if err == nil && end != info.Size() {
		err = l.f.Truncate(end)
	}
	return end, err
}

// Add encodes one message behind those that wait, rotating before it if it does not fit.
func (l *fileLog) Add(m *message) {
	start := len(l.out)
	l.out = l.format.encode(l.out, m)
	if l.o.MaxSize > 0 && l.size+int64(len(l.out)) > l.o.MaxSize && l.size+int64(start) > 0 {
		entry := l.out[start:]
		l.out = l.out[:start]
		l.Flush()
		l.rotate()
		l.out = append(l.out[:0], entry...)
	}
	if len(l.out) >= flushSize {
		l.Flush()
	}
}

// Flush writes what waits.
func (l *fileLog) Flush() {
	if len(l.out) == 0 {
		return
	}
	n, err := l.f.Write(l.out)
	written := int64(n)
	if err != nil && n > 0 {
		// No half entry may stay: the next one would be glued to it. Whole ones do, for somebody
		// may have read them already.
		var e error
		if written, e = l.format.whole(bytes.NewReader(l.out), written); e == nil {
			e = l.f.Truncate(l.size + written)
		}
		err = errors.Join(err, e)
	}
	if err != nil {
		l.note(fmt.Errorf("write log: %w", err))
	}
	l.size += written
	if l.out = l.out[:0]; cap(l.out) > 4*flushSize {
		l.out = nil
	}
}

func (l *fileLog) note(err error) {
	if l.err == nil {
		l.err = err
	}
}

// Close flushes and closes the file.
func (l *fileLog) Close() error {
	l.compressing.Wait()
	l.Flush()
	if err := l.f.Close(); err != nil {
		l.note(err)
	}
	return l.err
}
