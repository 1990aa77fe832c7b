package cli

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/docker/go-connections/nat"
	"github.com/moby/moby/api/types/network"
)

// parsePorts reads -p and --expose into the ports the container has and where they are published.
func parsePorts(publish, expose []string) (network.PortSet, network.PortMap, error) {
	specs := make([]string, 0, len(publish))
	for _, p := range publish {
		spec, err := shortPublish(p)
		if err != nil {
			return nil, nil, err
		}
		specs = append(specs, spec)
	}
	_, parsed, err := nat.ParsePortSpecs(specs)
	if err != nil {
		return nil, nil, err
	}
	exposed, bindings := network.PortSet{}, network.PortMap{}
	for natPort, natBindings := range parsed {
		port, err := network.ParsePort(string(natPort))
		if err != nil {
			return nil, nil, err
		}
		exposed[port] = struct{}{}
		for _, b := range natBindings {
			var ip netip.Addr
			if b.HostIP != "" {
				if ip, err = netip.ParseAddr(b.HostIP); err != nil {
					return nil, nil, fmt.Errorf("invalid IP address: %s", b.HostIP)
				}
			}
			bindings[port] = append(bindings[port], network.PortBinding{HostIP: ip, HostPort: b.HostPort})
		}
	}
	for _, e := range expose {
		if strings.Contains(e, ":") {
			return nil, nil, fmt.Errorf("invalid port format for --expose: %s", e)
		}
		ports, err := network.ParsePortRange(e)
		if err != nil {
			return nil, nil, fmt.Errorf("invalid range format for --expose: %w", err)
		}
		for port := range ports.All() {
			exposed[port] = struct{}{}
		}
	}
	return exposed, bindings, nil
}

// shortPublish turns the long form (target=80,published=8080,protocol=tcp) into the short one.
func shortPublish(value string) (string, error) {
	if !strings.Contains(value, "=") {
		return value, nil
	}
	fields := map[string]string{"protocol": "tcp"}
	for field := range strings.SplitSeq(value, ",") {
		key, v, ok := strings.Cut(field, "=")
		switch {
		case !ok || key == "":
			return "", fmt.Errorf("invalid publish opts format (should be name=value but got '%s')", field)
		case !slices.Contains([]string{"target", "published", "protocol", "mode"}, key):
			return "", fmt.Errorf("invalid --publish %s: unknown key %q", value, key)
		case key == "mode" && v != "host" && v != "ingress": // outside of swarms they are the same
			return "", fmt.Errorf("invalid --publish %s: unknown mode %q", value, v)
		}
		fields[key] = v
	}
	if fields["target"] == "" {
		return "", fmt.Errorf("invalid --publish %s: it has no target", value)
	}
	return fmt.Sprintf("%s:%s/%s", fields["published"], fields["target"], fields["protocol"]), nil
}
