package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/containerd/platforms"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"
	mobyclient "github.com/moby/moby/client"
)

// imageTree shows each image with its platforms below it.
func (a *app) imageTree(ctx context.Context, o *imagesFlags) error {
	for _, x := range []struct {
		set  bool
		name string
	}{{o.quiet, "quiet"}, {o.noTrunc, "no-trunc"}, {o.digests, "show-digest"}, {o.format != "", "format"}} {
		if x.set {
			return fmt.Errorf("--%s is not yet supported with --tree", x.name)
		}
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	answer, err := engine.ImageList(ctx, mobyclient.ImageListOptions{All: o.all, Filters: o.filter.Value(), Manifests: true})
	if err != nil {
		return err
	}
	images := slices.Clone(answer.Items)
	if len(images) > 0 && !slices.ContainsFunc(images, func(i image.Summary) bool { return i.Manifests != nil }) {
		return errors.New("--tree needs an engine that lists manifests (API 1.47 and an image store that keeps them)")
	}
	slices.SortStableFunc(images, func(x, y image.Summary) int {
		first := func(i image.Summary) string {
			if len(i.RepoTags) == 0 {
				return "\xff" // those without a name come last
			}
			return slices.Min(i.RepoTags)
		}
		return cmp.Compare(first(x), first(y))
	})
	t := tabwriter.NewWriter(a.Out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "IMAGE\tID\tDISK USAGE\tCONTENT SIZE\tEXTRA")
	for _, i := range images {
		treeRows(t, i)
	}
	return t.Flush()
}

func treeRows(t *tabwriter.Writer, i image.Summary) {
	var total, content int64
	inUse := i.Containers > 0
	var parts []image.ManifestSummary
	for _, m := range i.Manifests {
		total, content = total+m.Size.Total, content+m.Size.Content
		if m.Kind == image.ManifestKindImage {
			parts = append(parts, m)
			inUse = inUse || len(m.ImageData.Containers) > 0
		}
	}
	names := slices.Sorted(slices.Values(i.RepoTags))
	if len(names) == 0 {
		names = []string{"<untagged>"}
	}
	treeRow(t, strings.Join(names, ", "), i.ID, total, content, inUse)
	for n, m := range parts {
		branch := "├─ "
		if n == len(parts)-1 {
			branch = "└─ "
		}
		name := branch + platforms.Format(m.ImageData.Platform)
		if !m.Available {
			name += " (not here)"
		}
		treeRow(t, name, m.ID, m.Size.Total, m.Size.Content, len(m.ImageData.Containers) > 0)
	}
}

func treeRow(t *tabwriter.Writer, name, id string, total, content int64, inUse bool) {
	extra := ""
	if inUse {
		extra = "U"
	}
	size := func(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
	fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", name, shortID(id), size(total), size(content), extra)
}
