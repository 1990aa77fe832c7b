package daemon

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"berth/engine"
	"berth/fail"
	"berth/network"
)

// NetworkSettings are dockerd's settings of networks, as they were given.
type NetworkSettings struct {
	Bridge, BIP, BIP6              string
	FixedCIDR, FixedCIDR6          string
	Gateway, Gateway6              string
	PublishIP                      string
	MTU                            int
	ICC, IPv6, Forward, Masquerade bool
	FirewallBackend                string
	IPTables, IP6Tables            bool
	UserlandProxy                  bool
	Pools                          []network.AddressPool
	DefaultOptions                 map[string]map[string]string // by driver
	DNS, DNSSearch, DNSOptions     []string
	HostGateways                   []string
}

// noBridge is the value of --bridge for an engine without a default network.
const noBridge = "none"

func (n *NetworkSettings) register(f *pflag.FlagSet) {
	n.DefaultOptions = map[string]map[string]string{}
	f.StringVarP(&n.Bridge, "bridge", "b", "", `Existing bridge to use as the default network, or "none" for no default network (default: one of our own)`)
	f.StringVar(&n.BIP, "bip", "", "IPv4 address of the default bridge, ADDRESS/LENGTH (default: chosen from the address pools)")
	f.StringVar(&n.BIP6, "bip6", "", "IPv6 address of the default bridge, ADDRESS/LENGTH")
	f.StringVar(&n.FixedCIDR, "fixed-cidr", "", "Part of the default bridge's IPv4 subnet that containers get addresses from")
	f.StringVar(&n.FixedCIDR6, "fixed-cidr-v6", "", "IPv6 subnet that containers on the default bridge get addresses from")
	f.StringVar(&n.Gateway, "default-gateway", "", "IPv4 gateway of containers on the default bridge (default: the bridge)")
	f.StringVar(&n.Gateway6, "default-gateway-v6", "", "IPv6 gateway of containers on the default bridge (default: the bridge)")
	f.StringVar(&n.PublishIP, "ip", "", "Host address to publish ports on that name none (default 0.0.0.0 and ::)")
	f.IntVar(&n.MTU, "mtu", 0, "MTU of the default bridge (default 1500)")
	f.BoolVar(&n.ICC, "icc", true, "Let containers on the default bridge talk to each other")
	f.BoolVar(&n.IPv6, "ipv6", false, "Give the default bridge IPv6")
	f.BoolVar(&n.Forward, "ip-forward", true, "Switch the host's IP forwarding on when a network needs it")
	f.BoolVar(&n.Masquerade, "ip-masq", true, "Hide containers on the default bridge behind the host's address when they talk to the outside")
	f.StringVar(&n.FirewallBackend, "firewall-backend", "", `Who writes firewall rules: "nftables", or "none" to leave that to the administrator (default nftables)`)
	f.BoolVar(&n.IPTables, "iptables", true, "Write firewall rules; false is the same as --firewall-backend=none")
	f.BoolVar(&n.IP6Tables, "ip6tables", true, "Write firewall rules for IPv6; the same as --iptables, as the rules are of both families")
	f.BoolVar(&n.UserlandProxy, "userland-proxy", true, "Known for dockerd's configurations: published ports are served on loopback and without a process of their own, whatever the value")
	f.Var(poolsValue{&n.Pools}, "default-address-pool", "Range that subnets are chosen from, base=ADDRESS/LENGTH,size=LENGTH")
	f.Var(optionsValue{n.DefaultOptions}, "default-network-opt", "Option of new networks of a driver, DRIVER=KEY=VALUE")
	f.StringArrayVar(&n.DNS, "dns", nil, "Name server of containers (default: the host's)")
	f.StringArrayVar(&n.DNSSearch, "dns-search", nil, "Search domain of containers")
	f.StringArrayVar(&n.DNSOptions, "dns-opt", nil, "Option of resolv.conf in containers")
	f.StringArrayVar(&n.HostGateways, "host-gateway-ip", nil, "Address that host-gateway means in --add-host (default: the default bridge's)")
}

// setKey takes a key of a daemon.json that is no single word; it reports whether it is one.
func (n *NetworkSettings) setKey(key string, raw json.RawMessage) (bool, error) {
	lists := map[string]*[]string{"dns": &n.DNS, "dns-search": &n.DNSSearch, "dns-opts": &n.DNSOptions, "host-gateway-ips": &n.HostGateways}
	if list, ok := lists[key]; ok {
		return true, json.Unmarshal(raw, list)
	}
	switch key {
	case "default-address-pools":
		var pools []struct {
			Base string `json:"base"`
			Size int    `json:"size"`
		}
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&pools); err != nil {
			return true, err
		}
		for _, p := range pools {
			pool, err := parsePool(p.Base, p.Size)
			if err != nil {
				return true, err
			}
			n.Pools = append(n.Pools, pool)
		}
		return true, nil
	case "default-network-opts":
		return true, json.Unmarshal(raw, &n.DefaultOptions)
	}
	return false, nil
}

// directives are the settings by the names of daemon.json's keys.
func (n *NetworkSettings) directives() []directive {
	return []directive{
		{"bridge", n.Bridge}, {"bip", n.BIP}, {"bip6", n.BIP6}, {"fixed-cidr", n.FixedCIDR}, {"fixed-cidr-v6", n.FixedCIDR6},
		{"default-gateway", n.Gateway}, {"default-gateway-v6", n.Gateway6}, {"ip", n.PublishIP}, {"mtu", n.MTU}, {"icc", n.ICC}, {"ipv6", n.IPv6},
		{"ip-forward", n.Forward}, {"ip-masq", n.Masquerade}, {"firewall-backend", n.FirewallBackend}, {"iptables", n.IPTables}, {"ip6tables", n.IP6Tables},
		{"default-address-pools", n.Pools}, {"default-network-opts", n.DefaultOptions},
		{"dns", n.DNS}, {"dns-search", n.DNSSearch}, {"dns-opts", n.DNSOptions}, {"host-gateway-ips", n.HostGateways},
	}
}

// config checks the settings, and puts them into the words of the network package.
func (n *NetworkSettings) config(flags *pflag.FlagSet) (network.Config, error) {
	c := network.Config{Pools: n.Pools, Options: n.DefaultOptions}
	var err error
	if c.Firewall, err = n.firewall(flags); err != nil {
		return c, err
	}
	b := &c.Bridge
	b.MTU, b.NoICC, b.IPv6, b.NoMasquerade, b.NoForwarding = n.MTU, !n.ICC, n.IPv6, !n.Masquerade, !n.Forward
	if n.MTU != 0 && (n.MTU < 68 || n.MTU > 65535) {
		return c, fail.New(fail.Invalid, "--mtu %d is not between 68 and 65535", n.MTU)
	}
	if n.IPv6 && n.MTU != 0 && n.MTU < 1280 {
		return c, fail.New(fail.Invalid, "--mtu %d is too small for IPv6, which needs 1280", n.MTU)
	}
	if n.Bridge == noBridge {
		b.Disabled = true
	} else {
		b.Name = n.Bridge
	}
	if len(b.Name) > 15 || strings.ContainsAny(b.Name, "/ \t\n") {
		return c, fail.New(fail.Invalid, "--bridge %q is not the name of an interface", b.Name)
	}
	if n.Bridge != "" && (n.BIP != "" || n.BIP6 != "") {
		return c, fail.New(fail.Invalid, "--bip and --bip6 are for the bridge of Berth's own: leave them out with --bridge")
	}
	for _, p := range []struct {
		flag, value string
		to          *netip.Prefix
		six, host   bool
	}{{"bip", n.BIP, &b.IP, false, true}, {"bip6", n.BIP6, &b.IP6, true, true}, {"fixed-cidr", n.FixedCIDR, &b.FixedCIDR, false, false}, {"fixed-cidr-v6", n.FixedCIDR6, &b.FixedCIDR6, true, false}} {
		if *p.to, err = parsePrefix(p.flag, p.value, p.six); err != nil {
			return c, err
		}
		if p.host && p.to.IsValid() && p.to.Bits() < p.to.Addr().BitLen()-1 && p.to.Addr() == p.to.Masked().Addr() {
			return c, fail.New(fail.Invalid, "--%s %s is the address of the network: give the bridge's own, like %s/%d", p.flag, p.value, p.to.Addr().Next(), p.to.Bits())
		}
	}
	for _, a := range []struct {
		flag, value string
		to          *netip.Addr
		six         bool
	}{{"default-gateway", n.Gateway, &b.Gateway, false}, {"default-gateway-v6", n.Gateway6, &b.Gateway6, true}} {
		if *a.to, err = parseAddr(a.flag, a.value); err != nil {
			return c, err
		}
		if a.to.IsValid() && a.to.Is6() != a.six {
			return c, fail.New(fail.Invalid, "--%s %s is of the wrong family", a.flag, a.value)
		}
	}
	for _, inside := range []struct {
		flag   string
		addr   netip.Addr
		subnet netip.Prefix
	}{
		{"fixed-cidr", b.FixedCIDR.Addr(), b.IP}, {"fixed-cidr-v6", b.FixedCIDR6.Addr(), b.IP6},
		{"default-gateway", b.Gateway, b.IP}, {"default-gateway-v6", b.Gateway6, b.IP6},
	} {
		if inside.addr.IsValid() && inside.subnet.IsValid() && !inside.subnet.Masked().Contains(inside.addr) {
			return c, fail.New(fail.Invalid, "--%s: %s is not in the bridge's subnet %s", inside.flag, inside.addr, inside.subnet.Masked())
		}
	}
	ip, err := parseAddr("ip", n.PublishIP)
	if err != nil {
		return c, err
	}
	if ip.Is6() {
		b.HostBindingIP6 = ip
	} else {
		b.HostBindingIP = ip
	}
	for driver := range n.DefaultOptions {
		if !slices.Contains([]string{"bridge", "macvlan", "ipvlan"}, driver) {
			return c, fail.New(fail.Invalid, "default network options: unknown driver %q: use bridge, macvlan or ipvlan", driver)
		}
	}
	return c, nil
}

// firewall settles who writes rules. dockerd's booleans mean the same for both families.
func (n *NetworkSettings) firewall(flags *pflag.FlagSet) (string, error) {
	switch n.FirewallBackend {
	case "", "nftables", "none":
	case "iptables":
		return "", fail.New(fail.Invalid, `firewall backend "iptables" does not exist here: use nftables, which coexists with it, or none`)
	default:
		return "", fail.New(fail.Invalid, "unknown firewall backend %q: use nftables or none", n.FirewallBackend)
	}
	if n.IPTables && !n.IP6Tables {
		return "", fail.New(fail.Invalid, "--ip6tables=false without --iptables=false: the rules of both families come and go together")
	}
	if !n.IPTables {
		if n.FirewallBackend == "nftables" {
			return "", fail.New(fail.Invalid, "--iptables=false contradicts --firewall-backend=nftables")
		}
		if n.IP6Tables && (flags.Changed("ip6tables")) {
			return "", fail.New(fail.Invalid, "--iptables=false with --ip6tables=true: the rules of both families come and go together")
		}
		return "none", nil
	}
	if n.FirewallBackend == "none" {
		return "none", nil
	}
	return "nftables", nil
}

// resolver is what containers' resolv.conf says unless they say otherwise themselves.
func (n *NetworkSettings) resolver() (out engine.DNS, err error) {
	out = engine.DNS{Search: n.DNSSearch, Options: n.DNSOptions}
	if out.Servers, err = parseAddrs("dns", n.DNS); err != nil {
		return out, err
	}
	for _, d := range n.DNSSearch {
		if d == "" || strings.ContainsAny(d, " \t\n#;") {
			return out, fail.New(fail.Invalid, "--dns-search %q is not a domain", d)
		}
	}
	for _, o := range n.DNSOptions {
		if o == "" || strings.ContainsAny(o, " \t\n") {
			return out, fail.New(fail.Invalid, "--dns-opt %q is not an option of resolv.conf", o)
		}
	}
	return out, nil
}

// publishIP is the address of --ip; zero: none was given.
func (s *Settings) publishIP() netip.Addr {
	if ip := s.networks.Bridge.HostBindingIP; ip.IsValid() {
		return ip
	}
	return s.networks.Bridge.HostBindingIP6
}

func parseAddr(flag, value string) (netip.Addr, error) {
	if value == "" {
		return netip.Addr{}, nil
	}
	addr, err := netip.ParseAddr(value)
	if err != nil {
		return addr, fail.New(fail.Invalid, "--%s %q is not an IP address", flag, value)
	}
	return addr.Unmap(), nil
}

func parseAddrs(flag string, values []string) (out []netip.Addr, err error) {
	for _, v := range values {
		addr, err := parseAddr(flag, v)
		if err != nil {
			return nil, err
		}
		if !addr.IsValid() {
			return nil, fail.New(fail.Invalid, "--%s is empty", flag)
		}
		out = append(out, addr)
	}
	return out, nil
}

func parsePrefix(flag, value string, six bool) (netip.Prefix, error) {
	if value == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(value)
	if err != nil {
		return p, fail.New(fail.Invalid, "--%s %q is not ADDRESS/LENGTH", flag, value)
	}
	if p.Addr().Is6() != six {
		return p, fail.New(fail.Invalid, "--%s %s is of the wrong family", flag, value)
	}
	return p, nil
}

func parsePool(base string, size int) (network.AddressPool, error) {
	p, err := netip.ParsePrefix(base)
	if err != nil {
		return network.AddressPool{}, fmt.Errorf("invalid address pool: base %q is not ADDRESS/LENGTH", base)
	}
	if size < p.Bits() || size > p.Addr().BitLen() {
		return network.AddressPool{}, fmt.Errorf("invalid address pool %s: size %d is not between %d and %d", base, size, p.Bits(), p.Addr().BitLen())
	}
	return network.AddressPool{Base: p.Masked(), Size: size}, nil
}

// poolsValue is a repeatable base=…,size=… flag.
type poolsValue struct{ pools *[]network.AddressPool }

func (v poolsValue) words() []string {
	var out []string
	for _, p := range *v.pools {
		out = append(out, fmt.Sprintf("base=%s,size=%d", p.Base, p.Size))
	}
	return out
}
func (v poolsValue) String() string { return strings.Join(v.words(), " ") }
func (v poolsValue) Type() string   { return "pool" }
func (v poolsValue) Set(s string) error {
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return err
	}
	base, size := "", 0
	for _, field := range fields {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "base":
			base = value
		case "size":
			if size, err = strconv.Atoi(value); err != nil {
				return fmt.Errorf("invalid address pool: size %q is not a number", value)
			}
		default:
			return fmt.Errorf("invalid address pool: %q is neither base= nor size=", field)
		}
	}
	pool, err := parsePool(base, size)
	if err != nil {
		return err
	}
	*v.pools = append(*v.pools, pool)
	return nil
}

// optionsValue is a repeatable driver=key=value flag.
type optionsValue struct{ m map[string]map[string]string }

func (v optionsValue) words() []string {
	var out []string
	for _, driver := range slices.Sorted(maps.Keys(v.m)) {
		for _, key := range slices.Sorted(maps.Keys(v.m[driver])) {
			out = append(out, driver+"="+key+"="+v.m[driver][key])
		}
	}
	return out
}
func (v optionsValue) String() string { return strings.Join(v.words(), " ") }
func (v optionsValue) Type() string   { return "driver=key=value" }
func (v optionsValue) Set(s string) error {
	driver, option, _ := strings.Cut(s, "=")
	key, value, ok := strings.Cut(option, "=")
	if !ok || driver == "" || key == "" {
		return fmt.Errorf("%q is not driver=key=value", s)
	}
	if v.m[driver] == nil {
		v.m[driver] = map[string]string{}
	}
	v.m[driver][key] = value
	return nil
}
