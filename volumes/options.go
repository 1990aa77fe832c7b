package volumes

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// The options of a volume: what to mount(2), and how large it may become.
const (
	optType   = "type"
	optDevice = "device"
	optWords  = "o"
	optSize   = "size"
)

// wants says which options need which others.
var wants = []struct {
	option string
	others []string
}{
	{optDevice, []string{optType}},
	{optType, []string{optDevice}},
	{optWords, []string{optDevice, optType}},
}

// checkOptions refuses what cannot be a volume.
func checkOptions(o map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(o)) {
		if !slices.Contains([]string{optType, optDevice, optWords, optSize}, key) {
			return fail.New(fail.Invalid, "invalid option: %q", key)
		}
	}
	for _, w := range wants {
		if _, given := o[w.option]; !given {
			continue
		}
		for _, other := range w.others {
			if o[other] == "" {
				return fail.New(fail.Invalid, "missing required option: %q", other)
			}
		}
	}
	_, err := sizeOf(o)
	return err
}

// mountCall is what mount(2) is called with.
type mountCall struct {
	source, fsType, data string
	flags                uintptr
	propagation          uintptr // a second call
}

// mountFlags are the words that are no file system's own (mount(8),
// "FILESYSTEM-INDEPENDENT MOUNT OPTIONS"); clear takes the flag back.
var mountFlags = map[string]struct {
	flag  uintptr
	clear bool
}{
	"defaults": {}, "rw": {unix.MS_RDONLY, true}, "ro": {unix.MS_RDONLY, false},
	"nosuid": {unix.MS_NOSUID, false}, "suid": {unix.MS_NOSUID, true},
	"nodev": {unix.MS_NODEV, false}, "dev": {unix.MS_NODEV, true},
	"noexec": {unix.MS_NOEXEC, false}, "exec": {unix.MS_NOEXEC, true},
	"sync": {unix.MS_SYNCHRONOUS, false}, "async": {unix.MS_SYNCHRONOUS, true},
	"dirsync": {unix.MS_DIRSYNC, false}, "mand": {unix.MS_MANDLOCK, false}, "nomand": {unix.MS_MANDLOCK, true},
	"noatime": {unix.MS_NOATIME, false}, "atime": {unix.MS_NOATIME, true},
	"nodiratime": {unix.MS_NODIRATIME, false}, "diratime": {unix.MS_NODIRATIME, true},
	"relatime": {unix.MS_RELATIME, false}, "norelatime": {unix.MS_RELATIME, true},
	"strictatime": {unix.MS_STRICTATIME, false}, "nostrictatime": {unix.MS_STRICTATIME, true},
	"lazytime": {unix.MS_LAZYTIME, false}, "nolazytime": {unix.MS_LAZYTIME, true},
	"bind": {unix.MS_BIND, false}, "rbind": {unix.MS_BIND | unix.MS_REC, false},
}

var mountPropagations = map[string]uintptr{
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
	"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// mountOf turns options into the call. Names of NFS and CIFS servers become addresses by
// lookup, for the kernel knows no names.
func mountOf(ctx context.Context, o map[string]string, lookup func(context.Context, string) (string, error)) (mountCall, error) {
	m := mountCall{source: o[optDevice], fsType: o[optType]}
	var data []string
	for _, word := range strings.Split(o[optWords], ",") {
		if word == "" {
			continue
		}
		if f, ok := mountFlags[word]; ok {
			if f.clear {
				m.flags &^= f.flag
			} else {
				m.flags |= f.flag
			}
			continue
		}
		if p, ok := mountPropagations[word]; ok {
			m.propagation = p
			continue
		}
		data = append(data, word)
	}
	var err error
	switch m.fsType {
	case "nfs", "nfs3", "nfs4":
		for i, word := range data {
			if host, is := strings.CutPrefix(word, "addr="); is {
				if data[i], err = resolved(ctx, host, lookup); err != nil {
					return m, err
				}
				data[i] = "addr=" + data[i]
			}
		}
	case "cifs":
		if m.source, data, err = cifs(ctx, m.source, data, lookup); err != nil {
			return m, err
		}
	}
	m.data = strings.Join(data, ",")
	return m, nil
}

// cifs resolves the server in the device, //server/share, and the option addr=.
func cifs(ctx context.Context, device string, data []string, lookup func(context.Context, string) (string, error)) (string, []string, error) {
	for i, word := range data {
		if host, is := strings.CutPrefix(word, "addr="); is {
			addr, err := resolved(ctx, host, lookup)
			if err != nil {
				return "", nil, err
			}
			data[i] = "addr=" + addr
			return device, data, nil
		}
	}
	u, err := url.Parse(device)
	if err != nil {
		return "", nil, fail.New(fail.Invalid, "the device %q is no //server/share: %w", device, err)
	}
	if u.Host == "" || u.Port() != "" {
		return device, data, nil
	}
	addr, err := resolved(ctx, u.Hostname(), lookup)
	if err != nil {
		return "", nil, err
	}
	// The path stays as it was written: the kernel decodes no %20.
	_, path, _ := strings.Cut(strings.TrimPrefix(device, "//"), "/")
	return "//" + addr + "/" + path, data, nil
}

// resolved is the address of a server.
func resolved(ctx context.Context, host string, lookup func(context.Context, string) (string, error)) (string, error) {
	if _, err := netip.ParseAddr(host); err == nil {
		return host, nil
	}
	addr, err := lookup(ctx, host)
	if err != nil {
		return "", fmt.Errorf("resolve %q: %w", host, err)
	}
	return addr, nil
}
