package dns

import (
	"bytes"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// zoneFile is a zone as its file has it, searched as it stands: a resolver lives once for
// each container, and a table of the names would be larger.
type zoneFile struct {
	path   string
	cPath  []byte // the same, ending with 0
	seen   version
	domain []byte
	hosts  []byte // begins with the line end before the first host
}

func newZoneFile(path string) zoneFile {
	return zoneFile{path: path, cPath: append([]byte(path), 0)}
}

// version tells contents of a path apart: each is a file of its own.
type version struct {
	major, minor  uint32
	inode, size   uint64
	mtime, change unix.StatxTimestamp
}

// stat looks at the file fd, or the one at path, whose last byte is 0, if fd is AT_FDCWD. It
// is called for every query, and leaves no garbage, as unix.Statx would.
func stat(fd int, path []byte) (version, error) {
	var st unix.Statx_t
	_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(fd), uintptr(unsafe.Pointer(&path[0])), unix.AT_EMPTY_PATH,
		unix.STATX_BASIC_STATS, uintptr(unsafe.Pointer(&st)), 0)
	if errno != 0 {
		return version{}, errno
	}
	return version{st.Dev_major, st.Dev_minor, st.Ino, st.Size, st.Mtime, st.Ctime}, nil
}

// refresh reads the file if it has changed. What an open file holds is complete, for it was
// renamed into its place. One that is not there has no names; while one cannot be read, for
// want of descriptors perhaps, what was read before is better than nothing.
func (z *zoneFile) refresh() {
	now, err := stat(unix.AT_FDCWD, z.cPath)
	if err == nil && now == z.seen {
		return
	}
	if err == nil {
		err = z.read()
	}
	if errors.Is(err, fs.ErrNotExist) {
		z.seen, z.domain, z.hosts = version{}, nil, nil
	}
}

func (z *zoneFile) read() error {
	f, err := os.Open(z.path)
	if err != nil {
		return err
	}
	defer f.Close()
	now, err := stat(int(f.Fd()), []byte{0})
	if err != nil || now.size > maxZone {
		return err
	}
	data := make([]byte, now.size)
	if _, err := f.ReadAt(data, 0); err != nil {
		return err
	}
	if z.load(data) {
		z.seen = now
	}
	return nil
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
		// A zone's bytes are never changed: they can be taken for a string.
		if addr, err := netip.ParseAddr(unsafe.String(unsafe.SliceData(a), len(a))); err == nil {
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
