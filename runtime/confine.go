package runtime

import (
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"berth/fail"
	"berth/kernel/seccomp"
	"berth/kernel/stage"
	oci "berth/oci/bundle"
)

// confinement is what a process is given last: who it is and what it may do.
type confinement struct {
	process *oci.Process
	caps    capabilitySets
	filter  *seccomp.Program // nil: none
	stdio   [3]stage.Arg
	extra   []*os.File
	slave   stage.Slot // the terminal, or -1
	first   bool       // it is the container's first one, whose working directory is made
	ownDev  bool       // what /dev has was just made by us
}

// programOf tells what the process may be: its name, or its places in $PATH.
func programOf(p *oci.Process) []string {
	name := p.Args[0]
	if strings.Contains(name, "/") {
		return []string{name}
	}
	if name == "" {
		return nil
	}
	var places []string
	for _, dir := range strings.Split(environment(p.Env, "PATH"), ":") {
		if dir == "" {
			dir = "."
		}
		places = append(places, dir+"/"+name)
	}
	return places
}

// environment is the value of the last entry for key.
func environment(env []string, key string) string {
	value := ""
	for _, e := range env {
		if k, v, _ := strings.Cut(e, "="); k == key {
			value = v
		}
	}
	return value
}

// workingDirectory enters the process's working directory, and makes it if create. It is called
// with the root's own privileges; slot then tells whether the directory must be tried
// again as the user (-EACCES).
func (b *builder) workingDirectory(cwd string, create bool) (again stage.Slot, dir stage.Slot) {
	p := b.p
	if cwd == "" {
		cwd = "/"
	}
	p.About("change to the working directory", cwd)
	if create {
		dir = b.target(path.Clean(cwd), directory, resolveInRoot)
	} else {
		dir = p.Slot()
		b.openIn(cwd, unix.O_PATH, resolveInRoot).Into(dir)
	}
	again = p.Slot()
	p.Call(unix.SYS_FCHDIR, dir.Arg()).Ignore(unix.EACCES, unix.EPERM).Into(again)
	return again, dir
}

// confine compiles everything from the working directory to execve. await is where
// the process waits for its start; it is compiled between what needs privileges and
// what comes last.
func (b *builder) confine(c *confinement, await func()) error {
	p, proc := b.p, c.process
	lim, err := b.rlimits(proc.Rlimits)
	if err != nil {
		return err
	}
	again, dir := b.workingDirectory(proc.Cwd, c.first)
	b.insideRoot() // before a filter that may refuse getcwd

	if c.slave >= 0 {
		p.About("make the terminal the controlling one", "")
		p.Call(unix.SYS_IOCTL, c.slave.Arg(), stage.Int(unix.TIOCSCTTY), stage.Int(0))
	}
	if err := b.openNull(c.ownDev); err != nil {
		return err
	}
	b.ownStreams(c)
	// The directory must not lie where a stream will.
	p.About("change to the working directory", proc.Cwd)
	p.Call(unix.SYS_FCNTL, dir.Arg(), stage.Int(unix.F_DUPFD_CLOEXEC), stage.Int(firstFree(c.extra))).Into(dir)
	b.streams(c)

	if err := b.setPolicies(); err != nil {
		return err
	}
	for _, l := range lim {
		p.About("set the limit", l.name)
		p.Call(unix.SYS_PRLIMIT64, stage.Int(0), stage.Int(l.resource), stage.Pin(p, l.value), stage.Int(0))
	}
	if proc.NoNewPrivileges {
		p.About("set no_new_privs", "")
		p.Call(unix.SYS_PRCTL, stage.Int(unix.PR_SET_NO_NEW_PRIVS), stage.Int(1), stage.Int(0), stage.Int(0), stage.Int(0))
	} else if c.filter != nil {
		b.installFilter(c.filter) // needs CAP_SYS_ADMIN, which goes next
	}
	b.dropBounding(c.caps.bounding)
	b.becomeUser(&proc.User)
	b.setCapabilities(c.caps)

	// A directory that only the user may enter (NFS with root squashed, a home).
	p.About("change to the working directory", proc.Cwd)
	entered := p.NewLabel()
	denied := p.NewLabel()
	p.JumpUnless(again, -int(unix.EACCES), denied)
	p.Call(unix.SYS_FCHDIR, dir.Arg())
	p.Jump(entered)
	p.Here(denied)
	p.JumpUnless(again, -int(unix.EPERM), entered)
	p.Call(unix.SYS_FCHDIR, dir.Arg())
	p.Here(entered)
	b.close(dir)
	p.About("set the file mode mask", "")
	umask := 0o022
	if proc.User.Umask != nil {
		umask = int(*proc.User.Umask)
	}
	p.Call(unix.SYS_UMASK, stage.Int(umask))

	env := proc.Env
	p.Exec(programOf(proc), proc.Args, env)
	last := proc.NoNewPrivileges && c.filter != nil
	if last && c.filter.Notify { // while the parent that knows the agent listens
		b.installFilter(c.filter)
		last = false
	}
	p.About("execute", proc.Args[0])
	await()
	b.applyLabels()
	if last {
		b.installFilter(c.filter)
	}
	p.About("execute", proc.Args[0])
	p.Execute()
	return nil
}

// insideRoot ends the child if its working directory is not below its root: the
// kernel then gives the path an "(unreachable)" in front (CVE-2024-21626).
func (b *builder) insideRoot() {
	p := b.p
	first, good := p.Slot(), p.NewLabel()
	bad := p.NewLabel()
	p.Store32(b.path.offset, stage.Int(0))
	p.Call(unix.SYS_GETCWD, b.path.addr, stage.Int(pathSize))
	p.Load32(first, b.path.offset)
	// "/" alone, or "/x…": compare the first byte by its three neighbours' absence.
	p.JumpUnlessByte(first, '/', bad)
	p.Jump(good)
	p.Here(bad)
	p.Fail(unix.ENOENT)
	p.Here(good)
}

// becomeUser changes the ids and keeps the capabilities for setCapabilities.
func (b *builder) becomeUser(u *oci.User) {
	p := b.p
	p.About("keep capabilities across the change of user", "")
	p.Call(unix.SYS_PRCTL, stage.Int(unix.PR_SET_KEEPCAPS), stage.Int(1), stage.Int(0), stage.Int(0), stage.Int(0))
	p.About("set supplementary groups", "")
	groups := stage.Int(0)
	if n := len(u.AdditionalGids); n > 0 {
		list := append([]uint32(nil), u.AdditionalGids...)
		groups = stage.Pin(p, &list[0])
	}
	setgroups := p.Call(unix.SYS_SETGROUPS, stage.Int(len(u.AdditionalGids)), groups)
	if len(u.AdditionalGids) == 0 && b.userns {
		setgroups.Ignore(unix.EPERM) // setgroups is denied in an unprivileged user namespace
	}
	p.About("set the group id", "")
	p.Call(unix.SYS_SETRESGID, stage.Int(int(u.GID)), stage.Int(int(u.GID)), stage.Int(int(u.GID)))
	p.About("set the user id", "")
	p.Call(unix.SYS_SETRESUID, stage.Int(int(u.UID)), stage.Int(int(u.UID)), stage.Int(int(u.UID)))
	p.About("keep capabilities across the change of user", "")
	p.Call(unix.SYS_PRCTL, stage.Int(unix.PR_SET_KEEPCAPS), stage.Int(0), stage.Int(0), stage.Int(0), stage.Int(0))
}

func (b *builder) installFilter(f *seccomp.Program) {
	switch {
	case len(f.Filter) == 0:
	case f.Notify:
		b.installListener(f)
	default:
		b.filterCall(f)
	}
}

func (b *builder) filterCall(f *seccomp.Program) stage.Step {
	b.p.About("install the seccomp filter", "")
	filter := append([]unix.SockFilter(nil), f.Filter...)
	return b.p.Call(unix.SYS_SECCOMP, stage.Int(unix.SECCOMP_SET_MODE_FILTER), stage.Int(int(f.Flags)), b.sockFprog(filter))
}

func (b *builder) sockFprog(filter []unix.SockFilter) stage.Arg {
	stage.Pin(b.p, &filter[0])
	return stage.Pin(b.p, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// ownStreams lets the user open /dev/stdout and its likes again: pipes, sockets and
// terminals given as streams become the user's. Regular files and the shared /dev/null
// stay whose they are.
func (b *builder) ownStreams(c *confinement) {
	if c.slave >= 0 || c.process.User.UID == 0 && !b.userns {
		return
	}
	p := b.p
	p.About("hand the streams to the user", "")
	for _, s := range c.stdio {
		if !b.ownable[s] {
			continue
		}
		p.Call(unix.SYS_FCHOWN, s, stage.Int(int(c.process.User.UID)), stage.Int(-1)).
			Ignore(unix.EINVAL, unix.EPERM, unix.EROFS, unix.ENOSYS)
	}
}

// ownable tells whether a stream is of a kind that is handed to the user.
func ownable(f *os.File) bool {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFIFO, unix.S_IFSOCK:
		return true
	case unix.S_IFCHR:
		return unix.Major(st.Rdev) != 1 // memory devices: null, zero, …
	}
	return false
}

// streams puts the process's descriptors in their places and leaves nothing else for
// execve: first away from each other, then where they belong.
func (b *builder) streams(c *confinement) {
	p := b.p
	p.About("set up the standard streams", "")
	var sources []stage.Arg
	if c.slave >= 0 {
		sources = []stage.Arg{c.slave.Arg(), c.slave.Arg(), c.slave.Arg()}
	} else {
		sources = append(sources, c.stdio[:]...)
	}
	for _, f := range c.extra {
		sources = append(sources, p.File(f))
	}
	base := firstFree(c.extra)
	away := make([]stage.Slot, len(sources))
	for i, s := range sources {
		away[i] = p.Slot()
		p.Call(unix.SYS_FCNTL, s, stage.Int(unix.F_DUPFD_CLOEXEC), stage.Int(base)).Into(away[i])
	}
	for i, s := range away {
		p.Call(unix.SYS_DUP3, s.Arg(), stage.Int(i), stage.Int(0))
	}
	// Nothing of ours is without close-on-exec; this is for what we were given.
	p.Call(unix.SYS_CLOSE_RANGE, stage.Int(base), stage.Int(int(^uint32(0))), stage.Int(unix.CLOSE_RANGE_CLOEXEC)).
		Ignore(unix.EINVAL, unix.ENOSYS)
}

// firstFree is the lowest descriptor number that is not the process's.
func firstFree(extra []*os.File) int { return 3 + len(extra) }

// failed translates the end of a child into the caller's words and classes.
func failed(err error, proc *oci.Process) error {
	f, ok := err.(*stage.Failure)
	if !ok {
		return err
	}
	if !f.Program && f.Errno == unix.ENOENT && strings.HasPrefix(f.About, applyProfile) {
		return fail.New(fail.Invalid, "%s: it is not loaded on this host", f.About)
	}
	if !f.Program {
		class := fail.Internal
		switch f.Errno {
		case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
			class = fail.Invalid
		}
		return fail.Mark(class, err)
	}
	name := proc.Args[0]
	switch {
	case f.Interpreter:
		return fail.New(fail.NotFound, "exec %s: no such file or directory", name)
	case f.Errno == unix.ENOENT && strings.Contains(name, "/"):
		return fail.New(fail.NotFound, "exec: %q: stat %s: no such file or directory", name, name)
	case f.Errno == unix.ENOTDIR:
		return fail.New(fail.NotFound, "exec: %q: stat %s: not a directory", name, name)
	case f.Errno == unix.ENOENT:
		return fail.New(fail.NotFound, "exec: %q: executable file not found in $PATH", name)
	case f.Directory:
		return fail.New(fail.Forbidden, "exec: %q: is a directory", name)
	case f.Errno == unix.ENOEXEC:
		return fail.New(fail.Forbidden, "exec %s: exec format error", name)
	}
	return fail.New(fail.Forbidden, "exec: %q: %w", name, f.Errno)
}
