package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
	"berth/kernel"
	"berth/oci"
)

// maxDifferences is how many differences of one layer are told.
const maxDifferences = 10

// Checked is a layer of the store that was compared with what its tar unpacks to. It is
// ended by Repair or Close.
type Checked struct {
	Problems []string // what differs, a sentence each, at most some; none: the layer is whole

	fresh *Staged
	chain oci.Digest
	meta  meta
}

// Check unpacks tar, whose diff ID and parent are given, once more beside the layer and
// compares the two, files' contents included. It takes the space of one layer meanwhile.
// A tar that is not diffID is class Invalid; then nothing is known of the layer.
func (s *Store) Check(ctx context.Context, parent, diffID oci.Digest, tar io.Reader) (*Checked, error) {
	c := &Checked{chain: oci.NextChainID(parent, diffID)}
	var err error
	if c.fresh, err = s.Stage(ctx); err != nil {
		return nil, err
	}
	if err := c.compare(ctx, parent, diffID, tar); err != nil {
		return nil, errors.Join(fmt.Errorf("check layer %s: %w", c.chain, err), c.fresh.Discard())
	}
	return c, nil
}

func (c *Checked) compare(ctx context.Context, parent, diffID oci.Digest, tar io.Reader) error {
	s := c.fresh.store
	got, _, err := c.fresh.apply(ctx, tar)
	if err != nil {
		return err
	}
	if got != diffID {
		return fail.New(fail.Invalid, "its tar is %s, not %s", got, diffID)
	}
	ancestors, err := s.stack(parent)
	if err != nil {
		return err
	}
	if err := c.fresh.complete(ancestors); err != nil {
		return err
	}
	c.meta = c.fresh.meta(parent)
	if !s.Has(c.chain) {
		c.Problems = []string{"it is missing"}
		return nil
	}
	switch is, err := s.readMeta(c.chain); {
	case err != nil:
		c.Problems = append(c.Problems, "its description is damaged: "+err.Error())
	case is != c.meta && (is != c.meta.withRoot(is.Root)):
		c.Problems = append(c.Problems, "its description does not fit its tar")
	}
	dir, err := s.dir(c.chain)
	if err != nil {
		return err
	}
	want, err := openBeneath(filepath.Join(c.fresh.dir, "diff"), "")
	if err != nil {
		return err
	}
	defer unix.Close(want)
	have, err := openBeneath(filepath.Join(dir, "diff"), "")
	if err != nil {
		c.Problems = append(c.Problems, "its files cannot be opened: "+err.Error())
		return nil
	}
	defer unix.Close(have)
	d := &treeComparison{ctx: ctx, marks: s.marks, undated: c.fresh.undated, tell: c.tell, links: map[[2]uint64][2]uint64{}}
	err = d.root(want, have)
	if err == errEnough {
		c.Problems = append(c.Problems, "and more")
		err = nil
	}
	return err
}

// withRoot is m as it was written before that field existed.
func (m meta) withRoot(root bool) meta { m.Root = root; return m }

var errEnough = errors.New("enough differences")

func (c *Checked) tell(path, problem string) error {
	if len(c.Problems) >= maxDifferences {
		return errEnough
	}
	c.Problems = append(c.Problems, fmt.Sprintf("/%s %s", path, problem))
	return nil
}

// Close ends the check without a repair.
func (c *Checked) Close() error { return c.fresh.Discard() }

// Repair puts what the tar unpacked to in the place of the layer, in one step. Mounts of
// the layer keep showing the old files, which are deleted: there must be none.
func (c *Checked) Repair() error {
	s := c.fresh.store
	if !s.Has(c.chain) {
		if err := c.fresh.flush(); err != nil {
			return err
		}
		_, err := c.fresh.Commit(c.meta.Parent, c.meta.DiffID)
		return err
	}
	dir, err := s.dir(c.chain)
	if err != nil {
		return err
	}
	if err := durable.WriteJSON(filepath.Join(c.fresh.dir, "meta.json"), c.meta, 0o600); err != nil {
		return fmt.Errorf("repair layer %s: %w", c.chain, err)
	}
	if err := c.fresh.flush(); err != nil {
		return fmt.Errorf("repair layer %s: %w", c.chain, err)
	}
	durable.Failpoint("layer.repair.staged")
	if err := unix.Renameat2(unix.AT_FDCWD, c.fresh.dir, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("repair layer %s: %w", c.chain, err)
	}
	durable.Failpoint("layer.repair.exchanged")
	s.mu.Lock()
	delete(s.metas, c.chain)
	s.mu.Unlock()
	if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
		return fmt.Errorf("repair layer %s: %w", c.chain, err)
	}
	return c.fresh.Discard() // the damaged one, by now
}

// treeComparison compares two directory trees, file by file.
type treeComparison struct {
	ctx     context.Context
	marks   marks
	undated map[string]bool // directories whose times mean nothing
	tell    func(path, problem string) error
	links   map[[2]uint64][2]uint64 // inodes with several links, and what they are in the other tree
}

func (t *treeComparison) root(want, have int) error {
	w, h := upperFile{path: "", name: "."}, upperFile{path: "", name: "."}
	w.fd, h.fd = want, have
	if err := errors.Join(unix.Fstat(want, &w.stat), unix.Fstat(have, &h.stat)); err != nil {
		return err
	}
	if err := t.attributes(&w, &h); err != nil {
		return err
	}
	return t.dir(want, have, "")
}

func (t *treeComparison) dir(want, have int, path string) error {
	wanted, err := readNames(want)
	if err != nil {
		return err
	}
	found, err := readNames(have)
	if err != nil {
		return t.tell(path, "cannot be read: "+err.Error())
	}
	extra := make(map[string]bool, len(found))
	for _, n := range found {
		extra[n] = true
	}
	slices.Sort(wanted)
	for _, n := range wanted {
		if t.ctx.Err() != nil {
			return context.Cause(t.ctx)
		}
		delete(extra, n)
		if err := t.entry(want, have, n, join(path, n)); err != nil {
			return err
		}
	}
	for _, n := range found {
		if extra[n] {
			if err := t.tell(join(path, n), "does not belong to it"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *treeComparison) entry(want, have int, name, path string) error {
	w, h := upperFile{path: path, name: name}, upperFile{path: path, name: name}
	if err := w.open(want); err != nil {
		return err
	}
	defer unix.Close(w.fd)
	if err := h.open(have); err == unix.ENOENT {
		return t.tell(path, "is missing")
	} else if err != nil {
		return t.tell(path, "cannot be opened: "+err.Error())
	}
	defer unix.Close(h.fd)
	if w.stat.Mode&unix.S_IFMT != h.stat.Mode&unix.S_IFMT {
		return t.tell(path, "is of another type")
	}
	if err := t.attributes(&w, &h); err != nil || !w.isDir() {
		return err
	}
	sub, err := kernel.OpenAt(w.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(sub)
	other, err := kernel.OpenAt(h.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return t.tell(path, "cannot be read: "+err.Error())
	}
	defer unix.Close(other)
	return t.dir(sub, other, path)
}

// attributes tells the first thing in which two files of one type differ, content
// included.
func (t *treeComparison) attributes(w, h *upperFile) error {
	a, b := &w.stat, &h.stat
	_, isMark := t.marks.hides(w.name, a) // marks have no dates either
	switch {
	case a.Mode != b.Mode:
		return t.tell(w.path, fmt.Sprintf("has the mode %04o, not %04o", b.Mode&0o7777, a.Mode&0o7777))
	case a.Uid != b.Uid || a.Gid != b.Gid:
		return t.tell(w.path, fmt.Sprintf("has the owner %d:%d, not %d:%d", b.Uid, b.Gid, a.Uid, a.Gid))
	case a.Rdev != b.Rdev:
		return t.tell(w.path, "is another device")
	case !w.isDir() && a.Size != b.Size:
		return t.tell(w.path, fmt.Sprintf("has %d bytes, not %d", b.Size, a.Size))
	case !w.isDir() && !t.linkedAlike(a, b):
		return t.tell(w.path, "has other hard links")
	case a.Mtim != b.Mtim && !t.undated[w.path] && !isMark:
		return t.tell(w.path, "has another modification time")
	}
	same, err := sameContent(t.ctx, noMarks{}, w, h)
	switch {
	case t.ctx.Err() != nil:
		return context.Cause(t.ctx)
	case err != nil:
		return t.tell(w.path, "cannot be read: "+err.Error())
	case !same:
		return t.tell(w.path, "has another content or other attributes")
	}
	return nil
}

func (t *treeComparison) linkedAlike(a, b *unix.Stat_t) bool {
	if a.Nlink != b.Nlink {
		return false
	}
	if a.Nlink == 1 {
		return true
	}
	in, out := [2]uint64{a.Dev, a.Ino}, [2]uint64{b.Dev, b.Ino}
	before, ok := t.links[in]
	t.links[in] = out
	return !ok || before == out
}

// readMeta is meta from the disk.
func (s *Store) readMeta(chain oci.Digest) (m meta, err error) {
	dir, err := s.dir(chain)
	if err != nil {
		return m, err
	}
	err = durable.ReadJSON(filepath.Join(dir, "meta.json"), &m)
	if errors.Is(err, os.ErrNotExist) {
		err = errors.New("meta.json is missing")
	}
	return m, err
}
