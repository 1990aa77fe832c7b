package images

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/durable"
	"berth/fail"
	"berth/images/blob"
	"berth/oci"
)

// lease keeps blobs and layers that no record needs yet, or that a push reads. It lives
// in memory; its row in the database tells the next process what this one was at.
type lease struct {
	store *Store
	id    string
	once  sync.Once

	// Guarded by Store.mu.
	blobs  map[oci.Digest]bool
	layers map[oci.Digest]bool
}

// leaseRow is a lease in the database.
type leaseRow struct {
	Kind  string    `json:"kind"` // pull, push, load, import, commit
	What  string    `json:"what"`
	Pid   int       `json:"pid"`
	Since time.Time `json:"since"`
}

// newLease begins work of a kind. release must be called at its end.
func (s *Store) newLease(kind, what string) (*lease, error) {
	var random [8]byte
	_, _ = rand.Read(random[:])
	l := &lease{store: s, id: hex.EncodeToString(random[:]), blobs: map[oci.Digest]bool{}, layers: map[oci.Digest]bool{}}
	err := s.db.Update(func(tx *durable.Tx) error {
		return tx.Put(leasesBucket, l.id, leaseRow{Kind: kind, What: what, Pid: os.Getpid(), Since: time.Now().UTC()})
	})
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", kind, what, err)
	}
	s.mu.Lock()
	s.leases[l] = struct{}{}
	s.mu.Unlock()
	return l, nil
}

// keepBlobs adds blobs to the lease, whether they are here yet or not. After it returns
// they are not deleted.
func (l *lease) keepBlobs(blobs ...oci.Digest) { l.keep(l.blobs, blobs) }

// keepLayers is keepBlobs for chain IDs.
func (l *lease) keepLayers(chains ...oci.Digest) { l.keep(l.layers, chains) }

func (l *lease) keep(set map[oci.Digest]bool, more []oci.Digest) {
	l.store.sweep.RLock()
	defer l.store.sweep.RUnlock()
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	for _, d := range more {
		set[d] = true
	}
}

// commit puts w's blob into the content store and on the lease, with no moment between
// in which it could be deleted.
func (l *lease) commit(w *blob.Writer, size int64) (oci.Digest, error) {
	l.store.sweep.RLock()
	defer l.store.sweep.RUnlock()
	d, err := w.Commit(size)
	if err != nil {
		return "", err
	}
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	l.blobs[d] = true
	return d, nil
}

// put is blob.Store.Put under the lease.
func (l *lease) put(ctx context.Context, data []byte) (oci.Digest, error) {
	l.keepBlobs(digest.FromBytes(data))
	return l.store.blobs.Put(ctx, data)
}

// abort ends the lease and deletes what it brought in and nobody else needs.
func (l *lease) abort() {
	l.release()
	l.store.mu.Lock()
	blobs, layers := slices.Collect(maps.Keys(l.blobs)), slices.Collect(maps.Keys(l.layers))
	l.store.mu.Unlock()
	if _, _, err := l.store.discard(layers, blobs); err != nil {
		l.store.log.Warn("content of failed work is left", "error", err)
	}
}

// release ends the lease.
func (l *lease) release() {
	l.once.Do(func() {
		l.store.mu.Lock()
		delete(l.store.leases, l)
		l.store.mu.Unlock()
		err := l.store.db.Update(func(tx *durable.Tx) error { return tx.Delete(leasesBucket, l.id) })
		if err != nil {
			l.store.log.Warn("a lease's row stays until the next start", "lease", l.id, "error", err)
		}
		l.store.trimCache()
	})
}

// dropOldLeases forgets what processes before us were at. What they had brought in
// serves the next try, or goes with Collect.
func (s *Store) dropOldLeases() error {
	var old []string
	err := s.db.View(func(tx *durable.Tx) error {
		return tx.ForEach(leasesBucket, func(key string, data []byte) error {
			s.log.Info("unfinished work of an earlier engine", "lease", key, "what", string(data))
			old = append(old, key)
			return nil
		})
	})
	if err != nil || len(old) == 0 {
		return err
	}
	return s.db.Update(func(tx *durable.Tx) error {
		for _, key := range old {
			if err := tx.Delete(leasesBucket, key); err != nil {
				return err
			}
		}
		return nil
	})
}

// Use runs fn while image id cannot be removed (a lease): create holds it between
// resolving an image and recording the container that uses it. fn must not remove
// images.
func (s *Store) Use(ctx context.Context, id oci.Digest, fn func() error) error {
	s.removal.RLock()
	defer s.removal.RUnlock()
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if e := s.entry(id); e == nil || e.Hidden {
		return fail.New(fail.NotFound, "No such image: %s", id)
	}
	return fn()
}

// also adds the failure of a clean-up to the failure that caused it, on one line.
func also(err, cleanup error) error {
	if cleanup == nil {
		return err
	}
	return fmt.Errorf("%w (and then: %w)", err, cleanup)
}
