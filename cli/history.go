package cli

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newHistory(a *app) *cobra.Command {
	var o historyFlags
	cmd := &cobra.Command{
		Use:   "history [OPTIONS] IMAGE",
		Short: "Show the history of an image",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.history(cmd.Context(), args[0], o)
		},
		ValidArgsFunction: a.completeImages(1),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.human, "human", "H", true, "Print sizes and dates in human readable format")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "Only show image IDs")
	flags.BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate output")
	flags.StringVar(&o.format, "format", "", formatHelp)
	flags.StringVar(&o.platform, "platform", "", `Show history for the given platform. Formatted as "os[/arch[/variant]]"`)
	return cmd
}

type historyFlags struct {
	human, quiet, noTrunc bool
	format, platform      string
}

func (a *app) history(ctx context.Context, name string, o historyFlags) error {
	engine, err := a.engine()
	if err != nil {
		return err
	}
	var options []mobyclient.ImageHistoryOption
	platform, err := parsePlatform(o.platform)
	if err != nil {
		return err
	}
	if platform != nil {
		options = append(options, mobyclient.ImageHistoryWithPlatform(*platform))
	}
	answer, err := engine.ImageHistory(ctx, name, options...)
	if err != nil {
		return err
	}
	rows := make([]*historyRow, len(answer.Items))
	for i, item := range answer.Items {
		rows[i] = &historyRow{h: item, trunc: !o.noTrunc, human: o.human, now: time.Now()}
	}
	rowsList := historyList
	if !o.human {
		rowsList.standard = []string{"ID", "CreatedAt", "CreatedBy", "Size", "Comment"}
	}
	return rowsList.print(a.Out, o.format, o.quiet, rows)
}

var historyList = list[*historyRow]{
	columns: []column[*historyRow]{
		{"ID", "IMAGE", (*historyRow).ID},
		{"CreatedSince", "CREATED", (*historyRow).CreatedSince},
		{"CreatedAt", "CREATED AT", (*historyRow).CreatedAt},
		{"CreatedBy", "CREATED BY", (*historyRow).CreatedBy},
		{"Size", "SIZE", (*historyRow).Size},
		{"Comment", "COMMENT", (*historyRow).Comment},
	},
	standard: []string{"ID", "CreatedSince", "CreatedBy", "Size", "Comment"},
	quiet:    (*historyRow).ID,
}

type historyRow struct {
	h            image.HistoryResponseItem
	trunc, human bool
	now          time.Time
}

func (r *historyRow) MarshalJSON() ([]byte, error) { return json.Marshal(historyList.fields(r)) }

func (r *historyRow) ID() string {
	if r.trunc {
		return shortID(r.h.ID)
	}
	return r.h.ID
}

func (r *historyRow) CreatedAt() string { return time.Unix(r.h.Created, 0).Format(time.RFC3339) }

func (r *historyRow) CreatedSince() string {
	if !r.human {
		return r.CreatedAt()
	}
	if r.h.Created <= 0 {
		return "N/A"
	}
	return units.HumanDuration(r.now.UTC().Sub(time.Unix(r.h.Created, 0))) + " ago"
}

func (r *historyRow) CreatedBy() string {
	by := strings.ReplaceAll(r.h.CreatedBy, "\t", " ")
	if r.trunc {
		return ellipsis(by, 45)
	}
	return by
}

func (r *historyRow) Size() string {
	if r.human {
		return units.HumanSizeWithPrecision(float64(r.h.Size), 3)
	}
	return itoa(r.h.Size)
}

func (r *historyRow) Comment() string { return r.h.Comment }
