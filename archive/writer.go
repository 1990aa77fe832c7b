package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"path"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"berth/kernel"
)

// File is a file to be written: open (O_PATH does), and what stat(2) says of it.
type File struct {
	FD   int
	Stat unix.Stat_t
	Path string // as the tar shall tell it, without a slash at the end
	// Xattrs are its extended attributes, nil of none. Those that mean nothing elsewhere are
	// left out of the tar.
	Xattrs []Xattr
}

// Writer writes files as a tar in PAX form. A file with several links is written once.
// Sockets, which tar does not know, are left out.
type Writer struct {
	ctx   context.Context
	tar   *tar.Writer
	links map[[2]uint64]string // file with several links, by device and inode → where it was first met
}

// NewWriter makes a Writer that gives up when ctx ends.
func NewWriter(ctx context.Context, w io.Writer) *Writer {
	return &Writer{ctx: ctx, tar: tar.NewWriter(w), links: map[[2]uint64]string{}}
}

// Close ends the tar.
func (w *Writer) Close() error { return w.tar.Close() }

// Header writes an entry without content, as it is.
func (w *Writer) Header(h *tar.Header) error { return w.tar.WriteHeader(h) }

// Add writes f. A regular file has the size that it had when it was looked at: one that is
// being written cannot break the tar.
func (w *Writer) Add(f File) error {
	h := &tar.Header{
		Format:  tar.FormatPAX,
		Name:    f.Path,
		Mode:    int64(f.Stat.Mode & 0o7777),
		Uid:     int(f.Stat.Uid),
		Gid:     int(f.Stat.Gid),
		ModTime: time.Unix(f.Stat.Mtim.Unix()),
	}
	for _, x := range f.Xattrs {
		if portable(x.Name) {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[PAXXattr+x.Name] = x.Value
		}
	}
	switch f.Stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, f.Path+"/"
		return w.tar.WriteHeader(h)
	case unix.S_IFREG:
		h.Typeflag = tar.TypeReg
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		target, err := readlink(f.FD)
		if err != nil {
			return err
		}
		h.Linkname = target
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if f.Stat.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(f.Stat.Rdev)), int64(unix.Minor(f.Stat.Rdev))
	default: // a socket
		return nil
	}
	if f.Stat.Nlink > 1 {
		id := [2]uint64{f.Stat.Dev, f.Stat.Ino}
		first, ok := w.links[id]
		if ok {
			h.Typeflag, h.Linkname, h.PAXRecords = tar.TypeLink, first, nil
			return w.tar.WriteHeader(h)
		}
		w.links[id] = f.Path
	}
	if h.Typeflag != tar.TypeReg {
		return w.tar.WriteHeader(h)
	}
	return w.content(f, h)
}

func (w *Writer) content(f File, h *tar.Header) error {
	// Through the descriptor that was examined: by name, it could be a device by now.
	const flags = unix.O_RDONLY | unix.O_NONBLOCK
	fd, err := kernel.OpenAt(unix.AT_FDCWD, ProcPath(f.FD), flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) { // O_NOATIME is for the owner and root
		fd, err = kernel.OpenAt(unix.AT_FDCWD, ProcPath(f.FD), flags, 0)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	in := plainReader(fd)
	if fs, ok := madeUpBy(fd); ok && (h.Size == 0 || fs == unix.PROC_SUPER_MAGIC) {
		if consumed(fd, fs, &f) {
			return w.tar.WriteHeader(h)
		}
		return w.unsized(in, h)
	}
	b := TakeBuffer()
	defer b.GiveBack()
	h.Size = f.Stat.Size
	if err := w.tar.WriteHeader(h); err != nil {
		return err
	}
	for left := h.Size; left > 0; {
		if err := canceled(w.ctx); err != nil {
			return err
		}
		part := b[:min(left, copySize)]
		n, err := Fill(in, part)
		if err != nil && err != io.EOF {
			return err
		}
		clear(part[n:])
		if _, err := w.tar.Write(part); err != nil {
			return err
		}
		left -= int64(len(part))
	}
	return nil
}

// maxUnsized is how much is read of a file that the kernel makes up while it is read. Those
// that never end, such as a trace, are cut there.
const maxUnsized = 4 << 20

// unsizedPart is what is asked of such a file at once: the kernel may make as large a buffer.
const unsizedPart = 64 << 10

// unsized writes a file whose size only reading it tells. What cannot be read has no
// content: that is how most of these files refuse, and those that have no more to tell now.
func (w *Writer) unsized(in io.Reader, h *tar.Header) error {
	var data bytes.Buffer
	b := TakeBuffer()
	defer b.GiveBack()
	for data.Len() < maxUnsized {
		if err := canceled(w.ctx); err != nil {
			return err
		}
		n, err := in.Read(b[:min(unsizedPart, maxUnsized-data.Len())])
		data.Write(b[:n])
		if err != nil {
			break
		}
	}
	h.Size = int64(data.Len())
	if err := w.tar.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.tar.Write(data.Bytes())
	return err
}

// plainReader reads a descriptor by read(2) alone. An os.File would wait where a file that does
// not block has nothing to give at the moment, which nobody could end.
type plainReader int

func (r plainReader) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(int(r), b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// consumed tells whether to read a file that the kernel makes up takes away what it says from
// whom it is for: the kernel's log, whatever it is called here, and the pipes of a trace, which as
// pipes do cannot seek.
func consumed(fd int, fs int64, f *File) bool {
	if fs == unix.PROC_SUPER_MAGIC && (path.Base(f.Path) == "kmsg" || f.Stat.Ino == kernelLog()) {
		return true
	}
	_, err := unix.Seek(fd, 0, io.SeekCurrent)
	return err == unix.ESPIPE
}

// kernelLog is the inode of /proc/kmsg, the same wherever proc(5) is mounted; 0: unknown.
var kernelLog = sync.OnceValue(func() uint64 {
	var st unix.Stat_t
	if unix.Lstat("/proc/kmsg", &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0
	}
	return st.Ino
})

// madeUp tells whether a file is on one of the kernel's file systems where sizes say nothing.
func madeUp(fd int) bool {
	_, ok := madeUpBy(fd)
	return ok
}

func madeUpBy(fd int) (fs int64, ok bool) {
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil {
		return 0, false
	}
	fs = int64(st.Type) & 0xffffffff
	switch fs {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC,
		unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.PSTOREFS_MAGIC, unix.EFIVARFS_MAGIC,
		0x19800202, // mqueue
		0x62656570: // configfs
		return fs, true
	}
	return fs, false
}
