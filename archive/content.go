package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"berth/fail"
)

const copySize = 1 << 20

// maxSparse bounds the time that a few bytes of a hostile tar can cost. A lastlog file
// for the highest user ID (1.2 TB) is the largest that honest images have.
const maxSparse = 2 << 40

// Buffer is what contents are copied through.
type Buffer [copySize]byte

var buffers = sync.Pool{New: func() any { return new(Buffer) }}

// TakeBuffer lends a Buffer, which GiveBack returns.
func TakeBuffer() *Buffer { return buffers.Get().(*Buffer) }

// GiveBack ends the use of b.
func (b *Buffer) GiveBack() { buffers.Put(b) }

// WriteContent writes the content of an entry to the new file fd. Sparse files keep their
// holes, and long runs of zeros become some.
func WriteContent(ctx context.Context, fd int, h *tar.Header, body io.Reader) error {
	if sparse(h) {
		return copySparse(ctx, fd, body, h.Size)
	}
	return copyPlain(ctx, fd, body)
}

func sparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// holeSize is how many zeros become a hole in a file that its tar does not call sparse.
const holeSize = 64 << 10

// copyPlain writes body to fd. Long runs of zeros become holes: a tar that was written of
// a sparse file without saying so, as most are, does not fill the disk.
func copyPlain(ctx context.Context, fd int, body io.Reader) error {
	b := TakeBuffer()
	defer b.GiveBack()
	for at, end := int64(0), int64(0); ; { // end is that of the file so far
		if err := canceled(ctx); err != nil {
			return err
		}
		n, err := Fill(body, b[:])
		for part := b[:n]; len(part) > 0; {
			data := dataBefore(part)
			if len(data) > 0 {
				if e := WriteAt(fd, data, at); e != nil {
					return e
				}
				end = at + int64(len(data))
			}
			hole := zerosBefore(part[len(data):])
			part, at = part[len(data)+hole:], at+int64(len(data)+hole)
		}
		if err == io.EOF {
			if at > end {
				if e := unix.Ftruncate(fd, at); e != nil {
					return fmt.Errorf("write: %w", e)
				}
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// dataBefore is what of b comes before its first whole block of zeros.
func dataBefore(b []byte) []byte {
	for i := 0; i+holeSize <= len(b); i += holeSize {
		if bytes.Equal(b[i:i+holeSize], zeros[:]) {
			return b[:i]
		}
	}
	return b
}

// zerosBefore is how many bytes of b are whole blocks of zeros.
func zerosBefore(b []byte) (n int) {
	for n+holeSize <= len(b) && bytes.Equal(b[n:n+holeSize], zeros[:]) {
		n += holeSize
	}
	return n
}

var zeros [holeSize]byte

// sparseBlock is what a file takes space by on most file systems.
const sparseBlock = 4096

// copySparse leaves out the blocks of zeros. It looks at ctx itself: in a hole, which
// can be far larger than the tar, nothing is read from the input.
func copySparse(ctx context.Context, fd int, body io.Reader, size int64) error {
	if size > maxSparse {
		return fail.New(fail.Invalid, "sparse file of %d bytes is too large", size)
	}
	if err := unix.Ftruncate(fd, size); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	b := TakeBuffer()
	defer b.GiveBack()
	for at := int64(0); ; {
		if err := canceled(ctx); err != nil {
			return err
		}
		n, err := Fill(body, b[:])
		for i := 0; i < n; i += sparseBlock {
			block := b[i:min(i+sparseBlock, n)]
			if !bytes.Equal(block, zeros[:len(block)]) {
				if e := WriteAt(fd, block, at+int64(i)); e != nil {
					return e
				}
			}
		}
		at += int64(n)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// WriteAt writes all of b to the file fd.
func WriteAt(fd int, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// Fill reads until b is full or the input ends. (io.ReadFull would not tell an input
// that ends from one that breaks off.)
func Fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var k int
		k, err = r.Read(b[n:])
		n += k
	}
	if n == len(b) {
		err = nil // if it ended here, the next read says so
	}
	return n, err
}
