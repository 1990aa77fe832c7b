package engine

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	mobynet "github.com/moby/moby/api/types/network"

	"berth/fail"
	"berth/network"
	"berth/supervisor"
)

// checkPorts validates which ports are to be published.
func checkPorts(h *container.HostConfig) error {
	for port, bindings := range h.PortBindings {
		if !port.IsValid() || port.Num() == 0 {
			return fail.New(fail.Invalid, "invalid port specification: %q", port.String())
		}
		switch port.Proto() {
		case mobynet.TCP, mobynet.UDP, mobynet.SCTP:
		default:
			return fail.New(fail.Invalid, "invalid port specification: %q: the protocol is none of tcp, udp, sctp", port.String())
		}
		for _, b := range bindings {
			if _, _, err := hostPorts(b.HostPort); err != nil {
				return err
			}
		}
	}
	return nil
}

// hostPorts reads the host's side of a binding: a port, a range FIRST-LAST of which one is
// taken, or nothing for any.
func hostPorts(s string) (first, last uint16, err error) {
	from, to, ranged := strings.Cut(s, "-")
	if !ranged {
		to = from
	}
	if s == "" {
		return 0, 0, nil
	}
	a, errA := strconv.ParseUint(from, 10, 16)
	b, errB := strconv.ParseUint(to, 10, 16)
	if errA != nil || errB != nil || b < a || a == 0 && b != 0 {
		return 0, 0, fail.New(fail.Invalid, "invalid port specification: %q", s)
	}
	return uint16(a), uint16(b), nil
}

// portRequests are the ports to publish: those with a number first, then those with a
// choice, so that none takes what another one needs. bind is for those without an address.
func portRequests(c Container, bind netip.Addr) []supervisor.Port {
	var out []supervisor.Port
	add := func(port mobynet.Port, b mobynet.PortBinding) {
		first, last, err := hostPorts(b.HostPort)
		if err != nil {
			return // was refused when the container was created
		}
		p := supervisor.Port{Proto: string(port.Proto()), HostIP: b.HostIP.Unmap(), HostPort: first, ContainerPort: port.Num()}
		if last > first {
			p.HostPortEnd = last
		}
		if !p.HostIP.IsValid() {
			p.HostIP = bind
		}
		out = append(out, p)
	}
	for port, bindings := range c.HostConfig.PortBindings {
		for _, b := range bindings {
			add(port, b)
		}
		if len(bindings) == 0 {
			add(port, mobynet.PortBinding{})
		}
	}
	if c.HostConfig.PublishAllPorts {
		for port := range c.Config.ExposedPorts {
			if _, bound := c.HostConfig.PortBindings[port]; !bound {
				add(port, mobynet.PortBinding{})
			}
		}
	}
	slices.SortFunc(out, func(a, b supervisor.Port) int {
		return cmp.Or(
			cmp.Compare(choice(a), choice(b)), cmp.Compare(a.ContainerPort, b.ContainerPort),
			cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.HostPort, b.HostPort), a.HostIP.Compare(b.HostIP),
		)
	})
	return out
}

// choice is 0 for a port with a number, 1 for one of a range, 2 for any.
func choice(p supervisor.Port) int {
	switch {
	case p.HostPort == 0:
		return 2
	case p.HostPortEnd != 0:
		return 1
	}
	return 0
}

// publishedAt lists the addresses of the host that ports are to be published at; zero: none was named.
func publishedAt(cfg *container.Config, h *container.HostConfig) (at []netip.Addr) {
	for _, bindings := range h.PortBindings {
		for _, b := range bindings {
			at = append(at, b.HostIP.Unmap())
		}
		if len(bindings) == 0 {
			at = append(at, netip.Addr{})
		}
	}
	if h.PublishAllPorts && len(cfg.ExposedPorts) > 0 {
		at = append(at, netip.Addr{})
	}
	return at
}

// pinned asks for ports as they are bound already.
func pinned(ports []network.Port) []supervisor.Port {
	out := make([]supervisor.Port, len(ports))
	for n, p := range ports {
		out[n] = supervisor.Port{Proto: p.Proto, HostIP: p.HostIP, HostPort: p.HostPort, ContainerPort: p.ContainerPort}
	}
	return out
}

// inUse names the first port that another container of ours has published already, and
// that container.
func (w *wiring) inUse(self string, want []supervisor.Port) (at netip.AddrPort, holder string) {
	for _, i := range w.idx.all() {
		c := i.now()
		if c.ID == self || c.Network == nil {
			continue
		}
		for _, have := range c.Network.Ports {
			for _, p := range want {
				if choice(p) == 0 && have.Proto == p.Proto && have.HostPort == p.HostPort && overlap(have.HostIP, p.HostIP) {
					ip := p.HostIP
					if !ip.IsValid() {
						ip = have.HostIP
					}
					return netip.AddrPortFrom(ip, p.HostPort), c.Name
				}
			}
		}
	}
	return netip.AddrPort{}, ""
}

// overlap reports whether a port cannot be bound on both addresses. asked may be zero: all.
func overlap(bound, asked netip.Addr) bool {
	switch {
	case !asked.IsValid():
		return true
	case bound.Is4() != asked.Is4():
		return false
	}
	return bound == asked || bound.IsUnspecified() || asked.IsUnspecified()
}

// bindFailure words that a port could not be bound, and by whom it is if that is one of ours.
func (w *wiring) bindFailure(c Container, sb *network.Sandbox, want []supervisor.Port, err error) error {
	if at, holder := w.inUse(c.ID, want); holder != "" {
		err = fail.New(fail.Conflict, "Bind for %s failed: port is already allocated (by container %s)", at, holder)
	}
	endpoint := ""
	for _, e := range sb.Endpoints {
		if e.Network == cmp.Or(sb.Gateway4, sb.Gateway6) {
			endpoint = e.ID
		}
	}
	return fail.Mark(fail.Internal, fmt.Errorf("failed to set up container networking: driver failed programming external connectivity on endpoint %s (%s): %w",
		c.Name, endpoint, err))
}
