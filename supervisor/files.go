package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	oci "berth/oci/bundle"
	"berth/runtime"
)

// Files describes the files of a container that does not run.
type Files struct {
	Root     oci.Rootfs
	ReadOnly bool
	Mounts   []oci.Mount // binds alone count: what a run mounts anew has no content before it
	Sources  []Source
	User     string // whom MapOwner of Sources means
	Groups   []string
}

// OpenFiles mounts the files of a container that does not run, as a run would: the root with
// its binds, in a tree that is attached nowhere. The descriptor of its root is all that holds
// it, so nothing is left of it when that is closed or its owner killed. Directories to mount on
// are made in the root where they are missing.
func OpenFiles(ctx context.Context, f Files) (*os.File, error) {
	return kernel.InPrivateMounts(func() (*os.File, error) {
		root, err := runtime.OpenRoot(f.Root, &oci.Spec{}, "")
		if err != nil {
			return nil, err
		}
		defer root.Close()
		binds, err := f.binds(ctx, root)
		defer func() {
			for _, b := range binds {
				b.Close()
			}
		}()
		if err != nil {
			return nil, err
		}
		// Only now is the root attached, so that no source has it below itself. Any directory
		// will do: nobody else sees it.
		at := slices.Concat([]string{f.Root.Path}, f.Root.Lower, []string{f.Root.Upper})
		place := at[slices.IndexFunc(at, func(s string) bool { return s != "" })]
		if err := unix.MoveMount(int(root.Fd()), "", unix.AT_FDCWD, place, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return nil, os.NewSyscallError("move_mount", err)
		}
		for _, m := range f.Mounts {
			if b := binds[m.Destination]; b != nil {
				if err := attachBind(root, m, b); err != nil {
					return nil, fmt.Errorf("mount %s: %w", m.Destination, err)
				}
			}
		}
		if f.ReadOnly {
			if err := kernel.SetMount(root, false, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
				return nil, err
			}
		}
		return cloneAt(root, true)
	})
}

// binds opens the sources of the mounts, by destination. Some may be open when it fails.
func (f *Files) binds(ctx context.Context, root *os.File) (map[string]*os.File, error) {
	binds := map[string]*os.File{}
	var user specs.User
	if slices.ContainsFunc(f.Sources, func(s Source) bool { return s.MapOwner }) {
		var err error
		if user, _, err = runtime.ResolveUser(root, f.User, f.Groups); err != nil {
			return binds, err
		}
	}
	if err := openSources(ctx, f.Sources, root, user, binds); err != nil {
		return binds, err
	}
	for _, m := range f.Mounts {
		if m.Type != "bind" || binds[m.Destination] != nil {
			continue
		}
		b, err := kernel.CloneTree(m.Source, slices.Contains(m.Options, "rbind"))
		if err != nil {
			return binds, fail.Mark(classOfSource(err), fmt.Errorf("mount %s: %w", m.Destination, err))
		}
		binds[m.Destination] = b
	}
	return binds, nil
}

// attachBind puts a bind into the tree.
func attachBind(root *os.File, m oci.Mount, bind *os.File) error {
	recursive := slices.Contains(m.Options, "rro")
	if recursive || slices.Contains(m.Options, "ro") {
		if err := kernel.SetMount(bind, recursive, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(bind.Fd()), &st); err != nil {
		return err
	}
	target, err := mountTarget(root, m.Destination, st.Mode&unix.S_IFMT == unix.S_IFDIR)
	if err != nil {
		return err
	}
	defer target.Close()
	return os.NewSyscallError("move_mount", unix.MoveMount(int(bind.Fd()), "", int(target.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// mountTarget opens what is to be mounted on; what is missing of it is made.
func mountTarget(root *os.File, at string, isDir bool) (*os.File, error) {
	f, err := kernel.OpenIn(root, at, unix.O_PATH, 0)
	if !errors.Is(err, unix.ENOENT) || at == "/" {
		return f, err
	}
	parent, err := mountTarget(root, path.Dir(path.Clean(at)), true)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	name := path.Base(path.Clean(at))
	if isDir {
		err = unix.Mkdirat(int(parent.Fd()), name, 0o755)
	} else {
		err = unix.Mknodat(int(parent.Fd()), name, unix.S_IFREG|0o644, 0)
	}
	if err != nil && err != unix.EEXIST {
		return nil, &os.PathError{Op: "make", Path: at, Err: err}
	}
	return kernel.OpenIn(root, at, unix.O_PATH, 0)
}
