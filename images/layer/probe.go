package layer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"berth/durable"
	"berth/fail"
	"berth/kernel"
)

// probe tries everything that the driver overlay needs of the kernel and of the file system on
// a tiny overlay that is never attached anywhere.
func (s *Store) probe(m overlayMarks) error {
	err := s.try(func(dir string) error { return probeIn(m, dir) })
	if durable.IsFull(err) {
		return fmt.Errorf("try whether %s can hold layers for the overlay driver: %w", s.root, err)
	}
	if err != nil {
		way := "a directory on ext4, xfs or btrfs can"
		if fs := new(unix.Statfs_t); unix.Statfs(s.root, fs) == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
			way = "in a container: a volume can, mounted at the data root" // which is /var/lib/berth, if nobody has said otherwise
		}
		return fail.New(fail.Unavailable, "%s cannot hold layers for the overlay driver: %w (%s)", s.root, err, way)
	}
	return nil
}

// probeCopy tries what the driver copy needs: a file system that keeps all that a file of
// an image is.
func (s *Store) probeCopy() error {
	err := s.try(probeFiles)
	if durable.IsFull(err) {
		return fmt.Errorf("try whether %s can hold the files of images: %w", s.root, err)
	}
	if err != nil {
		return fail.New(fail.Unavailable, "%s cannot hold the files of images: %w: choose a --data-root on ext4, xfs or btrfs", s.root, err)
	}
	return nil
}

// try calls f with a directory that is gone afterwards.
func (s *Store) try(f func(dir string) error) error {
	dir, err := os.MkdirTemp(filepath.Join(s.root, "staging"), "probe-")
	if err != nil {
		return fmt.Errorf("open layer store: %w", err)
	}
	err = f(dir)
	if e := os.RemoveAll(dir); err == nil && e != nil {
		return fmt.Errorf("open layer store: %w", e)
	}
	return err
}

// probeFiles makes files as they are in images, and looks whether they become that.
func probeFiles(dir string) error {
	file, upper := filepath.Join(dir, "f"), filepath.Join(dir, "F")
	steps := []struct {
		lacks string
		do    func() error
	}{
		{"files", func() error { return os.WriteFile(file, nil, 0o600) }},
		{"names that differ by case alone", func() error { return unix.Mkdir(upper, 0o700) }},
		{"symbolic links", func() error { return os.Symlink("f", filepath.Join(dir, "s")) }},
		{"hard links", func() error { return os.Link(file, filepath.Join(dir, "l")) }},
		{"devices and fifos", func() error { return unix.Mknod(filepath.Join(dir, "p"), unix.S_IFIFO|0o600, 0) }},
		{"owners", func() error { return os.Chown(file, 1, 2) }},
		{"modes", func() error { return unix.Chmod(file, 0o4751) }},
		{"file capabilities", func() error { return unix.Setxattr(file, "security.capability", noCapability, 0) }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("its file system does not take %s: %w", s.lacks, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		return err
	}
	if st.Uid != 1 || st.Gid != 2 || st.Mode&0o7777 != 0o4751 {
		return fmt.Errorf("its file system keeps no owners and modes (a file of 1:2 with mode 4751 has %d:%d and %o)", st.Uid, st.Gid, st.Mode&0o7777)
	}
	return nil
}

// noCapability is the attribute of a file that lends no capability (struct vfs_cap_data of
// linux/capability.h, revision 2).
var noCapability = []byte{3: 2, 19: 0}

func probeIn(m overlayMarks, dir string) error {
	for _, d := range []string{"lower", "lower/d", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			return err
		}
	}
	lower, upper := filepath.Join(dir, "lower"), filepath.Join(dir, "upper")
	if err := os.WriteFile(filepath.Join(lower, "f"), nil, 0o600); err != nil {
		return err
	}
	if err := probeTypes(lower); err != nil {
		return err
	}
	if err := unix.Setxattr(filepath.Join(lower, "d"), m.opaque(), []byte("y"), 0); err != nil {
		return fmt.Errorf("it does not take the attribute %s: %w", m.opaque(), err)
	}
	mnt, err := kernel.MountOverlay(&kernel.Overlay{Lower: []string{lower}, Upper: upper, Work: filepath.Join(dir, "work")})
	if err != nil {
		return fmt.Errorf("mount a trial overlay: %w", err)
	}
	defer mnt.Close()
	if err := unix.Unlinkat(int(mnt.Fd()), "f", 0); err != nil {
		return fmt.Errorf("delete a file in a trial overlay: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(upper, "f"), &st); err != nil || !isWhiteout(&st) {
		return errors.New("a trial overlay made no whiteout")
	}
	return nil
}

// probeTypes checks that directory entries carry file types: overlayfs does not see
// whiteouts without (an XFS made with ftype=0).
func probeTypes(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	b := make([]byte, 4096)
	n, err := unix.Getdents(int(d.Fd()), b)
	if err != nil {
		return err
	}
	// struct linux_dirent64 of getdents(2): length at 16, type at 18.
	for b = b[:n]; len(b) > 18; {
		if b[18] == unix.DT_UNKNOWN {
			return errors.New("its directories do not tell file types (d_type; xfs needs ftype=1)")
		}
		length := int(b[16]) | int(b[17])<<8
		if length == 0 || length > len(b) {
			break
		}
		b = b[length:]
	}
	return nil
}
