package external

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"berth/kernel"
)

// attachment is a detached mount and the path where it is to be.
type attachment struct {
	mount *os.File
	at    string
}

// inPrivateMounts calls fn on a thread of its own in a copy of our mount namespace in which
// the mounts are attached, on directories of one file system. The namespace lives as
// long as fn and the processes it has started in it.
func inPrivateMounts(mounts []attachment, fn func() error) error {
	var err error
	kernel.OnOwnThread(func() {
		attached := 0
		if err = enterPrivateMounts(mounts[0].at); err == nil {
			for ; attached < len(mounts) && err == nil; attached++ {
				err = mounts[attached].attach()
			}
		}
		if err == nil {
			err = fn()
		}
		for _, m := range mounts[:attached] {
			_ = unix.Unmount(m.at, unix.MNT_DETACH) // now, and not when the thread has ended
		}
	})
	return err
}

func (m attachment) attach() error {
	if err := unix.MoveMount(int(m.mount.Fd()), "", unix.AT_FDCWD, m.at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "attach a mount at", Path: m.at, Err: err}
	}
	return nil
}

func enterPrivateMounts(at string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	// A bind mount may ask to be shared with the host, so the others stay as they are. But
	// the mount that we mount on must not tell the host.
	below, err := mountPoint(at)
	if err != nil {
		return err
	}
	if err := unix.Mount("", below, "", unix.MS_SLAVE, ""); err != nil {
		return &os.PathError{Op: "make slave", Path: below, Err: err}
	}
	return nil
}

// mountPoint is the root of the mount that the directory path lies in.
func mountPoint(path string) (string, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	id, err := mountID(path)
	if err != nil {
		return "", err
	}
	for path != "/" {
		parent := filepath.Dir(path)
		above, err := mountID(parent)
		if err != nil {
			return "", err
		}
		if above != id {
			break
		}
		path = parent
	}
	return path, nil
}

func mountID(path string) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st); err != nil {
		return 0, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return 0, fmt.Errorf("statx %s: the kernel does not tell mounts apart", path)
	}
	return st.Mnt_id, nil
}
