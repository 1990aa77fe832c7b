package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/fail"
)

func (c *Container) hooks() specs.Hooks {
	if c.spec.Hooks == nil {
		return specs.Hooks{}
	}
	return *c.spec.Hooks
}

func (c *Container) hasCreateHooks() bool {
	h := c.hooks()
	return len(h.Prestart)+len(h.CreateRuntime) > 0
}

// createHooks run when everything is mounted and the root is not entered yet.
func (c *Container) createHooks(ctx context.Context) error {
	h := c.hooks()
	if err := c.runHooks(ctx, "prestart", h.Prestart, specs.StateCreating); err != nil {
		return err
	}
	return c.runHooks(ctx, "createRuntime", h.CreateRuntime, specs.StateCreating)
}

func (c *Container) poststartHooks(ctx context.Context) error {
	return c.runHooks(ctx, "poststart", c.hooks().Poststart, specs.StateRunning)
}

// poststopHooks all run, whatever becomes of one of them.
func (c *Container) poststopHooks(ctx context.Context) error {
	var first error
	for i := range c.hooks().Poststop {
		if err := c.runHooks(ctx, "poststop", c.hooks().Poststop[i:i+1], specs.StateStopped); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// runHooks runs programs of the host one after another, each with the container's
// state on its standard input (runtime-spec, config.md, "POSIX-platform Hooks").
func (c *Container) runHooks(ctx context.Context, kind string, list []specs.Hook, status specs.ContainerState) error {
	if len(list) == 0 {
		return nil
	}
	state := specs.State{Version: specs.Version, ID: c.id, Status: status, Pid: c.pid, Bundle: c.bundle, Annotations: c.spec.Annotations}
	if status == specs.StateStopped {
		state.Pid = 0
	}
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for _, h := range list {
		if err := runHook(ctx, h, text); err != nil {
			return fail.New(fail.Internal, "%s hook %s: %w", kind, h.Path, err)
		}
	}
	return nil
}

func runHook(ctx context.Context, h specs.Hook, state []byte) error {
	if h.Timeout != nil {
		if *h.Timeout <= 0 {
			return fail.New(fail.Invalid, "the timeout %d is not positive", *h.Timeout)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(*h.Timeout)*time.Second, fmt.Errorf("no end after %d s", *h.Timeout))
		defer cancel()
	}
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

// startHooks is called before the process executes.
func (c *Container) startHooks(context.Context) error { return nil }
