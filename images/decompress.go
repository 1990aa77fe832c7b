package images

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"berth/fail"
	"berth/images/gunzip"
)

// compression is how a stream is packed, as its first bytes tell.
type compression string

const (
	plain    compression = ""
	gzipped  compression = "gzip"
	zstdized compression = "zstd"
	bzipped  compression = "bzip2"
	xzed     compression = "xz"
)

var magics = []struct {
	kind   compression
	prefix []byte
}{
	{gzipped, []byte{0x1f, 0x8b, 8}},           // RFC 1952 §2.3.1
	{zstdized, []byte{0x28, 0xb5, 0x2f, 0xfd}}, // RFC 8878 §3.1.1
	{bzipped, []byte("BZh")},
	{xzed, []byte{0xfd, '7', 'z', 'X', 'Z', 0x00}}, // xz file format 1.2, §2.1.1.1
}

// zstdWindow is the largest window that zstd may ask memory for (its --long=27).
const zstdWindow = 128 << 20

// decompress unpacks r, whatever it is packed with. Content that cannot be unpacked is
// class Invalid; errors of r itself keep their class. The result must be closed, which
// does not close r.
func decompress(r io.Reader) (io.ReadCloser, compression, error) {
	src := &remembering{r: r}
	b := bufio.NewReaderSize(src, 256<<10)
	head, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, plain, err
	}
	kind := compressionOf(head)
	u := &unpacked{src: src, r: b, kind: kind}
	switch kind {
	case gzipped:
		u.r, err = gunzip.NewReader(b)
	case zstdized:
		var d *zstd.Decoder
		if d, err = zstd.NewReader(b, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxWindow(zstdWindow)); err == nil {
			u.r, u.close = d, d.Close
		}
	case bzipped:
		u.r = bzip2.NewReader(b)
	case xzed:
		u.r, err = xz.NewReader(newXZGuard(b))
	default:
		err = nil
	}
	if err != nil {
		return nil, kind, u.explain(err)
	}
	return u, kind, nil
}

// Decompress unpacks r, plain or gzip, bzip2, xz or zstd. What cannot be unpacked is class
// Invalid. The result must be closed, which does not close r.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	u, _, err := decompress(r)
	return u, err
}

// compressionOf tells it from a stream's first six bytes.
func compressionOf(head []byte) compression {
	for _, m := range magics {
		if bytes.HasPrefix(head, m.prefix) {
			return m.kind
		}
	}
	return plain
}

type unpacked struct {
	src   *remembering
	r     io.Reader
	kind  compression
	close func()
}

func (u *unpacked) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	if err != nil && err != io.EOF {
		err = u.explain(err)
	}
	return n, err
}

func (u *unpacked) explain(err error) error {
	if u.src.err != nil {
		return u.src.err
	}
	if u.kind == plain {
		return err
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fail.New(fail.Invalid, "the %s stream is cut off", u.kind)
	}
	return fail.New(fail.Invalid, "the %s stream is damaged: %w", u.kind, err)
}

func (u *unpacked) Close() error {
	if u.close != nil {
		u.close()
	}
	return nil
}

// remembering keeps the error of a source, so that it is not taken for one of the
// content.
type remembering struct {
	r   io.Reader
	err error
}

func (r *remembering) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}
