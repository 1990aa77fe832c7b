package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	oci "berth/oci/bundle"
	"berth/runtime"
)

// Source says what a path alone cannot say of where a bind mount of the specification
// comes from. It is dealt with where the container's root is at hand.
type Source struct {
	Destination string `json:"destination"` // of the mount in Spec
	// Dir is the directory, or for binds the file, on the host.
	Dir string `json:"dir,omitempty"`
	// Lower are the layers of an image, top-most first, that are mounted read-only instead.
	Lower []string `json:"lower,omitempty"`
	// Subpath is mounted instead of the whole. Symbolic links must not lead out of it.
	Subpath string `json:"subpath,omitempty"`
	// Fill copies what the root has at Destination into an empty Dir, a volume's. The
	// directory above it is no container's to see.
	Fill bool `json:"fill,omitempty"`
	// Label is SELinux's for the files that it is filled with; "": none.
	Label string `json:"label,omitempty"`
	// Passing: the volume goes with the container, and need not survive a power failure.
	Passing bool `json:"passing,omitempty"`
	// Shallow leaves out what is mounted below.
	Shallow bool `json:"shallow,omitempty"`
	// UIDs and GIDs map the owners that the file system knows (ContainerID) to those that the
	// container sees (HostID). MapOwner makes the owner of Dir and the container's user see
	// each other's files as their own.
	UIDs     []specs.LinuxIDMapping `json:"uids,omitempty"`
	GIDs     []specs.LinuxIDMapping `json:"gids,omitempty"`
	MapOwner bool                   `json:"mapOwner,omitempty"`
}

// openSources fills volumes and adds to binds the mounts that are not just a path's.
func openSources(ctx context.Context, sources []Source, root *os.File, user oci.User, binds map[string]*os.File) error {
	for _, s := range sources {
		f, err := s.open(ctx, root, user)
		if err != nil {
			return fail.Mark(classOfSource(err), fmt.Errorf("mount %s: %w", s.Destination, err))
		}
		if f != nil {
			binds[s.Destination] = f
		}
	}
	return nil
}

// classOfSource keeps a missing source from being taken for a missing program.
func classOfSource(err error) fail.Class {
	if c := fail.Of(err); c != fail.NotFound && c != fail.Forbidden {
		return c
	}
	return fail.Invalid
}

func (s *Source) open(ctx context.Context, root *os.File, user oci.User) (*os.File, error) {
	if len(s.Lower) > 0 {
		return s.openImage()
	}
	if s.Subpath == "" && !s.Fill && !s.mapped() {
		return nil, nil
	}
	at, err := os.OpenFile(s.Dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	if s.Subpath != "" {
		sub, err := below(at, s.Subpath)
		if err != nil {
			return nil, err
		}
		defer sub.Close()
		at = sub
	}
	if s.Fill && root != nil {
		if err := s.fill(ctx, root, at); err != nil {
			return nil, err
		}
	}
	if s.Subpath == "" && !s.mapped() {
		return nil, nil
	}
	f, err := cloneAt(at, !s.Shallow)
	if err != nil {
		return nil, err
	}
	if err := s.mapIDs(f, user); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (s *Source) mapped() bool { return s.MapOwner || len(s.UIDs)+len(s.GIDs) > 0 }

// fill copies into the volume. A part of one is filled without its being staged beside it.
func (s *Source) fill(ctx context.Context, root, at *os.File) error {
	data, err := kernel.OpenIn(at, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOTDIR) { // a file of a volume
		return nil
	}
	if err != nil {
		return err
	}
	defer data.Close()
	home, err := os.Open(filepath.Dir(s.Dir))
	if err != nil {
		return err
	}
	defer home.Close()
	return runtime.Fill(ctx, root, s.Destination, data, home, runtime.Filling{Staged: s.Subpath == "", Flushed: !s.Passing, Label: s.Label})
}

// below opens a path in a directory, which it must not leave.
func below(dir *os.File, path string) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(int(dir.Fd()), path, &how)
		switch err {
		case nil:
			return os.NewFile(uintptr(fd), path), nil
		case unix.EINTR, unix.EAGAIN: // a rename raced with a ".."
			continue
		case unix.EXDEV:
			return nil, fail.New(fail.Invalid, "subpath %q leads out of what is mounted", path)
		case unix.ENOENT, unix.ENOTDIR:
			return nil, fail.New(fail.Invalid, "subpath %q does not exist in what is mounted", path)
		}
		return nil, fail.New(fail.Invalid, "subpath %q: %w", path, err)
	}
}

func cloneAt(at *os.File, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(int(at.Fd()), "", flags)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: at.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), at.Name()), nil
}

// mapIDs gives the files other owners.
func (s *Source) mapIDs(f *os.File, user oci.User) error {
	if !s.mapped() {
		return nil
	}
	uids, gids := s.UIDs, s.GIDs
	if s.MapOwner {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return err
		}
		uids, gids = exchange(st.Uid, user.UID), exchange(st.Gid, user.GID)
		if len(uids)+len(gids) == 0 {
			return nil // one and the same person
		}
	}
	if len(uids) == 0 {
		uids = identity
	}
	if len(gids) == 0 {
		gids = identity
	}
	return runtime.MapIDs(f, s.Dir, uids, gids, !s.Shallow)
}

const allIDs = 1<<32 - 1 // -1 is no id

var identity = []specs.LinuxIDMapping{{Size: allIDs}}

// exchange maps a to b and b to a, and all other ids to themselves; nil if a is b.
func exchange(a, b uint32) []specs.LinuxIDMapping {
	low, high := min(a, b), max(a, b)
	if low == high {
		return nil
	}
	var out []specs.LinuxIDMapping
	add := func(from, to, n uint32) {
		if n > 0 {
			out = append(out, specs.LinuxIDMapping{ContainerID: from, HostID: to, Size: n})
		}
	}
	add(0, 0, low)
	add(low, high, 1)
	add(low+1, low+1, high-low-1)
	add(high, low, 1)
	add(high+1, high+1, allIDs-high-1)
	return out
}

// openImage mounts an image's layers, read-only.
func (s *Source) openImage() (*os.File, error) {
	if s.Subpath == "" {
		return mountLayers(s.Lower)
	}
	// A part of a mount that is attached nowhere cannot be cloned (open_tree(2)).
	return kernel.InPrivateMounts(func() (*os.File, error) {
		whole, err := mountLayers(s.Lower)
		if err != nil {
			return nil, err
		}
		defer whole.Close()
		// The top layer's own directory is as good a place as any: nobody else sees it.
		if err := unix.MoveMount(int(whole.Fd()), "", unix.AT_FDCWD, s.Lower[0], unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return nil, os.NewSyscallError("move_mount", err)
		}
		at, err := below(whole, s.Subpath)
		if err != nil {
			return nil, err
		}
		defer at.Close()
		return cloneAt(at, false)
	})
}

func mountLayers(lower []string) (*os.File, error) {
	if len(lower) > 1 {
		return kernel.MountOverlay(&kernel.Overlay{Lower: lower})
	}
	f, err := kernel.CloneTree(lower[0], false)
	if err != nil {
		return nil, err
	}
	if err := kernel.SetMount(f, false, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
