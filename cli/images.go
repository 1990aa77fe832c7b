package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

type imagesFlags struct {
	all, digests, noTrunc, quiet bool
	tree                         bool
	format                       string
	filter                       opts.FilterOpt
}

func newImages(a *app) *cobra.Command { return newImageList(a, "images", nil) }

func newImageList(a *app, name string, aliases []string) *cobra.Command {
	o := imagesFlags{filter: opts.NewFilterOpt()}
	cmd := &cobra.Command{
		Use:     name + " [OPTIONS] [REPOSITORY[:TAG]]",
		Aliases: aliases,
		Short:   "List images",
		Args:    maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if err := o.filter.Set("reference=" + args[0]); err != nil {
					return err
				}
			}
			return a.images(cmd.Context(), &o)
		},
		ValidArgsFunction: a.completeImages(1),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "Only show image IDs")
	flags.BoolVarP(&o.all, "all", "a", false, "Show all images (default hides intermediate images)")
	flags.BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate output")
	flags.BoolVar(&o.digests, "digests", false, "Show digests")
	flags.StringVar(&o.format, "format", "", formatHelp)
	flags.BoolVar(&o.tree, "tree", false, "List multi-platform images as a tree (EXPERIMENTAL)")
	flags.VarP(&o.filter, "filter", "f", "Filter output based on conditions provided")
	return cmd
}

func (a *app) images(ctx context.Context, o *imagesFlags) error {
	if o.tree {
		return a.imageTree(ctx, o)
	}
	format := o.format
	if format == "" && !o.quiet {
		format = a.config().ImagesFormat
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	answer, err := engine.ImageList(ctx, mobyclient.ImageListOptions{All: o.all, Filters: o.filter.Value()})
	if err != nil {
		return err
	}
	f := parseListFormat(format)
	withDigests := o.digests || f.uses(".Digest")
	l := imageList
	if o.digests {
		l.standard = slices.Insert(slices.Clone(l.standard), 2, "Digest")
	}
	return l.print(a.Out, format, o.quiet, imageRows(answer.Items, !o.noTrunc, withDigests))
}

// imageRows makes one row of each name of each image, newest image first.
func imageRows(images []image.Summary, trunc, withDigests bool) []*imageRow {
	images = slices.Clone(images)
	slices.SortStableFunc(images, func(a, b image.Summary) int { return cmp.Compare(b.Created, a.Created) })
	rows := make([]*imageRow, 0, len(images))
	for _, i := range images {
		for _, n := range imageNames(i, withDigests) {
			rows = append(rows, &imageRow{i: i, name: n, trunc: trunc, now: time.Now()})
		}
	}
	return rows
}

type imageName struct{ repository, tag, digest string }

const none = "<none>"

// imageNames pairs an image's tags with the digests of the same repository. A repository
// known only by digest has no tag; an image without any name is "<none>" throughout.
func imageNames(i image.Summary, withDigests bool) []imageName {
	digests := map[string][]string{}
	var repositories []string
	for _, d := range i.RepoDigests {
		named, err := reference.ParseNormalizedNamed(d)
		if err != nil {
			continue
		}
		digested, ok := named.(reference.Canonical)
		if !ok {
			continue
		}
		repository := reference.FamiliarName(named)
		if repository == none {
			continue
		}
		if digests[repository] == nil {
			repositories = append(repositories, repository)
		}
		digests[repository] = append(digests[repository], digested.Digest().String())
	}
	var names []imageName
	tagged := map[string]bool{}
	for _, t := range i.RepoTags {
		named, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			continue
		}
		withTag, ok := named.(reference.NamedTagged)
		if !ok {
			continue
		}
		repository := reference.FamiliarName(named)
		tagged[repository] = true
		if !withDigests || len(digests[repository]) == 0 {
			names = append(names, imageName{repository, withTag.Tag(), none})
			continue
		}
		for _, d := range digests[repository] {
			names = append(names, imageName{repository, withTag.Tag(), d})
		}
	}
	for _, repository := range repositories {
		if tagged[repository] {
			continue
		}
		if !withDigests {
			names = append(names, imageName{repository, none, none})
			continue
		}
		for _, d := range digests[repository] {
			names = append(names, imageName{repository, none, d})
		}
	}
	if len(names) == 0 {
		names = []imageName{{none, none, none}}
	}
	return names
}

// imageList is what `images` can show of an image.
var imageList = list[*imageRow]{
	columns: []column[*imageRow]{
		{"Repository", "REPOSITORY", (*imageRow).Repository},
		{"Tag", "TAG", (*imageRow).Tag},
		{"Digest", "DIGEST", (*imageRow).Digest},
		{"ID", "IMAGE ID", (*imageRow).ID},
		{"CreatedSince", "CREATED", (*imageRow).CreatedSince},
		{"CreatedAt", "CREATED AT", (*imageRow).CreatedAt},
		{"Size", "SIZE", (*imageRow).Size},
		{"Containers", "CONTAINERS", (*imageRow).Containers},
		{"VirtualSize", "SIZE", (*imageRow).VirtualSize},
		{"SharedSize", "SHARED SIZE", (*imageRow).SharedSize},
		{"UniqueSize", "UNIQUE SIZE", (*imageRow).UniqueSize},
	},
	standard: []string{"Repository", "Tag", "ID", "CreatedSince", "Size"},
	raw:      []string{"repository Repository", "tag Tag", "image_id ID", "created_at CreatedAt", "virtual_size Size"},
	quiet:    (*imageRow).ID,
}

type imageRow struct {
	i     image.Summary
	name  imageName
	trunc bool
	now   time.Time
}

func (r *imageRow) MarshalJSON() ([]byte, error) { return json.Marshal(imageList.fields(r)) }

func (r *imageRow) ID() string {
	if r.trunc {
		return shortID(r.i.ID)
	}
	return r.i.ID
}

func (r *imageRow) Repository() string { return r.name.repository }
func (r *imageRow) Tag() string        { return r.name.tag }
func (r *imageRow) Digest() string     { return r.name.digest }

func (r *imageRow) CreatedSince() string {
	created := time.Unix(r.i.Created, 0)
	if r.i.Created <= 0 {
		return "N/A"
	}
	return units.HumanDuration(r.now.UTC().Sub(created)) + " ago"
}

func (r *imageRow) CreatedAt() string { return time.Unix(r.i.Created, 0).String() }
func (r *imageRow) Size() string {
	return units.HumanSizeWithPrecision(float64(r.i.Size), 3)
}

// VirtualSize is Size in the words of older engines.
func (r *imageRow) VirtualSize() string { return units.HumanSize(float64(r.i.Size)) }

func (r *imageRow) Containers() string { return knownCount(r.i.Containers) }

func (r *imageRow) SharedSize() string {
	if r.i.SharedSize == -1 {
		return "N/A"
	}
	return units.HumanSize(float64(r.i.SharedSize))
}

func (r *imageRow) UniqueSize() string {
	if r.i.Size == -1 || r.i.SharedSize == -1 {
		return "N/A"
	}
	return units.HumanSize(float64(r.i.Size - r.i.SharedSize))
}
