package images

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"berth/oci"
)

// The cache is what no image needs and a later pull or push is spared by: partial downloads,
// layers that were packed for a push, and what came of pulls that were cut. It goes with
// Collect; until then the oldest of it makes room when it outgrows Config.CacheMax.

// cached is one thing of the cache.
type cached struct {
	size   int64
	used   time.Time
	remove func() error
}

func anyImage(oci.Digest) bool { return true }

// cache lists what is in it, in no order. The caller holds Store.sweep alone.
func (s *Store) cache() (all []cached, size int64, err error) {
	blobs, layers := s.needed(anyImage)
	add := func(c cached) { all, size = append(all, c), size+c.size }
	err = s.blobs.WalkTimes(func(d oci.Digest, n int64, at time.Time) error {
		if !blobs[d] {
			add(cached{n, at, func() error { return errors.Join(s.blobs.Delete(d), s.forgetBlobs([]oci.Digest{d})) }})
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	err = s.blobs.Partials(func(d oci.Digest, n int64, at time.Time) {
		add(cached{n, at, func() error { return s.blobs.DropPartial(d) }})
	})
	if err != nil {
		return nil, 0, err
	}
	chains, err := s.layers.List()
	if err != nil {
		return nil, 0, err
	}
	for _, c := range chains {
		if layers[c] {
			continue
		}
		n, at, err := s.layers.SizeAndTime(c)
		if err == nil { // else it went meanwhile
			add(cached{n, at, func() error { return s.layers.Remove(c) }})
		}
	}
	return all, size, nil
}

// trimCache removes the oldest of a cache that has outgrown its bound.
func (s *Store) trimCache() {
	if s.cacheMax <= 0 || s.isDamaged() {
		return
	}
	s.sweep.Lock()
	defer s.sweep.Unlock()
	all, size, err := s.cache()
	if err == nil && size <= s.cacheMax {
		return
	}
	slices.SortFunc(all, func(a, b cached) int { return a.used.Compare(b.used) })
	for _, c := range all {
		if size <= s.cacheMax {
			break
		}
		if e := c.remove(); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
			continue
		}
		size -= c.size
	}
	if err != nil {
		s.log.Warn("the cache of images is larger than it may be", "bytes", size, "most", s.cacheMax, "error", err)
	}
}

// DiskUse is what the store keeps, in bytes of files.
type DiskUse struct {
	Layers  int64 // unpacked layers of images, shared ones once
	Held    int64 // of Layers: those of images in use
	Content int64 // blobs of images, as they came: what is pushed and saved
	Cache   int64 // what no image needs; see Config.CacheMax
}

// DiskUse tells what the store keeps. inUse names images that containers hold.
func (s *Store) DiskUse(inUse func(oci.Digest) bool) (u DiskUse, err error) {
	s.sweep.Lock()
	defer s.sweep.Unlock()
	if _, u.Cache, err = s.cache(); err != nil {
		return u, err
	}
	_, layers := s.needed(anyImage)
	held := map[oci.Digest]bool{}
	s.mu.Lock()
	for id, e := range s.index.images {
		if inUse(id) {
			for _, c := range e.Chains {
				held[c] = true
			}
		}
	}
	s.mu.Unlock()
	for c := range layers {
		n, err := s.layers.Size(c)
		if err != nil {
			continue // being made, or damaged
		}
		u.Layers += n
		if held[c] {
			u.Held += n
		}
	}
	blobs, _ := s.needed(anyImage)
	for d := range blobs {
		if n, err := s.blobs.Size(d); err == nil {
			u.Content += n
		}
	}
	return u, nil
}

// IsUnpacked tells whether a path is the directory of an unpacked layer's files, below
// which nothing changes any more.
func (s *Store) IsUnpacked(path string) bool {
	rel, err := filepath.Rel(s.layers.Root(), path)
	parts := strings.Split(rel, string(filepath.Separator))
	return err == nil && len(parts) == 3 && parts[2] == "diff" && parts[0] != "staging" && parts[0] != "trash"
}
