package layer

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/oci"
)

// DiffWithout is Diff without what mounting on targets (absolute paths in the container)
// left in the writable layer (NotFound: there is none): an empty file or directory for each that the layers below
// do not have, and the directories above if nothing else happened in them.
func (s *Store) DiffWithout(ctx context.Context, chains []oci.Digest, dir string, targets []string, w io.Writer) error {
	topFirst := slices.Clone(chains)
	slices.Reverse(topFirst)
	lowers, err := s.lowers(topFirst)
	if err != nil { // NotFound shall say that there is no writable layer
		return fail.Mark(fail.Internal, err)
	}
	return s.writeTar(ctx, "diff", w, func(d *differ) error {
		t := newTargets(s, lowers, targets, d.file)
		return s.walkWritable(ctx, chains, dir, t.file)
	})
}

// targets stands between a walk and its visitor.
type targets struct {
	store  *Store
	lowers []string
	at     map[string]bool // the targets, relative to the root
	above  map[string]bool
	held   []*upperFile // directories whose visit waits for a reason, each in the one before
	visit  func(*upperFile) error
}

func newTargets(s *Store, lowers, paths []string, visit func(*upperFile) error) *targets {
	t := &targets{store: s, lowers: lowers, at: map[string]bool{}, above: map[string]bool{}, visit: visit}
	for _, p := range paths {
		p = strings.TrimPrefix(path.Clean(p), "/")
		t.at[p] = true
		for up := path.Dir(p); up != "."; up = path.Dir(up) {
			t.above[up] = true
		}
	}
	return t
}

// file visits f, after the directories that it is the reason to visit, or holds it back.
// Walks keep a directory's descriptor open until all in it has been visited.
func (t *targets) file(f *upperFile) error {
	for n := len(t.held); n > 0 && !strings.HasPrefix(f.path, t.held[n-1].path+"/"); n-- {
		t.held = t.held[:n-1]
	}
	made, err := t.made(f)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", f.path, err)
	case made && f.isDir():
		t.held = append(t.held, f)
		return nil
	case made:
		return nil
	}
	held := t.held
	t.held = nil
	for _, d := range held {
		if err := t.visit(d); err != nil {
			return err
		}
	}
	return t.visit(f)
}

// made reports whether f looks as mounting on a target makes it.
func (t *targets) made(f *upperFile) (bool, error) {
	if f.whiteout || f.opaque || !t.at[f.path] && !t.above[f.path] {
		return false, nil
	}
	below, known, err := t.store.lookup(t.lowers, f.path)
	if err != nil {
		return false, err
	}
	if known {
		defer unix.Close(below.fd)
	}
	st := &f.stat
	switch {
	case f.isDir() && known: // its time is that of the making of the target
		was := &below.stat
		return st.Mode == was.Mode && st.Uid == was.Uid && st.Gid == was.Gid, nil
	case f.isDir():
		return st.Mode&0o7777 == 0o755 && st.Uid == 0 && st.Gid == 0, nil
	}
	return t.at[f.path] && !known && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0, nil
}
