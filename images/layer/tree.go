package layer

import (
	"os"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"berth/archive"
	"berth/fail"
	"berth/kernel"
)

const (
	maxPath  = 4095 // PATH_MAX without its NUL: whatever is unpacked has a usable path
	maxName  = 255  // NAME_MAX
	maxLinks = 40   // symlinks in one resolution, as in the kernel (path_resolution(7))
	maxOpen  = 128  // directories kept open

	// What of a layer is held in memory is bounded: its directories and their attributes.
	maxDirs      = 1 << 20
	maxDirXattrs = 32 << 20
)

// maxImplied bounds the paths of directories that no entry names, in bytes. Tests lower it.
var maxImplied = 32 << 20

// dir is a directory of the layer being unpacked. Every directory there is has been
// made by us and is known here, so a path is resolved in memory, and each step on disk
// is one name beneath one open directory: there is nothing to escape through.
type dir struct {
	parent   *dir // nil: the layer's root
	name     string
	children map[string]*dir
	length   int // of its path

	archive.Attributes
	implicit bool // no entry named it
	opaque   bool // it hides what lower layers have there

	fd      int          // -1: not open
	touched bool         // used since the clock's hand passed
	pins    atomic.Int32 // files being made in it: keep it open
}

// tree is the directories of a layer and which of them are open.
type tree struct {
	root   *dir
	count  int
	xattrs int    // bytes of all directories' extended attributes
	open   []*dir // those with an fd but the root, in the order of a clock's dial
	hand   int
}

func newTree(rootfd int) *tree {
	root := &dir{fd: rootfd, implicit: true}
	root.Mode = 0o755
	return &tree{root: root, count: 1}
}

// add makes the node for a directory that was just created.
func (t *tree) add(parent *dir, name string) *dir {
	name = strings.Clone(name) // not a piece of a whole header
	d := &dir{parent: parent, name: name, length: parent.length + 1 + len(name), implicit: true, fd: -1}
	d.Mode = 0o755
	if parent.children == nil {
		parent.children = map[string]*dir{}
	}
	parent.children[name] = d
	t.count++
	return d
}

// room fails if no directory called name can be made in parent.
func (t *tree) room(parent *dir, name string) error {
	if len(name) > maxName || parent.length+1+len(name) > maxPath {
		return fail.New(fail.Invalid, "file name is too long")
	}
	if t.count >= maxDirs {
		return fail.New(fail.Invalid, "more than %d directories", maxDirs)
	}
	return nil
}

// describe gives d the attributes of its entry.
func (t *tree) describe(d *dir, a archive.Attributes) error {
	t.xattrs += xattrBytes(&a) - xattrBytes(&d.Attributes)
	if t.xattrs > maxDirXattrs {
		return fail.New(fail.Invalid, "directories have more than %d MiB of extended attributes", maxDirXattrs>>20)
	}
	d.Attributes, d.implicit = a, false
	return nil
}

// use opens d if it is not open. The descriptor is good until the next use, or while
// d is pinned.
func (t *tree) use(d *dir) (int, error) {
	d.touched = true
	if d.fd >= 0 {
		return d.fd, nil
	}
	parent, err := t.use(d.parent)
	if err != nil {
		return -1, err
	}
	fd, err := kernel.OpenAt(parent, d.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, err
	}
	d.fd = fd
	t.keep(d)
	return fd, nil
}

// keep puts d on the dial, in the place of one that was not used for a round.
func (t *tree) keep(d *dir) {
	if len(t.open) < maxOpen {
		t.open = append(t.open, d)
		return
	}
	for range 2 * len(t.open) {
		t.hand = (t.hand + 1) % len(t.open)
		old := t.open[t.hand]
		switch {
		case old.pins.Load() > 0:
		case old.touched:
			old.touched = false
		default:
			t.shut(old)
			t.open[t.hand] = d
			return
		}
	}
	t.open = append(t.open, d) // all are in use: let the dial grow
}

func (t *tree) shut(d *dir) {
	if d.fd >= 0 {
		unix.Close(d.fd)
		d.fd = -1
	}
}

// forget drops d and everything below it, which is about to be deleted.
func (t *tree) forget(d *dir) {
	gone := map[*dir]bool{}
	var mark func(*dir)
	mark = func(d *dir) {
		gone[d] = true
		t.xattrs -= xattrBytes(&d.Attributes)
		for _, c := range d.children {
			mark(c)
		}
	}
	mark(d)
	kept := t.open[:0]
	for _, o := range t.open {
		if gone[o] {
			t.shut(o)
		} else {
			kept = append(kept, o)
		}
	}
	t.open, t.hand = kept, 0
	t.count -= len(gone)
	delete(d.parent.children, d.name)
}

// closeAll closes all descriptors but the root's, which belongs to the caller.
func (t *tree) closeAll() {
	for _, d := range t.open {
		t.shut(d)
	}
	t.open = nil
}

// removeAll deletes the file or directory called name in dirfd.
func removeAll(dirfd int, name string) error {
	err := unix.Unlinkat(dirfd, name, 0)
	if err != unix.EISDIR {
		return err
	}
	fd, err := kernel.OpenAt(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := removeAll(fd, n); err != nil {
			return err
		}
	}
	return unix.Unlinkat(dirfd, name, unix.AT_REMOVEDIR)
}

// cleanName gives the path of an entry relative to the layer's root, "" for the root
// itself. A name that climbs out is class Invalid.
func cleanName(name string) (string, error) {
	var parts []string
	for p := range strings.SplitSeq(name, "/") {
		switch p {
		case "", ".":
		case "..":
			if len(parts) == 0 {
				return "", fail.New(fail.Invalid, "the name leaves the layer")
			}
			parts = parts[:len(parts)-1]
		default:
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, "/"), nil
}

// clean is cleanName, fast for the names that tar programs write.
func clean(name string) (string, error) {
	short := strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if strings.HasPrefix(short, "/") || strings.HasPrefix(short, ".") || strings.HasSuffix(short, "/") ||
		strings.Contains(short, "//") || strings.Contains(short, "/.") {
		return cleanName(name)
	}
	return short, nil
}

// split parts a clean path into its directory and its last name.
func split(path string) (parent, base string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}
