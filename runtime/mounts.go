package runtime

import (
	"errors"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	"berth/kernel/stage"
	oci "berth/oci/bundle"
)

// mountPlan is one mount of the specification, with what the parent prepares for it.
type mountPlan struct {
	oci.Mount
	opts   mountOptions
	at     string // Destination, without symbolic links that lead nowhere
	source int    // of a bind mount: its detached copy
	kind   targetKind
}

// planMounts parses all mounts and makes the detached copies of the bind mounts'
// sources, so that no path of the host is resolved in the child.
func (b *builder) planMounts(list []oci.Mount) ([]*mountPlan, error) {
	plans := make([]*mountPlan, 0, len(list))
	for _, m := range list {
		if !path.IsAbs(m.Destination) {
			// Accepted by the specification's older versions, and meant from the root.
			m.Destination = "/" + m.Destination
		}
		m.Destination = path.Clean(m.Destination)
		opts, err := parseMountOptions(m.Options)
		if err != nil {
			return nil, fail.Mark(fail.Of(err), &mountError{m.Destination, err})
		}
		plan := &mountPlan{Mount: m, opts: opts, source: -1, at: b.throughLinks(m.Destination)}
		plan.opts.bind = plan.opts.bind || m.Type == "bind"
		if err := allowedOverProc(plan); err != nil {
			return nil, err
		}
		if plan.opts.bind && !opts.remount {
			if err := b.cloneSource(plan); err != nil {
				return nil, fail.Mark(fail.Of(err), &mountError{m.Destination, err})
			}
		}
		plans = append(plans, plan)
	}
	return plans, nil
}

// throughLinks resolves the symbolic links of a mount point that lead to nothing: what they
// name can then be made. An image's /etc/resolv.conf is often such a link. The child
// resolves the result inside the root again, so a wrong answer can harm nobody.
func (b *builder) throughLinks(dest string) string {
	if b.rootFile == nil {
		return dest
	}
	f, err := kernel.OpenIn(b.rootFile, dest, unix.O_PATH, 0)
	if err == nil {
		f.Close()
	}
	if !errors.Is(err, unix.ENOENT) {
		return dest
	}
	const maxLinks = 40 // as path_resolution(7)
	at, rest := "/", components(dest)
	for links := 0; len(rest) > 0 && links < maxLinks; {
		name := rest[0]
		if name == ".." {
			at, rest = path.Dir(at), rest[1:]
			continue
		}
		next := path.Join(at, name)
		target, kind := b.link(next)
		switch kind {
		case noEntry:
			return path.Join(append([]string{at}, rest...)...)
		case noLink:
			at, rest = next, rest[1:]
		case aLink:
			links++
			if path.IsAbs(target) {
				at = "/"
			}
			rest = append(strings.FieldsFunc(target, func(r rune) bool { return r == '/' }), rest[1:]...)
		}
	}
	if len(rest) > 0 {
		return dest
	}
	return at
}

type linkKind int

const (
	noEntry linkKind = iota
	noLink
	aLink
)

// link tells what the last name of a path in the root is.
func (b *builder) link(name string) (target string, kind linkKind) {
	f, err := kernel.OpenIn(b.rootFile, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", noEntry
	}
	defer f.Close()
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if err != nil {
		return "", noLink
	}
	return string(buf[:n]), aLink
}

type mountError struct {
	at  string
	err error
}

func (e *mountError) Error() string { return "mount " + e.at + ": " + e.err.Error() }
func (e *mountError) Unwrap() error { return e.err }

// cloneSource makes the detached copy of a bind mount's source and gives it its
// attributes and propagation.
func (b *builder) cloneSource(plan *mountPlan) error {
	f, given := b.binds[plan.Destination]
	if !given {
		source := plan.Source
		if !filepath.IsAbs(source) {
			source = filepath.Join(b.bundle, source)
		}
		var err error
		if f, err = kernel.CloneTree(source, plan.opts.recurse); err != nil {
			return fail.Mark(classOfPath(err), err)
		}
		defer f.Close()
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return err
	}
	b.closeLater(fd)
	plan.source = fd
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		plan.kind = file
	}
	var fs unix.Statfs_t
	if plan.Destination == "/proc" && (unix.Fstatfs(fd, &fs) != nil || fs.Type != procSuperMagic) {
		return fail.New(fail.Invalid, "%s cannot take the place of /proc: it is not of type proc", plan.Source)
	}
	// Unless something else is asked for, the container sees what is mounted on the
	// host below the source later, and the host sees nothing of the container's.
	how := plan.opts.propagation
	if len(how) == 0 {
		how = []propagation{{unix.MS_SLAVE, true}}
	}
	for _, p := range how {
		if p.flag == unix.MS_UNBINDABLE {
			continue // a detached mount that is unbindable cannot be attached; see attach
		}
		if err := b.setDetached(f, stage.Int(fd), p.recursive, unix.MountAttr{Propagation: p.flag}); err != nil {
			return err
		}
	}
	if plan.opts.idmap || len(plan.UIDMappings) > 0 {
		if err := b.mapIDs(f, &plan.Mount, plan.opts.idmapBelow); err != nil {
			return err
		}
	}
	if o := plan.opts; o.set|o.clear != 0 {
		if err := b.setDetached(f, stage.Int(fd), false, unix.MountAttr{Attr_set: o.set, Attr_clr: o.clear}); err != nil {
			return err
		}
	}
	if o := plan.opts; o.setBelow|o.clearBelow != 0 {
		if err := b.setDetached(f, stage.Int(fd), true, unix.MountAttr{Attr_set: o.setBelow, Attr_clr: o.clearBelow}); err != nil {
			return err
		}
	}
	return nil
}

// procFiles may be covered by a bind mount (lxcfs and the like). Anything else in
// /proc could fool the kernel's security interfaces, e.g. /proc/self/attr.
var procFiles = map[string]bool{
	"/proc/cpuinfo": true, "/proc/diskstats": true, "/proc/meminfo": true, "/proc/stat": true,
	"/proc/swaps": true, "/proc/uptime": true, "/proc/loadavg": true, "/proc/slabinfo": true,
	"/proc/sys/kernel/ns_last_pid": true, "/proc/sys/crypto/fips_enabled": true,
}

func allowedOverProc(plan *mountPlan) error {
	d := plan.Destination
	if d == "/" && !plan.opts.remount {
		return fail.New(fail.Invalid, "mount %s: the root file system cannot be covered", d)
	}
	if d == "/proc" && plan.Type != "proc" && !plan.opts.bind && !plan.opts.remount { // of a bind mount see cloneSource
		return fail.New(fail.Invalid, "mount %s: a %s cannot take the place of /proc", d, plan.Type)
	}
	if !strings.HasPrefix(d, "/proc/") || procFiles[d] || plan.opts.remount {
		return nil
	}
	// A mount of the kernel's own, where it belongs.
	if d == "/proc/sys/fs/binfmt_misc" && plan.Type == "binfmt_misc" {
		return nil
	}
	// Read-only views of /proc's own directories are harmless.
	if plan.opts.bind && (plan.Source == d || d == "/proc/sys" && plan.Source == "/proc/sys") {
		return nil
	}
	return fail.New(fail.Invalid, "mount %s: inside /proc only files like /proc/cpuinfo can be covered", d)
}

// mount compiles one mount.
func (b *builder) mount(plan *mountPlan) error {
	switch {
	case plan.opts.remount:
		b.remount(plan)
	case plan.opts.bind:
		b.bind(plan)
	case plan.Type == "cgroup" || plan.Type == "cgroup2":
		return b.mountCgroup(plan)
	default:
		b.mountFS(plan)
	}
	return nil
}

// bind attaches a detached copy.
func (b *builder) bind(plan *mountPlan) {
	p := b.p
	p.About("create mount point", plan.Destination)
	t := b.target(plan.at, plan.kind, resolveInRoot)
	p.About("mount "+plan.Source+" at", plan.Destination)
	b.refuseProc(plan, t)
	m := p.FD(plan.source)
	b.moveMount(m, t.Arg())
	for _, prop := range plan.opts.propagation {
		if prop.flag == unix.MS_UNBINDABLE {
			b.setMount(m, prop.recursive, unix.MountAttr{Propagation: prop.flag})
		}
	}
	b.close(t)
}

const procSuperMagic = 0x9fa0

// refuseProc ends the child if a mount point that is not in /proc by its name turns
// out to be there, through a symbolic link of the image.
func (b *builder) refuseProc(plan *mountPlan, t stage.Slot) {
	if plan.Destination == "/proc" || strings.HasPrefix(plan.Destination, "/proc/") {
		return
	}
	p := b.p
	magic, fine := p.Slot(), p.NewLabel()
	p.Call(unix.SYS_FSTATFS, t.Arg(), b.statfs.addr)
	p.Load32(magic, b.statfs.offset) // f_type is the first field
	p.JumpUnless(magic, procSuperMagic, fine)
	p.Fail(unix.EPERM)
	p.Here(fine)
}

// remount changes the attributes of what is mounted at the destination.
func (b *builder) remount(plan *mountPlan) {
	p := b.p
	p.About("remount", plan.Destination)
	t := p.Slot()
	b.openIn(plan.Destination, unix.O_PATH, resolveInRoot).Into(t)
	b.attributes(t.Arg(), plan)
	b.close(t)
}

func (b *builder) attributes(m stage.Arg, plan *mountPlan) {
	o := plan.opts
	if o.set|o.clear != 0 {
		b.setMount(m, false, unix.MountAttr{Attr_set: o.set, Attr_clr: o.clear})
	}
	if o.setBelow|o.clearBelow != 0 {
		b.setMount(m, true, unix.MountAttr{Attr_set: o.setBelow, Attr_clr: o.clearBelow})
	}
	for _, prop := range o.propagation {
		b.setMount(m, prop.recursive, unix.MountAttr{Propagation: prop.flag})
	}
}

// mountFS mounts a new file system.
func (b *builder) mountFS(plan *mountPlan) {
	p := b.p
	p.About("create mount point", plan.Destination)
	at, resolve := plan.at, uint64(resolveInRoot)
	if plan.Type == "proc" || plan.Type == "sysfs" {
		// These are what masks, read-only paths and AppArmor profiles rely on: a link of the
		// image, also one that leads nowhere, must not put them elsewhere (CVE-2023-28642).
		at, resolve = plan.Destination, resolvePlain
	}
	t := b.target(at, directory, resolve)
	p.About("mount "+plan.Type+" at", plan.Destination)
	b.refuseProc(plan, t)
	attrs := plan.opts.set
	late := plan.Type == "tmpfs" && plan.Destination == "/dev" && attrs&unix.MOUNT_ATTR_RDONLY != 0
	if late {
		attrs &^= unix.MOUNT_ATTR_RDONLY // device files come first
	}
	then := uint64(0) // what only mount(2) can do here
	if !kernel.HasMountSetattr() {
		then = attrs & unix.MOUNT_ATTR_NOSYMFOLLOW
		attrs &^= then
	}
	m := p.Slot()
	data := labelled(plan, b.spec.Linux.MountLabel)
	writtenTo := plan.Type == "tmpfs" && (plan.opts.copyUp || !hasOption(plan.opts.data, "mode"))
	if writtenTo {
		b.newMount(m, plan.Type, plan.Source, data, attrs&^unix.MOUNT_ATTR_RDONLY)
		if plan.opts.copyUp {
			b.copyUp(t.Arg(), m.Arg(), hasOption(plan.opts.data, "mode"))
		} else {
			b.copyMode(t, m)
		}
	} else {
		b.newMount(m, plan.Type, plan.Source, data, attrs)
	}
	b.moveMount(m.Arg(), t.Arg())
	if plan.Type == "mqueue" {
		b.labelMount(m, b.spec.Linux.MountLabel)
	}
	if writtenTo {
		then |= attrs & unix.MOUNT_ATTR_RDONLY
	}
	if then != 0 {
		b.setMount(m.Arg(), false, unix.MountAttr{Attr_set: then})
	}
	rest := *plan
	rest.opts.set, rest.opts.clear = 0, 0
	b.attributes(m.Arg(), &rest)
	b.close(m)
	b.close(t)
	if late {
		b.afterDev = append(b.afterDev, plan.Destination)
	}
}

// newMount compiles a detached mount of a file system type into m.
func (b *builder) newMount(m stage.Slot, fsType, source string, data []string, attrs uint64) {
	p := b.p
	fs := p.Slot()
	p.Call(unix.SYS_FSOPEN, p.Str(fsType), stage.Int(unix.FSOPEN_CLOEXEC)).Into(fs)
	config := func(cmd int, key, value stage.Arg) {
		p.Call(unix.SYS_FSCONFIG, fs.Arg(), stage.Int(cmd), key, value, stage.Int(0))
	}
	if source != "" {
		config(unix.FSCONFIG_SET_STRING, p.Str("source"), p.Str(source))
	}
	for _, d := range data {
		if key, value, ok := strings.Cut(d, "="); ok {
			config(unix.FSCONFIG_SET_STRING, p.Str(key), p.Str(value))
		} else {
			config(unix.FSCONFIG_SET_FLAG, p.Str(key), stage.Int(0))
		}
	}
	config(unix.FSCONFIG_CMD_CREATE, stage.Int(0), stage.Int(0))
	p.Call(unix.SYS_FSMOUNT, fs.Arg(), stage.Int(unix.FSMOUNT_CLOEXEC), stage.Int(int(attrs))).Into(m)
	b.close(fs)
}

func hasOption(data []string, key string) bool {
	for _, d := range data {
		if k, _, _ := strings.Cut(d, "="); k == key {
			return true
		}
	}
	return false
}

// copyMode gives a tmpfs the permissions of the directory that it covers, so that
// --tmpfs /tmp keeps the sticky bit of the image's /tmp.
func (b *builder) copyMode(from, to stage.Slot) {
	p := b.p
	mode, dir := p.Slot(), p.Slot()
	// The mode is at offset 28 of struct statx, with the type, which fchmod ignores.
	p.Store32(b.statx.offset+28, stage.Int(0))
	p.Call(unix.SYS_STATX, from.Arg(), b.empty(), stage.Int(unix.AT_EMPTY_PATH), stage.Int(unix.STATX_MODE), b.statx.addr)
	p.Load32(mode, b.statx.offset+28)
	p.Call(unix.SYS_OPENAT, to.Arg(), p.Str("."), stage.Int(unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)).Into(dir)
	p.Call(unix.SYS_FCHMOD, dir.Arg(), mode.Arg())
	b.close(dir)
}
