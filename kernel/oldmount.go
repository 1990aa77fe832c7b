package kernel

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// kept are the flags that a remount can keep: statfs(2) and mount(2) have the same numbers
// for them.
const kept = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME

// MountFlags are the flags of mount(2) for attributes of mount_setattr(2).
func MountFlags(attr uint64) (flags int) {
	for _, pair := range [][2]int{{unix.MOUNT_ATTR_RDONLY, unix.MS_RDONLY}, {unix.MOUNT_ATTR_NOSUID, unix.MS_NOSUID}, {unix.MOUNT_ATTR_NODEV, unix.MS_NODEV},
		{unix.MOUNT_ATTR_NOEXEC, unix.MS_NOEXEC}, {unix.MOUNT_ATTR_NOATIME, unix.MS_NOATIME}, {unix.MOUNT_ATTR_STRICTATIME, unix.MS_STRICTATIME},
		{unix.MOUNT_ATTR_NODIRATIME, unix.MS_NODIRATIME}, {unix.MOUNT_ATTR_NOSYMFOLLOW, unix.MS_NOSYMFOLLOW}} {
		if attr&uint64(pair[0]) != 0 {
			flags |= pair[1]
		}
	}
	return flags
}

// setOldMount is SetMount before Linux 5.12. mount(2) changes only what is attached in the
// caller's namespace: anything else is attached in one of its own for that, and f is a copy
// of it from then on.
func setOldMount(f *os.File, recursive bool, attr unix.MountAttr) error {
	if attr.Attr_set&unix.MOUNT_ATTR_IDMAP != 0 || recursive && attr.Attr_set|attr.Attr_clr != 0 {
		return unix.ENOSYS
	}
	name := "/proc/thread-self/fd/" + strconv.Itoa(int(f.Fd()))
	err := setAttached(f, name, recursive, attr)
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	at := "/"
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		at = "/proc/version" // any file will do: nobody else sees it
	}
	copied, err := InPrivateMounts(func() (*os.File, error) {
		if err := unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return nil, os.NewSyscallError("move_mount", err)
		}
		if err := setAttached(f, name, recursive, attr); err != nil {
			return nil, err
		}
		return CloneTree(name, true)
	})
	if err != nil {
		return err
	}
	defer copied.Close()
	return os.NewSyscallError("dup3", unix.Dup3(int(copied.Fd()), int(f.Fd()), unix.O_CLOEXEC))
}

func setAttached(f *os.File, name string, recursive bool, attr unix.MountAttr) error {
	if attr.Propagation != 0 {
		flags := uintptr(attr.Propagation)
		if recursive {
			flags |= unix.MS_REC
		}
		if err := unix.Mount("", name, "", flags, ""); err != nil {
			return os.NewSyscallError("mount", err)
		}
	}
	if attr.Attr_set|attr.Attr_clr == 0 {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	flags := int(st.Flags)&KeptMountFlags(attr.Attr_clr) | MountFlags(attr.Attr_set)
	return os.NewSyscallError("mount", unix.Mount("", name, "", uintptr(flags|unix.MS_REMOUNT|unix.MS_BIND), ""))
}

// KeptMountFlags are those of the flags in statfs(2) that a remount must repeat when it clears
// these attributes.
func KeptMountFlags(clear uint64) int {
	keep := kept &^ MountFlags(clear)
	if clear&unix.MOUNT_ATTR__ATIME != 0 {
		keep &^= unix.MS_NOATIME
	}
	return keep
}
