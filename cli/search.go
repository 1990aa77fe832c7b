package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/registry"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

type searchFlags struct {
	format  string
	noTrunc bool
	limit   int
	filter  opts.FilterOpt
}

func newSearch(a *app) *cobra.Command {
	o := searchFlags{filter: opts.NewFilterOpt()}
	cmd := &cobra.Command{
		Use:               "search [OPTIONS] TERM",
		Short:             "Search Docker Hub for images",
		Args:              exactArgs(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.search(cmd.Context(), args[0], &o) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.VarP(&o.filter, "filter", "f", "Filter output based on conditions provided")
	flags.StringVar(&o.format, "format", "", "Pretty-print search using a Go template")
	flags.IntVar(&o.limit, "limit", 0, "Max number of search results")
	flags.BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate output")
	return cmd
}

func (a *app) search(ctx context.Context, term string, o *searchFlags) error {
	if _, ok := o.filter.Value()["is-automated"]; ok {
		fmt.Fprintln(a.Err, `WARNING: the "is-automated" filter is deprecated, and searching for "is-automated=true" will not yield any results in future.`)
	}
	domain, _, ok := strings.Cut(term, "/")
	if !ok || !strings.ContainsAny(domain, ".:") && domain != "localhost" {
		domain = "docker.io"
	}
	auth, err := a.registryAuthOf(domain)
	if err != nil {
		return err
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	found, err := engine.ImageSearch(ctx, term, mobyclient.ImageSearchOptions{RegistryAuth: auth, Filters: o.filter.Value(), Limit: o.limit})
	if err != nil {
		return err
	}
	rows := make([]*searchRow, len(found.Items))
	for i, item := range found.Items {
		rows[i] = &searchRow{s: item, trunc: !o.noTrunc}
	}
	return searchList.print(a.Out, o.format, false, rows)
}

var searchList = list[*searchRow]{
	columns: []column[*searchRow]{
		{"Name", "NAME", (*searchRow).Name},
		{"Description", "DESCRIPTION", (*searchRow).Description},
		{"StarCount", "STARS", (*searchRow).StarCount},
		{"IsOfficial", "OFFICIAL", (*searchRow).IsOfficial},
	},
	standard: []string{"Name", "Description", "StarCount", "IsOfficial"},
	quiet:    (*searchRow).Name,
}

type searchRow struct {
	s     registry.SearchResult
	trunc bool
}

// MarshalJSON has true and false where the table has a mark.
func (r *searchRow) MarshalJSON() ([]byte, error) {
	fields := searchList.fields(r)
	fields["IsOfficial"] = strconv.FormatBool(r.s.IsOfficial)
	return json.Marshal(fields)
}

func (r *searchRow) Name() string { return r.s.Name }

func (r *searchRow) Description() string {
	text := strings.NewReplacer("\n", " ", "\r", " ").Replace(r.s.Description)
	if r.trunc {
		return ellipsis(text, 45)
	}
	return text
}

func (r *searchRow) StarCount() string { return strconv.Itoa(r.s.StarCount) }

func (r *searchRow) IsOfficial() string {
	if r.s.IsOfficial {
		return "[OK]"
	}
	return ""
}
