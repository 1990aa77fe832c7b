package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	"berth/kernel/stage"
	oci "berth/oci/bundle"
)

// classOfPath is the class of a failure to reach a path that the caller named.
func classOfPath(err error) fail.Class {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return fail.NotFound
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fail.Forbidden
	}
	return fail.Internal
}

// OpenRoot makes a container's root as a detached mount, for whoever attaches it himself.
func OpenRoot(root oci.Rootfs, spec *oci.Spec, bundle string) (*os.File, error) {
	f, _, err := openRoot(root, spec, bundle)
	if err != nil || kernel.HasMountSetattr() {
		return f, err
	}
	for _, change := range rootChanges(&root) {
		if err := kernel.SetMount(f, change.recursive, change.attr); err != nil {
			f.Close()
			return nil, fail.New(fail.Internal, "root file system: %w", err)
		}
	}
	return f, nil
}

// openRoot makes the container's root as a detached mount. at is the directory of the
// host where it is to be attached; empty for one that has none.
func openRoot(root oci.Rootfs, spec *oci.Spec, bundle string) (f *os.File, at string, err error) {
	path := root.Path
	if path == "" && len(root.Lower) == 0 && root.Upper == "" {
		if spec.Root == nil || spec.Root.Path == "" {
			return nil, "", fail.New(fail.Invalid, "the container has no root file system")
		}
		path = spec.Root.Path
	}
	switch {
	case path != "":
		if !filepath.IsAbs(path) {
			path = filepath.Join(bundle, path)
		}
		at = path
		f, err = kernel.CloneTree(path, true)
	case root.Upper == "" && len(root.Lower) == 1:
		f, err = kernel.CloneTree(root.Lower[0], false)
	case len(root.Lower) == 0: // an image of no layers
		f, err = kernel.CloneTree(root.Upper, false)
	default:
		f, err = kernel.MountOverlay(&kernel.Overlay{Lower: root.Lower, Upper: root.Upper, Work: root.Work, UserXattr: kernel.InUserNamespace(), Volatile: root.Volatile, Context: contextOf(spec)})
	}
	if err == nil && kernel.HasMountSetattr() { // else it is cheaper once the child has attached it
		for _, change := range rootChanges(&root) {
			err = kernel.SetMount(f, change.recursive, change.attr)
			if errors.Is(err, unix.EINVAL) && change.recursive {
				err = nil
			}
			if err != nil {
				break
			}
		}
	}
	if err == nil {
		var st unix.Stat_t
		if err = unix.Fstat(int(f.Fd()), &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			err = &os.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
		}
	}
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, "", fail.New(classOfPath(err), "root file system: %w", err)
	}
	return f, at, nil
}

// rootChanges are what makes a copy of mounts of the host into a root.
func rootChanges(root *oci.Rootfs) (list []mountChange) {
	if root.Path == "" && root.Upper == "" && len(root.Lower) == 1 {
		list = append(list, mountChange{attr: unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}})
	}
	if len(root.Lower) < 2 {
		// What the host mounts below it later may appear in it, as for a bind mount. It
		// must not be shared when pivot_root comes.
		list = append(list, mountChange{true, unix.MountAttr{Propagation: unix.MS_SLAVE}})
	}
	return list
}

// contextOf is the SELinux context of all files in the root.
func contextOf(spec *oci.Spec) string {
	if spec.Linux == nil {
		return ""
	}
	return spec.Linux.MountLabel
}

// attachRoot puts the root among the child's mounts: at its directory, where hooks look
// for it, or on top of "/" for one that has none. In a namespace of its own all mounts
// are made private before; in a shared one only what is below the root is.
func (b *builder) attachRoot(at string, cfg *Config) error {
	p := b.p
	shared := b.sharesMounts()
	if shared && at == "" {
		return fail.New(fail.Invalid, "a container without a mount namespace of its own needs a root directory on the host")
	}
	if !shared {
		p.About("make all mounts private", "")
		p.Call(unix.SYS_MOUNT, stage.Int(0), p.Str("/"), stage.Int(0), stage.Int(unix.MS_REC|unix.MS_PRIVATE), stage.Int(0))
		if at == "" || cfg.NoPivot {
			at = "/"
		}
	}
	p.About("attach the root file system", "")
	p.Call(unix.SYS_MOVE_MOUNT, b.root, b.empty(), stage.Int(unix.AT_FDCWD), p.Str(at), stage.Int(unix.MOVE_MOUNT_F_EMPTY_PATH))
	if !kernel.HasMountSetattr() { // what openRoot does elsewhere
		for _, change := range rootChanges(&cfg.Root) {
			b.setMount(b.root, change.recursive, change.attr)
		}
	}
	if shared {
		b.setMount(b.root, true, unix.MountAttr{Propagation: unix.MS_PRIVATE})
	}
	return nil
}

// enterRoot makes the root the child's "/" and lets go of the host's mounts. In a shared
// namespace the others' root stays what it is.
func (b *builder) enterRoot(noPivot bool) {
	p := b.p
	p.About("enter the root file system", "")
	p.Call(unix.SYS_FCHDIR, b.root)
	if noPivot || b.sharesMounts() {
		p.Call(unix.SYS_CHROOT, p.Str("."))
	} else {
		// With both places ".", the old root ends up on top of the new one, and needs no
		// directory of its own (pivot_root(2), NOTES).
		p.Call(unix.SYS_PIVOT_ROOT, p.Str("."), p.Str("."))
		p.Call(unix.SYS_UMOUNT2, p.Str("."), stage.Int(unix.MNT_DETACH))
	}
	p.Call(unix.SYS_CHDIR, p.Str("/"))
}

// propagateRoot sets the root's propagation. A shared one cannot be entered by
// pivot_root(2), so this comes after.
func (b *builder) propagateRoot() {
	if name := b.spec.Linux.RootfsPropagation; name != "" {
		prop := propagations[name]
		b.p.About("set the propagation of the root file system to", name)
		if attr := (unix.MountAttr{Propagation: prop.flag}); kernel.HasMountSetattr() {
			b.setMount(b.root, prop.recursive, attr)
		} else {
			root := b.p.Str("/") // the host's /proc is out of reach
			b.oldSetMount(b.root, &root, prop.recursive, attr)
		}
	}
}

// finishRoot sets the root's write protection, when nothing needs to be made in it any
// more.
func (b *builder) finishRoot() {
	if b.spec.Root != nil && b.spec.Root.Readonly {
		b.p.About("make the root file system read-only", "")
		b.setMount(b.root, false, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
}
