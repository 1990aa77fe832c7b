package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

type psFlags struct {
	all, latest, noTrunc, quiet, size bool
	last                              int
	format                            string
	filter                            opts.FilterOpt
}

func newPs(a *app) *cobra.Command { return newContainerList(a, "ps", nil) }

func newContainerList(a *app, name string, aliases []string) *cobra.Command {
	o := psFlags{filter: opts.NewFilterOpt()}
	cmd := &cobra.Command{
		Use:               name + " [OPTIONS]",
		Aliases:           aliases,
		Short:             "List containers",
		Args:              noArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.ps(cmd.Context(), &o) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "Only display container IDs")
	flags.BoolVarP(&o.size, "size", "s", false, "Display total file sizes")
	flags.BoolVarP(&o.all, "all", "a", false, "Show all containers (default shows just running)")
	flags.BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate output")
	flags.BoolVarP(&o.latest, "latest", "l", false, "Show the latest created container (includes all states)")
	flags.IntVarP(&o.last, "last", "n", -1, "Show n last created containers (includes all states)")
	flags.StringVar(&o.format, "format", "", formatHelp)
	flags.VarP(&o.filter, "filter", "f", "Filter output based on conditions provided")
	return cmd
}

const formatHelp = `Format output using a custom template: 'table' (default), 'table TEMPLATE', 'json', or a Go template`

func (a *app) ps(ctx context.Context, o *psFlags) error {
	format := o.format
	if format == "" && !o.quiet {
		format = a.config().PsFormat
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	limit := o.last
	if o.latest && limit < 0 {
		limit = 1
	}
	f := parseListFormat(format)
	answer, err := engine.ContainerList(ctx, mobyclient.ContainerListOptions{
		All:     o.all,
		Limit:   max(limit, 0),
		Size:    o.size || f.uses(".Size"),
		Filters: o.filter.Value(),
	})
	if err != nil {
		return err
	}
	rows := make([]*containerRow, len(answer.Items))
	for i, c := range answer.Items {
		rows[i] = &containerRow{c: c, trunc: !o.noTrunc, now: time.Now()}
	}
	l := containerList
	if o.size {
		l.standard = append(slices.Clip(l.standard), "Size")
		l.raw = append(slices.Clip(l.raw), "size Size")
	}
	return l.print(a.Out, format, o.quiet, rows)
}

// containerList is what `ps` can show of a container.
var containerList = list[*containerRow]{
	columns: []column[*containerRow]{
		{"ID", "CONTAINER ID", (*containerRow).ID},
		{"Image", "IMAGE", (*containerRow).Image},
		{"Command", "COMMAND", (*containerRow).Command},
		{"RunningFor", "CREATED", (*containerRow).RunningFor},
		{"CreatedAt", "CREATED AT", (*containerRow).CreatedAt},
		{"Status", "STATUS", (*containerRow).Status},
		{"State", "STATE", (*containerRow).State},
		{"HealthStatus", "HEALTH STATUS", (*containerRow).HealthStatus},
		{"Ports", "PORTS", (*containerRow).Ports},
		{"Names", "NAMES", (*containerRow).Names},
		{"Size", "SIZE", (*containerRow).Size},
		{"Labels", "LABELS", (*containerRow).Labels},
		{"Mounts", "MOUNTS", (*containerRow).Mounts},
		{"LocalVolumes", "LOCAL VOLUMES", (*containerRow).LocalVolumes},
		{"Networks", "NETWORKS", (*containerRow).Networks},
		{"Platform", "PLATFORM", (*containerRow).Platform},
	},
	standard: []string{"ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"},
	raw: []string{"container_id ID", "image Image", "command Command", "created_at CreatedAt", "state State", "status Status",
		"names Names", "labels Labels", "ports Ports"},
	quiet: (*containerRow).ID,
}

type containerRow struct {
	c     container.Summary
	trunc bool
	now   time.Time
}

func (r *containerRow) MarshalJSON() ([]byte, error) { return json.Marshal(containerList.fields(r)) }

func (r *containerRow) ID() string {
	if r.trunc {
		return shortID(r.c.ID)
	}
	return r.c.ID
}

// Names are the container's own: one made by a link has a second slash and is left out when
// truncating.
func (r *containerRow) Names() string {
	names := make([]string, 0, len(r.c.Names))
	for _, n := range r.c.Names {
		n = strings.TrimPrefix(n, "/")
		if r.trunc && strings.Contains(n, "/") {
			continue
		}
		names = append(names, n)
	}
	return strings.Join(names, ",")
}

func (r *containerRow) Image() string {
	if r.c.Image == "" {
		return "<no image>"
	}
	if !r.trunc {
		return r.c.Image
	}
	if id := shortID(r.c.ImageID); id != "" && id == shortID(r.c.Image) {
		return id
	}
	named, err := reference.ParseNormalizedNamed(r.c.Image)
	if err != nil {
		return r.c.Image
	}
	if tagged, ok := named.(reference.NamedTagged); ok {
		if short, err := reference.WithTag(reference.TrimNamed(named), tagged.Tag()); err == nil {
			return reference.FamiliarString(short)
		}
	}
	return r.c.Image
}

func (r *containerRow) Command() string {
	command := r.c.Command
	if r.trunc {
		command = ellipsis(command, 20)
	}
	return strconv.Quote(command)
}

func (r *containerRow) CreatedAt() string { return time.Unix(r.c.Created, 0).String() }

func (r *containerRow) RunningFor() string {
	return units.HumanDuration(r.now.UTC().Sub(time.Unix(r.c.Created, 0))) + " ago"
}

// HealthStatus is none, starting, healthy or unhealthy.
func (r *containerRow) HealthStatus() string {
	if r.c.Health == nil { // the engine is older than API 1.52
		return ""
	}
	return string(r.c.Health.Status)
}

func (r *containerRow) State() string  { return string(r.c.State) }
func (r *containerRow) Status() string { return r.c.Status }
func (r *containerRow) Ports() string  { return displayPorts(r.c.Ports) }

func (r *containerRow) Size() string {
	size := units.HumanSizeWithPrecision(float64(r.c.SizeRw), 3)
	if r.c.SizeRootFs > 0 {
		size += " (virtual " + units.HumanSizeWithPrecision(float64(r.c.SizeRootFs), 3) + ")"
	}
	return size
}

func (r *containerRow) Labels() string { return joinLabels(r.c.Labels) }

// Label is the value of one label: {{.Label "com.example.tier"}}.
func (r *containerRow) Label(key string) string { return r.c.Labels[key] }

func (r *containerRow) Mounts() string {
	names := make([]string, 0, len(r.c.Mounts))
	for _, m := range r.c.Mounts {
		name := m.Name
		if name == "" {
			name = m.Source
		}
		if r.trunc {
			name = ellipsis(name, 15)
		}
		names = append(names, name)
	}
	return strings.Join(names, ",")
}

func (r *containerRow) LocalVolumes() string {
	count := 0
	for _, m := range r.c.Mounts {
		if m.Driver == "local" {
			count++
		}
	}
	return strconv.Itoa(count)
}

func (r *containerRow) Networks() string {
	if r.c.NetworkSettings == nil {
		return ""
	}
	return strings.Join(slices.Sorted(maps.Keys(r.c.NetworkSettings.Networks)), ",")
}

// Platform is known where the image says which of its variants runs.
func (r *containerRow) Platform() string {
	if d := r.c.ImageManifestDescriptor; d != nil && d.Platform != nil {
		return path.Join(d.Platform.OS, d.Platform.Architecture, d.Platform.Variant)
	}
	return ""
}

func joinLabels(labels map[string]string) string {
	joined := make([]string, 0, len(labels))
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		joined = append(joined, key+"="+labels[key])
	}
	return strings.Join(joined, ",")
}

// displayPorts writes ports as `ps` does: runs of equal mappings as ranges, mappings to
// another port one by one after them.
func displayPorts(ports []container.PortSummary) string {
	sorted := slices.Clone(ports)
	slices.SortFunc(sorted, func(a, b container.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(addressText(a), addressText(b)),
			cmp.Compare(a.PublicPort, b.PublicPort), cmp.Compare(a.Type, b.Type))
	})
	type run struct{ first, last uint16 }
	type runKey struct{ ip, kind string }
	var text, mapped []string
	open := map[runKey]run{}
	var order []runKey
	closeRun := func(key runKey, r run) {
		span := strconv.Itoa(int(r.first))
		if r.last != r.first {
			span += "-" + strconv.Itoa(int(r.last))
		}
		if key.ip != "" {
			span = net.JoinHostPort(key.ip, span) + "->" + span
		}
		text = append(text, span+"/"+key.kind)
	}
	for _, p := range sorted {
		ip := addressText(p)
		if ip != "" && p.PublicPort != p.PrivatePort {
			mapped = append(mapped, fmt.Sprintf("%s->%d/%s", net.JoinHostPort(ip, strconv.Itoa(int(p.PublicPort))), p.PrivatePort, p.Type))
			continue
		}
		key := runKey{ip, p.Type}
		current, started := open[key]
		switch {
		case !started:
			order = append(order, key)
			open[key] = run{p.PrivatePort, p.PrivatePort}
		case p.PrivatePort == current.last+1:
			open[key] = run{current.first, p.PrivatePort}
		default:
			closeRun(key, current)
			open[key] = run{p.PrivatePort, p.PrivatePort}
		}
	}
	for _, key := range order {
		closeRun(key, open[key])
	}
	return strings.Join(append(text, mapped...), ", ")
}

func addressText(p container.PortSummary) string {
	if !p.IP.IsValid() {
		return ""
	}
	return p.IP.String()
}
