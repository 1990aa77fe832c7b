package engine

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/oci"
	"berth/supervisor"
)

// mounts turns requests into the runtime's mounts; missing sources are made or refused.
func (m mountRequests) mounts(host *machine) (out []oci.Mount, propagation string, err error) {
	for _, r := range m {
		p := r.Point
		if p.Type == "tmpfs" {
			out = append(out, oci.Mount{Destination: p.Destination, Type: "tmpfs", Source: "tmpfs", Options: r.Options})
			continue
		}
		if p.Type == "bind" {
			if err := r.ensureSource(); err != nil {
				return nil, "", err
			}
		}
		opts := []string{"rbind", "rprivate"}
		if r.Shallow {
			opts[0] = "bind"
		}
		if p.Propagation != "" {
			opts[1] = p.Propagation
		}
		if !p.RW {
			switch {
			case r.ReadOnly == roForced && !host.rro:
				return nil, "", fail.New(fail.Invalid, "%s cannot be made read-only recursively: the kernel lacks mount_setattr(2)", p.Destination)
			case r.ReadOnly != roShallow && host.rro && !r.Shallow:
				opts = append(opts, "rro")
			default:
				opts = append(opts, "ro")
			}
		}
		// What a container shall see of, or tell to, the host must pass its root too.
		switch {
		case strings.HasSuffix(p.Propagation, "shared"):
			propagation = "rshared"
		case strings.HasSuffix(p.Propagation, "slave") && propagation == "":
			propagation = "rslave"
		}
		out = append(out, oci.Mount{Destination: p.Destination, Type: "bind", Source: p.Source, Options: opts})
	}
	return out, propagation, nil
}

// sources are of the mounts that need more than a path, of container c. Volumes are filled
// until it has run once: what it finds empty later was emptied by somebody. lower gives the
// layers of an image, labels what files get that a volume is filled with.
func (m mountRequests) sources(c Container, labels *labels, lower func(oci.Digest) ([]string, error)) (out []supervisor.Source, err error) {
	for _, r := range m {
		s := supervisor.Source{Destination: r.Point.Destination, Dir: r.Point.Source, Subpath: r.Subpath, Shallow: r.Shallow}
		switch {
		case r.Point.Type == "volume":
			s.Fill = !r.NoCopy && c.State.StartedAt.IsZero()
			s.Label = labels.of(c, r.Point)
			s.Passing = r.Anonymous && c.HostConfig.AutoRemove
		case r.Point.Type == "image":
			s.Dir = ""
			if s.Lower, err = lower(r.Image); err != nil {
				return nil, err
			}
		case r.IDs == nil:
			continue
		default:
			s.UIDs, s.GIDs, s.MapOwner = r.IDs.UIDs, r.IDs.GIDs, r.IDs.Owner
		}
		out = append(out, s)
	}
	return out, nil
}

// ensureSource makes the host directory of a -v that does not exist (root, 0755).
func (r mountRequest) ensureSource() error {
	_, err := os.Stat(r.Point.Source)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fail.New(fail.Invalid, "bind source %s: %w", r.Point.Source, bare(err))
	case !r.Make:
		return fail.New(fail.Invalid, "invalid mount config for type \"bind\": bind source path does not exist: %s", r.Point.Source)
	}
	if err := os.MkdirAll(r.Point.Source, 0o755); err != nil {
		return fail.New(fail.Invalid, "error while creating mount source path '%s': %w", r.Point.Source, err)
	}
	return nil
}

// checkPropagation refuses to share with the host what the host shares with nobody: the
// container would wait in vain.
func (m mountRequests) checkPropagation() error {
	for _, r := range m {
		shared, slave := strings.HasSuffix(r.Point.Propagation, "shared"), strings.HasSuffix(r.Point.Propagation, "slave")
		if !shared && !slave {
			continue
		}
		at, tags, err := mountOf(r.Point.Source)
		if err != nil {
			return fail.New(fail.Internal, "look at the mount of %s: %w", r.Point.Source, err)
		}
		isShared, isSlave := strings.Contains(tags, "shared:"), strings.Contains(tags, "master:")
		switch {
		case shared && !isShared:
			return fail.New(fail.Invalid, "path %s is mounted on %s but it is not a shared mount", r.Point.Source, at)
		case slave && !isShared && !isSlave:
			return fail.New(fail.Invalid, "path %s is mounted on %s but it is not a shared or slave mount", r.Point.Source, at)
		}
	}
	return nil
}

// mountOf finds the mount that a path lies in, and its optional fields (proc(5),
// /proc/PID/mountinfo).
func mountOf(source string) (at, tags string, err error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, source, 0, unix.STATX_MNT_ID, &st); err != nil {
		return "", "", err
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", "", err
	}
	id := strconv.FormatUint(st.Mnt_id, 10)
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 7 || f[0] != id {
			continue
		}
		end := slices.Index(f, "-")
		return f[4], strings.Join(f[6:max(end, 6)], " "), nil
	}
	return "", "", errors.New("it is not among this process's mounts")
}
