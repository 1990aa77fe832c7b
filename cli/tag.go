package cli

import (
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newTag(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
		Short: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
		Args:  exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			engine, err := a.engine()
			if err != nil {
				return err
			}
			_, err = engine.ImageTag(cmd.Context(), mobyclient.ImageTagOptions{Source: args[0], Target: args[1]})
			return err
		},
		ValidArgsFunction: a.completeImages(2),
	}
}
