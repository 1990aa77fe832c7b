package runtimecli

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
	"berth/runtime"
)

// What scripts and other engines look for in the messages of runc.
var (
	errExists     = fail.New(fail.Conflict, "container with given ID already exists")
	errNotExist   = fail.New(fail.NotFound, "container does not exist")
	errBadID      = fail.New(fail.Invalid, "invalid container ID format")
	errNotRunning = fail.New(fail.Conflict, "container not running")
	errNotPaused  = fail.New(fail.Conflict, "container not paused")
)

// A container's status, as `state` and `list` print it (runtime.md, "State").
const (
	created = "created"
	running = "running"
	paused  = "paused"
	stopped = "stopped"
)

// store is the directory of containers.
type store struct{ root string }

func defaultRoot() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && os.Geteuid() != 0 {
		return filepath.Join(dir, program)
	}
	return "/run/" + program
}

var idForm = regexp.MustCompile(`^[\w+.-]+$`)

func checkID(id string) error {
	if id == "" {
		return fail.New(fail.Invalid, "container id cannot be empty")
	}
	if !idForm.MatchString(id) || id == "." || id == ".." {
		return errBadID
	}
	return nil
}

func (s store) dir(id string) string       { return filepath.Join(s.root, id) }
func (s store) fifo(id string) string      { return filepath.Join(s.root, id, "exec.fifo") }
func (s store) stateFile(id string) string { return filepath.Join(s.root, id, "state.json") }

// reserve makes the directory of a new container: that is what makes its id taken.
func (s store) reserve(id string) error {
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return err
	}
	err := os.Mkdir(s.dir(id), 0o711)
	if errors.Is(err, os.ErrExist) {
		return errExists
	}
	return err
}

func (s store) save(c *runtime.Container) error {
	st, err := c.State()
	if err != nil {
		return err
	}
	// After a power failure there is no process that this could tell of.
	text, err := json.Marshal(st)
	if err != nil {
		return err
	}
	return durable.WriteFileVolatile(s.stateFile(st.ID), text, 0o600)
}

// open finds a container again. The caller releases it.
func (s store) open(id string) (*runtime.Container, runtime.State, error) {
	var st runtime.State
	err := durable.ReadJSON(s.stateFile(id), &st)
	if errors.Is(err, os.ErrNotExist) || fail.Is(err, fail.NotFound) {
		return nil, st, errNotExist
	}
	if err != nil {
		return nil, st, err
	}
	c, err := runtime.Load(st)
	return c, st, err
}

// statusOf tells in which state a container is.
func statusOf(c *runtime.Container) (string, error) {
	switch {
	case !c.Alive():
		return stopped, nil
	case c.Waiting():
		return created, nil
	}
	if g := c.Group(); g != nil {
		frozen, err := g.Frozen()
		if err != nil && c.Alive() {
			return "", err
		}
		if frozen {
			return paused, nil
		}
	}
	return running, nil
}

// find opens a container and tells its status.
func (s store) find(id string) (*runtime.Container, runtime.State, string, error) {
	c, st, err := s.open(id)
	if err != nil {
		return nil, st, "", err
	}
	status, err := statusOf(c)
	if err != nil {
		c.Release()
		return nil, st, "", err
	}
	return c, st, status, nil
}

// makeFifo makes the named pipe that a created container waits on.
func (s store) makeFifo(id string) error {
	if err := unix.Mkfifo(s.fifo(id), 0o622); err != nil {
		return &os.PathError{Op: "mkfifo", Path: s.fifo(id), Err: err}
	}
	return nil
}
