package cli

import (
	"errors"
	"fmt"

	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newCommit(a *app) *cobra.Command {
	var o mobyclient.ContainerCommitOptions
	var pause bool
	cmd := &cobra.Command{
		Use:   "commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
		Short: "Create a new image from a container's changes",
		Args:  rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			flags := cmd.Flags()
			if flags.Changed("pause") && flags.Changed("no-pause") {
				return flagError(cmd, errors.New("conflicting options: --pause and --no-pause"))
			}
			o.NoPause = o.NoPause || !pause
			if len(args) == 2 {
				o.Reference = args[1]
			}
			engine, err := a.engine()
			if err != nil {
				return err
			}
			image, err := engine.ContainerCommit(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.Out, image.ID)
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, typed []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(typed) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeContainers(anyState)(cmd, typed, prefix)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.Author, "author", "a", "", `Author (e.g., "Ada Lovelace <ada@example.com>")`)
	flags.StringArrayVarP(&o.Changes, "change", "c", nil, "Apply Dockerfile instruction to the created image")
	flags.StringVarP(&o.Comment, "message", "m", "", "Commit message")
	flags.BoolVar(&o.NoPause, "no-pause", false, "Do not pause the container while its files are read")
	flags.BoolVarP(&pause, "pause", "p", true, "Pause container during commit")
	return cmd
}
