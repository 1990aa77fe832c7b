package images

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/platforms"
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
	// all are its platforms that are here, entry first.
	all []*entry
}

// find looks name up by Docker's rules: an ID in full, a reference, a prefix of an ID.
func (s *Store) find(name string) (found, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id := digest.Digest(name); id.Validate() == nil {
		if e := s.index.images[id]; e != nil {
			return found{entry: e, all: []*entry{e}}, nil
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
	full := named.String()
	if canonical, ok := named.(reference.Canonical); ok {
		full = canonical.Name() + "@" + canonical.Digest().String()
	}
	if all := s.index.all(full); len(all) > 0 {
		return found{all[0], full, all}, nil
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
	return found{entry: hit, all: []*entry{hit}}, nil
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

// GetFor is Get of the platform among those here that suits best (nil: this machine's,
// or any). If none suits, the error is class NotFound and lists those there are.
func (s *Store) GetFor(name string, platform *oci.Platform) (Image, error) {
	f, err := s.findFor(name, platform)
	if err != nil {
		return Image{}, err
	}
	return f.image()
}

// GetExact is GetFor without the platforms that would do as well, as 386 does for amd64.
func (s *Store) GetExact(name string, platform *oci.Platform) (Image, error) {
	f, err := s.findExact(name, platform)
	if err != nil {
		return Image{}, err
	}
	return f.image()
}

func (s *Store) findFor(name string, platform *oci.Platform) (found, error) {
	f, err := s.find(name)
	if err != nil || platform == nil {
		return f, err
	}
	return f.choose(name, *platform, platforms.Only(*platform))
}

func (s *Store) findExact(name string, platform *oci.Platform) (found, error) {
	f, err := s.find(name)
	if err != nil || platform == nil {
		return f, err
	}
	return f.exact(name, *platform)
}

// exact narrows f to one platform.
func (f found) exact(name string, want oci.Platform) (found, error) {
	return f.choose(name, want, platforms.OnlyStrict(want))
}

// choose narrows f to the platform that match likes best.
func (f found) choose(name string, want oci.Platform, match platforms.MatchComparer) (found, error) {
	var best *entry
	for _, e := range f.all {
		p := e.platform()
		if match.Match(p) && (best == nil || match.Less(p, best.platform())) {
			best = e
		}
	}
	if best == nil {
		return found{}, fail.New(fail.NotFound, "image with reference %s was found but its platform (%s) does not match the specified platform (%s)",
			name, f.platforms(), platforms.Format(want))
	}
	return found{best, f.ref, []*entry{best}}, nil
}

// platforms lists what is here of an image.
func (f found) platforms() string {
	var all []string
	for _, e := range f.all {
		all = append(all, platformText(e.platform()))
	}
	return strings.Join(all, ", ")
}

func platformText(p oci.Platform) string {
	if p.OS == "" {
		return "unknown"
	}
	return platforms.FormatAll(p)
}

// platform is what the image is for.
func (e *entry) platform() oci.Platform {
	if e.Platform.OS == "" { // stored before records told it
		if c, err := e.config(); err == nil {
			return c.image.Platform
		}
	}
	return e.Platform
}

// thisMachine is the platform taken when none is asked for.
var thisMachine = sync.OnceValue(func() platforms.MatchComparer { return platforms.Only(platforms.DefaultSpec()) })

// bySuitability orders the platforms of one image: what suits this machine, best first,
// then what was named last.
func bySuitability(a, b *entry) int {
	m, p, q := thisMachine(), a.platform(), b.platform()
	switch fits, others := m.Match(p), m.Match(q); {
	case fits && !others, fits && m.Less(p, q):
		return -1
	case others && !fits, others && m.Less(q, p):
		return 1
	}
	return cmp.Or(b.Tagged.Compare(a.Tagged), cmp.Compare(a.ID, b.ID))
}

// List returns all images, newest first. Of a multi-platform image it is the platform
// that suits this machine best; the others are listed by Manifests.
func (s *Store) List() ([]Image, error) {
	s.mu.Lock()
	entries := make([]*entry, 0, len(s.index.images))
	leads := map[*entry]map[string]bool{} // the references that stand for an image in lists
	for _, e := range s.index.images {
		if e.Hidden {
			continue
		}
		mine, others := map[string]bool{}, 0
		for _, ref := range append(slices.Clone(e.Names), e.Digests...) {
			if s.index.all(ref)[0] == e {
				mine[ref] = true
			} else {
				others++
			}
		}
		if len(mine) > 0 || others == 0 {
			entries, leads[e] = append(entries, e), mine
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
		img.RepoTags, img.RepoDigests = nil, nil
		for _, n := range e.Names {
			if leads[e][n] {
				img.RepoTags = append(img.RepoTags, familiar(n))
			}
		}
		for _, d := range e.Digests {
			if leads[e][d] {
				img.RepoDigests = append(img.RepoDigests, familiar(d))
			}
		}
		all = append(all, img)
	}
	slices.SortFunc(all, func(a, b Image) int {
		return cmp.Or(b.Created().Compare(a.Created()), cmp.Compare(a.ID, b.ID))
	})
	return all, nil
}
