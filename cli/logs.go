package cli

import (
	"context"
	"io"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newLogs(a *app) *cobra.Command {
	o := mobyclient.ContainerLogsOptions{ShowStdout: true, ShowStderr: true}
	names := false
	cmd := &cobra.Command{
		Use:               "logs [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Fetch the logs of a container, or of several together",
		Args:              minArgs(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.logs(cmd.Context(), args, o, names) },
		ValidArgsFunction: a.completeContainers(anyState),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.Follow, "follow", "f", false, "Follow log output")
	flags.StringVar(&o.Since, "since", "", `Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	flags.StringVar(&o.Until, "until", "", `Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	flags.BoolVarP(&o.Timestamps, "timestamps", "t", false, "Show timestamps")
	flags.BoolVar(&o.Details, "details", false, "Show extra details provided to logs")
	flags.StringVarP(&o.Tail, "tail", "n", "all", "Number of lines to show from the end of the logs")
	flags.BoolVar(&names, "names", false, "Begin lines with the container's name (of several containers: instead of its ID)")
	return cmd
}

// hasTerminal tells that a container's log comes without stream headers.
func hasTerminal(c container.InspectResponse) bool { return c.Config != nil && c.Config.Tty }

func (a *app) logs(ctx context.Context, which []string, o mobyclient.ContainerLogsOptions, names bool) error {
	engine, err := a.engine()
	if err != nil {
		return err
	}
	var all []container.InspectResponse
	for _, name := range which {
		found, err := engine.ContainerInspect(ctx, name, mobyclient.ContainerInspectOptions{})
		if err != nil {
			return err
		}
		all = append(all, found.Container)
	}
	if len(all) > 1 || names {
		err := a.severalLogs(ctx, engine, all, o, names)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	c, tty := all[0], hasTerminal(all[0])
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
