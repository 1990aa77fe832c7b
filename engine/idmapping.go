package engine

import (
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/fail"
)

// idMapping says who owns the files of a bind mount in the container. ContainerID is an
// owner on disk, HostID what the container sees.
type idMapping struct {
	UIDs []specs.LinuxIDMapping `json:"uids,omitempty"`
	GIDs []specs.LinuxIDMapping `json:"gids,omitempty"`
	// Owner: the owner of the source and the container's user are one and the same person.
	Owner bool `json:"owner,omitempty"`
}

// isIDMapping tells whether a mount option is idmap. In the long form of the API, which has
// no field for it, it stands in the place of the consistency.
func isIDMapping(option string) bool {
	return option == "idmap" || strings.HasPrefix(option, "idmap=")
}

// parseIDMapping reads "idmap" or "idmap=uids=DISK-SEEN-COUNT[#…][;gids=…]", the form that
// podman has.
func parseIDMapping(option string) (*idMapping, error) {
	_, list, given := strings.Cut(option, "=")
	if !given {
		return &idMapping{Owner: true}, nil
	}
	bad := func() error {
		return fail.New(fail.Invalid, "invalid idmap %q: the form is idmap=uids=DISK-SEEN-COUNT[#...][;gids=...]", list)
	}
	m := &idMapping{}
	for _, part := range strings.Split(list, ";") {
		kind, ranges, _ := strings.Cut(part, "=")
		to := map[string]*[]specs.LinuxIDMapping{"uids": &m.UIDs, "gids": &m.GIDs}[kind]
		if to == nil || *to != nil {
			return nil, bad()
		}
		for _, r := range strings.Split(ranges, "#") {
			n := strings.Split(r, "-")
			if len(n) != 3 {
				return nil, bad()
			}
			var v [3]uint32
			for i := range v {
				x, err := strconv.ParseUint(n[i], 10, 32)
				if err != nil {
					return nil, bad()
				}
				v[i] = uint32(x)
			}
			if v[2] == 0 || uint64(v[0])+uint64(v[2]) > 1<<32-1 || uint64(v[1])+uint64(v[2]) > 1<<32-1 {
				return nil, bad()
			}
			*to = append(*to, specs.LinuxIDMapping{ContainerID: v[0], HostID: v[1], Size: v[2]})
		}
	}
	return m, nil
}
