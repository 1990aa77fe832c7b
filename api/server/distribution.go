package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	mobyregistry "github.com/moby/moby/api/types/registry"

	"berth/fail"
	"berth/oci"
	"berth/registry"
)

// repositoryOf reads the reference of a path: its repository, and its tag or digest.
func repositoryOf(r *request, name string) (repo *registry.Repository, named reference.Named, what string, err error) {
	auth, err := r.auth()
	if err != nil {
		return nil, nil, "", err
	}
	named, err = reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, nil, "", fail.New(fail.Invalid, "invalid reference %q: %w", name, err)
	}
	named = reference.TagNameOnly(named)
	switch ref := named.(type) {
	case reference.Digested:
		what = ref.Digest().String()
	case reference.Tagged:
		what = ref.Tag()
	}
	return r.s.Registry.Repository(named, auth), named, what, nil
}

func nothing(oci.Digest) bool { return false }

// inspectDistribution asks an image's registry what a reference stands for, without
// pulling it.
func inspectDistribution(w *writer, r *request) error {
	repo, _, what, err := repositoryOf(r, r.path["name"])
	if err != nil {
		return err
	}
	d, err := repo.Resolve(r.Context(), what, nothing)
	if err != nil {
		return err
	}
	data, err := repo.Manifest(r.Context(), d)
	if err != nil {
		return err
	}
	out := mobyregistry.DistributionInspect{Descriptor: d}
	out.Platforms, err = platformsOf(r.Context(), d, data, repo)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, out)
}

// readManifest is Berth's own: the manifest or index of a reference, byte for byte, with
// its media type.
func readManifest(w *writer, r *request) error {
	repo, _, what, err := repositoryOf(r, r.path["name"])
	if err != nil {
		return err
	}
	d, err := repo.Resolve(r.Context(), what, nothing)
	if err != nil {
		return err
	}
	data, err := repo.Manifest(r.Context(), d)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", d.MediaType)
	w.Header().Set("Docker-Content-Digest", d.Digest.String())
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(http.StatusOK)
	_, err = w.Write(data)
	return err
}

// maxManifest bounds a manifest that a client sends.
const maxManifest = 4 << 20

// writeManifest is Berth's own: it puts the body, a manifest or index, into a registry
// under a tag. The manifests in the repeatable parameter from, "repository@digest", are
// copied into the repository first.
func writeManifest(w *writer, r *request) error {
	repo, named, what, err := repositoryOf(r, r.path["name"])
	if err != nil {
		return err
	}
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !oci.IsIndex(mediaType) && !oci.IsManifest(mediaType) {
		return fail.New(fail.Invalid, "%q is not the media type of a manifest or index", r.Header.Get("Content-Type"))
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxManifest))
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		return fail.New(fail.Invalid, "the manifest is larger than %d bytes", maxManifest)
	case err != nil:
		return fail.New(fail.Invalid, "read the manifest: %w", err)
	case !json.Valid(data):
		return fail.New(fail.Invalid, "the manifest is not JSON")
	}
	d := oci.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if _, byDigest := named.(reference.Digested); byDigest {
		if what != d.Digest.String() {
			return fail.New(fail.Invalid, "the manifest is %s, not %s", d.Digest, what)
		}
		what = ""
	}
	for _, name := range r.list("from") {
		if err := copyManifest(r, repo, name); err != nil {
			return err
		}
	}
	if err := repo.PushManifest(r.Context(), d, data, what); err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, map[string]string{"Digest": d.Digest.String()})
}

func copyManifest(r *request, to *registry.Repository, name string) error {
	from, named, what, err := repositoryOf(r, name)
	if err != nil {
		return err
	}
	if _, byDigest := named.(reference.Digested); !byDigest {
		return fail.New(fail.Invalid, "%q does not name a digest", name)
	}
	d, err := from.Resolve(r.Context(), what, nothing)
	if err != nil {
		return err
	}
	return to.Copy(r.Context(), from, d)
}

// Bounds of a search (Docker's, moby/daemon/pkg/registry).
const (
	defaultSearchLimit = 25
	maxSearchLimit     = 100
)

// searchImages asks docker.io, or the registry that the term begins with.
func searchImages(w *writer, r *request) error {
	auth, err := r.auth()
	if err != nil {
		return err
	}
	f, err := r.filters("is-automated", "is-official", "stars")
	if err != nil {
		return err
	}
	limit, given, err := r.number("limit")
	if err != nil {
		return err
	}
	if !given || limit == 0 {
		limit = defaultSearchLimit
	}
	if limit < 1 || limit > maxSearchLimit {
		return fail.New(fail.Invalid, "limit %d is outside the range of [1, %d]", limit, maxSearchLimit)
	}
	if r.query("term") == "" {
		return fail.New(fail.Invalid, "a search needs a term")
	}
	stars := 0
	for _, v := range f["stars"] {
		n, err := strconv.Atoi(v)
		if err != nil {
			return fail.New(fail.Invalid, "invalid filter 'stars=%s': not a number", v)
		}
		stars = max(stars, n)
	}
	wanted := map[string]*bool{}
	for _, key := range []string{"is-official", "is-automated"} {
		if len(f[key]) > 0 {
			v, err := f.boolean(key, false)
			if err != nil {
				return err
			}
			wanted[key] = &v
		}
	}
	found, err := r.s.Registry.Search(r.Context(), r.query("term"), limit, auth)
	if err != nil {
		return err
	}
	out := []registry.Found{}
	for _, one := range found {
		if v := wanted["is-official"]; v != nil && *v != one.Official {
			continue
		}
		if v := wanted["is-automated"]; v != nil && *v != one.Automated {
			continue
		}
		if one.Stars >= stars {
			out = append(out, one)
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

// blobs is what platformsOf reads configurations from.
type blobs interface {
	Blob(ctx context.Context, d oci.Descriptor, offset int64) (io.ReadCloser, error)
}

// platformsOf lists what an index or manifest is for.
func platformsOf(ctx context.Context, d oci.Descriptor, data []byte, from blobs) ([]oci.Platform, error) {
	out := []oci.Platform{}
	if oci.IsIndex(d.MediaType) {
		var index oci.Index
		if err := json.Unmarshal(data, &index); err != nil {
			return nil, fail.New(fail.Unavailable, "index %s is not JSON: %w", d.Digest, err)
		}
		for _, m := range index.Manifests {
			if m.Platform != nil && m.Platform.OS != "unknown" {
				out = append(out, *m.Platform)
			}
		}
		return out, nil
	}
	var manifest oci.Manifest
	if err := json.Unmarshal(data, &manifest); err != nil {
		return nil, fail.New(fail.Unavailable, "manifest %s is not JSON: %w", d.Digest, err)
	}
	const maxConfig = 4 << 20
	if manifest.Config.Size > maxConfig {
		return nil, fail.New(fail.Unavailable, "configuration of %s is %d bytes large", d.Digest, manifest.Config.Size)
	}
	blob, err := from.Blob(ctx, manifest.Config, 0)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	raw, err := io.ReadAll(io.LimitReader(blob, maxConfig))
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(raw); got != manifest.Config.Digest {
		return nil, fail.New(fail.Unavailable, "configuration %s has the digest %s", manifest.Config.Digest, got)
	}
	var config oci.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		return nil, fail.New(fail.Unavailable, "configuration %s is not JSON: %w", manifest.Config.Digest, err)
	}
	if config.OS != "" {
		out = append(out, config.Platform)
	}
	return out, nil
}
