package daemon

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"berth/engine"
	"berth/fail"
	"berth/network"
)

func TestNetworkSettingsOfAFileAreTakenAsDockerdTakesThem(t *testing.T) {
	s, err := parse(t, `{"bip":"10.9.0.1/24","bip6":"fd00:9::1/64","fixed-cidr":"10.9.0.128/25","fixed-cidr-v6":"fd00:9::/80","default-gateway":"10.9.0.254","default-gateway-v6":"fd00:9::fe",
		"default-address-pools":[{"base":"10.0.0.0/8","size":24},{"base":"fd00::/48","size":64}],"default-network-opts":{"bridge":{"com.docker.network.driver.mtu":"1400"}},
		"mtu":1400,"icc":false,"ipv6":true,"ip-forward":false,"ip-masq":false,"ip":"127.0.0.1","userland-proxy":false,"iptables":false,
		"dns":["1.1.1.1","fd00::53"],"dns-search":["example.org"],"dns-opts":["ndots:2"],"host-gateway-ips":["10.9.0.7"]}`)
	if err != nil {
		t.Fatal(err)
	}
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	want := network.Config{
		Firewall: "none",
		Bridge: network.BridgeConfig{IP: prefix("10.9.0.1/24"), IP6: prefix("fd00:9::1/64"), FixedCIDR: prefix("10.9.0.128/25"), FixedCIDR6: prefix("fd00:9::/80"),
			Gateway: addr("10.9.0.254"), Gateway6: addr("fd00:9::fe"), MTU: 1400, NoICC: true, IPv6: true, NoForwarding: true, NoMasquerade: true, HostBindingIP: addr("127.0.0.1")},
		Pools:   []network.AddressPool{{Base: prefix("10.0.0.0/8"), Size: 24}, {Base: prefix("fd00::/48"), Size: 64}},
		Options: map[string]map[string]string{"bridge": {"com.docker.network.driver.mtu": "1400"}},
	}
	if !reflect.DeepEqual(s.networks, want) {
		t.Errorf("%+v\nwant %+v", s.networks, want)
	}
	if !reflect.DeepEqual(s.hostGateways, []netip.Addr{addr("10.9.0.7")}) {
		t.Errorf("%v", s.hostGateways)
	}
	if dns := (engine.DNS{Servers: []netip.Addr{addr("1.1.1.1"), addr("fd00::53")}, Search: []string{"example.org"}, Options: []string{"ndots:2"}}); !reflect.DeepEqual(s.dns, dns) {
		t.Errorf("%+v", s.dns)
	}
}

func TestWhatIsNotSaidOfNetworksIsLeftToThem(t *testing.T) {
	s, err := parse(t, `{}`)
	if err != nil || !reflect.DeepEqual(s.networks, network.Config{Firewall: "nftables", Options: map[string]map[string]string{}}) {
		t.Errorf("%+v %v", s.networks, err)
	}
	for _, args := range [][]string{{"--bridge", "none"}, {"-b", "none"}} {
		if s, err := parse(t, `{}`, args...); err != nil || !s.networks.Bridge.Disabled || s.networks.Bridge.Name != "" {
			t.Errorf("%v: %+v %v", args, s, err)
		}
	}
	if s, err := parse(t, `{"bridge":"br0"}`); err != nil || s.networks.Bridge.Disabled || s.networks.Bridge.Name != "br0" {
		t.Errorf("%+v %v", s, err)
	}
	if s, err := parse(t, `{"host-gateway-ip":"10.0.0.1"}`); err != nil || len(s.hostGateways) != 1 {
		t.Errorf("%+v %v", s, err)
	}
}

func TestWhoWritesFirewallRules(t *testing.T) {
	for file, want := range map[string]string{
		`{}`: "nftables", `{"firewall-backend":"nftables"}`: "nftables", `{"iptables":true,"ip6tables":true}`: "nftables",
		`{"firewall-backend":"none"}`: "none", `{"iptables":false}`: "none", `{"iptables":false,"ip6tables":false}`: "none", `{"firewall-backend":"none","iptables":false}`: "none",
	} {
		if s, err := parse(t, file); err != nil || s.networks.Firewall != want {
			t.Errorf("%s: %v %v", file, s, err)
		}
	}
}

func TestWrongNetworkSettingsAreOneClearLine(t *testing.T) {
	for _, c := range []struct {
		file string
		args []string
		want string
	}{
		{`{"bip":"10.0.0.1"}`, nil, `--bip "10.0.0.1" is not ADDRESS/LENGTH`},
		{`{"bip":"10.0.0.0/24"}`, nil, "--bip 10.0.0.0/24 is the address of the network: give the bridge's own, like 10.0.0.1/24"},
		{`{"bip":"fd00::1/64"}`, nil, "--bip fd00::1/64 is of the wrong family"},
		{`{"bip6":"10.0.0.1/24"}`, nil, "--bip6 10.0.0.1/24 is of the wrong family"},
		{`{"bip":"10.0.0.1/24","bridge":"br0"}`, nil, "leave them out with --bridge"},
		{`{"bip":"10.0.0.1/24","fixed-cidr":"10.0.1.0/25"}`, nil, "--fixed-cidr: 10.0.1.0 is not in the bridge's subnet 10.0.0.0/24"},
		{`{"bip":"10.0.0.1/24","default-gateway":"10.0.1.1"}`, nil, "--default-gateway: 10.0.1.1 is not in the bridge's subnet 10.0.0.0/24"},
		{`{"default-gateway":"fd00::1"}`, nil, "--default-gateway fd00::1 is of the wrong family"},
		{`{"default-gateway-v6":"x"}`, nil, `--default-gateway-v6 "x" is not an IP address`},
		{`{"fixed-cidr":"ten"}`, nil, `--fixed-cidr "ten" is not ADDRESS/LENGTH`},
		{`{"mtu":9}`, nil, "--mtu 9 is not between 68 and 65535"},
		{`{"mtu":900,"ipv6":true}`, nil, "--mtu 900 is too small for IPv6, which needs 1280"},
		{`{"mtu":"large"}`, nil, "mtu"},
		{`{"ip":"localhost"}`, nil, `--ip "localhost" is not an IP address`},
		{`{"dns":["one"]}`, nil, `--dns "one" is not an IP address`},
		{`{"dns":"1.1.1.1"}`, nil, "dns"},
		{`{"dns-search":["a b"]}`, nil, `--dns-search "a b" is not a domain`},
		{`{"dns-opts":[""]}`, nil, `--dns-opt "" is not an option of resolv.conf`},
		{`{"host-gateway-ips":["gate"]}`, nil, `--host-gateway-ip "gate" is not an IP address`},
		{`{"bridge":"a/b"}`, nil, `--bridge "a/b" is not the name of an interface`},
		{`{"bridge":"a-name-that-is-too-long"}`, nil, "is not the name of an interface"},
		{`{"default-address-pools":[{"base":"10.0.0.0","size":24}]}`, nil, `invalid address pool: base "10.0.0.0" is not ADDRESS/LENGTH`},
		{`{"default-address-pools":[{"base":"10.0.0.0/16","size":8}]}`, nil, "invalid address pool 10.0.0.0/16: size 8 is not between 16 and 32"},
		{`{"default-address-pools":[{"basis":"10.0.0.0/16"}]}`, nil, "basis"},
		{`{"default-network-opts":{"overlay":{"a":"b"}}}`, nil, `unknown driver "overlay"`},
		{`{"default-network-opts":["a"]}`, nil, "default-network-opts"},
		{`{"firewall-backend":"iptables"}`, nil, `firewall backend "iptables" does not exist here: use nftables, which coexists with it, or none`},
		{`{"firewall-backend":"pf"}`, nil, `unknown firewall backend "pf": use nftables or none`},
		{`{"iptables":false,"firewall-backend":"nftables"}`, nil, "--iptables=false contradicts --firewall-backend=nftables"},
		{`{"ip6tables":false}`, nil, "come and go together"},
		{`{"iptables":false}`, []string{"--ip6tables=true"}, "come and go together"},
		{`{}`, []string{"--default-address-pool", "base=10.0.0.0/8,length=24"}, "length=24"},
		{`{}`, []string{"--default-address-pool", "base=10.0.0.0/8,size=x"}, `size "x" is not a number`},
		{`{}`, []string{"--default-network-opt", "bridge=a"}, "is not driver=key=value"},
		{`{"dns":["1.1.1.1"]}`, []string{"--dns", "9.9.9.9"}, "specified both as a flag and in the configuration file: dns"},
		{`{"userland-proxy-path":"/x"}`, nil, "not supported by this version of Berth: userland-proxy-path"},
	} {
		_, err := parse(t, c.file, c.args...)
		if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s %v: %v", c.file, c.args, err)
		}
	}
}

func FuzzAddressPool(f *testing.F) {
	for _, s := range []string{"base=10.0.0.0/8,size=24", "size=1", "base=fd00::/8,size=129", `"base=x`, ",", "base=10.0.0.0/8,size=24,size=9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var pools, again []network.AddressPool
		if (poolsValue{&pools}).Set(s) != nil {
			return
		}
		for _, word := range (poolsValue{&pools}).words() {
			if err := (poolsValue{&again}).Set(word); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(pools, again) {
			t.Errorf("%q: %v, again %v", s, pools, again)
		}
	})
}
