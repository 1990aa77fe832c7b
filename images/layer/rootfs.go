package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/oci"
)

// maxLowers is overlayfs's OVL_MAX_STACK.
const maxLowers = 500

// Rootfs describes the overlay of a stack (its chain IDs, lowest first) with a writable
// layer in dir/upper and dir/work, which are created if missing. An empty dir gives a
// read-only root.
func (s *Store) Rootfs(chains []oci.Digest, dir string) (oci.Rootfs, error) {
	topFirst := slices.Clone(chains)
	slices.Reverse(topFirst)
	lowers, err := s.lowers(topFirst)
	if err != nil {
		return oci.Rootfs{}, err
	}
	// Overlayfs wants one lower under an upper, and two without.
	need := 1
	if dir == "" {
		need = 2
	}
	for i := 0; len(lowers) < need; i++ {
		lowers = append(lowers, filepath.Join(s.root, "empty", fmt.Sprint(i)))
	}
	if len(lowers) > maxLowers {
		return oci.Rootfs{}, fail.New(fail.Invalid, "the image has %d layers; the overlay file system takes %d", len(lowers), maxLowers)
	}
	if dir == "" {
		return oci.Rootfs{Lower: lowers}, nil
	}
	r := oci.Rootfs{Lower: lowers, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")}
	if err := s.makeWritable(dir, r.Upper, r.Work, lowers[0]); err != nil {
		return oci.Rootfs{}, fmt.Errorf("make writable layer: %w", err)
	}
	return r, nil
}

// makeWritable makes the directories of a writable layer. The upper one is what "/"
// shows, so it begins as a copy of the top-most layer's root, and appears complete.
func (s *Store) makeWritable(dir, upper, work, top string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(work, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, err := os.Lstat(upper); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	root, _, err := s.lookup([]string{top}, "")
	if err != nil {
		return err
	}
	defer unix.Close(root.fd)
	tmp, err := os.MkdirTemp(dir, "upper-")
	if err != nil {
		return err
	}
	fd, err := openBeneath(tmp, "")
	if err == nil {
		err = errors.Join(s.copyAttributes(root, fd), unix.Close(fd))
	}
	if err == nil {
		err = os.Rename(tmp, upper)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}
