package cli

import (
	"context"

	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newKill(a *app) *cobra.Command {
	var signal string
	cmd := &cobra.Command{
		Use:   "kill [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Kill one or more running containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.forEachAtOnce(cmd.Context(), args, func(ctx context.Context, engine *mobyclient.Client, name string) error {
				_, err := engine.ContainerKill(ctx, name, mobyclient.ContainerKillOptions{Signal: signal})
				return err
			})
		},
		ValidArgsFunction: a.completeContainers(running),
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "Signal to send to the container")
	return cmd
}
