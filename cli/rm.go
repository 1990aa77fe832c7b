package cli

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newRm(a *app) *cobra.Command {
	var force, link, volumes bool
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] CONTAINER [CONTAINER...]",
		Aliases: []string{"remove"},
		Short:   "Remove one or more containers",
		Args:    minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.forEachAtOnceForgiving(cmd.Context(), args, force, func(ctx context.Context, engine *mobyclient.Client, name string) error {
				name = strings.Trim(name, "/")
				if name == "" {
					return errors.New("container name cannot be empty")
				}
				_, err := engine.ContainerRemove(ctx, name, mobyclient.ContainerRemoveOptions{RemoveVolumes: volumes, RemoveLinks: link, Force: force})
				return err
			})
		},
		ValidArgsFunction: a.completeContainers(anyState),
	}
	cmd.Flags().BoolVarP(&volumes, "volumes", "v", false, "Remove anonymous volumes associated with the container")
	cmd.Flags().BoolVarP(&link, "link", "l", false, "Remove the specified link")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force the removal of a running container (uses SIGKILL)")
	return cmd
}

// forEachAtOnceForgiving is forEachAtOnce; with force, what is already gone is told but no failure.
func (a *app) forEachAtOnceForgiving(ctx context.Context, names []string, force bool, action func(context.Context, *mobyclient.Client, string) error) error {
	var other atomic.Bool
	err := a.forEachAtOnce(ctx, names, func(ctx context.Context, engine *mobyclient.Client, name string) error {
		err := action(ctx, engine, name)
		if err != nil && !errdefs.IsNotFound(err) {
			other.Store(true)
		}
		return err
	})
	var status statusError
	if force && !other.Load() && errors.As(err, &status) {
		return nil
	}
	return err
}
