package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// A leaf is a group for processes of ours that are to live on when whoever started them, a
// service or a login session, is ended by its group. It has no controllers of its own and no groups
// below it, and stays when it is empty. It is made only in the hierarchies by which
// systemd knows whose a process is: the unified one, else name=systemd. Its name is like "/berth-shims".

// OpenLeaf makes the leaf, if it is not there, and opens it for clone3(2) with CLONE_INTO_CGROUP.
// Class NotImplemented where there is no unified hierarchy: use EnterLeaf.
func OpenLeaf(name string) (*os.File, error) {
	dirs, unified, err := makeLeaf(name)
	switch {
	case err != nil:
		return nil, err
	case !unified:
		return nil, fail.New(fail.NotImplemented, "no process is born in a group of cgroup v1")
	}
	fd, err := unix.Open(dirs[0], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open control group %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), dirs[0]), nil
}

// EnterLeaf makes the leaf, if it is not there, and moves a process with all its threads into it.
func EnterLeaf(name string, pid int) error {
	dirs, _, err := makeLeaf(name)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := write(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("enter control group %s: %w", name, err)
		}
	}
	return nil
}

// RemoveLeaf removes the leaf if nobody is in it.
func RemoveLeaf(name string) {
	if hs, err := hierarchies(); err == nil {
		for _, h := range leafHierarchies(hs) {
			_ = unix.Rmdir(h.mount + name)
		}
	}
}

// makeLeaf tells the leaf's directories, and whether they are one of the unified hierarchy alone.
func makeLeaf(name string) (dirs []string, unified bool, err error) {
	hs, err := hierarchies()
	if err != nil {
		return nil, false, err
	}
	chosen := leafHierarchies(hs)
	if len(chosen) == 0 {
		return nil, false, fail.New(fail.Unavailable, "no cgroup file system is mounted that knows systemd's units")
	}
	for _, h := range chosen {
		dir := h.mount + name
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, false, fmt.Errorf("create control group %s: %w", name, err)
		}
		dirs = append(dirs, dir)
	}
	return dirs, len(chosen) == 1 && chosen[0].unified, nil
}

func leafHierarchies(hs []hierarchy) (out []hierarchy) {
	for _, h := range hs {
		if h.unified || slices.Contains(h.controllers, "name=systemd") {
			out = append(out, h)
		}
	}
	return out
}
