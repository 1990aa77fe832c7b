package engine

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"berth/fail"
	"berth/oci"
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
		r.Point.Mode = ""
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

// depth orders mounts so that a parent comes before what is mounted in it.
func depth(destination string) int { return strings.Count(path.Clean(destination), "/") }
