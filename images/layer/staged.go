package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"berth/archive"
	"berth/durable"
	"berth/fail"
	"berth/oci"
)

// Staged is a layer that is unpacked but not yet in the store. It is used by one
// goroutine at a time, and ended by Commit or Discard.
type Staged struct {
	store *Store
	dir   string // "" when ended

	applied    bool
	diffID     oci.Digest
	size       int64
	opaqueRoot bool
	rootEntry  bool
	implicit   []string        // directories that Commit completes from the parent
	undated    map[string]bool // directories that the tar only implied: no two unpackings date them alike
}

// Stage begins a layer in a private directory. Layers of one image may be staged at
// the same time, before their parents are in the store.
func (s *Store) Stage(ctx context.Context) (*Staged, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if s.spaceIsShort() {
		if err := s.grave.settle(ctx); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp(filepath.Join(s.root, "staging"), "")
	if err != nil {
		return nil, fmt.Errorf("stage layer: %w", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "diff"), 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("stage layer: %w", err), os.RemoveAll(dir))
	}
	return &Staged{store: s, dir: dir}, nil
}

// Apply unpacks an uncompressed layer tar into the staging directory. Entries never
// reach outside it, whatever their names and links say; an attempt is class Invalid.
// It returns the digest of the tar (the diff ID) and the sum of the file sizes.
//
// The tar is read to its end. Apply ends early with ctx, but not before a Read of tar
// that is under way returns: the reader should heed ctx too. A Staged takes one Apply.
func (st *Staged) Apply(ctx context.Context, tar io.Reader) (diffID oci.Digest, size int64, err error) {
	if diffID, size, err = st.apply(ctx, tar); err != nil {
		return "", 0, err
	}
	// One flush of the file system instead of one per file. Other layers' data goes with
	// it; that has to be flushed anyway.
	if err := st.flush(); err != nil {
		return "", 0, err
	}
	return diffID, size, nil
}

func (st *Staged) flush() error {
	fd, err := unix.Open(st.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("flush layer: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		return fmt.Errorf("flush layer: %w", err)
	}
	return nil
}

// apply is Apply without making anything durable.
func (st *Staged) apply(ctx context.Context, tar io.Reader) (diffID oci.Digest, size int64, err error) {
	if st.dir == "" || st.applied {
		return "", 0, fail.New(fail.Conflict, "the staged layer is used up")
	}
	st.applied = true
	root, err := os.OpenFile(filepath.Join(st.dir, "diff"), unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", 0, fmt.Errorf("unpack layer: %w", err)
	}
	defer root.Close()
	in := newStream(ctx, tar)
	defer in.close()
	if err := st.unpack(in, int(root.Fd())); err != nil {
		return "", 0, err
	}
	if diffID, err = in.finish(); err != nil {
		return "", 0, fmt.Errorf("read layer: %w", err)
	}
	st.diffID = diffID
	return diffID, st.size, nil
}

func (st *Staged) unpack(in *stream, rootfd int) error {
	born, err := prepareRoot(rootfd, st.store.umask)
	if err != nil {
		return fmt.Errorf("unpack layer: %w", err)
	}
	u := &unpacker{tree: newTree(rootfd), ctx: in.ctx, makers: startMakers(born), born: born, marks: st.store.marks}
	u.root.UID, u.root.GID = born.UID, born.GID
	defer u.closeAll()
	defer u.makers.stop()
	if err := u.entries(in); err != nil {
		return err
	}
	if st.implicit, st.undated, err = u.finish(); err != nil {
		return err
	}
	st.size, st.opaqueRoot, st.rootEntry = u.size, u.root.opaque, !u.root.implicit
	return nil
}

// prepareRoot learns how files come into being in the staging directory. A default ACL
// that the directory got from above would change that, and goes.
func prepareRoot(rootfd int, umask uint32) (archive.Creation, error) {
	err := unix.Fremovexattr(rootfd, "system.posix_acl_default")
	if err != nil && err != unix.ENODATA && err != unix.ENOTSUP {
		return archive.Creation{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(rootfd, &st); err != nil {
		return archive.Creation{}, err
	}
	return archive.Creation{Umask: umask, UID: st.Uid, GID: st.Gid}, nil
}

func (u *unpacker) entries(in *stream) error {
	r := tar.NewReader(in)
	for {
		if in.ctx.Err() != nil {
			return context.Cause(in.ctx)
		}
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // paths are our business
			return in.readError(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader || h.Typeflag == volumeLabel {
			continue
		}
		if err := u.entry(h, r); err != nil {
			if in.ended() != nil || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrHeader) {
				return in.readError(err)
			}
			if errors.As(err, new(entryError)) { // of an entry before, made meanwhile
				return err
			}
			return entryError{h.Name, archive.InvalidEntry(err)}
		}
	}
}

// volumeLabel is GNU tar's entry type for the archive's own name.
const volumeLabel = 'V'

// Commit puts the layer into the store on top of parent (empty for the lowest), whose
// attributes directories take that the tar only implied. A layer that is there already
// stays, and the staged one goes. A diffID other than Apply's is class Invalid, a
// parent that is not in the store NotFound; then the staged layer is still to be discarded.
func (st *Staged) Commit(parent, diffID oci.Digest) (chain oci.Digest, err error) {
	if st.dir == "" || st.diffID == "" {
		return "", fail.New(fail.Conflict, "the staged layer is used up or was not unpacked")
	}
	if diffID != st.diffID {
		return "", fail.New(fail.Invalid, "layer does not match its diff ID %s: the content is %s", diffID, st.diffID)
	}
	chain = oci.NextChainID(parent, diffID)
	dir, err := st.store.dir(chain)
	if err != nil {
		return "", err
	}
	ancestors, err := st.store.stack(parent)
	if err != nil {
		return "", fmt.Errorf("commit layer %s: %w", chain, err)
	}
	if st.store.Has(chain) {
		return chain, st.Discard()
	}
	if err := st.complete(ancestors); err != nil {
		return "", fmt.Errorf("commit layer %s: %w", chain, err)
	}
	if err := durable.WriteJSON(filepath.Join(st.dir, "meta.json"), st.meta(parent), 0o600); err != nil {
		return "", fmt.Errorf("commit layer %s: %w", chain, err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return "", fmt.Errorf("commit layer %s: %w", chain, err)
	}
	durable.Failpoint("layer.commit.staged")
	if err := st.publish(dir); err != nil {
		if st.store.Has(chain) && !errors.Is(err, unix.EIO) { // somebody was faster
			return chain, st.Discard()
		}
		return "", fmt.Errorf("commit layer %s: %w", chain, err)
	}
	durable.Failpoint("layer.commit.published")
	st.dir = ""
	return chain, nil
}

func (st *Staged) publish(dir string) error {
	st.store.publishing.RLock()
	defer st.store.publishing.RUnlock()
	return durable.PublishDir(st.dir, dir)
}

func (st *Staged) meta(parent oci.Digest) meta {
	return meta{Version: metaVersion, Driver: st.store.driver, Parent: parent, DiffID: st.diffID, Size: st.size, OpaqueRoot: st.opaqueRoot, Root: st.rootEntry}
}

// Discard drops a layer that was not committed. After Commit it does nothing.
func (st *Staged) Discard() error {
	if st.dir == "" {
		return nil
	}
	if err := os.RemoveAll(st.dir); err != nil {
		return fmt.Errorf("discard staged layer: %w", err)
	}
	st.dir = ""
	return nil
}
