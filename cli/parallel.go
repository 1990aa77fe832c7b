package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	mobyclient "github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"
)

// parallelActions is how many containers one command acts on at a time.
const parallelActions = 50

// forEachAtOnce runs one action on each name, in parallel: ten stops of ten seconds take ten
// seconds. Names and errors are still printed in the order they were given.
func (a *app) forEachAtOnce(ctx context.Context, names []string, action func(context.Context, *mobyclient.Client, string) error) error {
	engine, err := a.engine()
	if err != nil {
		return err
	}
	results := make([]chan error, len(names))
	for i := range results {
		results[i] = make(chan error, 1)
	}
	var workers errgroup.Group
	workers.SetLimit(parallelActions)
	go func() {
		for i, name := range names {
			workers.Go(func() error {
				results[i] <- action(ctx, engine, name)
				return nil
			})
		}
	}()
	failed := false
	for i, name := range names {
		if err := <-results[i]; err != nil {
			if errors.Is(err, context.Canceled) {
				return err
			}
			fmt.Fprintln(a.Err, explain(err))
			failed = true
			continue
		}
		fmt.Fprintln(a.Out, name)
	}
	if failed {
		return statusError{code: 1}
	}
	return nil
}

func joinComma(words []string) string { return strings.Join(words, ", ") }
