package runtime

import (
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// mountOptions is a mount's option list, sorted by who takes them.
type mountOptions struct {
	set, clear             uint64 // MOUNT_ATTR_* of the mount itself
	setBelow, clearBelow   uint64 // and of all mounts below it (rro, …)
	bind, recurse, remount bool
	idmap, idmapBelow      bool // ids are mapped; on all mounts below it, too
	copyUp                 bool // a tmpfs starts with what the image has there
	propagation            []propagation
	data                   []string // "key=value" and "flag", for the file system
}

type propagation struct {
	flag      uint64 // MS_SHARED, …
	recursive bool
}

// attribute is an option that mount_setattr(2) changes. Its recursive form has an "r"
// in front (OCI runtime-spec, config-linux.md, "recursive mount options").
type attribute struct {
	bits uint64
	off  bool
}

var attributes = map[string]attribute{
	"ro":            {bits: unix.MOUNT_ATTR_RDONLY},
	"rw":            {bits: unix.MOUNT_ATTR_RDONLY, off: true},
	"nosuid":        {bits: unix.MOUNT_ATTR_NOSUID},
	"suid":          {bits: unix.MOUNT_ATTR_NOSUID, off: true},
	"nodev":         {bits: unix.MOUNT_ATTR_NODEV},
	"dev":           {bits: unix.MOUNT_ATTR_NODEV, off: true},
	"noexec":        {bits: unix.MOUNT_ATTR_NOEXEC},
	"exec":          {bits: unix.MOUNT_ATTR_NOEXEC, off: true},
	"nodiratime":    {bits: unix.MOUNT_ATTR_NODIRATIME},
	"diratime":      {bits: unix.MOUNT_ATTR_NODIRATIME, off: true},
	"nosymfollow":   {bits: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"symfollow":     {bits: unix.MOUNT_ATTR_NOSYMFOLLOW, off: true},
	"noatime":       {bits: unix.MOUNT_ATTR_NOATIME},
	"strictatime":   {bits: unix.MOUNT_ATTR_STRICTATIME},
	"relatime":      {bits: unix.MOUNT_ATTR_RELATIME},
	"atime":         {bits: unix.MOUNT_ATTR_NOATIME, off: true},
	"norelatime":    {bits: unix.MOUNT_ATTR_RELATIME, off: true},
	"nostrictatime": {bits: unix.MOUNT_ATTR_STRICTATIME, off: true},
}

// superOptions belong to the file system as a whole. They mean nothing to a bind mount.
var superOptions = map[string]bool{
	"sync": true, "async": true, "dirsync": true, "mand": true, "nomand": true,
	"lazytime": true, "nolazytime": true, "iversion": true, "noiversion": true,
	"silent": true, "loud": true,
}

var propagations = map[string]propagation{
	"shared": {unix.MS_SHARED, false}, "rshared": {unix.MS_SHARED, true},
	"slave": {unix.MS_SLAVE, false}, "rslave": {unix.MS_SLAVE, true},
	"private": {unix.MS_PRIVATE, false}, "rprivate": {unix.MS_PRIVATE, true},
	"unbindable": {unix.MS_UNBINDABLE, false}, "runbindable": {unix.MS_UNBINDABLE, true},
}

func parseMountOptions(list []string) (mountOptions, error) {
	var o mountOptions
	for _, opt := range list {
		if a, ok := attributes[opt]; ok {
			change(&o.set, &o.clear, a)
			continue
		}
		if a, ok := attributes[strings.TrimPrefix(opt, "r")]; ok && opt[0] == 'r' {
			change(&o.setBelow, &o.clearBelow, a)
			continue
		}
		if p, ok := propagations[opt]; ok {
			o.propagation = append(o.propagation, p)
			continue
		}
		switch opt {
		case "defaults", "":
		case "bind":
			o.bind = true
		case "rbind":
			o.bind, o.recurse = true, true
		case "remount":
			o.remount = true
		case "idmap":
			o.idmap = true
		case "ridmap":
			o.idmap, o.idmapBelow = true, true
		case "tmpcopyup":
			o.copyUp = true
		default:
			o.data = append(o.data, opt)
		}
	}
	if o.bind {
		// A bind mount has no file system of its own to give options to; what runc lets
		// pass is let pass.
		for _, d := range o.data {
			if !superOptions[d] && !strings.Contains(d, "=") {
				return o, fail.New(fail.Invalid, "mount option %q does not apply to a bind mount", d)
			}
		}
		o.data = nil
	}
	return o, nil
}

// change lets the last of contradicting options win. The access time options are one
// value, not bits, and mount_setattr wants the whole field cleared to change it.
func change(set, clear *uint64, a attribute) {
	if a.bits&^unix.MOUNT_ATTR__ATIME == 0 { // also relatime, which is 0
		*set &^= unix.MOUNT_ATTR__ATIME
		*clear |= unix.MOUNT_ATTR__ATIME
		if !a.off {
			*set |= a.bits
		}
		return
	}
	if a.off {
		*set &^= a.bits
		*clear |= a.bits
	} else {
		*clear &^= a.bits
		*set |= a.bits
	}
}

// MountOptions lists the options that are understood here, sorted; what file systems take
// themselves is not among them.
func MountOptions() []string {
	list := []string{"bind", "rbind", "remount", "defaults", "idmap", "ridmap", "tmpcopyup"}
	for o := range attributes {
		list = append(list, o, "r"+o)
	}
	list = slices.AppendSeq(slices.AppendSeq(list, maps.Keys(superOptions)), maps.Keys(propagations))
	slices.Sort(list)
	return list
}
