package runtime

import (
	"os"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	"berth/kernel/stage"
)

// Before Linux 5.12 there is no mount_setattr(2), and a mount that is attached nowhere has
// no attributes to change. What the parent would have changed is then changed by the child
// with mount(2), as soon as it has attached the mount. Attributes of all mounts below one,
// and mapped ids, such kernels do not have.

// mountChange is a use of mount_setattr(2).
type mountChange struct {
	recursive bool
	attr      unix.MountAttr
}

// setDetached changes a mount that the parent has made. fd is the descriptor by which the
// child will know it.
func (b *builder) setDetached(f *os.File, fd stage.Arg, recursive bool, attr unix.MountAttr) error {
	if kernel.HasMountSetattr() {
		return kernel.SetMount(f, recursive, attr)
	}
	if recursive && attr.Attr_set|attr.Attr_clr != 0 {
		return fail.New(fail.NotImplemented, "recursive mount options need Linux 5.12 or later")
	}
	b.changes[fd] = append(b.changes[fd], mountChange{recursive, attr})
	return nil
}

// oldSetMount is setMount by mount(2), for an attached mount. at is a name of its root; nil
// for one by its descriptor, through the host's /proc.
func (b *builder) oldSetMount(m stage.Arg, at *stage.Arg, recursive bool, attr unix.MountAttr) {
	p := b.p
	name := p.Str("")
	if at != nil {
		name = *at
	} else {
		const dir = "/proc/self/fd/"
		if b.fdName.offset == 0 {
			b.fdName.addr, b.fdName.offset = p.Scratch(len(dir) + 21)
		}
		p.PutDecimal(b.fdName.offset, dir, m)
		name = b.fdName.addr
	}
	remount := func(flags stage.Arg) {
		p.Call(unix.SYS_MOUNT, stage.Int(0), name, stage.Int(0), flags, stage.Int(0))
	}
	if attr.Propagation != 0 {
		flags := int(attr.Propagation)
		if recursive {
			flags |= unix.MS_REC
		}
		remount(stage.Int(flags))
	}
	if attr.Attr_set|attr.Attr_clr != 0 {
		const flagsOffset = 80 // of f_flags in struct statfs of 64-bit Linux
		flags := p.Slot()
		p.Call(unix.SYS_FSTATFS, m, b.statfs.addr)
		p.Load32(flags, b.statfs.offset+flagsOffset)
		p.Mix(flags, flags.Arg(), kernel.KeptMountFlags(attr.Attr_clr), kernel.MountFlags(attr.Attr_set)|unix.MS_REMOUNT|unix.MS_BIND)
		remount(flags.Arg())
	}
}

// applyChanges makes up for what could not be changed before m was attached.
func (b *builder) applyChanges(m stage.Arg) {
	for _, c := range b.changes[m] {
		b.oldSetMount(m, nil, c.recursive, c.attr)
	}
}
