package server

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"time"

	"github.com/moby/moby/api/types/network"

	"berth/engine"
	"berth/fail"
)

// predefined are the networks that exist without being made.
var predefined = []struct{ name, driver string }{
	{"host", "host"},
	{"none", "null"},
}

// networkID is stable for an engine: derived from its ID and the name.
func (s *Server) networkID(name string) string {
	sum := sha256.Sum256([]byte("berth network " + s.Facts.ID + " " + name))
	return hex.EncodeToString(sum[:])
}

// networkOf names the predefined network a container is on, "" for one that shares
// another container's. Without a network of its own a container has loopback only, as
// on "none".
func networkOf(c engine.Container) string {
	switch mode := c.HostConfig.NetworkMode; {
	case mode.IsContainer():
		return ""
	case mode.IsHost():
		return network.NetworkHost
	}
	return network.NetworkNone
}

// endpoints is a container's Networks map.
func (s *Server) endpoints(c engine.Container) map[string]*network.EndpointSettings {
	out := map[string]*network.EndpointSettings{}
	if name := networkOf(c); name != "" {
		out[name] = &network.EndpointSettings{NetworkID: s.networkID(name)}
	}
	return out
}

func onNetwork(c engine.Container, want string) bool {
	return networkOf(c) == want
}

// findNetwork finds by full ID, name, or ID prefix.
func (s *Server) findNetwork(ref string) (string, string, error) {
	for _, p := range predefined {
		if p.name == ref || s.networkID(p.name) == ref {
			return p.name, p.driver, nil
		}
	}
	for _, p := range predefined {
		if len(ref) > 0 && strings.HasPrefix(s.networkID(p.name), ref) {
			return p.name, p.driver, nil
		}
	}
	return "", "", fail.New(fail.NotFound, "network %s not found", ref)
}

func (s *Server) network(name, driver string) network.Network {
	return network.Network{
		Name:       name,
		ID:         s.networkID(name),
		Created:    time.Unix(0, 0).UTC(),
		Scope:      "local",
		Driver:     driver,
		EnableIPv4: true,
		IPAM:       network.IPAM{Driver: "default", Config: []network.IPAMConfig{}},
		Options:    map[string]string{},
		Labels:     map[string]string{},
	}
}

func listNetworks(w *writer, r *request) error {
	f, err := r.filters("dangling", "driver", "id", "label", "name", "scope", "type")
	if err != nil {
		return err
	}
	for _, t := range f["type"] {
		if t != "builtin" && t != "custom" {
			return fail.New(fail.Invalid, "invalid filter: 'type'='%s'", t)
		}
	}
	dangling, err := f.boolean("dangling", false)
	if err != nil {
		return err
	}
	out := []network.Inspect{}
	for _, p := range predefined {
		n := r.s.network(p.name, p.driver)
		if dangling || !f.exact("type", "builtin") || !f.exact("driver", p.driver) || !f.exact("scope", "local") || !f.labels("label", nil) ||
			!f.any("id", func(want string) bool { return strings.HasPrefix(n.ID, want) }) ||
			!f.any("name", func(want string) bool { return strings.Contains(n.Name, want) }) {
			continue
		}
		out = append(out, network.Inspect{Network: n, Containers: map[string]network.EndpointResource{}})
	}
	return writeJSON(w, http.StatusOK, out)
}

func inspectNetwork(w *writer, r *request) error {
	name, driver, err := r.s.findNetwork(r.path["id"])
	if err != nil {
		return err
	}
	if scope := r.query("scope"); scope != "" && scope != "local" {
		return fail.New(fail.NotFound, "network %s not found", r.path["id"])
	}
	out := network.Inspect{Network: r.s.network(name, driver), Containers: map[string]network.EndpointResource{}}
	for _, c := range r.s.Containers.List() {
		if c.State.Running() && networkOf(c) == name {
			out.Containers[c.ID] = network.EndpointResource{Name: c.Name}
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

func removeNetwork(_ *writer, r *request) error {
	name, _, err := r.s.findNetwork(r.path["id"])
	if err != nil {
		return err
	}
	return fail.New(fail.Forbidden, "%s is a pre-defined network and cannot be removed", name)
}

func pruneNetworks(w *writer, r *request) error {
	if _, err := r.filters("label", "label!", "until"); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, network.PruneReport{NetworksDeleted: []string{}})
}
