package testkit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// Record is what one test has shown of Berth: the command lines that it ran and the API
// rows that it asked for. It counts only if the test passed, for then all of them ended as
// the test expected. docs/compatibility.md is made from the records of a whole run.
type Record struct {
	Test    string    `json:"test"`
	Outcome string    `json:"outcome"` // passed, failed or skipped
	Lines   []*Line   `json:"lines,omitempty"`
	Answers []*Answer `json:"answers,omitempty"`
}

// Line is one command line of `berth`, without the program's name.
type Line struct {
	Args []string `json:"args"`
	Code int      `json:"code"`
}

// Answer is one status that a client got from a row of the API.
type Answer struct {
	Row    string `json:"row"` // METHOD /path/{id}
	Status int    `json:"status"`
	By     string `json:"by,omitempty"` // a client in another language; empty: Go's
}

// recorder collects the records of this process. Where BERTH_RECORD names a file, each
// record is appended to it as a line of JSON as well.
var recorder struct {
	mu   sync.Mutex
	open map[testing.TB]*Record // nil: the test is over, and what its clean-up does proves nothing
	done []Record
}

// Recorded are the records of the tests that have ended so far.
func Recorded() []Record {
	recorder.mu.Lock()
	defer recorder.mu.Unlock()
	return slices.Clone(recorder.done)
}

// ReadRecords reads a file that BERTH_RECORD has named.
func ReadRecords(path string) ([]Record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []Record
	for d := json.NewDecoder(bytes.NewReader(data)); ; {
		var r Record
		if err := d.Decode(&r); err == io.EOF {
			return out, nil
		} else if err != nil {
			return nil, fmt.Errorf("records in %s: %w", path, err)
		}
		out = append(out, r)
	}
}

// NoteLine notes that a test has run program; programs other than berth are not noted, unless
// they run it (env, nsenter). The code may be set later, when the program has ended.
func NoteLine(t testing.TB, program string, args []string) *Line {
	isBerth := func(word string) bool { return filepath.IsAbs(word) && filepath.Base(word) == "berth" }
	words := append([]string{program}, args...)
	at := slices.IndexFunc(words, isBerth)
	line := &Line{Args: slices.Clone(words[at+1:])}
	if at >= 0 {
		note(t, func(r *Record) { r.Lines = append(r.Lines, line) })
	}
	return line
}

// NoteAnswer notes what a row of the API has answered to a test.
func NoteAnswer(t testing.TB, a Answer) {
	note(t, func(r *Record) {
		if !slices.ContainsFunc(r.Answers, func(b *Answer) bool { return *b == a }) {
			r.Answers = append(r.Answers, &a)
		}
	})
}

// note changes t's record, which is closed when t ends.
func note(t testing.TB, change func(*Record)) {
	recorder.mu.Lock()
	defer recorder.mu.Unlock()
	r, known := recorder.open[t]
	if !known {
		if recorder.open == nil {
			recorder.open = map[testing.TB]*Record{}
		}
		r = &Record{Test: t.Name()}
		recorder.open[t] = r
		t.Cleanup(func() { closeRecord(t) })
	}
	if r != nil {
		change(r)
	}
}

// skip skips a test for what the machine does not have, and notes that.
func skip(t testing.TB, format string, args ...any) {
	t.Helper()
	note(t, func(*Record) {})
	t.Skipf(format, args...)
}

func closeRecord(t testing.TB) {
	recorder.mu.Lock()
	defer recorder.mu.Unlock()
	r := recorder.open[t]
	recorder.open[t] = nil
	switch {
	case t.Failed():
		r.Outcome = "failed"
	case t.Skipped():
		r.Outcome = "skipped"
	default:
		r.Outcome = "passed"
	}
	recorder.done = append(recorder.done, *r)
	path := os.Getenv("BERTH_RECORD")
	if path == "" {
		return
	}
	data, err := json.Marshal(r)
	if err == nil {
		err = appendLine(path, data)
	}
	if err != nil {
		t.Errorf("note what the test has shown: %v", err)
	}
}

func appendLine(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}
