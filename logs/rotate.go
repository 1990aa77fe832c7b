package logs

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
)

func rotatedName(path string, index int) string { return path + "." + strconv.Itoa(index) }

// nextName is where the next file of a log is made before it takes path's place.
func nextName(path string) string { return path + ".next" }

// gzipName is where a rotated file is compressed before it takes its own name.
func gzipName(path string) string { return path + ".gz.tmp" }

// rotate starts a new file. path always names a file: the old one gets its second name
// path.1 before the new one replaces it in path, so a reader never finds a gap, and one
// that reads the old one recognises it by its inode.
func (l *fileLog) rotate() {
	l.compressing.Wait()
	if err := l.tryRotate(); err != nil {
		l.note(fmt.Errorf("rotate log: %w", err))
		// Without a new file the old one would grow for ever, or every line would try again.
		// Neither is worse than losing entries: grow, and try again with the next line.
	}
}

func (l *fileLog) tryRotate() error {
	if err := shift(l.path, l.o.MaxFile); err != nil {
		return err
	}
	next, err := os.OpenFile(nextName(l.path), os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	if l.o.MaxFile > 1 {
		if err := os.Link(l.path, rotatedName(l.path, 1)); err != nil {
			next.Close()
			return err
		}
	}
	if err := os.Rename(nextName(l.path), l.path); err != nil {
		next.Close()
		return err
	}
	old := l.f
	l.f, l.size = next, 0
	if l.o.Compress && l.o.MaxFile > 1 {
		l.compressing.Go(func() {
			// A failure leaves the plain file, which readers understand as well.
			_ = compress(l.path, rotatedName(l.path, 1))
		})
	}
	return old.Close()
}

// shift renames path.1 … one up, and removes what lies beyond maxFile files.
func shift(path string, maxFile int) error {
	files, err := rotated(path)
	if err != nil {
		return err
	}
	for i := len(files) - 1; i >= 0; i-- {
		f := files[i]
		if f.index+1 >= maxFile {
			err = os.Remove(f.path)
		} else {
			to := rotatedName(path, f.index+1)
			if f.gz {
				to += ".gz"
			}
			err = os.Rename(f.path, to)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// repairRotation finishes what a killed writer left between two steps of rotate.
func repairRotation(path string) error {
	if err := os.Remove(nextName(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Remove(gzipName(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	current, err := os.Stat(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	first := rotatedName(path, 1)
	if info, err := os.Stat(first); err == nil && os.SameFile(info, current) {
		return os.Remove(first)
	}
	if _, err := os.Stat(first + ".gz"); err == nil {
		if err := os.Remove(first); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// compress replaces the rotated file name by name.gz, with the time of its last entry,
// by which a follower recognises it.
func compress(path, name string) (err error) {
	from, err := os.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	to, err := os.OpenFile(gzipName(path), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			to.Close()
			os.Remove(gzipName(path))
		}
	}()
	z, err := gzip.NewWriterLevel(to, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err = io.Copy(z, from); err != nil {
		return err
	}
	if err = z.Close(); err != nil {
		return err
	}
	if err = to.Close(); err != nil {
		return err
	}
	if err = os.Chtimes(gzipName(path), info.ModTime(), info.ModTime()); err != nil {
		return err
	}
	if err = os.Rename(gzipName(path), name+".gz"); err != nil {
		return err
	}
	return os.Remove(name)
}
