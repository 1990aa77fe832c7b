package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel/stage"
	oci "berth/oci/bundle"
)

func (c *Container) hooks() specs.Hooks {
	if c.spec.Hooks == nil {
		return specs.Hooks{}
	}
	return *c.spec.Hooks
}

// HookError is the failure of a hook. The container has been stopped for it, and what is left
// to do is Destroy (runtime-spec, runtime.md, "Lifecycle").
type HookError struct {
	Kind, Path string // "createRuntime", …
	Err        error
}

func (e *HookError) Error() string { return e.Kind + " hook " + e.Path + ": " + e.Err.Error() }
func (e *HookError) Unwrap() error { return e.Err }

func (c *Container) hasCreateHooks() bool {
	h := c.hooks()
	//lint:ignore SA1019 deprecated hooks are still in bundles
	return len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer) > 0
}

// createHooks run when everything is mounted and the root is not entered yet.
func (c *Container) createHooks(ctx context.Context) error {
	h := c.hooks()
	//lint:ignore SA1019 deprecated hooks are still in bundles
	if err := c.runHooks(ctx, "prestart", h.Prestart, specs.StateCreating); err != nil {
		return err
	}
	if err := c.runHooks(ctx, "createRuntime", h.CreateRuntime, specs.StateCreating); err != nil {
		return err
	}
	return c.runHooksInside(ctx, "createContainer", h.CreateContainer, specs.StateCreating, c.hostProgram)
}

// startHooks run in the container, confined like its process: their programs are the
// image's.
func (c *Container) startHooks(ctx context.Context) error {
	return c.runHooksInside(ctx, "startContainer", c.hooks().StartContainer, specs.StateCreated, c.ownProgram)
}

func (c *Container) poststartHooks(ctx context.Context) error {
	return c.runHooks(ctx, "poststart", c.hooks().Poststart, specs.StateRunning)
}

// poststopHooks all run, whatever becomes of one of them (runtime.md, "Lifecycle").
func (c *Container) poststopHooks(ctx context.Context) {
	for i := range c.hooks().Poststop {
		if err := c.runHooks(ctx, "poststop", c.hooks().Poststop[i:i+1], specs.StateStopped); err != nil {
			c.warnings = append(c.warnings, err.Error())
		}
	}
}

// runHooks runs programs of the host one after another, each with the container's
// state on its standard input (runtime-spec, config.md, "POSIX-platform Hooks").
func (c *Container) runHooks(ctx context.Context, kind string, list []specs.Hook, status specs.ContainerState) error {
	if len(list) == 0 {
		return nil
	}
	text, err := c.hookState(status)
	if err != nil {
		return err
	}
	for _, h := range list {
		if err := runHook(ctx, h, text); err != nil {
			return fail.Mark(fail.Internal, &HookError{kind, h.Path, err})
		}
	}
	return nil
}

// hookState is what a hook reads.
func (c *Container) hookState(status specs.ContainerState) ([]byte, error) {
	return json.Marshal(c.state(status))
}

// state is the container as others are told of it (runtime-spec, runtime.md, "State").
func (c *Container) state(status specs.ContainerState) specs.State {
	state := specs.State{Version: specs.Version, ID: c.id, Status: status, Pid: c.pid, Bundle: c.bundle, Annotations: c.spec.Annotations}
	if status == specs.StateStopped {
		state.Pid = 0
	}
	return state
}

// runHooksInside runs programs in the container's namespaces; start makes the process.
func (c *Container) runHooksInside(ctx context.Context, kind string, list []specs.Hook, status specs.ContainerState,
	start func(context.Context, specs.Hook, [3]*os.File) (*Process, error)) error {
	for _, h := range list {
		text, err := c.hookState(status)
		if err != nil {
			return err
		}
		if err := runHookInside(ctx, h, text, start); err != nil {
			return fail.Mark(fail.Internal, &HookError{kind, h.Path, err})
		}
	}
	return nil
}

func runHookInside(ctx context.Context, h specs.Hook, state []byte, start func(context.Context, specs.Hook, [3]*os.File) (*Process, error)) error {
	ctx, cancel := withTimeout(ctx, h)
	defer cancel()
	in, feed, err := os.Pipe()
	if err != nil {
		return err
	}
	output, out, err := os.Pipe()
	if err != nil {
		in.Close()
		feed.Close()
		return err
	}
	defer output.Close()
	p, err := start(ctx, h, [3]*os.File{in, out, out})
	in.Close()
	out.Close()
	if err != nil {
		feed.Close()
		return err
	}
	defer p.Release()
	stop := context.AfterFunc(ctx, func() { p.Signal(unix.SIGKILL) })
	defer stop()
	fed := make(chan struct{})
	go func() { // a hook need not read
		defer close(fed)
		feed.Write(state)
		feed.Close()
	}()
	said := make(chan []byte, 1)
	go func() {
		text, _ := io.ReadAll(io.LimitReader(output, 4096))
		io.Copy(io.Discard, output)
		said <- text
	}()
	exit, err := p.Wait()
	feed.SetDeadline(time.Now())
	<-fed
	// What the hook itself wrote is in the pipe by now; others may hold it open.
	output.SetReadDeadline(time.Now())
	text := append(<-said, waiting(output)...)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	case exit.Code != 0 && len(text) > 0:
		return fmt.Errorf("exit status %d: %s", exit.Code, bytes.TrimSpace(text))
	case exit.Code != 0:
		return fmt.Errorf("exit status %d", exit.Code)
	}
	return nil
}

// waiting reads what is in a pipe already: a busy machine may not have let its reader do so.
func waiting(pipe *os.File) []byte {
	var buf [4096]byte
	n := 0
	if conn, err := pipe.SyscallConn(); err == nil {
		conn.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), buf[:]) }) // os.Pipe's do not block
	}
	return buf[:max(n, 0)]
}

// ownProgram starts a hook that is a program of the container.
func (c *Container) ownProgram(ctx context.Context, h specs.Hook, stdio [3]*os.File) (*Process, error) {
	proc := *c.spec.Process
	proc.Args, proc.Env, proc.Cwd, proc.Terminal = hookArgs(h), h.Env, "/", false
	proc.Args[0] = h.Path
	return c.Exec(ctx, ExecConfig{Process: &proc, Stdio: stdio})
}

// hostProgram starts a hook that is a program of the host, as the container's mount
// namespace still shows it before the root is entered. It is as privileged as we are.
func (c *Container) hostProgram(ctx context.Context, h specs.Hook, stdio [3]*os.File) (*Process, error) {
	b := newBuilder(c.spec, c.bundle)
	defer b.release()
	p := b.p
	var conf confinement
	conf.slave = -1
	for i, f := range stdio {
		conf.stdio[i] = p.File(f)
	}
	p.DefaultSignals()
	b.hide()
	b.joinAll(c)
	if c.flags&unix.CLONE_NEWPID != 0 {
		p.Respawn()
	}
	b.streams(&conf)
	p.Exec([]string{h.Path}, hookArgs(h), h.Env)
	p.Notify(atReady)
	p.Execute()
	child, err := stage.Start(p, stage.Options{FirstFree: firstFree(nil)})
	if err != nil {
		return nil, err
	}
	proc := new(Process)
	if err := proc.adopt(child); err != nil {
		return nil, err
	}
	if err := proc.enter(ctx, b, &oci.Process{Args: []string{h.Path}}); err != nil {
		proc.kill()
		proc.Release()
		return nil, err
	}
	proc.watch()
	return proc, nil
}

func hookArgs(h specs.Hook) []string {
	if len(h.Args) == 0 {
		return []string{h.Path}
	}
	return slices.Clone(h.Args)
}

// withTimeout bounds a hook's life.
func withTimeout(ctx context.Context, h specs.Hook) (context.Context, context.CancelFunc) {
	if h.Timeout == nil {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, time.Duration(*h.Timeout)*time.Second, fmt.Errorf("no end after %d s", *h.Timeout))
}

func runHook(ctx context.Context, h specs.Hook, state []byte) error {
	ctx, cancel := withTimeout(ctx, h)
	defer cancel()
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = h.Env
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would be our own
	}
	cmd.Stdin = bytes.NewReader(state)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = time.Second // a grandchild may hold the pipes
	err := cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && output.Len() > 0 {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(output.Bytes()))
	}
	return err
}
