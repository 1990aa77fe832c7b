package supervisor

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// ProtocolVersion counts incompatible changes of the protocol.
//
// A message is four bytes of length, big-endian, and as many bytes of JSON: a frame.
// Descriptors travel as SCM_RIGHTS with the first byte of their frame. An engine asks
// with an id and an op, and gets one frame with the same id, holding a body or an error;
// what the shim tells on its own has the op event and no id. Both ignore members that
// they do not know, so an addition needs no new version; an op that a shim does not know
// is answered with class NotImplemented.
const ProtocolVersion = 1

// frame is one message.
type frame struct {
	Version int             `json:"v"`
	ID      uint64          `json:"id,omitempty"`
	Op      string          `json:"op,omitempty"`
	Error   *wireError      `json:"error,omitempty"`
	Files   int             `json:"files,omitempty"`
	Body    json.RawMessage `json:"body,omitempty"`
}

// wireError carries an error with its class, by name: the numbers are not stable.
type wireError struct {
	Class string `json:"class"`
	Text  string `json:"text"`
}

func toWire(err error) *wireError {
	if err == nil {
		return nil
	}
	return &wireError{fail.Of(err).String(), err.Error()}
}

func (e *wireError) err() error {
	if e == nil {
		return nil
	}
	class := fail.Internal
	for c := fail.Internal; c <= fail.Canceled; c++ {
		if c.String() == e.Class {
			class = c
		}
	}
	return fail.Mark(class, errors.New(e.Text))
}

// ErrGone is what is left to say about a connection that has ended. An engine gets it only
// after the container of a shim that was killed is cleared up.
var ErrGone = fail.New(fail.NotFound, "the supervisor is gone")

// maxFrame bounds what a broken peer can make us allocate; a large create is 100 KiB.
const maxFrame = 16 << 20

// wire sends and receives frames on one connection. Sending never blocks: frames wait
// in a queue, in order, and a goroutine writes while there are any.
type wire struct {
	conn *net.UnixConn

	// The reader's alone.
	in    []byte // received, not yet consumed
	files []int  // received, not yet consumed
	oob   []byte

	mu      sync.Mutex // guards all below
	out     []parcel
	writing bool
	idle    *sync.Cond // !writing
	closed  bool
}

// parcel is a frame on its way out, with descriptors that are closed after it is sent.
type parcel struct {
	data  []byte
	files []int
}

func newWire(conn *net.UnixConn) *wire {
	w := &wire{conn: conn}
	w.idle = sync.NewCond(&w.mu)
	return w
}

// send queues a frame with a body (nil: none). It takes the descriptors over.
func (w *wire) send(f frame, body any, files []int) error {
	f.Version, f.Files = ProtocolVersion, len(files)
	data, err := encodeFrame(f, body)
	if err != nil {
		closeFiles(files)
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		closeFiles(files)
		return ErrGone
	}
	w.out = append(w.out, parcel{data, files})
	if !w.writing {
		w.writing = true
		go w.flush() // ends when the queue is empty or the connection broken
	}
	return nil
}

func encodeFrame(f frame, body any) ([]byte, error) {
	var err error
	if body != nil {
		if f.Body, err = json.Marshal(body); err != nil {
			return nil, fmt.Errorf("encode %s: %w", f.Op, err)
		}
	}
	data, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	if len(data) > maxFrame {
		return nil, fail.New(fail.Invalid, "a message of %d bytes is too large for a shim", len(data))
	}
	framed := make([]byte, 4, 4+len(data))
	binary.BigEndian.PutUint32(framed, uint32(len(data)))
	return append(framed, data...), nil
}

func (w *wire) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.out) > 0 && !w.closed {
		p := w.out[0]
		w.out = w.out[1:]
		w.mu.Unlock()
		err := w.write(p)
		w.mu.Lock()
		if err != nil {
			w.shut()
		}
	}
	w.out, w.writing = nil, false
	w.idle.Broadcast()
}

func (w *wire) write(p parcel) error {
	defer closeFiles(p.files)
	if len(p.files) > 0 {
		n, _, err := w.conn.WriteMsgUnix(p.data, unix.UnixRights(p.files...), nil)
		if err != nil {
			return err
		}
		if p.data = p.data[n:]; len(p.data) == 0 {
			// Writing nothing would fail if the other end has answered and gone already, and
			// its answer would go unread.
			return nil
		}
	}
	_, err := w.conn.Write(p.data)
	return err
}

// drained waits until all that was sent is with the kernel, or the connection is broken.
func (w *wire) drained() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.writing {
		w.idle.Wait()
	}
}

// close breaks the connection; frames that wait are dropped.
func (w *wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shut()
}

func (w *wire) shut() {
	if w.closed {
		return
	}
	w.closed = true
	w.conn.Close()
	for _, p := range w.out {
		closeFiles(p.files)
	}
	w.out = nil
}

// receive reads the next frame and its descriptors, which are close-on-exec and belong
// to the caller. io.EOF tells the orderly end.
func (w *wire) receive() (frame, []int, error) {
	var f frame
	for len(w.in) < 4 || len(w.in) < 4+frameSize(w.in) {
		if len(w.in) >= 4 && frameSize(w.in) > maxFrame {
			return f, nil, fail.New(fail.Invalid, "a frame of %d bytes", frameSize(w.in))
		}
		if err := w.fill(); err != nil {
			if err == io.EOF && len(w.in) > 0 {
				err = io.ErrUnexpectedEOF
			}
			closeFiles(w.files)
			w.files = nil
			return f, nil, err
		}
	}
	size := frameSize(w.in)
	err := json.Unmarshal(w.in[4:4+size], &f)
	if rest := w.in[4+size:]; len(rest) > 0 {
		w.in = append([]byte(nil), rest...)
	} else {
		w.in = nil // an idle connection holds no memory
	}
	if err != nil {
		return f, nil, fmt.Errorf("decode frame: %w", err)
	}
	if f.Files < 0 || f.Files > len(w.files) {
		return f, nil, fail.New(fail.Invalid, "a frame announces %d descriptors, %d came", f.Files, len(w.files))
	}
	files := w.files[:f.Files:f.Files]
	w.files = w.files[f.Files:]
	return f, files, nil
}

func frameSize(b []byte) int { return int(binary.BigEndian.Uint32(b)) }

func (w *wire) fill() error {
	want := 4
	if len(w.in) >= 4 {
		want = 4 + frameSize(w.in)
	}
	if len(w.in) == 0 {
		// Nothing is allocated before something comes.
		if err := readable(w.conn); err != nil {
			return err
		}
	}
	const chunk = 4 << 10
	if free := cap(w.in) - len(w.in); free < min(want-len(w.in), chunk) || free == 0 {
		bigger := make([]byte, len(w.in), len(w.in)+max(min(want-len(w.in), 1<<20), chunk))
		copy(bigger, w.in)
		w.in = bigger
	}
	if w.oob == nil {
		w.oob = make([]byte, unix.CmsgSpace(4*maxFiles))
	}
	n, oobn, flags, _, err := w.conn.ReadMsgUnix(w.in[len(w.in):cap(w.in)], w.oob)
	if oobn > 0 {
		files, e := rights(w.oob[:oobn])
		w.files = append(w.files, files...)
		if err == nil {
			err = e
		}
	}
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = fail.New(fail.Invalid, "more than %d descriptors with one message", maxFiles)
	}
	if err == nil && n == 0 || errors.Is(err, io.EOF) {
		err = io.EOF
	}
	w.in = w.in[:len(w.in)+max(n, 0)]
	return err
}

// maxFiles is how many descriptors one message may carry: attachments of a container
// that is about to start.
const maxFiles = 64

func rights(oob []byte) (files []int, err error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		files = append(files, fds...)
	}
	return files, nil
}

// readable waits until a read of conn would not block.
func readable(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool { return ready(int(fd), unix.POLLIN) })
}

// ready tells whether fd has one of events now. Hang-up and errors count always.
func ready(fd int, events int16) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	n, err := unix.Poll(p, 0)
	return err != nil && err != unix.EINTR || n > 0
}

func closeFiles(files []int) {
	for _, fd := range files {
		unix.Close(fd)
	}
}
