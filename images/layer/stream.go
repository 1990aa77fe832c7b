package layer

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"berth/archive"
	"berth/fail"
	"berth/oci"
)

const chunkSize = 256 << 10

// stream reads a tar ahead of its consumer and hashes it, so that decompression,
// hashing and unpacking run side by side. Read and finish are the consumer's.
type stream struct {
	ctx    context.Context
	chunks chan *chunk // to the consumer; closed at the end of the input
	hashed chan *chunk // to the hasher; likewise
	stop   chan struct{}
	wg     sync.WaitGroup

	cur *chunk
	at  int
	met error // the err below, once Read has returned it

	err error // why the input ended, if not by EOF; valid once chunks is closed
	sum oci.Digest
}

// chunk is a piece of the input that the consumer and the hasher share.
type chunk struct {
	n    int
	left atomic.Int32 // who still reads it
	buf  [chunkSize]byte
}

var chunkPool = sync.Pool{New: func() any { return new(chunk) }}

func (c *chunk) release() {
	if c.left.Add(-1) == 0 {
		chunkPool.Put(c)
	}
}

// newStream starts reading r. close must be called; it waits for a read under way.
func newStream(ctx context.Context, r io.Reader) *stream {
	s := &stream{
		ctx:    ctx,
		chunks: make(chan *chunk, 4),
		hashed: make(chan *chunk, 4),
		stop:   make(chan struct{}),
	}
	s.wg.Go(func() { s.read(r) })
	s.wg.Go(s.hash)
	return s
}

func (s *stream) read(r io.Reader) {
	defer close(s.hashed)
	defer close(s.chunks)
	for {
		if s.ctx.Err() != nil {
			s.err = context.Cause(s.ctx)
			return
		}
		c := chunkPool.Get().(*chunk)
		var err error
		c.n, err = archive.Fill(r, c.buf[:])
		if c.n > 0 {
			c.left.Store(2)
			for _, to := range []chan *chunk{s.hashed, s.chunks} {
				select {
				case to <- c:
				case <-s.stop:
					return
				}
			}
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			s.err = err
			return
		}
	}
}

func (s *stream) hash() {
	h := digest.Canonical.Hash()
	for c := range s.hashed {
		h.Write(c.buf[:c.n])
		c.release()
	}
	s.sum = digest.NewDigest(digest.Canonical, h)
}

// Read is the consumer's end.
func (s *stream) Read(p []byte) (int, error) {
	if s.cur == nil {
		c, ok := <-s.chunks
		if !ok {
			if s.err != nil {
				s.met = s.err
				return 0, s.err
			}
			return 0, io.EOF
		}
		s.cur, s.at = c, 0
	}
	n := copy(p, s.cur.buf[s.at:s.cur.n])
	s.at += n
	if s.at == s.cur.n {
		s.cur.release()
		s.cur = nil
	}
	return n, nil
}

// finish reads what is left (the padding after a tar's end belongs to its digest) and
// returns the digest of the whole input.
func (s *stream) finish() (oci.Digest, error) {
	if s.cur != nil {
		s.cur.release()
		s.cur = nil
	}
	for c := range s.chunks {
		c.release()
	}
	s.wg.Wait()
	return s.sum, s.err
}

// close ends the goroutines.
func (s *stream) close() {
	close(s.stop)
	s.wg.Wait()
}

// ended is why the input broke off, nil if it has not. It is the consumer's, and only
// tells what Read has met.
func (s *stream) ended() error { return s.met }

// readError tells an input that broke off, whose error keeps its class, from one that
// is no good tar.
func (s *stream) readError(err error) error {
	if s.met != nil {
		return fmt.Errorf("read layer: %w", s.met)
	}
	if err == io.ErrUnexpectedEOF {
		return fail.New(fail.Invalid, "the layer's tar is truncated")
	}
	return fail.New(fail.Invalid, "the layer is no valid tar: %w", err)
}
