package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	mobyclient "github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// When an image is pulled before a container is made from it.
const (
	pullAlways  = "always"
	pullMissing = "missing"
	pullNever   = "never"
)

// createFlags are those of `create` and `run` that are not about the container itself.
type createFlags struct {
	name, platform, pull string
	quiet                bool
	contentTrustOff      bool
	apiSocket            bool
}

func (o *createFlags) register(flags *pflag.FlagSet) {
	flags.SetInterspersed(false)
	flags.StringVar(&o.name, "name", "", "Assign a name to the container")
	flags.StringVar(&o.platform, "platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), "Set platform if server is multi-platform capable")
	flags.StringVar(&o.pull, "pull", pullMissing, `Pull image before running ("always", "missing", "never")`)
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "Suppress the pull output")
	flags.BoolVar(&o.apiSocket, "use-api-socket", false, "Bind mount the engine's API socket and copy the credentials of registries")
	registerContentTrust(flags, &o.contentTrustOff)
}

// registerContentTrust adds the flag of a feature that Docker has dropped: only its default
// can be asked for (see checkContentTrust).
func registerContentTrust(flags *pflag.FlagSet, off *bool) {
	flags.BoolVar(off, "disable-content-trust", true, "Skip image verification")
	_ = flags.MarkHidden("disable-content-trust")
}

func checkContentTrust(off bool) error {
	if !off {
		return errors.New("content trust is not supported: --disable-content-trust=false cannot be honoured")
	}
	return nil
}

func newCreate(a *app) *cobra.Command {
	var o createFlags
	var c *containerFlags
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create a new container",
		Args:  minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.meetEngine(cmd.Context())
			request, err := a.containerRequest(cmd, c, &o, args)
			if err != nil {
				return err
			}
			id, err := a.createContainer(cmd.Context(), request, &o)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.Out, id)
			return nil
		},
		ValidArgsFunction: a.completeImages(1),
	}
	o.register(cmd.Flags())
	c = registerContainerFlags(cmd.Flags())
	a.completeNetworkFlags(cmd)
	a.completeVolumeFlags(cmd)
	hideHelpShorthand(cmd)
	return cmd
}

// hideHelpShorthand keeps -h for --hostname where there is one.
func hideHelpShorthand(cmd *cobra.Command) {
	cmd.Flags().Bool("help", false, "Print usage")
	_ = cmd.Flags().MarkHidden("help")
}

// containerRequest reads the command line of `run` and `create`.
func (a *app) containerRequest(cmd *cobra.Command, c *containerFlags, o *createFlags, args []string) (*containerRequest, error) {
	switch o.pull {
	case pullAlways, pullMissing, pullNever:
	default:
		return nil, flagError(cmd, fmt.Errorf(`invalid pull option: '%s': must be one of "always", "missing" or "never"`, o.pull))
	}
	if err := checkContentTrust(o.contentTrustOff); err != nil {
		return nil, flagError(cmd, err)
	}
	a.warnOfKernelMemory(cmd.Flags())
	c.image, c.args = args[0], args[1:]
	if err := a.addProxyEnvironment(c); err != nil {
		return nil, flagError(cmd, err)
	}
	request, err := c.parse(cmd.Flags())
	if err != nil {
		return nil, flagError(cmd, err)
	}
	if o.apiSocket {
		if err := a.addAPISocket(request); err != nil {
			return nil, flagError(cmd, err)
		}
	}
	return request, nil
}

// addProxyEnvironment adds the proxies that config.json holds for this engine, unless the
// user set the variable.
func (a *app) addProxyEnvironment(c *containerFlags) error {
	if len(a.config().Proxies) == 0 {
		return nil
	}
	engine, err := a.engine()
	if err != nil {
		return err
	}
	given := opts.ConvertKVStringsToMapWithNil(c.env.GetSlice())
	all := a.config().ParseProxyConfig(engine.DaemonHost(), maps.Clone(given))
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if _, mine := given[key]; !mine && all[key] != nil {
			if err := c.env.Set(key + "=" + *all[key]); err != nil {
				return err
			}
		}
	}
	return nil
}

// createContainer creates the container, pulling its image as o.pull says, and returns its id.
// Progress and the engine's warnings go to the error stream.
func (a *app) createContainer(ctx context.Context, request *containerRequest, o *createFlags) (string, error) {
	// encoding/json learns the request's many types while the engine answers meetEngine.
	_, _ = json.Marshal(container.CreateRequest{Config: request.config, HostConfig: request.host, NetworkingConfig: request.network})
	engine, err := a.engine()
	if err != nil {
		return "", err
	}
	platform, err := parsePlatform(o.platform)
	if err != nil {
		return "", err
	}
	// An image may also be named by its id, which is no reference.
	named := pullableReference(request.config.Image)

	cid, err := newCIDFile(request.host.ContainerIDFile)
	if err != nil {
		return "", err
	}
	defer cid.close()

	pull := func() error { return a.pullForCreate(ctx, request.config.Image, platform, o.quiet) }
	if o.pull == pullAlways && named != nil {
		if err := pull(); err != nil {
			return "", err
		}
	}
	options := mobyclient.ContainerCreateOptions{
		Config:           request.config,
		HostConfig:       request.host,
		NetworkingConfig: request.network,
		Platform:         platform,
		Name:             o.name,
	}
	created, err := engine.ContainerCreate(ctx, options)
	if err != nil && o.pull == pullMissing && named != nil && isNoSuchImage(err) {
		if !o.quiet {
			fmt.Fprintf(a.Err, "Unable to find image '%s' locally\n", reference.FamiliarString(named))
		}
		if err := pull(); err != nil {
			return "", err
		}
		created, err = engine.ContainerCreate(ctx, options)
	}
	if err != nil {
		return "", err
	}
	if o.apiSocket && slices.Contains(request.config.Env, "DOCKER_CONFIG="+configInside) {
		if err := a.copyCredentials(ctx, engine, created.ID); err != nil {
			_, _ = engine.ContainerRemove(context.WithoutCancel(ctx), created.ID, mobyclient.ContainerRemoveOptions{RemoveVolumes: true})
			return "", err
		}
	}
	for _, warning := range created.Warnings {
		fmt.Fprintf(a.Err, "WARNING: %s\n", warning)
	}
	return created.ID, cid.write(created.ID)
}

func (a *app) pullForCreate(ctx context.Context, image string, platform *ocispec.Platform, quiet bool) error {
	out := a.Err
	if quiet {
		out = io.Discard
	}
	return a.pullImage(ctx, image, pullRequest{platform: platform, out: out})
}

// isNoSuchImage tells the image's absence from that of a network or another container, which
// a create can also report as not found.
func isNoSuchImage(err error) bool {
	return errdefs.IsNotFound(err) && strings.Contains(strings.ToLower(err.Error()), "no such image")
}

func pullableReference(image string) reference.Named {
	parsed, err := reference.ParseAnyReference(image)
	if err != nil {
		return nil
	}
	if named, ok := parsed.(reference.Named); ok {
		return reference.TagNameOnly(named)
	}
	return nil
}

func parsePlatform(value string) (*ocispec.Platform, error) {
	if value == "" {
		return nil, nil
	}
	p, err := platforms.Parse(value)
	if err != nil {
		return nil, fmt.Errorf("error parsing specified platform: %w", err)
	}
	return &p, nil
}

// cidFile receives the container's id. It is made before the container, so that a path that
// cannot be written stops the create.
type cidFile struct {
	file    *os.File
	written bool
}

func newCIDFile(path string) (*cidFile, error) {
	if path == "" {
		return &cidFile{}, nil
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("container ID file found, make sure the other container isn't running or delete %s", path)
	}
	if err != nil {
		return nil, fmt.Errorf("failed to create the container ID file: %w", err)
	}
	return &cidFile{file: file}, nil
}

func (c *cidFile) write(id string) error {
	if c.file == nil {
		return nil
	}
	if _, err := c.file.WriteString(id); err != nil {
		return fmt.Errorf("failed to write the container ID (%s) to file: %w", id, err)
	}
	c.written = true
	return nil
}

// close leaves no empty file behind a create that failed.
func (c *cidFile) close() {
	if c.file == nil {
		return
	}
	_ = c.file.Close()
	if !c.written {
		_ = os.Remove(c.file.Name())
	}
}
