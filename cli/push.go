package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/distribution/reference"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

type pushFlags struct {
	all, quiet, trustOff bool
	platform             string
}

func newPush(a *app) *cobra.Command {
	var o pushFlags
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] NAME[:TAG]",
		Short: "Upload an image to a registry",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkContentTrust(o.trustOff); err != nil {
				return flagError(cmd, err)
			}
			return a.push(cmd.Context(), args[0], o)
		},
		ValidArgsFunction: a.completeImages(1),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.all, "all-tags", "a", false, "Push all tags of an image to the repository")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "Suppress verbose output")
	flags.StringVar(&o.platform, "platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), `Push a platform-specific manifest as a single-platform image to the registry.
Image index won't be pushed, meaning that other manifests, including attestations won't be preserved.
'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)`)
	registerContentTrust(flags, &o.trustOff)
	return cmd
}

func (a *app) push(ctx context.Context, name string, o pushFlags) error {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return err
	}
	switch {
	case o.all && !reference.IsNameOnly(named):
		return errors.New("tag can't be used with --all-tags/-a")
	case !o.all && reference.IsNameOnly(named):
		named = reference.TagNameOnly(named)
		if tagged, ok := named.(reference.NamedTagged); ok && !o.quiet {
			fmt.Fprintf(a.Out, "Using default tag: %s\n", tagged.Tag())
		}
	}
	platform, err := parsePlatform(o.platform)
	if err != nil {
		return err
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	auth, err := a.registryAuth(named)
	if err != nil {
		return err
	}
	progress, err := engine.ImagePush(ctx, reference.FamiliarString(named), mobyclient.ImagePushOptions{All: o.all, RegistryAuth: auth, Platform: platform})
	if err != nil {
		return err
	}
	defer progress.Close()
	if !o.quiet {
		return showProgress(ctx, progress, a.Out)
	}
	if err := showProgress(ctx, progress, io.Discard); err != nil {
		return err
	}
	fmt.Fprintln(a.Out, named.String())
	return nil
}
