package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newSystemPrune(a *app) *cobra.Command {
	o := pruneFlags{filter: opts.NewFilterOpt()}
	cmd := &cobra.Command{
		Use:               "prune [OPTIONS]",
		Short:             "Remove unused data",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.systemPrune(cmd.Context(), &o) },
	}
	o.registerCommon(cmd)
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "Remove all unused images not just dangling ones")
	cmd.Flags().BoolVar(&o.volumes, "volumes", false, "Prune anonymous volumes")
	return cmd
}

// systemPrune prunes one kind after the other, containers first since they hold the rest. An
// engine that does not know a kind has nothing of it to remove.
func (a *app) systemPrune(ctx context.Context, o *pruneFlags) error {
	if o.volumes && len(o.filter.Value()["until"]) > 0 {
		return errors.New(`ERROR: The "until" filter is not supported with "--volumes"`)
	}
	if err := a.confirmPrune(ctx, o.force, systemPruneQuestion(o)); err != nil {
		return err
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	filters := a.pruneFilters(o.filter)
	steps := []func() (string, uint64, error){
		func() (string, uint64, error) { return a.pruneContainers(ctx, filters) },
		func() (string, uint64, error) {
			text, err := a.pruneNetworks(ctx, filters)
			return text, 0, err
		},
		func() (string, uint64, error) {
			if !o.volumes {
				return "", 0, nil
			}
			return a.pruneVolumes(ctx, false, filters)
		},
		func() (string, uint64, error) { return a.pruneImages(ctx, o.all, filters) },
		func() (string, uint64, error) {
			r, err := engine.BuildCachePrune(ctx, mobyclient.BuildCachePruneOptions{All: o.all, Filters: filters})
			return deletedText("Deleted build cache objects:", r.Report.CachesDeleted), r.Report.SpaceReclaimed, err
		},
	}
	var total uint64
	for i, step := range steps {
		text, freed, err := step()
		if err != nil {
			// Every engine has containers and images.
			if i != 0 && i != 3 && (errdefs.IsNotFound(err) || errdefs.IsNotImplemented(err)) {
				continue
			}
			return err
		}
		if text != "" {
			fmt.Fprintln(a.Out, text)
		}
		total += freed
	}
	fmt.Fprintln(a.Out, "Total reclaimed space:", units.HumanSize(float64(total)))
	return nil
}

func systemPruneQuestion(o *pruneFlags) string {
	lines := []string{"all stopped containers", "all networks not used by at least one container"}
	if o.volumes {
		lines = append(lines, "all anonymous volumes not used by at least one container")
	}
	if o.all {
		lines = append(lines, "all images without at least one container associated to them", "all build cache")
	} else {
		lines = append(lines, "all dangling images", "unused build cache")
	}
	var question strings.Builder
	question.WriteString("WARNING! This will remove:\n")
	for _, line := range lines {
		question.WriteString("  - " + line + "\n")
	}
	if filters := o.filter.Value(); len(filters) > 0 {
		question.WriteString("\n  Items to be pruned will be filtered with:\n")
		for _, line := range filterLines(filters) {
			question.WriteString("  - " + line + "\n")
		}
	}
	question.WriteString("\nAre you sure you want to continue?")
	return question.String()
}
