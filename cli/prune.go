package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

type pruneFlags struct {
	force, all, volumes bool
	filter              opts.FilterOpt
}

func newContainerPrune(a *app) *cobra.Command {
	o := pruneFlags{filter: opts.NewFilterOpt()}
	cmd := &cobra.Command{
		Use:               "prune [OPTIONS]",
		Short:             "Remove all stopped containers",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if err := a.confirmPrune(ctx, o.force, "WARNING! This will remove all stopped containers.\nAre you sure you want to continue?"); err != nil {
				return err
			}
			text, freed, err := a.pruneContainers(ctx, a.pruneFilters(o.filter))
			return a.pruned(text, freed, err)
		},
	}
	o.registerCommon(cmd)
	return cmd
}

func newImagePrune(a *app) *cobra.Command {
	o := pruneFlags{filter: opts.NewFilterOpt()}
	cmd := &cobra.Command{
		Use:               "prune [OPTIONS]",
		Short:             "Remove unused images",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			question := "WARNING! This will remove all dangling images.\nAre you sure you want to continue?"
			if o.all {
				question = "WARNING! This will remove all images without at least one container associated to them.\nAre you sure you want to continue?"
			}
			if err := a.confirmPrune(ctx, o.force, question); err != nil {
				return err
			}
			text, freed, err := a.pruneImages(ctx, o.all, a.pruneFilters(o.filter))
			return a.pruned(text, freed, err)
		},
	}
	o.registerCommon(cmd)
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "Remove all unused images, not just dangling ones")
	return cmd
}

func (o *pruneFlags) registerCommon(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&o.force, "force", "f", false, "Do not prompt for confirmation")
	cmd.Flags().Var(&o.filter, "filter", `Provide filter values (e.g. "until=<timestamp>")`)
}

// pruneFilters adds the filters of config.json's pruneFilters that the command line does not contradict.
func (a *app) pruneFilters(filter opts.FilterOpt) mobyclient.Filters {
	filters := filter.Value().Clone()
	if filters == nil {
		filters = mobyclient.Filters{}
	}
	for _, line := range a.config().PruneFilters {
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		opposite := map[string]string{"label": "label!", "label!": "label"}[key]
		if opposite != "" && filters[opposite][value] {
			continue
		}
		filters = filters.Add(key, value)
	}
	return filters
}

// errDeclined ends a prune whose user said no, which is no failure.
var errDeclined = statusError{}

func (a *app) confirmPrune(ctx context.Context, force bool, question string) error {
	if force {
		return nil
	}
	yes, err := a.confirm(ctx, question)
	if err != nil {
		return err
	}
	if !yes {
		return errDeclined
	}
	return nil
}

// confirm asks; only y and yes agree, and an input that has ended does not.
func (a *app) confirm(ctx context.Context, question string) (bool, error) {
	fmt.Fprint(a.Out, question+" [y/N] ")
	answer, err := readLine(ctx, bufio.NewReader(a.In))
	if err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(a.Out)
		return false, err
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", nil
}

func (a *app) pruned(text string, freed uint64, err error) error {
	if err != nil {
		return err
	}
	if text != "" {
		fmt.Fprintln(a.Out, text)
	}
	fmt.Fprintln(a.Out, "Total reclaimed space:", units.HumanSize(float64(freed)))
	return nil
}

func (a *app) pruneContainers(ctx context.Context, filters mobyclient.Filters) (string, uint64, error) {
	engine, err := a.engine()
	if err != nil {
		return "", 0, err
	}
	answer, err := engine.ContainerPrune(ctx, mobyclient.ContainerPruneOptions{Filters: filters})
	return deletedText("Deleted Containers:", answer.Report.ContainersDeleted), answer.Report.SpaceReclaimed, err
}

func (a *app) pruneImages(ctx context.Context, all bool, filters mobyclient.Filters) (string, uint64, error) {
	engine, err := a.engine()
	if err != nil {
		return "", 0, err
	}
	filters = filters.Clone()
	if filters == nil {
		filters = mobyclient.Filters{}
	}
	if len(filters["dangling"]) == 0 || all {
		filters["dangling"] = map[string]bool{fmt.Sprint(!all): true}
	}
	answer, err := engine.ImagePrune(ctx, mobyclient.ImagePruneOptions{Filters: filters})
	return deletedText("Deleted Images:", imageDeletions(answer.Report.ImagesDeleted)), answer.Report.SpaceReclaimed, err
}

func imageDeletions(deleted []image.DeleteResponse) []string {
	var lines []string
	for _, d := range deleted {
		if d.Untagged != "" {
			lines = append(lines, "untagged: "+d.Untagged)
		} else {
			lines = append(lines, "deleted: "+d.Deleted)
		}
	}
	return lines
}

func deletedText(head string, lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return head + "\n" + strings.Join(lines, "\n") + "\n"
}
