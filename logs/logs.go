// Package logs writes, rotates, reads and follows container logs in Docker's
// json-file format.
package logs

import (
	"context"
	"time"
)

// Stream names of an entry.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// Entry is one line, or a part of one.
type Entry struct {
	Stream string
	Time   time.Time
	// Line includes the final newline, unless the line was cut at 16 KiB or the
	// stream ended without one.
	Line  []byte
	Attrs map[string]string // what --log-opt labels, env, tag asked for
}

// Options says how a log is kept. The zero value of a field means its default.
type Options struct {
	MaxSize int64             `json:"maxSize,omitempty"` // bytes per file; default 10 MiB, -1 = no rotation
	MaxFile int               `json:"maxFile,omitempty"` // default 5
	Attrs   map[string]string `json:"attrs,omitempty"`
}

// ParseOptions reads --log-opt values of the json-file driver (max-size, max-file, …).
// A wrong or unknown one is class Invalid.
func ParseOptions(driver string, opts map[string]string) (Options, error) { panic("contract") }

// Writer appends entries to a log. It is safe for concurrent use.
type Writer struct{ _ int }

// OpenWriter opens the log at path for appending; earlier entries stay.
func OpenWriter(path string, o Options) (*Writer, error) { panic("contract") }

// Copy reads r to its end and logs what comes as entries of stream, line by line, a
// line longer than 16 KiB in parts. tee, if not nil, sees every chunk as it was read,
// before it is logged, and must not keep it.
func (w *Writer) Copy(stream string, r interface{ Read([]byte) (int, error) }, tee func([]byte)) error {
	panic("contract")
}

// Close flushes and closes the file.
func (w *Writer) Close() error { panic("contract") }

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

// Read calls fn for every selected entry in order, across rotated files, and follows
// if asked. It ends with nil at the end of the log, or with fn's or ctx's error.
// A log that does not exist (yet) has no entries.
func Read(ctx context.Context, path string, o ReadOptions, fn func(Entry) error) error {
	panic("contract")
}

// Remove deletes the log at path with its rotated files.
func Remove(path string) error { panic("contract") }
