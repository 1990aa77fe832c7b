package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	journalName = "events.jsonl"
	olderSuffix = ".1"
	// journalSize is when a file is set aside: with the one before it some 2,000 events.
	journalSize = 256 << 10
	// maxLine bounds what is kept of one event (labels can be of any size): a longer one is
	// told to who listens, and not kept.
	maxLine = 32 << 10
	// maxPending is how many events may wait for a disk that does not take them.
	maxPending = 4096
)

// journal is the file of the events, a JSON object on a line each, and the one before it.
// It is written behind the publisher by one goroutine and never flushed: what a killed
// engine wrote is there, what a power failure tears off is missed by nobody.
type journal struct {
	path string
	log  *slog.Logger
	done chan struct{} // closed when the writer has ended

	mu      sync.Mutex // guards pending, written, closed
	pending []entry
	written uint64 // number of the last event that is in the file, or was given up
	closed  bool
	wake    chan struct{}

	fileMu sync.Mutex // guards the files, and all below
	file   *os.File
	size   int64
	failed bool // the log says already that nothing can be written
}

// Open makes a bus whose history is kept in dir. What an engine that was killed left
// unfinished is dropped.
func Open(dir string, log *slog.Logger) (*Bus, error) {
	j := &journal{path: filepath.Join(dir, journalName), log: log, wake: make(chan struct{}, 1), done: make(chan struct{})}
	last, err := j.open()
	if err != nil {
		return nil, fmt.Errorf("open the history of events: %w", err)
	}
	b := NewBus()
	b.journal, b.next, j.written = j, last+1, last
	go j.run()
	return b, nil
}

// Close writes what is not written yet.
func (b *Bus) Close() error {
	j := b.journal
	if j == nil {
		return nil
	}
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	close(j.wake)
	j.mu.Unlock()
	<-j.done
	j.fileMu.Lock()
	defer j.fileMu.Unlock()
	return j.file.Close()
}

// open finds the end of the file and the number of the last event.
func (j *journal) open() (last uint64, err error) {
	if j.file, err = os.OpenFile(j.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return 0, err
	}
	info, err := j.file.Stat()
	if err != nil {
		return 0, err
	}
	whole, last, err := lastEntry(j.file, info.Size())
	if err != nil {
		return 0, err
	}
	if whole < info.Size() {
		if err := j.file.Truncate(whole); err != nil {
			return 0, err
		}
	}
	j.size = whole
	if last > 0 {
		return last, nil
	}
	older, err := os.Open(j.path + olderSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer older.Close()
	if info, err = older.Stat(); err != nil {
		return 0, err
	}
	_, last, err = lastEntry(older, info.Size())
	return last, err
}

// lastEntry reads the end of a file: where its last whole line ends, and the number of the
// last event that can be read.
func lastEntry(f *os.File, size int64) (whole int64, last uint64, err error) {
	from := max(0, size-2*maxLine)
	tail := make([]byte, size-from)
	if n, err := f.ReadAt(tail, from); err != nil && n < len(tail) {
		return 0, 0, err
	}
	end := bytes.LastIndexByte(tail, '\n') + 1
	if end == 0 {
		return 0, 0, nil // a torn first line, or nothing that we wrote
	}
	for tail = tail[:end]; len(tail) > 0; {
		start := bytes.LastIndexByte(tail[:len(tail)-1], '\n') + 1
		if e, ok := parseEntry(tail[start:]); ok {
			return from + int64(end), e.N, nil
		}
		tail = tail[:start]
	}
	return from + int64(end), 0, nil
}

// parseEntry reads one line.
func parseEntry(line []byte) (e entry, ok bool) {
	err := json.Unmarshal(line, &e)
	return e, err == nil && e.N > 0 && e.Type != "" && e.Action != "" && !e.Time.IsZero()
}

// parseEntries reads the events of a file that are from since on and have a number below
// before. What cannot be read is passed over.
func parseEntries(data []byte, since time.Time, before uint64) []Event {
	var out []Event
	for line := range bytes.Lines(data) {
		if e, ok := parseEntry(line); ok && e.N < before && !e.Time.Before(since) {
			out = append(out, e.Event)
		}
	}
	return out
}

func (j *journal) add(e entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return
	}
	if len(j.pending) == maxPending {
		j.pending = slices.Delete(j.pending, 0, maxPending/2)
	}
	j.pending = append(j.pending, e)
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// has reports whether the event is in the file, or given up.
func (j *journal) has(n uint64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return n <= j.written || len(j.pending) == maxPending || j.closed
}

// run writes what add collects, until Close.
func (j *journal) run() {
	defer close(j.done)
	for range j.wake {
		j.writePending()
	}
	j.writePending()
}

func (j *journal) writePending() {
	j.mu.Lock()
	batch := j.pending
	j.pending = nil
	j.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	j.write(batch)
	j.mu.Lock()
	j.written = batch[len(batch)-1].N
	j.mu.Unlock()
}

func (j *journal) write(batch []entry) {
	var text []byte
	for _, e := range batch {
		line, err := json.Marshal(e)
		if err != nil || len(line) >= maxLine {
			continue
		}
		text = append(append(text, line...), '\n')
	}
	j.fileMu.Lock()
	defer j.fileMu.Unlock()
	err := j.makeRoom()
	if err == nil {
		if _, err = j.file.Write(text); err != nil {
			_ = j.file.Truncate(j.size) // half a line would spoil the next one
		}
	}
	switch {
	case err == nil:
		j.size += int64(len(text))
		j.failed = false
	case !j.failed:
		j.failed = true
		j.log.Warn("events are not kept over a restart of the engine", "error", err)
	}
}

// makeRoom sets a full file aside. The caller holds fileMu.
func (j *journal) makeRoom() error {
	if j.size < journalSize {
		return nil
	}
	if err := os.Rename(j.path, j.path+olderSuffix); err != nil {
		return err
	}
	next, err := os.OpenFile(j.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_ = j.file.Close()
	j.file, j.size = next, 0
	return nil
}

// read returns the events in the files that are from since on and have a number below
// before.
func (j *journal) read(since time.Time, before uint64) []Event {
	j.fileMu.Lock()
	older, err := os.ReadFile(j.path + olderSuffix)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		j.log.Warn("older events cannot be read", "error", err)
	}
	data, err := os.ReadFile(j.path)
	if err != nil {
		j.log.Warn("older events cannot be read", "error", err)
	}
	j.fileMu.Unlock()
	return append(parseEntries(older, since, before), parseEntries(data, since, before)...)
}
