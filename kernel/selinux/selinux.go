// Package selinux makes and keeps the labels of containers: the contexts of their processes
// and files, each with two MCS categories that no other container has.
//
// It wraps github.com/opencontainers/selinux, which knows the policy's files and keeps the
// categories in use for the whole process. Files are labelled by kernel.Label instead, whose
// way cannot be bent by a container that runs.
package selinux

import (
	"context"
	"os"

	lib "github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
)

// Host is a machine with SELinux.
type Host struct{}

// Open returns nil where labels are not wanted, or the machine has no SELinux.
func Open(wanted bool) *Host {
	if !wanted {
		lib.SetDisabled() // also for other users of the library
	}
	if !wanted || !lib.GetEnabled() {
		return nil
	}
	return &Host{}
}

// Labels makes those of a container. opts are the values of --security-opt label=: "disable",
// or user, role, type, level and filetype, each with a colon and a value. Without a level the
// categories are new ones; they are the container's until Release.
func (*Host) Labels(opts []string) (process, mount string, err error) {
	process, mount, err = label.InitLabels(opts)
	if err != nil {
		return "", "", fail.New(fail.Invalid, "SELinux labels: %w", err)
	}
	return process, mount, nil
}

// Options are those that give a second container the process label of a first.
func (*Host) Options(process string) ([]string, error) { return lib.DupSecOpt(process) }

// Reserve keeps the categories of a label that was made by an earlier process.
// Containers that share a label share its categories.
func (*Host) Reserve(label string) { _ = lib.ReserveLabelV2(label) }

// Release gives the categories of a label back.
func (*Host) Release(label string) { lib.ReleaseLabel(label) }

// ReadOnly is the label of files that every container may read and none may write.
func (*Host) ReadOnly() string {
	//lint:ignore SA1019 nothing else tells what the policy's file of contexts calls ro_file
	if l := lib.ROFileLabel(); l != "" {
		return l
	}
	//lint:ignore SA1019 it reads that file
	_, mount := lib.ContainerLabels()
	lib.ReleaseLabel(mount)
	//lint:ignore SA1019 as above
	return lib.ROFileLabel()
}

// Relabel gives what is at path, with all below it, a label. The machine's own directories
// are refused.
func (*Host) Relabel(ctx context.Context, path, label string) error { return relabel(ctx, path, label) }

func relabel(ctx context.Context, path, label string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail.New(fail.Invalid, "SELinux label of %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := spare(f); err != nil {
		return err
	}
	if err := kernel.Label(ctx, f, label); err != nil {
		return fail.New(fail.Invalid, "error setting label on mount source '%s': %w", path, err)
	}
	return nil
}

// systems are directories that the machine would not work without if they had a container's
// label: of most, that takes one careless -v.
var systems = []string{
	"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc", "/root", "/run", "/sbin",
	"/srv", "/sys", "/tmp", "/usr", "/usr/bin", "/usr/lib", "/usr/sbin", "/usr/local", "/usr/share", "/var", "/var/lib", "/var/log", "/var/run", "/var/tmp",
	"/etc/passwd", "/etc/shadow", "/etc/group", "/etc/pki", "/etc/ssh", "/etc/selinux", "/etc/ssl",
}

// spare compares files, not names: a symbolic link or a bind mount leads to them too.
func spare(f *os.File) error {
	of := func(fd int, path string) (id [2]uint64, ok bool) {
		var st unix.Stat_t
		var err error
		if fd >= 0 {
			err = unix.Fstat(fd, &st)
		} else {
			err = unix.Stat(path, &st)
		}
		return [2]uint64{uint64(st.Dev), st.Ino}, err == nil //nolint:unconvert // 32 bit on some architectures
	}
	self, ok := of(int(f.Fd()), "")
	if !ok {
		return fail.New(fail.Internal, "SELinux label of %s: it cannot be examined", f.Name())
	}
	for _, s := range append([]string{os.Getenv("HOME")}, systems...) {
		if id, ok := of(-1, s); ok && id == self {
			return fail.New(fail.Invalid, "error setting label on mount source '%s': relabeling of %s is not allowed: the machine itself needs it as it is", f.Name(), s)
		}
	}
	return nil
}
