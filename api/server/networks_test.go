package server

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	mobynet "github.com/moby/moby/api/types/network"

	"berth/engine"
	"berth/fail"
	"berth/network"
)

// fakeNetworks stands for *network.Networks.
type fakeNetworks struct {
	list    []network.Network
	members map[string][]network.Member // by network ID
	created network.CreateRequest
	removed []string
	err     error
}

func newFakeNetworks() *fakeNetworks {
	return &fakeNetworks{
		list: []network.Network{
			{ID: strings.Repeat("b", 64), Name: "bridge", Created: day, Driver: "bridge", EnableIPv4: true, Predefined: true,
				IPAM: network.IPAM{Driver: "default", Pools: []network.Pool{{Subnet: netip.MustParsePrefix("172.17.0.0/16"), Gateway: netip.MustParseAddr("172.17.0.1")}}}},
			{ID: strings.Repeat("d", 64), Name: "host", Created: day, Driver: "host", EnableIPv4: true, Predefined: true},
			{ID: strings.Repeat("e", 64), Name: "none", Created: day, Driver: "null", EnableIPv4: true, Predefined: true},
			{ID: strings.Repeat("f", 64), Name: "front", Created: day.Add(time.Hour), Driver: "bridge", EnableIPv4: true, EnableIPv6: true, Internal: true, Attachable: true,
				IPAM: network.IPAM{Driver: "default", Options: map[string]string{"o": "1"}, Pools: []network.Pool{
					{Subnet: netip.MustParsePrefix("10.9.0.0/24"), Range: netip.MustParsePrefix("10.9.0.128/25"), Gateway: netip.MustParseAddr("10.9.0.1"), Aux: map[string]netip.Addr{"router": netip.MustParseAddr("10.9.0.2")}},
					{Subnet: netip.MustParsePrefix("fd00:9::/64"), Gateway: netip.MustParseAddr("fd00:9::1")}}},
				Options: map[string]string{"com.docker.network.driver.mtu": "1400"}, Labels: map[string]string{"tier": "web"}},
			{ID: strings.Repeat("a", 64), Name: "idle", Created: day, Driver: "macvlan", EnableIPv4: true, Labels: map[string]string{"keep": "yes"}},
		},
		members: map[string][]network.Member{strings.Repeat("f", 64): {{ContainerID: served().ID, ContainerName: "served", Endpoint: served().Network.Endpoints[1]}}},
	}
}

func (f *fakeNetworks) Create(_ context.Context, r network.CreateRequest) (network.Network, []string, error) {
	f.created = r
	return network.Network{ID: strings.Repeat("9", 64), Name: r.Name, Driver: "bridge"}, []string{"one", "two"}, f.err
}
func (f *fakeNetworks) Remove(_ context.Context, ref string) error {
	f.removed = append(f.removed, ref)
	return f.err
}
func (f *fakeNetworks) Get(ref string) (network.Network, error) {
	for _, n := range f.list {
		if n.Name == ref || strings.HasPrefix(n.ID, ref) {
			return n, nil
		}
	}
	return network.Network{}, fail.New(fail.NotFound, "network %s not found", ref)
}
func (f *fakeNetworks) List() []network.Network              { return f.list }
func (f *fakeNetworks) Endpoints(id string) []network.Member { return f.members[id] }
func (f *fakeNetworks) Facts() network.Facts {
	return network.Facts{Drivers: []string{"null", "bridge", "host", "macvlan"}, Firewall: "nftables", FirewallVersion: "nf_tables 1", IPv4Forwarding: true,
		Hints: []string{"the host's forward chain drops"}, Pools: []network.AddressPool{{Base: netip.MustParsePrefix("172.17.0.0/16"), Size: 16}}}
}

// served is on two networks and publishes ports.
func served() engine.Container {
	c := web()
	c.ID, c.Name = strings.Repeat("3", 64), "served"
	port := mobynet.MustParsePort
	c.Config = &container.Config{Image: "busybox", ExposedPorts: mobynet.PortSet{port("80/tcp"): {}, port("443/tcp"): {}, port("53/udp"): {}}}
	c.HostConfig = &container.HostConfig{NetworkMode: "bridge", PortBindings: mobynet.PortMap{port("80/tcp"): {{HostPort: "8080"}}, port("53/udp"): {{HostIP: netip.MustParseAddr("127.0.0.1")}}}}
	c.Networking = &mobynet.NetworkingConfig{EndpointsConfig: map[string]*mobynet.EndpointSettings{
		"bridge": {},
		"front": {Aliases: []string{"www"}, Links: []string{"db:d"}, DriverOpts: map[string]string{"k": "v"}, GwPriority: 5, MacAddress: mobynet.HardwareAddr{2, 0, 0, 0, 0, 9},
			IPAMConfig: &mobynet.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("10.9.0.130")}},
	}}
	c.Sandbox = c.ID
	c.Network = &network.Sandbox{
		ID: c.ID,
		Endpoints: []network.Endpoint{
			{ID: strings.Repeat("5", 64), Network: strings.Repeat("b", 64), NetworkName: "bridge", Interface: "eth0", MAC: net.HardwareAddr{2, 66, 172, 17, 0, 2},
				IPv4: netip.MustParsePrefix("172.17.0.2/16"), Gateway4: netip.MustParseAddr("172.17.0.1")},
			{ID: strings.Repeat("6", 64), Network: strings.Repeat("f", 64), NetworkName: "front", Interface: "eth1", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9},
				IPv4: netip.MustParsePrefix("10.9.0.130/24"), IPv6: netip.MustParsePrefix("fd00:9::2/64"), Gateway6: netip.MustParseAddr("fd00:9::1"), Names: []string{"served", "www", "333333333333"}},
		},
		Ports: []network.Port{
			{Proto: "tcp", HostIP: netip.IPv6Unspecified(), HostPort: 8080, ContainerPort: 80},
			{Proto: "tcp", HostIP: netip.IPv4Unspecified(), HostPort: 8080, ContainerPort: 80},
			{Proto: "udp", HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 40000, ContainerPort: 53},
		},
	}
	return c
}

func withNetworks(t *testing.T) *bench {
	b := newBench(t)
	stopped := served()
	stopped.ID, stopped.Name, stopped.Network = strings.Repeat("4", 64), "stopped", nil
	stopped.State = engine.State{Status: "exited", StartedAt: day, FinishedAt: day}
	b.eng.list = append(b.eng.list, served(), stopped)
	return b
}

func TestNetworksAreFiltered(t *testing.T) {
	b := withNetworks(t)
	for filters, want := range map[string]string{
		``:                              "bridge host none front idle",
		`{"driver":["bridge"]}`:         "bridge front",
		`{"driver":["bridge","null"]}`:  "bridge none front",
		`{"type":["custom"]}`:           "front idle",
		`{"type":["builtin"]}`:          "bridge host none",
		`{"type":["builtin","custom"]}`: "bridge host none front idle",
		`{"name":["fr"]}`:               "front",
		`{"name":["^(host|none)$"]}`:    "host none",
		`{"name":["["]}`:                "",
		`{"id":["ffff"]}`:               "front",
		`{"scope":["local"]}`:           "bridge host none front idle",
		`{"scope":["swarm"]}`:           "",
		`{"label":["tier"]}`:            "front",
		`{"label":["tier=web","keep"]}`: "",
		`{"dangling":["true"]}`:         "idle",
		`{"dangling":["false"]}`:        "bridge host none front",
		`{"driver":{"macvlan":true},"type":{"custom":true}}`: "idle",
	} {
		w := b.ask("GET", "/v1.50/networks?filters="+url.QueryEscape(filters), "")
		var got []mobynet.Summary
		if w.Code != 200 || json.Unmarshal(w.Body.Bytes(), &got) != nil {
			t.Errorf("%s: %d %s", filters, w.Code, w.Body)
			continue
		}
		var names []string
		for _, n := range got {
			names = append(names, n.Name)
		}
		if strings.Join(names, " ") != want {
			t.Errorf("%s: %v, want %s", filters, names, want)
		}
	}
	for _, bad := range []string{`{"type":["odd"]}`, `{"colour":["red"]}`, `{"dangling":["perhaps"]}`, `[`} {
		if w := b.ask("GET", "/networks?filters="+url.QueryEscape(bad), ""); w.Code != 400 {
			t.Errorf("%s: %d", bad, w.Code)
		}
	}
}

func TestANetworkIsInspectedWithItsContainers(t *testing.T) {
	b := withNetworks(t)
	var got mobynet.Inspect
	if w := b.ask("GET", "/v1.52/networks/front?verbose=1&scope=local", ""); w.Code != 200 || json.Unmarshal(w.Body.Bytes(), &got) != nil {
		t.Fatal(w.Code, w.Body)
	}
	member := got.Containers[served().ID]
	if len(got.Containers) != 1 || member.Name != "served" || member.IPv4Address.String() != "10.9.0.130/24" || member.IPv6Address.String() != "fd00:9::2/64" || member.MacAddress.String() != "02:00:00:00:00:09" {
		t.Errorf("%+v", got.Containers)
	}
	// 10.9.0.0/24: network, broadcast, gateway, router, container; the range has lost the broadcast and the container.
	if s := got.Status.IPAM.Subnets[netip.MustParsePrefix("10.9.0.0/24")]; s.IPsInUse != 5 || s.DynamicIPsAvailable != 126 {
		t.Errorf("IPv4: %+v", s)
	}
	if s := got.Status.IPAM.Subnets[netip.MustParsePrefix("fd00:9::/64")]; s.IPsInUse != 3 || s.DynamicIPsAvailable != 1<<64-1-3 {
		t.Errorf("IPv6: %+v", s)
	}
	if w := b.ask("GET", "/v1.51/networks/front", ""); strings.Contains(w.Body.String(), "Status") {
		t.Errorf("1.51 knows no status: %s", w.Body)
	}
	if w := b.ask("GET", "/networks/host", ""); !strings.Contains(w.Body.String(), `"Name":"web"`) {
		t.Errorf("the running container on host: %s", w.Body)
	}
	if w := b.ask("GET", "/networks/none", ""); strings.Contains(w.Body.String(), `"Name":"job"`) {
		t.Errorf("a stopped container on none: %s", w.Body)
	}
	for _, path := range []string{"/networks/nowhere", "/networks/front?scope=swarm"} {
		if w := b.ask("GET", path, ""); w.Code != 404 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

func TestSubnetsAreCounted(t *testing.T) {
	for _, c := range []struct {
		pool       string
		used, free uint64
	}{
		{"10.0.0.0/30", 2, 2}, {"10.0.0.0/31", 0, 2}, {"10.0.0.0/32", 0, 1}, {"fd00::/127", 0, 2}, {"fd00::/126", 1, 3}, {"fd00::/48", 1, 1<<64 - 2}, {"10.0.0.7/24", 2, 254},
	} {
		if s := poolStatus(network.Pool{Subnet: netip.MustParsePrefix(c.pool)}, nil); s.IPsInUse != c.used || s.DynamicIPsAvailable != c.free {
			t.Errorf("%s: %+v", c.pool, s)
		}
	}
}

func TestNetworksAreCreated(t *testing.T) {
	b := withNetworks(t)
	sub := b.Events.Subscribe(t.Context(), time.Time{}, nil)
	body := `{"Name":"new","CheckDuplicate":true,"Driver":"bridge","EnableIPv4":false,"EnableIPv6":true,"IPAM":{"Driver":"default","Options":{"k":"v"},"Config":[{"Subnet":"10.1.0.0/16","IPRange":"10.1.2.0/24","Gateway":"10.1.0.9","AuxiliaryAddresses":{"a":"10.1.0.7"}},{"Subnet":"","Gateway":""}]},
		"Internal":true,"Attachable":true,"ConfigFrom":{"Network":"pattern"},"Options":{"o":"1"},"Labels":{"l":"2"}}`
	w := b.ask("POST", "/v1.50/networks/create", body)
	if w.Code != 201 || strings.TrimSpace(w.Body.String()) != `{"Id":"`+strings.Repeat("9", 64)+`","Warning":"one\ntwo"}` {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	no, yes := false, true
	want := network.CreateRequest{Name: "new", Driver: "bridge", EnableIPv4: &no, EnableIPv6: &yes, Internal: true, Attachable: true, ConfigFrom: "pattern",
		IPAM: network.IPAM{Driver: "default", Options: map[string]string{"k": "v"}, Pools: []network.Pool{
			{Subnet: netip.MustParsePrefix("10.1.0.0/16"), Range: netip.MustParsePrefix("10.1.2.0/24"), Gateway: netip.MustParseAddr("10.1.0.9"), Aux: map[string]netip.Addr{"a": netip.MustParseAddr("10.1.0.7")}}, {}}},
		Options: map[string]string{"o": "1"}, Labels: map[string]string{"l": "2"}}
	if !reflect.DeepEqual(b.nets.created, want) {
		t.Errorf("%+v", b.nets.created)
	}
	if e := <-sub.C; e.Type != "network" || e.Action != "create" || e.ID != strings.Repeat("9", 64) || e.Attrs["name"] != "new" || e.Attrs["type"] != "bridge" {
		t.Errorf("event %+v", e)
	}
	if b.ask("POST", "/v1.47/networks/create", body); b.nets.created.EnableIPv4 != nil {
		t.Error("1.47 knows no EnableIPv4")
	}
	if b.ask("POST", "/v1.41/networks/create", `{"Name":"new","EnableIPv6":false}`); b.nets.created.EnableIPv6 != nil {
		t.Error("false is what 1.41 sends when nobody has said a thing")
	}
}

func TestBadNetworkRequestsAreRefused(t *testing.T) {
	b := withNetworks(t)
	for _, c := range []struct {
		path, body string
		status     int
		text       string
	}{
		{"/networks/create", `{`, 400, "invalid JSON"},
		{"/networks/create", `{"Name":"x","IPAM":{"Config":[{"Subnet":"10.0.0.0"}]}}`, 400, `invalid value in the request body: netip.ParsePrefix("10.0.0.0")`},
		{"/networks/create", `{"Name":5}`, 400, "invalid JSON"},
		{"/networks/create", `{"Name":"x","IPAM":{"Config":[{"Gateway":"ten"}]}}`, 400, "ten"},
		{"/networks/create", `{"Name":"x","Scope":"swarm"}`, 403, "no swarm mode"},
		{"/networks/create", `{"Name":"x","Driver":"overlay"}`, 503, "not a swarm manager"},
		{"/networks/create", `{"Name":"x","Ingress":true}`, 403, "no swarm mode"},
		{"/networks/create", `{"Name":"x","Scope":"galaxy"}`, 400, "invalid scope"},
		{"/networks/front/connect", `{}`, 400, "no container name or ID supplied"},
		{"/networks/front/connect", `{"Container":"web","EndpointConfig":{"IPAMConfig":{"IPv4Address":"nine"}}}`, 400, "nine"},
		{"/networks/front/connect", `{"Container":"web","EndpointConfig":{"MacAddress":"x"}}`, 400, "x"},
		{"/networks/front/disconnect", `{}`, 400, "no container name or ID supplied"},
		{"/networks/prune?filters=" + url.QueryEscape(`{"driver":["x"]}`), ``, 400, "invalid filter 'driver'"},
		{"/networks/prune?filters=" + url.QueryEscape(`{"until":["then"]}`), ``, 400, "until"},
	} {
		w := b.ask("POST", c.path, c.body)
		if w.Code != c.status || !strings.Contains(message(t, w), c.text) || strings.Contains(message(t, w), "\n") {
			t.Errorf("%s %s: %d %s", c.path, c.body, w.Code, w.Body)
		}
	}
	if w := b.ask("DELETE", "/networks/nowhere", ""); w.Code != 404 || len(b.nets.removed) != 0 {
		t.Errorf("%d %v", w.Code, b.nets.removed)
	}
	b.nets.err = fail.New(fail.Forbidden, "network front has active endpoints")
	sub := b.Events.Subscribe(t.Context(), time.Time{}, nil)
	if w := b.ask("DELETE", "/networks/front", ""); w.Code != 403 {
		t.Errorf("%d", w.Code)
	}
	b.nets.err = fail.New(fail.Conflict, "network with name x already exists")
	if w := b.ask("POST", "/networks/create", `{"Name":"x"}`); w.Code != 409 || len(sub.C) != 0 {
		t.Errorf("%d, %d events", w.Code, len(sub.C))
	}
}

func TestNetworksAreRemovedAndPruned(t *testing.T) {
	b := withNetworks(t)
	if w := b.ask("DELETE", "/networks/front", ""); w.Code != 204 || b.nets.removed[0] != strings.Repeat("f", 64) {
		t.Errorf("%d %v", w.Code, b.nets.removed)
	}
	for filters, want := range map[string]string{
		``:                        `{"NetworksDeleted":["idle"]}`,
		`{"label":["tier"]}`:      `{"NetworksDeleted":[]}`,
		`{"label!":["keep=yes"]}`: `{"NetworksDeleted":[]}`,
		`{"label!":["tier"]}`:     `{"NetworksDeleted":["idle"]}`,
		`{"until":["` + day.Add(-time.Minute).Format(time.RFC3339) + `"]}`: `{"NetworksDeleted":[]}`,
		`{"until":["1h"]}`: `{"NetworksDeleted":["idle"]}`,
	} {
		if w := b.ask("POST", "/networks/prune?filters="+url.QueryEscape(filters), ""); w.Code != 200 || strings.TrimSpace(w.Body.String()) != want {
			t.Errorf("%s: %d %s", filters, w.Code, w.Body)
		}
	}
	b.nets.removed = nil
	b.nets.list = slices.Insert(b.nets.list, 0, network.Network{ID: "pattern", Name: "pattern", ConfigOnly: true})
	if b.ask("POST", "/networks/prune", ""); len(b.nets.removed) != 2 || b.nets.removed[1] != "pattern" {
		t.Errorf("patterns go last: %v", b.nets.removed)
	}
	b.nets.err = fail.New(fail.Forbidden, "configuration network idle is in use")
	if w := b.ask("POST", "/networks/prune", ""); w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"NetworksDeleted":[]}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestContainersAreConnectedAndDisconnected(t *testing.T) {
	b := withNetworks(t)
	body := `{"Container":"web","EndpointConfig":{"IPAMConfig":{"IPv4Address":"10.9.0.200","LinkLocalIPs":["169.254.1.1"]},"Aliases":["a"],"MacAddress":"02:00:00:00:00:01","GwPriority":-1,"IPAddress":""}}`
	if w := b.ask("POST", "/v1.44/networks/front/connect", body); w.Code != 200 || w.Body.Len() != 0 || b.eng.connected != "web to front" {
		t.Fatalf("%d %s %s", w.Code, w.Body, b.eng.connected)
	}
	if e := b.eng.endpoint; e.IPAMConfig.IPv4Address.String() != "10.9.0.200" || e.GwPriority != -1 || e.MacAddress.String() != "02:00:00:00:00:01" || e.Aliases[0] != "a" {
		t.Errorf("%+v", e)
	}
	if b.ask("POST", "/v1.43/networks/front/connect", body); b.eng.endpoint.MacAddress != nil {
		t.Error("1.43 took no MAC address")
	}
	if w := b.ask("POST", "/networks/front/connect", `{"Container":"web"}`); w.Code != 200 || b.eng.endpoint != nil {
		t.Errorf("%d %v", w.Code, b.eng.endpoint)
	}
	if w := b.ask("POST", "/networks/front/disconnect", `{"Container":"web","Force":true}`); w.Code != 200 || b.eng.connected != "web off front, force true" {
		t.Errorf("%d %s", w.Code, b.eng.connected)
	}
	b.eng.err = fail.New(fail.NotFound, "network nowhere not found")
	if w := b.ask("POST", "/networks/nowhere/connect", `{"Container":"web"}`); w.Code != 404 {
		t.Errorf("%d", w.Code)
	}
}

func TestContainersAreFoundByNetworkAndPort(t *testing.T) {
	b := withNetworks(t)
	for filters, want := range map[string]string{
		`{"network":["front"]}`:                           "served stopped",
		`{"network":["ffffff"]}`:                          "served stopped",
		`{"network":["host","none"]}`:                     "web job",
		`{"network":["nowhere"]}`:                         "",
		`{"publish":["80"]}`:                              "served stopped",
		`{"publish":["80/udp"]}`:                          "",
		`{"publish":["50-60/udp"]}`:                       "served stopped",
		`{"publish":["443"]}`:                             "",
		`{"expose":["443"]}`:                              "served stopped",
		`{"expose":["400-500/tcp"],"network":["bridge"]}`: "served stopped",
	} {
		w := b.ask("GET", "/containers/json?all=1&filters="+url.QueryEscape(filters), "")
		var got []struct{ Names []string }
		if w.Code != 200 || json.Unmarshal(w.Body.Bytes(), &got) != nil {
			t.Errorf("%s: %d %s", filters, w.Code, w.Body)
			continue
		}
		var names []string
		for _, c := range got {
			names = append(names, strings.TrimPrefix(c.Names[0], "/"))
		}
		if strings.Join(names, " ") != want {
			t.Errorf("%s: %v, want %s", filters, names, want)
		}
	}
	for _, bad := range []string{`{"publish":["x"]}`, `{"expose":["9-1"]}`} {
		if w := b.ask("GET", "/containers/json?filters="+url.QueryEscape(bad), ""); w.Code != 400 {
			t.Errorf("%s: %d", bad, w.Code)
		}
	}
}

func TestTheContainersMacAddressGoesToItsFirstNetwork(t *testing.T) {
	const mac = "02:00:00:00:00:01"
	for _, c := range []struct {
		name, path, body string
		status           int
		network, warning string
	}{
		{"old client", "/v1.43", `{"Image":"busybox","MacAddress":"` + mac + `"}`, 201, "default", ""},
		{"old client, own network", "/v1.40", `{"Image":"busybox","MacAddress":"` + mac + `","HostConfig":{"NetworkMode":"front"},"NetworkingConfig":{"EndpointsConfig":{"front":{"MacAddress":"02:00:00:00:00:02"}}}}`, 201, "front", ""},
		{"new client", "/v1.44", `{"Image":"busybox","MacAddress":"` + mac + `","NetworkingConfig":{"EndpointsConfig":{"bridge":{}}}}`, 201, "bridge", "deprecated"},
		{"both alike", "/v1.50", `{"Image":"busybox","MacAddress":"` + mac + `","HostConfig":{"NetworkMode":"front"},"NetworkingConfig":{"EndpointsConfig":{"front":{"MacAddress":"` + mac + `"}}}}`, 201, "front", "deprecated"},
		{"both different", "/v1.50", `{"Image":"busybox","MacAddress":"` + mac + `","HostConfig":{"NetworkMode":"front"},"NetworkingConfig":{"EndpointsConfig":{"front":{"MacAddress":"02:00:00:00:00:02"}}}}`, 400, "", ""},
		{"no network of its own", "/v1.50", `{"Image":"busybox","MacAddress":"` + mac + `","HostConfig":{"NetworkMode":"host"}}`, 400, "", ""},
		{"not an address", "/v1.43", `{"Image":"busybox","MacAddress":"x"}`, 400, "", ""},
	} {
		b := newBench(t)
		w := b.ask("POST", c.path+"/containers/create", c.body)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.warning) {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
			continue
		}
		if c.status == 201 && b.eng.created.Networking.EndpointsConfig[c.network].MacAddress.String() != mac {
			t.Errorf("%s: %+v", c.name, b.eng.created.Networking.EndpointsConfig)
		}
	}
	b := newBench(t)
	b.ask("POST", "/v1.43/containers/create", `{"Image":"busybox","NetworkingConfig":{"EndpointsConfig":{"front":{"MacAddress":"`+mac+`"}}}}`)
	if b.eng.created.Networking.EndpointsConfig["front"].MacAddress != nil {
		t.Error("1.43 took no MAC address of an endpoint")
	}
}

func TestAPatternOfNetworksHasNoDriver(t *testing.T) {
	b := newBench(t)
	b.nets.list = append(b.nets.list, network.Network{ID: strings.Repeat("8", 64), Name: "pattern", Driver: "bridge", ConfigOnly: true, IPAM: network.IPAM{Pools: []network.Pool{{Subnet: netip.MustParsePrefix("10.1.0.0/16")}}}})
	var got mobynet.Inspect
	if w := b.ask("GET", "/networks/pattern", ""); json.Unmarshal(w.Body.Bytes(), &got) != nil || got.Driver != "null" || !got.ConfigOnly || got.Status != nil {
		t.Errorf("%s", w.Body)
	}
}

func TestInfoTellsOfNetworks(t *testing.T) {
	b := newBench(t)
	for v, want := range map[string]bool{"1.48": false, "1.49": true, "1.55": true} {
		w := b.ask("GET", "/v"+v+"/info", "")
		body := w.Body.String()
		if strings.Contains(body, `"FirewallBackend":{"Driver":"nftables","Info":[["Version","nf_tables 1"]]}`) != want {
			t.Errorf("%s: %s", v, body)
		}
		var info struct {
			Plugins             struct{ Network []string }
			IPv4Forwarding      bool
			Warnings            []string
			DefaultAddressPools []struct{ Base string }
		}
		if err := json.Unmarshal(w.Body.Bytes(), &info); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(info.Plugins.Network, []string{"bridge", "host", "macvlan", "null"}) || !info.IPv4Forwarding || !slices.Contains(info.Warnings, "WARNING: the host's forward chain drops") || info.DefaultAddressPools[0].Base != "172.17.0.0/16" {
			t.Errorf("%s: %+v", v, info)
		}
	}
}

func TestPruningTheBuildCacheFindsNone(t *testing.T) {
	b := newBench(t)
	for query, want := range map[string]string{
		"": "", "?all=1&keep-storage=5": "", "?reserved-space=1&max-used-space=2&min-free-space=9000000000": "",
		`?filters={"until":["24h"],"id":["x"],"parent":["x"],"type":["regular"],"description":["x"],"inuse":["1"],"shared":["1"],"private":["1"]}`: "",
		`?filters={"unused-for":{"24h":true}}`: "", `?filters={"label":["a","b"],"label!":["c"]}`: "", // labels come with a system prune
		`?filters=x`: "not a JSON object", `?filters={"colour":["red"]}`: "invalid filter 'colour'", `?filters={"until":["yesterday"]}`: "until",
		`?filters={"unused-for":["long"]}`: "invalid value", `?filters={"until":["1h"],"unused-for":["1h"]}`: "cannot be combined", `?filters={"id":["a","b"]}`: "more than one id filter",
		"?keep-storage=much": "keep-storage", "?reserved-space=1GB": "reserved-space", "?max-used-space=1.5": "max-used-space", "?min-free-space=x": "min-free-space",
	} {
		w := b.ask("POST", "/build/prune"+query, "")
		switch {
		case want == "" && (w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"CachesDeleted":[],"SpaceReclaimed":0}`):
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		case want != "" && (w.Code != 400 || !strings.Contains(w.Body.String(), want)):
			t.Errorf("%s: %d %s, want %q", query, w.Code, w.Body, want)
		}
	}
}

func TestLinksAreToldAsDockerTellsThem(t *testing.T) {
	b := newBench(t)
	user := served()
	user.Name, user.ID = "user", strings.Repeat("7", 64)
	user.HostConfig = &container.HostConfig{NetworkMode: "bridge", Links: []string{"served:db", "/served", "gone:x"}}
	b.eng.list = []engine.Container{served(), user}
	var rows []struct {
		ID    string `json:"Id"`
		Names []string
	}
	if w := b.ask("GET", "/containers/json", ""); json.Unmarshal(w.Body.Bytes(), &rows) != nil {
		t.Fatal(w.Body)
	}
	if got := rows[0].Names; !slices.Equal(got, []string{"/served", "/user/db", "/user/served"}) {
		t.Errorf("names of the linked one: %q", got)
	}
	var got struct{ HostConfig struct{ Links []string } }
	if w := b.ask("GET", "/containers/user/json", ""); json.Unmarshal(w.Body.Bytes(), &got) != nil {
		t.Fatal(w.Body)
	}
	if want := []string{"/served:/user/db", "/served:/user/served", "/gone:/user/x"}; !slices.Equal(got.HostConfig.Links, want) {
		t.Errorf("links: %q", got.HostConfig.Links)
	}
	if b.eng.list[1].HostConfig.Links[0] != "served:db" {
		t.Error("the container's own record was changed")
	}
}

func TestALinkIsRemovedByItsNameBelowTheContainers(t *testing.T) {
	b := newBench(t)
	if w := b.ask("DELETE", "/containers/web/db?link=1", ""); w.Code != 204 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := b.ask("DELETE", "/containers/web?force=1", ""); w.Code != 204 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := b.ask("DELETE", "/containers/web/checkpoints/one", ""); w.Code != 501 || !strings.Contains(message(t, w), "checkpoint") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
