package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/distribution/reference"
	"github.com/moby/moby/client/pkg/jsonmessage"

	mobyclient "github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

// pullRequest is how an image is pulled; out receives the progress.
type pullRequest struct {
	all      bool
	platform *ocispec.Platform
	out      io.Writer
}

func newPull(a *app) *cobra.Command {
	var all, quiet, trustOff bool
	var platform string
	cmd := &cobra.Command{
		Use:   "pull [OPTIONS] NAME[:TAG|@DIGEST]",
		Short: "Download an image from a registry",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkContentTrust(trustOff); err != nil {
				return flagError(cmd, err)
			}
			return a.pull(cmd.Context(), args[0], all, quiet, platform)
		},
		ValidArgsFunction: a.completeImages(1),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&all, "all-tags", "a", false, "Download all tagged images in the repository")
	flags.BoolVarP(&quiet, "quiet", "q", false, "Suppress verbose output")
	flags.StringVar(&platform, "platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), "Set platform if server is multi-platform capable")
	registerContentTrust(flags, &trustOff)
	return cmd
}

func (a *app) pull(ctx context.Context, name string, all, quiet bool, platformText string) error {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return err
	}
	if all && !reference.IsNameOnly(named) {
		return errors.New("tag can't be used with --all-tags/-a")
	}
	platform, err := parsePlatform(platformText)
	if err != nil {
		return err
	}
	if !all && reference.IsNameOnly(named) {
		named = reference.TagNameOnly(named)
		if tagged, ok := named.(reference.Tagged); ok && !quiet {
			fmt.Fprintf(a.Out, "Using default tag: %s\n", tagged.Tag())
		}
	}
	request := pullRequest{all: all, platform: platform, out: a.Out}
	if quiet {
		request.out = io.Discard
	}
	if err := a.pullImage(ctx, named.String(), request); err != nil {
		return err
	}
	fmt.Fprintln(a.Out, named.String())
	return nil
}

// pullImage pulls with the user's credentials and shows the progress; the stream's own error
// is the pull's.
func (a *app) pullImage(ctx context.Context, name string, request pullRequest) error {
	engine, err := a.engine()
	if err != nil {
		return err
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return err
	}
	auth, err := a.registryAuth(named)
	if err != nil {
		return err
	}
	options := mobyclient.ImagePullOptions{All: request.all, RegistryAuth: auth}
	if request.platform != nil {
		options.Platforms = []ocispec.Platform{*request.platform}
	}
	progress, err := engine.ImagePull(ctx, name, options)
	if err != nil {
		return err
	}
	defer progress.Close()
	return showProgress(ctx, progress, request.out)
}

// showProgress prints a stream of progress messages: bars redrawn in place on a terminal,
// plain lines elsewhere.
func showProgress(ctx context.Context, stream io.Reader, out io.Writer, opts ...jsonmessage.DisplayOpt) error {
	err := jsonmessage.DisplayStream(stream, out, opts...)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
