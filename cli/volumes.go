package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/volume"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newVolumeGroup(a *app) *cobra.Command {
	return newGroup(a, "volume", "Manage volumes", []entry{
		{name: "create", build: newVolumeCreate},
		{name: "inspect", build: newVolumeInspect},
		{name: "ls", aliases: []string{"list"}, build: newVolumeLs},
		{name: "prune", build: newVolumePrune},
		{name: "rm", aliases: []string{"remove"}, build: newVolumeRm},
	})
}

func newVolumeCreate(a *app) *cobra.Command {
	var driver string
	options, labels := opts.NewMapOpts(nil, nil), opts.NewListOpts(opts.ValidateLabel)
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [VOLUME]",
		Short: "Create a volume",
		Long: "Create a volume: a directory that outlives containers, or with -o what mount(2) can mount:\n" +
			"  berth volume create -o type=tmpfs -o device=tmpfs -o o=size=100m,uid=1000 scratch\n" +
			"  berth volume create -o type=none -o device=/srv/data -o o=bind data\n" +
			"  berth volume create -o type=nfs -o device=:/export -o o=addr=server,rw shared",
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			engine, err := a.engine()
			if err != nil {
				return err
			}
			r, err := engine.VolumeCreate(cmd.Context(), mobyclient.VolumeCreateOptions{
				Name: name, Driver: driver, DriverOpts: options.GetAll(), Labels: opts.ConvertKVStringsToMap(labels.GetSlice()),
			})
			if err != nil {
				return err
			}
			fmt.Fprintln(a.Out, r.Volume.Name)
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.StringVarP(&driver, "driver", "d", "local", "Specify volume driver name")
	flags.VarP(options, "opt", "o", "Set driver specific options (type, device and o of mount(2))")
	flags.Var(&labels, "label", "Set metadata for a volume")
	return cmd
}

func newVolumeInspect(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] VOLUME [VOLUME...]",
		Short: "Display detailed information on one or more volumes",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.inspect(cmd.Context(), args, format, inspectVolume)
		},
		ValidArgsFunction: a.completeVolumes,
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", inspectFormatHelp)
	return cmd
}

type volumeLsFlags struct {
	quiet  bool
	format string
	filter opts.FilterOpt
}

func newVolumeLs(a *app) *cobra.Command {
	o := volumeLsFlags{filter: opts.NewFilterOpt()}
	cmd := &cobra.Command{
		Use:               "ls [OPTIONS]",
		Aliases:           []string{"list"},
		Short:             "List volumes",
		Args:              noArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.listVolumes(cmd.Context(), &o) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "Only display volume names")
	flags.StringVar(&o.format, "format", "", formatHelp)
	flags.VarP(&o.filter, "filter", "f", `Provide filter values (e.g. "dangling=true")`)
	return cmd
}

func (a *app) listVolumes(ctx context.Context, o *volumeLsFlags) error {
	format := o.format
	if format == "" && !o.quiet {
		format = a.config().VolumesFormat
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	answer, err := engine.VolumeList(ctx, mobyclient.VolumeListOptions{Filters: o.filter.Value()})
	if err != nil {
		return err
	}
	for _, w := range answer.Warnings {
		fmt.Fprintln(a.Err, "WARNING:", w)
	}
	slices.SortStableFunc(answer.Items, func(a, b volume.Volume) int { return compareNatural(a.Name, b.Name) })
	rows := make([]*volumeRow, len(answer.Items))
	for i, v := range answer.Items {
		rows[i] = &volumeRow{v}
	}
	return volumeList.print(a.Out, format, o.quiet, rows)
}

// volumeList is what `volume ls` can show of a volume.
var volumeList = list[*volumeRow]{
	columns: []column[*volumeRow]{
		{"Availability", "AVAILABILITY", (*volumeRow).Availability},
		{"Driver", "DRIVER", (*volumeRow).Driver},
		{"Group", "GROUP", (*volumeRow).Group},
		{"Labels", "LABELS", (*volumeRow).Labels},
		{"Links", "LINKS", (*volumeRow).Links},
		{"Mountpoint", "MOUNTPOINT", (*volumeRow).Mountpoint},
		{"Name", "VOLUME NAME", (*volumeRow).Name},
		{"Scope", "SCOPE", (*volumeRow).Scope},
		{"Size", "SIZE", (*volumeRow).Size},
		{"Status", "STATUS", (*volumeRow).Status},
	},
	standard: []string{"Driver", "Name"},
	raw:      []string{"name Name", "driver Driver"},
	quiet:    (*volumeRow).Name,
}

type volumeRow struct{ v volume.Volume }

func (r *volumeRow) MarshalJSON() ([]byte, error) { return json.Marshal(volumeList.fields(r)) }

func (r *volumeRow) Name() string       { return r.v.Name }
func (r *volumeRow) Driver() string     { return r.v.Driver }
func (r *volumeRow) Scope() string      { return r.v.Scope }
func (r *volumeRow) Mountpoint() string { return r.v.Mountpoint }
func (r *volumeRow) Labels() string     { return joinLabels(r.v.Labels) }

// Availability, Group and Status are those of a swarm's volumes.
func (r *volumeRow) Availability() string { return "N/A" }
func (r *volumeRow) Group() string        { return "N/A" }
func (r *volumeRow) Status() string       { return "N/A" }

// Links and Size are measured by `system df` alone.
func (r *volumeRow) Links() string {
	if r.v.UsageData == nil {
		return "N/A"
	}
	return itoa(r.v.UsageData.RefCount)
}

func (r *volumeRow) Size() string {
	if r.v.UsageData == nil {
		return "N/A"
	}
	return units.HumanSize(float64(r.v.UsageData.Size))
}

// Label is the value of one label: {{.Label "com.example.tier"}}.
func (r *volumeRow) Label(key string) string { return r.v.Labels[key] }

func newVolumeRm(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm [OPTIONS] VOLUME [VOLUME...]",
		Aliases:           []string{"remove"},
		Short:             "Remove one or more volumes",
		Long:              "Remove one or more volumes. You cannot remove a volume that is in use by a container, running or not.",
		Args:              minArgs(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.removeVolumes(cmd.Context(), args, force) },
		ValidArgsFunction: a.completeVolumes,
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not error if the volume does not exist")
	return cmd
}

func (a *app) removeVolumes(ctx context.Context, names []string, force bool) error {
	engine, err := a.engine()
	if err != nil {
		return err
	}
	failed := false
	for _, name := range names {
		_, err := engine.VolumeRemove(ctx, name, mobyclient.VolumeRemoveOptions{Force: force})
		switch {
		case err == nil, force && errdefs.IsNotFound(err):
			fmt.Fprintln(a.Out, name)
		case errors.Is(err, context.Canceled):
			return err
		default:
			fmt.Fprintln(a.Err, explain(err))
			failed = true
		}
	}
	if failed {
		return statusError{code: 1}
	}
	return nil
}

func newVolumePrune(a *app) *cobra.Command {
	o := pruneFlags{filter: opts.NewFilterOpt()}
	cmd := &cobra.Command{
		Use:               "prune [OPTIONS]",
		Short:             "Remove unused local volumes",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.all && len(o.filter.Value()["all"]) > 0 {
				return errors.New("conflicting options: cannot specify both --all and --filter all=1")
			}
			ctx := cmd.Context()
			question := "WARNING! This will remove anonymous local volumes not used by at least one container.\nAre you sure you want to continue?"
			if o.all {
				question = "WARNING! This will remove all local volumes not used by at least one container.\nAre you sure you want to continue?"
			}
			if err := a.confirmPrune(ctx, o.force, question); err != nil {
				return err
			}
			text, freed, err := a.pruneVolumes(ctx, o.all, a.pruneFilters(o.filter))
			return a.pruned(text, freed, err)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.all, "all", "a", false, "Remove all unused volumes, not just anonymous ones")
	flags.BoolVarP(&o.force, "force", "f", false, "Do not prompt for confirmation")
	flags.Var(&o.filter, "filter", `Provide filter values (e.g. "label=<label>")`)
	return cmd
}

func (a *app) pruneVolumes(ctx context.Context, all bool, filters mobyclient.Filters) (string, uint64, error) {
	engine, err := a.engine()
	if err != nil {
		return "", 0, err
	}
	answer, err := engine.VolumePrune(ctx, mobyclient.VolumePruneOptions{All: all, Filters: filters})
	return deletedText("Deleted Volumes:", answer.Report.VolumesDeleted), answer.Report.SpaceReclaimed, err
}

// completeVolumes offers the names of volumes.
func (a *app) completeVolumes(_ *cobra.Command, typed []string, _ string) ([]string, cobra.ShellCompDirective) {
	return without(a.volumeNames(), typed), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) volumeNames() []string {
	engine, err := a.engine()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionPatience)
	defer cancel()
	answer, err := engine.VolumeList(ctx, mobyclient.VolumeListOptions{})
	if err != nil {
		return nil
	}
	var names []string
	for _, v := range answer.Items {
		names = append(names, v.Name)
	}
	return names
}
