package daemon

import (
	"net"
	"net/netip"
	"net/url"
	"strings"

	"berth/api/server"
	"berth/fail"
)

// host is one -H: a socket to serve the API on, and for whom.
type host struct {
	text         string // as it was given, scheme and all
	scheme, addr string
	readOnly     bool
	group        string // of a unix socket; empty: --group
}

// parseHost reads unix://PATH, fd://[NAME] or tcp://HOST:PORT, each with ?ro for a socket that
// changes nothing, a unix socket also with ?group=NAME. A bare path is a unix socket.
func parseHost(text string, secure bool) (host, error) {
	if strings.HasPrefix(text, "/") {
		text = "unix://" + text
	}
	h := host{text: text}
	var rest, query string
	h.scheme, rest, _ = strings.Cut(text, "://")
	h.addr, query, _ = strings.Cut(rest, "?")
	switch {
	case h.scheme == "unix" && strings.HasPrefix(h.addr, "/"), h.scheme == "fd":
	case h.scheme == "tcp":
		var err error
		if h.addr, err = tcpAddress(h.addr, secure); err != nil {
			return h, fail.New(fail.Invalid, "invalid host %q: %w", text, err)
		}
	default:
		return h, fail.New(fail.Invalid, "invalid host %q: use unix://PATH, fd:// or tcp://HOST:PORT", text)
	}
	options, err := url.ParseQuery(query)
	if err != nil {
		return h, fail.New(fail.Invalid, "invalid host %q: %w", text, err)
	}
	for name, values := range options {
		value := values[0]
		switch {
		case len(values) > 1:
			return h, fail.New(fail.Invalid, "invalid host %q: %s is given twice", text, name)
		case name == "ro" && (value == "" || value == "1" || value == "true"):
			h.readOnly = true
		case name == "group" && h.scheme == "unix" && value != "":
			h.group = value
		default:
			return h, fail.New(fail.Invalid, "invalid host %q: unknown option %s=%s: there are ro, and group=NAME of a unix socket", text, name, value)
		}
	}
	return h, nil
}

// tcpAddress fills in what Docker does: localhost, and port 2376 with TLS or 2375 without.
func tcpAddress(addr string, secure bool) (string, error) {
	if strings.Contains(addr, "/") {
		return "", fail.New(fail.Invalid, "a path is not served")
	}
	name, port, err := net.SplitHostPort(addr)
	if err != nil {
		name, port = strings.Trim(addr, "[]"), ""
		if strings.Contains(name, ":") && !strings.HasPrefix(addr, "[") {
			return "", err
		}
	}
	if name == "" {
		name = "localhost"
	}
	if port == "" {
		if port = "2375"; secure {
			port = "2376"
		}
	}
	return net.JoinHostPort(name, port), nil
}

// loopback tells whether only this machine reaches a tcp host.
func (h host) loopback() bool {
	name, _, _ := net.SplitHostPort(h.addr)
	ip, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// door is what the API has to know of the host; verified: its clients have certificates.
func (h host) door(verified bool) server.Door {
	d := server.Door{ReadOnly: h.readOnly, Network: h.scheme == "tcp"}
	d.Loopback = d.Network && !verified && h.loopback()
	return d
}

// unguarded tells what is wrong with a tcp host without client certificates.
func (h host) unguarded(s *Settings) string {
	switch {
	case h.scheme != "tcp" || s.TLSVerify:
		return ""
	case h.readOnly && s.TLS:
		return "everybody who reaches " + h.text + " may look at all containers, images and logs: it asks for no certificate"
	case h.readOnly:
		return "everybody who reaches " + h.text + " may look at all containers, images and logs, without encryption"
	case s.TLS:
		return "everybody who reaches " + h.text + " is root on this machine: it asks for no certificate"
	}
	return "everybody who reaches " + h.text + " is root on this machine, and the API is accessible without encryption"
}
