// Package publish holds a container's published ports on the host: a bound socket for each,
// so that nobody else can take them, and a relay for the connections that reach them.
// Where the firewall translates addresses these are the ones through loopback; without it,
// all.
//
// One goroutine serves all sockets, over an epoll instance of its own that waits in the Go
// runtime's: a port costs its socket and some hundred bytes, a connection two sockets.
package publish

import (
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// Port is a published port. In a request HostPort zero asks for any free one, and HostPortEnd
// for the first free one up to and including it. A zero HostIP asks for 0.0.0.0 and ::, with
// the same number. In an answer HostIP and HostPort are what was bound.
type Port struct {
	Proto         string     `json:"proto"` // tcp, udp, sctp
	HostIP        netip.Addr `json:"hostIP,omitzero"`
	HostPort      uint16     `json:"hostPort,omitempty"`
	HostPortEnd   uint16     `json:"hostPortEnd,omitempty"`
	ContainerPort uint16     `json:"containerPort"`
}

// Ports are the published ports of one container.
type Ports struct {
	mu     sync.Mutex // guards all below
	bound  []*socket
	loop   *loop // nil until there is a port
	closed bool
}

// socket is one port on one address of the host.
type socket struct {
	port   Port // as it is bound
	fd     int
	slot   int32
	target unix.Sockaddr // where its connections lead to; nil: nowhere
	to     netip.AddrPort
}

// Set makes ports the ones that are published, with connections to IPv4 ports led to target4
// and those to IPv6 ports to target6; one that is zero is replaced by the other. Ports that
// are there stay, with their connections; those that are not asked for are closed, with
// theirs. The answer has the ports as they are bound, those of one request together, in the
// order of the requests. After an error nothing has changed.
func (p *Ports) Set(ports []Port, target4, target6 netip.Addr) ([]Port, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, fail.New(fail.NotFound, "the container has ended")
	}
	if p.loop == nil && len(ports) == 0 {
		return nil, nil
	}
	plan := make([][]*socket, len(ports))
	claimed := map[*socket]bool{}
	for i, want := range ports {
		plan[i] = p.find(want, claimed)
	}
	var fresh []*socket
	for i, want := range ports {
		if plan[i] != nil {
			continue
		}
		made, err := bind(want)
		if err != nil {
			closeAll(fresh)
			return nil, err
		}
		plan[i] = made
		fresh = append(fresh, made...)
	}
	if p.loop == nil {
		l, err := newLoop()
		if err != nil {
			closeAll(fresh)
			return nil, err
		}
		p.loop = l
	}
	p.loop.mu.Lock()
	defer p.loop.mu.Unlock()
	for i, s := range fresh {
		if err := p.loop.serve(s); err != nil { // the kernel's memory or limits
			for _, s := range fresh[:i] {
				p.loop.vacate(s.slot)
			}
			closeAll(fresh)
			return nil, err
		}
	}
	for _, s := range p.bound {
		if !claimed[s] {
			p.loop.drop(s)
		}
	}
	p.bound = nil
	var answer []Port
	for i, sockets := range plan {
		for _, s := range sockets {
			s.port.ContainerPort = ports[i].ContainerPort
			p.loop.lead(s, target4, target6)
			p.bound = append(p.bound, s)
			answer = append(answer, s.port)
		}
	}
	return answer, nil
}

func closeAll(sockets []*socket) {
	for _, s := range sockets {
		unix.Close(s.fd)
	}
}

// find looks for sockets that satisfy want already, and claims them.
func (p *Ports) find(want Port, claimed map[*socket]bool) []*socket {
	for _, s := range p.bound {
		if !s.satisfies(want) || claimed[s] {
			continue
		}
		if want.HostIP.IsValid() {
			claimed[s] = true
			return []*socket{s}
		}
		group := []*socket{s}
		for _, o := range p.bound {
			if o != s && !claimed[o] && o.satisfies(want) && o.port.HostPort == s.port.HostPort && o.port.HostIP.Is4() != s.port.HostIP.Is4() {
				group = append(group, o)
			}
		}
		if len(group) == 1 && haveIPv6() {
			continue // one of a pair that is not asked for
		}
		for _, s := range group {
			claimed[s] = true
		}
		return group
	}
	return nil
}

func (s *socket) satisfies(want Port) bool {
	if s.port.Proto != want.Proto {
		return false
	}
	if ip := want.HostIP.Unmap(); ip.IsValid() && ip != s.port.HostIP || !ip.IsValid() && !s.port.HostIP.IsUnspecified() {
		return false
	}
	if want.HostPort == 0 {
		return s.port.ContainerPort == want.ContainerPort
	}
	return s.port.HostPort == want.HostPort || s.port.HostPort > want.HostPort && s.port.HostPort <= want.HostPortEnd
}

// Bound lists the ports.
func (p *Ports) Bound() []Port {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []Port
	for _, s := range p.bound {
		list = append(list, s.port)
	}
	return list
}

// Close gives the ports back, and ends the connections.
func (p *Ports) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed, p.bound = true, nil
	if p.loop != nil {
		p.loop.close()
		p.loop = nil
	}
}
