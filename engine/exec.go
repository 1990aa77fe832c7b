package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"berth/durable"
	"berth/fail"
	"berth/supervisor"
)

// execMemory is how long an exec that has ended can still be asked about.
const execMemory = 5 * time.Minute

// Execs owns further processes in containers.
type Execs struct {
	idx  *index
	ann  announcer
	spec *specMaker

	mu   sync.Mutex // guards byID and the execs in it
	byID map[string]*execInstance
}

// execInstance is one exec; Execs.mu guards it.
type execInstance struct {
	id     string
	of     *instance
	req    ExecRequest
	begun  bool
	code   *int // set when it has ended
	ended  time.Time
	pid    int
	record string // its file in the run directory
}

func newExecs(idx *index, ann announcer, spec *specMaker) *Execs {
	return &Execs{idx: idx, ann: ann, spec: spec, byID: map[string]*execInstance{}}
}

// ExecRequest is the body of POST /containers/{id}/exec.
type ExecRequest struct {
	Cmd, Env                                                 []string
	User, WorkingDir, DetachKeys                             string
	Privileged, Tty, AttachStdin, AttachStdout, AttachStderr bool
	Rows, Cols                                               uint16
}

// Create prepares an exec; Conflict if the container does not run or is paused.
func (x *Execs) Create(ctx context.Context, container string, r ExecRequest) (id string, err error) {
	i, err := x.idx.find(container)
	if err != nil {
		return "", err
	}
	if len(r.Cmd) == 0 || r.Cmd[0] == "" {
		return "", fail.New(fail.Invalid, "No exec command specified")
	}
	if r.WorkingDir != "" && !filepath.IsAbs(r.WorkingDir) {
		return "", fail.New(fail.Invalid, "the working directory '%s' is invalid, it needs to be an absolute path", r.WorkingDir)
	}
	if _, err := detachKeys(r.DetachKeys); err != nil {
		return "", err
	}
	_, c, err := execLive(i)
	if err != nil {
		return "", err
	}
	if id, err = newID(); err != nil {
		return "", err
	}
	e := &execInstance{id: id, of: i, req: r, record: filepath.Join(i.runDir, "execs", id)}
	if err := e.write(); err != nil {
		return "", fmt.Errorf("record exec: %w", err)
	}
	durable.Failpoint("engine.exec.recorded")
	x.mu.Lock()
	x.purge()
	x.byID[id] = e
	x.mu.Unlock()
	x.ann.tell(c, "exec_create: "+commandLine(r.Cmd), "execID", id)
	return id, nil
}

// commandLine is a command as events tell it: like Docker's with a space behind the program,
// also when nothing follows.
func commandLine(argv []string) string { return argv[0] + " " + strings.Join(argv[1:], " ") }

// execLive is live, in the words of exec.
func execLive(i *instance) (*run, Container, error) {
	r, c, err := i.live()
	if err == nil && c.State.Status == paused {
		err = fail.New(fail.Conflict, "container %s is paused, unpause the container before exec", c.ID)
	}
	return r, c, err
}

// write keeps the request where it outlives the engine, but not the container.
func (e *execInstance) write() error {
	data, err := json.Marshal(e.req)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(e.record), 0o700); err != nil {
		return err
	}
	return durable.WriteFileVolatile(e.record, data, 0o600)
}

// ExecStart says how Start begins.
type ExecStart struct {
	Detach     bool
	Tty        bool // the client's stream has no frames; whether there is a terminal is the request's
	Rows, Cols uint16
}

// Start runs an exec once. Unless detached, the client's connection is taken over and
// an error of the program itself is written into it.
func (x *Execs) Start(ctx context.Context, id string, o ExecStart, hijack Hijack) error {
	e, err := x.find(id)
	if err != nil {
		return err
	}
	r, c, err := execLive(e.of)
	if err != nil {
		return err
	}
	keys, err := detachKeys(e.req.DetachKeys)
	if err != nil {
		return err
	}
	if o.Rows == 0 || o.Cols == 0 {
		o.Rows, o.Cols = e.req.Rows, e.req.Cols
	}
	process, err := x.spec.execProcess(c, e.req, o.Rows, o.Cols)
	if err != nil {
		return err
	}
	if err := x.spec.profile.ready(ctx, process.ApparmorProfile); err != nil {
		return err
	}
	if err := x.begin(e, r); err != nil {
		return err
	}
	var a *supervisor.Attachment
	if !o.Detach && hijack != nil {
		conn, prefix, err := hijack()
		if err != nil {
			x.settle(e, 128)
			return err
		}
		a = &supervisor.Attachment{Conn: conn, AttachOptions: supervisor.AttachOptions{
			Stdin: e.req.AttachStdin, Stdout: e.req.AttachStdout, Stderr: e.req.AttachStderr,
			Framed: !o.Tty, Prefix: prefix,
		}}
		if e.req.Tty && a.Stdin {
			a.DetachKeys = keys
		}
	}
	user := e.req.User
	if user == "" {
		user = c.Config.User
	}
	x.ann.tell(c, "exec_start: "+commandLine(e.req.Cmd), "execID", id)
	durable.Failpoint("engine.exec.starting")
	pid, err := r.shim.Exec(context.WithoutCancel(ctx), supervisor.Exec{
		ID: id, Process: process, User: user, Groups: c.HostConfig.GroupAdd,
	}, a)
	if err != nil {
		return x.failed(e, c, a, err)
	}
	durable.Failpoint("engine.exec.started")
	x.mu.Lock()
	if e.code == nil {
		e.pid = pid
	}
	x.mu.Unlock()
	return nil
}

// begin marks the exec as running; it can do so once.
func (x *Execs) begin(e *execInstance, r *run) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e.begun {
		if e.code == nil {
			return fail.New(fail.Conflict, "exec command %s is already running", e.id)
		}
		return fail.New(fail.Conflict, "exec command %s has already run", e.id)
	}
	i := e.of
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.run != r {
		return notRunning(i.now())
	}
	e.begun = true
	i.change(func(c *Container) { c.ExecIDs = append(slices.Clone(c.ExecIDs), e.id) })
	return nil
}

// failed records and words an exec whose program could not be run, to the client's
// connection if there is one.
func (x *Execs) failed(e *execInstance, c Container, a *supervisor.Attachment, cause error) error {
	code := 128
	class := fail.Internal
	switch fail.Of(cause) {
	case fail.NotFound:
		code, class = 127, fail.Invalid
	case fail.Forbidden:
		code, class = 126, fail.Invalid
	case fail.Invalid, fail.Conflict:
		code, class = 126, fail.Of(cause)
	}
	x.settle(e, code)
	err := fail.New(class, "exec failed: unable to start container process: %w", cause)
	if a == nil {
		return err
	}
	text := []byte(err.Error() + "\r\n")
	if a.Framed {
		text = frame("stdout", text)
	}
	_, _ = a.Conn.Write(text) // a client that left needs no message
	return closeWrite(a.Conn)
}

// closeWrite ends a connection after everything written has a chance to arrive.
func closeWrite(conn net.Conn) error {
	if w, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
	}
	return conn.Close()
}

// ended takes in what a shim tells of an exec's end.
func (x *Execs) ended(id string, s supervisor.ExecState) {
	x.mu.Lock()
	e := x.byID[id]
	x.mu.Unlock()
	if e != nil {
		x.settle(e, s.ExitCode)
	}
}

// settle records the end of an exec, once, and tells it.
func (x *Execs) settle(e *execInstance, code int) {
	x.mu.Lock()
	if e.code != nil {
		x.mu.Unlock()
		return
	}
	e.begun, e.code, e.ended, e.pid = true, &code, time.Now(), 0
	x.mu.Unlock()
	e.of.mu.Lock()
	c := e.of.change(func(c *Container) { c.ExecIDs = without(c.ExecIDs, e.id) })
	e.of.mu.Unlock()
	x.ann.tell(c, "exec_die", "execID", e.id, "exitCode", decimal(code))
}

// orphaned ends the execs of a container that has ended: its processes are dead.
func (x *Execs) orphaned(i *instance) {
	for _, e := range x.of(i) {
		x.mu.Lock()
		runs := e.begun && e.code == nil
		x.mu.Unlock()
		if runs {
			x.settle(e, 137)
		}
	}
	_ = os.RemoveAll(filepath.Join(i.runDir, "execs")) // the next run must not adopt them
}

// forget drops the execs of a removed container.
func (x *Execs) forget(i *instance) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for id, e := range x.byID {
		if e.of == i {
			delete(x.byID, id)
		}
	}
}

func (x *Execs) of(i *instance) []*execInstance {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []*execInstance
	for _, e := range x.byID {
		if e.of == i {
			out = append(out, e)
		}
	}
	return out
}

// purge drops what ended long ago. The caller holds mu.
func (x *Execs) purge() {
	for id, e := range x.byID {
		if e.code != nil && time.Since(e.ended) > execMemory {
			delete(x.byID, id)
			_ = os.Remove(e.record)
		}
	}
}

func (x *Execs) find(id string) (*execInstance, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.purge()
	if e := x.byID[id]; e != nil {
		return e, nil
	}
	return nil, fail.New(fail.NotFound, "No such exec instance: %s", id)
}

// Exec is a snapshot of an exec. ExitCode is nil while it runs.
type Exec struct {
	ID, Container string
	Request       ExecRequest
	Running       bool
	ExitCode      *int
	Pid           int
}

// Get returns one exec. An exec that is believed to run is checked with its shim, so
// that a client whose stream just ended learns the exit code.
func (x *Execs) Get(ctx context.Context, id string) (Exec, error) {
	e, err := x.find(id)
	if err != nil {
		return Exec{}, err
	}
	if s := x.snapshot(e); !s.Running {
		return s, nil
	}
	if r, _, err := e.of.live(); err == nil {
		if st, err := r.shim.State(ctx); err == nil {
			if s, ok := st.Execs[id]; ok && !s.Running {
				x.settle(e, s.ExitCode)
			}
		}
	}
	return x.snapshot(e), nil
}

func (x *Execs) snapshot(e *execInstance) Exec {
	x.mu.Lock()
	defer x.mu.Unlock()
	return Exec{ID: e.id, Container: e.of.id, Request: e.req, Running: e.begun && e.code == nil, ExitCode: e.code, Pid: e.pid}
}

// Resize sets the size of an exec's terminal.
func (x *Execs) Resize(ctx context.Context, id string, rows, cols uint16) error {
	e, err := x.find(id)
	if err != nil {
		return err
	}
	if s := x.snapshot(e); !s.Running {
		return fail.New(fail.Conflict, "exec %s is not running", id)
	}
	r, c, err := e.of.live()
	if err != nil {
		return err
	}
	return asGone(r.shim.Resize(ctx, id, rows, cols), c)
}

// adopt takes over the execs of a container that outlived the previous engine.
func (x *Execs) adopt(i *instance, states map[string]supervisor.ExecState) {
	dir := filepath.Join(i.runDir, "execs")
	entries, _ := os.ReadDir(dir) // none were made
	for _, f := range entries {
		e := &execInstance{id: f.Name(), of: i, record: filepath.Join(dir, f.Name())}
		if durable.ReadJSON(e.record, &e.req) != nil {
			continue // the debris of an unfinished write
		}
		if s, ok := states[e.id]; ok {
			e.begun = true
			if s.Running {
				e.pid = s.Pid
				i.mu.Lock()
				i.change(func(c *Container) { c.ExecIDs = append(slices.Clone(c.ExecIDs), e.id) })
				i.mu.Unlock()
			} else {
				code := s.ExitCode
				e.code, e.ended = &code, s.ExitedAt
			}
		}
		x.mu.Lock()
		x.byID[e.id] = e
		x.mu.Unlock()
	}
}
