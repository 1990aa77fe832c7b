package engine

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
)

// defaultDeviceRules are the devices every container may use, and the permission to
// make (not to open) any node. The nodes themselves are the runtime's default devices.
var defaultDeviceRules = []specs.LinuxDeviceCgroup{
	{Allow: false, Access: "rwm"},
	{Allow: true, Type: "c", Access: "m"},
	{Allow: true, Type: "b", Access: "m"},
	device("c", 1, 3),    // null
	device("c", 1, 5),    // zero
	device("c", 1, 7),    // full
	device("c", 1, 8),    // random
	device("c", 1, 9),    // urandom
	device("c", 5, 0),    // tty
	device("c", 5, 1),    // console
	device("c", 5, 2),    // ptmx
	device("c", 136, -1), // pts
}

var allDevices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}

func device(kind string, major, minor int64) specs.LinuxDeviceCgroup {
	d := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Access: "rwm"}
	if minor >= 0 {
		d.Minor = &minor
	}
	return d
}

func checkDeviceMappings(devices []container.DeviceMapping) error {
	for _, d := range devices {
		if !path.IsAbs(d.PathOnHost) {
			return fail.New(fail.Invalid, "%s is not an absolute path", d.PathOnHost)
		}
		if d.PathInContainer != "" && !path.IsAbs(d.PathInContainer) {
			return fail.New(fail.Invalid, "%s is not an absolute path", d.PathInContainer)
		}
		if strings.Trim(d.CgroupPermissions, "rwm") != "" {
			return fail.New(fail.Invalid, "invalid device permissions %q: only r, w and m are allowed", d.CgroupPermissions)
		}
	}
	return nil
}

// mappedDevices looks up --device values: a device, or a directory of them.
func mappedDevices(mappings []container.DeviceMapping) (nodes []specs.LinuxDevice, rules []specs.LinuxDeviceCgroup, err error) {
	for _, m := range mappings {
		inside, access := m.PathInContainer, m.CgroupPermissions
		if inside == "" {
			inside = m.PathOnHost
		}
		if access == "" {
			access = "rwm"
		}
		real, err := filepath.EvalSymlinks(m.PathOnHost)
		if err != nil {
			return nil, nil, fail.New(fail.Invalid, "error gathering device information while adding custom device %q: %w", m.PathOnHost, bare(err))
		}
		found := 0
		err = filepath.WalkDir(real, func(p string, e fs.DirEntry, err error) error {
			if err != nil || e.Type()&fs.ModeDevice == 0 {
				return err
			}
			rel, err := filepath.Rel(real, p)
			if err != nil {
				return err
			}
			node, err := deviceNode(p, path.Join(inside, rel))
			if err != nil {
				return err
			}
			rule := device(node.Type, node.Major, node.Minor)
			rule.Access = access
			nodes, rules, found = append(nodes, node), append(rules, rule), found+1
			return nil
		})
		if err == nil && found == 0 {
			err = fail.New(fail.Invalid, "not a device node")
		}
		if err != nil {
			return nil, nil, fail.New(fail.Invalid, "error gathering device information while adding custom device %q: %w", m.PathOnHost, bare(err))
		}
	}
	return nodes, rules, nil
}

// bare takes the path off an error that is told beside the path.
func bare(err error) error {
	if p, ok := err.(*fs.PathError); ok {
		return p.Err
	}
	return err
}

func deviceNode(host, inside string) (specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Lstat(host, &st); err != nil {
		return specs.LinuxDevice{}, err
	}
	kind := "c"
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		kind = "b"
	}
	mode, uid, gid := os.FileMode(st.Mode&0o7777), st.Uid, st.Gid
	return specs.LinuxDevice{
		Path: inside, Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		FileMode: &mode, UID: &uid, GID: &gid,
	}, nil
}

// ownMounts are places in /dev that the container gets mounts of its own for.
var ownMounts = map[string]bool{"/dev/pts": true, "/dev/shm": true, "/dev/mqueue": true, "/dev/console": true, "/dev/fd": true, "/dev/.lxc": true, "/dev/.lxd-mounts": true}

// hostDevices lists the machine's devices for a privileged container. A device that
// vanishes meanwhile is left out.
func hostDevices() []specs.LinuxDevice {
	var out []specs.LinuxDevice
	_ = filepath.WalkDir("/dev", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if ownMounts[p] {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if e.Type()&fs.ModeDevice == 0 || p == "/dev/ptmx" || p == "/dev/tty" {
			return nil
		}
		if node, err := deviceNode(p, p); err == nil {
			out = append(out, node)
		}
		return nil
	})
	return out
}
