package runtime

import (
	"errors"
	"os"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel"
	"berth/kernel/stage"
	oci "berth/oci/bundle"
)

// idMaps are the ids of a user namespace.
type idMaps struct{ uids, gids []specs.LinuxIDMapping }

// idNamespace is a user namespace that only serves to tell the kernel these maps.
type idNamespace struct {
	idMaps
	file *os.File
}

// mapIDs gives the detached mount f the ids of m or, if m has none of its own, those of the
// container's user namespace (mount_setattr(2), "ID-mapped mounts").
func (b *builder) mapIDs(f *os.File, m *oci.Mount, recursive bool) error {
	ns, err := b.idNamespace(m)
	if err != nil {
		return fail.New(fail.Invalid, "map ids: %w", err)
	}
	return mapMount(f, m.Source, ns, recursive)
}

// MapIDs gives the detached mount f, which came from source, other owners: what the file
// system calls ContainerID is seen as HostID. Ids that are not mapped are nobody's.
func MapIDs(f *os.File, source string, uids, gids []specs.LinuxIDMapping, recursive bool) error {
	ns, err := newIDNamespace(idMaps{uids, gids})
	if err != nil {
		return fail.New(fail.Invalid, "map ids: %w", err)
	}
	defer ns.Close()
	return mapMount(f, source, ns, recursive)
}

func mapMount(f *os.File, source string, ns *os.File, recursive bool) error {
	err := kernel.SetMount(f, recursive, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())})
	switch {
	case errors.Is(err, unix.ENOSYS):
		return fail.New(fail.NotImplemented, "map ids: this needs Linux 5.12 or later")
	case errors.Is(err, unix.EINVAL):
		return fail.New(fail.Invalid, "map ids: the file system of %s cannot do that: %w", source, err)
	case err != nil:
		return fail.New(fail.Invalid, "map ids: %w", err)
	}
	return nil
}

func (b *builder) idNamespace(m *oci.Mount) (*os.File, error) {
	want := idMaps{m.UIDMappings, m.GIDMappings}
	if len(want.uids) == 0 {
		for _, j := range b.ns.join {
			if j.flag == unix.CLONE_NEWUSER {
				f, err := os.Open(j.path)
				if err == nil {
					b.closeFile(f)
				}
				return f, err
			}
		}
		want = idMaps{b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings}
	}
	for _, ns := range b.idNamespaces {
		if slices.Equal(ns.uids, want.uids) && slices.Equal(ns.gids, want.gids) {
			return ns.file, nil
		}
	}
	f, err := newIDNamespace(want)
	if err != nil {
		return nil, err
	}
	b.closeFile(f)
	b.idNamespaces = append(b.idNamespaces, idNamespace{want, f})
	return f, nil
}

// newIDNamespace makes a user namespace through a process that only waits for its end.
func newIDNamespace(m idMaps) (f *os.File, err error) {
	err = inNewProcess(unix.CLONE_NEWUSER, nil, func(pid int) error {
		if err := writeMappings(pid, m.uids, m.gids); err != nil {
			return err
		}
		f, err = os.Open("/proc/" + strconv.Itoa(pid) + "/ns/user")
		return err
	})
	return f, err
}

// joinedMaps reads the ids of an existing user namespace, which only its processes see.
func joinedMaps(path string) (m idMaps, err error) {
	f, err := os.Open(path)
	if err != nil {
		return m, err
	}
	defer f.Close()
	err = inNewProcess(0, func(p *stage.Program) {
		p.About("join namespace", path)
		p.Call(unix.SYS_SETNS, p.File(f), stage.Int(unix.CLONE_NEWUSER))
	}, func(pid int) error {
		if m.uids, err = readMap("/proc/" + strconv.Itoa(pid) + "/uid_map"); err != nil {
			return err
		}
		m.gids, err = readMap("/proc/" + strconv.Itoa(pid) + "/gid_map")
		return err
	})
	return m, err
}

// readMap reads a uid_map or gid_map (user_namespaces(7)).
func readMap(path string) ([]specs.LinuxIDMapping, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseMap(string(text)), nil
}

// inNewProcess calls do with the pid of a process in new namespaces, or in those that
// enter joins, which ends afterwards.
func inNewProcess(namespaces uintptr, enter func(*stage.Program), do func(pid int) error) error {
	const inside = 1
	p := stage.New()
	if enter != nil {
		enter(p)
	}
	p.Notify(inside)
	p.Await()
	child, err := stage.Start(p, stage.Options{Namespaces: namespaces})
	if err != nil {
		return err
	}
	defer func() {
		child.Close()
		for {
			if _, err := unix.Wait4(child.Pid, nil, 0, nil); err != unix.EINTR {
				return
			}
		}
	}()
	if _, err := child.Receive(); err != nil {
		return err
	}
	return do(child.Pid)
}

// sameMappings tells whether two lists map the same ids, in whatever order.
func sameMappings(a, b []specs.LinuxIDMapping) bool {
	order := func(x, y specs.LinuxIDMapping) int { return int(int64(x.ContainerID) - int64(y.ContainerID)) }
	a, b = slices.SortedFunc(slices.Values(a), order), slices.SortedFunc(slices.Values(b), order)
	return slices.Equal(a, b)
}

// checkJoinedMaps compares mappings that are given for a joined user namespace with those
// that it has: only the kernel's count, and a difference is a mistake of the caller.
func (b *builder) checkJoinedMaps() error {
	l := b.spec.Linux
	if len(l.UIDMappings)+len(l.GIDMappings) == 0 {
		return nil
	}
	for i, ns := range l.Namespaces {
		if ns.Type != specs.UserNamespace || ns.Path == "" {
			continue
		}
		m, err := joinedMaps(ns.Path)
		if err != nil {
			return invalid(indexed("linux.namespaces", i)+".path", "%w", err)
		}
		if !sameMappings(m.uids, l.UIDMappings) {
			return invalid("linux.uidMappings", "they differ from those of the user namespace %s, which is joined", ns.Path)
		}
		if !sameMappings(m.gids, l.GIDMappings) {
			return invalid("linux.gidMappings", "they differ from those of the user namespace %s, which is joined", ns.Path)
		}
	}
	return nil
}
