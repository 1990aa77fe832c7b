package cli

import (
	"errors"
	"strings"

	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newRename(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rename CONTAINER NEW_NAME",
		Short: "Rename a container",
		Args:  exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			oldName, newName := strings.TrimSpace(args[0]), strings.TrimSpace(args[1])
			if oldName == "" || newName == "" {
				return errors.New("Error: Neither old nor new names may be empty")
			}
			engine, err := a.engine()
			if err != nil {
				return err
			}
			_, err = engine.ContainerRename(cmd.Context(), oldName, mobyclient.ContainerRenameOptions{NewName: newName})
			return err
		},
		ValidArgsFunction: a.completeContainers(anyState),
	}
}
