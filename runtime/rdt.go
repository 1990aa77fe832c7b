package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/fail"
)

// rdtGroup is a container's part of the resctrl file system (runtime-spec, config-linux.md,
// "IntelRdt"). The zero value is no part.
type rdtGroup struct {
	dir     string // its class of service
	monitor string // its monitoring group, "" without one
	made    bool   // the class is the container's own, and goes with it
}

// validateRDT looks at what the kernel would read as a path or as further lines.
func validateRDT(r *specs.LinuxIntelRdt) error {
	if r == nil {
		return nil
	}
	if id := r.ClosID; id == "." || id == ".." || id != "/" && strings.Contains(id, "/") || strings.ContainsAny(id, "\n\x00") {
		return invalid("linux.intelRdt.closID", "%q is not the name of a class of service", id)
	}
	lines := map[string]string{"l3CacheSchema": r.L3CacheSchema, "memBwSchema": r.MemBwSchema}
	for i, line := range r.Schemata {
		lines[indexed("schemata", i)] = line
	}
	for field, line := range lines {
		if strings.Contains(line, "\n") {
			return invalid("linux.intelRdt."+field, "it is more than one line")
		}
	}
	if m := r.MemBwSchema; m != "" && !strings.HasPrefix(m, "MB:") {
		return invalid("linux.intelRdt.memBwSchema", "%q does not start with MB:", m)
	}
	if _, ok := resctrl(); !ok {
		return invalid("linux.intelRdt", "this host has no resctrl file system mounted")
	}
	return nil
}

// resctrl finds the file system.
func resctrl() (at string, ok bool) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(text)) {
		left, right, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(left); len(fields) > 4 && strings.HasPrefix(right, "resctrl ") {
			return fields[4], true
		}
	}
	return "", false
}

func (c *Container) openRDT() (err error) {
	if r := c.spec.Linux.IntelRdt; r != nil {
		root, _ := resctrl()
		c.rdt, err = makeRDT(root, c.id, r)
	}
	return err
}

// rdtMade is what Create has made for the container, for another process.
func (c *Container) rdtMade() rdtGroup {
	r := c.spec.Linux.IntelRdt
	if r == nil {
		return rdtGroup{}
	}
	root, ok := resctrl()
	if !ok {
		return rdtGroup{}
	}
	return rdtOf(root, c.id, r)
}

func rdtOf(root, id string, r *specs.LinuxIntelRdt) rdtGroup {
	g := rdtGroup{dir: filepath.Join(root, r.ClosID), made: r.ClosID == ""}
	if g.made {
		g.dir = filepath.Join(root, id)
	}
	if r.EnableMonitoring {
		g.monitor = filepath.Join(g.dir, "mon_groups", id)
	}
	return g
}

// makeRDT makes or finds the class of service and the monitoring group.
func makeRDT(root, id string, r *specs.LinuxIntelRdt) (g rdtGroup, err error) {
	want := rdtOf(root, id, r)
	var schemata []string
	for _, line := range append([]string{r.L3CacheSchema, r.MemBwSchema}, r.Schemata...) {
		if line != "" {
			schemata = append(schemata, line)
		}
	}
	broken := func(err error) (rdtGroup, error) {
		return rdtGroup{}, errors.Join(fail.New(fail.Invalid, "linux.intelRdt: %w", err), g.remove())
	}
	g.dir = want.dir
	_, err = os.Stat(g.dir)
	exists := err == nil
	switch {
	case !exists && r.ClosID != "" && len(schemata) == 0:
		return broken(fail.New(fail.NotFound, "there is no class of service %q, and no schemata to make it by", r.ClosID))
	case exists && r.ClosID != "" && r.ClosID != "/" && len(schemata) > 0:
		if err := compareSchemata(g.dir, schemata); err != nil {
			return broken(err)
		}
		schemata = nil
	case !exists:
		if err := os.Mkdir(g.dir, 0o755); err != nil {
			return broken(err)
		}
		g.made = true
	}
	for _, line := range schemata {
		if err := writeLine(g.dir+"/schemata", line); err != nil {
			return broken(err)
		}
	}
	if want.monitor != "" {
		if err := os.Mkdir(want.monitor, 0o755); err != nil {
			return broken(err)
		}
	}
	// A class that was named by the caller stays, whoever made it.
	g.made, g.monitor = want.made && g.made, want.monitor
	return g, nil
}

// compareSchemata tells whether an existing class has what is asked for. The kernel writes
// numbers its own way: "L3:0=0f" comes back as "    L3:0=f;1=ff".
func compareSchemata(dir string, want []string) error {
	text, err := os.ReadFile(dir + "/schemata")
	if err != nil {
		return err
	}
	have := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		kind, values := schema(line)
		have[kind] = values
	}
	for _, line := range want {
		kind, values := schema(line)
		for _, v := range values {
			if !slices.Contains(have[kind], v) {
				return fail.New(fail.Invalid, "the class of service exists and has not %s", line)
			}
		}
	}
	return nil
}

// schema splits a line like "L3:0=0f;1=ff" into its kind and its values.
func schema(line string) (kind string, values []string) {
	kind, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
	for _, v := range strings.Split(rest, ";") {
		id, value, _ := strings.Cut(strings.TrimSpace(v), "=")
		if short := strings.TrimLeft(strings.ToLower(value), "0"); short != "" {
			value = short
		}
		values = append(values, id+"="+value)
	}
	return strings.TrimSpace(kind), values
}

func writeLine(file, line string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}

// UpdateRDT changes the schemata of the container's class of service.
func (c *Container) UpdateRDT(schemata ...string) error {
	if _, ok := resctrl(); !ok {
		return fail.New(fail.NotImplemented, "intelRdt: this host has no resctrl file system")
	}
	g := c.rdtMade()
	if g.dir == "" {
		return fail.New(fail.Invalid, "intelRdt: container %s has no class of service", c.id)
	}
	for _, line := range schemata {
		if err := writeLine(g.dir+"/schemata", line); err != nil {
			return fail.New(fail.Invalid, "intelRdt: %w", err)
		}
	}
	return nil
}

// join puts a process into the groups.
func (g rdtGroup) join(pid int) error {
	for _, dir := range []string{g.dir, g.monitor} {
		if dir == "" {
			continue
		}
		if err := writeLine(dir+"/tasks", strconv.Itoa(pid)); err != nil {
			return fail.New(fail.Invalid, "linux.intelRdt: %w", err)
		}
	}
	return nil
}

// remove ends what belongs to the container alone.
func (g rdtGroup) remove() error {
	var errs []error
	remove := func(dir string) {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if g.monitor != "" {
		remove(g.monitor)
	}
	if g.made {
		remove(g.dir)
	}
	return errors.Join(errs...)
}
