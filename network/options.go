package network

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"berth/fail"
	"berth/network/firewall"
)

// settings are a driver's options, understood.
type settings struct {
	bridge      string // name of the interface; empty: ours to choose
	mtu         int    // 0: the kernel's, or the parent's
	noICC       bool
	noMasq      bool
	modes       [2]gatewayMode // IPv4, IPv6
	source      [2]netip.Addr  // what leaves gets this address
	hostBinding netip.Addr
	noAddress   bool // inhibit_ipv4: the bridge gets no IPv4 address
	prefix      string
	trusted     []string
	enable      [2]*bool // of the address families
	parent      string
	mode        string // of macvlan, ipvlan
	flag        string // of ipvlan
	defaultOne  bool
}

// gatewayMode is what the host is for one address family of a bridge.
type gatewayMode string

const (
	modeNAT         gatewayMode = "nat"
	modeUnprotected gatewayMode = "nat-unprotected"
	modeRouted      gatewayMode = "routed"
	modeIsolated    gatewayMode = "isolated" // the bridge has no address
)

var firewallModes = map[gatewayMode]firewall.Mode{
	modeNAT: firewall.NAT, modeUnprotected: firewall.Unprotected, modeRouted: firewall.Routed, modeIsolated: firewall.NAT,
}

// option is one that users set by name (docs.docker.com, "Bridge network driver", "Macvlan…",
// "IPvlan network driver").
type option struct {
	drivers string
	set     func(s *settings, value string) error
}

var options = map[string]option{
	"com.docker.network.bridge.name":                    {"bridge", func(s *settings, v string) (err error) { s.bridge, err = v, goodInterface(v); return }},
	"com.docker.network.bridge.enable_icc":              {"bridge", negated(func(s *settings) *bool { return &s.noICC })},
	"com.docker.network.bridge.enable_ip_masquerade":    {"bridge", negated(func(s *settings) *bool { return &s.noMasq })},
	"com.docker.network.bridge.host_binding_ipv4":       {"bridge", address(0, func(s *settings) *netip.Addr { return &s.hostBinding })},
	"com.docker.network.bridge.inhibit_ipv4":            {"bridge", boolean(func(s *settings) *bool { return &s.noAddress })},
	"com.docker.network.bridge.default_bridge":          {"bridge", boolean(func(s *settings) *bool { return &s.defaultOne })},
	"com.docker.network.bridge.gateway_mode_ipv4":       {"bridge", mode(0)},
	"com.docker.network.bridge.gateway_mode_ipv6":       {"bridge", mode(1)},
	"com.docker.network.bridge.trusted_host_interfaces": {"bridge", trusted},
	"com.docker.network.host_ipv4":                      {"bridge", address(4, func(s *settings) *netip.Addr { return &s.source[0] })},
	"com.docker.network.host_ipv6":                      {"bridge", address(6, func(s *settings) *netip.Addr { return &s.source[1] })},
	"com.docker.network.driver.mtu":                     {"bridge macvlan ipvlan", mtu},
	"com.docker.network.container_iface_prefix":         {"bridge macvlan ipvlan", prefix},
	"com.docker.network.enable_ipv4":                    {"bridge macvlan ipvlan", enable(0)},
	"com.docker.network.enable_ipv6":                    {"bridge macvlan ipvlan", enable(1)},
	"parent":                                            {"macvlan ipvlan", func(s *settings, v string) (err error) { s.parent, err = v, goodInterface(v); return }},
	"macvlan_mode":                                      {"macvlan", choice(func(s *settings) *string { return &s.mode }, "bridge", "private", "vepa", "passthru")},
	"ipvlan_mode":                                       {"ipvlan", choice(func(s *settings) *string { return &s.mode }, "l2", "l3", "l3s")},
	"ipvlan_flag":                                       {"ipvlan", choice(func(s *settings) *string { return &s.flag }, "bridge", "private", "vepa")},
}

// parseOptions understands a driver's options. Errors are class Invalid.
func parseOptions(driver string, given map[string]string) (settings, error) {
	s := settings{modes: [2]gatewayMode{modeNAT, modeNAT}}
	for _, k := range slices.Sorted(maps.Keys(given)) {
		o, ok := options[k]
		if !ok || !slices.Contains(strings.Fields(o.drivers), driver) {
			return s, fail.New(fail.Invalid, "unknown option %q for the %s driver", k, driver)
		}
		if err := o.set(&s, given[k]); err != nil {
			return s, fail.New(fail.Invalid, "invalid value %q for option %s: %w", given[k], k, err)
		}
	}
	return s, nil
}

func boolean(field func(*settings) *bool) func(*settings, string) error {
	return func(s *settings, v string) error {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("it is true or false")
		}
		*field(s) = b
		return nil
	}
}

func negated(field func(*settings) *bool) func(*settings, string) error {
	return func(s *settings, v string) error {
		err := boolean(field)(s, v)
		*field(s) = !*field(s)
		return err
	}
}

func enable(family int) func(*settings, string) error {
	return func(s *settings, v string) error {
		s.enable[family] = new(bool)
		return boolean(func(s *settings) *bool { return s.enable[family] })(s, v)
	}
}

// address reads one of a family, 4 or 6, or of any.
func address(family int, field func(*settings) *netip.Addr) func(*settings, string) error {
	return func(s *settings, v string) error {
		a, err := netip.ParseAddr(v)
		if err == nil && family != 0 && a.Is4() != (family == 4) {
			err = fmt.Errorf("it is an IPv%d address", family)
		}
		if err != nil {
			return err
		}
		*field(s) = a
		return nil
	}
}

func mode(family int) func(*settings, string) error {
	return func(s *settings, v string) error {
		m := gatewayMode(v)
		if v == "" {
			m = modeNAT
		}
		if _, ok := firewallModes[m]; !ok {
			return fmt.Errorf("it is nat, nat-unprotected, routed or isolated")
		}
		s.modes[family] = m
		return nil
	}
}

func trusted(s *settings, v string) error {
	for name := range strings.SplitSeq(v, ":") {
		if err := goodInterface(name); err != nil {
			return err
		}
		s.trusted = append(s.trusted, name)
	}
	return nil
}

func choice(field func(*settings) *string, values ...string) func(*settings, string) error {
	return func(s *settings, v string) error {
		if v != "" && !slices.Contains(values, v) {
			return fmt.Errorf("it is one of %s", strings.Join(values, ", "))
		}
		*field(s) = v
		return nil
	}
}

func mtu(s *settings, v string) (err error) {
	if s.mtu, err = strconv.Atoi(v); err != nil || s.mtu < 0 || s.mtu != 0 && s.mtu < 68 || s.mtu > 65535 {
		return fmt.Errorf("it is a number of bytes from 68 to 65535")
	}
	return nil
}

func prefix(s *settings, v string) error {
	s.prefix = v
	if len(v) > 11 { // a number has to fit behind it
		return fmt.Errorf("it has at most 11 characters")
	}
	return goodInterface(v + "0")
}

// goodInterface tells what the kernel takes for an interface's name (dev_valid_name).
func goodInterface(name string) error {
	if name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == ':' || r <= ' ' || r == 0x7f || r == '%' }) {
		return fmt.Errorf("an interface's name has 1 to 15 characters, no space, slash or colon")
	}
	return nil
}

// Options of endpoints.
const (
	optSysctls = "com.docker.network.endpoint.sysctls"
	optIfname  = "com.docker.network.endpoint.ifname"
)

// endpointSysctls are the kernel parameters of one interface: keys with slashes, IFNAME
// standing for its name.
func endpointSysctls(value string) ([][2]string, error) {
	var out [][2]string
	for kv := range strings.SplitSeq(value, ",") {
		k, v, ok := strings.Cut(strings.TrimSpace(kv), "=")
		parts := strings.Split(k, ".")
		if !ok || len(parts) != 5 || parts[0] != "net" || parts[3] != "IFNAME" || slices.Contains(parts, "") || strings.Contains(k, "/") {
			return nil, fail.New(fail.Invalid, "invalid sysctl %q for an endpoint: it is net.X.Y.IFNAME.Z=VALUE", kv)
		}
		if !slices.Contains([]string{"ipv4", "ipv6", "mpls"}, parts[1]) {
			return nil, fail.New(fail.Invalid, "sysctl %q is not one of an interface: those are in net.ipv4, net.ipv6 and net.mpls", k)
		}
		out = append(out, [2]string{strings.Join(parts[1:], "/"), v})
	}
	return out, nil
}

func checkEndpointOptions(given map[string]string) error {
	for k, v := range given {
		switch k {
		case optSysctls:
			if _, err := endpointSysctls(v); err != nil {
				return err
			}
		case optIfname:
			if err := goodInterface(v); err != nil {
				return fail.New(fail.Invalid, "invalid interface name %q: %w", v, err)
			}
		default:
			return fail.New(fail.Invalid, "unknown option %q for an endpoint", k)
		}
	}
	return nil
}
