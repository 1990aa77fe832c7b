// Package logs writes, rotates, reads and follows container logs in Docker's
// json-file format: one JSON object a line,
//
//	{"log":"text\n","stream":"stdout","attrs":{"k":"v"},"time":"2006-01-02T15:04:05.999999999Z"}
//
// with attrs only where the log options ask for some. The newest entries are in the
// file itself, older ones in path.1, path.2 … (or path.1.gz …), path.1 being the
// youngest of them.
package logs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Stream names of an entry.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// maxLine is the longest part of a line that one entry holds, as in Docker.
const maxLine = 16 << 10

// Entry is one line, or a part of one.
type Entry struct {
	Stream string
	Time   time.Time
	// Line includes the final newline, unless the line was cut at 16 KiB or the
	// stream ended without one. It is valid during the call that delivers it.
	Line  []byte
	Attrs map[string]string // what --log-opt labels, env, tag asked for
}

// file is one of the files of a log.
type file struct {
	path  string
	index int // 0 for the one that is written to
	gz    bool
}

// rotated lists the rotated files of the log at path, the youngest first. There may
// be gaps after a crash in the middle of a rotation.
func rotated(path string) ([]file, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []file
	for _, e := range entries {
		suffix, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+".")
		if !ok {
			continue
		}
		number, gz := strings.CutSuffix(suffix, ".gz")
		index, err := strconv.Atoi(number)
		if err != nil || index < 1 || strconv.Itoa(index) != number {
			continue
		}
		files = append(files, file{filepath.Join(filepath.Dir(path), e.Name()), index, gz})
	}
	sort.Slice(files, func(i, j int) bool {
		if files[i].index != files[j].index {
			return files[i].index < files[j].index
		}
		return files[i].gz // the plain file is still there only if the other one is unfinished
	})
	// A crash between the end of a compression and the removal of its source leaves
	// both; the compressed one was renamed into place complete.
	unique := files[:0]
	for _, f := range files {
		if n := len(unique); n == 0 || unique[n-1].index != f.index {
			unique = append(unique, f)
		}
	}
	return unique, nil
}

// Remove deletes the log at path with its rotated files. A log that does not exist is
// no error.
func Remove(path string) error {
	files, err := rotated(path)
	for _, f := range append(files, file{path: path}) {
		for _, name := range []string{f.path, strings.TrimSuffix(f.path, ".gz")} {
			if e := os.Remove(name); e != nil && !errors.Is(e, fs.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}
	for _, left := range []string{nextName(path), gzipName(path)} {
		if e := os.Remove(left); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}
