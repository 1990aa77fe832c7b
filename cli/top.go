package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"

	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newTop(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top CONTAINER [ps OPTIONS]",
		Short: "Display the running processes of a container",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			engine, err := a.engine()
			if err != nil {
				return err
			}
			top, err := engine.ContainerTop(cmd.Context(), args[0], mobyclient.ContainerTopOptions{Arguments: args[1:]})
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(a.Out, 20, 1, 3, ' ', 0)
			fmt.Fprintln(table, strings.Join(top.Titles, "\t"))
			for _, process := range top.Processes {
				fmt.Fprintln(table, strings.Join(process, "\t"))
			}
			return table.Flush()
		},
		ValidArgsFunction: a.completeContainers(running),
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}
