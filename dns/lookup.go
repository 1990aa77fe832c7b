package dns

import (
	"bytes"
	"net/netip"
	"os"
	"strings"
	"syscall"
)

// zoneFile is a zone as its file has it, searched as it stands: a resolver lives once for
// each container, and a table of the names would be larger.
type zoneFile struct {
	path   string
	seen   version
	domain []byte
	hosts  []byte // begins with the line end before the first host
}

// version tells contents of a path apart: each is a file of its own.
type version struct {
	inode       uint64
	size        int64
	mtime, when syscall.Timespec
}

func versionOf(st *syscall.Stat_t) version {
	return version{st.Ino, st.Size, st.Mtim, st.Ctim}
}

// refresh reads the file if it has changed. One that cannot be read has no names; what an
// open file holds is complete, for it was renamed into its place.
func (z *zoneFile) refresh() {
	var st syscall.Stat_t
	if err := syscall.Stat(z.path, &st); err != nil {
		z.seen, z.domain, z.hosts = version{}, nil, nil
		return
	}
	if versionOf(&st) == z.seen {
		return
	}
	z.seen, z.domain, z.hosts = version{}, nil, nil
	f, err := os.Open(z.path)
	if err != nil {
		return
	}
	defer f.Close()
	if syscall.Fstat(int(f.Fd()), &st) != nil || st.Size > maxZone {
		return
	}
	data := make([]byte, st.Size)
	if n, err := f.ReadAt(data, 0); err != nil || n != len(data) {
		return
	}
	if z.load(data) {
		z.seen = versionOf(&st)
	}
}

// maxZone bounds what is read: some 500,000 hosts.
const maxZone = 32 << 20

func (z *zoneFile) load(data []byte) bool {
	head := bytes.IndexByte(data, '\n')
	if head < 0 || !bytes.HasPrefix(data, []byte(zoneMagic)) || data[len(data)-1] != '\n' {
		return false
	}
	z.domain, z.hosts = data[len(zoneMagic):head], data[head:]
	return true
}

// find adds the addresses of a name in lower case to list, and tells whether it is known.
func (z *zoneFile) find(name []byte, list []netip.Addr) (_ []netip.Addr, known bool) {
	list, known = z.search(name, list)
	if n := len(name) - len(z.domain) - 1; n > 0 && len(z.domain) > 0 && name[n] == '.' && bytes.Equal(name[n+1:], z.domain) {
		more, also := z.search(name[:n], list)
		return more, known || also
	}
	return list, known
}

func (z *zoneFile) search(name []byte, list []netip.Addr) (_ []netip.Addr, known bool) {
	if len(name) == 0 || bytes.ContainsAny(name, " \n") {
		return list, false
	}
	for at := 0; ; {
		n := bytes.Index(z.hosts[at:], name)
		if n < 0 {
			return list, known
		}
		n += at
		at = n + 1
		if end := n + len(name); n == 0 || z.hosts[n-1] != ' ' || end == len(z.hosts) || z.hosts[end] != ' ' && z.hosts[end] != '\n' {
			continue
		}
		line := z.hosts[bytes.LastIndexByte(z.hosts[:n], '\n')+1 : n]
		known = true
		list = appendAddrs(list, line[:bytes.IndexByte(line, ' ')])
	}
}

func appendAddrs(list []netip.Addr, text []byte) []netip.Addr {
	for a := range bytes.SplitSeq(text, []byte(",")) {
		if addr, err := netip.ParseAddr(string(a)); err == nil {
			list = append(list, addr)
		}
	}
	return list
}

// nameOf finds the name of an address, empty: it is not there.
func (z *zoneFile) nameOf(addr netip.Addr) string {
	text := addr.AppendTo(make([]byte, 0, 64))
	for at := 0; ; {
		n := bytes.Index(z.hosts[at:], text)
		if n < 0 {
			return ""
		}
		n += at
		at = n + 1
		if end := n + len(text); n == 0 || z.hosts[n-1] != '\n' && z.hosts[n-1] != ',' || end == len(z.hosts) || z.hosts[end] != ' ' && z.hosts[end] != ',' {
			continue
		}
		line, _, _ := bytes.Cut(z.hosts[n:], []byte("\n"))
		_, names, _ := bytes.Cut(line, []byte(" "))
		name, _, _ := bytes.Cut(names, []byte(" "))
		if len(z.domain) > 0 {
			return string(name) + "." + string(z.domain)
		}
		return string(name)
	}
}

// lookup finds the addresses of a name in lower case; known tells that the name exists,
// ours that nobody else is to be asked. The caller holds mu.
func (r *Resolver) lookup(name []byte, list []netip.Addr) (_ []netip.Addr, known, ours bool) {
	for _, own := range r.cfg.Own {
		if string(name) != lower(strings.TrimSuffix(own.Name, ".")) {
			continue
		}
		ours = true
		if a, err := netip.ParseAddr(own.Target); err == nil {
			list, known = append(list, a.Unmap()), true
			continue
		}
		for i := range r.zones {
			more, also := r.zones[i].find([]byte(lower(strings.TrimSuffix(own.Target, "."))), list)
			list, known = more, known || also
		}
	}
	if ours {
		return list, known, true
	}
	for i := range r.zones {
		more, also := r.zones[i].find(name, list)
		list, known = more, known || also
	}
	return list, known, known
}
