package supervisor

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"berth/dns"
	"berth/fail"
	"berth/supervisor/publish"
)

// network is what a shim does for its container's network. Its zero value does nothing.
type network struct {
	ports publish.Ports

	mu       sync.Mutex // guards all below
	spaces   *spaces
	resolver *dns.Resolver // nil: none
	closed   bool
}

// setNetwork makes the network what the engine wants.
func (s *shim) setNetwork(_ context.Context, r *request) (answer, error) {
	var n Network
	if err := r.decode(&n); err != nil {
		return answer{}, err
	}
	c, err := s.alive()
	if err != nil {
		return answer{}, err
	}
	cfg, err := n.DNS.config()
	if err != nil {
		return answer{}, err
	}
	ports, err := s.net.ports.Set(n.Ports, n.Target4, n.Target6)
	if err == nil {
		err = s.net.resolve(cfg, n.DNS, c.Pid())
	}
	return answer{body: networkReply{ports}}, err
}

// publish does for the network what can be done before there is a container. The result does
// the rest, when its process is known.
func (s *shim) publish() (func(pid int) error, error) {
	n := s.cfg.Network
	if n == nil {
		return func(int) error { return nil }, nil
	}
	cfg, err := n.DNS.config()
	if err != nil {
		return nil, err
	}
	if _, err := s.net.ports.Set(n.Ports, n.Target4, n.Target6); err != nil {
		return nil, err
	}
	return func(pid int) error { return s.net.resolve(cfg, n.DNS, pid) }, nil
}

// config checks what is asked for.
func (d *DNS) config() (dns.Config, error) {
	if d == nil {
		return dns.Config{}, nil
	}
	cfg := dns.Config{Zones: d.Zones, Internal: d.Internal, Ndots: d.Ndots}
	for _, o := range d.Own {
		cfg.Own = append(cfg.Own, dns.Own{Name: o.Alias, Target: o.Target})
	}
	for _, text := range d.Servers {
		server, err := dns.ParseServer(text)
		if err != nil {
			return cfg, err
		}
		cfg.Servers = append(cfg.Servers, server)
	}
	return cfg, nil
}

// resolve makes the resolver of the container, whose process is pid, what d says; nil: none.
func (n *network) resolve(cfg dns.Config, d *DNS, pid int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return fail.New(fail.NotFound, "the container has ended")
	}
	if d == nil {
		if n.resolver != nil {
			n.resolver.Close()
			n.resolver = nil
		}
		return nil
	}
	if n.spaces == nil {
		sp, err := openSpaces(pid)
		if err != nil {
			return fmt.Errorf("network namespace of the container: %w", err)
		}
		n.spaces = sp
	}
	cfg.Socket = n.spaces.socket
	if d.FromHost {
		cfg.Socket = hostSocket
	}
	if n.resolver != nil {
		n.resolver.Set(cfg)
		return nil
	}
	var udp, tcp *os.File
	err := n.spaces.inside(func() (err error) {
		udp, tcp, err = dns.Listen()
		return err
	})
	if err == nil {
		n.resolver, err = dns.Serve(udp, tcp, cfg)
	}
	if err != nil {
		return fmt.Errorf("name resolver at %s: %w", netip.AddrPortFrom(dns.Address, dns.Port), err)
	}
	return nil
}

// close ends all of it. The descriptor of the container's namespace stays until the shim
// ends: with the last one the kernel takes the namespace down, which need not be while a
// client waits for the container's end.
func (n *network) close() {
	n.ports.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	if n.resolver != nil {
		n.resolver.Close()
		n.resolver = nil
	}
}
