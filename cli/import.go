package cli

import (
	"context"
	"io"
	"os"
	"strings"

	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

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

func isURL(source string) bool {
	return strings.HasPrefix(source, "http://") || strings.HasPrefix(source, "https://")
}
