package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/moby/api/types/container"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

type startFlags struct {
	attach, stdin             bool
	detachKeys                string
	checkpoint, checkpointDir string
}

func newStart(a *app) *cobra.Command {
	var o startFlags
	cmd := &cobra.Command{
		Use:   "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Start one or more stopped containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.attach || o.stdin {
				if len(args) > 1 {
					return errors.New("you cannot start and attach multiple containers at once")
				}
				return a.startAttached(cmd.Context(), args[0], o)
			}
			return a.forEach(cmd.Context(), args, func(ctx context.Context, engine *mobyclient.Client, name string) error {
				_, err := engine.ContainerStart(ctx, name, o.options())
				return err
			}, "Error: failed to start containers")
		},
		ValidArgsFunction: a.completeContainers(notRunning),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.attach, "attach", "a", false, "Attach STDOUT/STDERR and forward signals")
	flags.BoolVarP(&o.stdin, "interactive", "i", false, "Attach container's STDIN")
	flags.StringVar(&o.detachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	flags.StringVar(&o.checkpoint, "checkpoint", "", "Restore from this checkpoint")
	flags.StringVar(&o.checkpointDir, "checkpoint-dir", "", "Use a custom checkpoint storage directory")
	_ = flags.MarkHidden("checkpoint")
	_ = flags.MarkHidden("checkpoint-dir")
	return cmd
}

func (o startFlags) options() mobyclient.ContainerStartOptions {
	return mobyclient.ContainerStartOptions{CheckpointID: o.checkpoint, CheckpointDir: o.checkpointDir}
}

// startAttached is `start -a` and `start -i`: as `run` does after its create.
func (a *app) startAttached(ctx context.Context, name string, o startFlags) error {
	if err := checkDetachKeys(a.detachKeys(o.detachKeys)); err != nil {
		return err
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	found, err := engine.ContainerInspect(ctx, name, mobyclient.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	c := found.Container
	config := *c.Config
	config.AttachStdin = o.stdin && config.OpenStdin
	config.AttachStdout, config.AttachStderr = true, true
	if err := a.checkTTY(config.AttachStdin, config.Tty); err != nil {
		return err
	}
	if !config.Tty {
		signals := a.catchSignals()
		signals.forward(ctx, engine, c.ID)
		defer signals.close()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	streams, err := a.attachForRun(ctx, engine, c.ID, &config, a.detachKeys(o.detachKeys))
	if err != nil {
		return err
	}
	exited := a.waitExit(ctx, engine, c.ID, c.HostConfig != nil && c.HostConfig.AutoRemove, streams.over)
	if _, err := engine.ContainerStart(ctx, c.ID, o.options()); err != nil {
		cancel()
		<-streams.over
		return err
	}
	if config.Tty {
		a.followSize(ctx, a.resizeContainer(engine, c.ID))
	}
	switch err := streams.wait(); {
	case errors.Is(err, errDetached):
		return nil
	case errors.As(err, new(outputError)):
		return err
	}
	return <-exited
}

func (a *app) resizeContainer(engine *mobyclient.Client, id string) func(context.Context, mobyclient.ContainerResizeOptions) error {
	return func(ctx context.Context, size mobyclient.ContainerResizeOptions) error {
		_, err := engine.ContainerResize(ctx, id, size)
		return err
	}
}

// forEach runs one action on each name, printing the name when it worked and the error when
// not; all are tried. With a summary, a failure ends in it, as Docker's start does.
func (a *app) forEach(ctx context.Context, names []string, action func(context.Context, *mobyclient.Client, string) error, summary string) error {
	engine, err := a.engine()
	if err != nil {
		return err
	}
	failed := make([]string, 0)
	for _, name := range names {
		if err := action(ctx, engine, name); err != nil {
			if errors.Is(err, context.Canceled) {
				return err
			}
			fmt.Fprintln(a.Err, explain(err))
			failed = append(failed, name)
			continue
		}
		fmt.Fprintln(a.Out, name)
	}
	switch {
	case len(failed) == 0:
		return nil
	case summary != "":
		return fmt.Errorf("%s: %s", summary, joinComma(failed))
	}
	return statusError{code: 1}
}

// notRunning keeps the containers that could be started.
func notRunning(c container.Summary) bool { return c.State != container.StateRunning }

// running keeps the containers that have processes.
func running(c container.Summary) bool {
	return c.State == container.StateRunning || c.State == container.StatePaused
}

func anyState(container.Summary) bool { return true }
