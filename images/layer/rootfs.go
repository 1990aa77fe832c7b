package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"berth/oci"
)

// maxLowers is overlayfs's OVL_MAX_STACK.
const maxLowers = 500

// Rootfs describes the root file system of a stack (its chain IDs, lowest first) with a
// writable layer in the directory dir, which is made if it is missing. An empty dir gives
// a read-only root.
func (s *Store) Rootfs(ctx context.Context, chains []oci.Digest, dir string) (oci.Rootfs, error) {
	topFirst := slices.Clone(chains)
	slices.Reverse(topFirst)
	lowers, err := s.lowers(topFirst)
	if err != nil {
		return oci.Rootfs{}, err
	}
	if s.driver == copyDriver {
		return s.copiedRootfs(ctx, topFirst, lowers, dir)
	}
	if len(lowers) > maxLowers { // those that are too many become one
		flat, err := s.flat(ctx, topFirst[maxLowers-1:])
		if err != nil {
			return oci.Rootfs{}, err
		}
		lowers = append(lowers[:maxLowers-1], flat)
	}
	// Overlayfs wants one lower under an upper, and two without.
	need := 1
	if dir == "" {
		need = 2
	}
	for i := 0; len(lowers) < need; i++ {
		lowers = append(lowers, filepath.Join(s.root, "empty", fmt.Sprint(i)))
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

// copiedRootfs is Rootfs of the driver "copy".
func (s *Store) copiedRootfs(ctx context.Context, topFirst []oci.Digest, lowers []string, dir string) (oci.Rootfs, error) {
	if dir == "" {
		flat, err := s.flat(ctx, topFirst)
		return oci.Rootfs{Lower: []string{flat}}, err
	}
	root, err := s.prepare(ctx, lowers, dir)
	if err != nil {
		return oci.Rootfs{}, fmt.Errorf("make writable copy of the layers: %w", err)
	}
	return oci.Rootfs{Path: root}, nil
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
