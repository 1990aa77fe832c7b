package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"berth/fail"
	"berth/oci"
)

// mountRequest is one mount that a user asked for, whatever the form it came in.
type mountRequest struct {
	point   MountPoint
	options []string // of the mount, without "bind" and the propagation
	make    bool     // create a missing source as a directory
	shallow bool     // bind, not rbind
	ro      readonly
	listed  bool // shown in inspect's Mounts
}

type readonly uint8

const (
	roRecursive readonly = iota // where the kernel can
	roShallow
	roForced
)

type mountRequests []mountRequest

func (m mountRequests) points() []MountPoint {
	var out []MountPoint
	for _, r := range m {
		if r.listed {
			out = append(out, r.point)
		}
	}
	return out
}

// parseMounts reads -v, --tmpfs and --mount of a host configuration.
func parseMounts(h *container.HostConfig) (mountRequests, error) {
	var out mountRequests
	for _, b := range h.Binds {
		r, err := parseBind(b)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	for _, m := range h.Mounts {
		r, err := parseMount(m)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	for _, target := range sortedKeys(h.Tmpfs) {
		r, err := tmpfsRequest(target, h.Tmpfs[target])
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	seen := map[string]bool{}
	for _, r := range out {
		if seen[r.point.Destination] {
			return nil, fail.New(fail.Invalid, "Duplicate mount point: %s", r.point.Destination)
		}
		seen[r.point.Destination] = true
	}
	return out, nil
}

var propagations = []string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}

// parseBind reads the short form, "/host:/inside[:options]".
func parseBind(spec string) (mountRequest, error) {
	bad := func(why string) (mountRequest, error) {
		return mountRequest{}, fail.New(fail.Invalid, "invalid volume specification: '%s'%s", spec, why)
	}
	parts := strings.Split(spec, ":")
	if len(parts) > 3 || parts[0] == "" {
		return bad("")
	}
	if len(parts) == 1 || !strings.HasPrefix(parts[0], "/") {
		if len(parts) > 1 && !volumeName.MatchString(parts[0]) {
			return bad(`: includes invalid characters for a local volume name. If you intended to pass a host directory, use absolute path`)
		}
		return mountRequest{}, fail.New(fail.NotImplemented, "volumes are not built yet (bind mounts and tmpfs are): '%s'", spec)
	}
	target, err := checkTarget(parts[1])
	if err != nil {
		return bad(": " + err.Error())
	}
	r := mountRequest{make: true, listed: true, point: MountPoint{
		Type: "bind", Source: path.Clean(parts[0]), Destination: target, RW: true, Propagation: "rprivate",
	}}
	if len(parts) == 3 {
		r.point.Mode = parts[2]
		if err := r.readMode(parts[2]); err != nil {
			return mountRequest{}, err
		}
	}
	return r, nil
}

var volumeName = nameForm

// readMode reads the comma list of the short form.
func (r *mountRequest) readMode(mode string) error {
	seen := map[string]bool{}
	for _, o := range strings.Split(mode, ",") {
		kind := o
		switch {
		case o == "ro":
			kind, r.point.RW = "rw", false
		case o == "rw":
		case o == "z" || o == "Z":
			kind = "label" // SELinux: nothing to do where it is off
		case slices.Contains(propagations, o):
			kind, r.point.Propagation = "propagation", o
		case o == "consistent" || o == "cached" || o == "delegated":
			kind = "consistency"
		case o == "nocopy": // has no meaning for binds, as in Docker
		default:
			return fail.New(fail.Invalid, "invalid mode: %s", mode)
		}
		if seen[kind] {
			return fail.New(fail.Invalid, "invalid mode: %s", mode)
		}
		seen[kind] = true
	}
	return nil
}

// parseMount reads the long form.
func parseMount(m mount.Mount) (mountRequest, error) {
	bad := func(why string) (mountRequest, error) {
		return mountRequest{}, fail.New(fail.Invalid, "invalid mount config for type %q: %s", string(m.Type), why)
	}
	target, err := checkTarget(m.Target)
	if err != nil {
		return bad(err.Error())
	}
	if m.VolumeOptions != nil && m.Type != mount.TypeVolume || m.BindOptions != nil && m.Type != mount.TypeBind ||
		m.TmpfsOptions != nil && m.Type != mount.TypeTmpfs || m.ImageOptions != nil && m.Type != mount.TypeImage {
		return bad("options of another mount type are set")
	}
	switch m.Type {
	case mount.TypeBind:
		return bindRequest(m, target, bad)
	case mount.TypeTmpfs:
		if m.Source != "" {
			return bad("field Source must not be specified")
		}
		opts, err := tmpfsOptions(m.TmpfsOptions)
		if err != nil {
			return bad(err.Error())
		}
		r, err := tmpfsRequest(target, opts)
		if m.ReadOnly {
			r.options = append(r.options, "ro")
		}
		r.listed, r.point.RW = true, !m.ReadOnly
		return r, err
	case mount.TypeVolume:
		return mountRequest{}, fail.New(fail.NotImplemented, "volumes are not built yet (bind mounts and tmpfs are): %s", m.Target)
	case mount.TypeImage:
		return mountRequest{}, fail.New(fail.NotImplemented, "mounts of type image are not built yet: %s", m.Target)
	default:
		return mountRequest{}, fail.New(fail.Invalid, "invalid mount config: mount type unknown: %q", string(m.Type))
	}
}

func bindRequest(m mount.Mount, target string, bad func(string) (mountRequest, error)) (mountRequest, error) {
	if m.Source == "" {
		return bad("field Source must not be empty")
	}
	if !path.IsAbs(m.Source) {
		return bad(fmt.Sprintf("invalid mount path: '%s' mount path must be absolute", m.Source))
	}
	r := mountRequest{listed: true, point: MountPoint{
		Type: "bind", Source: path.Clean(m.Source), Destination: target, RW: !m.ReadOnly, Propagation: "rprivate",
	}}
	if o := m.BindOptions; o != nil {
		if o.Propagation != "" {
			if !slices.Contains(propagations, string(o.Propagation)) {
				return bad("invalid propagation mode: " + string(o.Propagation))
			}
			r.point.Propagation = string(o.Propagation)
		}
		r.shallow, r.make = o.NonRecursive, o.CreateMountpoint
		if o.ReadOnlyNonRecursive {
			r.ro = roShallow
		}
		if o.ReadOnlyForceRecursive {
			if !m.ReadOnly || o.ReadOnlyNonRecursive {
				return bad("ReadOnlyForceRecursive needs ReadOnly and excludes ReadOnlyNonRecursive")
			}
			r.ro = roForced
		}
	}
	if !r.make {
		if _, err := os.Stat(r.point.Source); errors.Is(err, fs.ErrNotExist) {
			return bad("bind source path does not exist: " + m.Source)
		}
	}
	return r, nil
}

func checkTarget(target string) (string, error) {
	switch {
	case target == "":
		return "", errors.New("field Target must not be empty")
	case !path.IsAbs(target):
		return "", fmt.Errorf("invalid mount path: '%s' mount path must be absolute", target)
	case path.Clean(target) == "/":
		return "", errors.New("invalid specification: destination can't be '/'")
	}
	return path.Clean(target), nil
}

// tmpfsDefaults can be taken back by naming the opposite.
var tmpfsDefaults = []string{"noexec", "nosuid", "nodev"}

var tmpfsFlags = map[string]string{ // flag → what it concerns
	"exec": "exec", "noexec": "exec", "suid": "suid", "nosuid": "suid", "dev": "dev", "nodev": "dev",
	"ro": "rw", "rw": "rw", "sync": "sync", "async": "sync", "dirsync": "dirsync",
	"mand": "mand", "nomand": "mand", "atime": "atime", "noatime": "atime", "diratime": "diratime",
	"nodiratime": "diratime", "relatime": "relatime", "norelatime": "relatime",
	"strictatime": "strictatime", "nostrictatime": "strictatime", "private": "propagation", "rprivate": "propagation",
	"shared": "propagation", "rshared": "propagation", "slave": "propagation", "rslave": "propagation", "unbindable": "propagation",
	"runbindable": "propagation", "defaults": "defaults",
}

var tmpfsKeys = []string{"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"}

func tmpfsRequest(target, options string) (mountRequest, error) {
	dest, err := checkTarget(target)
	if err != nil {
		return mountRequest{}, fail.New(fail.Invalid, "invalid tmpfs mount: %w", err)
	}
	merged := map[string]string{}
	var order []string
	set := func(kind, option string) {
		if _, ok := merged[kind]; !ok {
			order = append(order, kind)
		}
		merged[kind] = option
	}
	for _, o := range tmpfsDefaults {
		set(tmpfsFlags[o], o)
	}
	if options != "" {
		for _, o := range strings.Split(options, ",") {
			key, value, isPair := strings.Cut(o, "=")
			kind, known := tmpfsFlags[o]
			switch {
			case known:
				set(kind, o)
			case isPair && value != "" && slices.Contains(tmpfsKeys, key):
				set(key, o)
			default:
				return mountRequest{}, fail.New(fail.Invalid, "invalid tmpfs option [%q]", o)
			}
		}
	}
	r := mountRequest{point: MountPoint{Type: "tmpfs", Destination: dest, RW: merged["rw"] != "ro"}}
	for _, kind := range order {
		if merged[kind] != "defaults" {
			r.options = append(r.options, merged[kind])
		}
	}
	return r, nil
}

// tmpfsOptions writes the long form's options as the short form's.
func tmpfsOptions(o *mount.TmpfsOptions) (string, error) {
	if o == nil {
		return "", nil
	}
	var out []string
	if o.SizeBytes < 0 {
		return "", errors.New("the size of a tmpfs cannot be negative")
	}
	if o.SizeBytes > 0 {
		out = append(out, "size="+strconv.FormatInt(o.SizeBytes, 10))
	}
	if o.Mode != 0 {
		out = append(out, "mode="+strconv.FormatUint(uint64(o.Mode.Perm()|o.Mode&0o7000), 8))
	}
	for _, kv := range o.Options {
		switch len(kv) {
		case 1, 2:
			out = append(out, strings.Join(kv, "="))
		default:
			return "", fmt.Errorf("invalid tmpfs option %q", kv)
		}
	}
	return strings.Join(out, ","), nil
}

// mounts turns requests into the runtime's mounts; missing sources are made or refused.
func (m mountRequests) mounts(host *machine) (out []oci.Mount, propagation string, err error) {
	for _, r := range m {
		p := r.point
		if p.Type == "tmpfs" {
			out = append(out, oci.Mount{Destination: p.Destination, Type: "tmpfs", Source: "tmpfs", Options: r.options})
			continue
		}
		if err := r.ensureSource(); err != nil {
			return nil, "", err
		}
		opts := []string{"rbind", p.Propagation}
		if r.shallow {
			opts[0] = "bind"
		}
		if !p.RW {
			switch {
			case r.ro == roForced && !host.rro:
				return nil, "", fail.New(fail.Invalid, "%s cannot be made read-only recursively: the kernel lacks mount_setattr(2)", p.Destination)
			case r.ro != roShallow && host.rro && !r.shallow:
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

// ensureSource makes the host directory of a -v that does not exist (root, 0755).
func (r mountRequest) ensureSource() error {
	_, err := os.Stat(r.point.Source)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fail.New(fail.Invalid, "bind source %s: %w", r.point.Source, bare(err))
	case !r.make:
		return fail.New(fail.Invalid, "invalid mount config for type \"bind\": bind source path does not exist: %s", r.point.Source)
	}
	if err := os.MkdirAll(r.point.Source, 0o755); err != nil {
		return fail.New(fail.Invalid, "error while creating mount source path '%s': %w", r.point.Source, err)
	}
	return nil
}

// depth orders mounts so that a parent comes before what is mounted in it.
func depth(destination string) int { return strings.Count(path.Clean(destination), "/") }
