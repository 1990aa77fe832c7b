package runtime

import (
	"os"

	"golang.org/x/sys/unix"

	"berth/kernel"
	"berth/kernel/stage"
	oci "berth/oci/bundle"
)

// builder compiles a specification into a program. Everything it opens stays open in
// the parent until release.
type builder struct {
	p         *stage.Program
	spec      *oci.Spec
	bundle    string
	ns        *namespaces
	root      stage.Arg // the container's root directory
	userns    bool      // the container's processes are in another user namespace than ours
	awaited   bool      // the child of an exec waits, when it is ready, for what we do from outside
	open      []int     // closed by release
	files     []*os.File
	proc      stage.Slot // the host's /proc, if openProc was called
	null      stage.Slot // for streams that nobody has; 0 if there are none
	groupPath string
	labels    []label
	rootFile  *os.File // the container's root as the parent has it; nil if it has none yet
	scheduling
	idNamespaces []idNamespace
	copySource   *os.File            // see copyUp
	ownable      map[stage.Arg]bool  // streams that are handed to the user
	binds        map[string]*os.File // see Config
	afterDev     []string            // read-only when the device files are there
	warnings     []string
	passListener func(pid int, f *os.File) error // of a process for a running container
	// Memory that calls write to.
	statfs, statx, path, fdName scratch
	changes                     map[stage.Arg][]mountChange // see setDetached
}

type scratch struct {
	addr   stage.Arg
	offset int
}

const pathSize = 4096

func (b *builder) closeLater(fd int) { b.open = append(b.open, fd) }

func (b *builder) closeFile(f *os.File) { b.files = append(b.files, f) }

func (b *builder) release() {
	for _, f := range b.files {
		f.Close()
	}
	b.files = nil
	for _, fd := range b.open {
		unix.Close(fd)
	}
	b.open = nil
}

func (b *builder) close(s stage.Slot) {
	b.p.Call(unix.SYS_CLOSE, s.Arg())
}

// Resolve modes of openat2(2) for paths in a container.
const (
	resolveInRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	resolvePlain  = resolveInRoot | unix.RESOLVE_NO_SYMLINKS
)

// openIn opens a path inside the container's root.
func (b *builder) openIn(path string, flags int, resolve uint64) stage.Step {
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve}
	return b.p.Call(unix.SYS_OPENAT2, b.root, b.p.Str(path), stage.Pin(b.p, how), stage.Int(unix.SizeofOpenHow))
}

// writeFile writes a small file of the host's /proc, as the child sees it before it
// enters its root.
func (b *builder) writeFile(path, text string) {
	p := b.p
	f := p.Slot()
	p.Call(unix.SYS_OPENAT, stage.Int(unix.AT_FDCWD), p.Str(path), stage.Int(unix.O_WRONLY|unix.O_CLOEXEC)).Into(f)
	p.Call(unix.SYS_WRITE, f.Arg(), p.Bytes([]byte(text)), stage.Int(len(text)))
	b.close(f)
}

// moveMount attaches the detached mount m on the directory or file at.
func (b *builder) moveMount(m, at stage.Arg) {
	b.p.Call(unix.SYS_MOVE_MOUNT, m, b.empty(), at, b.empty(),
		stage.Int(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
	b.applyChanges(m)
}

func (b *builder) empty() stage.Arg { return b.p.Str("") }

// setMount changes attributes of an attached mount.
func (b *builder) setMount(m stage.Arg, recursive bool, attr unix.MountAttr) {
	if !kernel.HasMountSetattr() {
		b.oldSetMount(m, nil, recursive, attr)
		return
	}
	flags := unix.AT_EMPTY_PATH
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	b.p.Call(unix.SYS_MOUNT_SETATTR, m, b.empty(), stage.Int(flags), stage.Pin(b.p, &attr), stage.Int(unix.MOUNT_ATTR_SIZE_VER0))
}

// The kinds of mount points that target makes when they are missing.
type targetKind int

const (
	directory targetKind = iota
	file
)

// target compiles the way to the mount point dest, and makes what is missing of it,
// component by component: each one is made in a directory that was resolved inside
// the root, so that no symbolic link can lead out of it.
func (b *builder) target(dest string, kind targetKind, resolve uint64) stage.Slot {
	p := b.p
	t, found, missing := p.Slot(), p.NewLabel(), p.NewLabel()
	b.openIn(dest, unix.O_PATH, resolve).Into(t).OnOK(found).On(unix.ENOENT, missing)
	p.Here(missing)
	parts := components(dest)
	parent, next := p.Slot(), p.Slot()
	b.openIn("/", unix.O_PATH|unix.O_DIRECTORY, resolve).Into(parent)
	prefix := ""
	for i, name := range parts {
		prefix += "/" + name
		last := i == len(parts)-1
		there, absent := p.NewLabel(), p.NewLabel()
		flags := unix.O_PATH
		if !last {
			flags |= unix.O_DIRECTORY
		}
		b.openIn(prefix, flags, resolve).Into(next).OnOK(there).On(unix.ENOENT, absent)
		p.Here(absent)
		if last && kind == file {
			p.Call(unix.SYS_MKNODAT, parent.Arg(), p.Str(name), stage.Int(unix.S_IFREG|0o644), stage.Int(0)).Ignore(unix.EEXIST)
		} else {
			p.Call(unix.SYS_MKDIRAT, parent.Arg(), p.Str(name), stage.Int(0o755)).Ignore(unix.EEXIST)
		}
		// ENOENT here: the name is a symbolic link that leads nowhere.
		b.openIn(prefix, flags, resolve).Into(next)
		p.Here(there)
		b.close(parent)
		p.Set(parent, next.Arg())
	}
	p.Set(t, parent.Arg())
	p.Here(found)
	return t
}

// components are the names along a path in a container, from its root.
func components(path string) []string {
	var parts []string
	start := 0
	for i := 0; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		switch name := path[start:i]; name {
		case "", ".":
		case "..":
			parts = parts[:max(len(parts)-1, 0)]
		default:
			parts = append(parts, name)
		}
		start = i + 1
	}
	return parts
}
