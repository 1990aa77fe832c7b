package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	mobyclient "github.com/moby/moby/client"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"berth/api/client"
)

func newManifestGroup(a *app) *cobra.Command {
	return newGroup(a, "manifest", "Manage image manifests and manifest lists", []entry{
		{name: "annotate", build: newManifestAnnotate},
		{name: "create", build: newManifestCreate},
		{name: "inspect", build: newManifestInspect},
		{name: "push", build: newManifestPush},
		{name: "rm", build: newManifestRm},
	})
}

// Media types of manifests.
const (
	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
)

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerManifestList
}

// imageManifest is a manifest of a registry, in the form in which Docker shows it, and
// keeps it in ~/.docker/manifests.
type imageManifest struct {
	Ref              string
	Descriptor       ocispec.Descriptor
	Raw              []byte          `json:",omitempty"` // byte for byte
	SchemaV2Manifest json.RawMessage `json:",omitempty"`
	OCIManifest      json.RawMessage `json:",omitempty"`
}

// insecureFlag is Docker's --insecure. Which registries need no verified TLS is up to the
// engine, which talks to them.
func insecureFlag(cmd *cobra.Command, what string) *bool {
	return cmd.Flags().Bool("insecure", false, what)
}

func (a *app) checkInsecure(insecure bool) {
	if insecure {
		fmt.Fprintln(a.Err, "WARNING: --insecure does nothing here: list the registry in the engine's insecure-registries")
	}
}

func newManifestInspect(a *app) *cobra.Command {
	var verbose bool
	var insecure *bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] [MANIFEST_LIST] MANIFEST",
		Short: "Display an image manifest, or manifest list",
		Args:  rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.checkInsecure(*insecure)
			if len(args) == 2 {
				return a.inspectListed(args[0], args[1], verbose)
			}
			return a.inspectManifest(cmd.Context(), args[0], verbose)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	insecure = insecureFlag(cmd, "Allow communication with an insecure registry")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "Output additional info including layers and platform")
	return cmd
}

// parseTagged reads a reference and adds the default tag.
func parseTagged(name string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, err
	}
	return reference.TagNameOnly(named), nil
}

// inspectListed shows a manifest of a local list.
func (a *app) inspectListed(list, name string, verbose bool) error {
	target, err := parseTagged(list)
	if err != nil {
		return err
	}
	named, err := parseTagged(name)
	if err != nil {
		return err
	}
	m, err := a.manifests().get(target, named)
	if err != nil {
		return err
	}
	return a.printManifest(m, verbose)
}

// inspectManifest shows a local list, or else what a registry has.
func (a *app) inspectManifest(ctx context.Context, name string, verbose bool) error {
	named, err := parseTagged(name)
	if err != nil {
		return err
	}
	listed, err := a.manifests().list(named)
	if err == nil {
		if verbose {
			return a.printIndented(listed)
		}
		data, err := indexOf(listed)
		if err != nil {
			return err
		}
		return a.printRaw(data, "   ")
	}
	if !errors.Is(err, errNoList) {
		return err
	}
	d, data, err := a.fetchManifest(ctx, named)
	if err != nil {
		return err
	}
	if !isIndex(d.MediaType) {
		if !verbose {
			return a.printRaw(data, "\t")
		}
		m, err := a.describeManifest(ctx, named, d, data)
		if err != nil {
			return err
		}
		return a.printIndented(m)
	}
	if !verbose {
		return a.printRaw(data, "   ")
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return fmt.Errorf("index of %s: %w", name, err)
	}
	all := []imageManifest{}
	for _, child := range index.Manifests {
		at, err := reference.WithDigest(reference.TrimNamed(named), child.Digest)
		if err != nil {
			return fmt.Errorf("index of %s: %w", name, err)
		}
		_, data, err := a.fetchManifest(ctx, at)
		if err != nil {
			return err
		}
		m := newImageManifest(at, child, data)
		all = append(all, m)
	}
	return a.printIndented(all)
}

// fetchManifest asks the engine for what a registry has.
func (a *app) fetchManifest(ctx context.Context, named reference.Named) (d ocispec.Descriptor, data []byte, err error) {
	engine, err := a.engine()
	if err != nil {
		return d, nil, err
	}
	auth, err := a.registryAuth(named)
	if err != nil {
		return d, nil, err
	}
	header, data, err := client.Call(ctx, engine, http.MethodGet, "/distribution/"+named.String()+"/manifest", nil,
		http.Header{registry.AuthHeader: {auth}}, nil)
	if err != nil {
		return d, nil, err
	}
	d = ocispec.Descriptor{MediaType: header.Get("Content-Type"), Digest: digest.Digest(header.Get("Docker-Content-Digest")), Size: int64(len(data))}
	if err := d.Digest.Validate(); err != nil {
		return d, nil, fmt.Errorf("the engine's answer: digest %q: %w", d.Digest, err)
	}
	return d, data, nil
}

// describeManifest adds the platform, which the image's configuration has.
func (a *app) describeManifest(ctx context.Context, named reference.Named, d ocispec.Descriptor, data []byte) (imageManifest, error) {
	engine, err := a.engine()
	if err != nil {
		return imageManifest{}, err
	}
	auth, err := a.registryAuth(named)
	if err != nil {
		return imageManifest{}, err
	}
	answer, err := engine.DistributionInspect(ctx, named.String(), mobyclient.DistributionInspectOptions{EncodedRegistryAuth: auth})
	if err != nil {
		return imageManifest{}, err
	}
	if len(answer.Platforms) == 1 {
		d.Platform = &answer.Platforms[0]
	}
	return newImageManifest(named, d, data), nil
}

func newImageManifest(named reference.Named, d ocispec.Descriptor, data []byte) imageManifest {
	m := imageManifest{Ref: named.String(), Descriptor: d, Raw: data}
	if d.MediaType == dockerManifest {
		m.SchemaV2Manifest = data
	} else {
		m.OCIManifest = data
	}
	return m
}

func (a *app) printManifest(m imageManifest, verbose bool) error {
	if verbose {
		return a.printIndented(m)
	}
	return a.printRaw(m.Raw, "\t")
}

// printRaw shows a document as it is, indented.
func (a *app) printRaw(data []byte, indent string) error {
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", indent); err != nil {
		return fmt.Errorf("the manifest is not JSON: %w", err)
	}
	out.WriteByte('\n')
	_, err := out.WriteTo(a.Out)
	return err
}

func (a *app) printIndented(v any) error {
	data, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return err
	}
	_, err = a.Out.Write(append(data, '\n'))
	return err
}

// pushIndex puts a list into its registry; the manifests that it names in other
// repositories are copied.
func (a *app) pushIndex(ctx context.Context, target reference.Named, data []byte, mediaType string, from []string) (string, error) {
	engine, err := a.engine()
	if err != nil {
		return "", err
	}
	auth, err := a.registryAuth(target)
	if err != nil {
		return "", err
	}
	_, answer, err := client.Call(ctx, engine, http.MethodPut, "/distribution/"+target.String()+"/manifest", url.Values{"from": from},
		http.Header{registry.AuthHeader: {auth}, "Content-Type": {mediaType}}, data)
	if err != nil {
		return "", err
	}
	var got struct{ Digest string }
	if err := json.Unmarshal(answer, &got); err != nil {
		return "", fmt.Errorf("the engine's answer: %w", err)
	}
	return got.Digest, nil
}
