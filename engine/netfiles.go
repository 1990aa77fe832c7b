package engine

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"berth/durable"
)

// writeNetFiles makes hostname, hosts and resolv.conf in the container's directory.
// They are remade at every start, so losing them to a power loss costs nothing.
func writeNetFiles(dir string, c Container) error {
	h := c.HostConfig
	hosts, err := hostsFile(c)
	if err != nil {
		return err
	}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("read the host's name servers: %w", err)
	}
	conf := resolvConf(string(resolv), !h.NetworkMode.IsHost(), addresses(h.DNS), h.DNSSearch, h.DNSOptions)
	for _, f := range []struct{ name, text string }{
		{"hostname", c.Config.Hostname + "\n"}, {"hosts", hosts}, {"resolv.conf", conf},
	} {
		// A file that is mounted somewhere keeps its inode if nothing changes.
		path := filepath.Join(dir, f.name)
		if old, err := os.ReadFile(path); err == nil && string(old) == f.text {
			continue
		}
		if err := durable.WriteFileVolatile(path, []byte(f.text), 0o644); err != nil {
			return fmt.Errorf("write the container's %s: %w", f.name, err)
		}
	}
	return nil
}

func addresses(a []netip.Addr) []string {
	var out []string
	for _, x := range a {
		out = append(out, x.String())
	}
	return out
}

const ownHosts = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// hostsFile is the host's own file for --network host, else one that knows loopback;
// with the extra hosts.
func hostsFile(c Container) (string, error) {
	text := ownHosts
	if c.HostConfig.NetworkMode.IsHost() {
		b, err := os.ReadFile("/etc/hosts")
		if err != nil && !os.IsNotExist(err) {
			return "", fmt.Errorf("read the host's hosts: %w", err)
		}
		if len(b) > 0 {
			text = strings.TrimRight(string(b), "\n") + "\n"
		}
	}
	for _, e := range c.HostConfig.ExtraHosts {
		name, addr, _ := strings.Cut(e, ":")
		if addr == "host-gateway" { // in the host's own network the host is loopback
			addr = "127.0.0.1"
		}
		text += strings.Trim(addr, "[]") + "\t" + name + "\n"
	}
	return text, nil
}

// resolvConf is the host's file, changed by --dns, --dns-search and --dns-option. In a
// network namespace of its own a container cannot reach the host's loopback servers:
// they are left out.
func resolvConf(host string, ownNetwork bool, servers, search, options []string) string {
	if len(servers)+len(search)+len(options) == 0 && !ownNetwork {
		return host
	}
	var out strings.Builder
	for line := range strings.Lines(host) {
		line = strings.TrimRight(line, "\n")
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") || strings.HasPrefix(f[0], ";") {
			continue
		}
		switch f[0] {
		case "nameserver":
			if len(servers) > 0 || len(f) < 2 || ownNetwork && isLoopback(f[1]) {
				continue
			}
		case "search", "domain":
			if len(search) > 0 {
				continue
			}
		case "options":
			if len(options) > 0 {
				continue
			}
		}
		out.WriteString(line + "\n")
	}
	for _, s := range servers {
		out.WriteString("nameserver " + s + "\n")
	}
	if len(search) > 0 && (len(search) != 1 || search[0] != ".") {
		out.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	if len(options) > 0 {
		out.WriteString("options " + strings.Join(options, " ") + "\n")
	}
	return out.String()
}

func isLoopback(server string) bool {
	a, err := netip.ParseAddr(server)
	return err == nil && a.Unmap().IsLoopback()
}
