package kernel

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Project quotas (quotactl(2)): a directory is made a project, whose number all that is
// made in it inherits, and the file system bounds what belongs to it. XFS and ext4 can,
// mounted with prjquota.

// ErrNoQuota says that the file system keeps no project quotas, or does not enforce them.
var ErrNoQuota = errors.New("the file system keeps no project quotas")

// firstProject is the least number that MakeProject gives. Small numbers are what people choose in
// /etc/projects.
const firstProject = 0x40000000

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
	getState      = 0x5808     // Q_XGETQSTATV
	stateVersion  = 1          // FS_QSTATV_VERSION1
	enforcedFlag  = 1 << 5     // FS_QUOTA_PDQ_ENFD
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

// projectXattr is where a project's number is noted, on a directory that nobody but us reaches: who
// owns a directory may make it part of another project.
const projectXattr = "trusted.berth.project"

// MakeProject makes empty directories of one file system a new project that may hold size bytes,
// and notes its number on keeper, a directory of that file system that those who will be bounded
// cannot reach. It is durable then.
func MakeProject(keeper *os.File, size int64, dirs ...*os.File) (err error) {
	if err := EnforcesProjects(keeper); err != nil {
		return err
	}
	if err := ForgetProject(keeper); err != nil { // of directories that somebody deleted
		return err
	}
	var project uint32
	for free := false; !free; {
		var b [4]byte
		if _, err := rand.Read(b[:]); err != nil {
			return err
		}
		project = binary.NativeEndian.Uint32(b[:])&(firstProject-1) | firstProject
		if free, err = ProjectIsFree(keeper, project); err != nil {
			return err
		}
	}
	if err := noteProject(keeper, project); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ForgetProject(keeper))
		}
	}()
	if err := LimitProject(keeper, project, size); err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := SetProject(dir, project); err != nil {
			return err
		}
	}
	// Whoever records the project must find its limit, and its directories, after a power failure.
	return os.NewSyscallError("syncfs", unix.Syncfs(int(keeper.Fd())))
}

// ForgetProject takes the limit of the project away whose number MakeProject has noted on keeper,
// whatever has become of its directories: the number is anybody's when the last of its files is
// gone.
func ForgetProject(keeper *os.File) error {
	project, err := notedProject(keeper)
	if err != nil || project == 0 {
		return err
	}
	err = LimitProject(keeper, project, 0)
	if err != nil && !errors.Is(err, ErrNoQuota) { // not any more
		return err
	}
	return os.NewSyscallError("fremovexattr", unix.Fremovexattr(int(keeper.Fd()), projectXattr))
}

func noteProject(keeper *os.File, project uint32) error {
	return os.NewSyscallError("fsetxattr", unix.Fsetxattr(int(keeper.Fd()), projectXattr, []byte(strconv.FormatUint(uint64(project), 10)), 0))
}

// notedProject is 0 if none is noted. What was not written here is none.
func notedProject(keeper *os.File) (uint32, error) {
	b := make([]byte, 16)
	n, err := unix.Fgetxattr(int(keeper.Fd()), projectXattr, b)
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ERANGE):
		return 0, nil
	case err != nil:
		return 0, os.NewSyscallError("fgetxattr", err)
	}
	project, err := strconv.ParseUint(string(b[:n]), 10, 32)
	if err != nil || project < firstProject {
		return 0, nil
	}
	return uint32(project), nil
}

// quotaState is struct fs_quota_statv of linux/dqblk_xfs.h.
type quotaState struct {
	version int8
	_       uint8
	flags   uint16
	_       [156]byte
}

// EnforcesProjects is ErrNoQuota where nobody would be stopped by a limit: ext4 may keep account
// of projects, and take limits, but be mounted without prjquota.
func EnforcesProjects(f *os.File) error {
	s := quotaState{version: stateVersion}
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, f.Fd(), getState<<quotaShift|projectQuota, 0, uintptr(unsafe.Pointer(&s)), 0, 0)
	if err := quotaError("quotactl", errno); err != nil {
		return err
	}
	if s.flags&enforcedFlag == 0 {
		return ErrNoQuota
	}
	return nil
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
