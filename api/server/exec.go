package server

import (
	"math"
	"net/http"

	"github.com/moby/moby/api/types/common"
	"github.com/moby/moby/api/types/container"

	"berth/engine"
	"berth/fail"
)

type idResponse = common.IDResponse

// execBody is the body of POST /containers/{id}/exec.
type execBody struct {
	container.ExecCreateRequest
	Cmd words
}

type execStartBody = container.ExecStartRequest

// createExec prepares a further process in a container.
func createExec(w *writer, r *request) error {
	var body execBody
	if err := bodyJSON(w, r, &body, true); err != nil {
		return err
	}
	if len(body.Cmd) == 0 {
		return fail.New(fail.Invalid, "No exec command specified")
	}
	req := engine.ExecRequest{
		Cmd: body.Cmd, Env: body.Env, User: body.User, WorkingDir: body.WorkingDir, DetachKeys: body.DetachKeys,
		Privileged: body.Privileged, Tty: body.Tty, AttachStdin: body.AttachStdin, AttachStdout: body.AttachStdout, AttachStderr: body.AttachStderr,
	}
	var err error
	if r.version >= 42 {
		if req.Rows, req.Cols, err = consoleSize(body.ConsoleSize); err != nil {
			return err
		}
	}
	id, err := r.s.Execs.Create(r.Context(), r.path["id"], req)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, idResponse{ID: id})
}

// startExec runs it. Unless it is detached, errors after the connection was taken over
// are in the stream and the exit code.
func startExec(w *writer, r *request) error {
	var body execStartBody
	if err := bodyJSON(w, r, &body, false); err != nil {
		return err
	}
	x, err := r.s.Execs.Get(r.Context(), r.path["id"])
	if err != nil {
		return err
	}
	o := engine.ExecStart{Detach: body.Detach, Tty: body.Tty}
	if r.version >= 42 && body.ConsoleSize != nil {
		if !body.Tty {
			return fail.New(fail.Invalid, "console size is only supported when TTY is enabled")
		}
		if o.Rows, o.Cols, err = consoleSize(body.ConsoleSize); err != nil {
			return err
		}
	}
	if err := r.s.Execs.Start(r.Context(), x.ID, o, hijacker(w, r, streamType(!o.Tty, r.version))); err != nil {
		return err
	}
	if o.Detach {
		w.WriteHeader(http.StatusOK)
	}
	return nil
}

func resizeExec(w *writer, r *request) error {
	rows, cols, err := r.size()
	if err != nil {
		return err
	}
	if err := r.s.Execs.Resize(r.Context(), r.path["id"], rows, cols); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func inspectExec(w *writer, r *request) error {
	x, err := r.s.Execs.Get(r.Context(), r.path["id"])
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, execAnswer(x))
}

// consoleSize is [height, width]; absent means none.
func consoleSize(s *[2]uint) (rows, cols uint16, err error) {
	if s == nil {
		return 0, 0, nil
	}
	if s[0] > math.MaxUint16 || s[1] > math.MaxUint16 {
		return 0, 0, fail.New(fail.Invalid, "invalid console size %dx%d", s[0], s[1])
	}
	return uint16(s[0]), uint16(s[1]), nil
}

// execAnswer is inspect's answer. DetachKeys are base64 in JSON, as moby's type has it.
func execAnswer(x engine.Exec) container.ExecInspectResponse {
	out := container.ExecInspectResponse{
		ID:          x.ID,
		Running:     x.Running,
		ExitCode:    x.ExitCode,
		OpenStdin:   x.Request.AttachStdin,
		OpenStdout:  x.Request.AttachStdout,
		OpenStderr:  x.Request.AttachStderr,
		ContainerID: x.Container,
		DetachKeys:  []byte(x.Request.DetachKeys),
		Pid:         x.Pid,
		ProcessConfig: &container.ExecProcessConfig{
			Tty:        x.Request.Tty,
			Arguments:  []string{},
			Privileged: &x.Request.Privileged,
			User:       x.Request.User,
		},
	}
	if cmd := x.Request.Cmd; len(cmd) > 0 {
		out.ProcessConfig.Entrypoint = cmd[0]
		out.ProcessConfig.Arguments = append(out.ProcessConfig.Arguments, cmd[1:]...)
	}
	return out
}
