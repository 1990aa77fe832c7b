package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"berth/archive"
	"berth/fail"
	"berth/images"
	"berth/oci"
	"berth/runtime"
	"berth/supervisor"
)

// Files are a container's files with all that is mounted among them, lent until Close: those
// that its processes see if it runs, else the root and the binds of a start. All paths are
// resolved within their root, by descriptors; nothing of the container is executed.
//
// Those of a container that does not run keep its turn: whoever starts or removes it waits, but
// not for a client that stands still; see copying.
// Those of a running one are taken back when it is started anew or removed: no writable layer
// is ever mounted twice. Interrupted tells that, and the methods fail then.
type Files struct {
	root *os.File
	c    Container
	ann  announcer
	ctx  context.Context // ends when they are taken back
	pace *copying        // nil for files of a run

	close func()
}

// Interrupted is closed when the files are taken back.
func (f *Files) Interrupted() <-chan struct{} { return f.ctx.Done() }

// Close gives the files back.
func (f *Files) Close() { f.close() }

// errTakenBack ends what was under way with the files of a run.
var errTakenBack = fail.New(fail.Conflict, "the container was started anew or removed meanwhile")

// Files lends a container's files.
func (c *Containers) Files(ctx context.Context, ref string) (f *Files, err error) {
	err = c.with(ref, func(i *instance) error { f, err = c.life.files(ctx, i); return err })
	return f, err
}

func (l *lifecycle) files(ctx context.Context, i *instance) (*Files, error) {
	for {
		r, c, err := i.live()
		if err == nil {
			f, err := l.filesOfRun(ctx, i, r, c)
			if f != nil || err != nil {
				return f, err
			}
		} else if c.State.Running() && c.State.Status != restarting {
			return nil, err
		}
		f, err := l.filesAtRest(ctx, i)
		if f != nil || err != nil {
			return f, err
		}
	}
}

// filesOfRun borrows the root from the shim; nil if the run has ended meanwhile.
func (l *lifecycle) filesOfRun(ctx context.Context, i *instance, r *run, c Container) (*Files, error) {
	// First the note, then the loan: a start that finds no note has to be later than this run's
	// end, which is seen below.
	giveBack, lost := i.lend()
	f := &Files{c: c, ann: l.ann, ctx: lost}
	f.close = sync.OnceFunc(func() {
		if f.root != nil {
			f.root.Close()
		}
		giveBack()
	})
	asking, done := f.until(ctx)
	defer done()
	var err error
	f.root, err = r.shim.Root(asking)
	i.mu.Lock()
	over := i.run != r
	i.mu.Unlock()
	if err != nil || over {
		f.close()
	}
	switch {
	case over || fail.Is(err, fail.NotFound):
		return nil, ctx.Err()
	case err != nil:
		return nil, err
	}
	return f, nil
}

// loan is what somebody holds of a run's files.
type loan struct {
	recall context.CancelCauseFunc
	back   chan struct{} // closed when it is given back
}

// lending are the files of a run that somebody holds.
type lending struct {
	mu  sync.Mutex
	all map[*loan]struct{}
}

// lend notes that somebody holds files of a run. lost ends when they are wanted back.
func (i *instance) lend() (giveBack func(), lost context.Context) {
	ctx, cancel := context.WithCancelCause(context.Background())
	o := &loan{cancel, make(chan struct{})}
	i.lent.mu.Lock()
	defer i.lent.mu.Unlock()
	if i.lent.all == nil {
		i.lent.all = map[*loan]struct{}{}
	}
	i.lent.all[o] = struct{}{}
	return func() {
		i.lent.mu.Lock()
		delete(i.lent.all, o)
		i.lent.mu.Unlock()
		cancel(nil)
		close(o.back)
	}, ctx
}

// recallPatience bounds how long a copy may take to end; one may hang in a file system that
// does not answer.
const recallPatience = 15 * time.Second

// takeBack ends the use of all files of earlier runs.
func (n *lending) takeBack(ctx context.Context) error {
	n.mu.Lock()
	all := slices.Collect(maps.Keys(n.all))
	n.mu.Unlock()
	for _, o := range all {
		o.recall(errTakenBack)
	}
	t := time.NewTimer(recallPatience)
	defer t.Stop()
	for _, o := range all {
		select {
		case <-o.back:
		case <-t.C:
			return fail.New(fail.Unavailable, "a copy of its files during the previous run does not end: try again later")
		case <-ctx.Done():
			return errClosed
		}
	}
	return nil
}

// filesAtRest mounts the files of a container that does not run; nil if it runs meanwhile.
func (l *lifecycle) filesAtRest(ctx context.Context, i *instance) (_ *Files, err error) {
	var back undo
	defer func() {
		if err != nil {
			back.run()
		}
	}()
	giveBack, err := l.takeFiles(ctx, i)
	if err != nil {
		return nil, err
	}
	back.add(giveBack)
	c := i.now()
	if c.State.Running() && c.State.Status != restarting {
		giveBack()
		return nil, nil
	}
	if err := l.previousRunGone(i); err != nil {
		return nil, err
	}
	back.add(func() { l.unmountVolumes(c) })
	if err := l.mountVolumes(ctx, c); err != nil {
		return nil, err
	}
	what, err := l.describeFiles(ctx, i, c)
	if err != nil {
		return nil, err
	}
	root, err := supervisor.OpenFiles(ctx, what)
	if err != nil {
		return nil, asInternal(fmt.Errorf("mount the files of container %s: %w", c.ID, err))
	}
	back.add(func() { root.Close() })
	pace := i.copies()
	back.add(pace.over)
	return &Files{root: root, c: c, ann: l.ann, ctx: pace.ctx, pace: pace, close: sync.OnceFunc(back.run)}, nil
}

// describeFiles collects what a start would mount of what is there already.
func (l *lifecycle) describeFiles(ctx context.Context, i *instance, c Container) (f supervisor.Files, err error) {
	netFiles, _, err := l.boxes.leader(c, i.dir)
	if err != nil && !fail.Is(err, fail.NotFound) {
		return f, err
	}
	if f.Root, err = l.images.Rootfs(ctx, c.Image, i.dir); err != nil {
		return f, fmt.Errorf("root file system of container %s: %w", c.ID, asInternal(err))
	}
	f.Root.Volatile = c.HostConfig.AutoRemove
	f.ReadOnly, f.User, f.Groups = c.HostConfig.ReadonlyRootfs, c.Config.User, c.HostConfig.GroupAdd
	all, _, err := l.spec.mounts(ctx, c, surroundings{netFiles: netFiles})
	if err != nil {
		return f, err
	}
	own := c.plan.at
	for _, m := range all {
		if m.Type != "bind" {
			continue
		}
		if own(m.Destination) < 0 { // hosts and its like, once a start has made them
			if filepath.Dir(m.Source) != netFiles {
				continue
			}
			if _, err := os.Lstat(m.Source); errors.Is(err, fs.ErrNotExist) {
				continue
			}
		}
		f.Mounts = append(f.Mounts, m)
	}
	f.Sources, err = c.plan.sources(c, l.labels, func(image oci.Digest) ([]string, error) {
		root, err := l.images.Rootfs(ctx, image, "")
		return root.Lower, asInternal(err)
	})
	return f, err
}

// PathStat is what is told of a file.
type PathStat struct {
	Name       string
	Size       int64
	Mode       fs.FileMode
	ModTime    time.Time
	LinkTarget string // of a symbolic link: where it leads to within the container
}

// Stat looks at a path. A symbolic link at its end is followed only before a slash. What is
// not there is NotFound.
func (f *Files) Stat(path string) (PathStat, error) {
	at, st, err := f.open(path)
	if err != nil {
		return PathStat{}, err
	}
	at.Close()
	return st, nil
}

func (f *Files) open(path string) (*os.File, PathStat, error) {
	if path == "" {
		return nil, PathStat{}, fail.New(fail.Invalid, "bad parameter: path cannot be empty")
	}
	at, name, err := archive.Open(f.root, path)
	if err != nil {
		return nil, PathStat{}, f.explain(path, err)
	}
	info, err := at.Stat()
	if err != nil {
		at.Close()
		return nil, PathStat{}, f.explain(path, err)
	}
	st := PathStat{Name: name, Size: info.Size(), Mode: info.Mode(), ModTime: info.ModTime()}
	if st.Mode&fs.ModeSymlink != 0 {
		if st.LinkTarget, err = archive.Target(f.root, path); err != nil {
			at.Close()
			return nil, PathStat{}, f.explain(path, err)
		}
	}
	return at, st, nil
}

// explain words a path that cannot be resolved.
func (f *Files) explain(path string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH):
		return fail.New(fail.NotFound, "Could not find the file %s in container %s", path, f.c.Name)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EINVAL):
		return fail.New(fail.Invalid, "%s in container %s: %w", path, f.c.Name, bare(err))
	}
	return fail.New(fail.Of(err), "%s in container %s: %w", path, f.c.Name, bare(err))
}

// Archive writes the file at path and what is below it as a tar. begin is called when nothing is
// in the way any more, with what is told of the file.
func (f *Files) Archive(ctx context.Context, path string, begin func(PathStat) (io.Writer, error)) error {
	ctx, done := f.until(ctx)
	defer done()
	at, st, err := f.open(path)
	if err != nil {
		return err
	}
	defer at.Close()
	w, err := begin(st)
	if err != nil {
		return err
	}
	name := st.Name
	if name == "/" {
		name = ""
	}
	if err := archive.Pack(ctx, at, name, f.pace.writer(w)); err != nil {
		return err
	}
	f.ann.tell(f.c, "archive-path")
	return nil
}

// ExtractOptions change Extract.
type ExtractOptions struct {
	KeepKinds   bool // see archive.UnpackOptions
	ChangeOwner bool // to the container's user, if it has one
}

// Extract unpacks a tar, compressed or not, into a directory that is there. What is read-only is Forbidden.
func (f *Files) Extract(ctx context.Context, path string, tar io.Reader, o ExtractOptions) error {
	ctx, done := f.until(ctx)
	defer done()
	if path == "" {
		return fail.New(fail.Invalid, "bad parameter: path cannot be empty")
	}
	dir, err := archive.Target(f.root, path)
	if err != nil {
		return f.explain(path, err)
	}
	at, err := archive.OpenDir(f.root, dir)
	if errors.Is(err, unix.ENOTDIR) {
		return fail.New(fail.Invalid, "extraction point is not a directory")
	}
	if err != nil {
		return f.explain(path, err)
	}
	defer at.Close()
	if err := f.writable(at); err != nil {
		return err
	}
	opt := archive.UnpackOptions{KeepKinds: o.KeepKinds}
	if o.ChangeOwner && f.c.Config.User != "" {
		u, _, err := runtime.ResolveUser(f.root, f.c.Config.User, nil)
		if err != nil {
			return err
		}
		opt.Owner = &archive.Owner{UID: u.UID, GID: u.GID}
	}
	plain, err := images.Decompress(f.pace.reader(tar))
	if err != nil {
		return err
	}
	defer plain.Close()
	if err := archive.Unpack(ctx, f.root, dir, plain, opt); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("unpack into %s: %w", path, err)
	}
	f.ann.tell(f.c, "extract-to-dir")
	return nil
}

// writable refuses a directory on a mount that is read-only.
func (f *Files) writable(dir *os.File) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return err
	}
	if st.Flags&unix.ST_RDONLY == 0 {
		return nil
	}
	mount := func(f *os.File) uint64 {
		var st unix.Statx_t
		if unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st) != nil {
			return 0
		}
		return st.Mnt_id
	}
	if mount(dir) == mount(f.root) {
		return fail.New(fail.Forbidden, "container rootfs is marked read-only")
	}
	return fail.New(fail.Forbidden, "mounted volume is marked read-only")
}

// until is ctx that also ends when the files are taken back.
func (f *Files) until(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(f.ctx, func() { cancel(context.Cause(f.ctx)) })
	return ctx, func() { stop(); cancel(nil) }
}
