package cli

import (
	"fmt"

	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newDiff(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "diff CONTAINER",
		Short: "Inspect changes to files or directories on a container's filesystem",
		Long: `Inspect changes to files or directories on a container's filesystem

A line for each: A what was added, C what was changed, D what was deleted.`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			engine, err := a.engine()
			if err != nil {
				return err
			}
			answer, err := engine.ContainerDiff(cmd.Context(), args[0], mobyclient.ContainerDiffOptions{})
			if err != nil {
				return err
			}
			for _, c := range answer.Changes {
				fmt.Fprintln(a.Out, c.Kind.String(), c.Path)
			}
			return nil
		},
		ValidArgsFunction: a.completeContainers(anyState),
	}
}
