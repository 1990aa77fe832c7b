package server

import (
	"cmp"
	"io"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"berth/fail"
	"berth/images"
	"berth/oci"
)

// createImage pulls an image, or imports one from a tar in the body.
func createImage(w *writer, r *request) error {
	platform, err := parsePlatform(r.query("platform"))
	if err != nil {
		return err
	}
	if r.query("fromImage") != "" {
		return pullImage(w, r, platform)
	}
	return importImage(w, r, platform)
}

func pullImage(w *writer, r *request, platform *oci.Platform) error {
	ref, all, err := pullReference(r.query("fromImage"), r.query("tag"))
	if err != nil {
		return err
	}
	auth, err := r.auth()
	if err != nil {
		return err
	}
	stream := &progressStream{w: w}
	refs := []reference.Named{ref}
	if all {
		if refs, err = allTags(r, ref); err != nil {
			return err
		}
	}
	for _, one := range refs {
		if _, err = r.s.Images.Pull(r.Context(), one, platform, auth, stream.step); err != nil {
			break
		}
	}
	return stream.end(err)
}

// pullReference joins fromImage with tag, which may be a digest. Neither a tag nor a
// digest means all tags.
func pullReference(image, tag string) (ref reference.Named, all bool, err error) {
	ref, err = reference.ParseNormalizedNamed(strings.TrimSuffix(image, ":"))
	if err != nil {
		return nil, false, fail.New(fail.Invalid, "invalid reference %q: %w", image, err)
	}
	switch {
	case tag == "":
	case strings.Contains(tag, ":"):
		d, err := digest.Parse(tag)
		if err != nil {
			return nil, false, fail.New(fail.Invalid, "invalid digest %q: %w", tag, err)
		}
		if ref, err = reference.WithDigest(reference.TrimNamed(ref), d); err != nil {
			return nil, false, fail.Mark(fail.Invalid, err)
		}
	default:
		if ref, err = reference.WithTag(reference.TrimNamed(ref), tag); err != nil {
			return nil, false, fail.New(fail.Invalid, "invalid tag %q: %w", tag, err)
		}
	}
	return ref, reference.IsNameOnly(ref), nil
}

func allTags(r *request, name reference.Named) ([]reference.Named, error) {
	auth, err := r.auth()
	if err != nil {
		return nil, err
	}
	tags, err := r.s.Registry.Repository(name, auth).Tags(r.Context())
	if err != nil {
		return nil, err
	}
	var out []reference.Named
	for _, t := range tags {
		ref, err := reference.WithTag(name, t)
		if err != nil {
			return nil, fail.New(fail.Unavailable, "registry lists the tag %q, which is none", t)
		}
		out = append(out, ref)
	}
	if len(out) == 0 {
		return nil, fail.New(fail.NotFound, "%s has no tags", reference.FamiliarName(name))
	}
	return out, nil
}

func importImage(w *writer, r *request, platform *oci.Platform) error {
	src := r.query("fromSrc")
	if src == "" {
		return fail.New(fail.Invalid, "one of fromImage and fromSrc is needed")
	}
	o := images.ImportOptions{Message: r.query("message"), Changes: r.list("changes"), Platform: platform}
	if repo := r.query("repo"); repo != "" {
		ref, err := taggedName(repo, r.query("tag"))
		if err != nil {
			return err
		}
		o.Ref = ref
	}
	if err := w.readWhileWriting(); err != nil {
		return err
	}
	stream := &progressStream{w: w}
	body := io.Reader(r.Body)
	if src != "-" {
		if !strings.Contains(src, "://") {
			src = "http://" + src
		}
		answer, err := images.OpenURL(r.Context(), src)
		if err != nil {
			return err
		}
		defer answer.Close()
		body = answer
		o.Message = cmp.Or(o.Message, "Imported from "+src)
		stream.send(progressMessage{Status: "Downloading from " + src})
	}
	id, err := r.s.Images.Import(r.Context(), body, o)
	if err == nil {
		stream.send(progressMessage{Status: id.String()})
	}
	return stream.end(err)
}

func pushImage(w *writer, r *request) error {
	auth, err := r.auth()
	if err != nil {
		return err
	}
	var o images.PushOptions
	if o.Platform, err = parsePlatform(r.query("platform")); err != nil {
		return err
	}
	// Berth's own, a header because Docker's client library has no way to add to a query.
	if o.Compression, err = images.ParseCompression(r.Header.Get("X-Berth-Push-Compression")); err != nil {
		return err
	}
	name, err := reference.ParseNormalizedNamed(r.path["name"])
	if err != nil {
		return fail.New(fail.Invalid, "invalid reference %q: %w", r.path["name"], err)
	}
	if tag := r.query("tag"); tag != "" {
		if name, err = reference.WithTag(reference.TrimNamed(name), tag); err != nil {
			return fail.New(fail.Invalid, "invalid tag %q: %w", tag, err)
		}
	}
	refs := []reference.Named{name}
	if reference.IsNameOnly(name) {
		if refs, err = localTags(r.s.Images, name); err != nil {
			return err
		}
	}
	stream := &progressStream{w: w}
	for _, ref := range refs {
		if err = r.s.Images.Push(r.Context(), ref, o, auth, stream.step); err != nil {
			break
		}
	}
	return stream.end(err)
}

// localTags are all tags of a repository that are here.
func localTags(store Images, name reference.Named) ([]reference.Named, error) {
	all, err := store.List()
	if err != nil {
		return nil, err
	}
	var out []reference.Named
	for _, img := range all {
		for _, t := range img.RepoTags {
			if ref, err := reference.ParseNormalizedNamed(t); err == nil && ref.Name() == name.Name() {
				out = append(out, ref)
			}
		}
	}
	if len(out) == 0 {
		return nil, fail.New(fail.NotFound, "An image does not exist locally with the tag: %s", reference.FamiliarName(name))
	}
	slices.SortFunc(out, func(a, b reference.Named) int { return strings.Compare(a.String(), b.String()) })
	return out, nil
}

func saveImage(w *writer, r *request) error { return r.s.save(w, r, []string{r.path["name"]}) }

func saveImages(w *writer, r *request) error { return r.s.save(w, r, r.list("names")) }

func (s *Server) save(w *writer, r *request, names []string) error {
	if len(names) == 0 {
		return fail.New(fail.Invalid, "no image names given")
	}
	platforms, err := r.platforms("platform")
	if err != nil {
		return err
	}
	o := images.SaveOptions{Platforms: platforms}
	if err := s.Images.CanSave(names, o); err != nil {
		return err // while there still is a status to say it with
	}
	w.Header().Set("Content-Type", "application/x-tar")
	return s.Images.Save(r.Context(), names, o, w)
}

// loadImages takes in an archive and names what was in it.
func loadImages(w *writer, r *request) error {
	platforms, err := r.platforms("platform")
	if err != nil {
		return err
	}
	if err := w.readWhileWriting(); err != nil {
		return err
	}
	stream := &progressStream{w: w}
	var report images.Progress
	if !r.booleanOr("quiet", true) {
		report = stream.step
	}
	names, err := r.s.Images.Load(r.Context(), r.Body, images.LoadOptions{Platforms: platforms}, report)
	for _, n := range names {
		what := "Loaded image: "
		if _, parseErr := digest.Parse(n); parseErr == nil {
			what = "Loaded image ID: "
		}
		stream.send(progressMessage{Stream: what + n + "\n"})
	}
	return stream.end(err)
}
