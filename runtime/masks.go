package runtime

import (
	"golang.org/x/sys/unix"

	"berth/kernel/stage"
)

// masks covers paths: files with the host's /dev/null, which a container could not have made
// something else, directories with an empty tmpfs, which they share. Both are read-only: the
// container's root owns the host's device file as much as the host's does. Paths that do not
// exist need no cover.
func (b *builder) masks(paths []string) {
	if len(paths) == 0 {
		return
	}
	p := b.p
	p.About("open", "/dev/null")
	null, empty := p.Slot(), p.Slot()
	p.Call(unix.SYS_OPENAT, stage.Int(unix.AT_FDCWD), p.Str("/dev/null"), stage.Int(unix.O_PATH|unix.O_CLOEXEC)).Into(null)
	p.Set(empty, stage.Int(-1))
	for _, path := range paths {
		p.About("mask", path)
		t, m := p.Slot(), p.Slot()
		next, file, dir, copied := p.NewLabel(), p.NewLabel(), p.NewLabel(), p.NewLabel()
		cover := func(with stage.Slot) {
			b.cloneMount(with, m)
			b.moveMount(m.Arg(), t.Arg())
			if with == null {
				b.setMount(m.Arg(), false, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
			}
			b.close(m)
			b.close(t)
		}
		b.openIn(path, unix.O_PATH|unix.O_DIRECTORY, resolveInRoot).Into(t).OnOK(dir).On(unix.ENOENT, next).On(unix.ENOTDIR, file)
		p.Here(file)
		b.openIn(path, unix.O_PATH, resolveInRoot).Into(t).On(unix.ENOENT, next).On(unix.ENOTDIR, next)
		cover(null)
		p.Jump(next)

		p.Here(dir)
		p.JumpUnless(empty, -1, copied)
		b.newMount(empty, "tmpfs", "tmpfs", []string{"size=0", "nr_inodes=1", "mode=0755"},
			unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
		b.moveMount(empty.Arg(), t.Arg())
		b.close(t)
		p.Jump(next)

		p.Here(copied)
		cover(empty)
		p.Here(next)
	}
	b.close(null)
}

// readonly makes paths read-only, with all that is mounted below them.
func (b *builder) readonly(paths []string) {
	p := b.p
	for _, path := range paths {
		p.About("make read-only", path)
		t, m, next := p.Slot(), p.Slot(), p.NewLabel()
		b.openIn(path, unix.O_PATH, resolveInRoot).Into(t).On(unix.ENOENT, next).On(unix.ENOTDIR, next)
		p.Call(unix.SYS_OPEN_TREE, t.Arg(), b.empty(), stage.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)).Into(m)
		b.moveMount(m.Arg(), t.Arg())
		b.setMount(m.Arg(), true, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		b.close(m)
		b.close(t)
		p.Here(next)
	}
}

// cloneMount makes a detached copy of what the descriptor in from is, as a mount.
func (b *builder) cloneMount(from, to stage.Slot) {
	b.p.Call(unix.SYS_OPEN_TREE, from.Arg(), b.empty(), stage.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)).Into(to)
}
