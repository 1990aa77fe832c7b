package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
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

func newImport(a *app) *cobra.Command {
	var o importFlags
	cmd := &cobra.Command{
		Use:   "import [OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
		Short: "Import the contents from a tarball to create a filesystem image",
		Args:  rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			reference := ""
			if len(args) == 2 {
				reference = args[1]
			}
			return a.importImage(cmd.Context(), args[0], reference, o)
		},
	}
	cmd.Flags().StringArrayVarP(&o.changes, "change", "c", nil, "Apply Dockerfile instruction to the created image")
	cmd.Flags().StringVarP(&o.message, "message", "m", "", "Set commit message for imported image")
	cmd.Flags().StringVar(&o.platform, "platform", "", "Set platform if server is multi-platform capable")
	return cmd
}

type importFlags struct {
	changes           []string
	message, platform string
}

func (a *app) importImage(ctx context.Context, source, reference string, o importFlags) error {
	from := mobyclient.ImageImportSource{SourceName: source}
	switch {
	case source == "-":
		from.Source = a.In
	case !isURL(source):
		file, err := os.Open(source)
		if err != nil {
			return err
		}
		defer file.Close()
		// Buffered by nothing: the transport reads the archive straight from the file.
		from = mobyclient.ImageImportSource{SourceName: "-", Source: io.Reader(file)}
	}
	options := mobyclient.ImageImportOptions{Message: o.message, Changes: o.changes}
	platform, err := parsePlatform(o.platform)
	if err != nil {
		return err
	}
	if platform != nil {
		options.Platform = *platform
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	answer, err := engine.ImageImport(ctx, from, reference, options)
	if err != nil {
		return err
	}
	defer answer.Close()
	return showProgress(ctx, answer, a.Out)
}
