package layer

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/oci"
)

// ChangeKind says what became of a path. The numbers are the Docker Engine API's.
type ChangeKind uint8

const (
	Modified ChangeKind = iota
	Added
	Deleted
)

// Change is one path that a writable layer changes.
type Change struct {
	Path string // absolute, as in the container
	Kind ChangeKind
}

// Changes lists what the writable layer in dir changes of the stack chains (lowest
// first, as given to Rootfs), sorted by path. The directories that lead to a change
// count as modified. What mounting on targets leaves is left out, as by DiffWithout.
func (s *Store) Changes(ctx context.Context, chains []oci.Digest, dir string, targets []string) ([]Change, error) {
	topFirst := slices.Clone(chains)
	slices.Reverse(topFirst)
	lowers, err := s.lowers(topFirst)
	if err != nil {
		return nil, err
	}
	kinds := map[string]ChangeKind{}
	tell := s.overlayChange(lowers, kinds)
	if s.driver == copyDriver {
		tell = func(f *upperFile) error {
			kinds["/"+f.path] = changeOf(f)
			return nil
		}
	}
	err = s.walkWritable(ctx, chains, dir, newTargets(s, lowers, targets, tell).file)
	if err != nil {
		return nil, fmt.Errorf("changes: %w", err)
	}
	changes := make([]Change, 0, len(kinds))
	for p := range kinds {
		for up := path.Dir(p); up != "/"; up = path.Dir(up) {
			if _, ok := kinds[up]; ok {
				break
			}
			kinds[up] = Modified
		}
	}
	for p, k := range kinds {
		changes = append(changes, Change{p, k})
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return changes, nil
}

// changeOf is the change that a visit of a prepared root tells of.
func changeOf(f *upperFile) ChangeKind {
	switch {
	case f.whiteout:
		return Deleted
	case f.replaces:
		return Modified
	}
	return Added
}

// overlayChange notes in kinds what becomes of each file of an upper directory.
func (s *Store) overlayChange(lowers []string, kinds map[string]ChangeKind) func(*upperFile) error {
	fresh := map[string]bool{} // directories that hide what lower layers have
	return func(f *upperFile) (err error) {
		parent := path.Dir("/" + f.path)
		below, known := found{}, false
		if !fresh[parent] {
			if below, known, err = s.lookup(lowers, f.path); err != nil {
				return fmt.Errorf("%s: %w", f.path, err)
			}
		}
		if known {
			defer unix.Close(below.fd)
		}
		if f.isDir() && (fresh[parent] || !known || f.opaque) {
			fresh["/"+f.path] = true
		}
		switch {
		case f.whiteout:
			if known {
				kinds["/"+f.path] = Deleted
			}
		case !known:
			kinds["/"+f.path] = Added
		case !f.isDir() || !sameDir(&f.stat, &below.stat) || fresh["/"+f.path]:
			kinds["/"+f.path] = Modified
		}
		return nil
	}
}

// sameDir reports whether a directory of the writable layer is there only because of
// what is in it.
func sameDir(a, b *unix.Stat_t) bool {
	return a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid && a.Mtim == b.Mtim
}
