package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/auxprogress"
	"github.com/moby/moby/api/types/jsonstream"
	mobyclient "github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/jsonmessage"
	"github.com/spf13/cobra"
)

type pushFlags struct {
	all, quiet, trustOff bool
	platform             string
	compression          string
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
	flags.StringVar(&o.compression, "compression", "", `Compress layers by "gzip[:1-9]", "zstd[:1-22]" or "uncompressed" instead of sending them as they are`)
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
	a.engineOptions.PushCompression = o.compression
	engine, err := a.engine()
	if err != nil {
		return err
	}
	if o.compression != "" {
		if err := isBerth(ctx, engine, "--compression"); err != nil {
			return err
		}
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
	var notes []string
	note := jsonmessage.WithAuxCallback(func(m jsonstream.Message) {
		if m.Aux == nil {
			return
		}
		var single auxprogress.ManifestPushedInsteadOfIndex
		if err := json.Unmarshal(*m.Aux, &single); err == nil && single.ManifestPushedInsteadOfIndex {
			notes = append(notes, fmt.Sprintf("Not all platforms of the image are here: %s was pushed alone, without its index %s",
				single.SelectedManifest.Digest, single.OriginalIndex.Digest))
		}
	})
	out := a.Out
	if o.quiet {
		out = io.Discard
	}
	if err := showProgress(ctx, progress, out, note); err != nil {
		return err
	}
	if o.quiet {
		fmt.Fprintln(a.Out, named.String())
	}
	for _, n := range notes {
		fmt.Fprintln(a.Err, "NOTE:", n)
	}
	return nil
}

// isBerth refuses an option that Docker's engine would ignore.
func isBerth(ctx context.Context, engine *mobyclient.Client, option string) error {
	v, err := engine.ServerVersion(ctx, mobyclient.ServerVersionOptions{})
	if err != nil {
		return err
	}
	if !strings.HasPrefix(v.Platform.Name, "Berth") {
		return fmt.Errorf("%s needs a Berth engine; this one is %q", option, v.Platform.Name)
	}
	return nil
}
