package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"berth/fail"
)

// manifestStore keeps manifest lists that are being put together: a directory for each,
// with a file for each manifest, in Docker's form.
type manifestStore struct{ root string }

func (a *app) manifests() manifestStore {
	return manifestStore{filepath.Join(config.Dir(), "manifests")}
}

var errNoList = fail.New(fail.NotFound, "No such manifest")

// fileName is Docker's name of the file for a reference.
func fileName(named reference.Named) string {
	return strings.NewReplacer(":", "-", "/", "_").Replace(named.String())
}

func (s manifestStore) dir(list reference.Named) string { return filepath.Join(s.root, fileName(list)) }

func (s manifestStore) list(list reference.Named) ([]imageManifest, error) {
	entries, err := os.ReadDir(s.dir(list))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", errNoList, list)
	}
	if err != nil {
		return nil, err
	}
	var all []imageManifest
	for _, e := range entries {
		m, err := readListed(filepath.Join(s.dir(list), e.Name()))
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

func (s manifestStore) get(list, named reference.Named) (imageManifest, error) {
	m, err := readListed(filepath.Join(s.dir(list), fileName(named)))
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("%w: manifest for image %s does not exist in %s", errNoList, reference.FamiliarString(named), reference.FamiliarString(list))
	}
	return m, err
}

func readListed(path string) (m imageManifest, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("%s: %w", path, err)
	}
	if d := m.Descriptor.Digest; d.Validate() != nil || digest.FromBytes(m.Raw) != d {
		return m, fmt.Errorf("%s: the manifest is not the one its digest names", path)
	}
	return m, nil
}

func (s manifestStore) save(list, named reference.Named, m imageManifest) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir(list), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.root, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(data); err == nil {
		err = f.Chmod(0o644)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(s.dir(list), fileName(named)))
}

func (s manifestStore) remove(list reference.Named) error {
	if _, err := os.Stat(s.dir(list)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", errNoList, list)
	}
	return os.RemoveAll(s.dir(list))
}

func newManifestCreate(a *app) *cobra.Command {
	var amend bool
	var insecure *bool
	cmd := &cobra.Command{
		Use:   "create MANIFEST_LIST MANIFEST [MANIFEST...]",
		Short: "Create a local manifest list for annotating and pushing to a registry",
		Args:  minArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.checkInsecure(*insecure)
			return a.createList(cmd.Context(), args[0], args[1:], amend)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	insecure = insecureFlag(cmd, "Allow communication with an insecure registry")
	cmd.Flags().BoolVarP(&amend, "amend", "a", false, "Amend an existing manifest list")
	return cmd
}

func (a *app) createList(ctx context.Context, list string, names []string, amend bool) error {
	target, err := parseTagged(list)
	if err != nil {
		return fmt.Errorf("error parsing name for manifest list %s: %w", list, err)
	}
	store := a.manifests()
	switch _, err := store.list(target); {
	case errors.Is(err, errNoList):
	case err != nil:
		return err
	case !amend:
		return errors.New("refusing to amend an existing manifest list with no --amend flag")
	}
	// Everything is fetched before anything is written.
	type member struct {
		named    reference.Named
		manifest imageManifest
	}
	var members []member
	for _, name := range names {
		named, err := parseTagged(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		d, data, err := a.fetchManifest(ctx, named)
		if err != nil {
			return err
		}
		if isIndex(d.MediaType) {
			return fmt.Errorf("%s is a manifest list itself: name one of its manifests by digest", name)
		}
		m, err := a.describeManifest(ctx, named, d, data)
		if err != nil {
			return err
		}
		members = append(members, member{named, m})
	}
	for _, m := range members {
		if err := store.save(target, m.named, m.manifest); err != nil {
			return err
		}
	}
	fmt.Fprintln(a.Out, "Created manifest list", target)
	return nil
}

func newManifestAnnotate(a *app) *cobra.Command {
	var p ocispec.Platform
	cmd := &cobra.Command{
		Use:               "annotate [OPTIONS] MANIFEST_LIST MANIFEST",
		Short:             "Add additional information to a local image manifest",
		Args:              exactArgs(2),
		RunE:              func(_ *cobra.Command, args []string) error { return a.annotateList(args[0], args[1], p) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.StringVar(&p.Architecture, "arch", "", "Set architecture")
	flags.StringVar(&p.OS, "os", "", "Set operating system")
	flags.StringSliceVar(&p.OSFeatures, "os-features", nil, "Set operating system feature")
	flags.StringVar(&p.OSVersion, "os-version", "", "Set operating system version")
	flags.StringVar(&p.Variant, "variant", "", "Set architecture variant")
	return cmd
}

func (a *app) annotateList(list, name string, p ocispec.Platform) error {
	target, err := parseTagged(list)
	if err != nil {
		return fmt.Errorf("annotate: error parsing name for manifest list %s: %w", list, err)
	}
	named, err := parseTagged(name)
	if err != nil {
		return fmt.Errorf("annotate: error parsing name for manifest %s: %w", name, err)
	}
	m, err := a.manifests().get(target, named)
	if err != nil {
		return err
	}
	if m.Descriptor.Platform == nil {
		m.Descriptor.Platform = &ocispec.Platform{}
	}
	to := m.Descriptor.Platform
	for _, set := range []struct {
		to   *string
		from string
	}{{&to.OS, p.OS}, {&to.Architecture, p.Architecture}, {&to.Variant, p.Variant}, {&to.OSVersion, p.OSVersion}} {
		if set.from != "" {
			*set.to = set.from
		}
	}
	for _, f := range p.OSFeatures {
		if !slices.Contains(to.OSFeatures, f) {
			to.OSFeatures = append(to.OSFeatures, f)
		}
	}
	return a.manifests().save(target, named, m)
}

func newManifestPush(a *app) *cobra.Command {
	var purge bool
	var insecure *bool
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] MANIFEST_LIST",
		Short: "Push a manifest list to a repository",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.checkInsecure(*insecure)
			return a.pushList(cmd.Context(), args[0], purge)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	insecure = insecureFlag(cmd, "Allow push to an insecure registry")
	cmd.Flags().BoolVarP(&purge, "purge", "p", false, "Remove the local manifest list after push")
	return cmd
}

func (a *app) pushList(ctx context.Context, list string, purge bool) error {
	target, err := parseTagged(list)
	if err != nil {
		return err
	}
	all, err := a.manifests().list(target)
	if err != nil {
		return err
	}
	data, err := indexOf(all)
	if err != nil {
		return err
	}
	var from []string
	for _, m := range all {
		named, err := reference.ParseNormalizedNamed(m.Ref)
		if err != nil {
			return fmt.Errorf("manifest %q: %w", m.Ref, err)
		}
		if named.Name() == target.Name() {
			continue
		}
		// Credentials are sent for one registry only.
		if reference.Domain(named) != reference.Domain(target) {
			return fmt.Errorf("cannot use source images from a different registry than the target image: %s != %s", reference.Domain(named), reference.Domain(target))
		}
		from = append(from, named.Name()+"@"+m.Descriptor.Digest.String())
	}
	mediaType := indexType(all)
	pushed, err := a.pushIndex(ctx, target, data, mediaType, from)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.Out, pushed)
	if purge {
		return a.manifests().remove(target)
	}
	return nil
}

// indexType is Docker's type of list, unless one of its manifests is of OCI's.
func indexType(all []imageManifest) string {
	if slices.ContainsFunc(all, func(m imageManifest) bool { return m.Descriptor.MediaType != dockerManifest }) {
		return ocispec.MediaTypeImageIndex
	}
	return dockerManifestList
}

// indexOf is the document of a list.
func indexOf(all []imageManifest) ([]byte, error) {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: indexType(all), Manifests: []ocispec.Descriptor{}}
	for _, m := range all {
		if p := m.Descriptor.Platform; p == nil || p.OS == "" || p.Architecture == "" {
			return nil, fmt.Errorf("manifest %s must have an OS and Architecture to be pushed to a registry: see berth manifest annotate", m.Ref)
		}
		index.Manifests = append(index.Manifests, m.Descriptor)
	}
	return json.MarshalIndent(index, "", "   ")
}

func newManifestRm(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm MANIFEST_LIST [MANIFEST_LIST...]",
		Short: "Delete one or more manifest lists from local storage",
		Args:  minArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var problems []error
			for _, name := range args {
				target, err := parseTagged(name)
				if err == nil {
					err = a.manifests().remove(target)
				}
				problems = append(problems, err)
			}
			return errors.Join(problems...)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}
