package cli

import (
	"context"
	"fmt"

	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newWait(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "wait CONTAINER [CONTAINER...]",
		Short: "Block until one or more containers stop, then print their exit codes",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.wait(cmd.Context(), args)
		},
		ValidArgsFunction: a.completeContainers(running),
	}
}

func (a *app) wait(ctx context.Context, names []string) error {
	engine, err := a.engine()
	if err != nil {
		return err
	}
	failed := false
	for _, name := range names {
		wait := engine.ContainerWait(ctx, name, mobyclient.ContainerWaitOptions{})
		select {
		case answer := <-wait.Result:
			fmt.Fprintln(a.Out, answer.StatusCode)
		case err := <-wait.Error:
			if ctx.Err() != nil {
				return ctx.Err()
			}
			fmt.Fprintln(a.Err, explain(err))
			failed = true
		}
	}
	if failed {
		return statusError{code: 1}
	}
	return nil
}
