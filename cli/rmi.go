package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	mobyclient "github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

type rmiFlags struct {
	force, noPrune bool
	platforms      []string
}

func newRmi(a *app) *cobra.Command { return newImageRemove(a, "rmi", nil) }

func newImageRemove(a *app, name string, aliases []string) *cobra.Command {
	var o rmiFlags
	cmd := &cobra.Command{
		Use:               name + " [OPTIONS] IMAGE [IMAGE...]",
		Aliases:           aliases,
		Short:             "Remove one or more images",
		Args:              minArgs(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.removeImages(cmd.Context(), args, o) },
		ValidArgsFunction: a.completeImages(0),
	}
	cmd.Flags().BoolVarP(&o.force, "force", "f", false, "Force removal of the image")
	cmd.Flags().BoolVar(&o.noPrune, "no-prune", false, "Do not delete untagged parents")
	cmd.Flags().StringSliceVar(&o.platforms, "platform", nil, `Remove only the given platform variant. Formatted as "os[/arch[/variant]]"`)
	return cmd
}

func (a *app) removeImages(ctx context.Context, names []string, o rmiFlags) error {
	platforms, err := parsePlatforms(o.platforms)
	if err != nil {
		return err
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	failed := false
	for _, name := range names {
		removed, err := engine.ImageRemove(ctx, name, mobyclient.ImageRemoveOptions{Force: o.force, PruneChildren: !o.noPrune, Platforms: platforms})
		if err != nil {
			if errors.Is(err, context.Canceled) {
				return err
			}
			fmt.Fprintln(a.Err, explain(err))
			failed = failed || !o.force || !errdefs.IsNotFound(err)
			continue
		}
		for _, r := range removed.Items {
			if r.Deleted != "" {
				fmt.Fprintf(a.Out, "Deleted: %s\n", r.Deleted)
			} else {
				fmt.Fprintf(a.Out, "Untagged: %s\n", r.Untagged)
			}
		}
	}
	if failed {
		return statusError{code: 1}
	}
	return nil
}

func parsePlatforms(values []string) ([]ocispec.Platform, error) {
	var parsed []ocispec.Platform
	for _, value := range values {
		p, err := parsePlatform(value)
		if err != nil {
			return nil, err
		}
		if p != nil {
			parsed = append(parsed, *p)
		}
	}
	return parsed, nil
}
