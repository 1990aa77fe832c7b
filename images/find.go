package images

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"berth/fail"
	"berth/oci"
)

// familiar shortens a full reference as Docker shows it.
func familiar(full string) string {
	named, err := reference.ParseNormalizedNamed(full)
	if err != nil {
		return full
	}
	return reference.FamiliarString(named)
}

// cutDigest splits "name@digest".
func cutDigest(full string) (name string, d oci.Digest) {
	name, dgst, _ := strings.Cut(full, "@")
	return name, oci.Digest(dgst)
}

// repoOf is the repository of a full reference: the name without tag and digest.
func repoOf(full string) string {
	named, err := reference.ParseNormalizedNamed(full)
	if err != nil {
		return full
	}
	return named.Name()
}

// found is an image and by what it was asked for.
type found struct {
	*entry
	// ref is the full tag or digest reference that named it; empty: it was an ID.
	ref string
}

// find looks name up by Docker's rules: an ID in full, a reference, a prefix of an ID.
func (s *Store) find(name string) (found, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id := digest.Digest(name); id.Validate() == nil {
		if e := s.index.images[id]; e != nil {
			return found{entry: e}, nil
		}
		return found{}, fail.New(fail.NotFound, "No such image: %s", name)
	}
	ref, err := reference.ParseAnyReference(name)
	if err != nil {
		if strings.HasPrefix(name, "sha256:") {
			return s.findPrefix(name, name)
		}
		return found{}, fail.New(fail.Invalid, "invalid reference format: %q: %w", name, err)
	}
	named, isNamed := ref.(reference.Named)
	if !isNamed { // 64 hexadecimal digits
		return s.findPrefix(name, name)
	}
	named = reference.TagNameOnly(named)
	if canonical, ok := named.(reference.Canonical); ok {
		full := canonical.Name() + "@" + canonical.Digest().String()
		if id, ok := s.index.digests[full]; ok {
			return found{s.index.images[id], full}, nil
		}
	} else if id, ok := s.index.names[named.String()]; ok {
		return found{s.index.images[id], named.String()}, nil
	}
	return s.findPrefix(name, reference.FamiliarString(named))
}

// findPrefix looks for the one image whose ID begins so. called is what the error says.
func (s *Store) findPrefix(prefix, called string) (found, error) {
	hex := strings.TrimPrefix(prefix, "sha256:")
	var hit *entry
	if hex != "" && strings.Trim(hex, "0123456789abcdef") == "" {
		for id, e := range s.index.images {
			if e.Hidden || !strings.HasPrefix(id.Encoded(), hex) {
				continue
			}
			if hit != nil {
				return found{}, fail.New(fail.Invalid, "image ID prefix %q is ambiguous: give more of its digits", prefix)
			}
			hit = e
		}
	}
	if hit == nil {
		return found{}, fail.New(fail.NotFound, "No such image: %s", called)
	}
	return found{entry: hit}, nil
}

// Get finds an image by familiar or full reference, digest reference, ID or unique ID
// prefix (with or without "sha256:"). A missing one is class NotFound with Docker's
// text "No such image: REF"; an ambiguous prefix is Invalid. By its whole ID also an
// image is found that was removed by force under its containers.
func (s *Store) Get(name string) (Image, error) {
	f, err := s.find(name)
	if err != nil {
		return Image{}, err
	}
	return f.image()
}

// List returns all images, newest first.
func (s *Store) List() ([]Image, error) {
	s.mu.Lock()
	entries := make([]*entry, 0, len(s.index.images))
	for _, e := range s.index.images {
		if !e.Hidden {
			entries = append(entries, e)
		}
	}
	s.mu.Unlock()
	all := make([]Image, 0, len(entries))
	for _, e := range entries {
		img, err := e.image()
		if err != nil {
			// One damaged image must not hide the others.
			s.log.Warn("an image cannot be listed", "image", e.ID, "error", err)
			continue
		}
		all = append(all, img)
	}
	slices.SortFunc(all, func(a, b Image) int {
		return cmp.Or(created(b).Compare(created(a)), cmp.Compare(a.ID, b.ID))
	})
	return all, nil
}

func created(img Image) time.Time {
	if img.Config.Created == nil {
		return time.Time{}
	}
	return *img.Config.Created
}
