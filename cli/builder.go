package cli

import (
	"fmt"

	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newBuilderGroup(a *app) *cobra.Command {
	return newGroup(a, "builder", "Manage builds", []entry{
		{name: "build", build: newPluginCommand("build", "Build an image from a Dockerfile")},
		{name: "prune", build: newBuilderPrune},
	})
}

func newBuilderPrune(a *app) *cobra.Command {
	o := pruneFlags{filter: opts.NewFilterOpt()}
	var keep opts.MemBytes
	cmd := &cobra.Command{
		Use:               "prune",
		Short:             "Remove build cache",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			question := "WARNING! This will remove all dangling build cache. Are you sure you want to continue?"
			if o.all {
				question = "WARNING! This will remove all build cache. Are you sure you want to continue?"
			}
			if err := a.confirmPrune(ctx, o.force, question); err != nil {
				return err
			}
			engine, err := a.engine()
			if err != nil {
				return err
			}
			r, err := engine.BuildCachePrune(ctx, mobyclient.BuildCachePruneOptions{All: o.all, ReservedSpace: keep.Value(), Filters: a.pruneFilters(o.filter)})
			if err != nil {
				return err
			}
			if text := deletedText("Deleted build cache objects:", r.Report.CachesDeleted); text != "" {
				fmt.Fprintln(a.Out, text)
			}
			fmt.Fprintln(a.Out, "Total reclaimed space:", units.HumanSize(float64(r.Report.SpaceReclaimed)))
			return nil
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.force, "force", "f", false, "Do not prompt for confirmation")
	flags.BoolVarP(&o.all, "all", "a", false, "Remove all unused build cache, not just dangling ones")
	flags.Var(&o.filter, "filter", `Provide filter values (e.g. "until=24h")`)
	flags.Var(&keep, "keep-storage", "Amount of disk space to keep for cache")
	return cmd
}
