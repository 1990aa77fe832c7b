package images

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"

	"berth/oci"
	"berth/registry"
)

// openForeign opens a layer at one of the URLs that its descriptor names.
func openForeign(ctx context.Context, d oci.Descriptor, offset int64) (body io.ReadCloser, err error) {
	for _, u := range d.URLs {
		if body, err = registry.OpenURL(ctx, u, offset); err == nil {
			return body, nil
		}
	}
	return nil, err
}

// OpenURL opens what an http or https URL names, as an archive to import.
func OpenURL(ctx context.Context, url string) (io.ReadCloser, error) {
	return registry.OpenURL(ctx, url, 0)
}

// mayPushForeign reports whether the registry at host ("name[:port]") may be sent foreign
// layers: it is listed by name, or by a network that its address is in.
func (s *Store) mayPushForeign(ctx context.Context, host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = strings.Trim(h, "[]")
	}
	for _, allowed := range s.pushForeign {
		if strings.EqualFold(allowed, host) || strings.EqualFold(allowed, name) {
			return true
		}
		network, err := netip.ParsePrefix(allowed)
		if err != nil {
			continue
		}
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if network.Masked().Contains(a.Unmap()) {
				return true
			}
		}
	}
	return false
}
