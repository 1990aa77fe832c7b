package blob

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/durable"
	"berth/fail"
	"berth/oci"
)

// abandonedAfter is the age at which Open gives up partial content: whoever wanted it
// would have tried again by then.
const abandonedAfter = 7 * 24 * time.Hour

const newPrefix = "new-"

// Writer takes in one blob. It is visible to others only after Commit. It is used by
// one goroutine at a time, and always ended by Close.
type Writer struct {
	store  *Store
	want   oci.Digest
	file   *os.File
	hash   hash.Hash
	alg    digest.Algorithm
	offset int64
	ended  bool
	full   bool          // a write found no space: partial content must not keep it taken
	turn   chan struct{} // ours in store.busy
}

// Ingest begins or continues taking in a blob. want is the expected digest, or empty if it
// is only known at the end. With want, a partial content that an earlier try left is
// kept: Offset tells where to go on.
//
// A digest has one writer at a time: Ingest waits for another one to end, or for ctx.
// If the blob is here, before or after the wait, the error is of class NotModified.
func (s *Store) Ingest(ctx context.Context, want oci.Digest) (*Writer, error) {
	return s.ingest(ctx, want, s.Has)
}

// Renew is Ingest for a blob that is here but damaged: Commit puts the new content in
// its place.
func (s *Store) Renew(ctx context.Context, want oci.Digest) (*Writer, error) {
	return s.ingest(ctx, want, func(oci.Digest) bool { return false })
}

func (s *Store) ingest(ctx context.Context, want oci.Digest, has func(oci.Digest) bool) (*Writer, error) {
	if want == "" {
		f, err := os.CreateTemp(s.ingestDir(), newPrefix)
		if err != nil {
			return nil, fmt.Errorf("begin blob: %w", err)
		}
		return &Writer{store: s, file: f, alg: digest.Canonical, hash: digest.Canonical.Hash()}, nil
	}
	path, err := s.ingestPath(want)
	if err != nil {
		return nil, err
	}
	turn, err := s.takeTurn(ctx, want)
	if err != nil {
		return nil, fmt.Errorf("wait for blob %s: %w", want, err)
	}
	if has(want) {
		s.endTurn(want, turn)
		return nil, fail.New(fail.NotModified, "blob %s is here already", want)
	}
	w := &Writer{store: s, want: want, alg: want.Algorithm(), hash: want.Algorithm().Hash(), turn: turn}
	if err := w.resume(path); err != nil {
		s.endTurn(want, turn)
		return nil, fmt.Errorf("begin blob %s: %w", want, err)
	}
	return w, nil
}

// resume opens the partial content and hashes what is there.
func (w *Writer) resume(path string) (err error) {
	if w.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if w.offset, err = io.Copy(w.hash, w.file); err != nil {
		w.file.Close()
	}
	return err
}

// Offset is the number of bytes taken in so far.
func (w *Writer) Offset() int64 { return w.offset }

// Write appends p.
func (w *Writer) Write(p []byte) (int, error) {
	if w.ended {
		return 0, fs.ErrClosed
	}
	n, err := w.file.Write(p)
	w.hash.Write(p[:n])
	w.offset += int64(n)
	if err != nil {
		w.full = errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
		return n, fmt.Errorf("write %s: %w", w.name(), err)
	}
	return n, nil
}

// Restart drops what was taken in so far, for a source that cannot go on at Offset.
func (w *Writer) Restart() error {
	if w.ended {
		return fs.ErrClosed
	}
	if w.offset == 0 {
		return nil
	}
	err := w.file.Truncate(0)
	if err == nil {
		_, err = w.file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("restart %s: %w", w.name(), err)
	}
	w.hash.Reset()
	w.offset = 0
	return nil
}

// Commit verifies digest and size (size < 0: not known), makes the blob durable and
// visible. A mismatch is class Invalid, and the content is dropped.
func (w *Writer) Commit(size int64) (oci.Digest, error) {
	if w.ended {
		return "", fs.ErrClosed
	}
	defer w.end()
	got := digest.NewDigest(w.alg, w.hash)
	if err := w.check(got, size); err != nil {
		return "", errors.Join(err, w.drop())
	}
	path, err := w.store.blobPath(got)
	if err != nil {
		return "", err
	}
	if w.want == "" && w.store.Has(got) {
		return got, w.drop()
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("commit blob %s: %w", got, err)
	}
	durable.Failpoint("blob.commit.verified")
	if err := w.publish(path); err != nil {
		// An fsync that failed says nothing about which bytes are on disk.
		os.Remove(w.file.Name())
		return "", fmt.Errorf("commit blob %s: %w", got, err)
	}
	durable.Failpoint("blob.commit.published")
	return got, nil
}

// publish makes the content durable, and then its name.
func (w *Writer) publish(path string) error {
	if err := errors.Join(w.file.Sync(), w.file.Close()); err != nil {
		return err
	}
	w.store.publishing.RLock()
	defer w.store.publishing.RUnlock()
	return durable.PublishDir(w.file.Name(), path)
}

// ErrWrong says that what came is not what was to come.
var ErrWrong = errors.New("does not match its digest")

func (w *Writer) check(got oci.Digest, size int64) error {
	if size >= 0 && w.offset != size {
		return fail.New(fail.Invalid, "%s %w: it has %d bytes, expected %d", w.name(), ErrWrong, w.offset, size)
	}
	if w.want != "" && got != w.want {
		return fail.New(fail.Invalid, "%s %w: the content is %s", w.name(), ErrWrong, got)
	}
	return nil
}

// Close ends an ingest that was not committed: partial content with an expected digest
// stays for a later try, other content goes. After Commit it does nothing.
func (w *Writer) Close() error {
	if w.ended {
		return nil
	}
	defer w.end()
	if w.want == "" || w.offset == 0 || w.full {
		return w.drop()
	}
	return w.file.Close()
}

func (w *Writer) drop() error {
	w.file.Close()
	if err := os.Remove(w.file.Name()); err != nil {
		return fmt.Errorf("drop partial content: %w", err)
	}
	return nil
}

func (w *Writer) end() {
	w.ended = true
	if w.turn != nil {
		w.store.endTurn(w.want, w.turn)
	}
}

func (w *Writer) name() string {
	if w.want == "" {
		return "blob"
	}
	return "blob " + w.want.String()
}

// takeTurn makes the caller the one writer of d.
func (s *Store) takeTurn(ctx context.Context, d oci.Digest) (chan struct{}, error) {
	for {
		turn, other := s.tryTurn(d)
		if turn != nil {
			return turn, nil
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// tryTurn returns either our turn or the one of the present writer.
func (s *Store) tryTurn(d oci.Digest) (turn, other chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.busy[d]; other != nil {
		return nil, other
	}
	turn = make(chan struct{})
	s.busy[d] = turn
	return turn, nil
}

func (s *Store) endTurn(d oci.Digest, turn chan struct{}) {
	s.mu.Lock()
	delete(s.busy, d)
	s.mu.Unlock()
	close(turn)
}

// collectDebris deletes what no later Ingest could continue.
func (s *Store) collectDebris() error {
	left, err := filepath.Glob(filepath.Join(s.ingestDir(), newPrefix+"*"))
	for _, f := range left {
		err = errors.Join(err, os.Remove(f))
	}
	_, e := s.dropPartials(abandonedAfter)
	return errors.Join(err, e)
}

// ExpirePartials is DropPartials for what is so old that nobody will go on with it.
func (s *Store) ExpirePartials() (int64, error) { return s.dropPartials(abandonedAfter) }

// DropPartials deletes partial content that nobody is writing, and tells how many
// bytes that freed.
func (s *Store) DropPartials() (int64, error) { return s.dropPartials(0) }

// Partials calls fn for all partial content that nobody is writing.
func (s *Store) Partials(fn func(d oci.Digest, size int64, at time.Time)) error {
	names, err := os.ReadDir(s.ingestDir())
	if err != nil {
		return err
	}
	for _, n := range names {
		alg, hex, _ := strings.Cut(n.Name(), "-")
		d := digest.NewDigestFromEncoded(digest.Algorithm(alg), hex)
		fi, err := n.Info()
		if d.Validate() != nil || err != nil {
			continue
		}
		if turn, _ := s.tryTurn(d); turn != nil {
			fn(d, fi.Size(), fi.ModTime())
			s.endTurn(d, turn)
		}
	}
	return nil
}

// DropPartial deletes partial content, unless somebody is writing it.
func (s *Store) DropPartial(d oci.Digest) error {
	path, err := s.ingestPath(d)
	if err != nil {
		return err
	}
	turn, _ := s.tryTurn(d)
	if turn == nil {
		return nil
	}
	defer s.endTurn(d, turn)
	return os.Remove(path)
}

func (s *Store) dropPartials(age time.Duration) (freed int64, err error) {
	names, err := os.ReadDir(s.ingestDir())
	if err != nil {
		return 0, err
	}
	for _, n := range names {
		alg, hex, _ := strings.Cut(n.Name(), "-")
		d := digest.NewDigestFromEncoded(digest.Algorithm(alg), hex)
		if d.Validate() != nil {
			continue // an unkeyed ingest, which its writer removes
		}
		turn, _ := s.tryTurn(d)
		if turn == nil {
			continue
		}
		fi, e := n.Info()
		if e == nil && time.Since(fi.ModTime()) >= age {
			if e = os.Remove(filepath.Join(s.ingestDir(), n.Name())); e == nil {
				freed += fi.Size()
			}
		}
		s.endTurn(d, turn)
		if e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return freed, err
}
