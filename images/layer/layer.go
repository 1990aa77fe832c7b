// Package layer keeps unpacked layers by chain ID and makes root file systems and
// diffs of them. Nothing outside knows what a layer is on disk.
//
//	driver                                   how layers mark what they hide: "overlay" or "copy"
//	<algorithm>/<hex of chain ID>/diff       the layer's files, with the driver's marks
//	<algorithm>/<hex of chain ID>/flat       all that it and the layers below show, if that was asked for
//	<algorithm>/<hex of chain ID>/meta.json  what it is: parent, diff ID, size
//	staging/<random>                         layers being unpacked
//	trash/<random>                           what is being deleted
//	empty/0, empty/1                         lowers for roots that have too few of their own
//
// A layer comes into being by one rename out of staging and goes by one rename into
// trash, so every name is whole or not there; the rest is debris that Open collects.
package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
	"berth/oci"
)

// metaVersion is the version of meta.json and of the form of diff/.
const metaVersion = 1

// meta is meta.json.
type meta struct {
	Version int        `json:"version"`
	Driver  string     `json:"driver"`
	Parent  oci.Digest `json:"parent,omitempty"`
	DiffID  oci.Digest `json:"diffID"`
	Size    int64      `json:"size"`
	// OpaqueRoot: the layer hides all layers below it. Overlayfs has no mark for that on
	// the root of a layer, so the stack is cut here.
	OpaqueRoot bool `json:"opaqueRoot,omitempty"`
	// Root: the tar had an entry for the root directory itself.
	Root bool `json:"root,omitempty"`
}

// Store keeps layers at one directory, all with one driver. One process uses a store
// at a time; within it a Store is safe for concurrent use.
type Store struct {
	root    string
	driver  string
	whyCopy error
	marks   marks
	umask   uint32
	grave   *grave

	// Held shared while a layer has its name, and that is not durable yet.
	publishing sync.RWMutex

	mu    sync.Mutex
	metas map[oci.Digest]meta // what was read of meta.json; layers never change
}

// Open opens or creates the store at root and collects what crashes left in staging.
// driver is "overlay", "copy" or empty: then it is the one of the layers that are here,
// or else "overlay" where the file system can and "copy" where it cannot. A driver that
// does not work here is class Unavailable, another one than that of the layers that are
// here Conflict. Without root only what needs no privileges works, and nothing is tried.
func Open(root, driver string) (*Store, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	s := &Store{root: root, grave: newGrave(), umask: processUmask(), metas: map[oci.Digest]meta{}}
	for _, d := range []string{"staging", "trash", "empty/0", "empty/1"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o700); err != nil {
			return nil, fmt.Errorf("open layer store: %w", err)
		}
	}
	for _, d := range []string{"empty/0", "empty/1"} { // they can be what "/" shows
		if err := os.Chmod(filepath.Join(root, d), 0o755); err != nil {
			return nil, fmt.Errorf("open layer store: %w", err)
		}
	}
	if err := s.collectDebris(); err != nil {
		return nil, fmt.Errorf("open layer store: %w", err)
	}
	if err := s.chooseDriver(driver); err != nil {
		s.grave.close()
		return nil, err
	}
	return s, nil
}

// Close ends the deletions under way; the next Open goes on with them.
func (s *Store) Close() error {
	s.grave.close()
	return nil
}

// Driver names the driver: "overlay" or "copy".
func (s *Store) Driver() string { return s.driver }

// WhyCopy is why the driver "copy" was chosen though none was asked for, else nil.
func (s *Store) WhyCopy() error { return s.whyCopy }

// Settle waits until the files of all removed layers are gone.
func (s *Store) Settle(ctx context.Context) error { return s.grave.settle(ctx) }

// collectDebris moves what a crash left out of the way and deletes it in the
// background: it can be large, and nobody needs to wait for it.
func (s *Store) collectDebris() error {
	staged, err := os.ReadDir(filepath.Join(s.root, "staging"))
	if err != nil {
		return err
	}
	for _, e := range staged {
		if _, err := s.discard(filepath.Join(s.root, "staging", e.Name())); err != nil {
			return err
		}
	}
	dead, err := os.ReadDir(filepath.Join(s.root, "trash"))
	if err != nil || len(dead) == 0 {
		return err
	}
	for _, e := range dead {
		s.grave.bury(filepath.Join(s.root, "trash", e.Name()))
	}
	return nil
}

// discard moves path into trash under a name of its own.
func (s *Store) discard(path string) (string, error) {
	for {
		to := filepath.Join(s.root, "trash", fmt.Sprintf("%016x", rand.Uint64()))
		// A rename needs no room, as making a directory would.
		err := unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EINVAL) { // a file system that cannot
			err = os.Rename(path, to)
		}
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil {
			return "", &os.PathError{Op: "rename", Path: path, Err: err}
		}
		return to, nil
	}
}

// dir is the only way from a chain ID to a file name.
func (s *Store) dir(chain oci.Digest) (string, error) {
	if err := chain.Validate(); err != nil {
		return "", fail.New(fail.Invalid, "chain ID %q: %w", chain, err)
	}
	return filepath.Join(s.root, chain.Algorithm().String(), chain.Encoded()), nil
}

// Has reports whether the chain is in the store.
func (s *Store) Has(chain oci.Digest) bool {
	dir, err := s.dir(chain)
	if err != nil {
		return false
	}
	_, err = os.Lstat(dir)
	return err == nil
}

// Published waits until what Has reports survives a power failure: a layer is seen a moment
// before its name is durable.
func (s *Store) Published() {
	s.publishing.Lock()
	//lint:ignore SA2001 waiting was all
	s.publishing.Unlock()
}

// Remove deletes one layer, atomically as seen from Has; a missing one is no error. Its
// files go in the background: whoever begins a layer while space is short waits for that.
func (s *Store) Remove(chain oci.Digest) error {
	dir, err := s.dir(chain)
	if err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.metas, chain)
	s.mu.Unlock()
	dead, err := s.discard(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove layer %s: %w", chain, err)
	}
	durable.Failpoint("layer.remove.trashed")
	s.grave.bury(dead)
	return nil
}

// List names all chains in the store.
func (s *Store) List() ([]oci.Digest, error) {
	var chains []oci.Digest
	algorithms, err := os.ReadDir(s.root)
	if err != nil {
		return nil, fmt.Errorf("list layers: %w", err)
	}
	for _, a := range algorithms {
		if !digest.Algorithm(a.Name()).Available() {
			continue
		}
		names, err := os.ReadDir(filepath.Join(s.root, a.Name()))
		if err != nil {
			return nil, fmt.Errorf("list layers: %w", err)
		}
		for _, n := range names {
			if d := digest.NewDigestFromEncoded(digest.Algorithm(a.Name()), n.Name()); d.Validate() == nil {
				chains = append(chains, d)
			}
		}
	}
	return chains, nil
}

// Size is the sum of the file sizes of one layer, as Apply returned it.
func (s *Store) Size(chain oci.Digest) (int64, error) {
	m, err := s.meta(chain)
	return m.Size, err
}

// SizeAndTime is Size, and when the layer came into being.
func (s *Store) SizeAndTime(chain oci.Digest) (int64, time.Time, error) {
	n, err := s.Size(chain)
	if err != nil {
		return 0, time.Time{}, err
	}
	dir, err := s.dir(chain)
	if err != nil {
		return 0, time.Time{}, err
	}
	info, err := os.Stat(filepath.Join(dir, "meta.json"))
	if err != nil {
		return 0, time.Time{}, err
	}
	return n, info.ModTime(), nil
}

// Root is the directory that the store is in.
func (s *Store) Root() string { return s.root }

func (s *Store) meta(chain oci.Digest) (meta, error) {
	s.mu.Lock()
	m, ok := s.metas[chain]
	s.mu.Unlock()
	if ok {
		return m, nil
	}
	dir, err := s.dir(chain)
	if err != nil {
		return m, err
	}
	err = durable.ReadJSON(filepath.Join(dir, "meta.json"), &m)
	if errors.Is(err, fs.ErrNotExist) {
		return m, fail.New(fail.NotFound, "layer %s is not in the store", chain)
	}
	if err != nil {
		return m, fmt.Errorf("layer %s: %w", chain, err)
	}
	if m.Version != metaVersion || m.Driver != s.driver {
		return m, fail.New(fail.Unavailable, "layer %s was written by another Berth (driver %s, version %d)", chain, m.Driver, m.Version)
	}
	s.mu.Lock()
	s.metas[chain] = m
	s.mu.Unlock()
	return m, nil
}

// lowers returns the diff directories of a stack given top first, down to the layer
// that hides the rest.
func (s *Store) lowers(topFirst []oci.Digest) ([]string, error) {
	var dirs []string
	for _, chain := range topFirst {
		m, err := s.meta(chain)
		if err != nil {
			return nil, err
		}
		dir, err := s.dir(chain)
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, filepath.Join(dir, "diff"))
		if m.OpaqueRoot {
			break
		}
	}
	return dirs, nil
}

// stack returns chain and its ancestors, top first. An empty chain has none.
func (s *Store) stack(chain oci.Digest) ([]oci.Digest, error) {
	var chains []oci.Digest
	for chain != "" {
		m, err := s.meta(chain)
		if err != nil {
			return nil, err
		}
		chains = append(chains, chain)
		chain = m.Parent
	}
	return chains, nil
}

// processUmask reads our umask, which can otherwise only be learnt by changing it for
// the whole process. Unknown means: every bit may be masked.
func processUmask() uint32 {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "Umask:"); ok {
			if m, err := strconv.ParseUint(strings.TrimSpace(v), 8, 32); err == nil {
				return uint32(m)
			}
		}
	}
	return unix.S_IRWXU | unix.S_IRWXG | unix.S_IRWXO
}
