package network

import (
	"strings"
	"testing"
)

// FuzzOptions feeds the drivers' options what users may send: whatever is taken can be
// used as a name in the kernel, and is taken again when the record is read.
func FuzzOptions(f *testing.F) {
	for k := range options {
		for _, v := range []string{"", "true", "1500", "eth0", "192.0.2.1", "fd00::1", "routed", "private", "a:b"} {
			f.Add(k, v)
		}
	}
	f.Fuzz(func(t *testing.T, k, v string) {
		for driver := range drivers {
			s, err := parseOptions(driver, map[string]string{k: v})
			if err != nil {
				if !strings.Contains(err.Error(), "option") {
					t.Error(err)
				}
				continue
			}
			for _, name := range append(s.trusted, s.bridge, s.parent) {
				if name != "" && (len(name) > 15 || strings.ContainsAny(name, "/ \x00")) {
					t.Errorf("%q is taken for an interface's name", name)
				}
			}
			if s.mtu < 0 || s.mtu > 65535 {
				t.Error(s.mtu)
			}
		}
	})
}

// FuzzEndpointSysctls: no key leads out of the parameters of one interface.
func FuzzEndpointSysctls(f *testing.F) {
	for _, v := range []string{"net.ipv4.conf.IFNAME.log_martians=1", "net.ipv6.conf.IFNAME.accept_ra=2,net.ipv4.neigh.IFNAME.proxy_delay=1", "net.ipv4...IFNAME.x=", "net.ipv4..IFNAME.x=", "net.core.x.IFNAME.y=1", "a=b"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		kvs, err := endpointSysctls(v)
		if err != nil {
			return
		}
		for _, kv := range kvs {
			parts := strings.Split(kv[0], "/")
			if len(parts) != 4 || parts[2] != "IFNAME" || parts[0] != "ipv4" && parts[0] != "ipv6" && parts[0] != "mpls" {
				t.Errorf("%q", kv[0])
			}
			for _, p := range parts {
				if p == "" || strings.Trim(p, ".") == "" {
					t.Errorf("%q", kv[0])
				}
			}
		}
	})
}

// FuzzNames: what is taken for a network's name can be a file's, and a zone's.
func FuzzNames(f *testing.F) {
	for _, v := range []string{"front", "a.b_c-d", "", " ", "../x", "default", "ä"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		if goodName(v) == nil && (v == "" || strings.ContainsAny(v, "/ \n\x00,") || strings.HasPrefix(v, ".")) {
			t.Errorf("%q", v)
		}
	})
}
