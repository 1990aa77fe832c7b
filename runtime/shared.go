package runtime

import (
	"errors"
	"io"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel/stage"
)

// mountID is the number of the mount that a descriptor is on, 0 if it cannot be told.
func mountID(f *os.File) uint64 {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return 0
	}
	return st.Mnt_id
}

// unmountRoot takes the root of a container away that lived in a mount namespace with
// others, and with it everything that was mounted below. A root that is not there any
// more is no error, nor is a namespace that is gone.
func (c *Container) unmountRoot() error {
	if !c.shared || c.mount == 0 {
		return nil
	}
	p := stage.New()
	for _, ns := range c.spec.Linux.Namespaces {
		if ns.Type != specs.MountNamespace {
			continue
		}
		fd, err := unix.Open(ns.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
			return nil
		}
		if err != nil {
			return &os.PathError{Op: "open", Path: ns.Path, Err: err}
		}
		defer unix.Close(fd)
		p.About("join namespace", ns.Path)
		p.Call(unix.SYS_SETNS, p.FD(fd), stage.Int(unix.CLONE_NEWNS))
	}
	p.About("unmount", c.at)
	statx, offset := p.Scratch(256)
	gone, id := p.NewLabel(), p.Slot()
	p.Call(unix.SYS_STATX, stage.Int(unix.AT_FDCWD), p.Str(c.at), stage.Int(unix.AT_SYMLINK_NOFOLLOW), stage.Int(unix.STATX_MNT_ID), statx).
		On(unix.ENOENT, gone).On(unix.ENOTDIR, gone)
	p.Load32(id, offset+mntIDOffset)
	p.JumpUnless(id, int(c.mount), gone)
	p.Call(unix.SYS_UMOUNT2, p.Str(c.at), stage.Int(unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
	p.Here(gone)
	p.Exit(0)
	child, err := stage.Start(p, stage.Options{FirstFree: 3})
	if err != nil {
		return err
	}
	var proc Process
	if err := proc.adopt(child); err != nil {
		return err
	}
	defer proc.Release()
	_, err = child.Receive()
	_, waitErr := proc.reap()
	if err != nil && err != io.EOF {
		return fail.New(fail.Internal, "root file system: %w", err)
	}
	return waitErr
}

// mntIDOffset is where stx_mnt_id is in struct statx; a mount's plain number fits into
// its lower half.
const mntIDOffset = 0x90
