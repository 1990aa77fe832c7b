package cli

import (
	"context"

	"github.com/moby/moby/api/types/container"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newPause(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "pause CONTAINER [CONTAINER...]",
		Short: "Pause all processes within one or more containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.forEachAtOnce(cmd.Context(), args, func(ctx context.Context, engine *mobyclient.Client, name string) error {
				_, err := engine.ContainerPause(ctx, name, mobyclient.ContainerPauseOptions{})
				return err
			})
		},
		ValidArgsFunction: a.completeContainers(func(c container.Summary) bool { return c.State == container.StateRunning }),
	}
}
