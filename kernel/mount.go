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
	// Context is the SELinux label of all files, whatever theirs are; "": they keep their own.
	Context string
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
	if o.Context != "" {
		list = append(list, [2]string{"context", o.Context})
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
// new mount, and closing it before move_mount(2) unmounts it. Kernels before 6.8, which cannot
// take layers one by one, get all of them in one option, each named by a descriptor; if that is
// too long for an option, by mount(2) in a private mount namespace.
func MountOverlay(o *Overlay) (*os.File, error) {
	if o.Upper != "" {
		// What a volatile overlay leaves, to keep all others from mounting its upper directory
		// after a crash of the machine. Ours is not mounted again after one.
		if err := os.RemoveAll(o.Work + "/work/incompat"); err != nil {
			return nil, err
		}
	}
	var f *os.File
	var err error
	if TakesSingleLayers() {
		layers := make([][2]string, len(o.Lower))
		for i, l := range o.Lower {
			layers[i] = [2]string{"lowerdir+", l}
		}
		f, err = mountOverlay(o, layers)
	} else {
		f, err = MountOverlayByNumbers(o)
	}
	if errors.Is(err, errTooLong) {
		return MountOverlayByText(o)
	}
	return f, err
}

// TakesSingleLayers tells whether overlays know the parameter lowerdir+. Kernels before 6.5
// collect all that they are told, and complain of it, also in their log, when it comes to mounting.
var TakesSingleLayers = sync.OnceValue(func() bool {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fs)
	return unix.FsconfigSetFlag(fs, "no such parameter") != nil && unix.FsconfigSetString(fs, "lowerdir+", "/") == nil
})

// MountOverlayByNumbers is MountOverlay for kernels before 6.8, with at most some sixty layers:
// these are relative to /proc/thread-self/fd.
func MountOverlayByNumbers(o *Overlay) (f *os.File, err error) {
	OnOwnThread(func() {
		// Opened here: the kernel takes layers only from mounts of the thread's own mount
		// namespace, which need not be the caller's.
		byNumber, files, openErr := o.byNumber()
		defer closeAll(files)
		if err = openErr; err != nil {
			return
		}
		// So that the thread has a working directory of its own.
		if err = os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_FS)); err != nil {
			return
		}
		if err = os.NewSyscallError("chdir", unix.Chdir("/proc/thread-self/fd")); err != nil {
			return
		}
		f, err = mountOverlay(byNumber, [][2]string{{"lowerdir", strings.Join(byNumber.Lower, ":")}})
	})
	return f, err
}

var errTooLong = errors.New("path too long for one parameter")

func mountOverlay(o *Overlay, layers [][2]string) (*os.File, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	fail := func(what string, err error) (*os.File, error) {
		return nil, &os.PathError{Op: "mount overlay:", Path: what, Err: explain(fs, err)}
	}
	parameters := append([][2]string{{"source", "overlay"}}, layers...)
	if o.Upper != "" {
		parameters = append(parameters, [2]string{"upperdir", o.Upper}, [2]string{"workdir", o.Work})
	}
	for _, p := range append(parameters, o.parameters()...) {
		if len(p[1]) > maxParameter {
			return nil, errTooLong
		}
		if err := unix.FsconfigSetString(fs, p[0], p[1]); err != nil {
			return fail(p[1], err)
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

// MountOverlayByText is MountOverlay by mount(2), with one page of options: some six hundred
// layers, by the numbers of their descriptors.
func MountOverlayByText(o *Overlay) (*os.File, error) {
	return InPrivateMounts(func() (*os.File, error) {
		byNumber, files, err := o.byNumber()
		defer closeAll(files)
		if err != nil {
			return nil, err
		}
		text := byNumber.text()
		if len(text) >= os.Getpagesize() {
			return nil, &os.PathError{Op: "mount overlay:", Path: strconv.Itoa(len(o.Lower)) + " layers", Err: unix.ENAMETOOLONG}
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

// byNumber is o with the numbers of descriptors for paths.
func (o *Overlay) byNumber() (*Overlay, []int, error) {
	out := *o
	out.Lower = make([]string, len(o.Lower))
	var files []int
	number := func(to *string, path string) error {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		files = append(files, fd)
		*to = strconv.Itoa(fd)
		return nil
	}
	for i, l := range o.Lower {
		if err := number(&out.Lower[i], l); err != nil {
			return nil, files, err
		}
	}
	if o.Upper == "" {
		return &out, files, nil
	}
	if err := number(&out.Upper, o.Upper); err != nil {
		return nil, files, err
	}
	return &out, files, number(&out.Work, o.Work)
}

func closeAll(files []int) {
	for _, fd := range files {
		unix.Close(fd)
	}
}

// text is the option string of mount(2).
func (o *Overlay) text() string {
	var text strings.Builder
	text.WriteString("lowerdir=" + strings.Join(o.Lower, ":"))
	if o.Upper != "" {
		text.WriteString(",upperdir=" + o.Upper + ",workdir=" + o.Work)
	}
	for _, kv := range o.parameters() {
		if kv[0] == "context" { // whose categories have commas
			kv[1] = `"` + kv[1] + `"`
		}
		text.WriteString("," + kv[0] + "=" + kv[1])
	}
	for _, flag := range o.flags() {
		text.WriteString("," + flag)
	}
	return text.String()
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

// HasMountSetattr tells whether there is mount_setattr(2), new in Linux 5.12.
var HasMountSetattr = sync.OnceValue(func() bool {
	return unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, new(unix.MountAttr)) != unix.ENOSYS
})

// SetMount changes attributes and propagation of the mount whose root f is (mount_setattr(2)).
// Before Linux 5.12 a mount that is attached nowhere costs a mount namespace, and attributes of
// what is below, and mapped ids, fail with ENOSYS.
func SetMount(f *os.File, recursive bool, attr unix.MountAttr) error {
	if !HasMountSetattr() {
		return setOldMount(f, recursive, attr)
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(int(f.Fd()), "", flags, &attr))
}
