package runtime

import (
	"os"
	"path"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	"berth/kernel/stage"
)

// defaultDevices are in every container (runtime-spec, config-linux.md, "Default Devices").
var defaultDevices = []specs.LinuxDevice{
	{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
	{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5},
	{Path: "/dev/full", Type: "c", Major: 1, Minor: 7},
	{Path: "/dev/random", Type: "c", Major: 1, Minor: 8},
	{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9},
	{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0},
}

// deviceTypes are the types that the specification knows; without one, a device is a
// character device.
var deviceTypes = map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}

var devLinks = [][2]string{
	{"/proc/self/fd", "fd"},
	{"/proc/self/fd/0", "stdin"},
	{"/proc/self/fd/1", "stdout"},
	{"/proc/self/fd/2", "stderr"},
}

// ownDev tells whether /dev is the container's own. A bind mount there is the caller's,
// and is left as it is.
func ownDev(plans []*mountPlan) bool {
	for _, m := range plans {
		if m.Destination == "/dev" && m.opts.bind {
			return false
		}
	}
	return true
}

// devices makes the device files. In a user namespace, where mknod is refused, the
// host's are bind-mounted.
func (b *builder) devices() error {
	list := append([]specs.LinuxDevice(nil), defaultDevices...)
	wanted := map[string]bool{}
	for _, d := range b.spec.Linux.Devices {
		wanted[path.Clean(d.Path)] = true
		replaced := false
		for i := range list {
			if path.Clean(d.Path) == list[i].Path {
				list[i], replaced = d, true
			}
		}
		if !replaced {
			list = append(list, d)
		}
	}
	var dev stage.Slot = -1 // /dev, opened once
	for _, d := range list {
		d.Path = path.Clean(d.Path)
		mode := uint32(0o666)
		if d.FileMode != nil {
			mode = uint32(d.FileMode.Perm())
		}
		mode |= deviceTypes[d.Type]
		if (b.userns || kernel.InUserNamespace()) && d.Type != "p" {
			if err := b.bindDevice(d.Path); err != nil {
				return err
			}
			continue
		}
		p := b.p
		p.About("create device", d.Path)
		dir, name := path.Split(d.Path)
		var at stage.Slot
		if dir == "/dev/" {
			if dev < 0 {
				dev = b.target("/dev", directory, resolveInRoot)
			}
			at = dev
		} else {
			at = b.target(dir, directory, resolveInRoot)
		}
		exists, done := p.NewLabel(), p.NewLabel()
		p.Call(unix.SYS_MKNODAT, at.Arg(), p.Str(name), stage.Int(int(mode)), stage.Int(int(unix.Mkdev(uint32(d.Major), uint32(d.Minor))))).
			On(unix.EEXIST, exists)
		if d.UID != nil || d.GID != nil {
			p.Call(unix.SYS_FCHOWNAT, at.Arg(), p.Str(name), idArg(d.UID), idArg(d.GID), stage.Int(unix.AT_SYMLINK_NOFOLLOW))
		}
		p.Jump(done)
		p.Here(exists)
		if wanted[d.Path] {
			b.sameDevice(at, name, &d, mode)
		}
		p.Here(done)
	}
	return nil
}

// sameDevice ends the child if an existing file is another one than the device d: the
// specification demands that of those it lists. Without /dev of their own, containers
// have default ones as the image has them.
func (b *builder) sameDevice(at stage.Slot, name string, d *specs.LinuxDevice, mode uint32) {
	p := b.p
	wrong, same := p.NewLabel(), p.NewLabel()
	b.unlessDevice(at.Arg(), name, d, mode, wrong)
	p.Jump(same)
	p.Here(wrong)
	p.Fail(unix.EEXIST)
	p.Here(same)
}

// unlessDevice goes on at wrong if name in the directory at, or with no name at itself, is
// not the device d, which a negative at never is.
func (b *builder) unlessDevice(at stage.Arg, name string, d *specs.LinuxDevice, mode uint32, wrong stage.Label) {
	p := b.p
	// Offsets of stx_mode, stx_rdev_major and stx_rdev_minor in struct statx.
	const modeAt, majorAt, minorAt = 28, 128, 132
	p.Store32(b.statx.offset+modeAt, stage.Int(0)) // stx_mode has 16 bits
	p.Call(unix.SYS_STATX, at, p.Str(name), stage.Int(unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH), stage.Int(unix.STATX_TYPE), b.statx.addr).
		On(unix.EBADF, wrong)
	value := p.Slot()
	p.Load32(value, b.statx.offset+modeAt)
	p.Mix(value, value.Arg(), unix.S_IFMT, 0)
	p.JumpUnless(value, int(mode&unix.S_IFMT), wrong)
	if d.Type != "p" {
		p.Load32(value, b.statx.offset+majorAt)
		p.JumpUnless(value, int(d.Major), wrong)
		p.Load32(value, b.statx.offset+minorAt)
		p.JumpUnless(value, int(d.Minor), wrong)
	}
}

func idArg(id *uint32) stage.Arg {
	if id == nil {
		return stage.Int(0)
	}
	return stage.Int(int(*id))
}

func (b *builder) bindDevice(name string) error {
	f, err := kernel.CloneTree(name, false)
	if err != nil {
		return fail.New(classOfPath(err), "device %s: %w", name, err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	b.closeLater(fd)
	if err := b.setDetached(f, stage.Int(fd), false, unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
		return fail.New(fail.Internal, "device %s: %w", name, err)
	}
	b.p.About("create device", name)
	t := b.target(name, file, resolveInRoot)
	b.moveMount(b.p.FD(fd), t.Arg())
	b.close(t)
	return nil
}

// links makes the customary symbolic links in /dev.
func (b *builder) links(ptmx bool) {
	p := b.p
	p.About("create links in", "/dev")
	dev := b.target("/dev", directory, resolveInRoot)
	for _, l := range devLinks {
		p.Call(unix.SYS_SYMLINKAT, p.Str(l[0]), dev.Arg(), p.Str(l[1])).Ignore(unix.EEXIST)
	}
	if ptmx {
		p.Call(unix.SYS_UNLINKAT, dev.Arg(), p.Str("ptmx"), stage.Int(0)).Ignore(unix.ENOENT)
		p.Call(unix.SYS_SYMLINKAT, p.Str("pts/ptmx"), dev.Arg(), p.Str("ptmx"))
	}
	b.close(dev)
}

// console opens a terminal in the container's own devpts, sends its master to the
// parent and leaves the slave in the returned slot.
func (b *builder) console(uid uint32) stage.Slot {
	p := b.p
	p.About("open a terminal", "/dev/pts/ptmx")
	master, slave, magic, good := p.Slot(), p.Slot(), p.Slot(), p.NewLabel()
	// Opened by its path only after it is known what is there: the open of another
	// device, or of a pipe, could have effects.
	b.openIn("/dev/pts", unix.O_PATH|unix.O_DIRECTORY, resolvePlain).Into(master)
	p.Call(unix.SYS_FSTATFS, master.Arg(), b.statfs.addr)
	p.Load32(magic, b.statfs.offset)
	wrong := p.NewLabel()
	p.JumpUnless(magic, devptsSuperMagic, wrong)
	p.Jump(good)
	p.Here(wrong)
	p.Fail(unix.ENOTTY)
	p.Here(good)
	how := &unix.OpenHow{Flags: unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH}
	p.Call(unix.SYS_OPENAT2, master.Arg(), p.Str("ptmx"), stage.Pin(p, how), stage.Int(unix.SizeofOpenHow)).Into(master)
	unlock := new(int32)
	p.Call(unix.SYS_IOCTL, master.Arg(), stage.Int(unix.TIOCSPTLCK), stage.Pin(p, unlock))
	p.Call(unix.SYS_IOCTL, master.Arg(), stage.Int(unix.TIOCGPTPEER), stage.Int(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)).Into(slave)
	p.SendFile(master, sentConsole)
	b.close(master)
	p.Call(unix.SYS_FCHOWN, slave.Arg(), stage.Int(int(uid)), stage.Int(-1)).Ignore(unix.EINVAL, unix.EPERM)
	return slave
}

const devptsSuperMagic = 0x1cd1

// bindConsole makes the terminal the container's /dev/console.
func (b *builder) bindConsole(slave stage.Slot) {
	p := b.p
	p.About("mount the terminal at", "/dev/console")
	t := b.target("/dev/console", file, resolvePlain)
	m := p.Slot()
	p.Call(unix.SYS_OPEN_TREE, slave.Arg(), b.empty(), stage.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)).Into(m)
	b.moveMount(m.Arg(), t.Arg())
	b.close(m)
	b.close(t)
}
