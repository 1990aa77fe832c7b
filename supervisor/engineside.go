package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
	oci "berth/oci/bundle"
)

// Shim is the engine's connection to one shim. Its methods are safe for concurrent use;
// once the shim is gone they fail with class NotFound.
type Shim struct {
	w      *wire
	runDir string
	events chan Event
	closed chan struct{} // by Close
	over   chan struct{} // closed when the connection has ended and a lost shim is cleared up after

	mu      sync.Mutex // guards all below
	next    uint64
	calls   map[uint64]chan reply
	queue   []Event
	news    chan struct{} // closed and replaced when queue or ended change
	pid     int           // the shim's, 0 while it is unknown
	ports   []Port
	ended   bool // nothing comes any more
	exited  bool // the exit event was delivered
	closing bool
	failed  error // what a lost shim left could not be cleared up
}

type reply struct {
	frame frame
	files []int
}

// connect makes the engine's end of a connection whose shim, the process pid if that is
// known and not 0, works in runDir.
func connect(w *wire, runDir string, pid int) *Shim {
	s := &Shim{w: w, runDir: runDir, pid: pid, over: make(chan struct{}), events: make(chan Event), closed: make(chan struct{}),
		calls: map[uint64]chan reply{}, news: make(chan struct{})}
	go s.read() // ends with the connection
	go s.pump() // ends with the exit event, the connection, or Close
	return s
}

// Reattach connects to the shim that serves runDir, after the engine was restarted.
// If none lives there the error is class NotFound; then its container is dead too, and if
// it had started, an exit record is there.
func Reattach(ctx context.Context, runDir string) (*Shim, error) {
	dir, err := os.Open(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fail.New(fail.NotFound, "no shim lives in %s", runDir)
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socketAddr(dir).Name)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		if _, err := clearUp(ctx, runDir, 0, func() {}); err != nil {
			return nil, fail.New(fail.Internal, "clear up after the shim of %s: %w", runDir, err)
		}
		return nil, fail.New(fail.NotFound, "no shim lives in %s", runDir)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the shim of %s: %w", runDir, err)
	}
	s := connect(newWire(conn.(*net.UnixConn)), runDir, 0)
	var hello helloReply
	if err := s.call(ctx, opHello, nil, nil, &hello); err != nil {
		s.Close()
		return nil, err
	}
	s.mu.Lock()
	s.pid, s.ports = hello.ShimPid, hello.Ports
	s.mu.Unlock()
	if hello.Version > ProtocolVersion {
		s.Close()
		return nil, fail.New(fail.Unavailable, "the shim of container %s is of a newer Berth (protocol %d, this one knows %d)", hello.ID, hello.Version, ProtocolVersion)
	}
	return s, nil
}

// read takes what the shim sends.
func (s *Shim) read() {
	for {
		f, files, err := s.w.receive()
		if err != nil {
			break
		}
		if f.Op == opEvent {
			closeFiles(files)
			var e Event
			if json.Unmarshal(f.Body, &e) == nil {
				s.mu.Lock()
				s.queue = append(s.queue, e)
				s.announce()
				s.mu.Unlock()
			}
			continue
		}
		s.mu.Lock()
		c := s.calls[f.ID]
		delete(s.calls, f.ID)
		s.mu.Unlock()
		if c == nil {
			closeFiles(files) // its caller gave up
			continue
		}
		c <- reply{f, files} // never blocks: there is room for the one reply
	}
	s.w.close()
	s.mu.Lock()
	expected := s.closing
	for _, e := range s.queue {
		expected = expected || e.Kind == EventExit
	}
	expected = expected || s.exited
	s.mu.Unlock()
	if !expected {
		s.takeOver()
	}
	close(s.over)
	s.mu.Lock()
	for id, c := range s.calls {
		close(c)
		delete(s.calls, id)
	}
	s.ended = true
	s.announce()
	s.mu.Unlock()
}

// announce wakes who waits for a change. The caller holds mu.
func (s *Shim) announce() {
	close(s.news)
	s.news = make(chan struct{})
}

// pump delivers the events.
func (s *Shim) pump() {
	defer close(s.events)
	for {
		s.mu.Lock()
		news := s.news
		if len(s.queue) == 0 {
			ended := s.ended
			s.mu.Unlock()
			if ended {
				return
			}
			select {
			case <-news:
				continue
			case <-s.closed:
				return
			}
		}
		e := s.queue[0]
		s.queue = s.queue[1:]
		s.mu.Unlock()
		select {
		case s.events <- e:
		case <-s.closed:
			return
		}
		s.mu.Lock()
		s.exited = s.exited || e.Kind == EventExit
		s.announce()
		s.mu.Unlock()
		if e.Kind == EventExit {
			return
		}
	}
}

// aftermath bounds how long a connection that has ended waits for what is done then.
const aftermath = 10 * time.Second

// takeOver clears up when a shim was lost, together with its guardian, or instead of it:
// then the container is dead and the exit record there.
func (s *Shim) takeOver() {
	ctx, cancel := context.WithTimeout(context.Background(), aftermath)
	defer cancel()
	s.mu.Lock()
	pid := s.pid
	s.mu.Unlock()
	if _, err := clearUp(ctx, s.runDir, pid, func() {}); err != nil {
		s.mu.Lock()
		s.failed = err
		s.mu.Unlock()
	}
}

// gone is the error of a call that gets no answer any more.
func (s *Shim) gone() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return fmt.Errorf("%w; clear up after it: %w", ErrGone, s.failed)
	}
	return ErrGone
}

// call asks the shim and decodes the answer's body into out (nil: there is none).
func (s *Shim) call(ctx context.Context, op string, in any, files []int, out any) error {
	r, err := s.ask(ctx, op, in, files)
	if err != nil {
		return err
	}
	closeFiles(r.files)
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(r.frame.Body, out); err != nil {
		return fmt.Errorf("decode the shim's answer to %s: %w", op, err)
	}
	return nil
}

func (s *Shim) ask(ctx context.Context, op string, in any, files []int) (reply, error) {
	if err := ctx.Err(); err != nil {
		closeFiles(files)
		return reply{}, err
	}
	c := make(chan reply, 1)
	s.mu.Lock()
	s.next++
	id := s.next
	s.calls[id] = c
	s.mu.Unlock()
	if err := s.w.send(frame{ID: id, Op: op}, in, files); err != nil {
		s.mu.Lock()
		delete(s.calls, id)
		s.mu.Unlock()
		if !errors.Is(err, ErrGone) {
			return reply{}, err
		}
		select {
		case <-s.over:
			return reply{}, s.gone()
		case <-s.closed:
			return reply{}, err
		case <-ctx.Done():
			return reply{}, ctx.Err()
		}
	}
	select {
	case r, ok := <-c:
		if !ok {
			return reply{}, s.gone()
		}
		if err := r.frame.Error.err(); err != nil {
			closeFiles(r.files)
			return reply{}, err
		}
		return r, nil
	case <-ctx.Done():
		_ = s.w.send(frame{ID: id, Op: opCancel}, nil, nil)
		s.mu.Lock()
		_, waiting := s.calls[id]
		delete(s.calls, id)
		s.mu.Unlock()
		if !waiting {
			if r, ok := <-c; ok {
				closeFiles(r.files)
			}
		}
		return reply{}, ctx.Err()
	}
}

// Events delivers what happens, in order, and is closed after the exit event, or
// without one if the shim was killed; then the exit record is there. Someone must read it
// until it is closed. A Close after that tells the shim that the exit has been dealt
// with; an engine that dies before it is woken up.
func (s *Shim) Events() <-chan Event { return s.events }

// Start executes the container's process; see runtime.Container.Start for its errors.
// After a failed Start the shim has cleaned up and ends, with no exit event.
func (s *Shim) Start(ctx context.Context) (pid int, at time.Time, err error) {
	var r startReply
	err = s.call(ctx, opStart, nil, nil, &r)
	return r.Pid, r.At, err
}

// Signal signals init (execID empty) or one exec'd process; all: every process of the
// container.
func (s *Shim) Signal(ctx context.Context, execID string, sig unix.Signal, all bool) error {
	return s.call(ctx, opSignal, signalRequest{ExecID: execID, Signal: sig, All: all}, nil, nil)
}

// Resize sets the size of a terminal.
func (s *Shim) Resize(ctx context.Context, execID string, rows, cols uint16) error {
	return s.call(ctx, opResize, resizeRequest{ExecID: execID, Rows: rows, Cols: cols}, nil, nil)
}

// Exec starts a process; its streams go to the attachment (nil: nowhere). After an
// error the attachment's connection is back with the caller, who may write the error
// to it; on success it is the shim's.
func (s *Shim) Exec(ctx context.Context, e Exec, a *Attachment) (pid int, err error) {
	req := execRequest{Exec: e}
	var files []int
	give := handover{done: func() {}, undo: func() {}}
	if a != nil {
		if give, err = handOver(a.Conn); err != nil {
			return 0, err
		}
		req.Attach, files = &a.AttachOptions, []int{give.fd}
	}
	var r execReply
	if err := s.call(ctx, opExec, req, files, &r); err != nil {
		give.undo()
		if errors.Is(err, ErrGone) { // not found would say that the program is
			err = fail.Mark(fail.Conflict, err)
		}
		return 0, err
	}
	give.done()
	return r.Pid, nil
}

// Attach joins a further client to init's streams. There is no replay. After an error the
// connection is the caller's to close.
func (s *Shim) Attach(ctx context.Context, a Attachment) error {
	give, err := handOver(a.Conn)
	if err != nil {
		return err
	}
	if err := s.call(ctx, opAttach, a.AttachOptions, []int{give.fd}, nil); err != nil {
		give.undo()
		return err
	}
	give.done()
	return nil
}

// State asks the shim. It shows what events that are still on their way will tell.
func (s *Shim) State(ctx context.Context) (State, error) {
	var st State
	err := s.call(ctx, opState, nil, nil, &st)
	return st, err
}

// Pids lists the container's processes.
func (s *Shim) Pids(ctx context.Context) (pids []int, err error) {
	err = s.call(ctx, opPids, nil, nil, &pids)
	return pids, err
}

// Pause freezes the container, Resume lets it go on.
func (s *Shim) Pause(ctx context.Context) error  { return s.call(ctx, opPause, nil, nil, nil) }
func (s *Shim) Resume(ctx context.Context) error { return s.call(ctx, opResume, nil, nil, nil) }

// Update changes the limits of the container.
func (s *Shim) Update(ctx context.Context, res *oci.LinuxResources) error {
	return s.call(ctx, opUpdate, updateRequest{Resources: res}, nil, nil)
}

// Ports are the container's published ports as they were bound when it was created, or by
// the last SetNetwork.
func (s *Shim) Ports() []Port {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ports)
}

// SetNetwork changes what the shim does for the container's network. Ports that are
// published as before stay as they are, connections through them as well; those that are
// new are bound, and if one cannot be, nothing changes. The answer is Ports. A port in
// use is class Conflict.
func (s *Shim) SetNetwork(ctx context.Context, n Network) ([]Port, error) {
	var r networkReply
	if err := s.call(ctx, opNetwork, n, nil, &r); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.ports = r.Ports
	s.mu.Unlock()
	return r.Ports, nil
}

// Root borrows the container's root directory. The caller closes it.
func (s *Shim) Root(ctx context.Context) (*os.File, error) {
	r, err := s.ask(ctx, opRoot, nil, nil)
	if err != nil {
		return nil, err
	}
	if len(r.files) != 1 {
		closeFiles(r.files)
		return nil, fmt.Errorf("the shim sent %d descriptors as the root", len(r.files))
	}
	return os.NewFile(uintptr(r.files[0]), "root"), nil
}

// SetPolicy changes what the shim does without an engine.
func (s *Shim) SetPolicy(ctx context.Context, p Policy) error {
	return s.call(ctx, opPolicy, p, nil, nil)
}

// Hold keeps the shim after the exit event was delivered, until Close: if this engine is killed
// before, it wakes the next one.
func (s *Shim) Hold() { _ = s.w.send(frame{Op: opHold}, nil, nil) }

// Destroy ends a container that was created and never started, with its shim.
func (s *Shim) Destroy(ctx context.Context) error { return s.call(ctx, opDestroy, nil, nil, nil) }

// Close drops the connection; shim and container live on.
func (s *Shim) Close() error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return nil
	}
	s.closing = true
	exited := s.exited
	s.announce()
	s.mu.Unlock()
	close(s.closed)
	if exited {
		if s.w.send(frame{Op: opTaken}, nil, nil) == nil {
			s.w.drained()
		}
	}
	s.w.close()
	return nil
}
