package runtime

import (
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel/stage"
)

// namespaceKinds are in the order in which they are joined: a mount namespace last,
// because joining it changes what paths mean.
var namespaceKinds = []struct {
	kind specs.LinuxNamespaceType
	flag uintptr
	file string // in /proc/PID/ns
}{
	{specs.UserNamespace, unix.CLONE_NEWUSER, "user"},
	{specs.IPCNamespace, unix.CLONE_NEWIPC, "ipc"},
	{specs.UTSNamespace, unix.CLONE_NEWUTS, "uts"},
	{specs.NetworkNamespace, unix.CLONE_NEWNET, "net"},
	{specs.PIDNamespace, unix.CLONE_NEWPID, "pid"},
	{specs.CgroupNamespace, unix.CLONE_NEWCGROUP, "cgroup"},
	{specs.TimeNamespace, unix.CLONE_NEWTIME, "time"},
	{specs.MountNamespace, unix.CLONE_NEWNS, "mnt"},
}

// namespaces is what a container has of its own.
type namespaces struct {
	create uintptr // CLONE_NEW* of the new ones
	join   []joined
}

type joined struct {
	flag uintptr
	path string
	fd   int
}

// joins tells the flags of the joined namespaces.
func (n *namespaces) joins() (flags uintptr) {
	for _, j := range n.join {
		flags |= j.flag
	}
	return flags
}

// own tells whether the container has a namespace of this kind other than the caller's.
func (n *namespaces) own(flag uintptr) bool { return (n.create|n.joins())&flag != 0 }

// planNamespaces sorts a list that was validated.
func planNamespaces(list []specs.LinuxNamespace) *namespaces {
	n := new(namespaces)
	for _, k := range namespaceKinds {
		for _, want := range list {
			if want.Type != k.kind {
				continue
			}
			if want.Path == "" {
				n.create |= k.flag
			} else {
				n.join = append(n.join, joined{flag: k.flag, path: want.Path, fd: -1})
			}
		}
	}
	return n
}

func knownNamespace(t specs.LinuxNamespaceType) bool {
	for _, k := range namespaceKinds {
		if k.kind == t {
			return true
		}
	}
	return false
}

func kindOf(flag uintptr) specs.LinuxNamespaceType {
	for _, k := range namespaceKinds {
		if k.flag == flag {
			return k.kind
		}
	}
	return ""
}

// enter compiles the way into the namespaces, and tells with which flags the child is
// to be cloned and whether it respawns.
//
// New namespaces belong to the user namespace in which they are made. So where one is
// joined or is new beside joined ones, all new ones are made after the joins, by
// unshare.
func (b *builder) enter() (cloneFlags uintptr, respawns bool) {
	n, p := b.ns, b.p
	create := n.create &^ (unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME) // these two have their own moments
	userJoined := n.joins()&unix.CLONE_NEWUSER != 0
	late := len(n.join) > 0 && (userJoined || create&unix.CLONE_NEWUSER != 0)

	b.join(n.join)
	if late {
		if create != 0 {
			p.About("create namespaces", "")
			p.Call(unix.SYS_UNSHARE, stage.Int(int(create)))
		}
		respawns = create&unix.CLONE_NEWPID != 0
	} else {
		cloneFlags = create
	}
	respawns = respawns || n.joins()&unix.CLONE_NEWPID != 0
	if respawns {
		p.About("fork into the pid namespace", "")
		p.Respawn()
	}
	return cloneFlags, respawns
}

// join enters existing namespaces: first those that the caller's privileges allow, then
// the user namespace, then those that belong to it.
func (b *builder) join(list []joined) {
	p := b.p
	setns := func(j joined) stage.Step {
		p.About("join namespace", j.path)
		return p.Call(unix.SYS_SETNS, p.FD(j.fd), stage.Int(int(j.flag)))
	}
	var user *joined
	for i := range list {
		if list[i].flag == unix.CLONE_NEWUSER {
			user = &list[i]
		}
	}
	if user == nil {
		for _, j := range list {
			setns(j)
		}
		return
	}
	var first, second []joined
	for _, j := range list {
		if j.flag != unix.CLONE_NEWUSER {
			first = append(first, j)
		}
	}
	results := make([]stage.Slot, len(first))
	for i, j := range first {
		results[i] = p.Slot()
		setns(j).Ignore(unix.EPERM).Into(results[i])
	}
	second = first
	setns(*user)
	b.becomeRoot()
	for i, j := range second {
		done := p.NewLabel()
		p.JumpUnless(results[i], -int(unix.EPERM), done)
		setns(j)
		p.Here(done)
	}
}

// becomeRoot takes the ids 0:0 of the user namespace that the child is in now.
func (b *builder) becomeRoot() {
	p := b.p
	p.About("become root in the user namespace", "")
	p.Call(unix.SYS_SETRESGID, stage.Int(0), stage.Int(0), stage.Int(0))
	p.Call(unix.SYS_SETRESUID, stage.Int(0), stage.Int(0), stage.Int(0))
}

// openNamespaces opens the files of the namespaces to be joined.
func (b *builder) openNamespaces() error {
	for i := range b.ns.join {
		j := &b.ns.join[i]
		// Whatever else the path may be, its open must not wait.
		fd, err := unix.Open(j.path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != nil {
			return fail.New(fail.Invalid, "join namespace %s: %w", j.path, err)
		}
		b.closeLater(fd)
		if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || uintptr(kind) != j.flag {
			return fail.New(fail.Invalid, "join namespace %s: it is not a %s namespace", j.path, kindOf(j.flag))
		}
		j.fd = fd
	}
	return nil
}

// writeMappings gives the new user namespace of pid its ids.
func writeMappings(pid int, uids, gids []specs.LinuxIDMapping) error {
	dir := "/proc/" + strconv.Itoa(pid)
	for _, m := range []struct {
		file string
		list []specs.LinuxIDMapping
	}{{"/uid_map", uids}, {"/gid_map", gids}} {
		if len(m.list) == 0 {
			continue
		}
		var text strings.Builder
		for _, e := range m.list {
			text.WriteString(strconv.FormatUint(uint64(e.ContainerID), 10) + " " +
				strconv.FormatUint(uint64(e.HostID), 10) + " " + strconv.FormatUint(uint64(e.Size), 10) + "\n")
		}
		if err := writeProc(dir+m.file, text.String()); err != nil {
			return err
		}
	}
	return nil
}

// writeProc writes a file of /proc in one call, as the kernel demands.
func writeProc(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// writeOffsets sets the clocks of the time namespace that pid has made for its children
// (time_namespaces(7)).
func writeOffsets(pid int, offsets map[string]specs.LinuxTimeOffset) error {
	var text strings.Builder
	for clock, o := range offsets {
		text.WriteString(clock + " " + strconv.FormatInt(o.Secs, 10) + " " + strconv.FormatUint(uint64(o.Nanosecs), 10) + "\n")
	}
	if err := writeProc("/proc/"+strconv.Itoa(pid)+"/timens_offsets", text.String()); err != nil {
		return invalid("linux.timeOffsets", "%w", err)
	}
	return nil
}

// loopback brings up lo in a new network namespace. Any socket takes interface ioctls,
// and one of AF_UNIX needs no protocol.
func (b *builder) loopback() {
	p := b.p
	p.About("bring up the loopback interface", "")
	var ifreq [40]byte
	copy(ifreq[:], "lo")
	ifreq[unix.IFNAMSIZ] = unix.IFF_UP
	s := p.Slot()
	p.Call(unix.SYS_SOCKET, stage.Int(unix.AF_UNIX), stage.Int(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), stage.Int(0)).Into(s)
	p.Call(unix.SYS_IOCTL, s.Arg(), stage.Int(unix.SIOCSIFFLAGS), p.Bytes(ifreq[:]))
	b.close(s)
}

// timeOffsets gives a new time namespace its clocks. The offsets can be set until a
// process enters it, so the child unshares, lets the parent write and only then joins.
func (b *builder) timeOffsets(offsets map[string]specs.LinuxTimeOffset) {
	p := b.p
	p.About("create the time namespace", "")
	p.Call(unix.SYS_UNSHARE, stage.Int(unix.CLONE_NEWTIME))
	if len(offsets) > 0 {
		// Not by the child itself: undumpable, in a user namespace, it owns no file in /proc.
		p.Notify(atOffsets)
		p.Await()
	}
	s := p.Slot()
	p.Call(unix.SYS_OPENAT, stage.Int(unix.AT_FDCWD), p.Str("/proc/self/ns/time_for_children"), stage.Int(unix.O_RDONLY|unix.O_CLOEXEC)).Into(s)
	p.Call(unix.SYS_SETNS, s.Arg(), stage.Int(unix.CLONE_NEWTIME))
	b.close(s)
}
