package engine

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	mobynet "github.com/moby/moby/api/types/network"
	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/fail"
	"berth/network"
	"berth/supervisor"
)

func port(s string) mobynet.Port { return mobynet.MustParsePort(s) }
func addr(s string) netip.Addr   { return netip.MustParseAddr(s) }
func on(names ...string) *mobynet.NetworkingConfig {
	n := &mobynet.NetworkingConfig{EndpointsConfig: map[string]*mobynet.EndpointSettings{}}
	for _, name := range names {
		n.EndpointsConfig[name] = &mobynet.EndpointSettings{}
	}
	return n
}

// bridged asks for the default network, and for a published port.
func bridged(publish ...string) func(*CreateRequest) {
	return func(r *CreateRequest) {
		r.HostConfig.NetworkMode = "bridge"
		for _, p := range publish {
			host, cont, _ := strings.Cut(p, ":")
			if r.HostConfig.PortBindings == nil {
				r.HostConfig.PortBindings = mobynet.PortMap{}
			}
			r.HostConfig.PortBindings[port(cont)] = append(r.HostConfig.PortBindings[port(cont)], mobynet.PortBinding{HostPort: host})
		}
	}
}

func onNetwork(name string, e *mobynet.EndpointSettings) func(*CreateRequest) {
	return func(r *CreateRequest) {
		r.HostConfig.NetworkMode = container.NetworkMode(name)
		if e != nil {
			r.Networking = &mobynet.NetworkingConfig{EndpointsConfig: map[string]*mobynet.EndpointSettings{name: e}}
		}
	}
}

func TestCreateSettlesTheNetworks(t *testing.T) {
	f := newFixture(t)
	mine := f.nets.add(network.Network{Name: "mine"})
	f.nets.add(network.Network{Name: "other"})
	donor := f.create("donor", nil)
	for _, c := range []struct {
		name  string
		mode  string
		asked *mobynet.NetworkingConfig
		want  string // mode: networks
	}{
		{"nothing said", "", nil, "bridge: bridge"},
		{"default", "default", on("default"), "bridge: bridge"},
		{"none", "none", on("none"), "none: none"},
		{"host", "host", nil, "host: host"},
		{"another container's", "container:donor", on("container:donor"), "container:" + donor + ": "},
		{"by name", "mine", nil, "mine: mine"},
		{"by ID", mine.ID, on(mine.ID), "mine: mine"},
		{"several", "mine", on("mine", "other"), "mine: mine other"},
		{"one beside the mode's", "mine", on("other"), "mine: mine other"},
		{"endpoints without a mode", "", on("other"), "bridge: other"},
		{"one that does not exist yet", "later", on("later"), "later: later"},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := f.create("", func(r *CreateRequest) {
				r.HostConfig.NetworkMode, r.Networking = container.NetworkMode(c.mode), c.asked
			})
			got, _ := f.Containers.Get(id)
			if is := string(got.HostConfig.NetworkMode) + ": " + strings.Join(sortedKeys(got.Networking.EndpointsConfig), " "); is != c.want {
				t.Errorf("%s, want %s", is, c.want)
			}
		})
	}
	f.nets.remove("bridge")
	id := f.create("", func(r *CreateRequest) { r.HostConfig.NetworkMode = "" })
	if c, _ := f.Containers.Get(id); c.HostConfig.NetworkMode != "none" {
		t.Errorf("without a default network the mode is %s", c.HostConfig.NetworkMode)
	}
}

func TestCreateRefusesNetworksThatContradictThemselves(t *testing.T) {
	f := newFixture(t)
	f.nets.add(network.Network{Name: "mine"}) // 10.3.0.0/16
	f.create("donor", nil)
	for _, c := range []struct {
		name   string
		change func(*CreateRequest)
		text   string
	}{
		{"none and another", func(r *CreateRequest) { r.Networking = on("none", "mine") }, "one of the networks in private (none) mode"},
		{"host and another", func(r *CreateRequest) { r.HostConfig.NetworkMode, r.Networking = "host", on("host", "mine") }, "cannot be connected to any other network"},
		{"a user's and host", func(r *CreateRequest) { r.HostConfig.NetworkMode, r.Networking = "mine", on("host", "mine") }, "host network"},
		{"a container's and another", func(r *CreateRequest) { r.HostConfig.NetworkMode, r.Networking = "container:donor", on("mine") }, "sharing network namespace"},
		{"the same twice", func(r *CreateRequest) { r.HostConfig.NetworkMode, r.Networking = "", on("default", "bridge") }, "network bridge is asked for twice"},
		{"fixed address on the default bridge", onNetwork("bridge", &mobynet.EndpointSettings{IPAMConfig: &mobynet.EndpointIPAMConfig{IPv4Address: addr("10.0.0.9")}}), "user defined networks only"},
		{"alias on the default bridge", onNetwork("bridge", &mobynet.EndpointSettings{Aliases: []string{"x"}}), "only supported for user-defined networks"},
		{"address of no subnet", onNetwork("mine", &mobynet.EndpointSettings{IPAMConfig: &mobynet.EndpointIPAMConfig{IPv4Address: addr("192.0.2.1")}}), "invalid config for network mine: no configured subnet"},
		{"an IPv6 address as IPv4", onNetwork("mine", &mobynet.EndpointSettings{IPAMConfig: &mobynet.EndpointIPAMConfig{IPv4Address: addr("::1")}}), "invalid IPv4 address: ::1"},
		{"two faults in one line", onNetwork("mine", &mobynet.EndpointSettings{Aliases: []string{"a b"}, IPAMConfig: &mobynet.EndpointIPAMConfig{LinkLocalIPs: []netip.Addr{addr("1.2.3.4")}}}), "link-local IP address: 1.2.3.4; invalid network alias"},
		{"multicast MAC", onNetwork("mine", &mobynet.EndpointSettings{MacAddress: mobynet.HardwareAddr{1, 0, 0, 0, 0, 1}}), "invalid MAC address"},
		{"port out of range", bridged("65536:80"), `invalid port specification: "65536"`},
		{"range backwards", bridged("90-80:80"), `invalid port specification: "90-80"`},
		{"port 0", bridged("80:0"), `invalid port specification: "0/tcp"`},
		{"unknown protocol", bridged("80:80/dccp"), "none of tcp, udp, sctp"},
		{"ports beside a donor", func(r *CreateRequest) { bridged("80:80")(r); r.HostConfig.NetworkMode = "container:donor" }, "port publishing and the container type network mode"},
		{"exposed ports beside a donor", func(r *CreateRequest) {
			r.HostConfig.NetworkMode, r.Config.ExposedPorts = "container:donor", mobynet.PortSet{port("80"): {}}
		}, "port exposing and the container type network mode"},
		{"links on the host's", func(r *CreateRequest) { r.HostConfig.NetworkMode, r.HostConfig.Links = "host", []string{"donor"} }, "host type networking can't be used with links"},
		{"link to nobody", func(r *CreateRequest) { bridged()(r); r.HostConfig.Links = []string{"nobody:x"} }, "could not get container for nobody"},
		{"link of no form", func(r *CreateRequest) { bridged()(r); r.HostConfig.Links = []string{"a:b:c"} }, "bad format for links"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := CreateRequest{Config: &container.Config{Image: "busybox"}, HostConfig: &container.HostConfig{NetworkMode: "none"}}
			c.change(&r)
			_, _, err := f.Containers.Create(t.Context(), r)
			if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v (%v)", err, fail.Of(err))
			}
		})
	}
}

func TestWhichPortsArePublished(t *testing.T) {
	any4 := supervisor.Port{Proto: "tcp", ContainerPort: 80}
	for _, c := range []struct {
		name     string
		bindings mobynet.PortMap
		exposed  []string
		all      bool
		bind     string
		want     []supervisor.Port
	}{
		{"none", nil, []string{"80"}, false, "", nil},
		{"one", mobynet.PortMap{port("80"): {{HostPort: "8000"}}}, nil, false, "", []supervisor.Port{{Proto: "tcp", HostPort: 8000, ContainerPort: 80}}},
		{"any", mobynet.PortMap{port("80"): {{}}}, nil, false, "", []supervisor.Port{any4}},
		{"a binding without bindings", mobynet.PortMap{port("80"): nil}, nil, false, "", []supervisor.Port{any4}},
		{"those with a number before those with a choice", mobynet.PortMap{port("1/udp"): {{}}, port("2"): {{HostPort: "9-12"}}, port("3"): {{HostPort: "9"}}}, nil, false, "", []supervisor.Port{
			{Proto: "tcp", HostPort: 9, ContainerPort: 3}, {Proto: "tcp", HostPort: 9, HostPortEnd: 12, ContainerPort: 2}, {Proto: "udp", ContainerPort: 1},
		}},
		{"all, but not twice", mobynet.PortMap{port("80"): {{HostPort: "8000"}}}, []string{"80", "53/udp"}, true, "", []supervisor.Port{
			{Proto: "tcp", HostPort: 8000, ContainerPort: 80}, {Proto: "udp", ContainerPort: 53},
		}},
		{"a default address", mobynet.PortMap{port("80"): {{HostPort: "1"}, {HostPort: "2", HostIP: addr("::1")}}}, nil, false, "127.0.0.1", []supervisor.Port{
			{Proto: "tcp", HostPort: 1, HostIP: addr("127.0.0.1"), ContainerPort: 80}, {Proto: "tcp", HostPort: 2, HostIP: addr("::1"), ContainerPort: 80},
		}},
	} {
		cfg := &container.Config{ExposedPorts: mobynet.PortSet{}}
		for _, e := range c.exposed {
			cfg.ExposedPorts[port(e)] = struct{}{}
		}
		n := network.Network{Options: map[string]string{hostBinding: c.bind}}
		got := portRequests(Container{Config: cfg, HostConfig: &container.HostConfig{PortBindings: c.bindings, PublishAllPorts: c.all}}, new(wiring).bindAddress(&n))
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// seen is the last configuration that a shim was made with.
func (f *fixture) seen() supervisor.Config {
	f.shims.mu.Lock()
	defer f.shims.mu.Unlock()
	return f.shims.seen[len(f.shims.seen)-1]
}

func (f *fixture) get(ref string) Container {
	f.t.Helper()
	c, err := f.Containers.Get(ref)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func TestAStartJoinsPublishesAndIsSeen(t *testing.T) {
	f, begin := newFixture(t), time.Now()
	id := f.create("web", bridged("8000:80"))
	f.start("web")
	cfg, c := f.seen(), f.get("web")
	n := cfg.Network
	if n == nil || n.Target4 != c.Network.Endpoints[0].IPv4.Addr() || n.DNS == nil || len(n.DNS.Zones) != 1 || n.DNS.Internal {
		t.Fatalf("the shim was told %+v", n)
	}
	if !slices.ContainsFunc(cfg.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace && strings.HasPrefix(n.Path, "/proc/")
	}) {
		t.Errorf("namespaces %v", cfg.Spec.Linux.Namespaces)
	}
	var published []string
	for _, p := range c.Network.Ports {
		published = append(published, netip.AddrPortFrom(p.HostIP, p.HostPort).String())
	}
	if !slices.Equal(published, []string{"0.0.0.0:8000", "[::]:8000"}) {
		t.Errorf("published %v", published)
	}
	if box, _ := f.nets.Sandbox(id); len(box.Ports) != 2 {
		t.Errorf("the firewall was told of %v", box.Ports)
	}
	if names := c.Network.Endpoints[0].Names; !slices.Equal(names, []string{"web", id[:12]}) {
		t.Errorf("known as %v", names)
	}
	f.shims.of(id).exit(0)
	eventually(t, "it left", func() bool { return len(f.nets.Sandboxes()) == 0 })
	eventually(t, "that is told", func() bool {
		return slices.Equal(actions(f, begin), []string{"create", "connect", "start", "die", "disconnect"})
	})
	if f.get("web").Network != nil {
		t.Error("a container that does not run has a network")
	}
}

func TestAStartThatFailsLeavesNothing(t *testing.T) {
	f := newFixture(t)
	f.create("holder", bridged("8000:80"))
	f.start("holder")
	f.nets.add(network.Network{Name: "mine"})
	for _, c := range []struct {
		name    string
		prepare func()
		class   fail.Class
		text    string
	}{
		{"no network", func() { f.nets.remove("mine") }, fail.NotFound, "failed to set up container networking: network mine not found"},
		{"port in use by us", func() { f.shims.makeErr = fail.New(fail.Conflict, "port in use") }, fail.Internal,
			"Bind for 0.0.0.0:8000 failed: port is already allocated (by container holder)"},
		{"no shim", func() { f.shims.makeErr = errors.New("no memory") }, fail.Internal, "no memory"},
		{"no firewall", func() { f.nets.publishErr = errors.New("no nftables") }, fail.Internal, "networking: no nftables"},
		{"no program", func() { f.shims.startErr = fail.New(fail.NotFound, "no such file") }, fail.Invalid, "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := f.nets.Get("mine"); err != nil {
				f.nets.add(network.Network{Name: "mine"})
			}
			f.shims.makeErr, f.shims.startErr, f.nets.publishErr = nil, nil, nil
			id := f.create("", func(r *CreateRequest) { bridged("8000:80")(r); r.HostConfig.NetworkMode = "mine" })
			c.prepare()
			err := f.Containers.Start(t.Context(), id)
			if !fail.Is(err, c.class) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v (%v)", err, fail.Of(err))
			}
			if left := f.nets.Sandboxes(); len(left) != 1 {
				t.Errorf("left: %v", left)
			}
			if got := f.get(id); got.Network != nil || got.State.Error == "" {
				t.Errorf("%+v", got.State)
			}
		})
	}
}

func TestAPortConflictKeepsDockersWords(t *testing.T) {
	f := newFixture(t)
	f.create("web", bridged("8000:80"))
	f.shims.makeErr = fail.New(fail.Conflict, "failed to bind host port for 0.0.0.0:8000/tcp: address already in use")
	err := f.Containers.Start(t.Context(), "web")
	if err == nil || !strings.Contains(err.Error(), "driver failed programming external connectivity on endpoint web (") || !strings.HasSuffix(err.Error(), "address already in use") {
		t.Error(err)
	}
}

func TestANetworkMayGoAndComeWhileItsContainerIsStopped(t *testing.T) {
	f := newFixture(t)
	f.nets.add(network.Network{Name: "mine"})
	f.create("web", onNetwork("mine", nil))
	f.nets.remove("mine")
	if err := f.Containers.Start(t.Context(), "web"); !fail.Is(err, fail.NotFound) {
		t.Error(err)
	}
	f.nets.add(network.Network{Name: "mine"})
	f.start("web")
	if c := f.get("web"); len(c.Network.Endpoints) != 1 {
		t.Errorf("%+v", c.Network)
	}
}

func TestRestartsJoinAnewAndFixedAddressesStay(t *testing.T) {
	f := newFixture(t)
	f.nets.add(network.Network{Name: "mine"}) // 10.3.0.0/16
	f.create("web", func(r *CreateRequest) {
		onNetwork("mine", &mobynet.EndpointSettings{IPAMConfig: &mobynet.EndpointIPAMConfig{IPv4Address: addr("10.3.0.77")}})(r)
		r.HostConfig.RestartPolicy.Name = "always"
	})
	f.start("web")
	f.shims.of(f.get("web").ID).exit(1)
	eventually(t, "it runs again on its network", func() bool {
		c := f.get("web")
		return c.RestartCount == 1 && c.State.Status == running && c.Network != nil
	})
	if c := f.get("web"); c.Network.Endpoints[0].IPv4.Addr() != addr("10.3.0.77") {
		t.Errorf("%v", c.Network.Endpoints[0].IPv4)
	}
	if err := f.Containers.Restart(t.Context(), "web", StopOptions{}); err != nil {
		t.Fatal(err)
	}
	f.nets.mu.Lock()
	defer f.nets.mu.Unlock()
	if len(f.nets.joins) != 3 || len(f.nets.boxes) != 1 {
		t.Errorf("%d joins, %d sandboxes", len(f.nets.joins), len(f.nets.boxes))
	}
}

func TestNameAndPortsAreFreeOnlyWhenTheNetworksAreLeft(t *testing.T) {
	f := newFixture(t)
	f.create("web", func(r *CreateRequest) { bridged("8000:80")(r); autoRemove(r) })
	f.start("web")
	gate := make(chan struct{})
	f.nets.mu.Lock()
	f.nets.leaveGate = gate
	f.nets.mu.Unlock()
	exit, err := f.Containers.Wait(t.Context(), "web", WaitNextExit)
	if err != nil {
		t.Fatal(err)
	}
	removed, err := f.Containers.Wait(t.Context(), "web", WaitRemoved)
	if err != nil {
		t.Fatal(err)
	}
	f.shims.of(f.get("web").ID).exit(3)
	receive(t, exit) // does not wait for the networks
	if _, _, err := f.Containers.Create(t.Context(), CreateRequest{Name: "web", Config: &container.Config{Image: "busybox"}}); !fail.Is(err, fail.Conflict) {
		t.Errorf("the name is free: %v", err)
	}
	next := f.create("next", bridged("8000:80"))
	started := make(chan error, 1)
	go func() { started <- f.Containers.Start(context.Background(), next) }()
	select {
	case err := <-started:
		t.Errorf("started before the port was free: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(gate)
	if err := <-started; err != nil {
		t.Error(err)
	}
	receive(t, removed)
	f.create("web", nil)
}

func TestANewEngineKnowsTheNetworksOfWhatRuns(t *testing.T) {
	f := newFixture(t)
	id := f.create("web", bridged("8000:80"))
	f.start("web")
	lost := f.create("lost", bridged())
	f.start("lost")
	was := f.get("web")
	f.crash()
	f.shims.of(lost).vanish()
	if _, err := f.nets.Join(t.Context(), network.SandboxRequest{ID: "stray"}); err != nil {
		t.Fatal(err)
	}
	f.open()
	now := f.get("web")
	if now.Network == nil || now.Network.Endpoints[0].IPv4 != was.Network.Endpoints[0].IPv4 || !slices.Equal(now.Network.Ports, was.Network.Ports) {
		t.Errorf("%+v, was %+v", now.Network, was.Network)
	}
	if left := f.nets.Sandboxes(); !slices.Equal(left, []string{id}) {
		t.Errorf("sandboxes: %v", left)
	}
	f.shims.of(id).exit(0)
	eventually(t, "it left", func() bool { return len(f.nets.Sandboxes()) == 0 })
}

func TestConnectAndDisconnectOfARunningContainer(t *testing.T) {
	f, begin := newFixture(t), time.Now()
	mine := f.nets.add(network.Network{Name: "mine"})
	id := f.create("web", bridged("8000:80"))
	f.start("web")
	hosts := filepath.Join(f.opt.DataRoot, "containers", id, "hosts")
	before, err := os.Stat(hosts)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if err := f.Containers.Connect(ctx, "web", mine.ID, &mobynet.EndpointSettings{Aliases: []string{"db"}}); err != nil {
		t.Fatal(err)
	}
	c := f.get("web")
	e := endpointOn(c.Network, "mine")
	if e == nil || !slices.Equal(e.Names, []string{"web", "db", id[:12]}) || c.Networking.EndpointsConfig["mine"] == nil || len(c.Network.Ports) != 2 {
		t.Fatalf("%+v", c.Network)
	}
	after, err := os.Stat(hosts)
	text, _ := os.ReadFile(hosts)
	if err != nil || !os.SameFile(before, after) || !strings.Contains(string(text), e.IPv4.Addr().String()+"\t"+id[:12]) {
		t.Errorf("hosts (same file: %v):\n%s", os.SameFile(before, after), text)
	}
	own, err := os.OpenFile(hosts, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = own.WriteString("192.0.2.1\tby-hand\n")
		own.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Containers.Connect(ctx, "web", "mine", nil); !fail.Is(err, fail.Forbidden) || !strings.Contains(err.Error(), "already exists in network mine") {
		t.Error(err)
	}
	f.crash()
	f.open()
	if c = f.get("web"); endpointOn(c.Network, "mine") == nil || len(c.Networking.EndpointsConfig["mine"].Aliases) != 1 {
		t.Errorf("after a crash: %+v", c.Network)
	}

	if err := f.Containers.Disconnect(ctx, "web", "bridge", false); err != nil {
		t.Fatal(err)
	}
	s := f.shims.of(id)
	s.mu.Lock()
	told := s.network[len(s.network)-1]
	s.mu.Unlock()
	if told.Target4 != e.IPv4.Addr() || len(told.DNS.Zones) != 1 || len(told.Ports) != 2 {
		t.Errorf("the shim was told %+v", told)
	}
	text, _ = os.ReadFile(hosts)
	if !strings.Contains(string(text), "by-hand") || strings.Contains(string(text), "\n10.0.1.") || !strings.Contains(string(text), e.IPv4.Addr().String()) {
		t.Errorf("hosts:\n%s", text)
	}
	if err := f.Containers.Disconnect(ctx, "web", "bridge", false); !fail.Is(err, fail.Conflict) {
		t.Error(err)
	}
	if err := f.Containers.Disconnect(ctx, "web", "mine", false); err != nil {
		t.Fatal(err)
	}
	if c = f.get("web"); len(c.Network.Endpoints) != 0 || len(c.Network.Ports) != 0 {
		t.Errorf("%+v", c.Network)
	}
	want := []string{"create", "connect", "start", "connect", "disconnect", "disconnect"}
	if got := actions(f, begin); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if err := f.Containers.Restart(ctx, "web", StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if c = f.get("web"); c.Network == nil || len(c.Network.Endpoints) != 0 {
		t.Errorf("started without networks: %+v", c.Network)
	}
}

func TestConnectAndDisconnectOfAStoppedContainer(t *testing.T) {
	f := newFixture(t)
	f.nets.add(network.Network{Name: "mine"})
	f.create("web", bridged())
	ctx := t.Context()
	if err := f.Containers.Connect(ctx, "web", "mine", nil); err != nil {
		t.Fatal(err)
	}
	f.crash()
	f.open()
	f.start("web")
	if c := f.get("web"); len(c.Network.Endpoints) != 2 || c.Network.Endpoints[0].NetworkName != "bridge" {
		t.Errorf("%+v", c.Network)
	}
	if err := f.Containers.Stop(ctx, "web", StopOptions{}); err != nil {
		t.Fatal(err)
	}
	f.nets.remove("mine")
	if err := f.Containers.Disconnect(ctx, "web", "mine", false); !fail.Is(err, fail.NotFound) {
		t.Error(err)
	}
	if err := f.Containers.Disconnect(ctx, "web", "mine", true); err != nil {
		t.Fatal(err)
	}
	f.start("web")
}

func TestConnectRefusals(t *testing.T) {
	f := newFixture(t)
	f.nets.add(network.Network{Name: "mine"})
	f.create("host", func(r *CreateRequest) { r.HostConfig.NetworkMode = "host" })
	f.create("none", nil)
	f.create("web", bridged())
	for _, c := range []struct {
		who, network string
		cfg          *mobynet.EndpointSettings
		class        fail.Class
	}{
		{"host", "mine", nil, fail.Invalid},
		{"none", "mine", nil, fail.Invalid},
		{"web", "host", nil, fail.Invalid},
		{"web", "none", nil, fail.Invalid},
		{"web", "nope", nil, fail.NotFound},
		{"nobody", "mine", nil, fail.NotFound},
		{"web", "mine", &mobynet.EndpointSettings{IPAMConfig: &mobynet.EndpointIPAMConfig{IPv4Address: addr("192.0.2.1")}}, fail.Invalid},
	} {
		if err := f.Containers.Connect(t.Context(), c.who, c.network, c.cfg); !fail.Is(err, c.class) {
			t.Errorf("%s to %s: %v", c.who, c.network, err)
		}
	}
	if err := f.Containers.Disconnect(t.Context(), "host", "host", false); !fail.Is(err, fail.Invalid) {
		t.Error(err)
	}
}

func TestAnEndpointThatWasNeverRecordedIsTakenBack(t *testing.T) {
	f := newFixture(t)
	f.nets.add(network.Network{Name: "mine"})
	id := f.create("web", bridged())
	f.start("web")
	f.crash() // in the middle of a connect
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if _, err := f.nets.Connect(t.Context(), id, ns, network.EndpointRequest{Network: "mine"}); err != nil {
		t.Fatal(err)
	}
	f.open()
	if box, _ := f.nets.Sandbox(id); len(box.Endpoints) != 1 || len(f.get("web").Network.Endpoints) != 1 {
		t.Errorf("%+v", box)
	}
}

func TestARenamedContainerIsKnownByItsNewName(t *testing.T) {
	f := newFixture(t)
	f.nets.add(network.Network{Name: "mine"})
	id := f.create("web", onNetwork("mine", &mobynet.EndpointSettings{Aliases: []string{"www"}}))
	f.start("web")
	if err := f.Containers.Rename(t.Context(), "web", "shop"); err != nil {
		t.Fatal(err)
	}
	want := []string{"shop", "www", id[:12]}
	if box, _ := f.nets.Sandbox(id); !slices.Equal(box.Endpoints[0].Names, want) {
		t.Errorf("%v", box.Endpoints[0].Names)
	}
	if c := f.get("shop"); !slices.Equal(c.Network.Endpoints[0].Names, want) {
		t.Errorf("%v", c.Network.Endpoints[0].Names)
	}
}

func TestLinks(t *testing.T) {
	f := newFixture(t)
	f.nets.add(network.Network{Name: "mine"})
	db := f.create("db", bridged())
	web := f.create("web", func(r *CreateRequest) { bridged()(r); r.HostConfig.Links = []string{"db:database"} })
	if err := f.Containers.Start(t.Context(), "web"); !fail.Is(err, fail.Conflict) && !strings.Contains(err.Error(), "Cannot link to a non running container: /db AS /web/database") {
		t.Errorf("%v (%v)", err, fail.Of(err))
	}
	f.start("db")
	f.start("web")
	line := func() string {
		text, _ := os.ReadFile(filepath.Join(f.opt.DataRoot, "containers", web, "hosts"))
		return f.get("db").Network.Endpoints[0].IPv4.Addr().String() + "\tdatabase " + db[:12] + " db\n" + string(text)
	}
	check := func(when string) {
		want, text, _ := strings.Cut(line(), "\n")
		if !strings.Contains(text, want) {
			t.Errorf("%s: %q is not in\n%s", when, want, text)
		}
	}
	check("at the start")
	if err := f.Containers.Restart(t.Context(), "db", StopOptions{}); err != nil {
		t.Fatal(err)
	}
	check("when the linked one has another address")

	f.create("app", func(r *CreateRequest) {
		onNetwork("mine", &mobynet.EndpointSettings{Links: []string{db[:12] + ":store"}})(r)
	})
	f.start("app")
	if own := f.seen().Network.DNS.Own; !slices.Equal(own, []supervisor.OwnName{
		{Alias: "host.docker.internal", Target: "10.3.0.1"}, {Alias: "host.berth.internal", Target: "10.3.0.1"}, {Alias: "store", Target: "db"},
	}) {
		t.Errorf("%v", own)
	}
}

func TestRecordsFromBeforeNetworksAreSettled(t *testing.T) {
	for _, c := range []struct {
		mode string
		was  *mobynet.NetworkingConfig
		want string
	}{
		{"default", on("default"), "bridge: bridge"},
		{"", nil, "bridge: bridge"},
		{"none", nil, "none: none"},
		{"none", &mobynet.NetworkingConfig{}, "none: none"},
		{"host", on("host"), "host: host"},
		{"container:abc", on("container:abc"), "container:abc: "},
		{"mine", on("mine", "other"), "mine: mine other"},
		{"mine", on(), "mine: "}, // disconnected from all
	} {
		h, n := settled(&container.HostConfig{NetworkMode: container.NetworkMode(c.mode)}, c.was)
		if got := string(h.NetworkMode) + ": " + strings.Join(sortedKeys(n.EndpointsConfig), " "); got != c.want {
			t.Errorf("%q became %q, want %q", c.mode, got, c.want)
		}
	}
}

func FuzzWhatIsWrittenOfPortsAndLinks(f *testing.F) {
	for _, s := range []string{"", "80", "80-90", "90-80", "0-1", "65536", "db", "/db:/web/alias", "a:b:c", ":", "a:/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if first, last, err := hostPorts(s); err == nil && first > last {
			t.Errorf("%q is the range %d-%d", s, first, last)
		}
		if target, alias, err := parseLink(s); err == nil && (target == "" || alias == "" || strings.ContainsAny(alias, "/: \n")) {
			t.Errorf("%q links %q as %q", s, target, alias)
		}
	})
}

func TestCreateWarnsOfAFirewallThatKeepsOthersFromPublishedPorts(t *testing.T) {
	f := newFixture(t)
	f.nets.hints = []string{"ufw is closed"}
	for _, c := range []struct {
		name   string
		change func(*CreateRequest)
		warns  bool
	}{
		{"published", bridged("80:80"), true},
		{"all that is exposed", func(r *CreateRequest) {
			bridged()(r)
			r.HostConfig.PublishAllPorts, r.Config.ExposedPorts = true, mobynet.PortSet{port("80"): {}}
		}, true},
		{"nothing published", bridged(), false},
		{"the host's network", func(r *CreateRequest) { bridged("80:80")(r); r.HostConfig.NetworkMode = "host" }, false},
		{"no network", func(r *CreateRequest) { bridged("80:80")(r); r.HostConfig.NetworkMode = "none" }, false},
	} {
		r := CreateRequest{Config: &container.Config{Image: "busybox"}, HostConfig: &container.HostConfig{}}
		c.change(&r)
		_, warnings, err := f.Containers.Create(t.Context(), r)
		if err != nil || slices.Contains(warnings, "ufw is closed") != c.warns {
			t.Errorf("%s: %q, %v", c.name, warnings, err)
		}
	}
}
