package supervisor

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// clientBuffer is how far a client may be behind before the process has to wait for it,
// as for any reader of a pipe. Docker makes it wait too. A client that is gone is dropped,
// and after the end of the process nothing waits any more: what is left is buffered whole.
const clientBuffer = 1 << 20

// headPatience is how long output waits for a client to read the head of the HTTP answer that
// came before it. docker-py reads through a buffer and then goes on at the bare socket: what
// arrives together with the head is lost to it. Docker is slow enough to keep the two apart.
const headPatience = 50 * time.Millisecond

// farewell is how long a client may take to close its connection after all was said.
const farewell = 2 * time.Second

// client is one attached connection.
type client struct {
	opts   AttachOptions
	f      *os.File // the connection, non-blocking
	raw    syscall.RawConn
	keys   detacher
	tty    bool
	closed chan struct{} // the reading side has ended and nothing is left to write

	mu       sync.Mutex // guards all below
	changed  *sync.Cond
	out      []byte
	headRead bool // what was written before us has been read, or shall not be waited for
	writing  bool // a flush is under way
	endless  bool // no back-pressure
	finished bool // no output comes any more
	gone     bool // nothing can be written any more
	unread   bool // the reading side has ended
}

// newClient takes over the descriptor fd.
func newClient(fd int, opts AttachOptions, tty bool) (*client, error) {
	keys, err := parseDetachKeys(opts.DetachKeys)
	if err != nil || !tty {
		keys = nil // the engine has checked them; attaching is worth more than detaching
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(fd), "client")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	c := &client{opts: opts, f: f, raw: raw, keys: detacher{keys: keys}, tty: tty, closed: make(chan struct{})}
	c.changed = sync.NewCond(&c.mu)
	// Other sockets do not tell what their peer has read.
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	c.headRead = err != nil || domain != unix.AF_UNIX
	return c, nil
}

// Stream numbers of Docker's framing.
const (
	toStdout = 1
	toStderr = 2
)

func (c *client) wants(stream byte) bool {
	return stream == toStdout && c.opts.Stdout || stream == toStderr && c.opts.Stderr
}

// write passes data on, at once if the connection takes it, and waits while the client
// is too far behind.
func (c *client) write(stream byte, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.out) >= clientBuffer && !c.endless && !c.gone {
		c.changed.Wait()
	}
	if c.gone {
		return
	}
	var header []byte
	if c.opts.Framed {
		header = make([]byte, 8)
		header[0] = stream
		binary.BigEndian.PutUint32(header[4:], uint32(len(data)))
	}
	if !c.writing && c.clear() {
		n, err := c.sendNow(header, data)
		if err != nil {
			c.lost()
			return
		}
		if n < len(header) {
			header = header[n:]
		} else {
			data = data[n-len(header):]
			header = nil
		}
		if len(header)+len(data) == 0 {
			return
		}
	}
	c.out = append(append(c.out, header...), data...)
	if !c.writing {
		c.writing = true
		go c.flush() // ends when nothing is left, or the connection is broken
	}
}

// sendNow writes as much as the socket takes without waiting.
func (c *client) sendNow(header, data []byte) (sent int, err error) {
	e := c.raw.Control(func(fd uintptr) {
		for {
			sent, err = unix.SendmsgBuffers(int(fd), [][]byte{header, data}, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			if err != unix.EINTR {
				break
			}
		}
	})
	if err == unix.EAGAIN {
		return 0, nil
	}
	return max(sent, 0), errors.Join(err, e)
}

// clear reports whether the client has read all that was written before our first byte. The
// caller holds mu.
func (c *client) clear() bool {
	if c.headRead {
		return true
	}
	e := c.raw.Control(func(fd uintptr) {
		left, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		c.headRead = err != nil || left == 0
	})
	return c.headRead || e != nil
}

func (c *client) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Nothing announces that the other end has read.
	for patient := time.Now().Add(headPatience); !c.clear() && !c.gone; {
		if time.Now().After(patient) {
			c.headRead = true
			break
		}
		c.mu.Unlock()
		time.Sleep(200 * time.Microsecond)
		c.mu.Lock()
	}
	for len(c.out) > 0 && !c.gone {
		out := c.out
		c.out = nil
		c.mu.Unlock()
		err := c.writeAll(out)
		c.mu.Lock()
		if err != nil {
			c.lost()
		}
		c.changed.Broadcast()
	}
	c.writing = false
	c.settle()
}

// writeAll hands out in pieces, so that a waiting process goes on as room appears: what
// is taken from c.out counts as written.
func (c *client) writeAll(out []byte) error {
	for len(out) > 0 {
		n, err := c.f.Write(out[:min(len(out), 64<<10)])
		if err != nil {
			return err
		}
		out = out[n:]
	}
	return nil
}

// lost drops a client that cannot be written to. The caller holds mu.
func (c *client) lost() {
	c.gone, c.out = true, nil
	c.changed.Broadcast()
	c.settle()
}

// unblock lifts the back-pressure: the process has ended, so its output is finite.
func (c *client) unblock() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endless = true
	c.changed.Broadcast()
}

// finish tells that no output comes any more. When what is left is written, the client
// sees the end; the connection is closed when the client closes it, or soon after: one
// closed with input unread would be reset, and take the end of the output along.
func (c *client) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finished = true
	c.settle()
}

// settle ends what is over. The caller holds mu.
func (c *client) settle() {
	if !c.gone && (!c.finished || c.writing) {
		return
	}
	c.hangUp()
	if c.unread && !c.writing {
		select {
		case <-c.closed:
		default:
			close(c.closed)
			c.f.Close()
		}
	}
}

// hangUp shuts the writing side, and bounds the wait for the other one.
func (c *client) hangUp() {
	_ = c.raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
	_ = c.f.SetReadDeadline(time.Now().Add(farewell))
}

// read passes the client's input to each until the client leaves, and returns then.
// each is nil when there is nowhere to pass it; eof is called when the client will send
// no more. It owns the reading side. detached tells that the detach keys were typed.
func (c *client) read(each func([]byte) error, eof func()) (detached bool) {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.unread = true
		c.settle()
	}()
	in := c.opts.Prefix
	c.opts.Prefix = nil
	var buf []byte
	for {
		if len(in) > 0 && each != nil {
			out, done := c.keys.pass(in)
			if len(out) > 0 {
				if err := each(out); err != nil {
					each = nil // the process does not read any more; the client may go on
				}
			}
			if done {
				return true
			}
		}
		// The buffer is there only while there is input.
		err := c.raw.Read(func(fd uintptr) bool { return ready(int(fd), unix.POLLIN|unix.POLLRDHUP) })
		if err == nil {
			if buf == nil {
				buf = make([]byte, 32<<10)
			}
			var n int
			n, err = c.f.Read(buf)
			in = buf[:n]
			if n < 1<<10 && err == nil {
				in = append([]byte(nil), in...)
				buf = nil
			}
		}
		if err != nil {
			in = nil
			if eof != nil {
				eof()
			}
			if errors.Is(err, io.EOF) && !c.leaving() {
				c.awaitHangup()
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				c.mu.Lock()
				if !errors.Is(err, io.EOF) || c.hungUp() {
					c.lost()
				}
				c.mu.Unlock()
			}
			return false
		}
	}
}

func (c *client) leaving() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone || c.finished && !c.writing
}

// awaitHangup waits, after the client has closed its writing side, until it has left
// altogether or was told that all is over. On TCP one side alone cannot be told from
// both: there a client that left is noticed by the next output.
func (c *client) awaitHangup() {
	_ = c.raw.Read(func(fd uintptr) bool { return ready(int(fd), 0) })
}

func (c *client) hungUp() (yes bool) {
	_ = c.raw.Control(func(fd uintptr) { yes = ready(int(fd), 0) })
	return yes
}
