package cli

import (
	"context"

	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newRestart(a *app) *cobra.Command {
	var o stopFlags
	cmd := &cobra.Command{
		Use:   "restart [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Restart one or more containers",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			timeout := o.seconds(cmd.Flags())
			return a.forEach(cmd.Context(), args, func(ctx context.Context, engine *mobyclient.Client, name string) error {
				_, err := engine.ContainerRestart(ctx, name, mobyclient.ContainerRestartOptions{Signal: o.signal, Timeout: timeout})
				return err
			}, "")
		},
		ValidArgsFunction: a.completeContainers(anyState),
	}
	o.register(cmd.Flags())
	return cmd
}
