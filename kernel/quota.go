package kernel

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Project quotas (quotactl(2)): a directory is made a project, whose number all that is
// made in it inherits, and the file system bounds what belongs to it. XFS and ext4 can,
// mounted with prjquota.

// ErrNoQuota says that the file system keeps no project quotas.
var ErrNoQuota = errors.New("the file system keeps no project quotas")

// projectLimits is struct if_dqblk of linux/quota.h; blocks are of 1024 bytes.
type projectLimits struct {
	blockHard, blockSoft, space, inodeHard, inodeSoft, inodes, blockTime, inodeTime uint64
	valid                                                                           uint32
	_                                                                               uint32
}

// From linux/quota.h and linux/fs.h.
const (
	projectQuota  = 2 // PRJQUOTA
	getQuota      = 0x800007
	setQuota      = 0x800008
	quotaShift    = 8
	blockLimits   = 1 // QIF_BLIMITS
	quotaBlock    = 1024
	inheritFlag   = 0x200      // FS_XFLAG_PROJINHERIT
	getAttributes = 0x801c581f // FS_IOC_FSGETXATTR
	setAttributes = 0x401c5820 // FS_IOC_FSSETXATTR
)

// ProjectIsFree tells whether a number is no project's yet, on the file system of f.
func ProjectIsFree(f *os.File, project uint32) (bool, error) {
	var l projectLimits
	err := quotactl(f, getQuota, project, &l)
	if errors.Is(err, unix.ENOENT) { // XFS knows nothing of it
		return true, nil
	}
	l.valid = 0
	return l == projectLimits{}, err
}

// MakeProject makes empty directories of one file system a new project that may hold size bytes,
// and returns its number. It is durable then.
func MakeProject(size int64, dirs ...*os.File) (project uint32, err error) {
	for free := false; !free; {
		var b [4]byte
		if _, err := rand.Read(b[:]); err != nil {
			return 0, err
		}
		// Small numbers are what people choose in /etc/projects.
		project = binary.NativeEndian.Uint32(b[:])&0x3fffffff | 0x40000000
		if free, err = ProjectIsFree(dirs[0], project); err != nil {
			return 0, err
		}
	}
	if err := LimitProject(dirs[0], project, size); err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		if err := SetProject(dir, project); err != nil {
			return 0, errors.Join(err, LimitProject(dir, project, 0))
		}
	}
	// Whoever records the project must find its limit, and its directories, after a power failure.
	return project, os.NewSyscallError("syncfs", unix.Syncfs(int(dirs[0].Fd())))
}

// ProjectOf is the number of the project that f belongs to; 0: of none.
func ProjectOf(f *os.File) (uint32, error) {
	a, err := attributesOf(f)
	return a.project, err
}

// LimitProject bounds what belongs to a project on the file system of f to size bytes; 0
// takes the limit away.
func LimitProject(f *os.File, project uint32, size int64) error {
	blocks := uint64(size+quotaBlock-1) / quotaBlock
	return quotactl(f, setQuota, project, &projectLimits{blockHard: blocks, blockSoft: blocks, valid: blockLimits})
}

func quotactl(f *os.File, command int, project uint32, l *projectLimits) error {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, f.Fd(), uintptr(command<<quotaShift|projectQuota), uintptr(project), uintptr(unsafe.Pointer(l)), 0, 0)
	return quotaError("quotactl", errno)
}

// quotaError tells what the file system cannot from what went wrong.
func quotaError(call string, errno unix.Errno) error {
	switch errno {
	case 0:
		return nil
	case unix.ENOSYS, unix.ESRCH, unix.EOPNOTSUPP, unix.ENOTTY, unix.ENOTBLK, unix.EINVAL:
		return ErrNoQuota
	}
	return os.NewSyscallError(call, errno)
}

// fileAttributes is struct fsxattr of linux/fs.h.
type fileAttributes struct {
	flags, extentSize, extents, project, cowExtentSize uint32
	_                                                  [8]byte
}

// HandsOnProject tells whether what is made in the directory f becomes part of a project.
// Files of other projects cannot be moved there.
func HandsOnProject(f *os.File) bool {
	a, err := attributesOf(f)
	return err == nil && a.flags&inheritFlag != 0
}

// SetProject makes the directory f, and what will be made in it, part of a project.
func SetProject(f *os.File, project uint32) error {
	a, err := attributesOf(f)
	if err != nil {
		return err
	}
	a.flags |= inheritFlag
	a.project = project
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), setAttributes, uintptr(unsafe.Pointer(&a)))
	return quotaError("ioctl", errno)
}

func attributesOf(f *os.File) (a fileAttributes, err error) {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), getAttributes, uintptr(unsafe.Pointer(&a)))
	return a, quotaError("ioctl", errno)
}
