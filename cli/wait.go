package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/moby/api/types/container"
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
	if err := present(ctx, engine); err != nil {
		return err
	}
	failed := false
	for _, name := range names {
		var answer container.WaitResponse
		err := persist(ctx, nil, func(ctx context.Context) (err error) {
			answer, err = awaitResult(ctx, engine.ContainerWait(ctx, name, mobyclient.ContainerWaitOptions{}))
			return err
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && answer.Error != nil:
			err = errors.New(answer.Error.Message)
		}
		if err != nil {
			fmt.Fprintln(a.Err, explain(err))
			failed = true
			continue
		}
		fmt.Fprintln(a.Out, answer.StatusCode)
	}
	if failed {
		return statusError{code: 1}
	}
	return nil
}
