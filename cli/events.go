package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/events"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// timeNanoFixed is RFC 3339 with all nine decimals, so that lines align.
const timeNanoFixed = "2006-01-02T15:04:05.000000000Z07:00"

func newEvents(a *app) *cobra.Command {
	var since, until, format string
	filter := opts.NewFilterOpt()
	cmd := &cobra.Command{
		Use:   "events [OPTIONS]",
		Short: "Get real time events from the server",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.events(cmd.Context(), format, mobyclient.EventsListOptions{Since: since, Until: until, Filters: filter.Value()})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&since, "since", "", "Show all events created since timestamp")
	cmd.Flags().StringVar(&until, "until", "", "Stream events until this timestamp")
	cmd.Flags().VarP(&filter, "filter", "f", "Filter output based on conditions provided")
	cmd.Flags().StringVar(&format, "format", "", inspectFormatHelp)
	return cmd
}

func (a *app) events(ctx context.Context, format string, o mobyclient.EventsListOptions) error {
	show, err := eventPrinter(format)
	if err != nil {
		return err
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	if err := present(ctx, engine); err != nil {
		return err
	}
	// An engine that ends and comes back knows what was before: the stream goes on behind the
	// last event that was seen.
	return persist(ctx, nil, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream := engine.Events(ctx, o)
		for {
			select {
			case event := <-stream.Messages:
				if err := show(a.Out, event); err != nil {
					return err
				}
				if event.TimeNano != 0 {
					o.Since = unixTime(event.TimeNano + 1)
				}
			case err := <-stream.Err:
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
		}
	})
}

// unixTime is a moment as the API's since and until take it: seconds and nanoseconds.
func unixTime(nanoseconds int64) string {
	return fmt.Sprintf("%d.%09d", nanoseconds/1e9, nanoseconds%1e9)
}

func eventPrinter(format string) (func(io.Writer, events.Message) error, error) {
	switch format {
	case "":
		return printEvent, nil
	case "json":
		return func(w io.Writer, e events.Message) error {
			line, err := encodeJSON(e)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(w, line)
			return err
		}, nil
	}
	t, err := parseTemplate(unescapeFormat(format))
	if err != nil {
		return nil, err
	}
	return func(w io.Writer, e events.Message) error {
		var line strings.Builder
		if err := t.Execute(&line, legacyEvent(e)); err != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
		_, err := fmt.Fprintln(w, line.String())
		return err
	}, nil
}

// templateEvent has the old names too: .Status is the action, .ID the actor's, .From its image.
type templateEvent struct {
	events.Message
	Status, ID, From string
}

func legacyEvent(e events.Message) templateEvent {
	return templateEvent{Message: e, Status: string(e.Action), ID: e.Actor.ID, From: e.Actor.Attributes["image"]}
}

func printEvent(w io.Writer, e events.Message) error {
	var line strings.Builder
	switch {
	case e.TimeNano != 0:
		line.WriteString(time.Unix(0, e.TimeNano).Format(timeNanoFixed) + " ")
	case e.Time != 0:
		line.WriteString(time.Unix(e.Time, 0).Format(timeNanoFixed) + " ")
	}
	fmt.Fprintf(&line, "%s %s %s", e.Type, e.Action, e.Actor.ID)
	if len(e.Actor.Attributes) > 0 {
		attributes := make([]string, 0, len(e.Actor.Attributes))
		for _, key := range slices.Sorted(maps.Keys(e.Actor.Attributes)) {
			attributes = append(attributes, key+"="+e.Actor.Attributes[key])
		}
		line.WriteString(" (" + strings.Join(attributes, ", ") + ")")
	}
	_, err := fmt.Fprintln(w, line.String())
	return err
}
