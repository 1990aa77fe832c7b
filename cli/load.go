package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newLoad(a *app) *cobra.Command {
	var input string
	var quiet bool
	var platforms []string
	cmd := &cobra.Command{
		Use:   "load [OPTIONS]",
		Short: "Load an image from a tar archive or STDIN",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.load(cmd.Context(), input, quiet, platforms)
		},
	}
	cmd.Flags().StringVarP(&input, "input", "i", "", "Read from tar archive file, instead of STDIN")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Suppress the load output")
	cmd.Flags().StringSliceVar(&platforms, "platform", nil, `Load only the given platform(s). Formatted as a comma-separated list of "os[/arch[/variant]]"`)
	return cmd
}

func (a *app) load(ctx context.Context, input string, quiet bool, platformTexts []string) error {
	archive := a.In
	if input != "" {
		file, err := os.Open(input)
		if err != nil {
			return err
		}
		defer file.Close()
		if info, err := file.Stat(); err == nil && info.IsDir() {
			return fmt.Errorf("read %s: is a directory", input)
		}
		archive = file
	} else if _, terminal := terminalOf(a.In); terminal {
		return errors.New("requested load from stdin, but stdin is empty")
	}
	// Bars are for people who look at them.
	if _, terminal := terminalOf(a.Out); !terminal {
		quiet = true
	}
	options := []mobyclient.ImageLoadOption{mobyclient.ImageLoadWithQuiet(quiet)}
	platforms, err := parsePlatforms(platformTexts)
	if err != nil {
		return err
	}
	if len(platforms) > 0 {
		options = append(options, mobyclient.ImageLoadWithPlatforms(platforms...))
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	answer, err := engine.ImageLoad(ctx, archive, options...)
	if err != nil {
		return err
	}
	defer answer.Close()
	return showProgress(ctx, answer, a.Out)
}
