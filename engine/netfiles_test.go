package engine

import (
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	mobynet "github.com/moby/moby/api/types/network"

	"berth/fail"
	"berth/network"
)

func TestResolvConf(t *testing.T) {
	const stub = "# made by hand\nnameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch example.org\noptions edns0\n"
	for _, c := range []struct {
		name     string
		host     string // the host's file
		mode     string
		h        container.HostConfig
		engine   DNS
		want     string // without the comments
		servers  string
		fromHost bool
		ndots    bool
	}{
		{"the host's network has the host's file", stub, "host", container.HostConfig{}, DNS{}, "nameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch example.org\noptions edns0\n", "", false, false},
		{"none cannot reach loopback", stub, "none", container.HostConfig{}, DNS{}, "nameserver 9.9.9.9\nsearch example.org\noptions edns0\n", "", false, false},
		{"servers of the container's", stub, "none", container.HostConfig{DNS: []netip.Addr{addr("192.0.2.1")}}, DNS{}, "nameserver 192.0.2.1\nsearch example.org\noptions edns0\n", "", false, false},
		{"no search at all", stub, "host", container.HostConfig{DNSSearch: []string{"."}, DNSOptions: []string{"ndots:1"}}, DNS{}, "nameserver 127.0.0.53\nnameserver 9.9.9.9\noptions ndots:1\n", "", false, false},
		{"a network has our resolver, which asks from the host", stub, "bridge", container.HostConfig{}, DNS{}, "nameserver 127.0.0.11\nsearch example.org\noptions edns0 ndots:0\n", "127.0.0.53 9.9.9.9", true, false},
		{"servers that containers reach are asked by them", "nameserver 192.0.2.9\n", "bridge", container.HostConfig{}, DNS{}, "nameserver 127.0.0.11\noptions ndots:0\n", "192.0.2.9", false, false},
		{"a link's address means something on the host alone", "nameserver fe80::1%eth0\n", "bridge", container.HostConfig{}, DNS{}, "nameserver 127.0.0.11\noptions ndots:0\n", "fe80::1%eth0", true, false},
		{"without any server the host asks itself", "", "bridge", container.HostConfig{}, DNS{}, "nameserver 127.0.0.11\noptions ndots:0\n", "127.0.0.1", true, false},
		{"the engine's before the host's", stub, "bridge", container.HostConfig{}, DNS{Servers: []netip.Addr{addr("192.0.2.2")}, Search: []string{"corp"}}, "nameserver 127.0.0.11\nsearch corp\noptions edns0 ndots:0\n", "192.0.2.2", false, false},
		{"the container's before the engine's", stub, "bridge", container.HostConfig{DNS: []netip.Addr{addr("192.0.2.3")}, DNSOptions: []string{"ndots:2"}}, DNS{Servers: []netip.Addr{addr("192.0.2.2")}}, "nameserver 127.0.0.11\nsearch example.org\noptions ndots:2\n", "192.0.2.3", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "resolv.conf")
			if err := os.WriteFile(path, []byte(c.host), 0o600); err != nil {
				t.Fatal(err)
			}
			w := &wiring{nets: newFakeNetworks(), idx: newIndex(), resolvPath: path, dns: c.engine}
			c.h.NetworkMode = container.NetworkMode(c.mode)
			k := Container{HostConfig: &c.h, Config: &container.Config{}, Networking: onOne(c.mode)}
			var sb *network.Sandbox
			if c.mode == "bridge" {
				sb = &network.Sandbox{Gateway4: "x"}
				if d := w.resolver(k, sb); strings.Join(d.Servers, " ") != c.servers || d.FromHost != c.fromHost || d.Ndots != c.ndots || d.Internal {
					t.Errorf("the resolver gets %+v", d)
				}
			}
			var got strings.Builder
			for line := range strings.Lines(w.resolvFile(k, sb)) {
				if !strings.HasPrefix(line, "#") && line != "\n" {
					got.WriteString(line)
				}
			}
			if got.String() != c.want {
				t.Errorf("\n%s\nwant\n%s", got.String(), c.want)
			}
		})
	}
}

func TestHostsFile(t *testing.T) {
	nets := newFakeNetworks()
	mine := nets.add(network.Network{Name: "mine"}) // 10.3.0.0/16
	lan := nets.add(network.Network{Name: "lan", Driver: "macvlan"})
	w := &wiring{nets: nets, idx: newIndex()}
	box := func(n network.Network) *network.Sandbox {
		return &network.Sandbox{Gateway4: n.ID, Endpoints: []network.Endpoint{{
			Network: n.ID, NetworkName: n.Name, Gateway4: n.IPAM.Pools[0].Gateway,
			IPv4: netip.MustParsePrefix("10.3.1.2/16"), IPv6: netip.MustParsePrefix("fd00::2/64"),
		}}}
	}
	for _, c := range []struct {
		name string
		h    container.HostConfig
		cfg  container.Config
		sb   *network.Sandbox
		want string // after the lines that every file has
	}{
		{"no network", container.HostConfig{NetworkMode: "none", ExtraHosts: []string{"a:192.0.2.1", "b:host-gateway"}}, container.Config{Hostname: "web"}, nil, "192.0.2.1\ta\n"},
		{"a bridge is the host's address", container.HostConfig{NetworkMode: "mine", ExtraHosts: []string{"a:[fd00::9]", "b:host-gateway"}}, container.Config{Hostname: "web"}, box(mine),
			"fd00::9\ta\n10.3.0.1\tb\n10.3.0.1\thost.docker.internal host.berth.internal\n10.3.1.2\tweb\nfd00::2\tweb\n"},
		{"a router is not", container.HostConfig{NetworkMode: "lan"}, container.Config{Hostname: "web"}, box(lan),
			"10.0.0.1\thost.docker.internal host.berth.internal\n10.3.1.2\tweb\nfd00::2\tweb\n"},
		{"a domain, and a name that was given away", container.HostConfig{NetworkMode: "mine", ExtraHosts: []string{"host.docker.internal:192.0.2.7"}}, container.Config{Hostname: "web", Domainname: "example.org"}, box(mine),
			"192.0.2.7\thost.docker.internal\n10.3.0.1\thost.berth.internal\n10.3.1.2\tweb.example.org web\nfd00::2\tweb.example.org web\n"},
	} {
		got, err := w.hostsFile(Container{HostConfig: &c.h, Config: &c.cfg, Networking: &mobynet.NetworkingConfig{}}, c.sb)
		if err != nil || got != ownHosts+c.want {
			t.Errorf("%s (%v):\n%s", c.name, err, strings.TrimPrefix(got, ownHosts))
		}
	}
	host, err := w.hostsFile(Container{HostConfig: &container.HostConfig{NetworkMode: "host"}, Config: &container.Config{}}, nil)
	if err != nil || !strings.HasSuffix(host, "127.0.0.1\thost.docker.internal host.berth.internal\n") {
		t.Errorf("on the host's network (%v):\n%s", err, host)
	}
}

// A container can make its files as large as the disk.
func TestFilesThatAContainerHasMadeHugeAreNotReadWhole(t *testing.T) {
	dir := t.TempDir()
	hosts := filepath.Join(dir, "hosts")
	if err := os.WriteFile(hosts, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	const huge = 256 << 20
	if err := os.Truncate(hosts, huge); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := editHosts(dir, func(string) bool { return true }, []string{"10.0.0.1\tweb"})
	if info, statErr := os.Stat(hosts); !fail.Is(err, fail.Conflict) || statErr != nil || info.Size() != huge {
		t.Errorf("an edit: %v (%v, %v)", err, info, statErr)
	}
	w := &wiring{nets: newFakeNetworks(), idx: newIndex(), resolvPath: filepath.Join(dir, "none")}
	c := Container{HostConfig: &container.HostConfig{NetworkMode: "none"}, Config: &container.Config{Hostname: "web"}, Networking: onOne("none")}
	if err := w.writeNetFiles(dir, c, nil); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if read := after.TotalAlloc - before.TotalAlloc; read > huge/4 {
		t.Errorf("%d bytes of memory were taken", read)
	}
	if text, err := os.ReadFile(hosts); err != nil || string(text) != ownHosts {
		t.Errorf("a start leaves %d bytes: %v", len(text), err)
	}
}
