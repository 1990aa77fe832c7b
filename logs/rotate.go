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
		// Neither that the old file grows nor that every line tries again is worse than losing
		// entries. So tryRotate may fail time and again, and must not lose any by that either.
	}
}

func (l *fileLog) tryRotate() error {
	// First of all, for it is what a full disk refuses.
	next, err := os.OpenFile(nextName(l.path), os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	err = shift(l.path, l.o.MaxFile)
	if err == nil && l.o.MaxFile > 1 {
		err = os.Link(l.path, rotatedName(l.path, 1))
	}
	if err != nil {
		next.Close()
		return err
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

// shift makes room for path.1: it renames path.1 … one up, as far as there is no gap, and
// removes what lies beyond maxFile files. A gap is of a rotation that was not completed.
func shift(path string, maxFile int) error {
	files, err := rotated(path)
	if err != nil {
		return err
	}
	inRow := 0
	for inRow < len(files) && files[inRow].index == inRow+1 {
		inRow++
	}
	for i := len(files) - 1; i >= 0; i-- {
		f := files[i]
		switch {
		case i < inRow && f.index+1 >= maxFile, f.index >= maxFile:
			err = os.Remove(f.path)
		case i < inRow:
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
