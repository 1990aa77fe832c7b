package layer

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"berth/durable"
	"berth/fail"
	"berth/kernel"
)

// The drivers. "overlay" has overlayfs stack the layers. "copy" needs nothing of the file
// system: each container gets a copy of all that its layers show.
const (
	overlayDriver = "overlay"
	copyDriver    = "copy"
)

// chooseDriver decides for want, or what fits if that is empty.
func (s *Store) chooseDriver(want string) error {
	switch want {
	case "", overlayDriver, copyDriver:
	default:
		return fail.New(fail.Invalid, "unknown storage driver %q: there are overlay and copy", want)
	}
	had, err := s.formerDriver()
	if err != nil {
		return err
	}
	if want != "" && had != "" && want != had {
		return fail.New(fail.Conflict, "%s holds layers of the storage driver %s, which %s cannot use: start with --storage-driver %s, or remove the images first", s.root, had, want, had)
	}
	s.driver = want
	if want == "" {
		s.driver = had
	}
	overlay := overlayMarksFor(os.Geteuid())
	if os.Geteuid() == 0 && s.driver != copyDriver {
		err := s.probe(overlay)
		switch {
		case err == nil || had == overlayDriver && durable.IsFull(err): // it could before
			s.driver = overlayDriver
		case s.driver == "" && fail.Is(err, fail.Unavailable):
			s.driver, s.whyCopy = copyDriver, err
		default:
			return err
		}
	}
	s.marks = overlay
	if s.driver == copyDriver {
		if err := s.probeCopy(); err != nil && os.Geteuid() == 0 && (had == "" || !durable.IsFull(err)) {
			return err
		}
		s.marks = fileMarks{}
	} else {
		s.driver = overlayDriver
	}
	if s.driver == had {
		return nil
	}
	return durable.WriteFile(filepath.Join(s.root, "driver"), []byte(s.driver+"\n"), 0o600)
}

// Facts are what a user may want to know of the driver, as names and values; the first four of
// overlay are those of Docker's overlay2.
func (s *Store) Facts() [][2]string {
	if s.driver == copyDriver {
		if s.whyCopy != nil {
			return [][2]string{{"Copies Because", s.whyCopy.Error()}}
		}
		return nil
	}
	layers, quotas := "all at once (Linux before 6.8)", "false"
	if kernel.TakesSingleLayers() {
		layers = "one by one"
	}
	if f, err := os.Open(s.root); err == nil {
		if kernel.EnforcesProjects(f) == nil {
			quotas = "true"
		}
		f.Close()
	}
	return [][2]string{{"Supports d_type", "true"}, {"Using metacopy", "false"}, {"Native Overlay Diff", "true"}, {"userxattr", "false"},
		{"Mounts Layers", layers}, {"Project Quotas", quotas}}
}

// formerDriver is the driver of the layers that are here, empty if there are none.
func (s *Store) formerDriver() (string, error) {
	chains, err := s.List()
	if err != nil || len(chains) == 0 {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(s.root, "driver"))
	if errors.Is(err, fs.ErrNotExist) {
		return overlayDriver, nil // from before there was a choice
	}
	return strings.TrimSpace(string(text)), err
}
