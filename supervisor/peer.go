package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// peer is an engine that is connected to the shim.
type peer struct {
	*wire
	s    *shim
	gone func() // called when the connection has ended

	mu      sync.Mutex // guards running
	running map[uint64]context.CancelFunc
}

// answer is what an op gives back: a body, descriptors, or neither.
type answer struct {
	body  any
	files []int
	after func() // called when the answer is queued
}

// request is one op under way. Descriptors that its handler does not take over (by
// setting files to nil) are closed after it.
type request struct {
	body  json.RawMessage
	files []int
}

// ops is what a shim can be asked.
var ops = map[string]func(s *shim, ctx context.Context, r *request) (answer, error){
	opHello: func(s *shim, _ context.Context, _ *request) (answer, error) { return answer{body: s.hello()}, nil },
	opStart: (*shim).start,
	opSignal: func(s *shim, ctx context.Context, r *request) (answer, error) {
		var req signalRequest
		if err := r.decode(&req); err != nil {
			return answer{}, err
		}
		return answer{}, s.signal(ctx, req)
	},
	opResize: func(s *shim, _ context.Context, r *request) (answer, error) {
		var req resizeRequest
		if err := r.decode(&req); err != nil {
			return answer{}, err
		}
		return answer{}, s.resize(req)
	},
	opExec:   (*shim).exec,
	opAttach: (*shim).attach,
	opPids: func(s *shim, ctx context.Context, _ *request) (answer, error) {
		c, err := s.alive()
		if err != nil {
			return answer{}, err
		}
		pids, err := c.Pids(ctx)
		return answer{body: pids}, err
	},
	opPause:  func(s *shim, ctx context.Context, _ *request) (answer, error) { return answer{}, s.freeze(ctx, true) },
	opResume: func(s *shim, ctx context.Context, _ *request) (answer, error) { return answer{}, s.freeze(ctx, false) },
	opUpdate: func(s *shim, ctx context.Context, r *request) (answer, error) {
		var req updateRequest
		if err := r.decode(&req); err != nil {
			return answer{}, err
		}
		c, err := s.alive()
		if err != nil {
			return answer{}, err
		}
		return answer{}, c.Update(ctx, req.Resources)
	},
	opRoot: func(s *shim, _ context.Context, _ *request) (answer, error) {
		c, err := s.alive()
		if err != nil {
			return answer{}, err
		}
		fd, err := unix.FcntlInt(c.Root().Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return answer{}, err
		}
		return answer{files: []int{fd}}, nil
	},
	opNetwork: (*shim).setNetwork,
	opPolicy: func(s *shim, _ context.Context, r *request) (answer, error) {
		var req Policy
		if err := r.decode(&req); err != nil {
			return answer{}, err
		}
		return answer{}, s.setPolicy(req)
	},
	opDestroy: (*shim).destroy,
}

func (r *request) decode(v any) error {
	if err := json.Unmarshal(r.body, v); err != nil {
		return fail.New(fail.Invalid, "decode request: %w", err)
	}
	return nil
}

// file takes over the one descriptor of a request.
func (r *request) file() (int, error) {
	if len(r.files) != 1 {
		return -1, fail.New(fail.Invalid, "a connection must come with the request, %d descriptors did", len(r.files))
	}
	fd := r.files[0]
	r.files = nil
	return fd, nil
}

// join makes w an engine's connection.
func (s *shim) join(w *wire) *peer {
	p := &peer{wire: w, s: s, gone: func() {}, running: map[uint64]context.CancelFunc{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peers[p] = struct{}{}
	return p
}

// serve answers requests until the connection ends, each in a goroutine of its own.
func (p *peer) serve() {
	defer func() {
		p.close()
		p.mu.Lock()
		for _, cancel := range p.running {
			cancel()
		}
		p.mu.Unlock()
		p.gone()
		p.s.left(p)
	}()
	for {
		f, files, err := p.receive()
		if err != nil {
			return
		}
		switch f.Op {
		case opCancel:
			p.mu.Lock()
			if cancel := p.running[f.ID]; cancel != nil {
				cancel()
			}
			p.mu.Unlock()
			closeFiles(files)
			continue
		case opHold:
			p.s.hold()
			closeFiles(files)
			continue
		case opTaken:
			p.s.taken()
			closeFiles(files)
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		p.mu.Lock()
		p.running[f.ID] = cancel
		p.mu.Unlock()
		go func() { // ends with its request, which ctx bounds
			defer cancel()
			p.handle(ctx, f, files)
			p.mu.Lock()
			delete(p.running, f.ID)
			p.mu.Unlock()
		}()
	}
}

func (p *peer) handle(ctx context.Context, f frame, files []int) {
	r := &request{f.Body, files}
	var a answer
	var err error
	switch op := ops[f.Op]; {
	case f.Op == opState:
		p.s.startSettled(ctx)
		// Under the shim's lock, so that no event overtakes it.
		p.s.mu.Lock()
		_ = p.send(frame{ID: f.ID}, p.s.state(), nil)
		p.s.mu.Unlock()
		closeFiles(files)
		return
	case op == nil:
		err = fail.New(fail.NotImplemented, "this container's shim does not know %q: it is of an older Berth", f.Op)
	default:
		a, err = op(p.s, ctx, r)
	}
	closeFiles(r.files)
	if e := p.send(frame{ID: f.ID, Error: toWire(err)}, a.body, a.files); e != nil && !errors.Is(e, ErrGone) {
		_ = p.send(frame{ID: f.ID, Error: toWire(e)}, nil, nil)
	}
	if a.after != nil {
		a.after()
	}
}
