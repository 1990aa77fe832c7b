package dns

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"berth/durable"
	"berth/fail"
)

// Zone is what the containers of one network are known by. Its file is small text, one
// host a line, so that a resolver can search it as it is:
//
//	zone 1 DOMAIN
//	172.18.0.2,fd00::2 web 0123456789ab www
//	172.18.0.3 db 123456789abc
type Zone struct {
	// Domain is the network's name: what is known as NAME is known as NAME.Domain too.
	Domain string
	Hosts  []Host
}

// Host is one container on the network. Several hosts may share a name; queries for it are
// answered with the addresses of all of them, in changing order.
type Host struct {
	Names []string // in any case; the first one answers queries for the address
	Addrs []netip.Addr
}

const zoneMagic = "zone 1 "

// WriteFile replaces the zone's file, of which a reader sees the old or the new content.
// Hosts without names or addresses are left out. It need not survive a reboot.
func (z Zone) WriteFile(path string) error {
	data, err := z.encode()
	if err != nil {
		return err
	}
	if err := durable.WriteFileVolatile(path, data, 0o644); err != nil {
		return fmt.Errorf("write zone: %w", err)
	}
	return nil
}

// ReadZone reads what WriteFile wrote; names are in lower case. A missing file is class
// NotFound.
func ReadZone(path string) (Zone, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Zone{}, fail.Mark(fail.NotFound, err)
	}
	if err != nil {
		return Zone{}, err
	}
	z, err := decodeZone(data)
	if err != nil {
		return Zone{}, fmt.Errorf("%s: %w", path, err)
	}
	return z, nil
}

func (z Zone) encode() ([]byte, error) {
	b := []byte(zoneMagic + lower(z.Domain) + "\n")
	if !goodName(z.Domain) && z.Domain != "" {
		return nil, fail.New(fail.Invalid, "%q is no name for a zone", z.Domain)
	}
	for _, h := range z.Hosts {
		if len(h.Names) == 0 || len(h.Addrs) == 0 {
			continue
		}
		for i, a := range h.Addrs {
			if !a.IsValid() || a.Zone() != "" {
				return nil, fail.New(fail.Invalid, "host %s has no usable address", h.Names[0])
			}
			if i > 0 {
				b = append(b, ',')
			}
			b = a.Unmap().AppendTo(b)
		}
		for i, n := range h.Names {
			n = lower(strings.TrimSuffix(n, "."))
			if !goodName(n) {
				return nil, fail.New(fail.Invalid, "%q is no name for a host", n)
			}
			if slices.ContainsFunc(h.Names[:i], func(o string) bool { return lower(strings.TrimSuffix(o, ".")) == n }) {
				continue
			}
			b = append(append(b, ' '), n...)
		}
		b = append(b, '\n')
	}
	return b, nil
}

func decodeZone(data []byte) (z Zone, err error) {
	bad := func(line int) error { return fail.New(fail.Invalid, "line %d of the zone is damaged", line) }
	if !bytes.HasSuffix(data, []byte("\n")) {
		return z, fail.New(fail.Invalid, "the zone has no end")
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	domain, ok := strings.CutPrefix(lines[0], zoneMagic)
	if !ok || domain != "" && !goodName(domain) || domain != lower(domain) {
		return z, bad(1)
	}
	z.Domain = domain
	for i, line := range lines[1:] {
		addrs, names, _ := strings.Cut(line, " ")
		var h Host
		for a := range strings.SplitSeq(addrs, ",") {
			addr, err := netip.ParseAddr(a)
			if err != nil || addr.String() != a || addr.Zone() != "" || addr.Is4In6() {
				return z, bad(i + 2)
			}
			h.Addrs = append(h.Addrs, addr)
		}
		for n := range strings.SplitSeq(names, " ") {
			if !goodName(n) || n != lower(n) {
				return z, bad(i + 2)
			}
			h.Names = append(h.Names, n)
		}
		z.Hosts = append(z.Hosts, h)
	}
	return z, nil
}

// goodName tells whether s can stand in a zone. Whether it can stand in a query is not
// asked: a container may have a name too long for that.
func goodName(s string) bool {
	return s != "" && !strings.HasSuffix(s, ".") && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == ',' || r == 0x7f })
}

// lower maps ASCII alone, as RFC 4343 has it.
func lower(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return 'A' <= r && r <= 'Z' }) {
		return s
	}
	b := []byte(s)
	lowerBytes(b)
	return string(b)
}

func lowerBytes(b []byte) {
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
}
