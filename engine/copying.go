package engine

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"berth/fail"
)

// clientPatience is how long a client may stand still in the midst of a copy that keeps others
// from the container.
const clientPatience = 10 * time.Second

// errStoodStill ends a copy whose client keeps others from the container.
var errStoodStill = fail.New(fail.Conflict, "the container is wanted by others, and the client of this copy stood still for %d seconds", clientPatience/time.Second)

// copying is a copy that keeps a container's turn and goes at its client's pace: one who reads
// nothing any more would keep all others from the container for ever. So those who wait for the
// turn look whether it goes on, and end it if it does not. Nil is a copy that keeps nobody waiting.
type copying struct {
	ctx context.Context // ends with the copy
	end context.CancelCauseFunc
	i   *instance

	mu    sync.Mutex
	since time.Time // when it began to wait for its client; zero: it does not
}

// copies notes the copy of a caller who holds the turn, until over.
func (i *instance) copies() *copying {
	c := &copying{i: i}
	c.ctx, c.end = context.WithCancelCause(context.Background())
	i.copy.Store(c)
	return c
}

func (c *copying) over() {
	c.i.copy.Store(nil)
	c.end(nil)
}

// endIfStill ends a copy whose client stands still.
func (c *copying) endIfStill() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.since.IsZero() && time.Since(c.since) >= clientPatience {
		c.end(errStoodStill)
	}
}

// waiting surrounds each wait for the client.
func (c *copying) waiting(wait func() (int, error)) (int, error) {
	c.waitsSince(time.Now())
	defer c.waitsSince(time.Time{})
	return wait()
}

func (c *copying) waitsSince(t time.Time) {
	c.mu.Lock()
	c.since = t
	c.mu.Unlock()
}

// why prefers the reason why the copy was ended to what came of it.
func (c *copying) why(err error) error {
	if err != nil && c.ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(c.ctx), err)
	}
	return err
}

func (c *copying) writer(w io.Writer) io.Writer {
	if c == nil {
		return w
	}
	return pacedWriter{c, w}
}

func (c *copying) reader(r io.Reader) io.Reader {
	if c == nil {
		return r
	}
	return pacedReader{c, r}
}

type pacedWriter struct {
	c *copying
	w io.Writer
}

// pacedPiece is what a client must take within its patience: a slow one goes on.
const pacedPiece = 32 << 10

func (p pacedWriter) Write(data []byte) (done int, err error) {
	for done < len(data) && err == nil {
		var n int
		piece := data[done:min(len(data), done+pacedPiece)]
		n, err = p.c.waiting(func() (int, error) { return p.w.Write(piece) })
		done += n
	}
	return done, err
}

type pacedReader struct {
	c *copying
	r io.Reader
}

func (p pacedReader) Read(data []byte) (int, error) {
	return p.c.waiting(func() (int, error) { return p.r.Read(data) })
}
