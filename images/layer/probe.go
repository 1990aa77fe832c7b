package layer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
)

// probe tries everything that the driver needs of the kernel and of the file system on
// a tiny overlay that is never attached anywhere.
func (s *Store) probe(m overlayMarks) error {
	dir, err := os.MkdirTemp(filepath.Join(s.root, "staging"), "probe-")
	if err != nil {
		return fmt.Errorf("open layer store: %w", err)
	}
	err = probeIn(m, dir)
	if e := os.RemoveAll(dir); err == nil && e != nil {
		return fmt.Errorf("open layer store: %w", e)
	}
	if err != nil {
		return fail.New(fail.Unavailable, "%s cannot hold layers for the overlay driver: %w (a directory on ext4, xfs or btrfs can)", s.root, err)
	}
	return nil
}

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
