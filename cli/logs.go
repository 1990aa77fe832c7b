package cli

import (
	"context"
	"io"

	"github.com/moby/moby/api/pkg/stdcopy"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newLogs(a *app) *cobra.Command {
	o := mobyclient.ContainerLogsOptions{ShowStdout: true, ShowStderr: true}
	cmd := &cobra.Command{
		Use:               "logs [OPTIONS] CONTAINER",
		Short:             "Fetch the logs of a container",
		Args:              exactArgs(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.logs(cmd.Context(), args[0], o) },
		ValidArgsFunction: a.completeContainers(anyState),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.Follow, "follow", "f", false, "Follow log output")
	flags.StringVar(&o.Since, "since", "", `Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	flags.StringVar(&o.Until, "until", "", `Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	flags.BoolVarP(&o.Timestamps, "timestamps", "t", false, "Show timestamps")
	flags.BoolVar(&o.Details, "details", false, "Show extra details provided to logs")
	flags.StringVarP(&o.Tail, "tail", "n", "all", "Number of lines to show from the end of the logs")
	return cmd
}

func (a *app) logs(ctx context.Context, name string, o mobyclient.ContainerLogsOptions) error {
	engine, err := a.engine()
	if err != nil {
		return err
	}
	// Only a pty's log comes without stream headers.
	found, err := engine.ContainerInspect(ctx, name, mobyclient.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	c := found.Container
	tty := c.Config != nil && c.Config.Tty
	if o.Follow && !tty {
		f := logFollower{out: a.Out, err: a.Err, timestamps: o.Timestamps}
		err := f.follow(ctx, engine, c.ID, o)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	body, err := engine.ContainerLogs(ctx, c.ID, o)
	if err != nil {
		return err
	}
	defer body.Close()
	if tty {
		_, err = io.Copy(a.Out, body)
	} else {
		_, err = stdcopy.StdCopy(a.Out, a.Err, body)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
