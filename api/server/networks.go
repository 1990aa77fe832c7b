package server

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	mobynet "github.com/moby/moby/api/types/network"

	"berth/events"
	"berth/fail"
	"berth/network"
)

// Networks is what the API needs of *network.Networks. Containers are put on networks by
// the engine.
type Networks interface {
	Create(ctx context.Context, r network.CreateRequest) (n network.Network, warnings []string, err error)
	Remove(ctx context.Context, ref string) error
	Get(ref string) (network.Network, error)
	List() []network.Network
	Endpoints(networkID string) []network.Member
	Facts() network.Facts
}

// networkInspect is one network. Lists have the containers too until 1.51, always empty.
type networkInspect struct {
	mobynet.Network
	Containers map[string]mobynet.EndpointResource `json:"Containers,omitzero"`
	Status     *mobynet.Status                     `json:"Status,omitempty"`
}

func networkAnswer(n network.Network) mobynet.Network {
	out := mobynet.Network{
		Name:       n.Name,
		ID:         n.ID,
		Created:    n.Created,
		Scope:      "local",
		Driver:     shownDriver(n),
		EnableIPv4: n.EnableIPv4,
		EnableIPv6: n.EnableIPv6,
		IPAM:       mobynet.IPAM{Driver: cmp.Or(n.IPAM.Driver, "default"), Options: n.IPAM.Options, Config: []mobynet.IPAMConfig{}},
		Internal:   n.Internal,
		Attachable: n.Attachable,
		ConfigFrom: mobynet.ConfigReference{Network: n.ConfigFrom},
		ConfigOnly: n.ConfigOnly,
		Options:    n.Options,
		Labels:     n.Labels,
	}
	for _, p := range n.IPAM.Pools {
		out.IPAM.Config = append(out.IPAM.Config, mobynet.IPAMConfig{Subnet: p.Subnet, IPRange: p.Range, Gateway: p.Gateway, AuxAddress: p.Aux})
	}
	if out.Options == nil {
		out.Options = map[string]string{}
	}
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	return out
}

// shownDriver is null for a pattern, which has no network of its own.
func shownDriver(n network.Network) string {
	if n.ConfigOnly {
		return "null"
	}
	return n.Driver
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
	out := []networkInspect{}
	for _, n := range r.s.Networks.List() {
		if !f.takesNetwork(n) {
			continue
		}
		if len(f["dangling"]) > 0 && dangling != (!n.Predefined && !r.s.networkInUse(n)) {
			continue
		}
		row := networkInspect{Network: networkAnswer(n)}
		if r.version < 52 {
			row.Containers = map[string]mobynet.EndpointResource{}
		}
		out = append(out, row)
	}
	return writeJSON(w, http.StatusOK, out)
}

// takesNetwork applies the filters that look at the network alone.
func (f filters) takesNetwork(n network.Network) bool {
	kind := "custom"
	if n.Predefined {
		kind = "builtin"
	}
	return f.exact("type", kind) && f.exact("driver", shownDriver(n)) && f.exact("scope", "local") && f.labels("label", n.Labels) &&
		f.pattern("id", n.ID) && f.pattern("name", n.Name)
}

// pattern reports whether one of key's values is v, or a regular expression that is found
// in it; true without the key.
func (f filters) pattern(key, v string) bool {
	return f.any(key, func(want string) bool {
		if want == v {
			return true
		}
		found, err := regexp.MatchString(want, v)
		return err == nil && found
	})
}

// networkInUse reports whether a running container is on n.
func (s *Server) networkInUse(n network.Network) bool { return len(s.Networks.Endpoints(n.ID)) > 0 }

func inspectNetwork(w *writer, r *request) error {
	if scope := r.query("scope"); scope != "" && scope != "local" {
		return fail.New(fail.NotFound, "network %s not found", r.path["id"])
	}
	n, err := r.s.Networks.Get(r.path["id"])
	if err != nil {
		return err
	}
	// verbose adds what swarm services have on a network: nothing here.
	out := networkInspect{Network: networkAnswer(n), Containers: r.s.members(n)}
	if r.version >= 52 {
		out.Status = networkStatus(n, r.s.Networks.Endpoints(n.ID))
	}
	return writeJSON(w, http.StatusOK, out)
}

// members are the running containers on a network. Those on host and none have no
// interfaces of ours, and are known by their requests.
func (s *Server) members(n network.Network) map[string]mobynet.EndpointResource {
	out := map[string]mobynet.EndpointResource{}
	for _, m := range s.Networks.Endpoints(n.ID) {
		out[m.ContainerID] = mobynet.EndpointResource{
			Name: m.ContainerName, EndpointID: m.Endpoint.ID, MacAddress: mobynet.HardwareAddr(m.Endpoint.MAC),
			IPv4Address: m.Endpoint.IPv4, IPv6Address: m.Endpoint.IPv6,
		}
	}
	if !n.Predefined || len(out) > 0 {
		return out
	}
	for _, c := range s.Containers.List() {
		if c.Network == nil && c.State.Running() && onNetwork(c, n.Name) {
			out[c.ID] = mobynet.EndpointResource{Name: c.Name, EndpointID: plainEndpointID(c.ID, n.ID)}
		}
	}
	return out
}

// networkStatus counts a network's addresses.
func networkStatus(n network.Network, members []network.Member) *mobynet.Status {
	if len(n.IPAM.Pools) == 0 || n.ConfigOnly {
		return nil
	}
	out := &mobynet.Status{IPAM: mobynet.IPAMStatus{Subnets: mobynet.SubnetStatuses{}}}
	for _, p := range n.IPAM.Pools {
		if p.Subnet.IsValid() {
			out.IPAM.Subnets[p.Subnet.Masked()] = poolStatus(p, members)
		}
	}
	return out
}

// poolStatus counts what a subnet has given out or never gives, and what its range can
// still give.
func poolStatus(p network.Pool, members []network.Member) mobynet.SubnetStatus {
	subnet := p.Subnet.Masked()
	taken := map[netip.Addr]bool{}
	take := func(a netip.Addr) {
		if subnet.Contains(a) {
			taken[a] = true
		}
	}
	if subnet.Bits() < subnet.Addr().BitLen()-1 { // RFC 3021: a pair of addresses has no others
		take(subnet.Addr())
		if subnet.Addr().Is4() {
			take(lastAddr(subnet))
		}
	}
	take(p.Gateway)
	for _, a := range p.Aux {
		take(a)
	}
	for _, m := range members {
		take(m.Endpoint.IPv4.Addr())
		take(m.Endpoint.IPv6.Addr())
	}
	given := subnet
	if p.Range.IsValid() {
		given = p.Range.Masked()
	}
	free := addressCount(given)
	for a := range taken {
		if given.Contains(a) {
			free--
		}
	}
	return mobynet.SubnetStatus{IPsInUse: uint64(len(taken)), DynamicIPsAvailable: free}
}

// addressCount is a prefix's number of addresses, at most 2^64 - 1.
func addressCount(p netip.Prefix) uint64 {
	host := p.Addr().BitLen() - p.Bits()
	if host >= 64 {
		return 1<<64 - 1
	}
	return 1 << host
}

// lastAddr is a prefix's highest address.
func lastAddr(p netip.Prefix) netip.Addr {
	bytes := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 1 << (7 - bit%8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}

func createNetwork(w *writer, r *request) error {
	var body mobynet.CreateRequest
	if err := bodyJSON(w, r, &body, true); err != nil {
		return err
	}
	switch {
	case body.Scope == "swarm" || body.Ingress:
		return fail.New(fail.Forbidden, "cannot create a swarm scoped network: Berth has no swarm mode")
	case body.Driver == "overlay":
		return noSwarm(w, r)
	case body.Scope != "" && body.Scope != "local":
		return fail.New(fail.Invalid, "invalid scope %q: Berth has local networks only", body.Scope)
	}
	if r.version < 48 {
		body.EnableIPv4 = nil
		if body.EnableIPv6 != nil && !*body.EnableIPv6 {
			body.EnableIPv6 = nil // clients sent it always
		}
	}
	n, warnings, err := r.s.Networks.Create(r.Context(), networkRequest(body))
	if err != nil {
		return err
	}
	r.s.tellNetwork("create", n)
	return writeJSON(w, http.StatusCreated, mobynet.CreateResponse{ID: n.ID, Warning: strings.Join(warnings, "\n")})
}

func networkRequest(body mobynet.CreateRequest) network.CreateRequest {
	out := network.CreateRequest{
		Name: body.Name, Driver: body.Driver, EnableIPv4: body.EnableIPv4, EnableIPv6: body.EnableIPv6, Internal: body.Internal,
		Attachable: body.Attachable, ConfigOnly: body.ConfigOnly, Options: body.Options, Labels: body.Labels,
	}
	if body.ConfigFrom != nil {
		out.ConfigFrom = body.ConfigFrom.Network
	}
	if body.IPAM != nil {
		out.IPAM = network.IPAM{Driver: body.IPAM.Driver, Options: body.IPAM.Options}
		for _, c := range body.IPAM.Config {
			out.IPAM.Pools = append(out.IPAM.Pools, network.Pool{Subnet: c.Subnet, Range: c.IPRange, Gateway: c.Gateway, Aux: c.AuxAddress})
		}
	}
	return out
}

// tellNetwork publishes an event of a network; connections are told by the engine.
func (s *Server) tellNetwork(action string, n network.Network) {
	s.Events.Publish(events.Event{Type: "network", Action: action, ID: n.ID, Attrs: map[string]string{"name": n.Name, "type": shownDriver(n)}})
}

func removeNetwork(w *writer, r *request) error {
	n, err := r.s.Networks.Get(r.path["id"])
	if err != nil {
		return err
	}
	if err := r.s.Networks.Remove(r.Context(), n.ID); err != nil {
		return err
	}
	r.s.tellNetwork("destroy", n)
	return noContent(w, nil)
}

// pruneNetworks removes the networks that no running container is on. One that something
// else keeps (a network made from it, a container that starts meanwhile) is passed over.
func pruneNetworks(w *writer, r *request) error {
	f, err := r.filters("label", "label!", "until")
	if err != nil {
		return err
	}
	until, err := f.until(time.Now())
	if err != nil {
		return err
	}
	report := mobynet.PruneReport{NetworksDeleted: []string{}}
	all := slices.Clone(r.s.Networks.List())
	slices.SortStableFunc(all, func(a, b network.Network) int { // patterns after the networks made from them
		return strings.Compare(strconv.FormatBool(a.ConfigOnly), strconv.FormatBool(b.ConfigOnly))
	})
	for _, n := range all {
		if n.Predefined || r.s.networkInUse(n) || !f.labels("label", n.Labels) || (len(f["label!"]) > 0 && f.labels("label!", n.Labels)) ||
			(!until.IsZero() && n.Created.After(until)) {
			continue
		}
		switch err := r.s.Networks.Remove(r.Context(), n.ID); {
		case err == nil:
			r.s.tellNetwork("destroy", n)
			report.NetworksDeleted = append(report.NetworksDeleted, n.Name)
		case r.Context().Err() != nil:
			return err
		case !fail.Is(err, fail.NotFound) && !fail.Is(err, fail.Forbidden):
			r.s.Log.Warn("a network could not be pruned", "network", n.Name, "error", err)
		}
	}
	r.s.tellPrune("network", 0)
	return writeJSON(w, http.StatusOK, report)
}

func connectNetwork(w *writer, r *request) error {
	var body mobynet.ConnectRequest
	if err := bodyJSON(w, r, &body, true); err != nil {
		return err
	}
	if body.Container == "" {
		return fail.New(fail.Invalid, "no container name or ID supplied")
	}
	if body.EndpointConfig != nil && r.version < 44 {
		body.EndpointConfig.MacAddress = nil // was only told, never taken
	}
	if err := r.s.Containers.Connect(r.Context(), body.Container, r.path["id"], body.EndpointConfig); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func disconnectNetwork(w *writer, r *request) error {
	var body mobynet.DisconnectRequest
	if err := bodyJSON(w, r, &body, true); err != nil {
		return err
	}
	if body.Container == "" {
		return fail.New(fail.Invalid, "no container name or ID supplied")
	}
	if err := r.s.Containers.Disconnect(r.Context(), body.Container, r.path["id"], body.Force); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}
