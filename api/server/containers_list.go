package server

import (
	"context"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"berth/engine"
	"berth/fail"
	"berth/oci"
)

// listFilters are the filters of GET /containers/json.
var listFilters = []string{"ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name", "network", "publish", "since", "status", "volume"}

func listContainers(w *writer, r *request) error {
	f, err := r.filters(listFilters...)
	if err != nil {
		return err
	}
	limit, _, err := r.number("limit")
	if err != nil {
		return err
	}
	sel, err := r.s.selector(f)
	if err != nil {
		return err
	}
	sel.all = r.boolean("all") || limit > 0 || len(f["status"]) > 0
	now := time.Now()
	out := []listRow{}
	names := r.s.listNames()
	for _, c := range r.s.Containers.List() {
		if !sel.matches(c) {
			continue
		}
		row := listRow{Summary: r.s.summary(c, now, &names, r.version), Ports: portSummaries(c)}
		if r.boolean("size") {
			if err := r.s.addSize(r.Context(), c.ID, &row.SizeRw, &row.SizeRootFs); err != nil {
				return err
			}
		}
		out = append(out, row)
		if limit > 0 && len(out) == limit {
			break
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

// addSize measures a container; one that was removed meanwhile measures nothing.
func (s *Server) addSize(ctx context.Context, id string, rw, root *int64) (err error) {
	*rw, *root, err = s.Containers.Size(ctx, id)
	if fail.Is(err, fail.NotFound) {
		return nil
	}
	return err
}

// listRow has ports whose address is left out where there is none.
type listRow struct {
	container.Summary
	Ports []portSummary
}

// summary is one row of the list.
func (s *Server) summary(c engine.Container, now time.Time, names *listNames, v version) container.Summary {
	row := container.Summary{
		ID:      c.ID,
		Names:   append([]string{"/" + c.Name}, names.links[c.ID]...),
		Image:   names.shown(c.Config.Image, c.Image),
		ImageID: c.Image.String(),
		Command: commandText(c),
		Created: c.Created.Unix(),
		Ports:   []container.PortSummary{},
		Labels:  c.Config.Labels,
		State:   container.ContainerState(c.State.Status),
		Status:  statusText(c.State, now),
		Mounts:  mountPoints(c.Mounts),
	}
	if v >= 52 {
		row.Health = healthSummary(c.State)
	}
	if row.Labels == nil {
		row.Labels = map[string]string{}
	}
	row.HostConfig.NetworkMode = string(c.HostConfig.NetworkMode)
	row.HostConfig.Annotations = c.HostConfig.Annotations
	row.NetworkSettings = &container.NetworkSettingsSummary{Networks: s.summaryEndpoints(c, v)}
	for _, p := range portSummaries(c) {
		row.Ports = append(row.Ports, container.PortSummary{IP: p.IP, PrivatePort: p.PrivatePort, PublicPort: p.PublicPort, Type: p.Type})
	}
	return row
}

// listNames knows the names that lists show besides a container's own: of its image the one
// that the user gave while it still means that image, else its ID; of containers that are
// linked to it, what they call it.
type listNames struct {
	s     *Server
	known map[string]oci.Digest
	links map[string][]string // by container
}

func (s *Server) listNames() listNames { return listNames{s: s, links: s.linkNames()} }

func (n *listNames) shown(asked string, id oci.Digest) string {
	if asked == "" {
		return id.String()
	}
	got, ok := n.known[asked]
	if !ok {
		if img, err := n.s.Images.Get(asked); err == nil {
			got = img.ID
		}
		if n.known == nil {
			n.known = map[string]oci.Digest{}
		}
		n.known[asked] = got
	}
	if got == id {
		return asked
	}
	return id.String()
}

func mountPoints(in []engine.MountPoint) []container.MountPoint {
	out := make([]container.MountPoint, 0, len(in))
	for _, m := range in {
		out = append(out, container.MountPoint{
			Type: mount.Type(m.Type), Name: m.Name, Source: m.Source, Destination: m.Destination, Driver: m.Driver,
			Mode: m.Mode, RW: m.RW, Propagation: mount.Propagation(m.Propagation),
		})
	}
	return out
}

// selector decides which containers a list shows.
type selector struct {
	f             filters
	all           bool
	before, since time.Time
	names         []*regexp.Regexp
	exited        []int
	isTask        bool
	networks      []string            // names and IDs
	images        map[oci.Digest]bool // with ancestors' IDs; nil without that filter
}

func (s *Server) selector(f filters) (*selector, error) {
	sel := &selector{f: f}
	for _, v := range f["status"] {
		if err := container.ValidateContainerState(container.ContainerState(v)); err != nil {
			return nil, fail.Mark(fail.Invalid, err)
		}
	}
	for _, v := range f["health"] {
		if err := container.ValidateHealthStatus(container.HealthStatus(v)); err != nil {
			return nil, fail.Mark(fail.Invalid, err)
		}
	}
	for _, v := range f["exited"] {
		n, err := strconv.Atoi(v)
		if err != nil {
			return nil, fail.New(fail.Invalid, "invalid filter 'exited=%s': not a number", v)
		}
		sel.exited = append(sel.exited, n)
	}
	for _, v := range f["name"] {
		re, err := regexp.Compile(v)
		if err != nil {
			return nil, fail.New(fail.Invalid, "invalid filter 'name=%s': %w", v, err)
		}
		sel.names = append(sel.names, re)
	}
	for _, v := range f["network"] {
		sel.networks = append(sel.networks, v)
		if n, err := s.Networks.Get(v); err == nil {
			sel.networks = append(sel.networks, n.Name) // all that a stopped container knows
		}
	}
	var err error
	if sel.isTask, err = f.boolean("is-task", false); err != nil {
		return nil, err
	}
	for _, bound := range []struct {
		key string
		at  *time.Time
	}{{"before", &sel.before}, {"since", &sel.since}} {
		for _, ref := range f[bound.key] {
			c, err := s.Containers.Get(ref)
			if err != nil {
				return nil, err
			}
			*bound.at = c.Created
		}
	}
	if len(f["publish"]) > 0 || len(f["expose"]) > 0 {
		for _, v := range slices.Concat(f["publish"], f["expose"]) {
			if _, err := network.ParsePortRange(v); err != nil {
				return nil, fail.New(fail.Invalid, "invalid filter: %w", err)
			}
		}
	}
	if len(f["ancestor"]) > 0 {
		if sel.images, err = s.descendants(f["ancestor"]); err != nil {
			return nil, err
		}
	}
	return sel, nil
}

// descendants are the images that are one of names or are built on top of one: those
// whose layers begin with its layers.
func (s *Server) descendants(names []string) (map[oci.Digest]bool, error) {
	out := map[oci.Digest]bool{}
	all, err := s.Images.List()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		base, err := s.Images.Get(name)
		if fail.Is(err, fail.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[base.ID] = true
		layers := base.Config.RootFS.DiffIDs
		for _, img := range all {
			if other := img.Config.RootFS.DiffIDs; len(layers) > 0 && len(other) >= len(layers) && slices.Equal(other[:len(layers)], layers) {
				out[img.ID] = true
			}
		}
	}
	return out, nil
}

func (sel *selector) matches(c engine.Container) bool {
	f := sel.f
	switch {
	case !sel.all && !c.State.Running(),
		!sel.before.IsZero() && !c.Created.Before(sel.before),
		!sel.since.IsZero() && !c.Created.After(sel.since),
		sel.isTask, // there are no swarm tasks
		sel.images != nil && !sel.images[c.Image],
		len(sel.exited) > 0 && (c.State.Running() || c.State.StartedAt.IsZero() || !slices.Contains(sel.exited, c.State.ExitCode)),
		!f.exact("status", c.State.Status),
		!f.exact("health", string(healthSummary(c.State).Status)),
		!f.any("isolation", func(want string) bool { return want == "default" || want == string(c.HostConfig.Isolation) }),
		!f.any("id", func(want string) bool { return strings.HasPrefix(c.ID, want) }),
		!f.labels("label", c.Config.Labels),
		len(sel.networks) > 0 && !slices.ContainsFunc(sel.networks, func(want string) bool { return onNetwork(c, want) }),
		!f.any("volume", func(want string) bool { return mounts(c, want) }),
		!f.any("publish", func(want string) bool { return publishes(c, want) }),
		!f.any("expose", func(want string) bool { return exposes(c, want) }):
		return false
	}
	if len(sel.names) == 0 {
		return true
	}
	return slices.ContainsFunc(sel.names, func(re *regexp.Regexp) bool {
		return re.MatchString(c.Name) || re.MatchString("/"+c.Name)
	})
}

func mounts(c engine.Container, want string) bool {
	return slices.ContainsFunc(c.Mounts, func(m engine.MountPoint) bool {
		return m.Name == want || m.Source == want || m.Destination == path.Clean(want)
	})
}
