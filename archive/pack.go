package archive

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
)

// Pack writes the file that at is open on (O_PATH does), and all that is below it if it is
// a directory, as a tar whose top entry is called name. Nothing is followed; what vanishes
// meanwhile is left out. Files of other mounts below are among them.
func Pack(ctx context.Context, at *os.File, name string, w io.Writer) error {
	out := bufio.NewWriterSize(w, 256<<10)
	p := &packer{NewWriter(ctx, out)}
	f := File{FD: int(at.Fd()), Path: strings.TrimSuffix(name, "/")}
	err := unix.Fstat(f.FD, &f.Stat)
	if err == nil && f.Stat.Mode&unix.S_IFMT == unix.S_IFSOCK {
		err = fail.New(fail.Invalid, "%s is a socket, which cannot be copied", name)
	}
	if err == nil {
		err = p.file(f)
	}
	if err == nil {
		err = p.Close()
	}
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}

type packer struct{ *Writer }

// gone tells that a file has vanished while it was looked at.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }

// file writes one file and what is below it.
func (p *packer) file(f File) error {
	if err := canceled(p.ctx); err != nil {
		return err
	}
	if len(f.Path) > maxPath {
		return fail.New(fail.Invalid, "there is a path of more than %d bytes", maxPath)
	}
	isDir := f.Stat.Mode&unix.S_IFMT == unix.S_IFDIR
	attrs, err := ReadXattrs(f.FD)
	if err != nil && !gone(err) {
		return fmt.Errorf("%s: read attributes: %w", f.Path, err)
	}
	f.Xattrs = attrs
	switch err := p.Add(f); {
	case err == nil:
	case !isDir && madeUp(f.FD): // some cannot even be opened
		return nil
	default:
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	if !isDir {
		return nil
	}
	dir, err := kernel.OpenAt(f.FD, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if gone(err) || err != nil && madeUp(f.FD) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	d := os.NewFile(uintptr(dir), f.Path)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil && !gone(err) && !madeUp(f.FD) {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := p.child(dir, f.Path+"/"+name, name); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) child(dir int, path, name string) error {
	fd, err := kernel.OpenAt(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	f := File{FD: fd, Path: path}
	if err := unix.Fstat(fd, &f.Stat); err != nil {
		if gone(err) {
			return nil
		}
		return fmt.Errorf("%s: %w", path, err)
	}
	return p.file(f)
}
