package engine

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/mount"

	"berth/fail"
)

// tmpfsDefaults can be taken back by naming the opposite.
var tmpfsDefaults = []string{"noexec", "nosuid", "nodev"}

var tmpfsFlags = map[string]string{ // flag → what it concerns
	"exec": "exec", "noexec": "exec", "suid": "suid", "nosuid": "suid", "dev": "dev", "nodev": "dev",
	"ro": "rw", "rw": "rw", "sync": "sync", "async": "sync", "dirsync": "dirsync",
	"mand": "mand", "nomand": "mand", "atime": "atime", "noatime": "atime", "diratime": "diratime",
	"nodiratime": "diratime", "relatime": "relatime", "norelatime": "relatime",
	"strictatime": "strictatime", "nostrictatime": "strictatime", "private": "propagation", "rprivate": "propagation",
	"shared": "propagation", "rshared": "propagation", "slave": "propagation", "rslave": "propagation", "unbindable": "propagation",
	"runbindable": "propagation", "defaults": "defaults",
}

var tmpfsKeys = []string{"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"}

func tmpfsRequest(target, options string) (mountRequest, error) {
	dest, err := checkTarget(target)
	if err != nil {
		return mountRequest{}, fail.New(fail.Invalid, "invalid tmpfs mount: %w", err)
	}
	merged := map[string]string{}
	var order []string
	set := func(kind, option string) {
		if _, ok := merged[kind]; !ok {
			order = append(order, kind)
		}
		merged[kind] = option
	}
	for _, o := range tmpfsDefaults {
		set(tmpfsFlags[o], o)
	}
	if options != "" {
		for _, o := range strings.Split(options, ",") {
			key, value, isPair := strings.Cut(o, "=")
			kind, known := tmpfsFlags[o]
			switch {
			case known:
				set(kind, o)
			case isPair && value != "" && slices.Contains(tmpfsKeys, key):
				set(key, o)
			default:
				return mountRequest{}, fail.New(fail.Invalid, "invalid tmpfs option [%q]", o)
			}
		}
	}
	r := mountRequest{Point: MountPoint{Type: "tmpfs", Destination: dest, RW: merged["rw"] != "ro"}}
	for _, kind := range order {
		if merged[kind] != "defaults" {
			r.Options = append(r.Options, merged[kind])
		}
	}
	return r, nil
}

// tmpfsOptions writes the long form's options as the short form's.
func tmpfsOptions(o *mount.TmpfsOptions) (string, error) {
	if o == nil {
		return "", nil
	}
	var out []string
	if o.SizeBytes < 0 {
		return "", errors.New("the size of a tmpfs cannot be negative")
	}
	if o.SizeBytes > 0 {
		out = append(out, "size="+strconv.FormatInt(o.SizeBytes, 10))
	}
	if o.Mode != 0 {
		out = append(out, "mode="+strconv.FormatUint(uint64(o.Mode.Perm()|o.Mode&0o7000), 8))
	}
	for _, kv := range o.Options {
		switch len(kv) {
		case 1, 2:
			out = append(out, strings.Join(kv, "="))
		default:
			return "", fmt.Errorf("invalid tmpfs option %q", kv)
		}
	}
	return strings.Join(out, ","), nil
}
