package supervisor

import (
	"context"
	"os"
	"time"

	"berth/fail"
	"berth/runtime"
)

// execKept is how long the end of an exec'd process is remembered.
const execKept = 5 * time.Minute

// execution is one exec'd process.
type execution struct {
	id      string
	process process
	streams *streams
	state   ExecState // guarded by shim.mu
}

// exec starts a further process.
func (s *shim) exec(ctx context.Context, r *request) (a answer, err error) {
	var req execRequest
	if err := r.decode(&req); err != nil {
		return a, err
	}
	if req.Process == nil || req.ID == "" {
		return a, fail.New(fail.Invalid, "an exec needs an id and a process")
	}
	c, err := s.alive()
	if err != nil { // not found would say that the program is
		return a, fail.Mark(fail.Conflict, err)
	}
	s.mu.Lock()
	_, taken := s.execs[req.ID]
	if s.phase != isRunning {
		err = fail.New(fail.Conflict, "container %s is not running", s.cfg.ID)
	} else if s.paused {
		err = fail.New(fail.Conflict, "container %s is paused, unpause the container before exec", s.cfg.ID)
	} else if taken {
		err = fail.New(fail.Conflict, "exec %s exists", req.ID)
	} else {
		s.execs[req.ID] = nil // the name is taken
		s.execWork.Add(1)
	}
	s.mu.Unlock()
	if err != nil {
		return a, err
	}
	e := &execution{id: req.ID}
	defer func() {
		if err != nil {
			s.mu.Lock()
			delete(s.execs, req.ID)
			s.mu.Unlock()
			s.execWork.Done()
		}
	}()
	if err := prepare(req.Process, c.Root(), req.User, req.Groups); err != nil {
		return a, err
	}
	e.streams = newStreams(req.Process.Terminal, true, nil, func() { s.tell(Event{Kind: EventDetach, ExecID: req.ID}) })
	var stdio [3]*os.File
	if !req.Process.Terminal && req.Attach != nil {
		if stdio, err = e.streams.pipes(req.Attach.Stdin); err != nil {
			return a, err
		}
	}
	e.process, err = c.Exec(ctx, runtime.ExecConfig{Process: req.Process, Stdio: stdio})
	closeAll(stdio)
	if err != nil {
		e.streams.abandon()
		return a, err
	}
	if req.Process.Terminal {
		if err := e.streams.terminal(e.process.Console()); err != nil {
			_ = e.process.Signal(9)
			_, _ = e.process.Wait()
			e.process.Release()
			return a, err
		}
	}
	s.mu.Lock()
	e.state = ExecState{Pid: e.process.Pid(), Running: true}
	s.execs[e.id] = e
	s.mu.Unlock()
	if req.Attach != nil {
		fd, err := r.file()
		if err == nil {
			_ = e.streams.attach(fd, *req.Attach) // it runs: a client that is gone already changes nothing
		}
	}
	e.streams.run()
	return answer{body: execReply{Pid: e.process.Pid()}, after: func() { go s.waitExec(e) }}, nil // ends with the process
}

// waitExec is the end of an exec'd process. Children that it leaves behind may hold its
// streams: what is in them is delivered, what comes later is not waited for.
func (s *shim) waitExec(e *execution) {
	ended, err := e.process.Wait()
	if err != nil {
		ended.Code, ended.At = 255, time.Now()
	}
	e.streams.drain()
	s.mu.Lock()
	e.state = ExecState{Pid: e.state.Pid, ExitCode: ended.Code, ExitedAt: ended.At}
	state := e.state
	s.tellLocked(Event{Kind: EventExecExit, ExecID: e.id, Exec: &state})
	s.mu.Unlock()
	e.process.Release()
	e.streams.end()
	s.execWork.Done()
	s.tidy()
	time.AfterFunc(execKept, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.execs, e.id)
	})
}

// execution finds one that runs.
func (s *shim) execution(id string) (*execution, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.execs[id]
	if e == nil || !e.state.Running {
		return nil, fail.New(fail.NotFound, "exec %s is not running", id)
	}
	return e, nil
}
