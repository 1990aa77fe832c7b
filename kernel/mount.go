package kernel

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// The kernel takes at most 255 bytes as one string parameter of a file system.
const maxParameter = 255

// Overlay is an overlay file system to be mounted.
type Overlay struct {
	Lower []string // top-most first; at least one, two without Upper
	Upper string   // empty: read-only
	Work  string
	// UserXattr keeps overlay's own attributes in user.*, as an unprivileged user
	// namespace needs.
	UserXattr bool
	// Volatile leaves out every sync: of what a process asks for, and of the whole file system
	// below when the overlay ends. For what is removed with its container anyway.
	Volatile bool
}

// parameters are the options besides the layers. Redirects, metadata-only copies and
// the index are off, so that the upper directory alone tells the difference.
func (o *Overlay) parameters() [][2]string {
	list := [][2]string{{"redirect_dir", "off"}, {"metacopy", "off"}, {"index", "off"}}
	if o.UserXattr {
		// The kernel refuses an explicit redirect_dir or metacopy with userxattr, which
		// implies both.
		list = [][2]string{{"index", "off"}}
	}
	return list
}

// flags are the options without a value.
func (o *Overlay) flags() (list []string) {
	if o.UserXattr {
		list = append(list, "userxattr")
	}
	if o.Volatile && o.Upper != "" {
		list = append(list, "volatile")
	}
	return list
}

// MountOverlay mounts o, attached nowhere: the descriptor is the root directory of the
// new mount, and closing it before move_mount(2) unmounts it. Kernels that cannot take
// layers one by one (before 6.8) get the old mount(2) in a private mount namespace.
func MountOverlay(o *Overlay) (*os.File, error) {
	if o.Upper != "" {
		// What a volatile overlay leaves, to keep all others from mounting its upper directory
		// after a crash of the machine. Ours is not mounted again after one.
		if err := os.RemoveAll(o.Work + "/work/incompat"); err != nil {
			return nil, err
		}
	}
	f, err := mountOverlay(o)
	if errors.Is(err, unix.EINVAL) && o.Volatile { // a kernel before 5.10
		durable := *o
		durable.Volatile = false
		return mountOverlay(&durable)
	}
	return f, err
}

func mountOverlay(o *Overlay) (*os.File, error) {
	f, err := mountOverlayByParts(o)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, errTooLong) {
		if old, oldErr := MountOverlayByText(o); oldErr == nil || errors.Is(err, errTooLong) {
			return old, oldErr
		}
	}
	return f, err
}

var errTooLong = errors.New("path too long for one parameter")

func mountOverlayByParts(o *Overlay) (*os.File, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	set := func(key, value string) error {
		if len(value) > maxParameter {
			return errTooLong
		}
		return unix.FsconfigSetString(fs, key, value)
	}
	fail := func(what string, err error) (*os.File, error) {
		return nil, &os.PathError{Op: "mount overlay:", Path: what, Err: explain(fs, err)}
	}
	set("source", "overlay")
	for _, l := range o.Lower {
		if err := set("lowerdir+", l); err != nil {
			return fail(l, err)
		}
	}
	if o.Upper != "" {
		if err := set("upperdir", o.Upper); err != nil {
			return fail(o.Upper, err)
		}
		if err := set("workdir", o.Work); err != nil {
			return fail(o.Work, err)
		}
	}
	for _, kv := range o.parameters() {
		if err := set(kv[0], kv[1]); err != nil {
			return fail(kv[0], err)
		}
	}
	for _, flag := range o.flags() {
		if err := unix.FsconfigSetFlag(fs, flag); err != nil {
			return fail(flag, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fail(o.Upper, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return fail(o.Upper, err)
	}
	return os.NewFile(uintptr(fd), "overlay"), nil
}

// explain adds what the file system itself said about a refused parameter, which is
// read from the context's descriptor.
func explain(fs int, err error) error {
	buf := make([]byte, 512)
	n, readErr := unix.Read(fs, buf)
	if readErr != nil || n < 3 {
		return err
	}
	return &explained{err, strings.TrimSpace(string(buf[2:n]))}
}

type explained struct {
	error
	text string
}

func (e *explained) Error() string { return e.error.Error() + " (" + e.text + ")" }
func (e *explained) Unwrap() error { return e.error }

// MountOverlayByText is MountOverlay for old kernels: it mounts with one page of options,
// where every layer is named by its descriptor, relative to /proc/thread-self/fd.
func MountOverlayByText(o *Overlay) (*os.File, error) {
	return InPrivateMounts(func() (*os.File, error) {
		text, files, err := o.text()
		defer func() {
			for _, f := range files {
				unix.Close(f)
			}
		}()
		if err != nil {
			return nil, err
		}
		// The thread has a working directory of its own, as it has mounts of its own.
		if err := unix.Chdir("/proc/thread-self/fd"); err != nil {
			return nil, os.NewSyscallError("chdir", err)
		}
		// The top layer's own directory is as good a place as any: nobody else sees it.
		at := o.Lower[0]
		if err := unix.Mount("overlay", at, "overlay", 0, text); err != nil {
			return nil, &os.PathError{Op: "mount overlay:", Path: o.Upper, Err: err}
		}
		return CloneTree(at, false)
	})
}

// text is the option string, and the descriptors that its paths refer to.
func (o *Overlay) text() (string, []int, error) {
	var files []int
	var text strings.Builder
	add := func(key, path string) error {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		files = append(files, fd)
		text.WriteString(key + strconv.Itoa(fd))
		return nil
	}
	for i, l := range o.Lower {
		if err := add([]string{"lowerdir=", ":"}[min(i, 1)], l); err != nil {
			return "", files, err
		}
	}
	if o.Upper != "" {
		if err := add(",upperdir=", o.Upper); err != nil {
			return "", files, err
		}
		if err := add(",workdir=", o.Work); err != nil {
			return "", files, err
		}
	}
	for _, kv := range o.parameters() {
		text.WriteString("," + kv[0] + "=" + kv[1])
	}
	for _, flag := range o.flags() {
		text.WriteString("," + flag)
	}
	if text.Len() >= os.Getpagesize() {
		return "", files, &os.PathError{Op: "mount overlay:", Path: strconv.Itoa(len(o.Lower)) + " layers", Err: unix.ENAMETOOLONG}
	}
	return text.String(), files, nil
}

// InPrivateMounts calls f on a thread of its own in a mount namespace that ends with it.
func InPrivateMounts(f func() (*os.File, error)) (mount *os.File, err error) {
	OnOwnThread(func() {
		if err = os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNS)); err != nil {
			return
		}
		if err = os.NewSyscallError("mount", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
			return
		}
		mount, err = f()
	})
	return mount, err
}

// CloneTree makes a detached copy of the mount at path, with all mounts below it if
// recursive: the root directory of the copy, to be attached with move_mount(2).
func CloneTree(path string, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// HasMountSetattr tells whether SetMount works here: mount_setattr(2) is new in Linux 5.12.
var HasMountSetattr = sync.OnceValue(func() bool {
	return unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, new(unix.MountAttr)) != unix.ENOSYS
})

// SetMount changes attributes and propagation of the mount whose root f is
// (mount_setattr(2)).
func SetMount(f *os.File, recursive bool, attr unix.MountAttr) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(int(f.Fd()), "", flags, &attr))
}
