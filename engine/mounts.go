package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/oci"
	"berth/supervisor"
	"berth/volumes"
)

// mountRequest is one mount of a container, whatever the form it was asked for in. The
// record of a container keeps them all, as they were settled when it was made.
type mountRequest struct {
	Point     MountPoint   `json:"point"`
	Options   []string     `json:"options,omitempty"` // of a tmpfs
	Make      bool         `json:"make,omitempty"`    // create a missing source as a directory
	Shallow   bool         `json:"shallow,omitempty"` // bind, not rbind
	ReadOnly  readonly     `json:"readOnly,omitempty"`
	Unlisted  bool         `json:"unlisted,omitempty"`  // not shown in inspect's Mounts
	Anonymous bool         `json:"anonymous,omitempty"` // a volume without a name of its own
	NoCopy    bool         `json:"noCopy,omitempty"`
	Subpath   string       `json:"subpath,omitempty"`
	Image     oci.Digest   `json:"image,omitempty"` // the ID of an image that is mounted
	IDs       *idMapping   `json:"ids,omitempty"`
	wanted    *volumeWants // of a volume, until it is made
}

// volumeWants are the parts of a request that concern the making of a volume.
type volumeWants struct {
	driver          string
	labels, options map[string]string
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
		if !r.Unlisted {
			out = append(out, r.Point)
		}
	}
	return out
}

func (m mountRequests) at(destination string) int {
	return slices.IndexFunc(m, func(r mountRequest) bool { return r.Point.Destination == destination })
}

// volumes are the names of the volumes among them, taken those that go with the container.
func (m mountRequests) volumes() (all, taken []string) {
	for _, r := range m {
		if r.Point.Type != "volume" || slices.Contains(all, r.Point.Name) {
			continue
		}
		all = append(all, r.Point.Name)
		if r.Anonymous {
			taken = append(taken, r.Point.Name)
		}
	}
	return all, taken
}

// parseMounts reads -v, --mount and --tmpfs of a host configuration. Volumes without a name
// get one.
func parseMounts(h *container.HostConfig) (mountRequests, error) {
	var out mountRequests
	for _, b := range h.Binds {
		r, err := parseBind(b)
		if err != nil {
			return nil, err
		}
		if r.wanted != nil {
			r.wanted.driver = h.VolumeDriver
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
		r.Unlisted = true
		out = append(out, r)
	}
	seen := map[string]bool{}
	for i := range out {
		r := &out[i]
		if seen[r.Point.Destination] {
			return nil, fail.New(fail.Invalid, "Duplicate mount point: %s", r.Point.Destination)
		}
		seen[r.Point.Destination] = true
		if err := r.nameVolume(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// nameVolume makes up the name of a volume that has none.
func (r *mountRequest) nameVolume() (err error) {
	if r.Point.Type == "volume" && r.Point.Name == "" {
		r.Anonymous = true
		r.Point.Name, err = volumes.NewName()
	}
	return err
}

// planMounts settles all mounts of a container that is made. What is asked for by name goes
// over what --volumes-from brings, and the image's volumes fill what is left.
func planMounts(cfg *container.Config, h *container.HostConfig, idx *index, mountpoint func(volume string) string) (mountRequests, error) {
	var plan mountRequests
	put := func(r mountRequest) {
		if i := plan.at(r.Point.Destination); i >= 0 {
			plan[i] = r
		} else {
			plan = append(plan, r)
		}
	}
	for _, spec := range h.VolumesFrom {
		borrowed, err := borrowMounts(spec, idx)
		if err != nil {
			return nil, err
		}
		for _, r := range borrowed {
			put(r)
		}
	}
	own, err := parseMounts(h)
	if err != nil {
		return nil, err
	}
	for _, r := range own {
		if r.Point.Type == "bind" && !r.Make {
			if err := r.ensureSource(); err != nil {
				return nil, err
			}
		}
		put(r)
	}
	for _, target := range sortedKeys(cfg.Volumes) {
		clean := path.Clean(target)
		if plan.at(clean) >= 0 {
			continue
		}
		r := mountRequest{wanted: &volumeWants{driver: h.VolumeDriver}, Point: MountPoint{
			Type: "volume", Destination: clean, Driver: volumes.Local, RW: true,
		}}
		if err := r.nameVolume(); err != nil {
			return nil, err
		}
		plan = append(plan, r)
	}
	for i := range plan {
		if p := &plan[i].Point; p.Type == "volume" {
			p.Source = mountpoint(p.Name)
		}
	}
	return plan, nil
}

// borrowMounts are the mounts of the container that a --volumes-from names.
func borrowMounts(spec string, idx *index) (mountRequests, error) {
	if spec == "" {
		return nil, fail.New(fail.Invalid, "volumes-from specification cannot be an empty string")
	}
	ref, mode, _ := strings.Cut(spec, ":")
	if mode != "" && !slices.Contains([]string{"ro", "rw", "z", "Z"}, mode) || strings.HasSuffix(spec, ":") {
		return nil, fail.New(fail.Invalid, "invalid mode: %s", mode)
	}
	from, err := idx.find(ref)
	if err != nil {
		return nil, fail.Mark(fail.Invalid, err) // the container that is missing is not the one that is made
	}
	var out mountRequests
	for _, r := range from.now().plan {
		if r.Unlisted {
			continue
		}
		r.NoCopy = true // the lender's image has filled it
		r.Point.RW = r.Point.RW && mode != "ro"
		out = append(out, r)
	}
	return out, nil
}

var propagations = []string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}

// parseBind reads the short form, "/host:/inside[:options]" or "volume:/inside[:options]".
func parseBind(spec string) (mountRequest, error) {
	bad := func(kind, why string) (mountRequest, error) {
		if why != "" {
			why = fmt.Sprintf(": invalid mount config for type %q: %s", kind, why)
		}
		return mountRequest{}, fail.New(fail.Invalid, "invalid volume specification: '%s'%s", spec, why)
	}
	parts := strings.Split(spec, ":")
	if len(parts) > 3 || parts[0] == "" {
		return bad("", "")
	}
	r := mountRequest{Make: true, Point: MountPoint{Type: "bind", RW: true}}
	target := parts[0]
	switch {
	case len(parts) == 1:
		r.Point.Type = "volume"
	case isMode(parts[1]): // a destination alone has no options
		return bad("", "")
	case path.IsAbs(parts[0]):
		r.Point.Source, target = path.Clean(parts[0]), parts[1]
	default:
		r.Point.Type, r.Point.Name, target = "volume", parts[0], parts[1]
	}
	mode := ""
	if len(parts) == 3 {
		mode = parts[2]
	}
	r.Point.Mode = mode
	if err := r.readMode(mode); err != nil {
		return mountRequest{}, err
	}
	var err error
	if r.Point.Destination, err = checkTarget(target); err != nil {
		return bad(r.Point.Type, err.Error())
	}
	if r.Point.Type == "bind" {
		if r.NoCopy {
			return bad("bind", "field VolumeOptions must not be specified")
		}
		if r.Point.Propagation == "" {
			r.Point.Propagation = "rprivate"
		}
		return r, nil
	}
	switch {
	case r.Point.Propagation != "":
		return bad("volume", "field BindOptions must not be specified")
	case r.IDs != nil:
		return bad("volume", "idmap is for bind mounts")
	}
	r.asVolume(&volumeWants{})
	return r, nil
}

// asVolume completes a request for a volume.
func (r *mountRequest) asVolume(w *volumeWants) {
	r.Make, r.wanted = false, w
	r.Point.Driver = volumes.Local
	if r.Point.Mode == "" {
		r.Point.Mode = "z"
	}
}

// isMode tells whether a word could be the options of the short form.
func isMode(s string) bool {
	var r mountRequest
	return s != "" && r.readMode(s) == nil
}

// readMode reads the comma list of the short form.
func (r *mountRequest) readMode(mode string) error {
	if mode == "" {
		return nil
	}
	seen := map[string]bool{}
	for _, o := range strings.Split(mode, ",") {
		kind := o
		switch {
		case o == "ro":
			kind, r.Point.RW = "rw", false
		case o == "rw":
		case o == "z" || o == "Z":
			kind = "label" // SELinux: nothing to do where it is off
		case slices.Contains(propagations, o):
			kind, r.Point.Propagation = "propagation", o
		case o == "consistent" || o == "cached" || o == "delegated":
			kind = "consistency"
		case o == "nocopy":
			r.NoCopy = true
		case isIDMapping(o):
			ids, err := parseIDMapping(o)
			if err != nil {
				return err
			}
			kind, r.IDs = "idmap", ids
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
	if !slices.Contains([]mount.Type{mount.TypeBind, mount.TypeTmpfs, mount.TypeVolume, mount.TypeImage}, m.Type) {
		return bad("mount type unknown")
	}
	target, err := checkTarget(m.Target)
	if err != nil {
		return bad(err.Error())
	}
	for _, o := range []struct {
		field string
		given bool
		of    mount.Type
	}{
		{"BindOptions", m.BindOptions != nil, mount.TypeBind},
		{"VolumeOptions", m.VolumeOptions != nil, mount.TypeVolume},
		{"TmpfsOptions", m.TmpfsOptions != nil, mount.TypeTmpfs},
		{"ImageOptions", m.ImageOptions != nil, mount.TypeImage},
	} {
		if o.given && m.Type != o.of {
			return bad("field " + o.field + " must not be specified")
		}
	}
	switch {
	case slices.Contains([]mount.Consistency{"", mount.ConsistencyDefault, mount.ConsistencyFull, mount.ConsistencyCached, mount.ConsistencyDelegated}, m.Consistency):
	case !isIDMapping(string(m.Consistency)):
		return bad("invalid consistency: " + string(m.Consistency))
	case m.Type != mount.TypeBind:
		return bad("idmap is for bind mounts")
	}
	switch m.Type {
	case mount.TypeBind:
		return bindRequest(m, target, bad)
	case mount.TypeVolume:
		return volumeRequest(m, target, bad)
	case mount.TypeImage:
		return imageRequest(m, target, bad)
	}
	if m.Source != "" {
		return bad("field Source must not be specified")
	}
	opts, err := tmpfsOptions(m.TmpfsOptions)
	if err != nil {
		return bad(err.Error())
	}
	r, err := tmpfsRequest(target, opts)
	if m.ReadOnly {
		r.Options = append(r.Options, "ro")
	}
	r.Point.RW = !m.ReadOnly
	return r, err
}

// volumeRequest reads a long form of type volume.
func volumeRequest(m mount.Mount, target string, bad func(string) (mountRequest, error)) (mountRequest, error) {
	r := mountRequest{Point: MountPoint{Type: "volume", Name: m.Source, Destination: target, RW: !m.ReadOnly}}
	if m.Source == "" && m.ReadOnly {
		return bad("must not set ReadOnly mode when using anonymous volumes")
	}
	w := &volumeWants{}
	if o := m.VolumeOptions; o != nil {
		if o.Subpath != "" {
			if m.Source == "" {
				return bad("must not set Subpath when using anonymous volumes")
			}
			if !filepath.IsLocal(o.Subpath) {
				return bad("subpath must be a relative path within the volume")
			}
		}
		r.NoCopy, r.Subpath, w.labels = o.NoCopy, o.Subpath, o.Labels
		if d := o.DriverConfig; d != nil {
			w.driver, w.options = d.Name, d.Options
		}
	}
	r.asVolume(w)
	return r, nil
}

// imageRequest reads a long form of type image. Which image it is, is settled at creation.
func imageRequest(m mount.Mount, target string, bad func(string) (mountRequest, error)) (mountRequest, error) {
	if m.Source == "" {
		return bad("field Source must not be empty")
	}
	r := mountRequest{Point: MountPoint{Type: "image", Source: m.Source, Destination: target}}
	if o := m.ImageOptions; o != nil && o.Subpath != "" {
		if !filepath.IsLocal(o.Subpath) {
			return bad("subpath must be a relative path within the image")
		}
		r.Subpath = o.Subpath
	}
	return r, nil
}

func bindRequest(m mount.Mount, target string, bad func(string) (mountRequest, error)) (mountRequest, error) {
	if m.Source == "" {
		return bad("field Source must not be empty")
	}
	if !path.IsAbs(m.Source) {
		return bad(fmt.Sprintf("invalid mount path: '%s' mount path must be absolute", m.Source))
	}
	r := mountRequest{Point: MountPoint{
		Type: "bind", Source: path.Clean(m.Source), Destination: target, RW: !m.ReadOnly, Propagation: "rprivate",
	}}
	if isIDMapping(string(m.Consistency)) {
		ids, err := parseIDMapping(string(m.Consistency))
		if err != nil {
			return bad(err.Error())
		}
		r.IDs = ids
	}
	if o := m.BindOptions; o != nil {
		if o.Propagation != "" {
			if !slices.Contains(propagations, string(o.Propagation)) {
				return bad("invalid propagation mode: " + string(o.Propagation))
			}
			r.Point.Propagation = string(o.Propagation)
		}
		r.Shallow, r.Make = o.NonRecursive, o.CreateMountpoint
		if o.ReadOnlyNonRecursive {
			r.ReadOnly = roShallow
		}
		if o.ReadOnlyForceRecursive {
			if !m.ReadOnly || o.ReadOnlyNonRecursive {
				return bad("ReadOnlyForceRecursive needs ReadOnly and excludes ReadOnlyNonRecursive")
			}
			r.ReadOnly = roForced
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
	r := mountRequest{Point: MountPoint{Type: "tmpfs", Destination: dest, RW: merged["rw"] != "ro"}}
	for _, kind := range order {
		if merged[kind] != "defaults" {
			r.Options = append(r.Options, merged[kind])
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

// sources are of the mounts that need more than a path. Volumes are filled until the
// container has run once: what it finds empty later was emptied by somebody. lower gives
// the layers of an image.
func (m mountRequests) sources(ran bool, lower func(oci.Digest) ([]string, error)) (out []supervisor.Source, err error) {
	for _, r := range m {
		s := supervisor.Source{Destination: r.Point.Destination, Dir: r.Point.Source, Subpath: r.Subpath, Shallow: r.Shallow}
		switch {
		case r.Point.Type == "volume":
			s.Fill = !r.NoCopy && !ran
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

// depth orders mounts so that a parent comes before what is mounted in it.
func depth(destination string) int { return strings.Count(path.Clean(destination), "/") }
