package engine

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"berth/fail"
)

// DefaultCDISpecDirs is where machines keep the specifications of their devices
// (https://tags.cncf.io/container-device-interface, SPEC.md); what is in a later one goes
// before what is in an earlier one.
func DefaultCDISpecDirs() []string { return []string{"/etc/cdi", "/var/run/cdi"} }

const cdiDriver = "cdi"

// namedDevices are the devices that files of the Container Device Interface describe: each has
// a name, vendor.com/class=name, and edits of a container's specification. Files are read when
// somebody asks; nothing watches them. Nil has no devices.
type namedDevices struct {
	dirs  []string
	cache *cdi.Cache
}

func newNamedDevices(dirs []string) (*namedDevices, error) {
	if len(dirs) == 0 {
		return nil, nil
	}
	cache, err := cdi.NewCache(cdi.WithAutoRefresh(false), cdi.WithSpecDirs(dirs...))
	if err != nil {
		return nil, fmt.Errorf("read the specifications of devices: %w", err)
	}
	return &namedDevices{dirs, cache}, nil
}

// CDIDevices tells where specifications of devices are looked for, and the devices' names
// that are there now.
func (e *Engine) CDIDevices() (dirs, names []string) {
	d := e.life.spec.named
	if d == nil {
		return nil, nil
	}
	_ = d.cache.Refresh() // a file that cannot be read is told to whoever asks for its devices
	return d.dirs, d.cache.ListDevices()
}

// apply edits a specification for what a container requests.
func (d *namedDevices) apply(spec *specs.Spec, requests []container.DeviceRequest) error {
	if len(requests) == 0 {
		return nil
	}
	var unreadable error
	if d != nil {
		unreadable = d.cache.Refresh()
	}
	for _, r := range requests {
		names, err := d.names(r)
		if err != nil {
			return err
		}
		unknown, err := d.cache.InjectDevices(spec, names...)
		switch {
		case len(unknown) > 0 && unreadable != nil:
			return fail.New(fail.Invalid, "CDI device injection failed: unresolvable CDI devices %s: %s", strings.Join(unknown, ", "), oneLine(unreadable))
		case len(unknown) > 0:
			return fail.New(fail.Invalid, "CDI device injection failed: unresolvable CDI devices %s: no specification in %s has them", strings.Join(unknown, ", "), strings.Join(d.dirs, " or "))
		case err != nil:
			return fail.New(fail.Invalid, "CDI device injection failed: %s", oneLine(err))
		}
	}
	return nil
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// names are those of the devices that a request stands for.
func (d *namedDevices) names(r container.DeviceRequest) ([]string, error) {
	if r.Driver == cdiDriver {
		if d == nil {
			return nil, fail.New(fail.Invalid, "CDI devices are switched off on this engine (--cdi-spec-dir)")
		}
		return r.DeviceIDs, nil
	}
	kind := d.gpus(r)
	if kind == "" {
		return nil, fail.New(fail.Invalid, "could not select device driver %q with capabilities: %v: no CDI specification of GPUs is here (nvidia-ctk cdi generate writes one)", r.Driver, r.Capabilities)
	}
	ids := r.DeviceIDs
	switch {
	case len(ids) > 0:
	case r.Count < 0:
		ids = []string{"all"}
	default:
		for n := range r.Count {
			ids = append(ids, strconv.Itoa(n))
		}
	}
	var out []string
	for _, id := range ids {
		out = append(out, kind+"="+id)
	}
	return out, nil
}

// gpuKinds are the vendors' devices that --gpus may mean, with the driver's names for them and
// what else, beside "gpu", can be asked of it.
var gpuKinds = []struct {
	kind, driver string
	capabilities []string
}{
	{"nvidia.com/gpu", "nvidia", []string{"nvidia", "compute", "compat32", "graphics", "utility", "video", "display", "ngx"}},
	{"amd.com/gpu", "amd.com", []string{"amd"}},
}

// gpus is the kind of device that serves a request of GPUs, "" if there is none.
func (d *namedDevices) gpus(r container.DeviceRequest) string {
	if d == nil {
		return ""
	}
	known := map[string]bool{}
	for _, name := range d.cache.ListDevices() {
		kind, _, _ := strings.Cut(name, "=")
		known[kind] = true
	}
	for _, g := range gpuKinds {
		can := func(all []string) bool {
			return slices.Contains(all, "gpu") && !slices.ContainsFunc(all, func(c string) bool { return c != "gpu" && !slices.Contains(g.capabilities, c) })
		}
		if known[g.kind] && (r.Driver == "" || r.Driver == g.driver) && slices.ContainsFunc(r.Capabilities, can) {
			return g.kind
		}
	}
	return ""
}

// maxDeviceCount is more devices than any machine has.
const maxDeviceCount = 1024

// checkDeviceRequests finds what is wrong with requests whatever devices there are.
func checkDeviceRequests(requests []container.DeviceRequest) error {
	for _, r := range requests {
		var err error
		switch {
		case r.Driver == cdiDriver && r.Count != 0:
			err = errors.New("unexpected count in CDI device request")
		case r.Driver == cdiDriver && len(r.Options) > 0:
			err = errors.New("unexpected options in CDI device request")
		case r.Driver == cdiDriver:
			for _, name := range r.DeviceIDs {
				if _, _, _, e := parser.ParseQualifiedName(name); e != nil {
					err = e
				}
			}
		case r.Count < -1 || r.Count > maxDeviceCount:
			err = fmt.Errorf("a count is -1 for all devices, or 0 to %d, not %d", maxDeviceCount, r.Count)
		case r.Count > 0 && len(r.DeviceIDs) > 0:
			err = errors.New("cannot set both Count and DeviceIDs on device request")
		case len(r.Options) > 0:
			err = errors.New("options of a device request cannot be honoured: a CDI specification says what its devices are given")
		}
		if err != nil {
			return fail.New(fail.Invalid, "invalid device request: %w", err)
		}
	}
	return nil
}
