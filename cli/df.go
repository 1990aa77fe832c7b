package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"berth/api/client"
	"berth/fail"
)

func newDf(a *app) *cobra.Command {
	var verbose bool
	var format string
	cmd := &cobra.Command{
		Use:               "df [OPTIONS]",
		Short:             "Show disk usage",
		Args:              noArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.diskUsage(cmd.Context(), verbose, format) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "Show detailed information on space usage")
	cmd.Flags().StringVar(&format, "format", "", formatHelp)
	return cmd
}

func (a *app) diskUsage(ctx context.Context, verbose bool, format string) error {
	engine, err := a.engine()
	if err != nil {
		return err
	}
	usage, err := engine.DiskUsage(ctx, mobyclient.DiskUsageOptions{Verbose: verbose})
	if err != nil {
		return err
	}
	if verbose {
		return a.verboseDiskUsage(usage, format)
	}
	rows := []*usageRow{
		{"Images", usage.Images.TotalCount, usage.Images.ActiveCount, usage.Images.TotalSize, usage.Images.Reclaimable, true},
		{"Containers", usage.Containers.TotalCount, usage.Containers.ActiveCount, usage.Containers.TotalSize, usage.Containers.Reclaimable, true},
		{"Local Volumes", usage.Volumes.TotalCount, usage.Volumes.ActiveCount, usage.Volumes.TotalSize, usage.Volumes.Reclaimable, true},
		{"Build Cache", usage.BuildCache.TotalCount, usage.BuildCache.ActiveCount, usage.BuildCache.TotalSize, usage.BuildCache.Reclaimable, false},
	}
	more, err := client.DataUsage(ctx, engine)
	if err != nil && !fail.Is(err, fail.NotImplemented) {
		return err
	}
	if err == nil { // another engine knows nothing of these
		rows = append(rows,
			&usageRow{kind: "Image Blobs", size: more.Content},
			&usageRow{kind: "Image Cache", size: more.Cache, reclaimable: more.Cache, percent: true},
			&usageRow{kind: "Logs", size: more.Logs},
			&usageRow{kind: "Overhead", size: more.Overhead})
	}
	return usageList.print(a.Out, format, false, rows)
}

var usageList = list[*usageRow]{
	columns: []column[*usageRow]{
		{"Type", "TYPE", (*usageRow).Type},
		{"TotalCount", "TOTAL", (*usageRow).TotalCount},
		{"Active", "ACTIVE", (*usageRow).Active},
		{"Size", "SIZE", (*usageRow).Size},
		{"Reclaimable", "RECLAIMABLE", (*usageRow).Reclaimable},
	},
	standard: []string{"Type", "TotalCount", "Active", "Size", "Reclaimable"},
	raw:      []string{"type Type", "total TotalCount", "active Active", "size Size", "reclaimable Reclaimable"},
	quiet:    (*usageRow).Type,
}

type usageRow struct {
	kind          string
	total, active int64
	size          int64
	reclaimable   int64
	percent       bool
}

func (r *usageRow) MarshalJSON() ([]byte, error) { return json.Marshal(usageList.fields(r)) }
func (r *usageRow) Type() string                 { return r.kind }
func (r *usageRow) TotalCount() string           { return itoa(r.total) }
func (r *usageRow) Active() string               { return itoa(r.active) }

func (r *usageRow) Size() string {
	if r.size < 0 { // an overhead of which holes in files take more than that
		return "-" + units.HumanSize(float64(-r.size))
	}
	return units.HumanSize(float64(r.size))
}

func (r *usageRow) Reclaimable() string {
	text := units.HumanSize(float64(r.reclaimable))
	if r.size > 0 && r.percent {
		return fmt.Sprintf("%s (%d%%)", text, r.reclaimable*100/r.size)
	}
	return text
}

// verboseUsage is what `df -v --format` offers to a template.
type verboseUsage struct {
	Images     []*imageRow
	Containers []*containerRow
	Volumes    []*volumeUsageRow
	BuildCache []*cacheUsageRow
}

func (a *app) verboseDiskUsage(usage mobyclient.DiskUsageResult, format string) error {
	// One row for each image: its further names take no space.
	v := verboseUsage{Images: slices.CompactFunc(imageRows(usage.Images.Items, true, false), func(a, b *imageRow) bool { return a.i.ID == b.i.ID })}
	for _, c := range usage.Containers.Items {
		c.SizeRootFs = 0
		v.Containers = append(v.Containers, &containerRow{c: c, trunc: true, now: time.Now()})
	}
	for _, volume := range usage.Volumes.Items {
		row := &volumeUsageRow{name: volume.Name, links: "N/A", size: "N/A"}
		if u := volume.UsageData; u != nil {
			row.links, row.size = knownCount(u.RefCount), units.HumanSize(float64(u.Size))
			if u.Size == -1 {
				row.size = "N/A"
			}
		}
		v.Volumes = append(v.Volumes, row)
	}
	for _, c := range usage.BuildCache.Items {
		row := &cacheUsageRow{
			id: shortID(c.ID), kind: c.Type, size: units.HumanSize(float64(c.Size)), shared: strconv.FormatBool(c.Shared),
			created: units.HumanDuration(time.Since(c.CreatedAt)) + " ago", usage: strconv.Itoa(c.UsageCount),
		}
		if c.LastUsedAt != nil {
			row.lastUsed = units.HumanDuration(time.Since(*c.LastUsedAt)) + " ago"
		}
		v.BuildCache = append(v.BuildCache, row)
	}
	switch format {
	case "", "table":
		return a.printVerboseUsage(v, usage.BuildCache.TotalSize)
	case "json":
		line, err := encodeJSON(v)
		if err != nil {
			return err
		}
		fmt.Fprintln(a.Out, line)
		return nil
	}
	if strings.HasPrefix(format, "table ") {
		return fmt.Errorf("a table TEMPLATE cannot be used with --verbose")
	}
	return a.printOne(format, v)
}

func (a *app) printVerboseUsage(v verboseUsage, cacheSize int64) error {
	images, containers := imageList, containerList
	images.standard = append(slices.Clip(images.standard), "SharedSize", "UniqueSize", "Containers")
	containers.standard = []string{"ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names"}
	fmt.Fprint(a.Out, "Images space usage:\n\n")
	if err := images.printTable(a.Out, v.Images); err != nil {
		return err
	}
	fmt.Fprint(a.Out, "\nContainers space usage:\n\n")
	if err := containers.printTable(a.Out, v.Containers); err != nil {
		return err
	}
	fmt.Fprint(a.Out, "\nLocal Volumes space usage:\n\n")
	if err := volumeUsageList.printTable(a.Out, v.Volumes); err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "\nBuild cache usage: %s\n\n", units.HumanSize(float64(cacheSize)))
	return cacheUsageList.printTable(a.Out, v.BuildCache)
}

var volumeUsageList = list[*volumeUsageRow]{
	columns: []column[*volumeUsageRow]{
		{"Name", "VOLUME NAME", (*volumeUsageRow).Name},
		{"Links", "LINKS", (*volumeUsageRow).Links},
		{"Size", "SIZE", (*volumeUsageRow).Size},
	},
	standard: []string{"Name", "Links", "Size"},
	quiet:    (*volumeUsageRow).Name,
}

type volumeUsageRow struct{ name, links, size string }

func (r *volumeUsageRow) MarshalJSON() ([]byte, error) {
	return json.Marshal(volumeUsageList.fields(r))
}
func (r *volumeUsageRow) Name() string  { return r.name }
func (r *volumeUsageRow) Links() string { return r.links }
func (r *volumeUsageRow) Size() string  { return r.size }

var cacheUsageList = list[*cacheUsageRow]{
	columns: []column[*cacheUsageRow]{
		{"ID", "CACHE ID", (*cacheUsageRow).ID},
		{"CacheType", "CACHE TYPE", (*cacheUsageRow).CacheType},
		{"Size", "SIZE", (*cacheUsageRow).Size},
		{"CreatedSince", "CREATED", (*cacheUsageRow).CreatedSince},
		{"LastUsedSince", "LAST USED", (*cacheUsageRow).LastUsedSince},
		{"UsageCount", "USAGE", (*cacheUsageRow).UsageCount},
		{"Shared", "SHARED", (*cacheUsageRow).Shared},
	},
	standard: []string{"ID", "CacheType", "Size", "CreatedSince", "LastUsedSince", "UsageCount", "Shared"},
	quiet:    (*cacheUsageRow).ID,
}

type cacheUsageRow struct{ id, kind, size, created, lastUsed, usage, shared string }

func (r *cacheUsageRow) MarshalJSON() ([]byte, error) { return json.Marshal(cacheUsageList.fields(r)) }
func (r *cacheUsageRow) ID() string                   { return r.id }
func (r *cacheUsageRow) CacheType() string            { return r.kind }
func (r *cacheUsageRow) Size() string                 { return r.size }
func (r *cacheUsageRow) CreatedSince() string         { return r.created }
func (r *cacheUsageRow) LastUsedSince() string        { return r.lastUsed }
func (r *cacheUsageRow) UsageCount() string           { return r.usage }
func (r *cacheUsageRow) Shared() string               { return r.shared }
