package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/moby/moby/api/types/container"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"berth/api/client"
)

// Exit codes of `run` and `exec` for what is not the container's own (Docker's and the
// shell's convention).
const (
	exitEngineError   = 125
	exitNotExecutable = 126
	exitNotFound      = 127
)

type runFlags struct {
	createFlags
	detach, sigProxy bool
	detachKeys       string
}

func newRun(a *app) *cobra.Command {
	var o runFlags
	var c *containerFlags
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create and run a new container from an image",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runCommand(cmd, c, &o, args)
		},
		ValidArgsFunction: a.completeImages(1),
	}
	flags := cmd.Flags()
	o.register(flags)
	flags.BoolVarP(&o.detach, "detach", "d", false, "Run container in background and print container ID")
	flags.BoolVar(&o.sigProxy, "sig-proxy", true, "Proxy received signals to the process")
	flags.StringVar(&o.detachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	c = registerContainerFlags(flags)
	a.completeNetworkFlags(cmd)
	a.completeVolumeFlags(cmd)
	hideHelpShorthand(cmd)
	return cmd
}

func (a *app) runCommand(cmd *cobra.Command, c *containerFlags, o *runFlags, args []string) error {
	a.meetEngine(cmd.Context())
	request, err := a.containerRequest(cmd, c, &o.createFlags, args)
	if err != nil {
		return err
	}
	if err := checkDetachKeys(a.detachKeys(o.detachKeys)); err != nil {
		return flagError(cmd, err)
	}
	config := request.config
	if o.detach {
		if c.attach.Len() > 0 {
			return usageError{code: 1, command: cmd.CommandPath(), message: "conflicting options: cannot specify both --attach and --detach"}
		}
		config.AttachStdin, config.AttachStdout, config.AttachStderr, config.StdinOnce = false, false, false, false
	} else if err := a.checkTTY(config.AttachStdin, config.Tty); err != nil {
		return err
	}
	if config.Tty {
		request.host.ConsoleSize[0], request.host.ConsoleSize[1] = a.consoleSize()
	}
	ctx := cmd.Context()
	id, err := a.createContainer(ctx, request, &o.createFlags)
	if err != nil {
		return runError(err)
	}
	return a.runContainer(ctx, id, request, o)
}

// runContainer starts a created container and, unless detached, stays with it. The order is
// what makes a container that lives for a millisecond observable: attach and wait, then start.
func (a *app) runContainer(ctx context.Context, id string, request *containerRequest, o *runFlags) error {
	engine, err := a.engine()
	if err != nil {
		return err
	}
	config := request.config
	var signals *signalForwarder
	if o.sigProxy && !o.detach {
		signals = a.catchSignals()
		signals.forward(ctx, engine, id)
		defer signals.close()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	attached := config.AttachStdin || config.AttachStdout || config.AttachStderr
	streams := &talk{over: make(chan struct{})}
	var streaming chan struct{} // nil when nothing is attached
	if attached {
		streaming = streams.over
	}
	waiting := make(chan (<-chan error), 1)
	go func() { waiting <- a.waitExit(ctx, engine, id, request.host.AutoRemove, streaming) }()
	if attached {
		if err := a.beginTalk(ctx, engine, id, config, a.detachKeys(o.detachKeys), streams); err != nil {
			return runError(err)
		}
	}
	exited := <-waiting

	if _, err := engine.ContainerStart(ctx, id, mobyclient.ContainerStartOptions{}); err != nil {
		cancel()
		if attached {
			<-streams.over
		}
		return startError(err)
	}
	if attached && config.Tty {
		a.followSize(ctx, a.resizeContainer(engine, id))
	}
	watching := config.AttachStdout || config.AttachStderr
	if !watching {
		fmt.Fprintln(a.Out, id)
	}
	if attached {
		switch err := streams.wait(); {
		case errors.Is(err, errDetached):
			return nil
		case errors.As(err, new(outputError)):
			return err
		}
	}
	if !watching {
		return nil
	}
	return <-exited
}

// talk is a conversation under way: over is closed when it has ended, err then says how.
type talk struct {
	over chan struct{}
	err  error
}

func (t *talk) wait() error {
	<-t.over
	return t.err
}

// attachForRun attaches to the container that is about to start.
func (a *app) attachForRun(ctx context.Context, engine *mobyclient.Client, id string, config *container.Config, detachKeys string) (*talk, error) {
	t := &talk{over: make(chan struct{})}
	return t, a.beginTalk(ctx, engine, id, config, detachKeys, t)
}

// beginTalk is attachForRun for a caller who has promised t to others already. After an
// error t is never over.
func (a *app) beginTalk(ctx context.Context, engine *mobyclient.Client, id string, config *container.Config, detachKeys string, t *talk) error {
	query := url.Values{"stream": {"1"}}
	for name, asked := range map[string]bool{"stdin": config.AttachStdin, "stdout": config.AttachStdout, "stderr": config.AttachStderr} {
		if asked {
			query.Set(name, "1")
		}
	}
	if detachKeys != "" {
		query.Set("detachKeys", detachKeys)
	}
	connection, err := client.Upgrade(ctx, engine, "/containers/"+url.PathEscape(id)+"/attach", query, nil)
	if err != nil {
		return err
	}
	c := conversation{tty: config.Tty, detachKeys: detachKeys, connection: connection}
	if config.AttachStdin {
		c.stdin = a.In
	}
	c.stdout, c.stderr = a.outputs(config.AttachStdout, config.AttachStderr, config.Tty)
	go func() {
		t.err = a.converse(ctx, c)
		close(t.over)
	}()
	return nil
}

// outputs chooses the streams; a pty has one output only.
func (a *app) outputs(stdout, stderr, tty bool) (out, err io.Writer) {
	if stdout || stderr && tty {
		out = a.Out
	}
	if stderr && !tty {
		err = a.Err
	}
	return out, err
}

// waitExit registers for the container's end before it starts; the channel yields the
// command's result: nil for exit code 0, else a statusError with it.
func (a *app) waitExit(ctx context.Context, engine *mobyclient.Client, id string, autoRemove bool, streams <-chan struct{}) <-chan error {
	condition := container.WaitConditionNextExit
	if autoRemove {
		condition = container.WaitConditionRemoved
	}
	return a.waitCondition(ctx, engine, id, condition, streams)
}

// waitCondition registers before it returns. An engine that ends in between is asked again:
// as long as streams is open the container lives on without it.
func (a *app) waitCondition(ctx context.Context, engine *mobyclient.Client, id string, condition container.WaitCondition, streams <-chan struct{}) <-chan error {
	wait := engine.ContainerWait(ctx, id, mobyclient.ContainerWaitOptions{Condition: condition})
	if condition == container.WaitConditionNextExit {
		condition = container.WaitConditionNotRunning // the exit may be over when we ask again
	}
	result := make(chan error, 1)
	go func() {
		var answer container.WaitResponse
		err := persist(ctx, streams, func(ctx context.Context) (err error) {
			answer, err = awaitResult(ctx, wait)
			if engineGone(err) && ctx.Err() == nil {
				wait = engine.ContainerWait(ctx, id, mobyclient.ContainerWaitOptions{Condition: condition})
			}
			return err
		})
		switch {
		case ctx.Err() != nil:
			result <- context.Cause(ctx)
		case err != nil:
			result <- statusError{code: exitEngineError, message: "Error waiting for container: " + explain(err)}
		case answer.Error != nil:
			result <- statusError{code: exitEngineError, message: "Error waiting for container: " + answer.Error.Message}
		default:
			result <- exitStatus(int(answer.StatusCode))
		}
	}()
	return result
}

func awaitResult(ctx context.Context, wait mobyclient.ContainerWaitResult) (container.WaitResponse, error) {
	select {
	case answer := <-wait.Result:
		return answer, nil
	case err := <-wait.Error:
		return container.WaitResponse{}, err
	case <-ctx.Done():
		return container.WaitResponse{}, context.Cause(ctx)
	}
}

// exitStatus is the result of a command that ran: silent, whatever the code.
func exitStatus(code int) error {
	if code == 0 {
		return nil
	}
	return statusError{code: code}
}

// runError is a failure of ours or the engine's: `run` and `create` prefix it and exit 125.
func runError(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return statusError{code: exitEngineError, message: explain(err), named: true}
}

// startError reads from the engine's words whether the command was missing or not executable:
// the API has no other place for it.
func startError(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return statusError{code: commandErrorCode(err, exitEngineError), message: explain(err), named: true}
}

func commandErrorCode(err error, otherwise int) int {
	text := err.Error()
	for _, sign := range []string{"executable file not found", "no such file or directory", "system cannot find the file specified"} {
		if strings.Contains(text, sign) {
			return exitNotFound
		}
	}
	for _, sign := range []string{"permission denied", "is a directory", "exec format error"} {
		if strings.Contains(text, sign) {
			return exitNotExecutable
		}
	}
	return otherwise
}
