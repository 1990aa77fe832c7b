package cli

import (
	"context"
	"errors"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"berth/api/client"
)

type execFlags struct {
	detach, stdin, tty, privileged bool
	detachKeys, user, workdir      string
	env, envFile                   opts.ListOpts
}

func newExec(a *app) *cobra.Command {
	o := execFlags{env: opts.NewListOpts(opts.ValidateEnv), envFile: opts.NewListOpts(nil)}
	cmd := &cobra.Command{
		Use:   "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short: "Execute a command in a running container",
		Args:  minArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.meetEngine(cmd.Context())
			env, err := opts.ReadKVEnvStrings(o.envFile.GetSlice(), o.env.GetSlice())
			if err != nil {
				return flagError(cmd, err)
			}
			if err := checkDetachKeys(a.detachKeys(o.detachKeys)); err != nil {
				return flagError(cmd, err)
			}
			return a.exec(cmd.Context(), args[0], args[1:], env, o)
		},
		ValidArgsFunction: a.completeContainers(running),
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.StringVar(&o.detachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	flags.BoolVarP(&o.stdin, "interactive", "i", false, "Keep STDIN open even if not attached")
	flags.BoolVarP(&o.tty, "tty", "t", false, "Allocate a pseudo-TTY")
	flags.BoolVarP(&o.detach, "detach", "d", false, "Detached mode: run command in the background")
	flags.StringVarP(&o.user, "user", "u", "", `Username or UID (format: "<name|uid>[:<group|gid>]")`)
	flags.BoolVar(&o.privileged, "privileged", false, "Give extended privileges to the command")
	flags.VarP(&o.env, "env", "e", "Set environment variables")
	flags.Var(&o.envFile, "env-file", "Read in a file of environment variables")
	flags.StringVarP(&o.workdir, "workdir", "w", "", "Working directory inside the container")
	return cmd
}

func (a *app) exec(ctx context.Context, name string, command, env []string, o execFlags) error {
	engine, err := a.engine()
	if err != nil {
		return err
	}
	options := mobyclient.ExecCreateOptions{
		User:       o.user,
		Privileged: o.privileged,
		TTY:        o.tty,
		Cmd:        command,
		Env:        env,
		WorkingDir: o.workdir,
		DetachKeys: a.detachKeys(o.detachKeys),
	}
	if !o.detach {
		options.AttachStdin, options.AttachStdout, options.AttachStderr = o.stdin, true, true
		if err := a.checkTTY(o.stdin, o.tty); err != nil {
			return err
		}
		if o.tty {
			options.ConsoleSize.Height, options.ConsoleSize.Width = a.consoleSize()
		}
	}
	created, err := engine.ExecCreate(ctx, name, options)
	if err != nil {
		return execError(err)
	}
	if created.ID == "" {
		return errors.New("exec ID empty")
	}
	if o.detach {
		_, err := engine.ExecStart(ctx, created.ID, mobyclient.ExecStartOptions{Detach: true, TTY: o.tty})
		return execError(err)
	}
	return a.execAttached(ctx, engine, created.ID, options)
}

func (a *app) execAttached(ctx context.Context, engine *mobyclient.Client, id string, options mobyclient.ExecCreateOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start := container.ExecStartRequest{Tty: options.TTY}
	if size := options.ConsoleSize; size.Height != 0 || size.Width != 0 {
		start.ConsoleSize = &[2]uint{size.Height, size.Width}
	}
	connection, err := client.Upgrade(ctx, engine, "/exec/"+id+"/start", nil, start)
	if err != nil {
		return execError(err)
	}
	c := conversation{tty: options.TTY, detachKeys: options.DetachKeys, connection: connection}
	if options.AttachStdin {
		c.stdin = a.In
	}
	c.stdout, c.stderr = a.outputs(true, true, options.TTY)
	ended := make(chan error, 1)
	go func() { ended <- a.converse(ctx, c) }()
	if options.TTY {
		a.followSize(ctx, func(ctx context.Context, size mobyclient.ContainerResizeOptions) error {
			_, err := engine.ExecResize(ctx, id, mobyclient.ExecResizeOptions(size))
			return err
		})
	}
	if err := <-ended; err != nil {
		if errors.Is(err, errDetached) {
			return nil
		}
		return err
	}
	var code *int
	err = persist(ctx, nil, func(ctx context.Context) (err error) {
		code, err = client.ExecExitCode(ctx, engine, id)
		return err
	})
	switch {
	case err != nil && engineGone(err):
		// The engine is gone and with it the exit code: 255 says that it is unknown.
		return statusError{code: 255, message: explain(err)}
	case err != nil:
		return err
	case code == nil:
		return statusError{code: 255, message: "the engine ended before the command had begun, or lost sight of it"}
	}
	return exitStatus(*code)
}

// execError exits 126 or 127 when the engine's words blame the command, else 1.
func execError(err error) error {
	if err == nil {
		return nil
	}
	if code := commandErrorCode(err, 1); code != 1 {
		return statusError{code: code, message: explain(err)}
	}
	return err
}
